"""Heartbeats that stop on purpose, so that the PLC acts where no output could be confirmed."""

import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio

from fastpath import blob as blobs
from fastpath.codes import (
    Counter,
    DeviceStatsFlag,
    EventType,
    InterlockState,
    MessageType,
    OutputCode,
    OutputDemand,
    OutputState,
    ResultCode,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Asked, Device, serving
from tests.helpers.guard import GuardProcess, mine, reset
from tests.helpers.guarding import methane, protecting, scans
from tests.helpers.outputs import add_device, add_output, told

STOP, START = EventType.HEARTBEAT_STOP, EventType.HEARTBEAT_START
WATCHDOG_NS = 600 * MS
BEAT_AT = 90


@pytest_asyncio.fixture
async def other() -> AsyncIterator[Device]:
    """A second device."""
    async with serving(Device(contact_follows=False)) as plant:
        yield plant


def beats(device: Device) -> int:
    """Heartbeats that came."""
    return len(device.writes(BEAT_AT))


def no_coil(asked: Asked) -> bytes | None:
    """A device that writes no coil."""
    return asked.refusal(4) if asked.function in {5, 15} else None


def site(device: Device, other: Device | None = None, **changes: int) -> blobs.Program:
    """A breaker, with a main switch at another device where there is one; fast heartbeats."""
    program = mine(device.port)
    for key, value in changes.items():
        setattr(program, key, value)
    program.outputs[0] = replace(program.outputs[0], confirm_ns=100 * MS)
    program.devices[0] = replace(program.devices[0], every_ns=20 * MS, watchdog_ns=WATCHDOG_NS)
    if other is not None:
        add_device(program, other.port)
        add_output(program, 4, device=1, confirm_ns=100 * MS)
        program.fallbacks = [blobs.Fallback(0, 1)]
    return program


async def failing(guard: GuardProcess, device: Device, program: blobs.Program) -> None:
    """The breaker cannot be tripped."""
    await protecting(guard, program)
    await guard.until(lambda: beats(device) > 3)
    device.twist = no_coil
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIP_FAILED)


async def test_without_a_fallback_it_stops_after_the_watchdogs_time_and_returns_when_confirmed(
    guard: GuardProcess, device: Device
) -> None:
    await failing(guard, device, site(device))
    await guard.until(lambda: len(guard.events(STOP)) == 1)
    (stop,), failed = guard.events(STOP), told(guard, 3, EventType.OUT_FAILED)[0]
    assert WATCHDOG_NS <= stop.mono_ns - failed.mono_ns < WATCHDOG_NS + SECOND
    assert stop.key == 1
    assert payload_of(stop) == {"device": 0, "reason": OutputCode.REFUSED, "output_key": 3}
    assert guard.view is not None
    view = guard.view
    assert view.device(0).flags == DeviceStatsFlag.HEARTBEAT_WITHHELD
    before = beats(device)
    withheld = view.header().counters[Counter.HEARTBEATS_WITHHELD]
    await guard.until(lambda: view.header().counters[Counter.HEARTBEATS_WITHHELD] > withheld + 3)
    assert beats(device) == before
    assert guard.output().demands & OutputDemand.BEAT_STOPPED
    device.twist = None
    await guard.until_output(OutputState.TRIPPED)
    await guard.until(lambda: len(guard.events(START)) == 1)
    await guard.until(lambda: beats(device) > before)
    assert view.device(0).flags == 0
    assert not guard.output().demands & OutputDemand.BEAT_STOPPED


async def test_a_confirmed_fallback_keeps_the_heartbeats(
    guard: GuardProcess, device: Device, other: Device
) -> None:
    await failing(guard, device, site(device, other))
    await guard.until_output(OutputState.TRIPPED, 1)
    since = beats(device)
    await guard.until(lambda: beats(device) > since + 2 * WATCHDOG_NS // (20 * MS))
    assert guard.events(STOP) == []


async def test_a_fallback_that_fails_too_stops_both_devices(
    guard: GuardProcess, device: Device, other: Device
) -> None:
    other.twist = no_coil
    await failing(guard, device, site(device, other))
    await guard.until(lambda: len(guard.events(STOP)) == 2)
    assert [payload_of(e)["device"] for e in guard.events(STOP)] == [0, 1]
    assert guard.output(1).state == OutputState.TRIP_FAILED
    before = beats(device), beats(other)
    await scans(guard, 30)
    assert (beats(device), beats(other)) == before
    other.twist = device.twist = None
    await guard.until(lambda: len(guard.events(START)) == 2)
    await guard.until(lambda: beats(device) > before[0] and beats(other) > before[1])


async def test_heartbeats_stay_withheld_over_a_kill(guard: GuardProcess, device: Device) -> None:
    await failing(guard, device, site(device))
    await guard.until(lambda: len(guard.events(STOP)) == 1)
    before = beats(device)
    await guard.stop(signal.SIGKILL)
    await guard.start()
    await guard.until_output(OutputState.TRIP_FAILED)
    await scans(guard, 30)
    assert beats(device) == before
    device.twist = None
    await guard.until(lambda: beats(device) > before)


async def test_a_release_lets_the_heartbeats_go_on(guard: GuardProcess, device: Device) -> None:
    await failing(guard, device, site(device))
    await guard.until(lambda: len(guard.events(STOP)) == 1)
    device.twist = lambda asked: no_coil(asked) if asked.written == (0,) else None
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.client().command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until(lambda: len(guard.events(START)) == 1)


async def test_a_site_may_choose_to_go_on_beating(guard: GuardProcess, device: Device) -> None:
    await failing(guard, device, site(device, on_output_failure=2))
    since = beats(device)
    await guard.until(lambda: beats(device) > since + 2 * WATCHDOG_NS // (20 * MS))
    assert guard.events(STOP) == []
