"""What people order of an interlock where more than its cause is amiss, scan by scan."""

from collections.abc import Iterator
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    EventType,
    InterlockFlag,
    InterlockState,
    MessageType,
    OutputState,
    ResultCode,
    TripReason,
)
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine, reset

NORMAL, TRIPPED, READY = (
    InterlockState.NORMAL, InterlockState.TRIPPED, InterlockState.READY_TO_RESET,
)  # fmt: skip
CUT, BREAKER = 7, 3  # keys
TRIP = messages.command(CUT, who="uid:test")


@pytest.fixture
def begin(stepping: Any) -> Iterator[Any]:
    """Starts a guard: ``begin(changes of the interlock)``; its first scans are over."""
    guards = []

    def start(**changes: Any) -> Any:
        guard = stepping.Stepper(blobs.build(mine(502, **changes)))
        guards.append(guard)
        gas(guard, 0.4)
        gas(guard, 0.4)
        return guard

    yield start
    for guard in guards:
        guard.close()


def gas(guard: Any, value: float) -> None:
    """All three transmitters, and a scan."""
    guard.advance(10 * MS)
    for slot in range(3):
        guard.poll(slot, value)
    guard.poll(3, 1.0)
    guard.step()


def order(guard: Any, kind: MessageType, body: bytes) -> ResultCode:
    """A command, a scan, its result."""
    ident = guard.mono_ns.to_bytes(16, "little")
    guard.send(kind, body, ident)
    guard.step(MS)
    return ResultCode(guard.results()[ident].code)


def state(guard: Any) -> InterlockState:
    return InterlockState(guard.view.interlock(0).state)


def told(guard: Any, kind: EventType) -> int:
    return sum(event.type == kind for event in guard.events())


# ---- a trip by hand on a trip --------------------------------------------------------------------


def test_without_a_latch_a_trip_by_hand_on_a_trip_waits_for_a_reset(begin: Any) -> None:
    guard = begin(flags=InterlockFlag.ARMED)
    gas(guard, 1.8)
    assert state(guard) == TRIPPED
    assert order(guard, MessageType.TRIP, TRIP) == ResultCode.ALREADY
    gas(guard, 0.4)
    gas(guard, 0.4)
    assert state(guard) == READY
    assert guard.view.interlock(0).generation == 1
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.DONE
    gas(guard, 1.8)
    gas(guard, 0.4)
    assert state(guard) == NORMAL, "the next trip is its cause's alone"


def test_a_kill_does_not_forget_that_a_hand_tripped_it_too(begin: Any) -> None:
    guard = begin(flags=InterlockFlag.ARMED)
    gas(guard, 1.8)
    order(guard, MessageType.TRIP, TRIP)
    guard.restart(blobs.build(mine(502, flags=InterlockFlag.ARMED)))
    gas(guard, 0.4)
    gas(guard, 0.4)
    assert state(guard) == READY


# ---- a program that cannot be evaluated ----------------------------------------------------------


def test_while_the_program_cannot_be_evaluated_nothing_is_reset_or_released(begin: Any) -> None:
    guard = begin(bypass_max_ns=100 * SECOND)
    gas(guard, 0.4)
    mended = guard.break_code()
    gas(guard, 0.4)
    assert guard.view.interlock(0).reason == TripReason.FAULT
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.CAUSE_UNKNOWN
    body = messages.command(CUT, who="uid:test", kind=1, duration_ns=SECOND, ledger_seq=1)
    assert order(guard, MessageType.BYPASS_START, body) == ResultCode.DONE
    assert order(guard, MessageType.RESET, reset(1)) == ResultCode.CAUSE_UNKNOWN, "bypassed as well"
    release = messages.command(BREAKER, who="uid:test", ledger_seq=1)
    assert order(guard, MessageType.RELEASE, release) == ResultCode.CAUSE_PRESENT
    assert guard.view.output(0).state in (OutputState.TRIPPING, OutputState.TRIP_FAILED)
    assert told(guard, EventType.FAULT) == 1
    mended()


def test_a_fault_that_is_over_is_reset_and_the_next_trips_again(begin: Any) -> None:
    guard = begin()
    mended = guard.break_code()
    gas(guard, 0.4)
    mended()
    gas(guard, 0.4)
    assert state(guard) == READY
    mended = guard.break_code()
    gas(guard, 0.4)
    mended()
    gas(guard, 0.4)
    assert (state(guard), guard.view.interlock(0).generation) == (READY, 2)
    assert told(guard, EventType.FAULT) == 2
    assert order(guard, MessageType.RESET, reset(2)) == ResultCode.DONE


def test_a_fault_that_comes_and_goes_does_not_fill_the_journal(begin: Any) -> None:
    guard = begin(min_trip_ns=100 * SECOND)
    for _ in range(20):
        mended = guard.break_code()
        gas(guard, 0.4)
        mended()
        gas(guard, 0.4)
    assert told(guard, EventType.FAULT) == 1
    assert told(guard, EventType.TRIP) == 1
