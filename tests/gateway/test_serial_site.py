"""A site file with devices on a serial line, from its text to the coil."""

from pathlib import Path

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import LoadStep, MessageType, OutputState, Quality, ResultCode
from gateway.logic.compile import compile_site
from tests.helpers.device import Device
from tests.helpers.guard import GuardProcess, directories
from tests.helpers.serial_device import SerialBus, bus_of
from tests.helpers.sites import config_of

SITE = """
[site]
id = "pumps"
gateway = "gw-1"

[[device]]
id = "gas"
driver = "modbus-rtu"
address = "TTY"
line = { baud = 115200 }
unit = 2
fast = true
poll = "20ms"
timeout = "50ms"
settle = "50ms"

[[device]]
id = "switch"
driver = "modbus-rtu"
address = "TTY"
line = { baud = 115200 }
unit = 5
fast = true
poll = "20ms"
timeout = "50ms"
settle = "50ms"
heartbeat = { address = "hr:90", watchdog = "5s" }

[[tag]]
id = "methane"
device = "gas"
point = { address = "ir:100", type = "float32" }
unit = "%CH4"
range = [0, 4]
stale_after = "500ms"

[[tag]]
id = "closed"
device = "switch"
point = { address = "di:1" }

[[output]]
id = "power"
device = "switch"
address = "c:16"
trip = false
normal = true
readback = "closed"
confirm_within = "500ms"

[[interlock]]
id = "cut"
cause = "methane >= 1.5 until < 1.0"
effects = ["power"]
response = "3s"
armed = true
"""


def load(guard: GuardProcess, program: bytes) -> None:
    """As a gateway does it: by the program's hash from the programs directory."""
    digest = blobs.blob_hash(program)
    folder = guard.state / "programs"
    folder.mkdir(exist_ok=True)
    (folder / digest.hex()).write_bytes(program)
    body = messages.LOAD.pack(digest, bytes(32), 1, LoadStep.SWAP, 0)
    assert guard.client().command(MessageType.LOAD, body).code == ResultCode.DONE


async def runs(guard: GuardProcess, bus: SerialBus, gas: Device, folder: Path) -> None:
    program = compile_site(config_of(folder, SITE.replace("TTY", bus.path)))
    slot = blobs.names(program)["tags"].index("methane")
    await guard.start()
    load(guard, program)
    await guard.until_output(OutputState.RELEASED)
    view = guard.view
    assert view is not None
    await guard.until(lambda: view.slot(slot).quality == Quality.GOOD)
    gas.set_float(100, 1.75)
    await guard.until_output(OutputState.TRIPPED)
    assert bus.units[5].coils[16] == 0
    assert view.slot(slot).value == 1.75
    assert {frame[0] for frame in bus.sent} == {2, 5}


async def test_a_transmitter_and_a_switch_on_one_line(tmp_path: Path) -> None:
    gas = Device()
    gas.set_float(100, 0.25)
    with directories() as (runtime, state), bus_of(u2=gas, u5=Device()) as bus:
        guard = GuardProcess(runtime, state)
        try:
            await runs(guard, bus, gas, tmp_path)
        finally:
            await guard.close()
