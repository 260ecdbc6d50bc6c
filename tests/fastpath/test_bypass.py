"""The bypass overlay of the state table, row by row, scan by scan."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    BypassEnd,
    BypassKind,
    EventFlag,
    EventType,
    InterlockFlag,
    InterlockLatchFlag,
    InterlockState,
    MessageType,
    OutputState,
    ResultCode,
    TripReason,
)
from fastpath.records import Event, payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine, reset

MAX = 100 * SECOND
NORMAL, PENDING, TRIPPED, READY = (
    InterlockState.NORMAL, InterlockState.PENDING, InterlockState.TRIPPED,
    InterlockState.READY_TO_RESET,
)  # fmt: skip
CUT, BREAKER, GAS = 7, 0, 10  # keys, and an output's index
IDS = (bytes([k, 1]) * 8 for k in itertools.cycle(range(1, 256)))
ON, WITHHELD = InterlockLatchFlag.BYPASSED, InterlockLatchFlag.WITHHELD


def program(**changes: Any) -> bytes:
    return blobs.build(mine(502, **{"bypass_max_ns": MAX, **changes}))


@pytest.fixture
def begin(stepping: Any) -> Iterator[Any]:
    """Starts a guard: ``begin(blob)``; its first scans are over."""
    guards = []

    def start(blob: bytes = program()) -> Any:
        guard = stepping.Stepper(blob)
        guards.append(guard)
        gas(guard, 0.4)
        gas(guard, 0.4)
        return guard

    yield start
    for guard in guards:
        guard.close()


def gas(guard: Any, value: float, after_ns: int = 10 * MS) -> None:
    """All three transmitters, and a scan."""
    guard.advance(after_ns)
    for slot in range(3):
        guard.poll(slot, value)
    guard.poll(3, 1.0)
    guard.step()


def order(guard: Any, kind: MessageType, body: bytes) -> ResultCode:
    """A command, a scan, its result."""
    ident = next(IDS)
    guard.send(kind, body, ident)
    guard.step(MS)
    return ResultCode(guard.results()[ident].code)


def bypass(
    guard: Any, duration_ns: int = 10 * SECOND, key: int = CUT, kind: int = BypassKind.INTERLOCK,
    seq: int = 1,
) -> ResultCode:  # fmt: skip
    body = messages.command(key, who="uid:test", kind=kind, duration_ns=duration_ns, ledger_seq=seq)
    return order(guard, MessageType.BYPASS_START, body)


def end(guard: Any, key: int = CUT, kind: int = BypassKind.INTERLOCK) -> ResultCode:
    return order(guard, MessageType.BYPASS_END, messages.command(key, who="uid:test", kind=kind))


def trip(guard: Any) -> ResultCode:
    return order(guard, MessageType.TRIP, messages.command(CUT, who="uid:test"))


def state(guard: Any) -> tuple[InterlockState, InterlockLatchFlag]:
    latch = guard.view.interlock(0)
    return InterlockState(latch.state), InterlockLatchFlag(latch.flags) & (ON | WITHHELD)


def told(guard: Any, *types: EventType) -> list[Event]:
    return [e for e in guard.events() if e.type in types]


def path(guard: Any) -> list[EventType]:
    """What the interlock went through."""
    last = EventType.BYPASS_END
    kinds = [EventType(e.type) for e in guard.events() if EventType.TRIP <= e.type <= last]
    return [kind for kind in kinds if kind != EventType.COMMAND]


def demanded(guard: Any) -> bool:
    return guard.view.output(BREAKER).state in (OutputState.TRIPPING, OutputState.TRIPPED)


# ---- begun where nothing is tripped --------------------------------------------------------------


def test_from_normal_it_withholds_and_is_recorded(begin: Any) -> None:
    guard = begin()
    assert bypass(guard) == ResultCode.DONE
    assert state(guard) == (NORMAL, ON | WITHHELD)
    record = told(guard, EventType.BYPASS)[0]
    payload = payload_of(record)
    latch = guard.view.interlock(0)
    assert (payload["kind"], payload["ledger_seq"]) == (BypassKind.INTERLOCK, 1)
    assert payload["until_ns"] == latch.bypass_until_ns == guard.boot_ns + 10 * SECOND
    assert payload["command_id"] == latch.bypass_id
    assert record.key == CUT
    assert latch.last_seq == record.seq


def test_from_pending_it_withholds(begin: Any) -> None:
    guard = begin(program(delay_ns=SECOND))
    gas(guard, 2.0)
    assert bypass(guard) == ResultCode.DONE
    assert state(guard) == (PENDING, ON | WITHHELD)
    gas(guard, 2.0, SECOND)
    assert state(guard) == (TRIPPED, ON | WITHHELD)
    assert not demanded(guard)


def test_the_cause_is_counted_and_told_and_commands_nothing(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    for _ in range(2):
        gas(guard, 2.0)
        gas(guard, 2.0)
        assert state(guard) == (TRIPPED, ON | WITHHELD)
        assert not demanded(guard)
        gas(guard, 0.4)
        assert state(guard) == (NORMAL, ON | WITHHELD)
    latch = guard.view.interlock(0)
    assert (latch.withheld_demands, latch.demands, latch.generation) == (2, 0, 0)
    assert path(guard) == [
        EventType.BYPASS, EventType.TRIP, EventType.RETURN, EventType.TRIP, EventType.RETURN,
    ]  # fmt: skip
    for record in told(guard, EventType.TRIP, EventType.RETURN):
        assert record.flags & EventFlag.WITHHELD
    assert payload_of(told(guard, EventType.TRIP)[0])["first_out"] == 0
    assert not told(guard, EventType.OUT_TRIP)


def test_an_unknown_cause_would_have_tripped_too(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    gas(guard, 9.0)  # out of its range: these come as GOOD here, so let them grow stale
    guard.step(SECOND)
    assert state(guard) == (TRIPPED, ON | WITHHELD)
    assert not demanded(guard)


def test_a_withheld_trip_is_not_first_out(stepping: Any) -> None:
    site = mine(502, bypass_max_ns=MAX)
    site.groups = [blobs.Group(5, 1)]
    other = replace(
        site.interlocks[0], key=8, order=1, legs_first=3, legs_count=0, effects_first=1,
        cause=site.interlocks[0].cause,
    )  # fmt: skip
    site.interlocks.append(other)
    site.effects.append(blobs.Effect(1, 0))
    guard = stepping.Stepper(blobs.build(site))
    gas(guard, 0.4)
    bypass(guard)
    gas(guard, 2.0)
    assert not guard.view.interlock(0).flags & InterlockLatchFlag.FIRST_OUT
    assert guard.view.interlock(1).flags & InterlockLatchFlag.FIRST_OUT
    assert demanded(guard)
    assert bypass(guard, key=8) == ResultCode.LIMIT  # one of the group already
    guard.close()


# ---- begun on a trip -----------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [False, True], ids=["tripped", "ready"])
def test_begun_on_a_trip_it_leaves_it_standing_until_a_reset(begin: Any, ready: bool) -> None:
    guard = begin()
    gas(guard, 2.0)
    if ready:
        gas(guard, 0.4)
    before = READY if ready else TRIPPED
    assert bypass(guard) == ResultCode.DONE
    assert state(guard) == (before, ON)
    assert demanded(guard)
    gas(guard, 0.9)  # the hysteresis and the permissive agree
    assert order(guard, MessageType.RESET, reset(99)) == ResultCode.WRONG_GENERATION
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.DONE
    assert state(guard) == (NORMAL, ON | WITHHELD)
    assert guard.view.output(BREAKER).state == OutputState.RELEASING
    assert payload_of(told(guard, EventType.RESET)[0])["under_bypass"] == 1
    gas(guard, 2.0)
    assert state(guard) == (TRIPPED, ON | WITHHELD)
    assert not demanded(guard)


def test_a_reset_under_bypass_works_with_the_cause_present(begin: Any) -> None:
    guard = begin(program(permissive=NONE_U32))
    gas(guard, 2.0)
    bypass(guard)
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.DONE
    gas(guard, 2.0)
    assert state(guard) == (TRIPPED, ON | WITHHELD)
    assert not demanded(guard)
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.ALREADY


def test_a_reset_under_bypass_wants_its_permissive(begin: Any) -> None:
    guard = begin()
    gas(guard, 2.0)
    bypass(guard)
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.PERMISSIVE
    assert state(guard) == (TRIPPED, ON)
    assert demanded(guard)


def test_a_return_under_bypass_is_a_beginning_of_withholding(begin: Any) -> None:
    guard = begin(program(flags=InterlockFlag.ARMED))
    gas(guard, 2.0)
    bypass(guard)
    gas(guard, 0.4)
    assert state(guard) == (NORMAL, ON | WITHHELD)
    gas(guard, 2.0)
    assert state(guard) == (TRIPPED, ON | WITHHELD)


# ---- its end -------------------------------------------------------------------------------------


def test_at_80_percent_it_is_told_once(begin: Any) -> None:
    guard = begin()
    bypass(guard, 10 * SECOND)
    from_ns = guard.boot_ns
    gas(guard, 0.4, 8 * SECOND - 1)
    assert not told(guard, EventType.BYPASS_ENDING)
    for _ in range(3):
        gas(guard, 0.4, 1)
    ending = told(guard, EventType.BYPASS_ENDING)
    assert len(ending) == 1
    assert payload_of(ending[0])["left_ns"] == from_ns + 10 * SECOND - (from_ns + 8 * SECOND)
    assert guard.view.interlock(0).flags & InterlockLatchFlag.BYPASS_ENDING


@pytest.mark.parametrize("how", [BypassEnd.TIME, BypassEnd.COMMAND, BypassEnd.FORBIDDEN])
def test_its_end_acts_in_the_same_scan_where_the_cause_is_there(begin: Any, how: BypassEnd) -> None:
    guard = begin(program(delay_ns=50 * MS))
    bypass(guard)
    gas(guard, 2.0)
    gas(guard, 2.0, SECOND)
    assert state(guard) == (TRIPPED, ON | WITHHELD)
    if how == BypassEnd.COMMAND:
        for slot in range(3):
            guard.poll(slot, 2.0)
        assert end(guard) == ResultCode.DONE
    elif how == BypassEnd.TIME:
        gas(guard, 2.0, 10 * SECOND)
    else:
        flags = InterlockFlag.LATCH | InterlockFlag.ARMED | InterlockFlag.NO_BYPASS
        forbidding(guard, program(delay_ns=50 * MS, flags=flags))
        gas(guard, 2.0)
    assert state(guard) == (TRIPPED, 0)
    latch = guard.view.interlock(0)
    assert (latch.generation, latch.reason) == (1, TripReason.BYPASS_END)
    assert demanded(guard)
    ended, tripped = told(guard, EventType.BYPASS_END, EventType.TRIP)[-2:]
    assert payload_of(ended)["cause"] == how
    assert ended.scan == tripped.scan
    assert not tripped.flags & EventFlag.WITHHELD


def forbidding(guard: Any, blob: bytes) -> None:
    """Change the running program under a live bypass, as no swap may but a newer rule could."""
    guard.crash()
    guard.begin(blob)


def test_its_end_is_quiet_where_the_cause_is_gone(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    gas(guard, 2.0)
    for _ in range(20):  # without a pause, after which everything is stale first
        gas(guard, 0.4, 500 * MS)
    assert state(guard) == (NORMAL, 0)
    assert guard.view.interlock(0).bypass_until_ns == 0
    assert not demanded(guard)


def test_a_delay_that_runs_at_its_end_runs_on(begin: Any) -> None:
    guard = begin(program(delay_ns=SECOND))
    bypass(guard)
    gas(guard, 2.0)
    for _ in range(2):
        gas(guard, 2.0, 300 * MS)
    for slot in range(3):
        guard.poll(slot, 2.0)
    end(guard)
    assert state(guard) == (PENDING, 0)
    gas(guard, 2.0, 400 * MS)
    assert state(guard) == (TRIPPED, 0)


def test_the_end_of_one_begun_on_a_trip_changes_nothing_without_the_cause(begin: Any) -> None:
    guard = begin()
    gas(guard, 2.0)
    gas(guard, 0.4)
    bypass(guard)
    assert state(guard) == (READY, ON)
    gas(guard, 0.4)
    end(guard)
    assert state(guard) == (READY, 0)
    assert guard.view.interlock(0).generation == 1
    assert demanded(guard)


def test_the_end_of_one_begun_on_a_trip_trips_anew_with_the_cause(begin: Any) -> None:
    guard = begin()
    gas(guard, 2.0)
    bypass(guard)
    end(guard)
    latch = guard.view.interlock(0)
    assert (latch.state, latch.generation) == (TRIPPED, 2)
    assert told(guard, EventType.TRIP)[-1].flags & EventFlag.RETRIP


@pytest.mark.parametrize("value", [0.4, 2.0])
def test_a_manual_trip_ends_it(begin: Any, value: float) -> None:
    guard = begin()
    bypass(guard)
    gas(guard, value)
    assert trip(guard) == ResultCode.DONE
    assert guard.view.interlock(0).reason == TripReason.MANUAL
    assert demanded(guard)
    assert guard.view.interlock(0).generation == 1
    assert payload_of(told(guard, EventType.BYPASS_END)[0])["cause"] == BypassEnd.TRIP
    assert not state(guard)[1]


def test_a_manual_trip_of_what_is_tripped_and_not_withheld_changes_nothing(begin: Any) -> None:
    guard = begin()
    gas(guard, 2.0)
    bypass(guard)
    assert trip(guard) == ResultCode.ALREADY
    assert state(guard) == (TRIPPED, ON)


# ---- lives ---------------------------------------------------------------------------------------


def test_a_kill_leaves_it_on_with_the_same_end(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    gas(guard, 2.0)
    until = guard.view.interlock(0).bypass_until_ns
    guard.restart(program())
    gas(guard, 2.0)
    assert state(guard) == (TRIPPED, ON | WITHHELD)
    assert guard.view.interlock(0).bypass_until_ns == until
    assert not demanded(guard)
    gas(guard, 2.0, 10 * SECOND)
    assert state(guard) == (TRIPPED, 0)
    assert demanded(guard)


def test_a_kill_during_which_it_ends_acts_in_the_first_scan(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    gas(guard, 2.0)
    guard.advance(60 * SECOND)
    guard.restart(program())
    gas(guard, 2.0)
    assert state(guard) == (TRIPPED, 0)
    assert demanded(guard)


def test_a_suspend_counts_and_a_step_of_the_wall_clock_does_not(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    guard.utc_ns += 3600 * SECOND
    gas(guard, 0.4)
    assert state(guard) == (NORMAL, ON | WITHHELD)
    guard.boot_ns += 10 * SECOND
    gas(guard, 0.4)
    assert not state(guard)[1]


def test_a_power_loss_ends_it(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    guard.lose_power(program())
    gas(guard, 0.4)
    assert not state(guard)[1]
    assert guard.view.interlock(0).reason == TripReason.POWER_LOSS


def test_a_reboot_after_a_clean_stop_leaves_what_was_left_of_it(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    gas(guard, 0.4, 4 * SECOND)
    left = guard.view.interlock(0).bypass_until_ns - guard.boot_ns
    guard.reboot(program())
    assert guard.view.interlock(0).bypass_until_ns - guard.boot_ns == left


# ---- who may, and for how long -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration_ns", "seq", "flags", "code"),
    [(MAX + 1, 1, 0, ResultCode.LIMIT), (0, 1, 0, ResultCode.LIMIT), (-5, 1, 0, ResultCode.LIMIT),
     (2**62, 1, 0, ResultCode.LIMIT), (SECOND, 0, 0, ResultCode.NOT_ALLOWED),
     (SECOND, 1, InterlockFlag.NO_BYPASS, ResultCode.NOT_ALLOWED), (MAX, 1, 0, ResultCode.DONE)],
)  # fmt: skip
def test_what_is_refused(
    begin: Any, duration_ns: int, seq: int, flags: int, code: ResultCode
) -> None:
    guard = begin(program(flags=InterlockFlag.LATCH | InterlockFlag.ARMED | flags))
    assert bypass(guard, duration_ns, seq=seq) == code
    assert bool(state(guard)[1]) == (code == ResultCode.DONE)
    assert len(told(guard, EventType.COMMAND)) == (code != ResultCode.DONE)


def test_too_late_and_unknown_and_of_no_kind(begin: Any) -> None:
    guard = begin()
    late = messages.command(
        CUT, who="t", duration_ns=SECOND, ledger_seq=1, not_after_ns=guard.boot_ns
    )
    assert order(guard, MessageType.BYPASS_START, late) == ResultCode.EXPIRED
    assert bypass(guard, key=4711) == ResultCode.UNKNOWN_KEY
    assert bypass(guard, key=GAS, kind=BypassKind.INTERLOCK) == ResultCode.UNKNOWN_KEY
    assert bypass(guard, kind=7) == ResultCode.UNKNOWN_KEY
    assert end(guard, key=4711) == ResultCode.UNKNOWN_KEY
    assert not told(guard, EventType.BYPASS)


def test_a_live_one_is_not_extended_and_ends_once(begin: Any) -> None:
    guard = begin()
    bypass(guard)
    until = guard.view.interlock(0).bypass_until_ns
    assert bypass(guard) == ResultCode.ALREADY
    assert guard.view.interlock(0).bypass_until_ns == until
    assert (end(guard), end(guard)) == (ResultCode.DONE, ResultCode.ALREADY)


def test_the_same_command_again_does_nothing_again(begin: Any) -> None:
    guard = begin()
    ident = next(IDS)
    body = messages.command(CUT, who="t", duration_ns=SECOND, ledger_seq=1)
    for _ in range(2):
        guard.send(MessageType.BYPASS_START, body, ident)
        guard.step(MS)
        assert guard.results()[ident].code == ResultCode.DONE
    assert len(told(guard, EventType.BYPASS)) == 1


# ---- tags ----------------------------------------------------------------------------------------


def test_a_bypassed_tag_is_left_out_of_the_vote_until_its_end(begin: Any) -> None:
    guard = begin(program(permissive=NONE_U32))
    assert bypass(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.DONE
    assert guard.view.slot(0).flags == 1
    (live,) = guard.view.tag_bypasses()
    assert (live.key, live.until_ns - live.from_ns) == (GAS, 10 * SECOND)
    feed(guard, 2.0, 2.0, 0.4)  # 2oo2 of the others
    assert state(guard)[0] == NORMAL
    feed(guard, 2.0, 2.0, 0.4, after_ns=8 * SECOND)
    assert len(told(guard, EventType.BYPASS_ENDING)) == 1
    feed(guard, 2.0, 2.0, 0.4, after_ns=2 * SECOND)
    assert state(guard)[0] == TRIPPED
    record = told(guard, EventType.BYPASS_END)[0]
    payload = payload_of(record)
    assert (record.key, payload["kind"], payload["cause"]) == (GAS, BypassKind.TAG, BypassEnd.TIME)
    assert guard.view.tag_bypasses() == []
    assert guard.view.slot(0).flags == 0


def feed(guard: Any, *values: float, after_ns: int = 10 * MS) -> None:
    guard.advance(after_ns)
    for slot, value in enumerate(values):
        guard.poll(slot, value)
    guard.step()


def test_the_limits_of_a_tags_bypass(begin: Any) -> None:
    guard = begin()
    breaker, gas2 = 20, 11
    assert bypass(guard, key=breaker, kind=BypassKind.TAG) == ResultCode.NOT_ALLOWED  # nobody reads
    assert bypass(guard, MAX + 1, key=GAS, kind=BypassKind.TAG) == ResultCode.LIMIT
    assert bypass(guard, key=4711, kind=BypassKind.TAG) == ResultCode.UNKNOWN_KEY
    assert bypass(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.DONE
    assert bypass(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.ALREADY
    assert bypass(guard, key=gas2, kind=BypassKind.TAG) == ResultCode.LIMIT  # one of the group
    assert bypass(guard) == ResultCode.LIMIT
    assert end(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.DONE
    assert end(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.ALREADY
    assert bypass(guard) == ResultCode.DONE
    assert bypass(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.LIMIT


def test_one_interlock_that_forbids_it_is_enough(begin: Any) -> None:
    flags = InterlockFlag.LATCH | InterlockFlag.ARMED | InterlockFlag.NO_BYPASS
    guard = begin(program(flags=flags))
    assert bypass(guard, key=GAS, kind=BypassKind.TAG) == ResultCode.NOT_ALLOWED


def test_a_kill_keeps_a_tags_bypass_and_a_power_loss_does_not(begin: Any) -> None:
    guard = begin()
    bypass(guard, key=GAS, kind=BypassKind.TAG)
    before = guard.view.tag_bypasses()
    guard.restart(program())
    assert guard.view.tag_bypasses() == before
    assert guard.view.slot(0).flags == 1
    guard.lose_power(program())
    assert guard.view.tag_bypasses() == []


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("at", [0, 8, 40, 56, 60])
def test_a_tags_bypass_whose_copies_disagree_is_over(begin: Any, copy: int, at: int) -> None:
    guard = begin()
    bypass(guard, key=GAS, kind=BypassKind.TAG)
    offset = 4096 + 1024 * 256  # behind the interlocks' pairs
    memory = guard.memory_at(offset + 64 * copy + at, 1)
    memory[0] ^= 4
    guard.restart(program())
    assert guard.view.tag_bypasses() == []
    assert guard.view.slot(0).flags == 0
    (ended,) = told(guard, EventType.BYPASS_END)
    assert (ended.key, payload_of(ended)["cause"]) == (GAS, BypassEnd.BOOT)
    feed(guard, 2.0, 2.0, 0.4)
    assert state(guard)[0] == TRIPPED
    guard.restart(program())
    assert len(told(guard, EventType.BYPASS_END)) == 1


@pytest.mark.parametrize(
    ("kind", "key", "at", "size"),
    [(BypassKind.TAG, GAS, 4096 + 1024 * 256, 128), (BypassKind.INTERLOCK, CUT, 4096, 256)],
)
def test_a_bypass_that_a_kill_kept_from_its_memory_is_told_to_be_over(
    begin: Any, kind: int, key: int, at: int, size: int
) -> None:
    guard = begin()
    before = bytes(guard.memory_at(at, size))
    assert bypass(guard, key=key, kind=kind) == ResultCode.DONE
    guard.memory_at(at, size)[:] = before  # its record stands, the latch was not stored
    guard.restart(program())
    assert not state(guard)[1]
    assert guard.view.tag_bypasses() == []
    (ended,) = told(guard, EventType.BYPASS_END)
    assert (ended.key, payload_of(ended)["kind"]) == (key, kind)
    assert payload_of(ended)["cause"] == BypassEnd.BOOT


def test_a_kill_alone_tells_of_no_end(begin: Any) -> None:
    guard = begin()
    bypass(guard, key=GAS, kind=BypassKind.TAG)
    bypass(guard)
    guard.restart(program())
    assert told(guard, EventType.BYPASS_END) == []


def test_a_tags_bypass_that_the_next_program_forbids_ends(begin: Any) -> None:
    guard = begin()
    bypass(guard, key=GAS, kind=BypassKind.TAG)
    flags = InterlockFlag.LATCH | InterlockFlag.ARMED | InterlockFlag.NO_BYPASS
    guard.restart(program(flags=flags))
    assert guard.view.tag_bypasses() == []
    ended = payload_of(told(guard, EventType.BYPASS_END)[0])
    assert ended["cause"] == BypassEnd.FORBIDDEN
