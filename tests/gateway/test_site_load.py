"""The reader of site files: lines, durations, recovery from syntax errors, CSV, defaults."""

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.site.complaints import did_you_mean, shown
from gateway.site.durations import (
    exact_duration,
    format_duration,
    near_duration,
    parse_duration,
    parse_size,
)
from gateway.site.lines import index_lines
from gateway.site.load import load_site
from gateway.site.model import Config, Group
from gateway.site.schema import main, schema
from gateway.site.syntax import read_toml
from gateway.site.words import WORDS
from tests.helpers.sites import config_of, site_text

ROOT = Path(__file__).parent.parent.parent


def load(tmp_path: Path, text: str) -> tuple[Config | None, list[str]]:
    path = tmp_path / "site.toml"
    path.write_text(text)
    config, errors, _ = load_site(path)
    return config, [error.removeprefix(f"{tmp_path}/") for error in errors]


# ---- durations and sizes


@pytest.mark.parametrize(
    ("text", "ns"),
    [("0s", 0), ("1ns", 1), ("50ms", 50_000_000), ("1.5s", 1_500_000_000), ("2.25us", 2_250),
     ("10m", 600_000_000_000), ("2h", 7_200_000_000_000), ("30d", 2_592_000_000_000_000)],
)  # fmt: skip
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-5s", "5S", "5sec", "1e3s", ".5s", "5.s", "5s ", "11000d", "٣s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)


@given(st.integers(0, 10**17))
def test_exact_durations_read_back(ns: int) -> None:
    assert parse_duration(exact_duration(ns)) == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0s"), (1, "1ns"), (810_000_000, "810ms"), (1_060_000_000, "1.06s"), (60 * 10**9, "1m"),
     (90 * 10**9, "90s"), (4 * 3600 * 10**9, "4h"), (10_500_000, "10.5ms")],
)  # fmt: skip
def test_durations_for_people(ns: int, text: str) -> None:
    assert format_duration(ns) == text


def test_near_durations() -> None:
    assert near_duration("50 ms") == "50ms"
    assert near_duration("2 Minutes") == "2m"
    assert near_duration("50 parsecs") is None


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("64KiB", 65_536), ("1.5MiB", 1_572_864), ("7B", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


# ---- lines


LINED = """# a comment
[site]
id = "x"   # line 3
'name' = "y"
location = { lat = 1.0, lon = [2,
  3] }

[[tag]]
id = "a"
point.address = "ir:1"
range = [
  0,   # line 12
  [4, 5],
]
[tag.limits]
high = 3
[[tag]]
text = \"\"\"
line 19
  "quoted" = here
\"\"\"
last = 'x'
[[tag.more]]
k = 1
[[tag.more]]
k = 2
"""


def test_lines_of_every_key() -> None:
    tomllib.loads(LINED.replace("[2,\n  3]", "[2, 3]"))
    index = index_lines(LINED)
    expected = {
        ("site",): 2, ("site", "id"): 3, ("site", "name"): 4, ("site", "location", "lon"): 5,
        ("site", "location", "lon", 1): 6, ("tag",): 8, ("tag", 0): 8, ("tag", 0, "id"): 9,
        ("tag", 0, "point", "address"): 10, ("tag", 0, "range", 0): 12,
        ("tag", 0, "range", 1, 1): 13, ("tag", 0, "limits"): 15, ("tag", 0, "limits", "high"): 16,
        ("tag", 1): 17, ("tag", 1, "text"): 18, ("tag", 1, "last"): 22,
        ("tag", 1, "more", 0, "k"): 24, ("tag", 1, "more", 1, "k"): 26,
        ("tag", 1, "missing"): 17, ("nothing",): 1,
    }  # fmt: skip
    assert {path: index.line(path) for path in expected} == expected


def test_places_inside_texts() -> None:
    index = index_lines('[a]\nk = "one two"\nl = """\none\n two"""\nm = """x\ny"""\n')
    assert index.place(("a", "k"), "one two", 4) == (2, 10)
    assert index.place(("a", "l"), "one\n two", 1) == (4, 2)
    assert index.place(("a", "l"), "one\n two", 5) == (5, 2)
    assert index.place(("a", "m"), "x\ny", 0) == (6, 8)
    assert index.place(("a", "m"), "x\ny", 2) == (7, 1)


# ---- syntax


def test_good_toml_is_left_alone() -> None:
    read = read_toml(site_text())
    assert read.errors == []
    assert read.data == tomllib.loads(site_text())


@given(st.integers(0, 4000), st.sampled_from(list("\"'[]{}=#\n\\,x\0é")))
@settings(max_examples=150, deadline=None)
def test_any_slip_is_survived(place: int, sign: str) -> None:
    """One wrong sign anywhere: read on, tell at least one error or none at all, never hang."""
    text = site_text()
    place %= len(text)
    read = read_toml(text[:place] + sign + text[place:])
    assert tomllib.loads(read.text) == read.data
    assert all(1 <= line <= text.count("\n") + 2 for line, _ in read.errors)
    index_lines(read.text)
    if read.errors:
        assert len(read.errors) <= 8
        kept = sum(len(table) for table in read.data.values() if isinstance(table, list))
        assert kept >= 8  # of 15 tables: the rest of the file is still there


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_is_survived(text: str) -> None:
    read = read_toml(text)
    assert tomllib.loads(read.text) == read.data or read.errors
    index_lines(read.text)


# ---- defaults


def test_defaults_are_resolved(tmp_path: Path) -> None:
    config = config_of(tmp_path, site_text())
    tags = {tag.id: tag for tag in config.tag}
    fan, level, flow = tags["fan"], tags["level"], tags["flow"]
    assert (fan.poll, fan.stale_after) == (50_000_000, 3 * 50_000_000 + 200_000_000)
    assert (level.poll, level.stale_after) == (10**9, 15 * 10**9)
    assert (flow.poll, flow.stale_after) == (10**9, 3 * 10**9 + 200_000_000)
    assert {tag.record for tag in config.tag} == {"change"}
    heartbeat = config.device[0].heartbeat
    assert heartbeat is not None
    assert heartbeat.every == 500_000_000
    assert config.group == (Group(id="face"),)
    assert config.site.gateway == "gw-1"
    assert config.view.listen == "127.0.0.1:9750"
    assert config.history.max_bytes == 2_000_000_000


def test_heartbeat_is_not_made_faster_than_100_ms(tmp_path: Path) -> None:
    config = config_of(tmp_path, site_text().replace('watchdog = "5s"', 'watchdog = "500ms"'))
    heartbeat = config.device[0].heartbeat
    assert heartbeat is not None
    assert heartbeat.every == 100_000_000


def test_gateway_is_the_site_by_default(tmp_path: Path) -> None:
    assert config_of(tmp_path, '[site]\nid = "x"\n').site.gateway == "x"


def test_load_site_tells_keys_and_types_alone(tmp_path: Path) -> None:
    config, errors = load(tmp_path, site_text().replace('device = "plc"', "device = 5", 1))
    assert config is None
    assert errors == [
        'site.toml:31: tag[ch4.t1].device: found 5, expected a text in quotes such as "plc-face"'
    ]
    config, errors = load(tmp_path, site_text())
    assert config is not None
    assert errors == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    _, errors, _ = load_site(tmp_path / "none.toml")
    assert errors == [f"{tmp_path}/none.toml:1: cannot be read: No such file or directory"]
    _, errors, _ = load_site(tmp_path)
    assert errors == [f"{tmp_path}:1: cannot be read: Is a directory"]


def test_files_that_nobody_wrote(tmp_path: Path) -> None:
    for name in ("/dev/zero", "/dev/urandom"):
        _, errors, _ = load_site(Path(name))
        assert errors == [f"{name}:1: cannot be read: more than 16 MiB"]


@pytest.mark.parametrize(
    "value", ["[" * 5000 + "]" * 5000, "1" * 5000, "{a=" * 3000 + "1" + "}" * 3000, "9999-99-99"]
)
def test_values_that_would_break_a_parser(tmp_path: Path, value: str) -> None:
    _, errors = load(tmp_path, f'[site]\nid = "x"\ntick = {value}\nnam = "y"\n')
    assert [error.split(": ")[0] for error in errors] == ["site.toml:3", "site.toml:4"]
    assert all(len(error) < 200 for error in errors)


def test_tables_that_are_none(tmp_path: Path) -> None:
    _, errors = load(tmp_path, 'device = [1]\ntag = "x"\nview = 3\n[site]\nid = "x"\n')
    assert errors == [
        "site.toml:1: device: found 1, expected a table [[device]]",
        'site.toml:2: tag: found "x", expected a table [[tag]]',
        "site.toml:3: view: found 3, expected [view]",
    ]


# ---- CSV


CSV = """
[site]
id = "x"
tags = "tags.csv"
[[device]]
id = "p"
driver = "modbus-tcp"
address = "10.0.0.1:502"
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "headings",
    [
        "id device address type order unit low high scale offset poll stale_after description",
        "位号 设备 地址 类型 字节序 单位 下限 上限 倍率 偏移 周期 失效时间 描述",
    ],
)
def test_csv(tmp_path: Path, headings: str, separator: str, encoding: str) -> None:
    cells = [
        "t.1",
        "p",
        "ir:4",
        "int32",
        "CDAB",
        "°C",
        "-40",
        "120.5",
        "0.1",
        "-2",
        "2s",
        "9s",
        "温度",
    ]
    pairs = list(zip(headings.split(), cells, strict=True))[::-1]  # in any order
    rows = [separator.join(cell for cell, _ in pairs), separator.join(cell for _, cell in pairs)]
    (tmp_path / "tags.csv").write_bytes("\r\n".join([*rows, ""]).encode(encoding))
    (tag,) = config_of(tmp_path, CSV).tag
    assert tag.point is not None
    assert (tag.id, tag.device, tag.unit, tag.range) == ("t.1", "p", "°C", (-40.0, 120.5))
    assert (tag.point.address, tag.point.type, tag.point.order) == ("ir:4", "int32", "CDAB")
    assert (tag.point.scale, tag.point.offset) == (0.1, -2.0)
    assert (tag.poll, tag.stale_after, tag.description) == (2 * 10**9, 9 * 10**9, "温度")


def test_csv_without_a_heading_for_ids(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("name,device\na,p\n")
    _, errors = load(tmp_path, CSV)
    assert errors == [
        'tags.csv:1: found "name", expected a known heading (id, device, address, type, order, '
        "unit, low, high, scale, offset, poll, stale_after, description)",
        'tags.csv:1: found no heading "id" (位号), expected one',
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"id,device\na,p\x81\n", "tags.csv:1: found an unknown encoding"),
        (b'id,device\na,p\nb,"p\n', "tags.csv:3: found a broken row"),
        (b"", 'tags.csv:1: found no heading "id"'),
    ],
)
def test_broken_csv(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "tags.csv").write_bytes(data)
    _, errors = load(tmp_path, CSV)
    assert any(error.startswith(said) for error in errors), errors


def test_a_reference_to_nothing_is_for_the_check_to_tell(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("id,device\na,nothing\n")
    config, errors = load(tmp_path, CSV)
    assert config is not None, errors
    assert config.tag[-1].device == "nothing"


# ---- the schema, and words


def test_the_committed_schema_is_the_models() -> None:
    """Make it anew with ``python -m gateway.site.schema config/schema.json``."""
    assert (ROOT / "config/schema.json").read_bytes() == schema()


def test_the_schema_is_one(tmp_path: Path) -> None:
    assert main([str(tmp_path / "schema.json")]) == 0
    data = msgspec.json.decode((tmp_path / "schema.json").read_bytes())
    device = data["$defs"]["Device"]
    assert device["required"] == ["id", "driver"]
    assert device["additionalProperties"] is False
    assert device["properties"]["poll"]["default"] == "1s"
    effects = data["$defs"]["Interlock"]["properties"]["effects"]
    assert effects["items"]["anyOf"] == [{"type": "string"}, {"$ref": "#/$defs/Effect"}]
    assert data["$defs"]["Effect"]["required"] == ["output"]
    assert main([]) == 2


def test_every_key_says_what_it_is() -> None:
    data = msgspec.json.decode(schema())
    told = {
        f"{name}.{key}"
        for name, struct in data["$defs"].items()
        for key, what in struct["properties"].items()
        if what["description"].endswith(".")
    }
    assert told == set(WORDS)


def test_shown_values_stay_on_one_line() -> None:
    assert shown("a\nb\x1b[31m\u202e") == '"a\\nb\\x1b[31m\\u202e"'
    assert shown(True) == "true"
    assert shown({"a": [1.0, "x"]}) == '{ a = [1, "x"] }'
    assert len(shown("x" * 500)) < 70


def test_near_words() -> None:
    assert did_you_mean("pol", ["poll", "pool"]) == '; did you mean "poll"?'
    assert did_you_mean("CH4", ["ch4", "ch5"]) == '; did you mean "ch4"?'
    assert did_you_mean("zebra", ["poll"]) == ""
