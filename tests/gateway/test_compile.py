"""Conditions and whole sites as programs: verified, and meaning what their trees mean."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fastpath import blob
from fastpath.codes import (
    NONE_U16,
    NONE_U32,
    DeviceFlag,
    InterlockFlag,
    NodeKind,
    OnBad,
    Op,
    OutputFlag,
    OutputKind,
    Owner,
    PointType,
    Quality,
    Reason,
    SystemTag,
    TagFlag,
    Truth,
)
from fastpath.program import Conditions, verify
from gateway.logic import tree
from gateway.logic.alarms import compile_alarms
from gateway.logic.canonical import canonical
from gateway.logic.compile import compile_site
from gateway.logic.emit import Emitter, lead_of, legs_of
from gateway.logic.layout import TooLargeError
from gateway.logic.parse import parse
from gateway.site.model import Config, Duration, Limits, Tag
from tests.helpers.sites import config_of, site_text
from tests.helpers.trees import BOOLEANS, NUMBERS, Oracle, truths

MS = 1_000_000
TAGS = (*NUMBERS, *BOOLEANS)

values = st.fixed_dictionaries(
    {name: st.one_of(st.none(), st.integers(-4, 8).map(float)) for name in NUMBERS}
    | {name: st.sampled_from([None, 0.0, 1.0]) for name in BOOLEANS}
)


def emitted(condition: tree.Expr) -> tuple[Conditions, int]:
    """A condition in a program of its own, and its register."""
    program = blob.Program(1, 10 * MS, 0)
    program.tags = [
        blob.Tag(key=i + 1, owner=Owner.GATEWAY, device=NONE_U16) for i in range(len(TAGS))
    ]
    emitter = Emitter({name: i for i, name in enumerate(TAGS)}, program.code, program.nodes)
    emitter.begin("test")
    register = emitter.truth(condition)
    return Conditions(blob.build(program)), register


@given(truths, st.lists(st.tuples(values, st.integers(0, 6)), min_size=1, max_size=8))
@settings(max_examples=400, deadline=None)
def test_a_program_means_what_its_tree_means(
    condition: tree.Expr, scans: list[tuple[dict[str, float | None], int]]
) -> None:
    runs, register = emitted(condition)
    oracle = Oracle(condition)
    now_ns = 1_000 * MS
    for inputs, passed_ms in scans:
        now_ns += passed_ms * MS
        for slot, name in enumerate(TAGS):
            value = inputs[name]
            if value is None:
                runs.write(slot, 0.0, Quality.BAD, Reason.COMM_FAILURE, now_ns)
            else:
                runs.write(slot, value, Quality.GOOD, 0, now_ns)
        runs.evaluate(now_ns)
        wanted = oracle.evaluate(inputs, now_ns)
        names = {None: Truth.UNKNOWN, False: Truth.FALSE, True: Truth.TRUE}
        assert runs.truth(register) == names[wanted], canonical(condition)


def test_equal_parts_are_computed_once_but_memory_is_never_shared() -> None:
    program = blob.Program(1, 10 * MS, 0)
    emitter = Emitter({"n1": 0, "b1": 1}, program.code, program.nodes)
    emitter.begin("one")
    emitter.truth(parse("n1 > 5 and n1 > 5"))
    assert [Op(ins.op).name for ins in program.code] == ["TAG", "CONST", "GT", "AND"]
    emitter.begin("two")
    emitter.truth(parse("1oo2(b1 for 2s, b1 for 2s)"))
    fors = [ins for ins in program.code if ins.op == Op.FOR]
    assert len(fors) == len(program.nodes) == 2
    assert len({node.key for node in program.nodes}) == 2


@pytest.mark.parametrize(
    ("cause", "legs"),
    [
        ("a", ["a"]),
        ("x > 5 until < 3", ["x > 5 until < 3"]),
        ("a or b or x > 1", ["a", "b", "x > 1"]),
        (
            "2oo3(a, b, x > 1 for 2s) or (not c) for 1s",
            ["a", "b", "(x > 1) for 2s", "(not c) for 1s"],
        ),
        ("a and (b or c)", ["a", "b", "c"]),
        ("(a or b) for 2s", ["(a or b) for 2s"]),
        ("not (a or b)", ["not (a or b)"]),
        (" or ".join(f"t{i}" for i in range(32)), [f"t{i}" for i in range(32)]),
    ],
)
def test_legs(cause: str, legs: list[str]) -> None:
    assert [canonical(leg) for leg in legs_of(parse(cause))] == legs


def test_more_legs_than_a_record_holds_are_shown_coarser() -> None:
    votes = ", ".join(f"t{i}" for i in range(31))
    assert len(legs_of(parse(f"2oo31({votes}) or u and v"))) == 2
    many = " or ".join(f"t{i}" for i in range(33))
    assert [canonical(leg) for leg in legs_of(parse(many))] == [many]


@pytest.mark.parametrize(
    ("leg", "tag", "limit"),
    [
        ("x >= 1.5 until < 1", "x", 1.5),
        ("(x >= 1.5) for 2s", "x", 1.5),
        ("5 < x + y", "x", 5.0),
        ("x > y", "x", 0.0),
        ("not a", "a", 0.0),
        ("bad(x)", "x", 0.0),
    ],
)
def test_leads(leg: str, tag: str, limit: float) -> None:
    lead = lead_of(parse(leg))
    assert (lead.tag, lead.limit) == (tag, limit)


# ---- sites -----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site with every kind of table."""
    return config_of(tmp_path, site_text())


def test_a_site_is_verified_and_a_pure_function(config: Config, tmp_path: Path) -> None:
    program = compile_site(config)
    verify(program)
    assert compile_site(config_of(tmp_path, site_text())) == program
    shuffled = structs.replace(config, tag=config.tag[::-1], output=config.output[::-1])
    assert blob.section(compile_site(shuffled), "tags") == blob.section(program, "tags")


def test_tags_of_the_guard(config: Config) -> None:
    program = compile_site(config)
    tags = dict(zip(blob.names(program)["tags"], blob.section(program, "tags"), strict=True))
    assert set(tags) == {
        "ch4.t1",
        "ch4.t2",
        "flow",
        "fan",
        "closed",
        "word",
        "level",
        "sys.plc.connected",
        "sys.gateway.alive",
    }  # fmt: skip - every fast tag, what interlocks read, no other slow one
    ch4 = tags["ch4.t1"]
    assert ch4.key == blob.key_of("tag", "ch4.t1")
    assert (ch4.owner, ch4.low, ch4.high) == (Owner.GUARD, 0.0, 4.0)
    assert ch4.flags == TagFlag.HAS_RANGE | TagFlag.IN_INTERLOCK
    assert (ch4.stale_after_ns, ch4.settle_ns) == (500 * MS, 2_000 * MS)
    assert tags["fan"].flags == TagFlag.BOOLEAN | TagFlag.IN_INTERLOCK
    assert tags["fan"].stale_after_ns == 3 * 50 * MS + 200 * MS
    assert tags["closed"].flags == TagFlag.BOOLEAN  # a read-back alone
    assert tags["level"].owner == Owner.GATEWAY
    assert tags["level"].device == NONE_U16
    assert tags["level"].flags & TagFlag.UNCERTAIN_USE
    assert tags["sys.plc.connected"].system == SystemTag.DEVICE_CONNECTED
    assert tags["sys.gateway.alive"].owner == Owner.SYSTEM
    units = dict(zip(blob.names(program)["tags"], blob.names(program)["units"], strict=True))
    assert (units["ch4.t1"], units["fan"], units["sys.gateway.alive"]) == ("%CH4", "", "")


def test_requests_are_planned_by_period(config: Config) -> None:
    program = compile_site(config)
    requests = blob.section(program, "requests")
    seen = {(r.function, r.address, r.count, r.period_ns, r.unit) for r in requests}
    assert seen == {
        (4, 100, 4, 50 * MS, 7),  # ch4.t1 and ch4.t2, float32, in one read
        (3, 5, 1, 50 * MS, 7),  # a bit of a register
        (4, 120, 4, 1_000 * MS, 7),  # flow, float64, slower
        (2, 0, 2, 50 * MS, 7),
    }
    names = blob.names(program)["tags"]
    decode = {names[d.slot]: d for d in blob.section(program, "decode")}
    assert (decode["ch4.t2"].at, decode["ch4.t2"].type) == (2, PointType.FLOAT32)
    assert (decode["closed"].at, decode["closed"].type) == (1, PointType.BOOL)
    assert (decode["word"].type, decode["word"].bit) == (PointType.BIT, 3)
    assert (decode["flow"].scale, decode["flow"].offset) == (0.5, -1.0)
    assert "level" not in decode


def test_devices_outputs_and_groups(config: Config) -> None:
    program = compile_site(config)
    names = blob.names(program)
    devices = dict(zip(names["devices"], blob.section(program, "devices"), strict=True))
    assert set(devices) == {"plc", "valves"}  # not the slow one, which carries no output
    plc = devices["plc"]
    assert plc.address == bytes(10) + b"\xff\xff" + bytes([192, 168, 10, 20])
    assert (plc.port, plc.unit, plc.flags) == (502, 7, DeviceFlag.HAS_HEARTBEAT)
    assert (plc.heartbeat_address, plc.every_ns, plc.watchdog_ns) == (90, 500 * MS, 5_000 * MS)
    assert (plc.timeout_ns, plc.connect_timeout_ns) == (200 * MS, 200 * MS)
    assert plc.connected_within_ns == 3 * 50 * MS + 200 * MS
    assert devices["valves"].connect_timeout_ns == 1_000 * MS  # of a timeout of 2 s
    assert devices["valves"].address[:4] == bytes.fromhex("20010db8")
    outputs = dict(zip(names["outputs"], blob.section(program, "outputs"), strict=True))
    power, valve = outputs["power"], outputs["valve"]
    assert (power.kind, power.address, power.trip, power.normal) == (OutputKind.COIL, 16, 0, 1)
    assert power.flags == OutputFlag.HAS_NORMAL | OutputFlag.READBACK_INVERTED
    assert names["tags"][power.readback] == "closed"
    assert (valve.kind, valve.address, valve.trip) == (OutputKind.REGISTER, 39, 7)  # base = 1
    assert (valve.flags, valve.readback, valve.unit) == (0, NONE_U32, 9)
    assert names["devices"][valve.device] == "valves"
    assert names["groups"] == ["face"]


def test_interlocks(config: Config) -> None:
    program = compile_site(config)
    names = blob.names(program)
    interlocks = dict(zip(names["interlocks"], blob.section(program, "interlocks"), strict=True))
    cut, watch = interlocks["cut"], interlocks["watch"]
    assert cut.flags == InterlockFlag.LATCH | InterlockFlag.ARMED
    assert (cut.order, watch.order) == (0, 1)  # the site file's order decides first-out
    assert (cut.delay_ns, cut.min_trip_ns, cut.response_ns) == (100 * MS, 3_000 * MS, 2_000 * MS)
    assert (cut.on_bad, watch.on_bad) == (OnBad.TRIP, OnBad.HOLD)
    assert (watch.hold_max_ns, watch.bad_for_ns) == (1_000 * MS, 50 * MS)
    assert (watch.permissive, watch.group, watch.flags) == (NONE_U32, NONE_U32, 0)
    assert names["causes"][names["interlocks"].index("cut")].startswith("2oo2(ch4.t1 >= 1.5")
    assert names["permissives"][names["interlocks"].index("cut")] == "ch4.t1 < 1"
    legs = blob.section(program, "legs")[cut.legs_first :][: cut.legs_count]
    texts = names["legs"][cut.legs_first :][: cut.legs_count]
    assert texts == ["ch4.t1 >= 1.5 until < 1", "ch4.t2 >= 1.5 until < 1", "(not fan) for 300ms"]
    assert [names["tags"][leg.slot] for leg in legs] == ["ch4.t1", "ch4.t2", "fan"]
    assert [leg.limit for leg in legs] == [1.5, 1.5, 0.0]
    effects = blob.section(program, "effects")[cut.effects_first :][: cut.effects_count]
    assert [names["outputs"][effect.output] for effect in effects] == ["power", "valve"]
    nodes = blob.section(program, "nodes")
    assert sorted(node.kind for node in nodes) == [NodeKind.UNTIL, NodeKind.UNTIL, NodeKind.FOR]
    assert {names["interlocks"][node.interlock] for node in nodes} == {"cut"}


def test_a_compiled_cause_trips_when_it_should(config: Config) -> None:
    program = compile_site(config)
    names = blob.names(program)
    cut = blob.section(program, "interlocks")[names["interlocks"].index("cut")]
    runs = Conditions(program)

    def put(tag: str, value: float, now_ms: int) -> None:
        runs.write(names["tags"].index(tag), value, Quality.GOOD, 0, now_ms * MS)

    def cause(now_ms: int) -> Truth:
        runs.evaluate(now_ms * MS)
        return Truth(runs.truth(cut.cause))

    assert cause(1) == Truth.UNKNOWN
    for tag, value in (("ch4.t1", 1.5), ("ch4.t2", 0.2), ("fan", 1.0)):
        put(tag, value, 10)
    assert cause(10) == Truth.FALSE
    put("ch4.t2", 1.6, 20)
    assert cause(20) == Truth.TRUE
    put("ch4.t1", 1.2, 30)  # inside its band
    assert cause(30) == Truth.TRUE
    put("ch4.t1", 0.9, 40)
    assert cause(40) == Truth.FALSE
    assert cause(540) == Truth.FALSE  # ch4.t1 is 500 ms old; the fan is stale, not for 300 ms yet
    put("ch4.t2", 1.6, 541)
    assert cause(541) == Truth.UNKNOWN  # ch4.t1 is stale now


CHANGES = {
    "cause": ("until < 1.0, ch4.t2", "until < 0.9, ch4.t2"),
    "permissive": ('ch4.t1 < 1.0"', 'ch4.t1 < 0.9"'),
    "delay": ('delay = "100ms"', 'delay = "110ms"'),
    "response": ('response = "2s"', 'response = "3s"'),
    "armed": ("armed = true", "armed = false"),
    "group": ('group = "face"', 'group = "face-2"'),
    "a tag's address": ('address = "ir:100"', 'address = "ir:98"'),
    "a tag's order": ('type = "float32", order = "ABCD"', 'type = "float32", order = "CDAB"'),
    "a tag's range": ("range = [0, 4]", "range = [0, 3]"),
    "a tag's staleness": ('stale_after = "500ms"', 'stale_after = "400ms"'),
    "its device's address": ("192.168.10.20:502", "192.168.10.21:502"),
}
NO_CHANGES = {
    "effects, which the guard compares itself": (
        'effects = ["power", "valve"]',
        'effects = ["power"]',
    ),
    "words": ("1.5 %CH4 until", "1.50 until"),
    "a description": ('description = "Methane"', 'description = "CH4"'),
    "guidance": ('guidance = "Withdraw"', 'guidance = "Go"'),
    "another tag": ('address = "ir:120"', 'address = "ir:130"'),
    "an output's times": ('confirm_within = "500ms"', 'confirm_within = "600ms"'),
}


def fingerprint(tmp_path: Path, text: str) -> int:
    program = compile_site(config_of(tmp_path, text))
    place = blob.names(program)["interlocks"].index("cut")
    value: int = blob.section(program, "interlocks")[place].fingerprint
    return value


@pytest.mark.parametrize("name", [*CHANGES, *NO_CHANGES])
def test_fingerprints(name: str, tmp_path: Path) -> None:
    old, new = (CHANGES | NO_CHANGES)[name]
    assert site_text().count(old) >= 1
    before = fingerprint(tmp_path, site_text())
    after = fingerprint(tmp_path, site_text().replace(old, new, 1))
    assert (before != after) == (name in CHANGES)


def test_a_site_that_is_too_large_is_told(config: Config) -> None:
    tag = next(tag for tag in config.tag if tag.id == "fan")
    many = tuple(structs.replace(tag, id=f"t{i}") for i in range(16_385))
    with pytest.raises(TooLargeError, match=r"found 163\d\d tags in the program, expected at most"):
        compile_site(structs.replace(config, tag=(*config.tag, *many)))


# ---- alarms ----------------------------------------------------------------------------------


def test_alarms(config: Config) -> None:
    limits = Limits(
        low_low=1.0, low=2.0, high=8.0, high_high=9.0, deadband=0.5, delay=Duration(2_000 * MS),
        priority="high", level="orange", guidance="Look",
    )  # fmt: skip
    tag = next(tag for tag in config.tag if tag.id == "level")
    limited = structs.replace(config, tag=(structs.replace(tag, limits=limits, range=(0.0, 10.0)),))
    alarms = compile_alarms(limited)
    verify(alarms.blob)
    assert [alarm.id for alarm in alarms.alarms] == [
        "level.low_low", "level.low", "level.high", "level.high_high",
    ]  # fmt: skip
    assert [alarm.limit for alarm in alarms.alarms] == [1.0, 2.0, 8.0, 9.0]
    assert len({alarm.register for alarm in alarms.alarms}) == 4
    high = alarms.alarms[2]
    assert (high.tag, high.kind, high.deadband, high.unit) == ("level", "high", 0.5, "m")
    assert (high.priority, high.level, high.guidance) == ("high", "orange", "Look")
    assert _seen(alarms.blob, alarms.slots["level"], high.register) == [
        (8.0, 0, Truth.FALSE), (8.0, 2_000, Truth.TRUE), (7.5, 10, Truth.TRUE),
        (7.49, 10, Truth.FALSE), (8.0, 10, Truth.FALSE), (None, 5_000, Truth.UNKNOWN),
    ]  # fmt: skip
    low = alarms.alarms[1]
    assert _seen(alarms.blob, alarms.slots["level"], low.register, flip=10.0)[1][2] == Truth.TRUE


def _seen(
    data: bytes, slot: int, register: int, flip: float = 0.0
) -> list[tuple[float | None, int, Truth]]:
    """Truths after a fixed story of values; ``flip`` turns it upside down around half of it."""
    runs = Conditions(data)
    story = [(8.0, 0), (8.0, 2_000), (7.5, 10), (7.49, 10), (8.0, 10), (None, 5_000)]
    now_ms, seen = 1_000, []
    for value, passed_ms in story:
        now_ms += passed_ms
        quality = Quality.BAD if value is None else Quality.UNCERTAIN  # good enough for alarms
        shown = abs(flip - value) if value is not None else 0.0
        runs.write(slot, shown, quality, Reason.COMM_FAILURE if value is None else 0, now_ms * MS)
        runs.evaluate(now_ms * MS)
        seen.append((value, passed_ms, Truth(runs.truth(register))))
    return seen


def test_an_alarm_without_deadband_has_no_memory(config: Config) -> None:
    tag = next(tag for tag in config.tag if tag.id == "level")
    plain: Tag = structs.replace(tag, limits=Limits(high=8.0))
    alarms = compile_alarms(structs.replace(config, tag=(plain,)))
    assert blob.section(alarms.blob, "nodes") == []
    (only,) = blob.section(alarms.blob, "tags")
    assert only == replace(only, stale_after_ns=0, flags=TagFlag.UNCERTAIN_USE)
