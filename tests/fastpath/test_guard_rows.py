"""The state table of interlocks, row by row, with the records that each row leaves."""

import asyncio
import os
import signal

from fastpath import messages
from fastpath.codes import (
    Counter,
    EventFlag,
    EventType,
    InterlockFlag,
    InterlockState,
    MessageType,
    OnBad,
    OutputState,
    Quality,
    Reason,
    ResultCode,
    ResultDetail,
    TripReason,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guard_file import fill_journal
from tests.helpers.guarding import methane, output_path, protecting, scans, tripped

INTERLOCK_EVENTS = (
    EventType.TRIP, EventType.READY, EventType.NOT_READY, EventType.PENDING,
    EventType.PENDING_END, EventType.RESET, EventType.RETURN,
)  # fmt: skip


def interlock_path(guard: GuardProcess) -> list[EventType]:
    return [EventType(e.type) for e in guard.events(*INTERLOCK_EVENTS)]


# ---- interlocks ---------------------------------------------------------------------------------


async def test_a_delay_that_is_not_over_ends_without_a_trip(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port, delay_ns=300 * MS))
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_interlock(InterlockState.PENDING)
    refused = guard.client().command(MessageType.RESET, reset(0))
    assert refused.code == ResultCode.CAUSE_PRESENT
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.NORMAL)
    left = payload_of(guard.events(EventType.PENDING_END)[0])["left_ns"]
    assert 0 < left <= 300 * MS
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_interlock(InterlockState.TRIPPED)
    assert interlock_path(guard) == [
        EventType.PENDING, EventType.PENDING_END, EventType.PENDING, EventType.TRIP,
    ]  # fmt: skip
    pending, trip = guard.events(EventType.PENDING, EventType.TRIP)[1:]
    assert trip.mono_ns - pending.mono_ns >= 300 * MS


async def test_a_delay_goes_on_over_a_kill(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port, delay_ns=SECOND))
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_interlock(InterlockState.PENDING)
    await guard.stop(signal.SIGKILL)
    device.twist = lambda asked: b"" if asked.function == 4 else None  # not even read again
    await guard.start()
    await guard.until_interlock(InterlockState.TRIPPED)
    pending, trip = guard.events(EventType.PENDING, EventType.TRIP)
    assert SECOND <= trip.mono_ns - pending.mono_ns < 1.5 * SECOND


async def test_ready_falls_back_and_trips_again(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port))
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    methane(device, 1.2, 0.4, 0.4)  # the permissive alone
    await guard.until_interlock(InterlockState.TRIPPED)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    methane(device, 2.0, 2.0, 0.4)
    await guard.until_interlock(InterlockState.TRIPPED)
    assert interlock_path(guard) == [
        EventType.TRIP, EventType.READY, EventType.NOT_READY, EventType.READY, EventType.TRIP,
    ]  # fmt: skip
    trips = guard.events(EventType.TRIP)
    assert [payload_of(e)["generation"] for e in trips] == [1, 2]
    assert [payload_of(e)["first_out"] for e in trips] == [1, 1]
    assert trips[1].flags & EventFlag.RETRIP
    assert output_path(guard) == [EventType.OUT_TRIP, EventType.OUT_CONFIRMED]
    assert 1 not in device.writes(BREAKER_COIL)


async def test_without_a_latch_it_returns_by_itself(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port, flags=InterlockFlag.ARMED))
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_output(OutputState.RELEASED)
    assert interlock_path(guard) == [EventType.TRIP, EventType.RETURN]
    assert device.coils[BREAKER_COIL] == 1


async def test_without_a_latch_a_manual_trip_waits_for_its_reset(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port, flags=InterlockFlag.ARMED))
    client = guard.client()
    trip = client.command(MessageType.TRIP, messages.command(7, who="uid:test"))
    assert (trip.code, trip.detail, trip.generation) == (ResultCode.DONE, ResultDetail.NOTHING, 1)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    await scans(guard, 10)
    assert guard.output().state != OutputState.RELEASED
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)


async def test_the_minimum_trip_time_is_kept_over_a_kill(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port, min_trip_ns=800 * MS))
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until(lambda: guard.view is not None and guard.view.slot(1).value < 1.0)
    await scans(guard, 2)
    refused = guard.client().command(MessageType.RESET, reset(1))
    assert refused.code == ResultCode.MINIMUM_TRIP_TIME
    await guard.stop(signal.SIGKILL)
    await guard.start()
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    trip, ready = guard.events(EventType.TRIP, EventType.READY)
    assert 800 * MS <= ready.mono_ns - trip.mono_ns < 1300 * MS


async def test_bad_for_rides_through_and_then_trips(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port, bad_for_ns=500 * MS))
    methane(device, 9.0, 9.0, 0.4)  # two out of their range: unknown
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.slot(1).reason == Reason.OUT_OF_RANGE)
    await scans(guard, 5)
    assert view.interlock(0).state == InterlockState.NORMAL
    methane(device, 0.4, 0.4, 0.4)
    await guard.until(lambda: view.slot(1).quality == Quality.GOOD)
    assert view.interlock(0).state == InterlockState.NORMAL
    methane(device, 9.0, 9.0, 0.4)
    await guard.until(lambda: view.slot(1).reason == Reason.OUT_OF_RANGE)
    await guard.until_interlock(InterlockState.TRIPPED)
    trip = guard.events(EventType.TRIP)[0]
    bad = [e for e in guard.events(EventType.TAG_QUALITY) if payload_of(e)["slot"] == 1]
    # A flicker that was not over for long does not begin the time anew.
    assert trip.mono_ns - bad[0].mono_ns >= 500 * MS
    assert payload_of(trip)["reason"] == TripReason.CAUSE


async def test_on_bad_ignore_does_not_trip_and_keeps_a_trip(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port, on_bad=OnBad.IGNORE))
    methane(device, 9.0, 9.0, 9.0)
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.slot(2).reason == Reason.OUT_OF_RANGE)
    await scans(guard, 5)
    assert view.interlock(0).state == InterlockState.NORMAL
    await tripped(guard, device)
    methane(device, 9.0, 9.0, 9.0)
    await guard.until(lambda: view.slot(2).reason == Reason.OUT_OF_RANGE)
    await scans(guard, 5)
    assert view.interlock(0).state == InterlockState.TRIPPED
    refused = guard.client().command(MessageType.RESET, reset(1))
    assert refused.code == ResultCode.CAUSE_UNKNOWN


async def test_after_a_pause_inputs_are_stale_first(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port))
    assert guard.process is not None
    assert guard.view is not None
    view = guard.view
    guard.process.send_signal(signal.SIGSTOP)
    stopped = view.header().scan_mono_ns
    await asyncio.sleep(1.1)  # only time makes a pause
    guard.process.send_signal(signal.SIGCONT)
    await guard.until(lambda: len(guard.events(EventType.TRIP)) == 1)
    pause = guard.events(EventType.PAUSE)[0]
    trip = guard.events(EventType.TRIP)[0]
    assert payload_of(pause)["took_ns"] >= SECOND
    assert trip.scan == pause.scan
    assert trip.mono_ns - stopped >= SECOND
    assert view.header().counters[Counter.PAUSES] == 1


async def test_a_guard_that_got_no_processor_for_long_trips_what_wants_an_answer_sooner(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port, response_ns=50 * MS))
    assert guard.process is not None
    guard.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(0.3)  # too short for a pause; the inputs are not even stale
    guard.process.send_signal(signal.SIGCONT)
    await guard.until(lambda: len(guard.events(EventType.TRIP)) == 1)
    assert guard.events(EventType.PAUSE) == []
    assert payload_of(guard.events(EventType.OVERRUN)[0])["took_ns"] > 100 * MS
    assert payload_of(guard.events(EventType.TRIP)[0])["reason"] == TripReason.OVERRUN
    assert guard.counter(Counter.SCANS_LATE) >= 1


# ---- journal ------------------------------------------------------------------------------------


async def test_a_nearly_full_journal_takes_trips_alone_and_a_full_one_still_latches(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await guard.stop(signal.SIGKILL)
    shm = guard.runtime / "guard.shm"
    fill_journal(shm, 50_000)
    await guard.start()
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.view is not None
    view = guard.view
    told = {EventType(e.type) for e in view.events(view.header().event_head - 3, 10)}
    assert told >= {EventType.TRIP, EventType.OUT_TRIP, EventType.OUT_CONFIRMED}
    assert view.header().events_lost > 0  # READY is of class B
    await guard.stop(signal.SIGKILL)
    fill_journal(shm, 65_535)
    await guard.start()
    view = guard.view
    head = view.header().event_head
    methane(device, 2.0, 2.0, 2.0)
    await guard.until_interlock(InterlockState.TRIPPED)
    assert view.interlock(0).generation == 2
    assert view.header().event_head == head
    client = guard.client()
    assert client.welcome is not None
    client.send(MessageType.ACK, messages.ACK.pack(client.welcome.journal_id, head))
    await guard.until(lambda: view.header().event_tail == head)
    client.command(MessageType.RESET, reset(99), os.urandom(16))  # makes a record
    first = view.events(head, 1)[0]
    assert first.type == EventType.LOST
    assert payload_of(first)["count"] > 0
