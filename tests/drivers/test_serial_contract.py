"""The serial driver against the contract of all drivers; a C program plays the instruments."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from gateway.site.model import Device, Point
from tests.drivers.contract import DriverContract, Loss, Peer, SiteContract
from tests.helpers.instruments import Instrument, instrument


class InstrumentPeer:
    """An instrument whose cable can be pulled out."""

    def __init__(self, far: Instrument, points: Sequence[Point], first: int = 0) -> None:
        self._far = far
        self._first = first
        self._unplugged = False
        self._held: dict[int, float] = {}
        self.device: Device = far.device()
        self.points = points

    async def set(self, point: int, value: float) -> None:
        self._held[point] = value
        await self._far.tell(f"set {self._first + point} {value}")

    async def held(self, point: int) -> float:
        return self._held[point]

    async def lose(self, how: Loss) -> None:
        self._unplugged = how == "gone"
        await self._far.tell("unplug" if self._unplugged else "silent")

    async def back(self) -> None:
        await self._far.tell("plug" if self._unplugged else "talk")


class TestAsked(DriverContract, SiteContract):
    """A gas analyser that is asked."""

    writable: ClassVar[int | None] = None

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        async with instrument("gas", tmp_path / "tty") as far:
            points = (Point(field="gas"), Point(field="temperature"))
            yield InstrumentPeer(far, points, first=2)


class TestWind(DriverContract, SiteContract):
    """A wind sensor that sends by itself."""

    writable: ClassVar[int | None] = None

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        async with instrument("wind", tmp_path / "tty") as far:
            yield InstrumentPeer(far, (Point(field="angle"), Point(field="speed")))


class TestScale(SiteContract):
    """A weighing terminal that sends gross and net in lines of their own."""

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        async with instrument("scale", tmp_path / "tty") as far:
            yield InstrumentPeer(far, (Point(field="gross"), Point(field="net")))


class TestLogger(SiteContract):
    """A logger that sends binary frames."""

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        async with instrument("logger", tmp_path / "tty") as far:
            points = (Point(at=4, type="uint16"), Point(field="i2", scale=1000.0))
            yield InstrumentPeer(far, points)
