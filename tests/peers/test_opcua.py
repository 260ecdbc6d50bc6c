"""The OPC UA driver against node-opcua: what it reads and writes, in every kind of security."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from drivers.base import Reading
from drivers.errors import DeviceError, RequestError
from drivers.kind import Surroundings
from drivers.opcua import OpcUa
from drivers.opcua_browse import browse
from drivers.opcua_certificates import load_certificate, trust
from drivers.opcua_link import LinkSettings
from drivers.opcua_subscribing import OpcUaSubscribing
from drivers.registry import make_driver
from fastpath.codes import Quality, Reason
from gateway.site.model import Device, Duration, Point
from tests.helpers.opcua_server import OpcUaServer
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
WITHIN_S = 10.0


@pytest.fixture
def server(opcua_peer: OpcUaServer) -> OpcUaServer:
    return opcua_peer


def device(server: OpcUaServer, **fields: Any) -> Device:
    if "security" not in fields:
        fields |= {"security": "None", "insecure": True}
    defaults: dict[str, Any] = {
        "id": "dut",
        "driver": "opcua",
        "address": server.url,
        "poll": Duration(100 * MS),
        "timeout": Duration(2_000 * MS),
        "settle": Duration(0),
    }
    return Device(**(defaults | fields))


def node(name: str, **fields: Any) -> Point:
    return Point(node=f"ns=1;s={name}", **fields)


def made(device: Device, points: list[Point], state: Path | None = None, **ranges: Any) -> OpcUa:
    limits = ranges.get("limits", {})
    pairs = [(point, limits.get(at)) for at, point in enumerate(points)]
    driver = make_driver("opcua", device, pairs, Surroundings(no_secrets, state))
    return cast("OpcUa", driver)


@asynccontextmanager
async def connected(driver: OpcUa) -> AsyncIterator[OpcUa]:
    async with asyncio.timeout(WITHIN_S):
        await driver.connect()
    try:
        yield driver
    finally:
        await driver.close()


async def read(driver: OpcUa, count: int) -> list[Reading]:
    async with asyncio.timeout(WITHIN_S):
        return list(await driver.read(driver.plan(range(count))))


class Followed:
    """What a subscription told: the newest reading of each point, the proofs, all values."""

    def __init__(self, driver: OpcUaSubscribing, count: int) -> None:
        self.driver = driver
        self.newest: dict[int, Reading] = {}
        self.values: dict[int, list[float]] = {point: [] for point in range(count)}
        self.proven: list[tuple[int, ...]] = []

    async def until(self, wanted: Any) -> None:
        """Take what comes until this is so."""
        async with asyncio.timeout(WITHIN_S):
            while not wanted():
                batch = await self.driver.pushed()
                for reading in batch.readings:
                    self.newest[reading.point] = reading
                    self.values[reading.point].append(reading.value)
                if batch.proven:
                    self.proven.append(tuple(batch.proven))


async def follow(driver: OpcUa, count: int, period_ms: int = 100) -> Followed:
    assert isinstance(driver, OpcUaSubscribing)
    await driver.subscribe([(period_ms * MS, driver.plan(range(count)))])
    return Followed(driver, count)


@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
@pytest.mark.parametrize(
    "security", ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
)
async def test_every_security_reads_and_writes(
    server: OpcUaServer, security: str, mode: str, tmp_path: Path
) -> None:
    server.set("temp", 20.5)
    trust(tmp_path, "dut", load_certificate(server.certificate))
    driver = made(device(server, security=security, mode=mode), [node("temp")], tmp_path)
    async with connected(driver):
        [reading] = await read(driver, 1)
        assert (reading.value, reading.quality) == (20.5, Quality.GOOD)
        await driver.write(0, 33.0)
        assert server.get("temp") == 33.0
        told = await follow(driver, 1)
        await told.until(lambda: told.newest and told.newest[0].value == 33.0)
    keys = list((tmp_path / "opcua" / "own").glob("key.pem"))
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600]


async def test_values_of_every_kind_and_what_cannot_be_read(server: OpcUaServer) -> None:
    server.set("temp", 20.5)
    server.set("array", [1, 2, 3, 4])
    points = [
        node("temp", scale=2.0, offset=1.0),
        node("flag", type="bool"),
        Point(path="0:Objects/1:Plant/1:Tank/1:Level"),
        node("array", index=2),
        node("count"),
        node("absent"),
        node("word"),
        Point(path="0:Objects/1:Plant/1:Nowhere"),
        node("array", index=9),
        node("temp"),
    ]
    expected = [42.0, 1.0, 1.25, 3.0, -7.0]
    driver = made(device(server), points, limits={9: (0.0, 10.0)})
    async with connected(driver):
        readings = await read(driver, 10)
        told = await follow(driver, 10)
        await told.until(lambda: len(told.newest) == 10)
        assert driver.faults().keys() == {5, 6, 7, 8}
        assert "holds no number" in driver.faults()[6]
        assert "BadNodeIdUnknown" in driver.faults()[5]
    for found in (readings, [told.newest[point] for point in range(10)]):
        assert [reading.value for reading in found[:5]] == expected
        assert {reading.quality for reading in found[:5]} == {Quality.GOOD}
        assert all(math.isnan(reading.value) for reading in found[5:9])
        unreadable = (Quality.BAD, Reason.UNREADABLE)
        assert [reading[2:4] for reading in found[5:9]] == [unreadable] * 4
        assert found[9][2:4] == (Quality.BAD, Reason.OUT_OF_RANGE)


async def test_one_bad_node_among_five_hundred_spoils_no_other(server: OpcUaServer) -> None:
    points = [node(f"n{i}") for i in range(500)]
    points[137] = node("absent")
    async with connected(made(device(server), points)) as driver:
        told = await follow(driver, 500)
        await told.until(lambda: len(told.newest) == 500 and told.proven)
        assert set(driver.faults()) == {137}
    good = {point for point, each in told.newest.items() if each.quality == Quality.GOOD}
    assert good == set(range(500)) - {137}
    assert len(told.proven[-1]) == 500, "what is refused stays refused, and is not stale"


async def test_unchanged_values_are_proven_and_small_changes_are_not_told(
    server: OpcUaServer,
) -> None:
    server.set("temp", 10.0)
    server.set("level", 1.0)
    points = [node("temp", deadband=1.0, scale=2.0), node("Level")]
    async with connected(made(device(server), points)) as driver:
        told = await follow(driver, 2)
        await told.until(lambda: len(told.proven) >= 3 and len(told.newest) == 2)
        server.set("temp", 10.25)  # half a unit
        server.set("level", 2.0)
        await told.until(lambda: told.newest[1].value == 2.0)
        server.set("temp", 11.0)
        await told.until(lambda: told.newest[0].value == 22.0)
    assert told.values[0] == [20.0, 22.0]
    assert all(set(each) <= {0, 1} for each in told.proven)


async def test_writes_are_checked(server: OpcUaServer) -> None:
    server.set("array", [1, 2, 3, 4])
    points = [
        node("flag", type="bool"),
        node("count", scale=0.5),
        node("fixed"),
        node("array", index=1),
        node("Level"),
    ]
    async with connected(made(device(server, read="poll"), points)) as driver:
        await driver.write(0, 0.0)
        await driver.write(1, 21.0)
        await driver.write(3, 8.0)
        with pytest.raises(DeviceError, match=r"BadNotWritable|BadUserAccessDenied"):
            await driver.write(2, 5.0)
        with pytest.raises(RequestError, match="whole steps"):
            await driver.write(1, 0.3)
        with pytest.raises(RequestError, match="takes 0 or 1"):
            await driver.write(0, 2.0)
        with pytest.raises(RequestError, match="cannot hold"):
            await driver.write(1, 2.0**40)
        with pytest.raises(RequestError, match="cannot hold"):
            await driver.write(4, 1e39)
        [flag, count, _, element] = await read(driver, 4)
    assert (flag.value, count.value, element.value) == (0.0, 21.0, 8.0)
    assert (server.get("flag"), server.get("count")) == (False, 42)
    server.set("flag", True)
    server.set("count", -7)


async def test_the_tree_is_walked_with_its_values(server: OpcUaServer) -> None:
    server.set("temp", 20.5)
    settings = LinkSettings("dut", server.url, 2.0)
    async with asyncio.timeout(WITHIN_S):
        found, complete = await browse(settings, Surroundings(no_secrets))
    by_node = {each.node: each for each in found}
    temp, level = by_node["ns=1;s=temp"], by_node["ns=1;s=Level"]
    assert (temp.path, temp.type, temp.value) == ("0:Objects/1:Plant/1:temp", "Double", 20.5)
    assert (level.path, level.depth) == ("0:Objects/1:Plant/1:Tank/1:Level", 2)
    assert by_node["ns=1;s=array"].type == "Double[4]"
    assert complete
    assert sum(each.node.startswith("ns=1;s=n") for each in found) == 3_000
    names = [each.name for each in found]
    assert names.index("Plant") < names.index("Tank") < names.index("Level")
    async with asyncio.timeout(WITHIN_S):
        some, complete = await browse(settings, Surroundings(no_secrets), nodes_max=50)
    assert not complete
    assert len(some) < 50
