"""Check as a whole: response times, severities, credentials, the shipped example."""

from importlib import resources
from pathlib import Path

import msgspec
import pytest

from fastpath import blob
from gateway.check import check_site
from gateway.errors import ConfigError
from gateway.logic.parse import parse
from gateway.logic.redundancy import hides
from gateway.logic.timing import delays_of
from tests.helpers.sites import checked, site_text

MS = 1_000_000


def errors_of(tmp_path: Path, text: str) -> list[str]:
    """The error lines, without the directory."""
    with pytest.raises(ConfigError) as caught:
        checked(tmp_path, text)
    return [error.removeprefix(f"{tmp_path}/") for error in caught.value.errors]


def warnings_of(tmp_path: Path, text: str) -> str:
    """The warnings, one text."""
    return "\n".join(checked(tmp_path, text).warnings)


def swapped(old: str, new: str) -> str:
    """The site with one place changed."""
    assert old in site_text()
    return site_text().replace(old, new, 1)


# ---- the shipped example


def shipped() -> list[Path]:
    folder = Path(str(resources.files("gateway.sites")))
    return sorted(folder.glob("*.toml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_shipped_sites_are_good_and_give_no_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    found = check_site(path)
    assert found.warnings == []


def test_mine_face() -> None:
    found = check_site(Path(str(resources.files("gateway.sites") / "mine-face.toml")))
    summary = found.summary
    assert (summary.devices, summary.fast_devices, summary.tags) == (1, 1, 7)
    assert (summary.interlocks, summary.armed, summary.outputs) == (2, 2, 2)
    cut = summary.conditions[0]
    assert cut.cause == (
        "2oo3(ch4.t1 >= 1.5 until < 1, ch4.t2 >= 1.5 until < 1, ch4.t3 >= 1.5 until < 1) "
        "or ((not fan.running) for 300ms)"
    )
    # 2 x 50 ms + 200 ms + 300 ms + 10 ms + 200 ms; 3 x 50 ms + 200 ms + 300 ms + 10 ms + 200 ms
    assert {(path.demand_ns, path.loss_ns) for path in cut.paths} == {(810 * MS, 860 * MS)}
    assert [alarm.id for alarm in found.alarms.alarms] == [
        "ch4.t1.high", "ch4.t2.high", "ch4.t3.high", "air.speed.low",
    ]  # fmt: skip


def test_tank_farm() -> None:
    """The harder the answer, the more it moves; what hangs on a serial line falls back off it."""
    found = check_site(Path(str(resources.files("gateway.sites") / "tank-farm.toml")))
    summary = found.summary
    assert (summary.devices, summary.fast_devices, summary.outputs) == (4, 4, 4)
    effects = {item.id: [path.output for path in item.paths] for item in summary.conditions}
    assert effects == {
        "t1-high": ["siren"],
        "t1-rising": ["siren"],
        "t1-high-high": ["inlet.t1", "siren", "pump"],
        "t1-overfill": ["inlet.t1", "header", "pump", "siren"],
    }
    serial = {device.id for device in found.config.device if device.line is not None}
    on_it = [output for output in found.config.output if output.device in serial]
    assert [output.fallback for output in on_it] == [("header",)]


# ---- the summary


def test_summary_for_people_and_programs(tmp_path: Path) -> None:
    found = checked(tmp_path, site_text())
    text = found.summary.text()
    for part in (
        "devices     3, 1 polled by the guard",
        "interlocks  2, 1 armed",
        "interlock watch (NOT ARMED: moves no output)",
        "power: worst demand 910ms (fan), worst loss 960ms (fan), response 2s",
    ):
        assert part in text
    data = msgspec.to_builtins(found.summary)
    assert data["armed"] == 1
    assert data["conditions"][0]["paths"][0]["demand_ns"] == 910 * MS
    assert bytes.fromhex(data["program"]) == found.program[blob.HASH_AT : blob.HASH_AT + 32]


# ---- response times


def test_worst_demand_and_loss(tmp_path: Path) -> None:
    found = checked(tmp_path, site_text())
    cut, watch = found.summary.conditions
    # fan: 2 x 50 + 200, its `for` 300; delay 100, tick 10, one write 200
    assert [path.demand_ns // MS for path in cut.paths] == [910, 910]
    assert [path.output for path in cut.paths] == ["power", "valve"]
    # fan: stale after 350, its `for` 300; delay 100, tick 10, one write 200
    assert cut.paths[0].loss_ns // MS == 960
    # level: 15 s, bad_for 50 ms, hold_max 1 s, tick 10, write 200
    assert watch.paths[0].loss_ns // MS == 16_260
    # level: 2 x 1 s + 1 s, tick 10, write 200
    assert (watch.paths[0].demand_ns // MS, watch.paths[0].demand_tag) == (3_210, "level")


def test_system_tags_have_their_times(tmp_path: Path) -> None:
    alone = swapped(" or level > 9", "").replace("not sys.plc.connected or ", "", 1)
    path = checked(tmp_path, alone).summary.conditions[1].paths[0]
    assert path.demand_ns // MS == 3_210  # a gateway that is silent for 3 s counts as gone
    alone = swapped(" or level > 9", "").replace(" or not sys.gateway.alive", "", 1)
    path = checked(tmp_path, alone).summary.conditions[1].paths[0]
    assert path.demand_ns // MS == 560  # 3 x 50 + 200, tick 10, write 200


def test_a_slow_device_is_heard_as_often_as_its_fastest_tag(tmp_path: Path) -> None:
    case = Path(__file__).parents[1] / "cases" / "good-slow-site" / "site.toml"
    text = case.read_text(encoding="utf-8").replace(
        '(tank.level >= 11.5 m until < 11) or tank.lshh"', 'not sys.rtu.connected"'
    )
    assert (
        checked(tmp_path, text).summary.conditions[0].paths[0].demand_ns // MS == 7_210
    )  # 3 x 2 s + 1 s, tick 10, write 200
    seldom = text.replace('stale_after = "15s"', 'poll = "4s"\nstale_after = "15s"')
    path = checked(tmp_path, seldom).summary.conditions[0].paths[0]
    assert path.demand_ns // MS == 13_210  # 3 x 4 s + 1 s


def test_outputs_that_are_neighbours_are_one_write(tmp_path: Path) -> None:
    more = """
[[output]]
id = "siren"
device = "plc"
address = "c:{}"
trip = false
"""
    beside = checked(tmp_path, site_text() + more.format(17)).summary.conditions[0]
    apart = checked(tmp_path, site_text() + more.format(19)).summary.conditions[0]
    assert beside.paths[0].demand_ns // MS == 910
    assert apart.paths[0].demand_ns // MS == 1_110  # two requests of 200 ms


def test_beyond_the_response_is_an_error_and_half_of_it_a_warning(tmp_path: Path) -> None:
    assert errors_of(tmp_path, swapped('response = "2s"', 'response = "959ms"')) == [
        'site.toml:105: interlock[cut].response: found "959ms", worst demand 910ms (fan), '
        "worst loss 960ms (fan) to power, expected 960ms or more",
        'site.toml:105: interlock[cut].response: found "959ms", worst demand 910ms (fan), '
        "worst loss 960ms (fan) to valve, expected 960ms or more",
    ]
    assert "half of it" not in warnings_of(
        tmp_path, swapped('response = "2s"', 'response = "1920ms"')
    )
    half = warnings_of(tmp_path, swapped('response = "2s"', 'response = "1919ms"'))
    assert "interlock[cut].response" in half
    assert "more than half of it" in half


def test_delays_add_up_along_the_way() -> None:
    delays = delays_of(parse("((a for 1s) or b) for 2s or (a for 4s) or c"))
    assert {name: ns // 10**9 for name, ns in delays.items()} == {"a": 4, "b": 2, "c": 0}
    delays = delays_of(parse("((a for 3s) or b) for 2s or (a for 4s)"))
    assert delays["a"] == 5 * 10**9


@pytest.mark.parametrize(
    ("cause", "delay_s"),
    [
        ("a hold 9s", 0),  # a hold delays the end alone
        ("not (a hold 9s)", 9),  # here the end is the beginning
        ("not (a for 9s)", 0),
        ("not ((not (a for 2s)) for 9s)", 2),
        ("not ((not (a hold 2s)) hold 9s)", 9),
        ("1oo2((a for 1s) hold 5s, not ((a hold 2s) for 5s))", 2),
        ("(mean(a, 10m) > 5) for 3s", 3),  # what a window looks back counts in no delay
    ],
)
def test_what_delays_a_demand(cause: str, delay_s: int) -> None:
    assert delays_of(parse(cause)) == {"a": delay_s * 10**9}


@pytest.mark.parametrize(
    ("cause", "alone"),
    [
        ("a > 1", "a"),
        ("a > 1 or a < 0", "a"),
        ("a > 1 or b > 1", ""),
        ("a > 1 and b > 1", "a b"),
        ("not (a > 1 and b > 1)", ""),
        ("not (a or b)", "a b"),  # both fans have stopped
        ("not a or not b", ""),
        ("2oo3(a > 1, b > 1, c > 1)", ""),
        ("not 2oo3(a > 1, b > 1, c > 1)", ""),
        ("not 1oo3(a > 1, b > 1, c > 1)", "a b c"),
        ("3oo3(a > 1, b > 1, c > 1)", "a b c"),
        ("2oo3(a > 1, a > 2, b > 1)", "a"),
        ("max(a, b) > 1", ""),
        ("max(a, b) < 1", "a b"),
        ("min(a, b) > 1 until < 0", "a b"),
        ("1 > min(a, b)", ""),
        ("0 - max(a, b) > 1", "a b"),
        ("-max(a, b) < 1", ""),
        ("a - b > 1", "a b"),
        ("abs(a - b) > 1 or bad(c)", ""),
        ("a * b > 1", "a b"),
        ("not a or (b for 2s)", ""),
        ("not sys.gateway.alive", ""),
        ("a > 1 and sys.gateway.alive", "a"),
        ("a > 1 or not sys.gateway.alive", "a"),
        ("1oo2(a > 1 and b > 1, c > 1)", ""),
        ("mean(a, 10s) > 1", "a"),
    ],
)
def test_inputs_that_hide_a_cause_alone(cause: str, alone: str) -> None:
    measured = ("a", "b", "c")
    assert [one for one in measured if hides(parse(cause), [one], measured)] == alone.split()


def test_inputs_that_hide_a_cause_together() -> None:
    votes = parse("1oo2(2oo3(a > 1, b > 1, c > 1), d > 1)")
    assert not hides(votes, "abc", "abcd")
    assert not hides(votes, "ad", "abcd")
    assert hides(votes, "abd", "abcd")


# ---- severities


WEAK = {
    "no uplink": (None, "uplink: found no [[uplink]]"),
    "no heartbeat": (None, "device[valves].heartbeat: found none"),
    "no read-back": (None, "output[valve].readback: found none"),
    "not fast": (None, "interlock[watch].cause: level is not fast"),
    "not redundant": (None, "interlock[watch].cause: level is not redundant"),
    "latch": (None, "interlock[watch].latch: found false"),
    "energise to trip": (
        ("trip = false\nnormal = true", "trip = true\nnormal = false"),
        "output[power].trip: found true (energise to trip)",
    ),
    "watchdog": (('watchdog = "5s"', 'watchdog = "2900ms"'), "below 3s"),
}


@pytest.mark.parametrize("name", WEAK)
def test_warnings(name: str, tmp_path: Path) -> None:
    change, part = WEAK[name]
    assert part in warnings_of(tmp_path, swapped(*change) if change else site_text())
    if change:
        assert part not in warnings_of(tmp_path, site_text())


def test_a_good_site_warns_of_nothing(tmp_path: Path) -> None:
    text = site_text().replace("fast = true\n", "fast = true\n", 1)
    for old, new in (
        ("latch = false\n", ""),
        ("or level > 9", ""),
        ("trip = 7\nunit = 9\n", 'trip = 7\nunit = 9\nreadback = "closed"\n'),
        (
            'timeout = "2s"\nbase = 1\n',
            'timeout = "2s"\nbase = 1\nheartbeat = { address = "hr:9", watchdog = "5s" }\n',
        ),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    text += '\n[[uplink]]\nid = "up"\nkind = "http"\nurl = "http://127.0.0.1:8480"\n'
    assert checked(tmp_path, text).warnings == []


def test_gateway_inputs_need_15_s_or_a_declaration(tmp_path: Path) -> None:
    short = swapped('stale_after = "15s"', 'stale_after = "14s"')
    (error,) = errors_of(tmp_path, short)
    assert error.startswith("site.toml:73: tag[level].stale_after: found 14s, expected 15s or more")
    declared = short.replace("hold_max", "trips_on_gateway_restart = true\nhold_max", 1)
    assert checked(tmp_path, declared)


def test_names_on_guard_devices(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, swapped("[2001:db8::21]:1502", "valves.example:1502"))
    assert error.startswith('site.toml:20: device[valves].address: found "valves.example:1502"')


# ---- everything in one run


def test_every_kind_of_error_in_one_run(tmp_path: Path) -> None:
    text = site_text()
    for old, new in (
        ('poll = "50ms"', "poll = 50ms"),  # syntax
        ('settle = "2s"', 'setle = "2s"'),  # key
        ("base = 1", 'base = "1"'),  # type
        ('device = "logger"', 'device = "loger"'),  # reference
        ("or (not fan) for 300ms", "or not fan for 300ms"),  # condition
        ('min_trip = "3s"', 'min_trip = "3"'),  # duration
        ('hold_max = "1s"\n', ""),  # what goes together
    ):
        assert old in text
        text = text.replace(old, new, 1)
    text += '\n[[uplink]]\nid = "up"\nkind = "http"\nurl = "http://h"\ncredentials = "none"\n'
    found = errors_of(tmp_path, text)
    assert [line.split(": ", 2)[1] for line in found] == [
        'found 50ms, expected a value in quotes; did you mean "50ms"?',
        "device[plc].setle",
        "device[valves].base",
        "tag[level].device",
        "interlock[cut].cause",
        "interlock[cut].min_trip",
        "interlock[watch].hold_max",
        "uplink[up].credentials",
    ]
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)


def test_a_missing_credential_need_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "site.toml"
    path.write_text(
        '[site]\nid = "x"\n[[uplink]]\nid = "up"\nkind = "http"\nurl = "https://h"\n'
        'credentials = "none"\n'
    )
    with pytest.raises(ConfigError, match="no directory"):
        check_site(path)
    with pytest.raises(ConfigError, match="nothing of that name"):
        check_site(path, credentials_dir=tmp_path)
    assert not check_site(path, credentials_dir=tmp_path, require_credentials=False).warnings
