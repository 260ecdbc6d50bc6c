"""In which order things are stored and sent: a guard that dies at one certain store or send.

A guard dies at a store where that part of its file cannot be written, in a child of this process
that shares the file with it; what the file says then is all that the next life knows.
"""

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import journal
from fastpath.codes import (
    EventType,
    InterlockState,
    MessageType,
    OutputState,
    ResultCode,
    TripReason,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.build import build
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guarding import methane, protecting, tripped

MINE = blobs.build(mine(502))
HEARTBEAT_AT = 90
PAIR_BYTES = 256  # both copies of an interlock
INTERLOCKS, OUTPUTS, EVENTS = (vars(journal)["_OFFSETS"][i] for i in (0, 2, 8))


@pytest.fixture
def guard_in_steps(stepping: Any) -> Iterator[Any]:
    """A guard that protects."""
    stepper = stepping.Stepper(MINE)
    for _ in range(2):
        gas(stepper, 0.4)
        stepper.step(10 * MS)
    assert stepper.view.interlock(0).state == InterlockState.NORMAL
    yield stepper
    stepper.close()


def gas(guard: Any, value: float, breaker: float = 1.0) -> None:
    """What was polled."""
    for slot in range(3):
        guard.poll(slot, value)
    guard.poll(3, breaker)


def trip(guard: Any) -> None:
    gas(guard, 1.6)
    guard.step(10 * MS)


def ready(guard: Any) -> None:
    """Tripped, and its cause gone."""
    trip(guard)
    gas(guard, 0.4, 0.0)
    guard.step(10 * MS)
    assert guard.view.interlock(0).state == InterlockState.READY_TO_RESET


def perish(guard: Any, offset: int, act: Callable[[Any], None]) -> None:
    """``act`` in a child that dies at its first store into the page at ``offset`` of the file."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        first = offset // mmap.PAGESIZE * mmap.PAGESIZE
        page = ctypes.addressof(ctypes.c_char.from_buffer(guard.memory_at(first, 1)))
        libc = ctypes.CDLL(None)
        libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), mmap.PROT_READ)
        act(guard)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "nothing was stored there"
    assert os.WTERMSIG(status) == signal.SIGSEGV


def stored(guard: Any, offset: int) -> bytes:
    return bytes(guard.memory_at(offset, PAIR_BYTES))


def last_event(guard: Any) -> EventType:
    return EventType(guard.events()[-1].type)


# ---- record, latch, wire -------------------------------------------------------------------------


def test_no_latch_without_its_record(guard_in_steps: Any) -> None:
    guard = guard_in_steps
    before = stored(guard, INTERLOCKS), stored(guard, OUTPUTS), guard.view.header().event_head
    perish(guard, EVENTS, trip)
    after = stored(guard, INTERLOCKS), stored(guard, OUTPUTS), guard.view.header().event_head
    assert after == before


def test_no_release_without_its_record(guard_in_steps: Any) -> None:
    guard = guard_in_steps
    ready(guard)
    guard.send(MessageType.RESET, reset(1), b"r" * 16)
    before = stored(guard, INTERLOCKS), stored(guard, OUTPUTS), guard.view.header().event_head
    perish(guard, EVENTS, lambda dying: dying.step(10 * MS))
    after = stored(guard, INTERLOCKS), stored(guard, OUTPUTS), guard.view.header().event_head
    assert after == before
    guard.restart(MINE)
    assert guard.view.interlock(0).state == InterlockState.READY_TO_RESET


def test_no_trip_is_lost_between_its_record_and_its_latch(guard_in_steps: Any) -> None:
    guard = guard_in_steps
    perish(guard, INTERLOCKS, trip)
    assert last_event(guard) == EventType.TRIP
    assert guard.view.interlock(0).state == InterlockState.NORMAL
    guard.restart(MINE)
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    assert payload_of(guard.events()[-1])["reason"] == TripReason.RESTORED


def test_no_output_moves_before_its_interlock_is_latched(guard_in_steps: Any) -> None:
    guard = guard_in_steps
    perish(guard, OUTPUTS, trip)
    assert last_event(guard) == EventType.OUT_TRIP
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    assert guard.view.output(0).state == OutputState.RELEASED
    guard.restart(MINE)
    guard.step(10 * MS)
    assert guard.view.interlock(0).reason == TripReason.CAUSE
    assert guard.view.output(0).state == OutputState.TRIPPING


@pytest.mark.parametrize("older", [0, 1])
def test_copies_that_differ_mean_tripped(guard_in_steps: Any, older: int) -> None:
    guard = guard_in_steps
    ready(guard)
    half = PAIR_BYTES // 2
    was = stored(guard, INTERLOCKS)[:half]
    guard.send(MessageType.RESET, reset(1), b"r" * 16)
    guard.step(10 * MS)
    assert guard.results()[b"r" * 16].code == ResultCode.DONE
    guard.memory_at(INTERLOCKS + older * half, half)[:] = was
    guard.restart(MINE)
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    assert guard.view.interlock(0).reason == TripReason.RESTORED


async def test_a_trip_on_the_wire_is_recorded_and_latched(
    guard: GuardProcess, device: Device
) -> None:
    guard.prefix = ("env", f"LD_PRELOAD={build('libcut.so')}")
    await protecting(guard, mine(device.port))
    assert guard.process is not None
    methane(device, 1.6, 1.7, 0.4)
    assert await guard.process.wait() == -signal.SIGKILL
    assert device.writes(BREAKER_COIL) in ([], [0])  # sent, and perhaps already read
    assert guard.view is not None
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    assert guard.output().state == OutputState.TRIPPING
    assert len(guard.events(EventType.TRIP)) == len(guard.events(EventType.OUT_TRIP)) == 1
    guard.prefix = ()
    await guard.start()
    await tripped(guard, device)
    assert len(guard.events(EventType.TRIP)) == 1


# ---- the heartbeat -------------------------------------------------------------------------------


async def test_no_heartbeat_without_a_scan(guard: GuardProcess, device: Device) -> None:
    program = mine(device.port)
    program.tick_ns = SECOND
    program.requests = [replace(request, period_ns=10 * SECOND) for request in program.requests]
    program.devices[0] = replace(program.devices[0], every_ns=5 * MS)
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: len(device.writes(HEARTBEAT_AT)) >= 1)
    beats, scans = len(device.writes(HEARTBEAT_AT)), view.header().scan
    await guard.until(lambda: view.header().scan >= scans + 3)
    assert len(device.writes(HEARTBEAT_AT)) - beats <= view.header().scan - scans
