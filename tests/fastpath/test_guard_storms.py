"""Much at once, and memory that is not what was stored: nothing is doubled, nothing released."""

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
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
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guard_file import INTERLOCKS_AT, flip
from tests.helpers.guarding import methane, protecting, scans, tripped
from tests.helpers.outputs import add_interlock, add_output
from tests.helpers.small_disk import small_disk

TRIPPED = InterlockState.TRIPPED
PAIR_BYTES = 256  # an interlock's two latches
SLOW = 5  # the slot that the gateway feeds


@pytest.fixture
def begin(stepping: Any) -> Iterator[Any]:
    guards = []

    def start(program: blobs.Program) -> Any:
        guard = stepping.Stepper(blobs.build(program))
        guards.append(guard)
        return guard

    yield start
    for guard in guards:
        guard.close()


def read(guard: Any, value: float, contact: float = 1.0) -> None:
    """All three transmitters and the contact, and a scan."""
    guard.advance(10 * MS)
    for slot in range(3):
        guard.poll(slot, value)
    guard.poll(3, contact)
    guard.step()


def told(guard: Any, *types: EventType) -> list[Any]:
    return [e for e in guard.events() if e.type in types]


# ---- much at once --------------------------------------------------------------------------------


def test_a_chattering_input_latches_once_and_commands_once(begin: Any) -> None:
    guard = begin(mine(502))
    read(guard, 0.4)
    for k in range(1000):
        read(guard, 1.6 if k % 2 else 0.4)
    latch = guard.view.interlock(0)
    trips = told(guard, EventType.TRIP)
    assert len(trips) == latch.generation
    assert len(told(guard, EventType.OUT_TRIP)) == 1
    assert told(guard, EventType.OUT_RELEASE, EventType.OUT_RELEASED)[1:] == []
    assert {payload_of(e)["first_out"] for e in trips} == {1}
    # Every change is in the journal, none twice: TRIP and READY take turns.
    path = [e.type for e in told(guard, EventType.TRIP, EventType.READY, EventType.NOT_READY)]
    assert path == [EventType.TRIP, EventType.READY] * (len(path) // 2) + path[len(path) // 2 * 2 :]
    assert len(path) >= 999


def test_chatter_inside_the_band_or_shorter_than_the_delay_does_nothing(begin: Any) -> None:
    guard = begin(mine(502, delay_ns=50 * MS))
    read(guard, 0.4)
    for k in range(400):
        read(guard, 1.6 if k % 4 == 0 else 0.4)
    for k in range(400):
        read(guard, 1.4 if k % 2 else 1.1)
    assert told(guard, EventType.TRIP, EventType.OUT_TRIP) == []
    assert guard.view.interlock(0).state == InterlockState.NORMAL


def test_all_interlocks_in_one_scan_command_every_output_in_that_scan(begin: Any) -> None:
    program = mine(502)
    program.outputs[0] = replace(program.outputs[0], readback=0xFFFFFFFF)
    for k in range(1, 512):
        add_output(program, 3 + k, address=BREAKER_COIL + k)
    for k in range(1, 128):
        add_interlock(program, 7 + k, *range(4 * k, 4 * k + 4))
    program.effects = [blobs.Effect(k // 4, k) for k in range(512)]
    program.interlocks = [
        replace(lock, effects_first=4 * k, effects_count=4)
        for k, lock in enumerate(program.interlocks)
    ]
    guard = begin(program)
    read(guard, 0.4)
    read(guard, 1.6)
    assert {guard.view.interlock(k).state for k in range(128)} == {TRIPPED}
    assert {guard.wish(k) for k in range(512)} == {1}
    trips, outs = told(guard, EventType.TRIP), told(guard, EventType.OUT_TRIP)
    assert len({e.scan for e in [*trips, *outs]}) == 1
    assert len(outs) == 512
    # All are first, in the order of the site file, and say that they share it.
    assert [e.key for e in trips] == [7 + k for k in range(128)]
    assert all(e.flags & EventFlag.SAME_SCAN for e in trips[1:])
    assert payload_of(trips[0])["first_out"] == 1


# ---- starved -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_ns", "trips"), [(500 * MS, False), (5 * SECOND, True)])
def test_a_scan_that_takes_too_long_is_counted_and_at_twice_the_response_trips(
    stepping: Any, late_ns: int, trips: bool
) -> None:
    """A scan that began so long ago by the machine's clock; the response is 2 s, the tick 10 ms."""
    began_ns = time.monotonic_ns() - late_ns
    guard = stepping.Stepper(blobs.build(mine(502)), start_ns=began_ns)
    for slot in range(3):
        guard.poll(slot, 0.4)
    guard.step()
    overruns = told(guard, EventType.OVERRUN)
    assert guard.view.header().overruns == 1
    assert late_ns <= payload_of(overruns[0])["took_ns"]
    reasons = [payload_of(e)["reason"] for e in told(guard, EventType.TRIP)]
    assert reasons == ([TripReason.OVERRUN] if trips else [])
    guard.close()


# ---- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("utc_ns", [0, -(10**18), 2 * 10**18 + 1, 2**62])
def test_stamps_of_1970_and_of_the_future_neither_age_nor_refresh(begin: Any, utc_ns: int) -> None:
    guard = begin(mine(502))
    guard.connect()
    read(guard, 0.4)
    body = messages.SAMPLE.pack(SLOW, Quality.GOOD, 0, 0, 4.5, guard.mono_ns, utc_ns)
    guard.send(MessageType.SAMPLES, body)
    slot = guard.view.slot(SLOW)
    assert (slot.value, slot.quality, slot.utc_ns) == (4.5, Quality.GOOD, utc_ns)
    guard.utc_ns += 10 * 365 * 86_400 * SECOND
    guard.step(900 * MS)
    assert guard.view.slot(SLOW).quality == Quality.GOOD
    guard.step(200 * MS)
    assert guard.view.slot(SLOW).reason == Reason.STALE


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("released", [True, False])
async def test_a_flipped_bit_in_a_latch_is_a_trip_whichever_it_is(
    guard: GuardProcess, device: Device, released: bool
) -> None:
    """Both copies of one of 128 interlocks each, and one left as it was."""
    program = mine(device.port)
    for k in range(1, 129):
        add_interlock(program, 7 + k, 0)
    await protecting(guard, program)
    if not released:
        await tripped(guard, device)
    await guard.stop(signal.SIGKILL)
    shm = guard.runtime / "guard.shm"
    for k in range(128):
        flip(shm, INTERLOCKS_AT + PAIR_BYTES * k + 2 * k + k % 2, 1 << (k % 8))
    await guard.start()
    view = guard.view
    assert view is not None
    states = [view.interlock(k).state for k in range(129)]
    assert states[:128] == [TRIPPED] * 128
    assert states[128] == (InterlockState.NORMAL if released else TRIPPED)
    reasons = {payload_of(e)["reason"] for e in guard.events(EventType.TRIP)[-128:]}
    assert reasons == {TripReason.RESTORED}
    await guard.until_output(OutputState.TRIPPED)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """4 MiB of memory: less than the shared file wants."""
    with small_disk(tmp_path / "small", 4 * 1024) as mount:
        yield mount


async def test_too_little_memory_for_the_shared_file_is_said_at_the_start(
    tmpfs: Path, tmp_path: Path
) -> None:
    """It is allocated whole at the start, so that no store can ever meet a full one."""
    guard = GuardProcess(tmpfs, tmp_path)
    with pytest.raises(RuntimeError, match=r"the guard ended with [1-9]"):
        await guard.start()
    assert not (tmpfs / "guard.shm").exists()
    await guard.close()


async def test_a_running_guard_needs_no_page_that_it_does_not_have(
    guard: GuardProcess, device: Device
) -> None:
    """Not one major fault over trips, resets and a flood of commands."""
    await protecting(guard, mine(device.port))
    assert guard.process is not None
    stat = Path(f"/proc/{guard.process.pid}/stat")

    def major() -> int:
        return int(stat.read_text().rpartition(")")[2].split()[9])

    before = major()
    client = guard.client()
    for generation in range(1, 6):
        await tripped(guard, device)
        methane(device, 0.4, 0.4, 0.4)
        await guard.until_interlock(InterlockState.READY_TO_RESET)
        assert client.command(MessageType.RESET, reset(generation)).code == ResultCode.DONE
        await guard.until_output(OutputState.RELEASED)
    await scans(guard, 100)
    assert major() == before


# ---- bypass, process and operator ----------------------------------------------------------------


async def test_a_bypass_outlives_a_kill_and_an_operator_ends_it_without_a_gateway(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port, bypass_max_ns=3600 * SECOND))
    start = messages.command(7, who="uid:test", kind=1, duration_ns=600 * SECOND, ledger_seq=1)
    result = guard.client().command(MessageType.BYPASS_START, start)
    assert result.code == ResultCode.DONE
    assert guard.view is not None
    until_ns = guard.view.interlock(0).bypass_until_ns
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_interlock(InterlockState.TRIPPED)
    await guard.stop(signal.SIGKILL)
    await guard.start()
    view = guard.view
    assert view.interlock(0).bypass_until_ns == until_ns, "not a nanosecond longer"
    await guard.until(lambda: view.slot(1).quality == Quality.GOOD)
    await scans(guard, 5)
    assert device.coils[BREAKER_COIL] == 1
    assert 0 not in device.writes(BREAKER_COIL)
    operator = guard.client(hello=False)
    end = messages.command(7, who="uid:other", kind=1)
    assert operator.command(MessageType.BYPASS_END, end).code == ResultCode.DONE
    await guard.until_output(OutputState.TRIPPED)
    ended = guard.events(EventType.BYPASS_END)[-1]
    trip = guard.events(EventType.TRIP)[-1]
    assert trip.scan == ended.scan
    assert payload_of(trip)["reason"] == TripReason.BYPASS_END


# ---- stopped -------------------------------------------------------------------------------------


async def test_a_guard_that_stands_still_beats_no_more(guard: GuardProcess, device: Device) -> None:
    """No timer beats for it: every heartbeat has the number of another scan."""
    await protecting(guard, mine(device.port))
    assert guard.process is not None

    def beats() -> list[tuple[int, ...]]:
        return [a.written for a in device.asked if a.function == 16]

    await guard.until(lambda: len(beats()) >= 5)
    assert len({beat[0] for beat in beats()}) == len(beats())
    guard.process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{guard.process.pid}/stat")
    await guard.until(lambda: ") T " in stat.read_text())
    await asyncio.sleep(0.05)  # what it sent before has arrived
    before = len(beats())
    await asyncio.sleep(0.5)  # five heartbeats' time: only time can show that none comes
    assert len(beats()) == before
    guard.process.send_signal(signal.SIGCONT)
    await guard.until(lambda: len(beats()) > before)
