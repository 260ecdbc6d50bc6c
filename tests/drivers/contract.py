"""What every driver must do, whatever it speaks: a driver's tests inherit these.

A subclass says what stands at the far end (``peer``), of a program that is not ours:

    class TestModbusTcp(DriverContract, SiteContract):
        @asynccontextmanager
        async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
            ...

``DriverContract`` calls the driver itself; ``SiteContract`` runs it as a site does, through the
session and the scanner. A driver whose device pushes inherits ``SiteContract`` alone where its
``read`` does nothing. No task, thread or descriptor may be left: ``conftest.py`` holds each test
to that, and one test counts them while the driver lives.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import pytest

from drivers.base import Reading
from drivers.errors import DeviceError, DriverError, LinkError, RequestError
from drivers.kind import PlanningDriver, Surroundings
from drivers.registry import make_driver
from fastpath.codes import Quality, Reason
from gateway.site.model import Config, Device, Duration, Point, Site, Tag
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
ENDS_S = 2.0
Loss = Literal["silent", "gone"]
LOSSES: tuple[Loss, ...] = ("silent", "gone")


class Peer(Protocol):
    """The far end of one device. Points 0 and 1 are numbers that can be set to any 0 to 1,000."""

    @property
    def device(self) -> Device:
        """As a site file has it, with a short ``poll`` and ``timeout``; its id is ``dut``."""

    @property
    def points(self) -> Sequence[Point]:
        """Two or more; ``DriverContract.writable`` is one of them."""

    async def set(self, point: int, value: float) -> None:
        """From now on the device has this value there."""

    async def held(self, point: int) -> float:
        """What the device itself has there."""

    async def lose(self, how: Loss) -> None:
        """Silent: no answer, no end. Gone: the connection ends and nobody takes a new one."""

    async def back(self) -> None:
        """As before ``lose``, with the values that it had."""


class Contract:
    """The far end, and what it takes to reach it."""

    within_s: ClassVar[float] = 10.0  # what must happen at all

    def peer(self, tmp_path: Path) -> AbstractAsyncContextManager[Peer]:
        """The far end of a device, running."""
        raise NotImplementedError

    def surroundings(self, tmp_path: Path) -> Surroundings:
        """What the driver finds around itself."""
        del tmp_path
        return Surroundings(no_secrets)


class DriverContract(Contract):
    """The driver alone."""

    writable: ClassVar[int | None] = 0  # a point that can be written; None: the driver cannot

    def made(self, peer: Peer, tmp_path: Path) -> PlanningDriver:
        """A new driver for the peer, not connected."""
        points = [(point, None) for point in peer.points]
        around = self.surroundings(tmp_path)
        return make_driver(peer.device.driver, peer.device, points, around)

    @asynccontextmanager
    async def connected(self, peer: Peer, tmp_path: Path) -> AsyncIterator[PlanningDriver]:
        """A driver that is connected."""
        driver = self.made(peer, tmp_path)
        try:
            await self.connect(driver)
            yield driver
        finally:
            await driver.close()

    async def connect(self, driver: PlanningDriver) -> None:
        """Connect, again where a busy machine outlasted a timeout, as who runs a driver does."""
        async with asyncio.timeout(self.within_s):
            while True:
                try:
                    return await driver.connect()
                except DriverError:
                    await driver.close()
                    await asyncio.sleep(0.02)

    async def read(self, driver: PlanningDriver, count: int = 2) -> dict[int, Reading]:
        """One poll of the first points, by point."""
        async with asyncio.timeout(self.within_s):
            readings = await driver.read(driver.plan(range(count)))
        return {reading.point: reading for reading in readings}

    async def reads(self, driver: PlanningDriver, *values: float) -> None:
        """Poll until the first points are these (an instrument may send what it had before)."""
        async with asyncio.timeout(self.within_s):
            while True:
                try:
                    found = await self.read(driver, len(values))
                except DeviceError:  # a busy machine may outlast a timeout
                    continue
                if [found[i].value for i in range(len(values)) if i in found] == list(values):
                    assert {reading.quality for reading in found.values()} == {Quality.GOOD}
                    return

    async def until_lost(self, driver: PlanningDriver) -> None:
        """Poll until the driver says so; what had arrived before may still be read."""
        async with asyncio.timeout(self.within_s):
            with contextlib.suppress(DriverError):
                while True:
                    await self.read(driver)

    async def test_it_reads_what_the_device_has(self, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer, self.connected(peer, tmp_path) as driver:
            for pair in ((7.0, 21.0), (0.0, 1000.0), (500.0, 1.0)):
                for point, value in enumerate(pair):
                    await peer.set(point, value)
                await self.reads(driver, *pair)
            assert driver.stats()["good"] >= 3
            assert not driver.faults()

    async def test_it_writes_what_it_is_told(self, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer, self.connected(peer, tmp_path) as driver:
            if self.writable is None:
                with pytest.raises(RequestError):
                    await driver.write(0, 1.0)
                return
            for value in (42.0, 0.0, 7.0):
                async with asyncio.timeout(self.within_s):
                    await driver.write(self.writable, value)
                assert await peer.held(self.writable) == value

    @pytest.mark.parametrize("how", LOSSES)
    async def test_a_lost_device_ends_the_read_in_its_time(self, how: Loss, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer, self.connected(peer, tmp_path) as driver:
            await self.read(driver)
            await peer.lose(how)
            await self.until_lost(driver)
            await peer.back()

    @pytest.mark.parametrize("how", LOSSES)
    async def test_the_same_driver_connects_again(self, how: Loss, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer, self.connected(peer, tmp_path) as driver:
            await peer.set(0, 3.0)
            await peer.set(1, 4.0)
            await self.reads(driver, 3.0, 4.0)
            await peer.lose(how)
            await self.until_lost(driver)
            await driver.close()
            await peer.back()
            async with asyncio.timeout(self.within_s):
                while True:
                    try:
                        await driver.connect()
                        await self.reads(driver, 3.0, 4.0)
                        return
                    except DriverError:
                        await driver.close()
                        await asyncio.sleep(0.02)

    async def test_a_device_that_is_not_there_refuses_the_connection(self, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer:
            await peer.lose("gone")
            driver = self.made(peer, tmp_path)
            for _ in range(2):
                with pytest.raises(LinkError):
                    async with asyncio.timeout(self.within_s):
                        await driver.connect()
                await driver.close()
            await peer.back()

    async def test_it_is_closed_twice_and_before_it_is_open(self, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer:
            driver = self.made(peer, tmp_path)
            await driver.close()
            await self.connect(driver)
            await driver.close()
            await driver.close()
            with pytest.raises(DriverError):
                await self.read(driver)

    async def test_a_poll_that_is_cancelled_leaves_a_driver_that_works(
        self, tmp_path: Path
    ) -> None:
        async with self.peer(tmp_path) as peer, self.connected(peer, tmp_path) as driver:
            await peer.set(0, 5.0)
            await peer.set(1, 6.0)
            for turns in range(4):
                task = asyncio.ensure_future(self.read(driver))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await driver.close()
                await self.connect(driver)
                await self.reads(driver, 5.0, 6.0)

    async def test_reconnecting_leaves_nothing_behind(self, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer:
            driver = self.made(peer, tmp_path)
            held: list[tuple[int, int, int]] = []
            for _ in range(6):
                await self.connect(driver)
                with contextlib.suppress(DeviceError):  # a busy machine may outlast a timeout
                    await self.read(driver)
                held.append(_held())
                await driver.close()
            assert held[-1] == held[1], f"tasks, threads, descriptors: {held}"


class SiteContract(Contract):
    """The driver as a site runs it."""

    stale_after_ms: ClassVar[int] = 300
    slack_ms: ClassVar[int] = 1_500  # staleness is looked for every 100 ms, on a busy machine

    def config(self, peer: Peer) -> Config:
        """A site of the one device, a tag per point."""
        device = peer.device
        tags = tuple(
            Tag(
                id=f"tag{number}",
                device=device.id,
                point=point,
                poll=Duration(device.poll),
                stale_after=Duration(self.stale_after_ms * MS),
                record="change",
            )
            for number, point in enumerate(peer.points)
        )
        return Config(site=Site(id="s"), device=(device,), tag=tags)

    async def until_good(self, bench: Bench, *values: float) -> None:
        """The first tags are GOOD with these values."""
        async with asyncio.timeout(self.within_s):
            await bench.until(
                lambda: all(
                    bench.quality(i) == (Quality.GOOD, 0) and bench.value(i) == value
                    for i, value in enumerate(values)
                )
            )

    @pytest.mark.parametrize("how", LOSSES)
    async def test_tags_are_bad_in_time_and_good_again(self, how: Loss, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer:
            await peer.set(0, 11.0)
            await peer.set(1, 12.0)
            bench = Bench(self.config(peer), self.surroundings(tmp_path))
            async with bench.scanning():
                await self.until_good(bench, 11.0, 12.0)
                await peer.lose(how)
                async with asyncio.timeout(self.within_s):
                    await bench.until(lambda: self._all_bad(bench))
                    await bench.told(problems=1)
                for tag in (0, 1):
                    self._bad_in_time(bench, tag)
                [problem] = bench.problems.active()
                assert (problem.kind, problem.ident) == ("device", peer.device.id)
                assert not bench.scanner.stats().devices[peer.device.id].up
                await peer.back()
                await self.until_good(bench, 11.0, 12.0)
                async with asyncio.timeout(self.within_s):
                    await bench.told(problems=0)
                assert bench.scanner.stats().devices[peer.device.id].up

    async def test_a_change_arrives_and_costs_one_device_no_alert(self, tmp_path: Path) -> None:
        async with self.peer(tmp_path) as peer:
            await peer.set(0, 1.0)
            await peer.set(1, 2.0)
            bench = Bench(self.config(peer), self.surroundings(tmp_path))
            async with bench.scanning():
                await self.until_good(bench, 1.0, 2.0)
                await peer.set(0, 3.0)
                await self.until_good(bench, 3.0, 2.0)
            assert not bench.problems.active()
            assert bench.scanner.stats().devices[peer.device.id].requests["good"] > 0

    def _all_bad(self, bench: Bench) -> bool:
        bad = (Quality.BAD, Reason.COMM_FAILURE)
        return bench.quality(0) == bad and bench.quality(1) == bad

    def _bad_in_time(self, bench: Bench, tag: int) -> None:
        """No sooner than ``stale_after`` after the newest reading, and not much later."""
        mine = [sample for sample in bench.samples if sample[0] == tag]
        bad = next(at for at, sample in enumerate(mine) if sample[1] == Quality.BAD)
        waited_ms = (mine[bad][5] - mine[bad - 1][5]) / MS
        assert self.stale_after_ms <= waited_ms <= self.stale_after_ms + self.slack_ms


def _held() -> tuple[int, int, int]:
    """Tasks, threads and descriptors of this process now.

    Without the loop's own pool of threads, which grows with how busy the machine is; one that has
    opened a port and answered is given the time to end.
    """
    for each in threading.enumerate():
        if each.name.startswith("open "):
            each.join(ENDS_S)
    threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
    return len(asyncio.all_tasks()), len(threads), len(os.listdir("/proc/self/fd"))
