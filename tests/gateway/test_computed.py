"""Computed tags: read, checked, written out, and made of samples."""

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import blob
from fastpath.codes import NONE_U32, Owner, Quality, Reason
from fastpath.messages import SAMPLE
from gateway.alarms.limits import Limits
from gateway.errors import StoreError
from gateway.guard.apply import Running
from gateway.logic import tree
from gateway.logic.alarms import compile_alarms
from gateway.logic.canonical import canonical
from gateway.logic.compile import compile_site
from gateway.logic.computed import ComputedTags, computed_tags
from gateway.logic.computing import compile_computed
from gateway.logic.conditions import computed_of, conditions_of
from gateway.logic.kinds import Kind, Scope, Symbol
from gateway.logic.parse import parse
from gateway.logic.tree import Expr, TagRef, Until, Window, walk
from gateway.plant.computed import ComputedValues, Made
from gateway.site.model import Config, Device, Duration, Interlock, Point, Site, Tag
from gateway.site.model import Limits as TagLimits
from tests.gateway.samples import samples_of
from tests.helpers.trees import BOOLEANS, NUMBERS, Oracle, conditions, number, number_trees

S = 1_000_000_000
SCOPE = Scope(
    {
        "p": Symbol(Kind.NUMBER, "MPa"),
        "q": Symbol(Kind.NUMBER, "MPa"),
        "t": Symbol(Kind.NUMBER, "°C"),
        "on": Symbol(Kind.BOOLEAN, ""),
    }
)


def read(**values: str) -> tuple[ComputedTags, dict[str, list[str]]]:
    """The computed tags of these values, and what is said of them."""
    said: dict[str, list[str]] = {}

    def tell(ident: str, flaw: object) -> None:
        said.setdefault(ident, []).append(f"{flaw.at}: {flaw.text}")  # type: ignore[attr-defined]

    return computed_tags(values, {}, SCOPE, tell), said


# ---- reading ------------------------------------------------------------------------------------


def test_each_is_written_out_over_measured_tags() -> None:
    found, said = read(c="b and on", b="a > 500 kPa", a="max(p, q)")
    assert said == {}
    assert canonical(found.tags["c"].tree) == "(max(p, q) > 0.5) and on"
    assert [found.tags[name].kind for name in "abc"] == [Kind.NUMBER, Kind.BOOLEAN, Kind.BOOLEAN]
    assert found.tags["a"].unit == "MPa"
    assert [item.text for item in found.tags["b"].conversions] == ["500 kPa = 0.5 MPa"]


def test_what_looks_back_further_than_the_guard_stays_a_tag() -> None:
    found, said = read(day="mean(p, 24h)", near="mean(p, 10m)", sum="day + near")
    assert said == {}
    assert [name for name, each in found.tags.items() if each.far] == ["day", "sum"]
    text = canonical(found.inlined(parse("day > 1 or near > 1 or sum > 1")))
    assert text == "(day > 1) or (mean(p, 10m) > 1) or (sum > 1)"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"a": "a + 1"}, {"a": ['0: found "a", expected no circle (a -> a)']}),
        (
            {"a": "p + b", "b": "c", "c": "q + a", "d": "c"},
            {
                "a": ['4: found "b", expected no circle (a -> b -> c -> a)'],
                "b": ['0: found "c", expected no circle (b -> c -> a -> b)'],
                "c": ['4: found "a", expected no circle (c -> a -> b -> c)'],
            },
        ),
        ({"a": "p +"}, {"a": ["3: found the end, expected a tag or a number"]}),
        ({"a": "p + t"}, {"a": ['0: found "MPa" beside "°C", expected one unit']}),
        ({"a": "pp + q"}, {"a": ['0: found "pp", expected a tag; did you mean "p"?']}),
        ({"a": "3 + 4"}, {"a": ["0: found 3 + 4, expected a tag in it"]}),
        ({"a": "p + on"}, {"a": ['4: found "on", which is a boolean tag, expected a number']}),
        (
            {"a": "max(p, q)", "b": "mean(a, 1m)"},
            {"b": ['5: found "a", which is computed, expected a measured tag in mean(…)']},
        ),
        (
            {"a": "p > q", "b": "bad(a)"},
            {"b": ['4: found "a", which is a computed condition, expected a measured tag']},
        ),
        ({"a": "p + 5 foo", "b": "a > 3"}, {"a": ['4: found the unit "foo", expected "MPa"']}),
    ],
)
def test_what_cannot_be_is_told_once(values: dict[str, str], said: dict[str, list[str]]) -> None:
    assert read(**values)[1] == said


def test_written_out_they_may_not_grow_without_end() -> None:
    values = {"c0": "p + q"} | {f"c{n}": f"c{n - 1} + c{n - 1}" for n in range(1, 30)}
    found, said = read(**values)
    assert [list(said), len(found.tags)] == [["c11"], 11]
    assert "expected at most 4096" in said["c11"][0]


@given(st.data(), conditions())
@settings(max_examples=200, deadline=None)
def test_parts_of_a_condition_may_be_computed_tags(data: st.DataObject, whole: Expr) -> None:
    """Whatever part of a condition gets a name of its own, the interlock reads the same."""
    values: dict[str, str] = {}

    def named(node: Expr) -> Expr:
        """A part by its name, where chance will have it; what it stands in takes it as a tag."""
        truth = isinstance(node, TRUTHS)
        if not (truth or isinstance(node, NUMBERS_MADE)) or not data.draw(st.booleans()):
            return node
        if not any(isinstance(below, TagRef) for below in walk(node)):
            return node
        ident = f"c{len(values)}"
        values[ident] = canonical(node)
        return TagRef(ident)

    cut = _cut(whole, named)
    symbols = {name: Symbol(Kind.NUMBER) for name in NUMBERS}
    symbols |= {name: Symbol(Kind.BOOLEAN) for name in BOOLEANS}
    scope = Scope(symbols)
    found = computed_tags(values, {}, scope, lambda *_: None)
    if found.broken:
        return  # a limit that makes no sense
    assert found.inlined(cut, all_of_them=True) == whole


TRUTHS = (
    tree.Not, tree.And, tree.Or, tree.Vote, tree.For, tree.Hold, tree.Until, tree.Compare
)  # fmt: skip
NUMBERS_MADE = (tree.Arithmetic, tree.Call, tree.Window)


def _cut(node: Expr, named: Callable[[Expr], Expr]) -> Expr:
    """The tree with parts named, from the leaves up; a comparison of ``until`` stays one."""
    if isinstance(node, Window | tree.Quality):
        return named(node)
    if isinstance(node, Until):
        condition = replace(
            node.condition,
            left=_cut(node.condition.left, named),
            right=_cut(node.condition.right, named),
        )
        return named(replace(node, condition=condition, limit=_cut(node.limit, named)))
    new: dict[str, Any] = {}
    for each in fields(node):
        value = getattr(node, each.name)
        if isinstance(value, Expr):
            new[each.name] = _cut(value, named)
        elif isinstance(value, tuple):
            new[each.name] = tuple(_cut(item, named) for item in value)
    return named(replace(node, **new) if new else node)


# ---- computing ----------------------------------------------------------------------------------


class Link:
    """Keeps what the guard would get."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, float]] = []

    def send_samples(self, samples: bytes, program: int) -> None:
        del program
        self.sent += [(slot, q, v) for slot, q, _, _, v, _, _ in SAMPLE.iter_unpack(samples)]


class History:
    """A past that stands in a dict."""

    def __init__(self, past: dict[str, list[tuple[int, float, int]]], newest: int) -> None:
        self.past = past
        self.last = newest
        self.broken = False
        self.lived = False

    async def newest(self) -> int:
        return self.last

    async def sample_position(self, journal_id: int) -> int | None:
        del journal_id
        if self.broken:
            raise StoreError("no disk")
        return 7 if self.lived else None

    async def read(self, tag: str, t0: int, t1: int) -> list[tuple[int, float, int]]:
        return [item for item in self.past.get(tag, []) if t0 <= item[0] <= t1]


def site(record: str = "change", **values: str) -> Config:
    measured = [
        Tag(
            id=ident,
            device="plc",
            unit=unit,
            point=Point(address=address),
            stale_after=Duration(5 * S),
            record="change",
        )
        for ident, unit, address in (("a", "MPa", "ir:0"), ("b", "MPa", "ir:1"), ("on", "", "c:0"))
    ]
    computed = [
        Tag(id=ident, value=value, record=record)  # type: ignore[arg-type]
        for ident, value in values.items()
    ]
    return Config(
        site=Site(id="shaft"),
        device=(Device(id="plc", driver="modbus-tcp", address="127.0.0.1:502"),),
        tag=(*measured, *computed),
    )


class Clock:
    mono_ns = 1_000 * S
    utc_ns = 5_000 * S


def values_of(
    config: Config, link: Link | None = None, running: Running | None = None
) -> ComputedValues:
    program = compile_computed(config, computed_of(config))
    return ComputedValues(
        program,
        config,
        link,  # type: ignore[arg-type]
        lambda: running or Running(),
        monotonic_ns=lambda: Clock.mono_ns,
        utc_ns=lambda: Clock.utc_ns,
    )


async def begun(config: Config) -> ComputedValues:
    values = values_of(config)
    await values.begin(History({}, 0), 1)  # type: ignore[arg-type]
    return values


def short(samples: bytes, first: int = 3) -> list[tuple[int, float, int]]:
    """(tag, value, ms) of computed tags among samples."""
    return [
        (slot, value, mono // 1_000_000)
        for slot, _, _, _, value, mono, _ in SAMPLE.iter_unpack(samples)
        if slot >= first
    ]


async def test_computed_samples_stand_behind_those_that_they_are_made_of() -> None:
    values = await begun(site(top="max(a, b)", over="top > 2"))
    made = values.run(samples_of([(0, 1.0, 10), (1, 2.0, 10), (0, 3.0, 20), (2, 1.0, 20)]))
    order = [(row[0], row[4], row[5] // 1_000_000) for row in SAMPLE.iter_unpack(made.samples)]
    assert order == [
        (0, 1.0, 10), (1, 2.0, 10), (3, 2.0, 10), (4, 0.0, 10),
        (0, 3.0, 20), (2, 1.0, 20), (3, 3.0, 20), (4, 1.0, 20),
    ]  # fmt: skip
    assert made.kept == b"".join(
        made.samples[at : at + 32]
        for at in range(0, len(made.samples), 32)
        if SAMPLE.unpack_from(made.samples, at)[0] >= 3
    )


async def test_what_does_not_change_is_not_told_again() -> None:
    values = await begun(site(top="max(a, b)"))
    first = values.run(samples_of([(0, 1.0, 10), (1, 2.0, 10)]))
    assert short(first.samples) == [(3, 2.0, 10)]
    again = values.run(samples_of([(0, 1.5, 20), (2, 1.0, 30)]))
    assert (short(again.samples), again.kept) == ([], b"")
    assert len(again.samples) == 64


async def test_bad_and_doubtful_inputs_make_bad_and_doubtful_tags() -> None:
    values = await begun(site(top="max(a, b)", ratio="a / b", over="a > 2 or b > 2"))
    values.run(samples_of([(0, 1.0, 10), (1, 2.0, 10)]))
    bad = samples_of([(1, math.nan, 20)], quality=Quality.BAD, reason=Reason.STALE)
    rows = {row[0]: row for row in SAMPLE.iter_unpack(values.run(bad).samples)}
    assert (rows[3][1], rows[3][2]) == (Quality.BAD, Reason.STALE)
    assert math.isnan(rows[3][4])
    assert (rows[5][1], rows[5][2]) == (Quality.BAD, Reason.STALE)  # unknown
    rows = {
        row[0]: row for row in SAMPLE.iter_unpack(values.run(samples_of([(0, 9.0, 30)])).samples)
    }
    assert (rows[5][1], rows[5][4]) == (Quality.GOOD, 1.0)  # true whatever b is
    zero = values.run(samples_of([(1, 0.0, 40)])).samples
    rows = {row[0]: row for row in SAMPLE.iter_unpack(zero)}
    assert (rows[4][1], rows[4][2]) == (Quality.BAD, Reason.NOT_A_NUMBER)
    doubt = samples_of([(1, 3.0, 50)], quality=Quality.UNCERTAIN, reason=Reason.SUBSTITUTED)
    rows = {row[0]: row for row in SAMPLE.iter_unpack(values.run(doubt).samples)}
    assert (rows[4][1], rows[4][2], rows[4][4]) == (Quality.UNCERTAIN, Reason.SUBSTITUTED, 3.0)


async def test_nothing_is_said_before_anything_was_read() -> None:
    values = await begun(site(top="max(a, b)"))
    made = values.run(samples_of([(2, 1.0, 10)]))
    assert (short(made.samples), made.kept) == ([], b"")


async def test_a_delay_ends_while_no_sample_comes() -> None:
    values = await begun(site(late="a > 1 for 2s"))
    assert short(values.run(samples_of([(0, 5.0, 1_000)])).samples) == [(3, 0.0, 1_000)]
    assert values.tick(2_500_000_000).samples == b""
    made = values.tick(3_500_000_000)
    assert short(made.samples) == [(3, 1.0, 3_500)]
    assert made.kept == made.samples
    assert values.tick(3_600_000_000) == Made(b"")  # once a second


@pytest.mark.parametrize(
    ("record", "kept"), [("all", [10, 20, 30, 1_100]), ("change", [10, 30]), ("1s", [10, 1_100])]
)
async def test_the_history_keeps_what_the_tag_wants(record: str, kept: list[int]) -> None:
    values = await begun(site(record=record, twice="a * 2"))
    points = [(0, 1.0, 10), (0, 1.0, 20), (0, 2.0, 30), (0, 2.0, 1_100)]
    assert [ms for _, _, ms in short(values.run(samples_of(points)).kept)] == kept


async def test_limits_of_a_computed_tag_alarm() -> None:
    config = site(top="max(a, b)")
    tags = (*config.tag[:3], Tag(id="top", value="max(a, b)", limits=TagLimits(high=1.0)))
    config = Config(site=config.site, device=config.device, tag=tags)
    values = await begun(config)
    limits = Limits(compile_alarms(config), [tag.id for tag in tags])
    made = values.run(samples_of([(0, 0.5, 0), (1, 0.5, 0), (1, 1.5, 10), (1, 0.2, 20)]))
    drafts = limits.feed(made.samples)
    assert [(draft.source.id, draft.state) for draft in drafts] == [
        ("top.high", "raised"),
        ("top.high", "cleared"),
    ]


@given(number_trees(windows=False), st.lists(st.floats(-4, 4), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
async def test_numbers_are_what_their_trees_say(whole: Expr, given_values: Sequence[float]) -> None:
    symbols = {name: Symbol(Kind.NUMBER) for name in NUMBERS}
    found = computed_tags({"it": canonical(whole)}, {}, Scope(symbols), lambda *_: None)
    if not found.tags:
        return
    expected = number(whole, dict(zip(NUMBERS, given_values, strict=True)))
    got = await _computed(NUMBERS, found, given_values)
    assert got == (Quality.BAD, None) if expected is None else got == (Quality.GOOD, expected)


@given(
    conditions(windows=False, hold=False),
    st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=5, max_size=5),
)
@settings(max_examples=100, deadline=None)
async def test_conditions_are_what_their_trees_say(
    whole: Expr, given_values: Sequence[float]
) -> None:
    names = (*NUMBERS, *BOOLEANS)
    symbols = {name: Symbol(Kind.NUMBER) for name in NUMBERS}
    symbols |= {name: Symbol(Kind.BOOLEAN) for name in BOOLEANS}
    found = computed_tags({"it": canonical(whole)}, {}, Scope(symbols), lambda *_: None)
    if not found.tags:
        return
    expected = Oracle(whole).evaluate(dict(zip(names, given_values, strict=True)), 10_000_000)
    got = await _computed(names, found, given_values)
    assert got == ((Quality.BAD, None) if expected is None else (Quality.GOOD, float(expected)))


async def _computed(
    names: Sequence[str], found: ComputedTags, given_values: Sequence[float]
) -> tuple[int, float | None]:
    """Quality and value of ``it`` after one run of good samples."""
    config = Config(
        site=Site(id="shaft"), tag=(*(Tag(id=name) for name in names), Tag(id="it", value=""))
    )
    values = ComputedValues(
        compile_computed(config, found),
        config,
        None,  # type: ignore[arg-type]
        Running,
        monotonic_ns=lambda: S,
        utc_ns=lambda: S,
    )
    await values.begin(History({}, 0), 1)  # type: ignore[arg-type]
    values.run(samples_of([(i, value, 10) for i, value in enumerate(given_values)]))
    (row,) = SAMPLE.iter_unpack(values._evaluator.standing(S, S))
    return row[1], None if row[1] == Quality.BAD else row[4]


# ---- the past -----------------------------------------------------------------------------------


async def test_samples_wait_until_the_past_was_read() -> None:
    values = values_of(site(top="max(a, b)"))
    history = History({}, 0)
    history.broken = True
    made = values.run(samples_of([(0, 1.0, 10), (1, 2.0, 10)]))
    assert (short(made.samples), made.kept) == ([], b"")
    with pytest.raises(StoreError):
        await values.begin(history, 1)  # type: ignore[arg-type]
    assert values.run(samples_of([(0, 5.0, 20)])).kept == b""
    history.broken = False
    late = await values.begin(history, 1)  # type: ignore[arg-type]
    assert short(late.samples, 0) == [(3, 2.0, 10), (3, 5.0, 20)]
    assert await values.begin(history, 1) == Made(b"")  # type: ignore[arg-type]


async def test_without_a_history_it_begins_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = values_of(site(top="max(a, b)"))
    history = History({}, 0)
    history.broken = True
    values.run(samples_of([(0, 1.0, 10), (1, 2.0, 10)]))
    with pytest.raises(StoreError):
        await values.begin(history, 1)  # type: ignore[arg-type]
    monkeypatch.setattr(Clock, "mono_ns", Clock.mono_ns + 6 * S)
    late = await values.begin(history, 1)  # type: ignore[arg-type]
    assert short(late.samples) == [(3, 2.0, 10)]


HOUR = 3_600 * S


def past(values: Sequence[float], step_ns: int, end_ns: int) -> list[tuple[int, float, int]]:
    """Good rows of the history, the last one a step before the end."""
    first = end_ns - len(values) * step_ns
    return [(first + i * step_ns, value, Quality.GOOD) for i, value in enumerate(values)]


def standing(values: ComputedValues, mono_ns: int) -> dict[int, tuple[float, int]]:
    """(value, quality) by tag."""
    rows = SAMPLE.iter_unpack(values._evaluator.standing(mono_ns, Clock.utc_ns))
    return {row[0]: (row[4], row[1]) for row in rows}


async def test_windows_begin_with_what_the_history_knows() -> None:
    """The machine was started 1,000 s ago: most of the day lies before that."""
    config = site(
        day="mean(a, 24h)", top="highest(a, 24h)", low="lowest(a, 24h)", grown="delta(a, 24h)",
        sum="total(b, 12h)", near="mean(a, 60s)",
    )  # fmt: skip
    values = values_of(config)
    minutes = [1.0] * 720 + [3.0] * 720
    rain = [0.5] * 1_440
    rows = {
        "a": past(minutes, 60 * S, Clock.utc_ns),
        "b": past(rain, 60 * S, Clock.utc_ns),
    }
    await values.begin(History(rows, Clock.utc_ns), 1)  # type: ignore[arg-type]
    made = values.run(samples_of([(0, 3.0, Clock.mono_ns // 1_000_000)]))
    found = {row[0]: (row[4], row[1]) for row in SAMPLE.iter_unpack(made.samples)}
    assert found[3] == (pytest.approx(2.0, abs=0.05), Quality.GOOD)
    assert found[4] == (3.0, Quality.GOOD)
    assert found[5] == (1.0, Quality.GOOD)
    assert found[6] == (2.0, Quality.GOOD)
    assert found[7] == (pytest.approx(360.0, rel=0.02), Quality.GOOD)
    assert found[8] == (3.0, Quality.GOOD)


async def test_a_gap_in_which_nobody_looked_is_not_covered() -> None:
    config = site(day="mean(a, 24h)")
    rows = {"a": past([1.0] * 1_440, 60 * S, Clock.utc_ns - 5 * HOUR)}
    short_gap = {"a": past([1.0] * 1_440, 60 * S, Clock.utc_ns - 4 * HOUR)}
    for past_rows, gap, quality in (
        (rows, 5 * HOUR, Quality.BAD),
        (short_gap, 4 * HOUR, Quality.GOOD),
    ):
        values = values_of(config)
        await values.begin(History(past_rows, Clock.utc_ns - gap), 1)  # type: ignore[arg-type]
        values.tick(Clock.mono_ns)
        assert standing(values, Clock.mono_ns)[3][1] == quality


async def test_while_the_guard_lived_a_value_was_held() -> None:
    """The guard journals changes: what it has not told has not changed."""
    values = values_of(site(day="mean(a, 24h)"))
    rows = {"a": past([1.0] * 1_140, 60 * S, Clock.utc_ns - 5 * HOUR)}
    history = History(rows, Clock.utc_ns - 5 * HOUR)
    history.lived = True
    await values.begin(history, 1)  # type: ignore[arg-type]
    values.tick(Clock.mono_ns)
    assert standing(values, Clock.mono_ns)[3] == (1.0, Quality.GOOD)


async def test_a_window_stays_known_while_its_input_is_bad() -> None:
    values = await begun(site(mean="mean(a, 10s)"))
    points = [(0, 2.0, ms) for ms in range(0, 12_000, 500)]
    values.run(samples_of(points))
    bad = samples_of([(0, math.nan, 12_000)], quality=Quality.BAD, reason=Reason.STALE)
    made = values.run(bad)
    assert short(made.samples) == []  # nothing changed: covered, and good
    assert standing(values, 12_000_000_000)[3] == (2.0, Quality.GOOD)
    values.tick(16_000_000_000)
    assert standing(values, 16_000_000_000)[3][1] == Quality.BAD


# ---- the guard ----------------------------------------------------------------------------------


async def test_the_guard_gets_what_it_cannot_keep_itself() -> None:
    config = site(day="mean(a, 24h) > 1 or on", near="a > 1")
    link = Link()
    table = array("I", [NONE_U32, NONE_U32, 7, 9, NONE_U32])
    values = values_of(config, link, Running(slots=table))
    await values.begin(History({}, 0), 1)  # type: ignore[arg-type]
    values.run(samples_of([(2, 1.0, 10)]))
    assert link.sent == [(9, Quality.GOOD, 1.0)]
    values.tick(5 * S)
    assert link.sent[1:] == [(9, Quality.GOOD, 1.0)]  # again, lest it goes stale there
    values.tick(5 * S + 10)
    assert len(link.sent) == 2


def test_an_interlock_reads_computed_tags_written_out() -> None:
    plain = site(top="max(a, b)", day="mean(a, 24h)")
    config = Config(
        site=plain.site,
        device=plain.device,
        tag=plain.tag,
        interlock=(
            Interlock(
                id="i",
                cause="(top >= 500 kPa until < 300 kPa) or day > 1",
                permissive="top < 0.2",
                effects=(),
                response=Duration(S),
                armed=False,
            ),
        ),
    )
    found = conditions_of(config)
    assert canonical(found.causes["i"]) == "(max(a, b) >= 0.5 until < 0.3) or (day > 1)"
    assert canonical(found.permissives["i"]) == "max(a, b) < 0.2"
    tags = [section.owner for section in blob.section(compile_site(config), "tags")]
    assert tags == [Owner.GATEWAY] * 3


def test_the_gateway_tells_the_connection_of_its_own_devices() -> None:
    plain = site()
    interlock = Interlock(
        id="i",
        cause="not sys.plc.connected",
        effects=(),
        response=Duration(S),
        armed=False,
    )
    config = Config(site=plain.site, device=plain.device, tag=plain.tag, interlock=(interlock,))
    program = compile_site(config)
    assert blob.names(program)["tags"] == ["sys.plc.connected"]
    (tag,) = blob.section(program, "tags")
    assert (tag.owner, tag.stale_after_ns) == (Owner.GATEWAY, 15 * S)
