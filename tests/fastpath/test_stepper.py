"""The guard without its loop: that a test can live its whole life scan by scan."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    Counter,
    EventFlag,
    EventType,
    InterlockState,
    MessageType,
    OutputState,
    Quality,
    Reason,
    ResultCode,
    TripReason,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine, reset

MINE = blobs.build(mine(502))
SLOW = 5  # the slot that the gateway owns
SAMPLE = struct.Struct("<IBBHdqq")


@pytest.fixture
def guard(stepping: Any) -> Iterator[Any]:
    stepper = stepping.Stepper(MINE)
    yield stepper
    stepper.close()


def methane(guard: Any, value: float) -> None:
    for slot in range(3):
        guard.poll(slot, value)
    guard.poll(3, 1.0)


def tripped(guard: Any) -> None:
    """From a first start to a confirmed trip."""
    methane(guard, 0.4)
    guard.step(10 * MS)
    methane(guard, 1.6)
    guard.step(10 * MS)
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    assert guard.wish(0) == 1
    guard.sent(0)
    guard.replied(0)
    guard.advance(MS)
    guard.poll(3, 0.0)
    guard.step()
    assert guard.view.output(0).state == OutputState.TRIPPED


def types(guard: Any) -> list[EventType]:
    quality = (EventType.TAG_QUALITY, EventType.GATEWAY_UP)
    return [EventType(e.type) for e in guard.events() if e.type not in quality]


def test_a_trip_its_confirmation_and_its_reset(guard: Any) -> None:
    tripped(guard)
    methane(guard, 0.4)
    guard.step(10 * MS)
    guard.send(MessageType.RESET, reset(1), b"a" * 16)
    guard.step(10 * MS)
    assert guard.results()[b"a" * 16].code == ResultCode.DONE
    assert guard.wish(0) == 2
    guard.sent(0)
    guard.replied(0)
    guard.step(10 * MS)
    assert guard.view.output(0).state == OutputState.RELEASED
    assert types(guard) == [
        EventType.OUT_RELEASED, EventType.TRIP, EventType.OUT_TRIP, EventType.OUT_CONFIRMED,
        EventType.READY, EventType.RESET, EventType.OUT_RELEASE, EventType.OUT_RELEASED,
    ]  # fmt: skip


def test_a_kill_keeps_the_latch_and_writes_again(guard: Any) -> None:
    tripped(guard)
    guard.restart(MINE)
    guard.step(10 * MS)
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    assert guard.view.output(0).state == OutputState.TRIPPING
    assert guard.wish(0) == 1


def test_a_power_loss_trips_and_a_clean_stop_does_not(guard: Any) -> None:
    methane(guard, 0.4)
    guard.step(10 * MS)
    guard.reboot(MINE)
    assert guard.view.interlock(0).state == InterlockState.NORMAL
    guard.lose_power(MINE)
    assert guard.view.interlock(0).reason == TripReason.POWER_LOSS


def test_a_program_is_swapped_at_the_border_of_a_scan(guard: Any) -> None:
    methane(guard, 0.4)
    guard.step(10 * MS)
    guard.offer(blobs.build(mine(502, delay_ns=SECOND)))
    guard.step(10 * MS)
    assert guard.load_code == ResultCode.DONE
    methane(guard, 1.6)
    guard.step(10 * MS)
    assert guard.view.interlock(0).state == InterlockState.PENDING
    guard.step(SECOND)
    assert guard.view.interlock(0).state == InterlockState.TRIPPED


def test_the_gateway_comes_feeds_and_goes(guard: Any) -> None:
    guard.connect()
    sample = SAMPLE.pack(SLOW, Quality.GOOD, 0, 0, 4.5, guard.mono_ns, guard.utc_ns)
    guard.send(MessageType.SAMPLES, sample)
    assert guard.view.slot(SLOW)[:2] == (4.5, Quality.GOOD)
    guard.send(MessageType.TRIP, messages.command(7, who="uid:test"), b"b" * 16)
    guard.step()
    assert guard.results()[b"b" * 16].code == ResultCode.DONE
    assert guard.view.interlock(0).reason == TripReason.MANUAL
    guard.disconnect()
    assert guard.events()[-1].type == EventType.GATEWAY_DOWN


def test_time_makes_stale_and_clocks_move_apart(guard: Any) -> None:
    methane(guard, 0.4)
    guard.step(10 * MS)
    guard.utc_ns -= 3600 * SECOND
    guard.step(10 * MS)
    assert guard.view.interlock(0).state == InterlockState.NORMAL
    guard.step(600 * MS)
    assert guard.view.slot(0).reason == Reason.COMM_FAILURE
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    guard.boot_ns += 3600 * SECOND
    guard.step(10 * MS)
    assert EventType.PAUSE in types(guard)


# ---- scans that begin too late ---------------------------------------------------------------


def quick(on_overrun: int = 1) -> bytes:
    """The mine's program where an answer is due within 100 ms."""
    program = mine(1, response_ns=100 * MS)
    program.on_overrun = on_overrun
    return blobs.build(program)


@pytest.mark.parametrize(
    ("late_ms", "counted", "told", "trips"),
    [(10, 0, 0, 0), (11, 1, 0, 0), (50, 1, 0, 0), (51, 1, 1, 0), (200, 1, 1, 0), (201, 1, 1, 1)],
)
def test_a_scan_that_begins_late_is_counted_then_told_then_trips(
    stepping: Any, late_ms: int, counted: int, told: int, trips: int
) -> None:
    stepper = stepping.Stepper(quick())
    for _ in range(5):
        stepper.step(10 * MS)
    assert stepper.view.header().counters[Counter.SCANS_LATE] == 0
    stepper.step((10 + late_ms) * MS)
    assert stepper.view.header().counters[Counter.SCANS_LATE] == counted
    overruns = [e.flags & EventFlag.LATE for e in stepper.events() if e.type == EventType.OVERRUN]
    assert overruns == [EventFlag.LATE] * told
    reasons = [payload_of(e)["reason"] for e in stepper.events() if e.type == EventType.TRIP]
    assert reasons == [TripReason.OVERRUN] * trips
    stepper.close()


def test_a_late_scan_trips_nothing_where_the_site_says_so(stepping: Any) -> None:
    stepper = stepping.Stepper(quick(on_overrun=2))
    stepper.step(10 * MS)
    stepper.step(900 * MS)
    assert EventType.OVERRUN in types(stepper)
    assert EventType.TRIP not in types(stepper)
    stepper.close()


def test_a_pause_is_no_late_scan(stepping: Any) -> None:
    stepper = stepping.Stepper(quick())
    stepper.step(10 * MS)
    stepper.step(5000 * MS)
    assert EventType.PAUSE in types(stepper)
    assert EventType.OVERRUN not in types(stepper)
    assert stepper.view.header().counters[Counter.SCANS_LATE] == 0
    stepper.close()
