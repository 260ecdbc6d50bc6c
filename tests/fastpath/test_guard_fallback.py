"""Outputs that fail: their fallbacks trip in the same scan, stay demanded, and end with them."""

import itertools
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from fastpath import blob as blobs
from fastpath.codes import (
    EventFlag,
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
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guarding import OUTPUT_EVENTS, methane, protecting, release, scans
from tests.helpers.outputs import (
    add_device,
    add_interlock,
    add_output,
    code_of,
    path_of,
    told,
    trip,
)


@pytest_asyncio.fixture
async def other() -> AsyncIterator[Device]:
    """A second device."""
    async with serving(Device(contact_follows=False)) as plant:
        yield plant


def refuse_coils(*coils: int) -> object:
    """A device that does not write these."""

    def twist(asked: Asked) -> bytes | None:
        return asked.refusal(4) if asked.function == 5 and asked.address in coils else None

    return twist


def with_fallback(device: Device, other: Device) -> blobs.Program:
    """The mine's breaker (key 3), and a main switch at another device (key 4) for when it fails."""
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], reassert_ns=30 * SECOND)
    add_device(program, other.port)
    add_output(program, 4, device=1, reassert_ns=30 * SECOND)
    program.fallbacks = [blobs.Fallback(0, 1)]
    return program


async def calm(guard: GuardProcess, device: Device) -> None:
    """No gas: the interlock may be reset."""
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)


async def test_a_fallback_trips_in_the_scan_of_the_failure_and_ends_with_the_reset(
    guard: GuardProcess, device: Device, other: Device
) -> None:
    await protecting(guard, with_fallback(device, other))
    device.twist = refuse_coils(BREAKER_COIL)  # type: ignore[assignment]
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED, 1)
    assert guard.output(0).state == OutputState.TRIP_FAILED
    (failed,) = told(guard, 3, EventType.OUT_FAILED)
    (follows,) = told(guard, 4, EventType.OUT_TRIP)
    assert follows.scan == failed.scan
    assert (code_of(failed), code_of(follows)) == (OutputCode.REFUSED, OutputCode.FALLBACK)
    assert payload_of(follows)["cause_key"] == 3
    assert other.coils[BREAKER_COIL] == 0
    assert guard.output(0).demands == OutputDemand.CAUSE | OutputDemand.FAILED
    # The siren itself may be late on a busy machine, and be FAILED besides for that.
    assert guard.output(1).demands & ~OutputDemand.FAILED == OutputDemand.FALLBACK
    client = guard.client()
    assert client.command(MessageType.RELEASE, release(4)).code == ResultCode.CAUSE_PRESENT
    device.twist = None
    await guard.until_output(OutputState.TRIPPED, 0)  # late, and the fallback stays
    assert told(guard, 3, EventType.OUT_CONFIRMED)[0].flags & EventFlag.LATE
    await scans(guard, 5)
    assert guard.output(1).state == OutputState.TRIPPED
    await calm(guard, device)
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 0)
    await guard.until_output(OutputState.RELEASED, 1)
    first, second = guard.events(EventType.OUT_RELEASE)
    assert first.scan == second.scan
    assert (guard.output(0).demands, guard.output(1).demands) == (0, 0)
    assert device.coils[BREAKER_COIL] == other.coils[BREAKER_COIL] == 1


async def test_a_mismatch_trips_the_fallback_too(
    guard: GuardProcess, device: Device, other: Device
) -> None:
    program = with_fallback(device, other)
    program.outputs[0] = replace(program.outputs[0], confirm_ns=100 * MS)
    await protecting(guard, program)
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)
    device.contact_follows = False
    device.inputs[1] = 1  # welded
    await guard.until_output(OutputState.TRIPPED, 1)
    (mismatch,) = told(guard, 3, EventType.OUT_MISMATCH)
    assert code_of(mismatch) == OutputCode.MISMATCH
    assert told(guard, 4, EventType.OUT_TRIP)[0].scan == mismatch.scan


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_a_chain_of_fallbacks_trips_link_by_link_and_ends_in_one_scan(
    guard: GuardProcess, device: Device, order: tuple[int, int, int]
) -> None:
    """Whatever the order of the outputs in the program is."""
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], readback=0xFFFFFFFF)
    add_output(program, 4, address=18)
    add_output(program, 5, address=20)
    keys = [3 + i for i in order]
    program.effects = [blobs.Effect(0, order[0])]
    program.fallbacks = [blobs.Fallback(order[0], order[1]), blobs.Fallback(order[1], order[2])]
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    await guard.until(lambda: guard.view is not None and guard.view.slot(2).value > 0)
    coils = [program.outputs[i].address for i in order]
    device.twist = refuse_coils(*coils[:2])  # type: ignore[assignment]
    client = guard.client()
    assert trip(client).code == ResultCode.DONE
    await guard.until_output(OutputState.TRIPPED, order[2])
    for failed, follows in itertools.pairwise(keys):
        (fail,) = told(guard, failed, EventType.OUT_FAILED)
        (begin,) = told(guard, follows, EventType.OUT_TRIP)
        assert fail.scan == begin.scan
        assert payload_of(begin)["cause_key"] == failed
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until(lambda: len(guard.events(EventType.OUT_RELEASE)) == 3)
    assert len({e.scan for e in guard.events(EventType.OUT_RELEASE)}) == 1
    assert [guard.output(i).demands for i in range(3)] == [0, 0, 0]


async def test_a_fallback_stays_demanded_over_a_kill_although_the_failed_output_is_well_again(
    guard: GuardProcess, device: Device, other: Device
) -> None:
    await protecting(guard, with_fallback(device, other))
    device.twist = refuse_coils(BREAKER_COIL)  # type: ignore[assignment]
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED, 1)
    await guard.stop(signal.SIGKILL)
    device.twist = None
    await guard.start()
    await guard.until_output(OutputState.TRIPPED, 0)
    await guard.until_output(OutputState.TRIPPED, 1)
    # The siren itself may be late on a busy machine, and be FAILED besides for that.
    assert guard.output(1).demands & ~OutputDemand.FAILED == OutputDemand.FALLBACK
    assert path_of(guard, 4, EventType.OUT_TRIP) == [EventType.OUT_TRIP]  # no second one
    await calm(guard, device)
    assert guard.client().command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 0)
    await guard.until_output(OutputState.RELEASED, 1)


async def test_a_fallback_that_an_interlock_holds_stays_when_the_failed_output_goes(
    guard: GuardProcess, device: Device, other: Device
) -> None:
    program = with_fallback(device, other)
    add_interlock(program, 8, 1)
    await protecting(guard, program)
    device.twist = refuse_coils(BREAKER_COIL)  # type: ignore[assignment]
    client = guard.client()
    trip(client, 7)
    await guard.until_output(OutputState.TRIPPED, 1)
    trip(client, 8)
    device.twist = None
    await guard.until_interlock(InterlockState.READY_TO_RESET, 1)
    assert client.command(MessageType.RESET, reset(1, 7)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 0)
    assert guard.output(1).state == OutputState.TRIPPED
    assert guard.output(1).demands == OutputDemand.CAUSE
    assert client.command(MessageType.RESET, reset(1, 8)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 1)
    assert path_of(guard, 4, *OUTPUT_EVENTS)[-4:] == [
        EventType.OUT_TRIP, EventType.OUT_CONFIRMED,
        EventType.OUT_RELEASE, EventType.OUT_RELEASED,
    ]  # fmt: skip
