"""The Modbus drivers against the contract of all drivers; libmodbus is at the far end."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from drivers.kind import Surroundings
from gateway.site.credentials import load_credentials
from gateway.site.model import Device, Duration, Line, Point
from tests.drivers.contract import MS, DriverContract, Loss, Peer, SiteContract
from tests.helpers.certificates import make_authority
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.proxy import FaultProxy
from tests.helpers.serial_bench import Peer as Server
from tests.helpers.serial_bench import rtu_server, socat_pair
from tests.helpers.tcp_bridges import serial_server, tls_end, tls_server

POINTS = (Point(address="hr:5"), Point(address="hr:900", type="uint16"))
NUMBERS = (5, 900)
BAUD: Final = 115_200
DAYS: Final = 90  # of certificates: so that none is told to end soon


def dut(driver: str, address: str, **fields: Any) -> Device:
    """The device under test."""
    times = {"poll": Duration(20 * MS), "timeout": Duration(100 * MS), "settle": Duration(0)}
    return Device(id="dut", driver=driver, address=address, **(times | fields))


class TcpPeer:
    """libmodbus behind a line that can be cut."""

    points: Sequence[Point] = POINTS

    def __init__(self, server: ModbusServer, line: FaultProxy, **device: Any) -> None:
        self._server = server
        self._line = line
        self.device = dut(**({"driver": "modbus-tcp", "address": line.address} | device))

    async def set(self, point: int, value: float) -> None:
        self._server.set("hr", NUMBERS[point], int(value))
        await self._server.sync()

    async def held(self, point: int) -> float:
        return (await self._server.get("hr", NUMBERS[point]))[0]

    async def lose(self, how: Loss) -> None:
        if how == "silent":
            self._line.down.drop = True
            return
        await self._line.refuse()
        self._line.cut()

    async def back(self) -> None:
        self._line.heal()
        await self._line.refuse(refused=False)


class TestModbusTcp(DriverContract, SiteContract):
    """Over TCP."""

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        del tmp_path
        async with (
            ModbusServer() as server,
            FaultProxy("127.0.0.1", server.port) as line,
        ):
            yield TcpPeer(server, line)


class TestModbusTls(DriverContract, SiteContract):
    """Over TLS, with certificates that openssl made; replies come in two records."""

    def surroundings(self, tmp_path: Path) -> Surroundings:
        return Surroundings(lambda name: load_credentials(name, tmp_path))

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        made = credentials(tmp_path)
        async with (
            ModbusServer() as server,
            tls_end(server.port, lambda: tls_server(made)) as port,
            FaultProxy("127.0.0.1", port, framed=False) as line,
        ):
            yield TcpPeer(
                server,
                line,
                driver="modbus-tls",
                credentials="plc",
                timeout=Duration(500 * MS),  # a handshake on a busy machine takes its time
            )


def credentials(folder: Path) -> Path:
    """The authority's folder; ``plc`` beside it is what the gateway has of it."""
    made = make_authority(folder / "authority", DAYS)
    own = folder / "plc"
    own.mkdir(mode=0o700)
    names = {"ca.pem": "ca.pem", "client.pem": "cert.pem", "client-key.pem": "key.pem"}
    for name, called in names.items():
        (own / called).write_bytes((made / name).read_bytes())
        os.chmod(own / called, 0o600)
    return made


class RtuPeer:
    """libmodbus on a pty that can be pulled out, or whose far end can go deaf."""

    points: Sequence[Point] = POINTS

    def __init__(self, folder: Path, device: Device | None = None) -> None:
        self.near, self.far = folder / "near", folder / "far"
        line = Line(baud=BAUD)
        self.device = device or dut("modbus-rtu", str(self.near), line=line)
        self._values = [0, 0]
        self._wires = AsyncExitStack()
        self._server = AsyncExitStack()
        self._libmodbus: Server | None = None

    async def plug(self) -> None:
        """The pty pair, and the device at its far end."""
        await self._wires.enter_async_context(socat_pair(self.near, self.far))
        await self._answer()

    async def unplug(self) -> None:
        """Nothing is left."""
        await self._server.aclose()
        await self._wires.aclose()

    async def _answer(self) -> None:
        self._libmodbus = await self._server.enter_async_context(
            rtu_server(str(self.far), unit=1, baud=BAUD)
        )
        for number, value in zip(NUMBERS, self._values, strict=True):
            self._libmodbus.send(f"hr {number} {value}")
        await self._libmodbus.ask("get hr 0 1")

    async def set(self, point: int, value: float) -> None:
        self._values[point] = int(value)
        assert self._libmodbus is not None
        self._libmodbus.send(f"hr {NUMBERS[point]} {int(value)}")
        await self._libmodbus.ask("get hr 0 1")

    async def held(self, point: int) -> float:
        assert self._libmodbus is not None
        return float((await self._libmodbus.ask(f"get hr {NUMBERS[point]} 1"))[1])

    async def lose(self, how: Loss) -> None:
        await self._server.aclose()
        if how == "gone":
            await self._wires.aclose()

    async def back(self) -> None:
        if not self.near.exists():
            await self._wires.enter_async_context(socat_pair(self.near, self.far))
        await self._answer()


class TestModbusRtu(DriverContract, SiteContract):
    """On a serial port."""

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        made = RtuPeer(tmp_path)
        await made.plug()
        try:
            yield made
        finally:
            await made.unplug()


class RtuTcpPeer(RtuPeer):
    """The same behind a serial server."""

    def __init__(self, folder: Path, line: FaultProxy) -> None:
        super().__init__(folder, dut("modbus-rtu-tcp", line.address))
        self._line = line

    async def lose(self, how: Loss) -> None:
        if how == "silent":
            self._line.down.drop = True
            return
        await self._line.refuse()
        self._line.cut()

    async def back(self) -> None:
        self._line.heal()
        await self._line.refuse(refused=False)


class TestModbusRtuTcp(DriverContract, SiteContract):
    """RTU frames over TCP."""

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(socat_pair(tmp_path / "near", tmp_path / "far"))
            port = await stack.enter_async_context(serial_server(str(tmp_path / "near")))
            line = await stack.enter_async_context(FaultProxy("127.0.0.1", port, framed=False))
            made = RtuTcpPeer(tmp_path, line)
            await made._answer()
            stack.push_async_callback(made._server.aclose)
            yield made
