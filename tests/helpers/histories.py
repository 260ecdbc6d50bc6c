"""Sites and histories made up at random: what a guard may be asked to protect, and what happens.

A site is a Config as ``load_site`` would give it; a history is a list of steps, each some events
and the time until the next scan. Nothing here knows what should come of them.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st

from fastpath.codes import Quality, Reason
from gateway.logic.canonical import canonical
from gateway.site import model
from gateway.site.model import Duration
from tests.helpers.blobs import MS, SECOND
from tests.helpers.trees import BOOLEANS, NUMBERS, conditions

SLOW = "n3-x"  # the gateway feeds it
CONTACTS = ("r1", "r2")  # read-backs
OUTPUTS = ("o1", "o2", "o3")
GROUPS = ("g1", "g2")
INTERLOCKS = ("i1", "i2", "i3", "i4")
SYSTEM = ("sys.gateway.alive", "sys.plc.connected")

BYPASSED = (*NUMBERS, *BOOLEANS, "sys.gateway.alive")

Op = tuple[Any, ...]
Reading = tuple[float, int, int]  # value, quality, reason


@dataclass(frozen=True)
class Step:
    """Events, then a scan ``after_ns`` later."""

    ops: tuple[Op, ...]
    after_ns: int


@functools.cache
def durations(*ms: int) -> st.SearchStrategy[Duration]:
    return st.sampled_from([Duration(each * MS) for each in ms])


def _device(ident: str, *, fast: bool, watchdog_ns: int = 0) -> model.Device:
    return model.Device(
        id=ident,
        driver="modbus-tcp",
        address="127.0.0.1:502",
        fast=fast,
        poll=Duration(50 * MS),
        timeout=Duration(200 * MS),
        heartbeat=model.Heartbeat(
            address="hr:90", watchdog=Duration(watchdog_ns), every=Duration(100 * MS)
        ) if watchdog_ns else None,
    )  # fmt: skip


DEVICES = (
    _device("plc", fast=True, watchdog_ns=500 * MS),
    _device("logger", fast=False),
    _device("valves", fast=False),
)
SILENT = (_device("plc", fast=True), *DEVICES[1:])  # no heartbeat anywhere
PLANTS = (DEVICES, SILENT, (*SILENT[:2], _device("valves", fast=False, watchdog_ns=2 * SECOND)))


@st.composite
def _tag(draw: st.DrawFn, ident: str, number: int) -> model.Tag:
    boolean = ident in BOOLEANS or ident in CONTACTS
    return model.Tag(
        id=ident,
        device="logger" if ident == SLOW else "plc",
        point=model.Point(address=f"{'di' if boolean else 'ir'}:{10 * number}"),
        poll=Duration(50 * MS),
        stale_after=draw(durations(300, 1000, 20_000)),
        record="change",
        uncertain=draw(st.sampled_from(["bad", "use"])),
        range=draw(st.sampled_from([None, None, (0.0, 9.0)])) if ident in NUMBERS else None,
    )


Via = Literal["gateway"] | None
PATHS: st.SearchStrategy[tuple[str, Via]] = st.sampled_from(
    [("plc", None), ("plc", None), ("valves", None), ("valves", None), ("valves", "gateway")]
)
READBACKS = st.sampled_from([None, None, *CONTACTS, *(f"not {each}" for each in CONTACTS)])


@functools.cache
def _some_of(names: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    """None, one, or all of them."""
    return st.sampled_from([(), *((each,) for each in names), names])


@st.composite
def _output(draw: st.DrawFn, ident: str, number: int, others: tuple[str, ...]) -> model.Output:
    """``others``: those that may stand in for it."""
    trip = draw(st.booleans())
    device, via = draw(PATHS)
    return model.Output(
        id=ident,
        device=device,
        via=via,
        address=f"c:{number}",
        trip=trip,
        normal=draw(st.sampled_from([not trip, not trip, None])),
        readback=draw(READBACKS),
        confirm_within=draw(durations(300, 1000)),
        reassert=draw(durations(500, 1000)),
        silence=draw(durations(0, 0, 1000, 30_000)),
        fallback=draw(_some_of(others)),
    )


_trees = conditions(
    max_leaves=4, lasting_ns=st.sampled_from([5 * MS, 50 * MS, SECOND, 3 * SECOND])
).map(canonical)
_system = st.sampled_from([f"not {each}" for each in SYSTEM])
causes = st.one_of(_trees, _trees, _trees, _system)


ON_BAD: st.SearchStrategy[Literal["trip", "hold", "ignore"]] = st.sampled_from(
    ("trip", "trip", "hold", "ignore")
)


@functools.cache
def _effects(outputs: tuple[str, ...]) -> st.SearchStrategy[tuple[model.Effect, ...]]:
    single = st.builds(
        model.Effect, output=st.sampled_from(outputs), delay=durations(0, 0, 0, 100, 1000)
    )
    return st.lists(single, min_size=1, unique_by=lambda each: each.output).map(tuple)


@st.composite
def _interlock(draw: st.DrawFn, ident: str, outputs: tuple[str, ...]) -> model.Interlock:
    on_bad = draw(ON_BAD)
    return model.Interlock(
        id=ident,
        cause=draw(causes),
        permissive=draw(st.one_of(st.none(), causes)),
        effects=draw(_effects(outputs)),
        response=Duration(2 * SECOND),
        armed=draw(st.sampled_from([True, True, True, False])),
        group=draw(st.sampled_from([None, *GROUPS])),
        delay=draw(durations(0, 0, 100, 1000)),
        bad_for=draw(durations(0, 0, 200, 1000)),
        min_trip=draw(durations(0, 0, 1000)),
        latch=draw(st.sampled_from([True, True, False])),
        on_bad=on_bad,
        hold_max=draw(durations(500, 2000)) if on_bad == "hold" else None,
        bypass_max=draw(durations(5000, 5000, 60_000)),
        no_bypass=draw(st.sampled_from([False, False, False, True])),
        bypass_votes=draw(st.sampled_from(["abstain", "trip"])),
    )


STOPS: st.SearchStrategy[Literal["trip", "nothing"]] = st.sampled_from(("trip", "trip", "nothing"))
FAILURES: st.SearchStrategy[Literal["stop_heartbeat", "nothing"]] = st.sampled_from(
    ("stop_heartbeat", "stop_heartbeat", "stop_heartbeat", "nothing")
)


@st.composite
def sites(draw: st.DrawFn) -> model.Config:
    """A site that check would let pass, but for conditions that make little sense."""
    names = (*NUMBERS, *BOOLEANS, *CONTACTS)
    outputs = OUTPUTS[: draw(st.integers(1, len(OUTPUTS)))]
    interlocks = INTERLOCKS[: draw(st.integers(1, len(INTERLOCKS)))]
    return model.Config(
        site=model.Site(
            id="north",
            start_within=draw(durations(1000, 5000)),
            on_stop=draw(STOPS),
            on_output_failure=draw(FAILURES),
        ),
        device=draw(st.sampled_from(PLANTS)),
        tag=tuple(draw(_tag(each, n)) for n, each in enumerate(names)),
        output=tuple(draw(_output(each, n, outputs[n + 1 :])) for n, each in enumerate(outputs)),
        interlock=tuple(draw(_interlock(each, outputs)) for each in interlocks),
        group=tuple(
            model.Group(id=each, max_bypassed=draw(st.sampled_from([0, 1, 2, 2])))
            for each in GROUPS
        ),
    )


EDITS = st.sampled_from(
    ["condition", "parameter", "gone", "added", "armed", "effects", "output", "output", "site"]
)


@st.composite
def _with_another_output(draw: st.DrawFn, config: model.Config) -> model.Config:
    """One is written elsewhere or otherwise, has another fallback, or is not there any more."""
    outputs = list(config.output)
    place = draw(st.integers(0, len(outputs) - 1))
    used = {each.output for one in config.interlock for each in one.effects}
    used |= {each for one in config.output for each in one.fallback}
    if outputs[place].id not in used and len(outputs) > 1:
        del outputs[place]
    else:
        others = tuple(each.id for each in outputs[place + 1 :])
        number = draw(st.sampled_from([place, place, 7]))
        outputs[place] = draw(_output(outputs[place].id, number, others))
    return msgspec.structs.replace(config, output=tuple(outputs))


@st.composite
def edits(draw: st.DrawFn, config: model.Config) -> model.Config:
    """The same site a little later: limits changed, an interlock or an output added or gone."""
    interlocks = list(config.interlock)
    outputs = tuple(each.id for each in config.output)
    place = draw(st.integers(0, len(interlocks) - 1))
    match draw(EDITS):
        case "output":
            return draw(_with_another_output(config))
        case "site":
            site = msgspec.structs.replace(config.site, on_output_failure=draw(FAILURES))
            return msgspec.structs.replace(config, site=site)
        case "condition":
            interlocks[place] = msgspec.structs.replace(interlocks[place], cause=draw(causes))
        case "parameter":
            changed = draw(_interlock(interlocks[place].id, outputs))
            interlocks[place] = msgspec.structs.replace(
                changed, cause=interlocks[place].cause, permissive=interlocks[place].permissive
            )
        case "gone" if len(interlocks) > 1:
            del interlocks[place]
        case "armed":
            one = interlocks[place]
            interlocks[place] = msgspec.structs.replace(one, armed=not one.armed)
        case "effects":
            found = draw(_effects(outputs))
            interlocks[place] = msgspec.structs.replace(interlocks[place], effects=found)
        case _ if len(interlocks) < len(INTERLOCKS):
            free = next(each for each in INTERLOCKS if all(i.id != each for i in interlocks))
            interlocks.append(draw(_interlock(free, outputs)))
    return msgspec.structs.replace(config, interlock=tuple(interlocks))


# ---- histories -----------------------------------------------------------------------------------

VALUES = (-1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 5.0, 9.0)
ODD_VALUES = (float("nan"), float("inf"), -float("inf"), 1e300)
BAD_REASONS = (Reason.COMM_FAILURE, Reason.DEVICE_FAILURE, Reason.OUT_OF_RANGE, Reason.STALE)
POLLED = tuple(each for each in (*NUMBERS, *BOOLEANS, *CONTACTS) if each != SLOW)

GOOD: tuple[Reading, ...] = tuple((each, int(Quality.GOOD), 0) for each in VALUES)
WORSE: tuple[Reading, ...] = (
    *((each, int(Quality.GOOD), 0) for each in ODD_VALUES),
    *((each, int(Quality.UNCERTAIN), 0) for each in (0.0, 1.0, 5.0)),
    *((0.0, int(Quality.BAD), int(each)) for each in BAD_REASONS),
)


def _plant() -> list[Op]:
    """What the devices say, and whether they say anything."""
    ops: list[Op] = [("polling", True), ("calm", 0.0, True), ("calm", 0.0, False)]
    ops += [("calm", value, on) for value in VALUES for on in (True, False)]
    ops += [("plant", tag, reading) for tag in POLLED for reading in (*GOOD, *WORSE)]
    ops += [("sample", reading, 0) for reading in (*GOOD, *WORSE)]
    return [*ops, ("sample", GOOD[4], 5 * MS), ("sample", GOOD[4], -2 * MS), ("polling", False)]


def _people() -> list[Op]:
    """Commands, in time and in order or not."""
    ops: list[Op] = [("reset", "all", 0, 1), ("release", "all", 1, 0)] * 5
    ops += [("trip", each) for each in INTERLOCKS]
    ops += [
        ("reset", each, off, seq) for each in INTERLOCKS for off, seq in ((0, 1), (1, 1), (0, 0))
    ]
    ops += [
        ("release", each, seq, late)
        for each in OUTPUTS
        for seq, late in ((1, 0), (1, 1), (1, -1), (0, 0))
    ]
    ops += [("stop", 1), ("stop", 1), ("stop", 0)]
    return [*ops, *_bypasses(), ("again",), ("again",)]


def _bypasses() -> list[Op]:
    """Of interlocks and tags, allowed or not."""
    ops: list[Op] = []
    for of, idents in (("interlock", INTERLOCKS), ("tag", BYPASSED)):
        for ident in idents:
            ops += [("bypass", of, ident, ns, 1) for ns in (SECOND, 5 * SECOND, 60 * SECOND)]
            ops += [("bypass", of, ident, 0, 1), ("bypass", of, ident, SECOND, 0)]
            ops += [("bypass_end", of, ident)]
    return ops


def _machines() -> list[Op]:
    """Devices that answer or do not, and connections that come and go."""
    ops: list[Op] = [("replies", "all", "good")] * 3
    ops += [
        ("replies", each, how)
        for each in ("all", *OUTPUTS)
        for how in ("good", "refused", "none", "lost")
    ]
    ops += [
        ("result", each, off, code) for each in OUTPUTS for off, code in ((0, 1), (-1, 1), (0, 2))
    ]
    ops += [("contacts", on) for on in (True, False)]
    ops += [("link", device, up) for device in ("plc", "valves") for up in (False, True)]
    ops += [("device", "plc", False), ("gateway", False), ("gateway", True)]
    return ops


def _lives() -> list[Op]:
    """Clocks, ends and beginnings, other programs."""
    ops: list[Op] = [("restart",), ("restart",), ("power",), ("reboot",)]
    ops += [("swap", which) for which in (0, 1, 2)]
    ops += [
        ("torn", of, which, copy, byte)
        for of in ("interlock", "output", "tag")
        for which, copy, byte in ((0, "a", 8), (1, "b", 16), (2, "old", 40), (3, "old", 0))
    ]
    ops += [("suspend", ns) for ns in (500 * MS, 2 * SECOND, 60 * SECOND)]
    return ops + [("utc", ns) for ns in (-3600 * SECOND, SECOND, 86_400 * SECOND)]


# One draw each, and what is seldom said of the plant is not said often because there is much of it.
OPS: tuple[Op, ...] = (*_plant(), *(_people() + _machines() + _lives()) * 3)
AFTER_NS = tuple(
    ms * MS for ms in (10, 10, 10, 10, 20, 50, 100, 100, 250, 500, 1000, 1000, 3000, 11_000)
)
steps = st.builds(
    Step, st.lists(st.sampled_from(OPS), max_size=3).map(tuple), st.sampled_from(AFTER_NS)
)
histories = st.lists(steps, min_size=20, max_size=30)
