"""The Modbus driver: exceptions, guilty points, pace, writes."""

import asyncio
import contextlib
import itertools
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.base import Reading
from drivers.blocks import RETRY_FIRST_NS, RETRY_MAX_NS
from drivers.errors import DeviceError, LinkError, ProtocolError, RequestError
from drivers.modbus import BUSY_TRIES, ModbusUnit
from drivers.modbus_link import ExceptionReply
from drivers.points import ModbusPoint, parse_point
from fastpath.codes import Quality, Reason
from tests.drivers.scripted import (
    Answer,
    Conversation,
    Scripted,
    exception_reply,
    fields,
    registers_reply,
    reply,
    right,
    scripted,
)
from tests.helpers.modbus_tcp import modbus_tcp

TIMEOUT_S = 5.0
GOOD = (int(Quality.GOOD), 0)
REFUSED = (int(Quality.BAD), int(Reason.DEVICE_FAILURE))


class Clock:
    """Monotonic nanoseconds that a test moves."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


@asynccontextmanager
async def driven(
    answer: Answer, points: Sequence[ModbusPoint], clock: Clock | None = None, max_gap: int = 8
) -> AsyncIterator[tuple[ModbusUnit, Scripted]]:
    """A connected driver of a scripted device."""
    async with scripted(answer) as server:
        driver = modbus_tcp(
            "127.0.0.1",
            server.port,
            points,
            timeout_s=TIMEOUT_S,
            max_gap=max_gap,
            monotonic_ns=clock or time.monotonic_ns,
        )
        await driver.connect()
        try:
            yield driver, server
        finally:
            await driver.close()


def holding(count: int) -> list[ModbusPoint]:
    return [parse_point(f"hr:{n}") for n in range(count)]


def by_point(readings: Sequence[Reading]) -> dict[int, tuple[float, int, int]]:
    found = {each.point: (each.value, each.quality, each.reason) for each in readings}
    assert len(found) == len(readings), "a point was read twice"
    return found


def refusing(illegal: Callable[[int], bool], code: int = 2) -> Answer:
    """A device that refuses every read which touches an illegal register."""

    async def answer(talk: Conversation, request: bytes) -> None:
        _, address, count = fields(request)
        if any(illegal(n) for n in range(address, address + count)):
            await talk.send(exception_reply(request, code))
        else:
            await right(talk, request)

    return answer


async def test_points_of_all_four_tables() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        if request[7] in (1, 2):
            await talk.send(reply(request, bytes([request[7], 1, 0b101])))
        else:
            await right(talk, request)

    points = [
        parse_point(text) for text in ("ir:7", "c:3", "di:5", "hr:9", "hr:9.3", "di:6", "di:7")
    ]
    async with driven(answer, points) as (driver, server):
        got = by_point(await driver.read(driver.plan(range(7))))
        assert [got[i] for i in range(7)] == [
            (value, *GOOD) for value in (7.0, 1.0, 1.0, 9.0, 1.0, 0.0, 1.0)
        ]
        assert sorted(fields(r) for r in server.requests) == [
            (1, 3, 1), (2, 5, 3), (3, 9, 1), (4, 7, 1),
        ]  # fmt: skip
        assert driver.stats() == {"good": 4}


@pytest.mark.parametrize("code", [1, 2, 3])
async def test_guilty_points_are_found_once(code: int) -> None:
    clock = Clock()
    async with driven(refusing(lambda n: n in (13, 14), code), holding(40), clock) as (
        driver,
        server,
    ):
        plan = driver.plan(range(40))
        got = by_point(await driver.read(plan))
        assert len(got) == 40
        for index, (value, *quality) in got.items():
            guilty = index in (13, 14)
            assert tuple(quality) == (REFUSED if guilty else GOOD)
            assert math.isnan(value) if guilty else value == index
        assert len(server.requests) < 20, "40 points, of which two are guilty"
        assert set(driver.faults()) == {13, 14}
        assert driver.faults()[13].startswith(f"hr:13 is refused: exception {code} (illegal")
        server.requests.clear()
        for _ in range(5):
            assert by_point(await driver.read(plan)).keys() == got.keys()
        assert len(server.requests) % 5 == 0, "the same reads each time"
        assert not any(
            a <= 13 < a + n or a <= 14 < a + n for _, a, n in map(fields, server.requests)
        )


async def test_holes_that_the_device_refuses_are_read_around() -> None:
    points = [parse_point(f"hr:{n}") for n in (0, 1, 5, 6, 12)]
    clock = Clock()
    async with driven(refusing(lambda n: n not in (0, 1, 5, 6, 12)), points, clock) as (
        driver,
        server,
    ):
        plan = driver.plan(range(5))
        for _ in range(2):
            server.requests.clear()
            got = by_point(await driver.read(plan))
            assert [got[i] for i in range(5)] == [(n, *GOOD) for n in (0.0, 1.0, 5.0, 6.0, 12.0)]
        assert [fields(r)[1:] for r in server.requests] == [(0, 2), (5, 2), (12, 1)]
        assert driver.faults() == {}
        clock.now_ns += 10 * RETRY_MAX_NS
        await driver.read(plan)
        assert len(server.requests) == 6, "nothing is refused, nothing is retried"


async def test_refused_points_are_retried_slowly_and_come_back() -> None:
    clock, illegal = Clock(), {3, 4}
    async with driven(refusing(lambda n: n in illegal), holding(8), clock) as (driver, server):
        plan = driver.plan(range(8))
        await driver.read(plan)
        server.requests.clear()
        clock.now_ns += RETRY_FIRST_NS - 1
        await driver.read(plan)
        steady = len(server.requests)
        clock.now_ns += 1
        await driver.read(plan)
        assert len(server.requests) == 2 * steady + 2, "the whole, then one point"
        illegal.discard(3)
        for _ in range(2):  # the points take turns
            clock.now_ns += RETRY_MAX_NS
            await driver.read(plan)
        got = by_point(await driver.read(plan))
        assert got[3] == (3.0, *GOOD)
        assert got[4][1:] == REFUSED
        illegal.clear()
        clock.now_ns += RETRY_MAX_NS
        assert by_point(await driver.read(plan))[4] == (4.0, *GOOD)
        assert driver.faults() == {}
        server.requests.clear()
        await driver.read(plan)
        assert [fields(r)[1:] for r in server.requests] == [(0, 8)], "as planned again"


async def test_a_device_that_was_away_for_long_is_not_asked_for_every_retry_it_missed() -> None:
    clock, illegal = Clock(), {3}
    async with driven(refusing(lambda n: n in illegal), holding(8), clock) as (driver, server):
        plan = driver.plan(range(8))
        await driver.read(plan)
        server.requests.clear()
        await driver.read(plan)
        steady = len(server.requests)
        clock.now_ns += 100 * RETRY_MAX_NS
        await driver.read(plan)
        server.requests.clear()
        clock.now_ns += RETRY_FIRST_NS
        await driver.read(plan)
        assert len(server.requests) == steady


async def test_a_device_that_refuses_everything_while_it_starts() -> None:
    clock, illegal = Clock(), set(range(8))
    async with driven(refusing(lambda n: n in illegal), holding(8), clock) as (driver, server):
        plan = driver.plan(range(8))
        assert all(r.quality == Quality.BAD for r in await driver.read(plan))
        assert len(server.requests) == 15
        await driver.read(plan)
        assert len(server.requests) == 15, "all are remembered"
        illegal.clear()
        illegal.add(7)
        clock.now_ns += RETRY_FIRST_NS
        got = by_point(await driver.read(plan))
        assert [i for i, (_, *quality) in got.items() if tuple(quality) == GOOD] == list(range(7))
        assert set(driver.faults()) == {7}


@pytest.mark.parametrize("code", [0, 4, 7, 8, 9, 12, 255])
async def test_a_device_failure_is_bad_at_once(code: int) -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(exception_reply(request, code))

    async with driven(answer, holding(3)) as (driver, server):
        plan = driver.plan(range(3))
        for _ in range(2):
            got = by_point(await driver.read(plan))
            assert [tuple(got[i][1:]) for i in range(3)] == [REFUSED] * 3
        assert len(server.requests) == 2, "no second try"
        assert driver.faults() == {}


@pytest.mark.parametrize("code", [5, 6])
async def test_busy_is_tried_again_inside_the_poll(code: int) -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        if len(talk.requests) < BUSY_TRIES:
            await talk.send(exception_reply(request, code))
        else:
            await right(talk, request)

    async with driven(answer, holding(2)) as (driver, server):
        got = by_point(await driver.read(driver.plan(range(2))))
        assert got[1] == (1.0, *GOOD)
        assert len(server.requests) == BUSY_TRIES


async def test_busy_for_too_long_is_a_failed_poll() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        if fields(request)[1] == 0:
            await talk.send(exception_reply(request, 6))
        else:
            await right(talk, request)

    points = [parse_point("hr:0"), parse_point("hr:100")]
    async with driven(answer, points) as (driver, server):
        with pytest.raises(ExceptionReply, match="device busy"):
            await driver.read(driver.plan([0]))
        assert len(server.requests) == BUSY_TRIES
        both = by_point(await driver.read(driver.plan([0, 1])))
        assert both == {1: (100.0, *GOOD)}, "the other block was read"


@pytest.mark.parametrize("code", [10, 11])
async def test_a_unit_that_is_away_is_a_failed_poll(code: int) -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(exception_reply(request, code))

    points = [parse_point("hr:0"), parse_point("hr:100")]
    async with driven(answer, points) as (driver, server):
        with pytest.raises(DeviceError):
            await driver.read(driver.plan([0, 1]))
        assert len(server.requests) == 1, "the second read would wait as long"
        with pytest.raises(DeviceError):
            await driver.read(driver.plan([0, 1]))
        assert server.connections == 1
        assert driver.stats() == {"exception": 2}


async def test_a_unit_that_goes_away_while_parting_is_remembered_for_nothing() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(exception_reply(request, 2 if len(talk.requests) == 1 else 11))

    async with driven(answer, holding(4)) as (driver, server):
        plan = driver.plan(range(4))
        for _ in range(2):
            with pytest.raises(DeviceError):
                await driver.read(plan)
        assert driver.faults() == {}
        assert fields(server.requests[-1])[1:] == (0, 4)


async def test_nonsense_ends_the_link_and_is_counted() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(registers_reply(request)[:-1] + b"\x00\x00")

    async with driven(answer, holding(2)) as (driver, _):
        with pytest.raises(ProtocolError):
            await driver.read(driver.plan([0, 1]))
        with pytest.raises(LinkError):
            await driver.read(driver.plan([0, 1]))
        assert driver.stats() == {"refused": 1, "lost": 1}


async def test_request_delay_leaves_the_device_its_rest() -> None:
    arrivals: list[int] = []

    async def answer(talk: Conversation, request: bytes) -> None:
        arrivals.append(time.monotonic_ns())
        await talk.send(registers_reply(request))

    points = [parse_point(f"hr:{100 * n}") for n in range(4)]
    async with scripted(answer) as server:
        driver = modbus_tcp(
            "127.0.0.1", server.port, points, timeout_s=TIMEOUT_S, request_delay_s=0.03
        )
        await driver.connect()
        await driver.read(driver.plan(range(4)))
        await driver.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(gaps) == 3
    assert min(gaps) >= 30_000_000


async def test_a_device_that_takes_no_connection_has_one_deadline() -> None:
    """SYNs to a full backlog are swallowed, as by a firewall."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        driver = modbus_tcp("127.0.0.1", address[1], [parse_point("hr:0")], timeout_s=0.1)
        with pytest.raises(LinkError, match=r"no connection within 0\.1 s"):
            await driver.connect()
        assert driver.stats() == {"connect": 1}
        await driver.close()


async def test_writes_that_make_no_sense() -> None:
    points = [parse_point(text) for text in ("c:1", "di:1", "ir:1", "hr:1.2", "hr:1")]
    driver = modbus_tcp("127.0.0.1", 1, points)
    for point, value in ((0, 0.5), (1, 1.0), (2, 1.0), (3, 1.0), (4, 70_000.0)):
        with pytest.raises(RequestError):
            await driver.write(point, value)


@asynccontextmanager
async def simulated(device: SimDevice) -> AsyncIterator[int]:
    """pymodbus's own simulator; its port."""
    server = ModbusTcpServer(device, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        yield server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    finally:
        server.close()
        await asyncio.sleep(0.01)


async def test_reads_and_writes_of_the_simulator() -> None:
    device = SimDevice(
        5,
        simdata=(
            [SimData(0, values=[False] * 32, datatype=DataType.BITS)],
            [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)],
            [SimData(10, count=30, datatype=DataType.REGISTERS)],
            [SimData(0, values=12.5, datatype=DataType.FLOAT32)],
        ),
    )
    texts = [
        ("c:17", "", 1.0), ("di:2", "", 1.0), ("ir:0", "float32", 12.5), ("hr:10", "int16", -2.0),
        ("hr:12", "float32", -1.5), ("hr:14", "float64", 1e-300), ("hr:18", "uint64", 2.0**53),
    ]  # fmt: skip
    points = [
        parse_point(address, kind, "CDAB" if i > 3 else "")
        for i, (address, kind, _) in enumerate(texts)
    ]
    async with simulated(device) as port:
        driver = modbus_tcp("127.0.0.1", port, points, unit=5, timeout_s=TIMEOUT_S)
        await driver.connect()
        for index in (0, 3, 4, 5, 6):
            await driver.write(index, texts[index][2])
        got = by_point(await driver.read(driver.plan(range(7))))
        assert [got[i] for i in range(7)] == [(value, *GOOD) for *_, value in texts]
        await driver.close()
        other = modbus_tcp("127.0.0.1", port, points, unit=6, timeout_s=TIMEOUT_S)
        await other.connect()
        readings = await other.read(other.plan([3]))
        assert readings[0].quality == Quality.BAD, "the simulator knows no unit 6"
        await other.close()


async def test_a_write_that_the_simulator_refuses() -> None:
    async def refuse(*_: object) -> ExcCodes:
        return ExcCodes.DEVICE_FAILURE

    device = SimDevice(1, simdata=[SimData(0, count=4, datatype=DataType.REGISTERS)], action=refuse)
    async with simulated(device) as port:
        driver = modbus_tcp("127.0.0.1", port, [parse_point("hr:0")], timeout_s=TIMEOUT_S)
        await driver.connect()
        with pytest.raises(DeviceError, match="exception 4"):
            await driver.write(0, 1.0)
        with pytest.raises(DeviceError):
            await driver.write(0, 1.0)
        assert driver.stats() == {"exception": 2}
        await driver.close()
