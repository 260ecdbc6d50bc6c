"""The state table of outputs, row by row, with the records that each row leaves."""

import signal
from dataclasses import replace

import pytest

from fastpath.codes import (
    NONE_U32,
    EventFlag,
    EventType,
    InterlockState,
    MessageType,
    OutputCode,
    OutputState,
    ResultCode,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Asked, Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guard_file import flip
from tests.helpers.guarding import (
    OUTPUT_EVENTS,
    methane,
    output_path,
    protecting,
    release,
    scans,
    tripped,
)


async def test_a_coil_that_somebody_overwrote_is_a_mismatch_and_written_again(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], reassert_ns=30 * SECOND, confirm_ns=200 * MS)
    await protecting(guard, program)
    await tripped(guard, device)
    device.coils[BREAKER_COIL] = device.inputs[1] = 1
    await guard.until(lambda: len(guard.events(EventType.OUT_MISMATCH)) == 1)
    await guard.until_output(OutputState.TRIPPED)
    assert device.coils[BREAKER_COIL] == 0
    told = payload_of(guard.events(EventType.OUT_MISMATCH)[0])
    assert (told["wanted"], told["seen"]) == (0, 1)
    assert guard.events(EventType.OUT_CONFIRMED)[-1].flags & EventFlag.LATE


async def test_a_tripped_output_is_asserted_again_and_again(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], reassert_ns=20 * MS, readback=NONE_U32)
    await guard.start()
    guard.load(program)
    await tripped(guard, device)
    written = len(device.writes(BREAKER_COIL))
    await guard.until(lambda: len(device.writes(BREAKER_COIL)) > written + 5)
    assert set(device.writes(BREAKER_COIL)) == {0}
    assert len(guard.events(EventType.OUT_TRIP, EventType.OUT_CONFIRMED)) == 2


async def test_a_lost_link_makes_it_unverified_until_the_first_write_confirms(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await tripped(guard, device)
    before, connections = len(device.asked), device.connections
    device.cut()
    await guard.until(lambda: len(guard.events(EventType.OUT_CONFIRMED)) == 2)
    assert output_path(guard) == [
        EventType.OUT_TRIP, EventType.OUT_CONFIRMED,
        EventType.OUT_UNVERIFIED, EventType.OUT_CONFIRMED,
    ]  # fmt: skip
    assert guard.output().state == OutputState.TRIPPED
    for number in range(connections, device.connections):
        first = next((a for a in device.asked[before:] if a.connection == number), None)
        assert first is None or first.function in {2, 4} or first.address == BREAKER_COIL


async def test_a_release_that_is_refused_three_times_is_held(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)

    def no_normal(asked: Asked) -> bytes | None:
        return asked.refusal(4) if asked.function == 5 and asked.written == (1,) else None

    device.twist = no_normal
    client = guard.client()
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.HELD)
    assert device.writes(BREAKER_COIL).count(1) == 3
    device.twist = None
    await scans(guard, 20)
    assert device.writes(BREAKER_COIL).count(1) == 3
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.ALREADY


async def test_without_a_normal_value_a_reset_ends_in_held(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], flags=0)
    await guard.start()
    guard.load(program)
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    client = guard.client()
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.HELD)
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.NOT_ALLOWED
    assert 1 not in device.writes(BREAKER_COIL)


@pytest.mark.parametrize("number", [1, 4, 6, 99])
async def test_a_refused_trip_has_failed_at_once(
    guard: GuardProcess, device: Device, number: int
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], confirm_ns=30 * SECOND)
    await protecting(guard, program)
    device.twist = lambda asked: asked.refusal(number) if asked.function == 5 else None
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIP_FAILED)
    await guard.until(lambda: len(device.writes(BREAKER_COIL)) >= 3)  # for ever
    device.twist = None
    await guard.until_output(OutputState.TRIPPED)
    assert guard.events(EventType.OUT_CONFIRMED)[0].flags & EventFlag.LATE
    assert len(guard.events(EventType.OUT_FAILED)) == 1


async def test_damaged_copies_of_an_output_are_written_tripped(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await guard.stop(signal.SIGKILL)
    outputs_at = 4096 + 1024 * 256 + 256 * 128
    flip(guard.runtime / "guard.shm", outputs_at + 128 + 8)  # the state in copy B
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)
    assert device.coils[BREAKER_COIL] == 0
    assert [EventType(e.type) for e in guard.events(*OUTPUT_EVENTS)][1:] == [
        EventType.OUT_TRIP, EventType.OUT_CONFIRMED,
    ]  # fmt: skip


# ---- on although nobody commanded it ------------------------------------------------------------


async def test_a_released_output_that_reads_tripped_is_told_once_and_its_end(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], confirm_ns=100 * MS)
    await protecting(guard, program)
    device.contact_follows = False
    for _ in range(2):
        device.inputs[1] = 0
        await guard.until(lambda: len(mismatches(guard)) % 2 == 1)
        await scans(guard, 30)
        device.inputs[1] = 1
        await guard.until(lambda: len(mismatches(guard)) % 2 == 0)
    assert mismatches(guard) == [
        (OutputCode.UNCOMMANDED, 1, 0), (OutputCode.NOTHING, 1, 1),
        (OutputCode.UNCOMMANDED, 1, 0), (OutputCode.NOTHING, 1, 1),
    ]  # fmt: skip
    assert guard.output().state == OutputState.RELEASED
    assert device.writes(BREAKER_COIL) == []


async def test_a_held_output_that_reads_normal_is_told_once_and_its_end(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], flags=0, confirm_ns=100 * MS)
    await guard.start()
    guard.load(program)
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.client().command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.HELD)
    written = len(device.writes(BREAKER_COIL))
    device.contact_follows = False
    device.inputs[1] = 1  # somebody closed it
    await guard.until(lambda: len(mismatches(guard)) == 1)
    await scans(guard, 30)
    device.inputs[1] = 0
    await guard.until(lambda: len(mismatches(guard)) == 2)
    assert mismatches(guard) == [(OutputCode.UNCOMMANDED, 0, 1), (OutputCode.NOTHING, 0, 0)]
    assert guard.output().state == OutputState.HELD
    assert len(device.writes(BREAKER_COIL)) == written


async def test_what_was_never_commanded_is_no_mismatch(guard: GuardProcess, device: Device) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], flags=0, confirm_ns=10 * MS)
    await guard.start()
    guard.load(program)
    await guard.until(lambda: guard.view is not None and guard.view.slot(3).value == 1)
    await scans(guard, 30)
    assert guard.output().state == OutputState.HELD
    assert mismatches(guard) == []


def mismatches(guard: GuardProcess) -> list[tuple[int, int, int]]:
    """(code, wanted, seen) of every one."""
    told = [payload_of(e) for e in guard.events(EventType.OUT_MISMATCH)]
    return [(one["code"], one["wanted"], one["seen"]) for one in told]
