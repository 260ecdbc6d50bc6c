"""The three state tables, row by row: what a trace shows where a row was taken.

A row that the tables give for several states is several rows here, so that each is seen. A detector
gets one scan (or beginning of a life) and the key of an interlock or an output.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastpath.codes import (
    BypassEnd,
    EventFlag,
    EventType,
    InterlockFlag,
    InterlockLatchFlag,
    InterlockState,
    MessageType,
    OutputCode,
    OutputDemand,
    OutputFlag,
    OutputPath,
    OutputState,
    ResultCode,
    TripReason,
    Truth,
)
from fastpath.records import payload_of
from tests.helpers.lives import Scan, definition, effects_of, fallbacks, fields, of, output

Detector = Callable[[Scan, int], bool]

NORMAL, PENDING, TRIPPED, READY = InterlockState
RELEASED, TRIPPING, CUT, FAILED, RELEASING, HELD = OutputState
BYPASSED, WITHHELD = InterlockLatchFlag.BYPASSED, InterlockLatchFlag.WITHHELD
TRIPS = (TRIPPING, CUT, FAILED)


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    seen: Detector


# ---- interlocks ----------------------------------------------------------------------------------


def moved(
    before: InterlockState, after: InterlockState, kind: EventType, generations: int = 0,
    *, more: Detector = lambda scan, key: True,
) -> Detector:  # fmt: skip
    """From one state to another outside bypasses, with its one record."""

    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        return (
            not scan.begun
            and (old.state, new.state) == (before, after)
            and not (old.flags | new.flags) & BYPASSED
            and new.generation == old.generation + generations
            and fields(scan, key, kind).get("generation") == new.generation
            and more(scan, key)
        )

    return seen


def by_cause(*, again: bool = False) -> Detector:
    def seen(scan: Scan, key: int) -> bool:
        (trip,) = of(scan, key, EventType.TRIP)
        right = bool(trip.flags & EventFlag.RETRIP) == again
        return right and scan.after.interlocks[key].reason == TripReason.CAUSE

    return seen


def delayed(scan: Scan, key: int) -> bool:
    return bool(definition(scan, key).delay_ns > 0)


def latching(*, latch: bool) -> Detector:
    return lambda scan, key: (
        bool(definition(scan, key).flags & InterlockFlag.LATCH) == latch
        and scan.causes[key] == Truth.FALSE and scan.permits[key]
    )  # fmt: skip


def first_out(*, first: bool) -> Detector:
    """With its group's first-out, or another has it from before."""

    def seen(scan: Scan, key: int) -> bool:
        flags = scan.after.interlocks[key].flags
        trip = fields(scan, key, EventType.TRIP)
        same = flags & InterlockLatchFlag.SAME_SCAN
        return not same and bool(trip.get("first_out")) == first and by_cause()(scan, key)

    return seen


def same_scan(scan: Scan, key: int) -> bool:
    trips = of(scan, key, EventType.TRIP)
    return len(trips) == 1 and bool(trips[0].flags & EventFlag.SAME_SCAN)


def answered(
    state: InterlockState, kind: MessageType, code: ResultCode, more: Detector = lambda s, k: True
) -> Detector:
    """A command that changes nothing, with its code and its record."""

    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        told = {(payload_of(e)["type"], payload_of(e)["code"])
                for e in of(scan, key, EventType.COMMAND)}  # fmt: skip
        return (
            any((o.kind, o.key, o.code) == (kind, key, code) for o in scan.orders)
            and old.state == new.state == state
            and old.generation == new.generation
            and (kind, code) in told
            and more(scan, key)
        )

    return seen


def reset_done(scan: Scan, key: int) -> bool:
    return any((o.kind, o.key, o.code) == (MessageType.RESET, key, ResultCode.DONE)
               for o in scan.orders)  # fmt: skip


def tripped_by(before: InterlockState, reason: TripReason, *, ends: bool = False) -> Detector:
    """To TRIPPED with a new generation for another reason than its cause."""

    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        trip = fields(scan, key, EventType.TRIP)
        return (
            (old.state, new.state) == (before, TRIPPED)
            and new.generation > 0
            and (trip.get("reason"), new.reason) == (reason, reason)
            and bool(old.flags & BYPASSED) == ends
            and not new.flags & BYPASSED
            and (not ends or fields(scan, key, EventType.BYPASS_END)["cause"] == BypassEnd.TRIP)
        )

    return seen


def kept(state: InterlockState, begun: str) -> Detector:
    """The same over a beginning, with no record of its own."""

    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        return (
            scan.begun == begun and old.state == new.state == state
            and (old.generation, old.reason, old.since_ns)
            == (new.generation, new.reason, new.since_ns)
            and not of(scan, key, *EventType)
        )  # fmt: skip

    return seen


def swapped(state: InterlockState) -> Detector:
    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        return (
            scan.before.program != scan.after.program
            and any(e.type == EventType.PROGRAM for e in scan.events)
            and old.state == new.state == state
            and (old.generation, old.since_ns) == (new.generation, new.since_ns)
        )

    return seen


RESET, TRIP = MessageType.RESET, MessageType.TRIP
TRIP_RECORD = EventType.TRIP

INTERLOCK_ROWS = (
    Row("normal, cause, no delay", moved(NORMAL, TRIPPED, TRIP_RECORD, 1, more=by_cause())),
    Row("normal, cause, first of its group",
        moved(NORMAL, TRIPPED, TRIP_RECORD, 1, more=first_out(first=True))),
    Row("normal, cause, in one scan with another of its group",
        moved(NORMAL, TRIPPED, TRIP_RECORD, 1, more=same_scan)),
    Row("normal, cause, delay", moved(NORMAL, PENDING, EventType.PENDING, more=delayed)),
    Row("pending, cause gone", moved(PENDING, NORMAL, EventType.PENDING_END)),
    Row("pending, delay over", moved(PENDING, TRIPPED, TRIP_RECORD, 1, more=by_cause())),
    Row("pending, delay over, after another of its group",
        moved(PENDING, TRIPPED, TRIP_RECORD, 1, more=first_out(first=False))),
    Row("tripped, clear, latch", moved(TRIPPED, READY, EventType.READY, more=latching(latch=True))),
    Row("tripped, clear, no latch",
        moved(TRIPPED, NORMAL, EventType.RETURN, more=latching(latch=False))),
    Row("ready, cause", moved(READY, TRIPPED, TRIP_RECORD, 1, more=by_cause(again=True))),
    Row("ready, unknown", moved(READY, TRIPPED, EventType.NOT_READY,
        more=lambda scan, key: scan.causes[key] == Truth.UNKNOWN)),
    Row("ready, not permitted", moved(READY, TRIPPED, EventType.NOT_READY,
        more=lambda scan, key: not scan.permits[key])),
    Row("ready, reset", moved(READY, NORMAL, EventType.RESET, more=reset_done)),
    Row("ready, reset of another generation", answered(READY, RESET, ResultCode.WRONG_GENERATION)),
    Row("normal, reset", answered(NORMAL, RESET, ResultCode.ALREADY)),
    Row("pending, reset", answered(PENDING, RESET, ResultCode.CAUSE_PRESENT)),
    Row("tripped, reset, cause", answered(TRIPPED, RESET, ResultCode.CAUSE_PRESENT)),
    Row("tripped, reset, unknown", answered(TRIPPED, RESET, ResultCode.CAUSE_UNKNOWN)),
    Row("tripped, reset, not permitted", answered(TRIPPED, RESET, ResultCode.PERMISSIVE)),
    Row("tripped, reset, too early", answered(TRIPPED, RESET, ResultCode.MINIMUM_TRIP_TIME)),
    Row("normal, trip by hand", tripped_by(NORMAL, TripReason.MANUAL)),
    Row("pending, trip by hand", tripped_by(PENDING, TripReason.MANUAL)),
    Row("ready, trip by hand", tripped_by(READY, TripReason.MANUAL)),
    Row("bypassed, trip by hand", tripped_by(NORMAL, TripReason.MANUAL, ends=True)),
    Row("tripped, trip by hand", answered(TRIPPED, TRIP, ResultCode.ALREADY)),
    Row("unclean boot, latch", lambda scan, key: (
        scan.begun == "power"
        and fields(scan, key, TRIP_RECORD).get("reason") == TripReason.POWER_LOSS
        and scan.after.interlocks[key].state == TRIPPED)),
    *(Row(f"restart, {state.name.lower()}", kept(state, "restart")) for state in InterlockState),
    Row("restart, copies differ", lambda scan, key: (
        scan.begun == "restart" and scan.after.interlocks[key].reason == TripReason.RESTORED
        and tripped_by(NORMAL, TripReason.RESTORED)(scan, key))),
    Row("overrun", tripped_by(NORMAL, TripReason.OVERRUN)),
    Row("fault", tripped_by(NORMAL, TripReason.FAULT)),
    *(Row(f"swap, {state.name.lower()}", swapped(state)) for state in InterlockState),
)  # fmt: skip


# ---- bypasses ------------------------------------------------------------------------------------


def begun_on(state: InterlockState, *, withheld: bool) -> Detector:
    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        return (
            not old.flags & BYPASSED and bool(new.flags & BYPASSED)
            and bool(new.flags & WITHHELD) == withheld
            and old.state == new.state == state
            and len(of(scan, key, EventType.BYPASS)) == 1
            and all(scan.before.outputs[k].state == o.state for k, o in scan.after.outputs.items())
        )  # fmt: skip

    return seen


def freed(scan: Scan, key: int) -> bool:
    """Reset of what was tripped before its bypass."""
    old, new = scan.before.interlocks[key], scan.after.interlocks[key]
    outputs = [scan.after.outputs[k].state for k in effects_of(scan, key)]
    return (
        bool(old.flags & BYPASSED) and not old.flags & WITHHELD and bool(new.flags & WITHHELD)
        and fields(scan, key, EventType.RESET).get("under_bypass") == 1
        and bool(outputs) and all(state in (RELEASING, HELD) for state in outputs)
    )  # fmt: skip


def would_have_tripped(scan: Scan, key: int) -> bool:
    old, new = scan.before.interlocks[key], scan.after.interlocks[key]
    trips = of(scan, key, TRIP_RECORD)
    return (
        bool(old.flags & new.flags & WITHHELD) and new.state == TRIPPED
        and len(trips) == 1 and bool(trips[0].flags & EventFlag.WITHHELD)
        and new.withheld_demands == old.withheld_demands + 1
        and new.generation == old.generation
        and all(scan.after.outputs[k].state not in TRIPS for k in effects_of(scan, key))
    )  # fmt: skip


def ends(cause: BypassEnd, *, acts: bool, withheld: bool = True) -> Detector:
    """Off: where the cause is there it acts in this scan."""

    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        if not old.flags & BYPASSED or new.flags & BYPASSED:
            return False
        if fields(scan, key, EventType.BYPASS_END).get("cause") != cause:
            return False
        if bool(old.flags & WITHHELD) != withheld:
            return False
        if acts:
            outputs = [scan.after.outputs[k].state for k in effects_of(scan, key)]
            return (
                new.state == TRIPPED and new.generation == old.generation + 1
                and new.reason == TripReason.BYPASS_END
                and all(state in TRIPS for state in outputs)
            )  # fmt: skip
        wanted = NORMAL if withheld else old.state
        return new.state == wanted and new.generation == old.generation

    return seen


def refused(code: ResultCode) -> Detector:
    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        asked = (MessageType.BYPASS_START, key, code)
        told = fields(scan, key, EventType.COMMAND).get("code") == code
        same = (old.flags ^ new.flags) & (BYPASSED | WITHHELD) == 0
        return any((o.kind, o.key, o.code) == asked for o in scan.orders) and told and same

    return seen


def bypass_over(begun: str, *, stays: bool) -> Detector:
    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.interlocks[key], scan.after.interlocks[key]
        if scan.begun != begun or not old.flags & BYPASSED:
            return False
        if stays:
            return new.bypass_until_ns == old.bypass_until_ns and bool(new.flags & BYPASSED)
        return not new.flags & BYPASSED

    return seen


BYPASS_ROWS = (
    Row("off, normal: begins", begun_on(NORMAL, withheld=True)),
    Row("off, pending: begins", begun_on(PENDING, withheld=True)),
    Row("off, tripped: begins", begun_on(TRIPPED, withheld=False)),
    Row("off, ready: begins", begun_on(READY, withheld=False)),
    Row("on, tripped: reset, cause present", lambda scan, key: (
        freed(scan, key) and scan.causes[key] == Truth.TRUE)),
    Row("on, tripped: reset, clear", lambda scan, key: (
        freed(scan, key) and scan.causes[key] == Truth.FALSE)),
    Row("withheld: cause", would_have_tripped),
    Row("80 % of its time", lambda scan, key: (
        len(of(scan, key, EventType.BYPASS_ENDING)) == 1
        and bool(scan.before.interlocks[key].flags & scan.after.interlocks[key].flags & BYPASSED))),
    Row("time over, cause", ends(BypassEnd.TIME, acts=True)),
    Row("time over, calm", ends(BypassEnd.TIME, acts=False)),
    Row("time over, tripped before, calm", ends(BypassEnd.TIME, acts=False, withheld=False)),
    Row("time over, tripped before, cause", ends(BypassEnd.TIME, acts=True, withheld=False)),
    Row("ended, cause", ends(BypassEnd.COMMAND, acts=True)),
    Row("ended, calm", ends(BypassEnd.COMMAND, acts=False)),
    Row("forbidden by a swap, cause", ends(BypassEnd.FORBIDDEN, acts=True)),
    Row("forbidden by a swap, calm", ends(BypassEnd.FORBIDDEN, acts=False)),
    Row("restart: goes on", bypass_over("restart", stays=True)),
    Row("unclean boot: over", bypass_over("power", stays=False)),
    Row("not allowed", refused(ResultCode.NOT_ALLOWED)),
    Row("too long, or too many", refused(ResultCode.LIMIT)),
)  # fmt: skip


# ---- outputs -------------------------------------------------------------------------------------


def went(
    before: OutputState, after: OutputState, *kinds: EventType, begun: str = "",
    more: Detector = lambda scan, key: True,
) -> Detector:  # fmt: skip
    """From one state to another, with these records and no other of its own."""

    def seen(scan: Scan, key: int) -> bool:
        old, new = scan.before.outputs[key], scan.after.outputs[key]
        told = [EventType(each.type) for each in of(scan, key, *OUTPUT_EVENTS)]
        return (
            scan.begun == begun and (old.state, new.state) == (before, after)
            and told == list(kinds) and more(scan, key)
        )  # fmt: skip

    return seen


OUTPUT_EVENTS = tuple(e for e in EventType if e.name.startswith("OUT_"))


def code(kind: EventType, wanted: OutputCode) -> Detector:
    return lambda scan, key: fields(scan, key, kind).get("code") == wanted


def late(scan: Scan, key: int) -> bool:
    return all(e.flags & EventFlag.LATE for e in of(scan, key, EventType.OUT_CONFIRMED))


def follow(scan: Scan, key: int) -> bool:
    """Its fallbacks are commanded in this scan."""
    found = fallbacks(scan, key)
    return bool(found) and all(
        scan.after.outputs[each].state == TRIPPING
        and scan.after.outputs[each].demands & OutputDemand.FALLBACK
        for each in found
    )


def stay(scan: Scan, key: int) -> bool:
    """Its fallbacks stay demanded."""
    found = fallbacks(scan, key)
    return bool(found) and all(
        scan.after.outputs[each].demands & OutputDemand.FALLBACK
        and scan.after.outputs[each].state in TRIPS for each in found
    ) and late(scan, key)  # fmt: skip


def writes(wish: int) -> Detector:
    return lambda scan, key: scan.after.wishes[key] == wish


def ended_by(kind: EventType) -> Detector:
    return lambda scan, key: any(
        e.type == kind and key in effects_of(scan, e.key) for e in scan.events
    )


def slow(scan: Scan, key: int) -> bool:
    return bool(output(scan, key).path == OutputPath.GATEWAY)


def told_of(kind: EventType) -> Detector:
    """A record of heartbeats that names this output, whose state stays TRIP_FAILED or ends it."""
    return lambda scan, key: any(
        e.type == kind and payload_of(e)["output_key"] == key for e in scan.events
    )


def unverified(scan: Scan, key: int) -> bool:
    return bool(scan.before.outputs[key].confirmed and not scan.after.outputs[key].confirmed)


O = EventType  # noqa: E741
OUTPUT_ROWS = (
    Row("first start: reads back as normal", went(HELD, RELEASED, O.OUT_RELEASED)),
    *(Row(f"{state.name.lower()}, demand", went(state, TRIPPING, O.OUT_TRIP, more=writes(1)))
      for state in (RELEASED, RELEASING, HELD)),
    Row("tripping, confirmed", went(TRIPPING, CUT, O.OUT_CONFIRMED)),
    Row("tripping, refused", went(TRIPPING, FAILED, O.OUT_FAILED,
        more=code(O.OUT_FAILED, OutputCode.REFUSED))),
    Row("tripping, not confirmed in time", went(TRIPPING, FAILED, O.OUT_FAILED,
        more=code(O.OUT_FAILED, OutputCode.TIMEOUT))),
    Row("tripping, failed: fallbacks", went(TRIPPING, FAILED, O.OUT_FAILED, more=follow)),
    Row("failed, confirmed: fallbacks stay", went(FAILED, CUT, O.OUT_CONFIRMED, more=stay)),
    Row("failed: tried again", went(FAILED, FAILED, more=writes(1))),
    Row("failed, no fallback left: heartbeat withheld", went(FAILED, FAILED,
        more=told_of(O.HEARTBEAT_STOP))),
    Row("confirmed: heartbeat goes on", went(FAILED, CUT, O.OUT_CONFIRMED,
        more=lambda scan, key: any(e.type == O.HEARTBEAT_START for e in scan.events))),
    Row("tripped: written again", went(CUT, CUT, more=writes(1))),
    Row("tripped, reads back otherwise", went(CUT, FAILED, O.OUT_MISMATCH,
        more=lambda scan, key: writes(1)(scan, key)
        and code(O.OUT_MISMATCH, OutputCode.MISMATCH)(scan, key))),
    Row("tripped, link or read-back lost", went(CUT, CUT, O.OUT_UNVERIFIED, more=unverified)),
    Row("tripped, back and confirmed", went(CUT, CUT, O.OUT_CONFIRMED, more=late)),
    *(Row(f"{state.name.lower()}, demand ends by a reset", went(state, RELEASING, O.OUT_RELEASE,
          more=ended_by(O.RESET))) for state in TRIPS),
    Row("tripped, demand ends by a return", went(CUT, RELEASING, O.OUT_RELEASE,
        more=ended_by(O.RETURN))),
    Row("demand ends, no normal value", went(CUT, HELD, O.OUT_HELD, more=lambda scan, key: (
        not output(scan, key).flags & OutputFlag.HAS_NORMAL and not scan.after.wishes[key]))),
    Row("releasing, confirmed", went(RELEASING, RELEASED, O.OUT_RELEASED)),
    Row("releasing, three tries", went(RELEASING, HELD, O.OUT_HELD,
        more=lambda scan, key: scan.after.boot_ns - scan.before.outputs[key].since_ns < 10**10)),
    Row("releasing, 10 s", went(RELEASING, HELD, O.OUT_HELD,
        more=lambda scan, key: scan.after.boot_ns - scan.before.outputs[key].since_ns >= 10**10)),
    Row("held, release", went(HELD, RELEASING, O.OUT_RELEASE, more=writes(2))),
    *(Row(f"restart, {state.name.lower()}", went(state, after, begun="restart"))
      for state, after in ((RELEASED, RELEASED), (HELD, HELD), (RELEASING, HELD),
                           (TRIPPING, TRIPPING), (CUT, TRIPPING), (FAILED, TRIPPING))),
    Row("restart, copies differ", went(RELEASED, TRIPPING, O.OUT_TRIP, begun="restart")),
    Row("power loss, demand", went(HELD, TRIPPING, O.OUT_TRIP, more=lambda scan, key: any(
        one.reason == TripReason.POWER_LOSS and key in effects_of(scan, which)
        for which, one in scan.after.interlocks.items()))),
    Row("power loss, no demand", lambda scan, key: (
        scan.begun == "power" and scan.after.outputs[key].state == HELD
        and not scan.after.wishes[key] and len(of(scan, key, O.OUT_HELD)) == 1)),
    Row("via the gateway, no result in time", went(TRIPPING, FAILED, O.OUT_FAILED,
        more=lambda scan, key: slow(scan, key) and follow(scan, key))),
    Row("via the gateway, confirmed", went(TRIPPING, CUT, O.OUT_CONFIRMED, more=slow)),
)  # fmt: skip

TABLES = {"interlock": INTERLOCK_ROWS, "bypass": BYPASS_ROWS, "output": OUTPUT_ROWS}


def taken(trace: Iterable[Scan]) -> set[tuple[str, str]]:
    """(table, row) of every row that a trace shows."""
    found = set()
    for scan in trace:
        for table, rows in TABLES.items():
            of_what = "outputs" if table == "output" else "interlocks"
            keys = getattr(scan.before, of_what).keys() & getattr(scan.after, of_what).keys()
            for row in rows:
                if (table, row.name) not in found and any(row.seen(scan, k) for k in keys):
                    found.add((table, row.name))
    return found


def missing(found: set[tuple[str, str]]) -> list[str]:
    """Rows that were not taken."""
    return [
        f"{table}: {row.name}"
        for table, rows in TABLES.items() for row in rows if (table, row.name) not in found
    ]  # fmt: skip
