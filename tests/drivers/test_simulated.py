"""The driver of devices that are not there: one contract with all others, and what is its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.errors import DriverError, PointError
from drivers.kind import Limits, PlanningDriver, Surroundings
from drivers.registry import make_driver
from drivers.simulated import state_of
from fastpath.codes import Quality, Reason
from gateway.site.model import Device, Duration, Point
from tests.drivers.contract import DriverContract, Loss, Peer, SiteContract
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
DUT = Device(
    id="dut",
    driver="sim",
    poll=Duration(20 * MS),
    timeout=Duration(100 * MS),
    settle=Duration(0),
)


class SimPeer:
    """The state that all drivers of the device share is its far end."""

    device = DUT
    points: Sequence[Point] = (Point(address="hr:1"), Point(address="sine"))
    names = ("hr:1", "sine")

    def __init__(self, around: Surroundings) -> None:
        self._state = state_of("dut", around)

    async def set(self, point: int, value: float) -> None:
        self._state.written[self.names[point]] = value

    async def held(self, point: int) -> float:
        return self._state.written[self.names[point]]

    async def lose(self, how: Loss) -> None:
        self._state.lost = how

    async def back(self) -> None:
        self._state.lost = ""


class TestSimulated(DriverContract, SiteContract):
    def surroundings(self, tmp_path: Path) -> Surroundings:
        del tmp_path
        return self._around

    @asynccontextmanager
    async def peer(self, tmp_path: Path) -> AsyncIterator[Peer]:
        del tmp_path
        self._around = Surroundings(no_secrets)
        yield SimPeer(self._around)


def driver_of(around: Surroundings, *addresses: str, limits: Limits = None) -> PlanningDriver:
    points = [(Point(address=address), limits) for address in addresses]
    return make_driver("sim", DUT, points, around)


async def test_drivers_of_one_device_share_what_was_written() -> None:
    around = Surroundings(no_secrets)
    writer, reader = driver_of(around, "c:5"), driver_of(around, "sine", " c:0x5 ", "hr:5")
    stranger = driver_of(Surroundings(no_secrets), "c:5")
    for driver in (writer, reader, stranger):
        await driver.connect()
    await writer.write(0, 1.0)
    assert [r.value for r in await reader.read(reader.plan([1, 2]))] == [1.0, 0.0]
    assert [r.value for r in await stranger.read(stranger.plan([0]))] == [0.0]


async def test_what_is_out_of_range_is_bad() -> None:
    driver = driver_of(Surroundings(no_secrets), "constant 5", limits=(0.0, 4.0))
    await driver.connect()
    (reading,) = await driver.read(driver.plan([0]))
    assert (reading.quality, reading.reason) == (Quality.BAD, Reason.OUT_OF_RANGE)


@pytest.mark.parametrize(("address", "value"), [("c:1", 2.0), ("hr:1", float("nan"))])
async def test_what_a_point_cannot_be_is_refused(address: str, value: float) -> None:
    driver = driver_of(Surroundings(no_secrets), address)
    await driver.connect()
    with pytest.raises(DriverError, match="takes"):
        await driver.write(0, value)


async def test_a_silent_device_costs_its_timeout() -> None:
    around = Surroundings(no_secrets)
    driver = driver_of(around, "sine")
    await driver.connect()
    state_of("dut", around).lost = "silent"
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DriverError, match="no answer"):
        await driver.read(driver.plan([0]))
    assert loop.time() - began >= 0.09
    assert driver.stats() == {"timeout": 1}


def test_a_point_that_is_none_is_refused() -> None:
    with pytest.raises(PointError):
        driver_of(Surroundings(no_secrets), "di:5")
