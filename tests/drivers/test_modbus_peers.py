"""The Modbus driver against programs that are not ours: libmodbus serves, mbpoll reads along."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator

import pytest_asyncio

from drivers.points import parse_point
from fastpath.codes import Quality
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.modbus_tcp import modbus_tcp
from tests.helpers.programs import find

# Where byte i on the wire comes from in the big-endian value, written out by hand.
ORDERS: dict[int, dict[str, tuple[int, ...]]] = {
    2: {"ABCD": (0, 1), "BADC": (1, 0), "CDAB": (0, 1), "DCBA": (1, 0)},
    4: {
        "ABCD": (0, 1, 2, 3), "BADC": (1, 0, 3, 2), "CDAB": (2, 3, 0, 1), "DCBA": (3, 2, 1, 0),
    },
    8: {
        "ABCD": (0, 1, 2, 3, 4, 5, 6, 7), "BADC": (1, 0, 3, 2, 5, 4, 7, 6),
        "CDAB": (6, 7, 4, 5, 2, 3, 0, 1), "DCBA": (7, 6, 5, 4, 3, 2, 1, 0),
    },
}  # fmt: skip
VALUES: dict[str, tuple[str, list[float]]] = {
    "int16": (">h", [-12345, 32767]),
    "uint16": (">H", [54321, 1]),
    "int32": (">i", [-1234567890, 1]),
    "uint32": (">I", [4023456789, 65536]),
    "int64": (">q", [-(2**53), 0x0001020304050607]),
    "uint64": (">Q", [2**53, 0x0001020304050607]),
    "float32": (">f", [1.5, -0.0123443603515625]),
    "float64": (">d", [-1.2345678901234567e-300, 3.5]),
}


async def mbpoll(server: ModbusServer, *arguments: str) -> str:
    """Run mbpoll on the server; its output."""
    process = await asyncio.create_subprocess_exec(
        find("mbpoll"), "-m", "tcp", "-p", str(server.port), "-0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


async def words_of(server: ModbusServer, table: str, first: int, count: int) -> list[int]:
    """Registers as mbpoll prints them raw."""
    output = await mbpoll(
        server, "-t", f"{table}:hex", "-r", str(first), "-c", str(count), "-1", "127.0.0.1"
    )
    found = {int(n): int(v, 16) for n, v in re.findall(r"\[(\d+)\]:\s+0x([0-9A-F]+)", output)}
    return [found[first + i] for i in range(count)]


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[ModbusServer]:
    """A libmodbus server on a free port."""
    async with ModbusServer() as server:
        yield server


def arranged(data: bytes, order: str) -> bytes:
    """Big-endian bytes as the wire has them (the tables are their own inverses)."""
    return bytes(data[i] for i in ORDERS[len(data)][order])


async def test_every_type_and_order_as_mbpoll_and_struct_see_it(peer: ModbusServer) -> None:
    cases: list[tuple[str, str, float, int]] = []  # type, order, value, address
    wire = b""
    for type_name, (layout, values) in VALUES.items():
        for order in ("ABCD", "BADC", "CDAB", "DCBA"):
            for value in values:
                cases.append((type_name, order, value, len(wire) // 2))
                wire += arranged(struct.pack(layout, value), order)
    words = struct.unpack(f">{len(wire) // 2}H", wire)
    for area in ("hr", "ir"):
        peer.set(area, 0, *words)
    await peer.sync()
    for area, table in (("hr", "4"), ("ir", "3")):
        raw = []
        for first in range(0, len(words), 100):
            raw += await words_of(peer, table, first, min(100, len(words) - first))
        points = [parse_point(f"{area}:{at}", kind, order) for kind, order, _, at in cases]
        driver = modbus_tcp("127.0.0.1", peer.port, points, timeout_s=5.0)
        await driver.connect()
        readings = {r.point: r for r in await driver.read(driver.plan(range(len(points))))}
        await driver.close()
        for index, (type_name, order, value, at) in enumerate(cases):
            layout = VALUES[type_name][0]
            taken = raw[at : at + struct.calcsize(layout) // 2]
            seen = struct.unpack(layout, arranged(struct.pack(f">{len(taken)}H", *taken), order))[0]
            assert readings[index].value == seen == value, (type_name, order)
            assert readings[index].quality == Quality.GOOD


async def test_bits_of_all_tables(peer: ModbusServer) -> None:
    peer.set("c", 5, 1, 0, 1)
    peer.set("di", 2000, 1, 0, 1)
    peer.set("hr", 7, 33089)  # 0x8141: bits 0, 6, 8 and 15
    texts = ["c:5", "c:6", "c:7", "di:2000", "di:2001", "di:2002"]
    texts += [f"hr:7.{bit}" for bit in range(16)]
    await peer.sync()
    points = [parse_point(text) for text in texts]
    points += [parse_point(f"hr:7.{bit}", order="BADC") for bit in range(16)]
    driver = modbus_tcp("127.0.0.1", peer.port, points, timeout_s=5.0)
    await driver.connect()
    values = {r.point: r.value for r in await driver.read(driver.plan(range(len(points))))}
    await driver.close()
    assert [values[i] for i in range(6)] == [1, 0, 1, 1, 0, 1]
    assert [bit for bit in range(16) if values[6 + bit]] == [0, 6, 8, 15]
    assert [bit for bit in range(16) if values[22 + bit]] == [0, 7, 8, 14]


async def test_written_values_as_mbpoll_sees_them(peer: ModbusServer) -> None:
    points = [
        parse_point("hr:10", "float32", "CDAB"),
        parse_point("hr:12", "int16"),
        parse_point("hr:13", "float64", "DCBA"),
        parse_point("c:16"),
    ]
    driver = modbus_tcp("127.0.0.1", peer.port, points, timeout_s=5.0)
    await driver.connect()
    for index, value in enumerate((1.5, -2.0, 1e-300, 1.0)):
        await driver.write(index, value)
    await driver.close()
    words = await words_of(peer, "4", 10, 7)
    data = struct.pack(">7H", *words)
    assert struct.unpack(">f", arranged(data[:4], "CDAB"))[0] == 1.5
    assert struct.unpack(">h", data[4:6])[0] == -2
    assert struct.unpack(">d", arranged(data[6:], "DCBA"))[0] == 1e-300
    assert re.search(r"\[16\]:\s+1", await mbpoll(peer, "-t", "0", "-r", "16", "-1", "127.0.0.1"))


async def test_the_largest_reads(peer: ModbusServer) -> None:
    peer.set("hr", 124, 4242)
    await peer.sync()
    points = [parse_point("hr:0"), parse_point("hr:124"), parse_point("c:0"), parse_point("c:1999")]
    driver = modbus_tcp("127.0.0.1", peer.port, points, timeout_s=5.0, max_gap=2000)
    await driver.connect()
    values = {r.point: r.value for r in await driver.read(driver.plan(range(4)))}
    await driver.close()
    assert values == {0: 0.0, 1: 4242.0, 2: 0.0, 3: 0.0}
    assert driver.stats() == {"good": 2}
