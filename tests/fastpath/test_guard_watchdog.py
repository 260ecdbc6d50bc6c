"""The watchdog registers of a remote I/O: nothing is released while one is not as it must be."""

from dataclasses import replace

from fastpath import blob as blobs
from fastpath.codes import (
    ByteOrder,
    DeviceStatsFlag,
    DownReason,
    EventType,
    InterlockState,
    MessageType,
    OutputCode,
    OutputState,
    Owner,
    PointType,
    Quality,
    RecordMode,
    ResultCode,
    TagFlag,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, reset
from tests.helpers.guarding import methane, release, scans, tripped
from tests.helpers.outputs import code_of, told

REGISTER = 4098
SLOT = 6


def watched(device: Device) -> blobs.Program:
    """The mine, whose I/O must have 30 in its watchdog register."""
    program = mine(device.port)
    program.tags.append(
        blobs.Tag(
            50, 30.0, 30.0, 500 * MS, owner=Owner.GUARD, record=RecordMode.CHANGE,
            flags=TagFlag.HAS_RANGE | TagFlag.WATCHDOG, device=0,
        )
    )  # fmt: skip
    program.requests.append(blobs.Request(0, 4, 1, 20 * MS, REGISTER, 1, 3, 1))
    program.decode.append(blobs.Decode(SLOT, 2, 0, PointType.UINT16, ByteOrder.ABCD))
    program.names["tags"].append("sys.plc.watchdog.0")
    return program


def wrongs(guard: GuardProcess) -> list[EventType]:
    """What was told of the watchdog."""
    return [
        EventType(e.type)
        for e in guard.events(EventType.DEVICE_DOWN, EventType.DEVICE_UP)
        if payload_of(e)["reason"] == DownReason.WATCHDOG
    ]


async def test_nothing_is_released_while_the_register_is_wrong(
    guard: GuardProcess, device: Device
) -> None:
    device.registers[REGISTER] = 0
    await guard.start()
    assert guard.load(watched(device)).code == ResultCode.DONE
    await tripped(guard, device)
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: wrongs(guard) == [EventType.DEVICE_DOWN])
    assert view.device(0).flags == DeviceStatsFlag.WATCHDOG_WRONG
    quality = [payload_of(e) for e in guard.events(EventType.TAG_QUALITY)]
    assert any(one["slot"] == SLOT and one["quality"] == Quality.BAD for one in quality)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    client = guard.client()
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASING)
    await scans(guard, 30)
    assert 1 not in device.writes(BREAKER_COIL)
    device.registers[REGISTER] = 30  # while it waits
    await guard.until_output(OutputState.RELEASED)
    assert wrongs(guard) == [EventType.DEVICE_DOWN, EventType.DEVICE_UP]
    assert view.device(0).flags == 0


async def test_a_release_waits_ten_seconds_and_is_held(guard: GuardProcess, device: Device) -> None:
    program = watched(device)
    program.outputs[0] = replace(program.outputs[0], readback=0xFFFFFFFF)
    device.registers[REGISTER] = 31
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    client = guard.client()
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until(lambda: guard.output().state == OutputState.HELD, 15)
    (begun,), (held,) = (
        told(guard, 3, kind) for kind in (EventType.OUT_RELEASE, EventType.OUT_HELD)
    )
    assert code_of(held) == OutputCode.WATCHDOG
    assert 10 * SECOND <= held.mono_ns - begun.mono_ns < 11 * SECOND
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.NOT_ALLOWED
    device.registers[REGISTER] = 30
    await guard.until(lambda: guard.view is not None and guard.view.device(0).flags == 0)
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)


async def test_a_register_that_is_not_read_forbids_as_well_and_is_no_wrong_one(
    guard: GuardProcess, device: Device
) -> None:
    device.registers[REGISTER] = 30
    device.inputs[1] = 0
    device.coils[BREAKER_COIL] = 0
    device.twist = lambda asked: asked.refusal(2) if asked.address == REGISTER else None
    await guard.start()
    assert guard.load(watched(device)).code == ResultCode.DONE
    await guard.until(lambda: guard.view is not None and guard.view.slot(2).value > 0)
    client = guard.client()
    assert client.command(MessageType.RELEASE, release()).code == ResultCode.NOT_ALLOWED
    assert wrongs(guard) == []
    assert device.writes(BREAKER_COIL) == []
