"""Node-RED with its Modbus nodes as a peer: read a block every period, a function, write the coil.

Installed once with npm into ``tests/helpers/bin``, at the versions below; without npm it is left
out, and the report says so.
"""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.loads import IDLE, START_S
from tests.benchmarks.reaction import (
    COIL,
    DEVICE_PRIORITY,
    GAS,
    LIMIT,
    LOW,
    PERIODS_US,
    REGISTERS,
    Cell,
    Measurement,
    realtime_allowed,
)
from tests.helpers.build import BIN
from tests.helpers.modbus_server import ModbusServer

NAME: Final = "Node-RED"
PACKAGES: Final = ("node-red@4.1.15", "node-red-contrib-modbus@5.23.3")
INSTALL_S: Final = 600.0
FUNCTION: Final = """
const bytes = Buffer.alloc(4);
bytes.writeUInt16BE(msg.payload[0], 0);
bytes.writeUInt16BE(msg.payload[1], 2);
const trip = bytes.readFloatBE(0) >= %s;
if (trip === context.get("tripped")) return null;
context.set("tripped", trip);
return {payload: !trip};
"""


def flow(port: int) -> list[dict[str, Any]]:
    """The flow as its editor would save it."""
    client = {
        "id": "client", "type": "modbus-client", "name": "", "clienttype": "tcp",
        "bufferCommands": True, "stateLogEnabled": False, "queueLogEnabled": False,
        "failureLogEnabled": False, "tcpHost": "127.0.0.1", "tcpPort": str(port),
        "tcpType": "DEFAULT", "unit_id": "1", "commandDelay": "1", "clientTimeout": "1000",
        "reconnectOnTimeout": True, "reconnectTimeout": "2000", "parallelUnitIdsAllowed": True,
    }  # fmt: skip
    read = {
        "id": "read", "z": "tab", "type": "modbus-read", "name": "", "topic": "",
        "showStatusActivities": False, "logIOActivities": False, "showErrors": False,
        "unitid": "1", "dataType": "InputRegister", "adr": str(GAS), "quantity": str(REGISTERS),
        "rate": str(PERIODS_US[0] // 1000), "rateUnit": "ms", "delayOnStart": False,
        "startDelayTime": "", "server": "client", "useIOFile": False, "ioFile": "",
        "useIOForPayload": False, "emptyMsgOnFail": False, "wires": [["decide"], []],
    }  # fmt: skip
    decide = {
        "id": "decide", "z": "tab", "type": "function", "name": "", "func": FUNCTION % LIMIT,
        "outputs": 1, "wires": [["write"]],
    }  # fmt: skip
    write = {
        "id": "write", "z": "tab", "type": "modbus-write", "name": "",
        "showStatusActivities": False, "showErrors": False, "unitid": "1", "dataType": "Coil",
        "adr": str(COIL), "quantity": "1", "server": "client", "emptyMsgOnFail": False,
        "keepMsgProperties": False, "wires": [[], []],
    }  # fmt: skip
    return [{"id": "tab", "type": "tab", "label": "trip"}, client, read, decide, write]


async def _installed() -> Path | None:
    """Where it is installed; None where that cannot be."""
    target = BIN / "node-red"
    if (target / "node_modules/node-red/red.js").exists():
        return target
    npm = shutil.which("npm")
    if npm is None:
        return None
    target.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        npm, "install", "--prefix", str(target), "--no-audit", "--no-fund", *PACKAGES,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(INSTALL_S):
        return target if await process.wait() == 0 else None


@contextlib.asynccontextmanager
async def _running(target: Path, port: int) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench") as name:
        user = Path(name)
        (user / "flows.json").write_text(json.dumps(flow(port)))
        (user / "settings.js").write_text(
            'module.exports = {uiPort: 0, uiHost: "127.0.0.1", flowFile: "flows.json", '
            f"nodesDir: {json.dumps(str(target / 'node_modules/node-red-contrib-modbus'))}, "
            "httpAdminRoot: false, httpNodeRoot: false};"
        )
        process = await asyncio.create_subprocess_exec(
            "node", str(target / "node_modules/node-red/red.js"), "-u", name,
            "-s", str(user / "settings.js"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                while b"Started flows" not in (line := await process.stdout.readline()):
                    if not line:
                        raise RuntimeError("Node-RED ended at once")
            reader = asyncio.create_task(process.stdout.read())
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await reader


async def measure(cell: Cell, trips: int, limit_s: float) -> str:
    """One idle round; why there is none, "" where there is."""
    target = await _installed()
    if target is None or shutil.which("node") is None:
        return "npm is not there, or could not install it"
    async with ModbusServer(fifo=DEVICE_PRIORITY if realtime_allowed() else 0) as device:
        device.set("c", COIL, 1)
        device.set_float("ir", GAS, LOW)
        await device.sync()
        async with _running(target, device.port):
            cell.scheduling.add("other")
            what = Measurement(NAME, IDLE, PERIODS_US[0], trips, limit_s, 0)
            await what.cycle(cell, device)
    return ""
