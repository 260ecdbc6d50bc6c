"""The guard on a serial line: one exchange at a time, nothing taken for another's, trips first."""

from fastpath.codes import (
    MessageType,
    OutputState,
    ResultCode,
)
from tests.helpers.device import Device
from tests.helpers.guard import GuardProcess, mine, reset
from tests.helpers.guarding import methane, protecting, tripped
from tests.helpers.serial_device import bus_of, on_line

BEAT = b"\x10\x00\x5a"  # FC16 to the heartbeat's address


async def test_it_polls_trips_confirms_and_releases_over_a_serial_line(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path))
        await tripped(guard, device)
        assert device.coils[16] == 0
        methane(device, 0.4, 0.4, 0.4)
        view = guard.view
        assert view is not None
        await guard.until(lambda: view.slot(0).value < 1.0)
        await guard.until_interlock(4)
        client = guard.client()
        assert (
            client.command(MessageType.RESET, reset(view.interlock(0).generation)).code
            == ResultCode.DONE
        )
        await guard.until_output(OutputState.RELEASED)
        assert device.coils[16] == 1
        await guard.until(lambda: sum(frame[1:4] == BEAT for frame in bus.sent) > 2)
        assert view.device(0).timeouts == 0
        assert sum(view.device(0).refused) == 0
