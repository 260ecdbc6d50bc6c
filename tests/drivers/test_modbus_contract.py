"""The Modbus drivers against the contract of all drivers; libmodbus is at the far end."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.site.model import Device, Duration, Point
from tests.drivers.contract import MS, DriverContract, Loss, Peer, SiteContract
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.proxy import FaultProxy

POINTS = (Point(address="hr:5"), Point(address="hr:900", type="uint16"))
NUMBERS = (5, 900)


class TcpPeer:
    """libmodbus behind a line that can be cut."""

    points: Sequence[Point] = POINTS

    def __init__(self, server: ModbusServer, line: FaultProxy) -> None:
        self._server = server
        self._line = line
        self.device = Device(
            id="dut",
            driver="modbus-tcp",
            address=line.address,
            poll=Duration(20 * MS),
            timeout=Duration(150 * MS),
            settle=Duration(0),
        )

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
