"""What tests of a guard with a device in their own loop begin with."""

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import EventType, OutputState, ResultCode
from tests.helpers.device import Device
from tests.helpers.guard import METHANE_AT, GuardProcess

OUTPUT_EVENTS = (
    EventType.OUT_TRIP, EventType.OUT_CONFIRMED, EventType.OUT_FAILED, EventType.OUT_MISMATCH,
    EventType.OUT_UNVERIFIED, EventType.OUT_RELEASE, EventType.OUT_RELEASED, EventType.OUT_HELD,
)  # fmt: skip


def methane(device: Device, *values: float) -> None:
    """What the three transmitters measure."""
    for address, value in zip(METHANE_AT, values, strict=True):
        device.set_float(address, value)


async def protecting(guard: GuardProcess, program: blobs.Program) -> None:
    """The guard runs this program, and its first output is released by its read-back."""
    if guard.process is None:
        await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)


async def tripped(guard: GuardProcess, device: Device) -> None:
    """Gas, and the breaker is open."""
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)


async def scans(guard: GuardProcess, count: int) -> None:
    """So many scans from now."""
    view = guard.view
    assert view is not None
    last = view.header().scan + count
    await guard.until(lambda: view.header().scan >= last)


def release(key: int = 3) -> bytes:
    """Body of a RELEASE."""
    return messages.command(key, who="uid:test", ledger_seq=1)


def output_path(guard: GuardProcess) -> list[EventType]:
    """What happened to the output since it was released at first."""
    return [EventType(e.type) for e in guard.events(*OUTPUT_EVENTS)][1:]
