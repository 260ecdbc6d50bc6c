"""What a newer program protects less, told in words from two blobs."""

from pathlib import Path

import pytest

from fastpath import blob
from gateway.check import check_site
from gateway.guard.weakening import CHANGES_MAX, Weakening, additions, weakening_text, weakenings

SITE = (Path(__file__).parent.parent / "cases/good-graded/site.toml").read_text()


def compiled(tmp_path: Path, text: str) -> bytes:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return check_site(path).program


def swapped(*changes: tuple[str, str]) -> str:
    text = SITE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def without(interlock: str) -> str:
    """The site without an interlock."""
    head, _, tail = SITE.partition(f'[[interlock]]\nid = "{interlock}"')
    return head + tail.partition("\n\n")[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("site"), SITE)


CHANGES: dict[str, tuple[tuple[str, str], dict[str, str]]] = {
    "a threshold": (
        ("level.b >= 8 m", "level.b >= 8.5 m"),
        {"high": "interlock high: cause was `1oo2(level.a >= 8 until < 7.5, level.b >= 8 until < "
                 "7.5)`, is `1oo2(level.a >= 8 until < 7.5, level.b >= 8.5 until < 7.5)`"},
    ),
    "armed": (
        ('armed = true\ngroup = "tank"\nbypass_max', 'armed = false\ngroup = "tank"\nbypass_max'),
        {"high": "interlock high is NOT ARMED any more"},
    ),
    "a delay": (
        ('on_bad = "hold"', 'on_bad = "hold"\ndelay = "2s"'),
        {"rising": "interlock rising: delay was 0s, is 2s"},
    ),
    "how long it holds": (
        ('hold_max = "5s"', 'hold_max = "7s"'),
        {"rising": "interlock rising: hold_max was 5s, is 7s"},
    ),
    "a permissive": (
        ("no_bypass = true", 'permissive = "level.a < 8"'),
        {"very-high": "interlock very-high: permissive was nothing, is `level.a < 8`; "
                      "interlock very-high: no_bypass was true, is false"},
    ),
    "an effect's delay": (
        ('delay = "500ms"', 'delay = "1s"'),
        {"very-high": "interlock very-high: delay of pump was 500ms, is 1s"},
    ),
    "an effect": (
        (', { output = "pump", delay = "500ms" }', ""),
        {"very-high": "interlock very-high does not trip pump any more"},
    ),
    "a tag's range": (
        ('point = { address = "ir:20", type = "float32" }\nrange = [0, 10]',
         'point = { address = "ir:20", type = "float32" }\nrange = [0, 20]'),
        {"very-high": "tag level.c: range was `[0, 10]`, is `[0, 20]`"},
    ),
    "a tag's place": (
        ('address = "ir:20"', 'address = "ir:30"'),
        {"very-high": "tag level.c: point was `ir:20 float32 ABCD`, is `ir:30 float32 ABCD`"},
    ),
    "an output's place": (
        ('address = "c:2"', 'address = "c:3"'), {},  # of no interlock: a fallback alone
    ),
    "an output that is tripped": (
        ('device = "plc"\naddress = "c:1"', 'device = "plc"\naddress = "c:9"'),
        {"very-high": "output feed: address was c:1, is c:9"},
    ),
    "a fallback": (
        ('fallback = ["pump"]\n', ""),
        {"very-high": "output feed does not fall back on pump any more"},
    ),
    "a siren's silence": (
        ('silence = "10m"', 'silence = "20m"'),
        dict.fromkeys(("high", "rising", "very-high"), "output siren: silence was 10m, is 20m"),
    ),
    "a watchdog's time": (
        ('watchdog = "5s"', 'watchdog = "6s"'),
        {"very-high": "output feed: device's heartbeat was `hr:90 every 500ms, watchdog 5s`, is "
                      "`hr:90 every 600ms, watchdog 6s`"},
    ),
    "how many may be bypassed": (
        ("max_bypassed = 2", "max_bypassed = 3"),
        {"high": "interlock high: max_bypassed of its group was 2, is 3",
         "very-high": "interlock very-high: max_bypassed of its group was 2, is 3"},
    ),
    "what a stop does": (
        ('id = "graded"', 'id = "graded"\non_stop = "nothing"'),
        dict.fromkeys(("high", "rising", "very-high"), "the site: on_stop was trip, is nothing"),
    ),
    "a slower scan": (
        ('id = "graded"', 'id = "graded"\ntick = "20ms"'),
        dict.fromkeys(("high", "rising", "very-high"), "the site: tick was 10ms, is 20ms"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_said_where_it_counts(name: str, tmp_path: Path, program: bytes) -> None:
    change, wanted = CHANGES[name]
    found = weakenings(program, compiled(tmp_path, swapped(change)))
    assert {each.interlock: "; ".join(each.changes) for each in found} == wanted


NO_WEAKENING = {
    "nothing": ("[[group]]", "[[group]]"),
    "words": ('id = "feed"', 'description = "Feed"\nid = "feed"'),
    "a further effect": ('effects = ["siren"]', 'effects = ["siren", "pump"]'),
    "a quicker scan": ('id = "graded"', 'id = "graded"\ntick = "5ms"'),
    "a stricter failure": ('on_output_failure = "nothing"', 'on_output_failure = "stop_heartbeat"'),
    "fewer bypasses": ("max_bypassed = 2", "max_bypassed = 1"),
    "a further fallback": ('fallback = ["pump"]', 'fallback = ["pump", "valve"]'),
    "a proof test": ('test_every = "90d"', 'test_every = "180d"'),
}


@pytest.mark.parametrize("name", NO_WEAKENING)
def test_what_weakens_nothing(name: str, tmp_path: Path, program: bytes) -> None:
    assert weakenings(program, compiled(tmp_path, swapped(NO_WEAKENING[name]))) == []


def test_an_interlock_that_is_gone(tmp_path: Path, program: bytes) -> None:
    less = compiled(tmp_path, without("rising"))
    assert weakenings(program, less) == [Weakening("rising", ("interlock rising is gone",))]
    assert weakenings(less, program) == []
    assert additions(less, program) == ["interlock rising is new"]
    assert len(weakenings(program, blob.EMPTY)) == 3
    assert weakenings(blob.EMPTY, program) == []


def test_additions(tmp_path: Path, program: bytes) -> None:
    more = compiled(tmp_path, swapped(('effects = ["siren"]', 'effects = ["siren", "pump"]')))
    assert additions(program, more) == ["interlock rising trips pump too"]
    idle = compiled(tmp_path, swapped(CHANGES["armed"][0]))
    assert additions(idle, program) == ["interlock high is armed now"]


def test_one_line_says_each_change_once() -> None:
    found = [Weakening("a", ("x", "y")), Weakening("b", ("y", "z"))]
    assert weakening_text(found) == "x; y; z"
    many = weakening_text([Weakening("a", tuple(f"c{i}" for i in range(CHANGES_MAX + 3)))])
    assert many.endswith("; c11; 3 changes more")


def test_a_program_of_an_older_version_is_told_as_far_as_it_says(program: bytes) -> None:
    """Without the definitions of its tags."""
    older = blob.Program(1, 10_000_000, 5_000_000_000, on_output_failure=blob.ON_NOTHING)
    for name, _, _ in blob.SECTIONS:
        setattr(older, name, blob.section(program, name))
    older.names = {key: texts for key, texts in blob.names(program).items() if key != "definitions"}
    assert weakenings(program, blob.build(older)) == []


def test_a_change_that_no_name_tells_is_told_all_the_same(program: bytes) -> None:
    other = blob.Program(1, 10_000_000, 5_000_000_000, on_output_failure=blob.ON_NOTHING)
    for name, _, _ in blob.SECTIONS:
        setattr(other, name, blob.section(program, name))
    other.names = blob.names(program)
    place = other.names["interlocks"].index("high")
    lock = other.interlocks[place]
    other.interlocks[place] = type(lock)(
        **{field: getattr(lock, field) for field in lock.__slots__} | {"fingerprint": 5}
    )
    assert weakenings(program, blob.build(other)) == [
        Weakening("high", ("interlock high is defined otherwise",))
    ]
