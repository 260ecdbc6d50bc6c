"""The OPC UA driver against the contract of all drivers; node-opcua is at the far end."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from drivers.base import Monitoring
from drivers.kind import Surroundings
from drivers.registry import make_driver
from gateway.site.model import Device, Duration, Point
from tests.drivers.contract import MS, DriverContract, Loss, Peer, SiteContract
from tests.helpers.opcua_server import OpcUaServer
from tests.helpers.proxy import FaultProxy
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

NAMES = ("n0", "n1")
Read = Literal["subscribe", "poll"]


@pytest.fixture
def server(opcua_peer: OpcUaServer) -> OpcUaServer:
    return opcua_peer


class OpcUaPeer:
    """node-opcua behind a line that can be cut."""

    points: Sequence[Point] = tuple(Point(node=f"ns=1;s={name}") for name in NAMES)

    def __init__(self, server: OpcUaServer, line: FaultProxy, read: Read) -> None:
        self._server = server
        self._line = line
        self.device = Device(
            id="dut",
            driver="opcua",
            address=f"opc.tcp://{line.address}",
            security="None",
            insecure=True,
            read=read,
            poll=Duration(100 * MS),
            timeout=Duration(500 * MS),
            settle=Duration(0),
        )

    async def set(self, point: int, value: float) -> None:
        self._server.set(NAMES[point], value)

    async def held(self, point: int) -> float:
        return float(self._server.get(NAMES[point]))

    async def lose(self, how: Loss) -> None:
        if how == "silent":
            self._line.down.drop = True
            return
        await self._line.refuse()
        self._line.cut()

    async def back(self) -> None:
        self._line.heal()
        await self._line.refuse(refused=False)


class Served:
    """Where the far end comes from."""

    how: ClassVar[Read]
    server: OpcUaServer

    @pytest.fixture(autouse=True)
    def take_server(self, server: OpcUaServer) -> None:
        self.server = server

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        del tmp_path
        async with FaultProxy("127.0.0.1", self.server.port, framed=False) as line:
            yield OpcUaPeer(self.server, line, self.how)


class TestOpcUaReads(Served, DriverContract):
    """Asked in cycles."""

    how = "poll"


class TestOpcUaSubscriptions(Served, SiteContract):
    """Followed."""

    how = "subscribe"
    stale_after_ms = 600

    def _bad_in_time(self, bench: Bench, tag: int) -> None:
        """What was proven to be unchanged is younger than its newest sample: not too soon."""
        mine = [sample for sample in bench.samples if sample[0] == tag]
        bad = next(at for at, sample in enumerate(mine) if sample[1] == 0)
        assert mine[bad][5] - mine[bad - 1][5] >= self.stale_after_ms * MS


@pytest.mark.parametrize(("read", "monitored"), [("poll", False), ("subscribe", True)])
async def test_only_one_of_both_is_monitored(
    server: OpcUaServer, read: Read, monitored: bool
) -> None:
    async with FaultProxy("127.0.0.1", server.port, framed=False) as line:
        peer = OpcUaPeer(server, line, read)
        points = [(point, None) for point in peer.points]
        driver = make_driver("opcua", peer.device, points, Surroundings(no_secrets))
    assert isinstance(driver, Monitoring) is monitored
