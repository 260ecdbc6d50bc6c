"""A site file that watches for values that stand still, from its text to the coil."""

from pathlib import Path

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    EventType,
    InterlockState,
    LoadStep,
    MessageType,
    OutputState,
    Quality,
    Reason,
    ResultCode,
)
from gateway.guard.weakening import weakenings
from gateway.logic.compile import compile_site
from tests.helpers.device import Asked, Device, serving
from tests.helpers.guard import GuardProcess, directories
from tests.helpers.sites import config_of

SITE = """
[site]
id = "face"

[[device]]
id = "plc"
driver = "modbus-tcp"
address = "127.0.0.1:PORT"
fast = true
poll = "20ms"
timeout = "200ms"
settle = "50ms"

[[tag]]
id = "methane"
device = "plc"
point = { address = "ir:100", type = "float32" }
range = [0, 4]
stuck_after = "600ms"

[[tag]]
id = "closed"
device = "plc"
point = { address = "di:1" }

[[output]]
id = "power"
device = "plc"
address = "c:16"
trip = false
normal = true
readback = "closed"

[[interlock]]
id = "cut"
cause = "methane >= 1.5"
effects = ["power"]
response = "3s"
armed = true
"""


def moving(device: Device, asked: Asked) -> None:
    """A live transmitter's last digits are never the same twice."""
    if asked.function == 4:
        device.set_float(100, 0.25 + len(device.asked) % 100 / 1000)


async def test_a_plc_that_stands_still_while_its_comms_answer_trips(tmp_path: Path) -> None:
    with directories() as (runtime, state):
        async with serving() as device:
            device.twist = lambda asked: moving(device, asked)
            guard = GuardProcess(runtime, state)
            try:
                await _stands_still(guard, device, tmp_path)
            finally:
                await guard.close()


async def _stands_still(guard: GuardProcess, device: Device, folder: Path) -> None:
    program = compile_site(config_of(folder, SITE.replace("PORT", str(device.port))))
    slot = blobs.names(program)["tags"].index("methane")
    await guard.start()
    digest = blobs.blob_hash(program)
    (guard.state / "programs").mkdir(exist_ok=True)
    (guard.state / "programs" / digest.hex()).write_bytes(program)
    body = messages.LOAD.pack(digest, bytes(32), 1, LoadStep.SWAP, 0)
    assert guard.client().command(MessageType.LOAD, body).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    view = guard.view
    assert view is not None
    polled = len(device.asked) + 120
    await guard.until(lambda: len(device.asked) > polled)  # longer than stuck_after
    assert view.interlock(0).state == InterlockState.NORMAL
    device.twist = None
    await guard.until_interlock(InterlockState.TRIPPED)
    assert (view.slot(slot).quality, view.slot(slot).reason) == (Quality.BAD, Reason.STUCK)
    assert guard.events(EventType.DEVICE_DOWN) == []


def test_whether_it_is_watched_belongs_to_what_is_protected(tmp_path: Path) -> None:
    site = SITE.replace("PORT", "502")
    watched = compile_site(config_of(tmp_path, site))
    tags = dict(zip(blobs.names(watched)["tags"], blobs.section(watched, "tags"), strict=True))
    assert (tags["methane"].stuck_ns, tags["closed"].stuck_ns) == (600_000_000, 0)
    trusting = compile_site(config_of(tmp_path, site.replace('stuck_after = "600ms"\n', "")))
    [weaker] = weakenings(watched, trusting)
    assert weaker.changes == ("tag methane: stuck_after was 600ms, is nothing",)
    [other] = weakenings(trusting, watched)
    assert other.changes == ("tag methane: stuck_after was nothing, is 600ms",)
