"""A line that breaks what passes, between libmodbus and the driver: no value that is not there."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from drivers.base import Reading
from drivers.errors import DriverError, LinkError, ProtocolError
from drivers.modbus import ModbusUnit
from drivers.modbus_link import SilenceError
from drivers.points import parse_point
from fastpath.codes import Quality
from tests.drivers.scripted import Conversation, fields, scripted
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.modbus_tcp import modbus_tcp
from tests.helpers.proxy import FaultProxy

TIMEOUT_S = 0.15
REPLY_BYTES = 9 + 4  # of two registers
HEADER = {
    "transaction, high": 0, "transaction, low": 1, "protocol, high": 2, "protocol, low": 3,
    "unit": 6, "function": 7, "byte count": 8,
}  # fmt: skip
VALUES = (0x1234, 0x5678)


@pytest.fixture
async def line() -> AsyncIterator[FaultProxy]:
    """libmodbus with two registers behind a proxy."""
    async with ModbusServer() as server:
        server.set("hr", 100, *VALUES)
        await server.sync()
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            yield proxy


@asynccontextmanager
async def driver_of(line: FaultProxy, timeout_s: float = TIMEOUT_S) -> AsyncIterator[ModbusUnit]:
    points = [parse_point("hr:100"), parse_point("hr:101"), parse_point("hr:200")]
    driver = modbus_tcp("127.0.0.1", line.port, points, timeout_s=timeout_s)
    try:
        yield driver
    finally:
        await driver.close()


async def poll(driver: ModbusUnit) -> list[Reading]:
    """One poll on a new connection."""
    await driver.close()
    await driver.connect()
    return list(await driver.read(driver.plan([0, 1])))


def assert_right(readings: list[Reading]) -> None:
    good = int(Quality.GOOD)
    assert readings == [Reading(i, float(v), good, 0, 0) for i, v in enumerate(VALUES)]


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_at_every_byte_costs_one_poll(line: FaultProxy, how: str) -> None:
    async with driver_of(line) as driver:
        for cut in range(1, REPLY_BYTES):
            line.down.cut_at, line.down.cut_how = cut, how  # type: ignore[assignment]
            with pytest.raises(LinkError):
                await poll(driver)
            line.heal()
            assert_right(await poll(driver))
        assert driver.stats()["lost"] == REPLY_BYTES - 1


@pytest.mark.parametrize("name", HEADER)
async def test_every_field_of_the_header_is_checked(line: FaultProxy, name: str) -> None:
    async with driver_of(line, timeout_s=10.0) as driver:  # no silence is waited for here
        for bit in range(8):
            line.down.mutate = ((HEADER[name], 1 << bit),)
            with pytest.raises(DriverError) as caught:
                await poll(driver)
            exception = name == "function" and bit == 7  # that is how exceptions are told
            assert isinstance(caught.value, ProtocolError) or exception
            line.heal()
        assert_right(await poll(driver))


async def test_a_length_that_lies_is_no_reply(line: FaultProxy) -> None:
    async with driver_of(line) as driver:
        for offset, xor in ((4, 1), (4, 128), (5, 1), (5, 2), (5, 7), (5, 255)):
            line.down.mutate = ((offset, xor),)
            with pytest.raises(ProtocolError, match="reply length"):
                await poll(driver)
            line.heal()
        assert_right(await poll(driver))


async def test_a_truncated_reply_is_silence(line: FaultProxy) -> None:
    async with driver_of(line) as driver:
        for kept in (1, 6, 7, 8, REPLY_BYTES - 1):
            line.down.truncate_to = kept
            with pytest.raises(SilenceError):
                await poll(driver)
            line.heal()
        assert_right(await poll(driver))


async def test_a_doubled_reply_is_taken_once_and_ends_the_connection(line: FaultProxy) -> None:
    async with driver_of(line) as driver:
        line.down.duplicate = True
        for _ in range(3):
            try:
                assert_right(await poll(driver))
                await asyncio.sleep(0.01)  # the second one is there
            except ProtocolError:
                continue
            with pytest.raises(DriverError):
                await driver.read(driver.plan([2]))
        line.heal()
        assert_right(await poll(driver))


async def test_a_late_reply_meets_no_later_request(line: FaultProxy) -> None:
    async with driver_of(line) as driver:
        await driver.connect()
        line.down.delay_s, line.down.limit = 1.3 * TIMEOUT_S, 1
        with pytest.raises(SilenceError):
            await driver.read(driver.plan([0, 1]))
        line.heal()
        await driver.close()
        await driver.connect()
        [reading] = await driver.read(driver.plan([2]))
        await asyncio.sleep(0.5 * TIMEOUT_S)
        assert reading.value == 0.0
        assert_right(list(await driver.read(driver.plan([0, 1]))))


async def test_a_dribble_is_a_reply_within_the_deadline_and_silence_beyond(
    line: FaultProxy,
) -> None:
    async with driver_of(line) as driver:
        line.down.dribble_s = 0.001
        assert_right(await poll(driver))
        line.down.dribble_s = TIMEOUT_S / 4
        begin = time.monotonic()
        with pytest.raises(SilenceError):
            await poll(driver)
        assert time.monotonic() - begin < REPLY_BYTES * TIMEOUT_S / 4, "one deadline for all bytes"


async def test_a_hostile_device_that_never_stops_sending_costs_no_memory() -> None:
    sent = 0

    async def flood(talk: Conversation, request: bytes) -> None:
        nonlocal sent
        assert fields(request)[0] == 3
        for _ in range(1_600):  # 100 MB
            talk.writer.write(request[:4] + bytes(65_536))
            sent += 65_536
            await talk.writer.drain()

    async with scripted(flood) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        driver = modbus_tcp("127.0.0.1", server.port, [parse_point("hr:100")], timeout_s=5.0)
        for _ in range(3):
            await driver.connect()
            with pytest.raises(ProtocolError):
                await driver.read(driver.plan([0]))
            await driver.close()
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert sent < 50_000_000, "the first wrong byte ended it"
    assert grown_kib < 20_000
