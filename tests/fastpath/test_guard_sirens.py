"""Sirens: silenced for a time, never for good, and never for what trips anew."""

import signal
from dataclasses import replace

from fastpath import blob as blobs
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockState,
    MessageType,
    OutputCode,
    OutputDemand,
    OutputState,
    ResultCode,
    ResultDetail,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guarding import methane, release, scans, tripped
from tests.helpers.outputs import add_interlock, add_output, code_of, told, trip

OUT_TRIP, OUT_RELEASE = EventType.OUT_TRIP, EventType.OUT_RELEASE


def siren(device: Device, silence_ns: int = 30 * SECOND) -> blobs.Program:
    """The breaker's place taken by a siren: 1 sounds, 0 is silent."""
    program = mine(device.port)
    program.outputs[0] = replace(
        program.outputs[0], trip=1, normal=0, readback=NONE_U32, silence_ns=silence_ns
    )
    return program


async def sounding(guard: GuardProcess, device: Device, program: blobs.Program) -> None:
    """It sounds, by gas."""
    device.coils[BREAKER_COIL] = 0
    if guard.process is None:
        await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    await tripped(guard, device)
    assert device.coils[BREAKER_COIL] == 1


async def test_a_silenced_siren_is_silent_while_it_is_demanded(
    guard: GuardProcess, device: Device
) -> None:
    await sounding(guard, device, siren(device))
    client = guard.client()
    result = client.command(MessageType.RELEASE, release())
    assert (result.code, result.detail) == (ResultCode.DONE, ResultDetail.SILENCED)
    await guard.until_output(OutputState.RELEASED)
    assert device.coils[BREAKER_COIL] == 0
    assert [code_of(e) for e in told(guard, 3, OUT_RELEASE)] == [OutputCode.SILENCED]
    latch = guard.output()
    assert latch.demands == OutputDemand.CAUSE | OutputDemand.SILENCED
    assert latch.silence_until_ns - latch.since_ns > 29 * SECOND
    again = client.command(MessageType.RELEASE, release())
    assert again.code == ResultCode.ALREADY
    await scans(guard, 5)
    assert guard.output().silence_until_ns == latch.silence_until_ns
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until(lambda: guard.output().demands == 0)
    assert guard.output().silence_until_ns == 0
    assert len(told(guard, 3, OUT_TRIP)) == 1
    trip(client)  # the next one sounds
    await guard.until_output(OutputState.TRIPPED)
    assert code_of(told(guard, 3, OUT_TRIP)[-1]) == OutputCode.NOTHING


async def test_a_siren_sounds_again_when_its_silence_is_over(
    guard: GuardProcess, device: Device
) -> None:
    await sounding(guard, device, siren(device, 300 * MS))
    assert guard.client().command(MessageType.RELEASE, release()).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    await guard.until_output(OutputState.TRIPPED)
    assert device.coils[BREAKER_COIL] == 1
    silenced, (_, again) = told(guard, 3, OUT_RELEASE)[0], told(guard, 3, OUT_TRIP)
    assert code_of(again) == OutputCode.SOUNDS_AGAIN
    assert payload_of(again)["cause_key"] == 7
    assert 300 * MS <= again.mono_ns - silenced.mono_ns < SECOND


async def test_a_new_trip_of_what_names_it_sounds_it_again(
    guard: GuardProcess, device: Device
) -> None:
    """Of another interlock, and of its own once more; a reset of one of two does not."""
    program = siren(device)
    add_interlock(program, 8, 0)
    await sounding(guard, device, program)
    client = guard.client()
    trip(client, 8)
    for generation in (1, 2):
        assert client.command(MessageType.RELEASE, release()).code == ResultCode.DONE
        await guard.until_output(OutputState.RELEASED)
        methane(device, 0.4, 0.4, 0.4)
        await guard.until_interlock(InterlockState.READY_TO_RESET, 0)
        assert client.command(MessageType.RESET, reset(generation, 7)).code == ResultCode.DONE
        await scans(guard, 5)
        assert guard.output().state == OutputState.RELEASED
        trip(client, 7)
        await guard.until_output(OutputState.TRIPPED)
        assert code_of(told(guard, 3, OUT_TRIP)[-1]) == OutputCode.SOUNDS_AGAIN


async def test_a_silence_outlives_a_kill_and_not_a_reboot(
    guard: GuardProcess, device: Device
) -> None:
    await sounding(guard, device, siren(device))
    assert guard.client().command(MessageType.RELEASE, release()).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    until_ns = guard.output().silence_until_ns
    await guard.stop(signal.SIGKILL)
    await guard.start()
    await guard.until(lambda: guard.output().demands == OutputDemand.CAUSE | OutputDemand.SILENCED)
    await scans(guard, 5)
    assert guard.output().silence_until_ns == until_ns
    assert guard.output().state == OutputState.RELEASED
    await guard.stop(signal.SIGTERM)
    guard.boot(2)
    (guard.runtime / "guard.shm").unlink()
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)
    assert device.coils[BREAKER_COIL] == 1


async def test_what_cannot_be_silenced_is_not(guard: GuardProcess, device: Device) -> None:
    await sounding(guard, device, siren(device, 0))
    result = guard.client().command(MessageType.RELEASE, release())
    assert (result.code, result.detail) == (ResultCode.CAUSE_PRESENT, 0)
    assert 0 not in device.writes(BREAKER_COIL)


async def test_silence_ends_nothing_but_the_sound(guard: GuardProcess, device: Device) -> None:
    """The siren failed, and a second one stands in for it: that one goes on."""
    program = siren(device)
    add_output(program, 4, address=18, trip=1, normal=0, silence_ns=0)
    program.fallbacks = [blobs.Fallback(0, 1)]
    device.twist = lambda asked: (
        asked.refusal(4) if asked.function == 5 and asked.address == BREAKER_COIL else None
    )
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED, 1)
    device.twist = None
    assert guard.client().command(MessageType.RELEASE, release()).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 0)
    await scans(guard, 5)
    assert guard.output(1).state == OutputState.TRIPPED
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.client().command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 1)
