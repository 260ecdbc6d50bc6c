"""Faults that must not lose a trip over a restart, nor release one."""

import shutil
import signal
import struct
import subprocess
from dataclasses import replace

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockState,
    MessageType,
    OutputState,
    Quality,
    ResultCode,
    TripReason,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guard_file import forge_event
from tests.helpers.guarding import methane, protecting, release, scans, tripped

# ---- no release without a known cause --------------------------------------------------------


async def test_a_restored_trip_is_not_reset_before_its_inputs_are_read(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.start_within_ns = 30 * SECOND
    await protecting(guard, program)
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    await guard.stop(signal.SIGKILL)
    methane(device, 2.0, 2.0, 2.0)
    device.twist = lambda asked: b"" if asked.function == 4 else None  # methane is not heard
    await guard.start()
    result = guard.client().command(MessageType.RESET, reset(1))
    assert result.code == ResultCode.CAUSE_UNKNOWN
    assert guard.output().state != OutputState.RELEASED
    assert 1 not in device.writes(BREAKER_COIL)


async def test_a_held_output_is_not_released_before_its_causes_are_known(
    guard: GuardProcess, device: Device
) -> None:
    device.inputs[1] = 0
    device.coils[BREAKER_COIL] = 0
    device.twist = lambda asked: b"" if asked.function == 4 else None
    program = mine(device.port, delay_ns=30 * SECOND)
    program.start_within_ns = 30 * SECOND
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    client = guard.client()
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.CAUSE_UNKNOWN
    device.twist = None
    methane(device, 2.0, 2.0, 0.4)
    await guard.until_interlock(InterlockState.PENDING)
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.CAUSE_PRESENT
    assert device.writes(BREAKER_COIL) == []
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.NORMAL)
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)


@pytest.mark.parametrize("how", ["power loss", "clean stop"])
async def test_lost_memory_of_a_hysteresis_is_no_reason_to_reset(
    guard: GuardProcess, device: Device, how: str
) -> None:
    await protecting(guard, mine(device.port, permissive=NONE_U32))
    await tripped(guard, device)
    await guard.stop(signal.SIGKILL if how == "power loss" else signal.SIGTERM)
    guard.boot(2)
    (guard.runtime / "guard.shm").unlink()
    methane(device, 1.2, 1.2, 1.2)  # inside the band: gas that has not gone
    await guard.start()
    await guard.until(lambda: guard.view is not None and guard.view.slot(2).quality == Quality.GOOD)
    await scans(guard, 5)
    assert guard.view is not None
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    methane(device, 0.9, 0.9, 0.9)
    await guard.until_interlock(InterlockState.READY_TO_RESET)


# ---- no trip lost over a restart ----------------------------------------------------------------


def _other_uptime(seconds: int) -> tuple[str, ...]:
    """A command that starts another with so much more boot time."""
    prefix = ("unshare", "--time", "--boottime", str(seconds))
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs time namespaces and the right to make one")
    return prefix


async def test_a_trip_and_its_times_survive_a_boot_with_a_younger_clock(
    guard: GuardProcess, device: Device
) -> None:
    guard.prefix = _other_uptime(1_000_000)
    await protecting(guard, mine(device.port))
    await tripped(guard, device)
    await guard.stop(signal.SIGTERM)
    guard.boot(2)
    (guard.runtime / "guard.shm").unlink()
    guard.prefix = ()
    await guard.start()
    await guard.until(lambda: guard.output().demand == 1)
    await guard.until_output(OutputState.TRIPPED)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)


async def test_a_delay_goes_on_over_a_boot_with_a_younger_clock(
    guard: GuardProcess, device: Device
) -> None:
    guard.prefix = _other_uptime(1_000_000)
    await protecting(guard, mine(device.port, delay_ns=600 * MS))
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_interlock(InterlockState.PENDING)
    await guard.stop(signal.SIGTERM)
    guard.boot(2)
    (guard.runtime / "guard.shm").unlink()
    guard.prefix = ()
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)


async def test_a_trip_in_a_new_journal_is_not_hidden_by_an_old_ones_numbers(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    client = guard.client()
    for generation in range(1, 5):
        client.command(MessageType.TRIP, messages.command(7, who="uid:test"))
        await guard.until_interlock(InterlockState.READY_TO_RESET)
        assert client.command(MessageType.RESET, reset(generation)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    await guard.stop(signal.SIGTERM)
    guard.boot(2)
    await guard.start()
    await guard.until(lambda: guard.view is not None and guard.view.slot(0).quality == Quality.GOOD)
    await guard.stop(signal.SIGKILL)
    # Killed between the record and the latch.
    payload = struct.pack("<IHHQqIII", 5, TripReason.CAUSE, 1, 0, 1, 0, 1, NONE_U32)
    forge_event(guard.runtime / "guard.shm", EventType.TRIP, 7, payload)
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)
    generations = [payload_of(e)["generation"] for e in guard.events(EventType.TRIP)]
    assert generations == [5, 6]  # each trip has its own


async def test_latches_outlive_a_damaged_last_good_program(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    await protecting(guard, program)
    await tripped(guard, device)
    await guard.stop(signal.SIGKILL)
    (guard.state / "guard" / "last-good").write_bytes(b"damaged")
    methane(device, 0.4, 0.4, 0.4)
    await guard.start()
    await guard.stop(signal.SIGKILL)
    await guard.start()  # also with a restart before the program comes
    assert guard.load(program).code == ResultCode.DONE
    await guard.until_output(OutputState.TRIPPED)
    assert payload_of(guard.events(EventType.TRIP)[-1])["reason"] == TripReason.RESTORED
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.view is not None
    again = reset(guard.view.interlock(0).generation)
    assert guard.client().command(MessageType.RESET, again).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    await guard.stop(signal.SIGKILL)
    await guard.start()
    await scans(guard, 5)
    assert guard.output().state == OutputState.RELEASED


async def test_first_out_is_kept_over_a_restart_and_a_second_trip_of_its_own(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    for number, key in enumerate((8, 9), start=1):
        program.interlocks.append(
            replace(
                program.interlocks[0], key=key, order=number, legs_first=3, legs_count=0,
                effects_first=number,
            )
        )  # fmt: skip
        program.effects.append(blobs.Effect(number, 0))
    await protecting(guard, program)
    client = guard.client()
    for key in (7, 8):
        client.command(MessageType.TRIP, messages.command(key, who="uid:test"))
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert client.command(MessageType.RESET, reset(1, 7)).code == ResultCode.DONE
    client.command(MessageType.TRIP, messages.command(7, who="uid:test"))  # first, still
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert client.command(MessageType.RESET, reset(2, 7)).code == ResultCode.DONE
    await guard.stop(signal.SIGKILL)
    await guard.start()
    client = guard.client()
    client.command(MessageType.TRIP, messages.command(9, who="uid:test"))
    told = [(e.key, payload_of(e)["first_out"]) for e in guard.events(EventType.TRIP)]
    assert told == [(7, 1), (8, 0), (7, 1), (9, 0)]
