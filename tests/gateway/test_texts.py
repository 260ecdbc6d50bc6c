"""Text tags: read from registers, shown, sent when they change, kept out of everything else."""

import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from drivers.points import decode_text, parse_point
from fastpath.codes import Quality
from gateway.plant.texts import SENT_EVERY_NS, Texts
from gateway.site.model import Config, Device, Duration, Point, Site, Tag
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.proxy import FaultProxy
from tests.helpers.scanning import Bench

MS = 1_000_000


def words(text: str, registers: int) -> tuple[int, ...]:
    data = text.encode().ljust(2 * registers, b"\0")
    return struct.unpack(f">{registers}H", data)


def site(address: str) -> Config:
    device = Device(
        id="plc",
        driver="modbus-tcp",
        address=address,
        poll=Duration(20 * MS),
        timeout=Duration(200 * MS),
        settle=Duration(0),
    )
    points = {
        "batch": Point(address="hr:100", type="text", length=6),
        "level": Point(address="hr:106"),
        "maker": Point(address="hr:107", type="text", length=4, order="BADC"),
    }
    tags = tuple(
        Tag(
            id=ident,
            device="plc",
            point=point,
            poll=Duration(20 * MS),
            stale_after=Duration(200 * MS),
            record="all",
        )
        for ident, point in points.items()
    )
    return Config(site=Site(id="s"), device=(device,), tag=tags)


@pytest.fixture
async def server() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as running:
        running.set("hr", 100, *words("Charge Ä-7", 6))
        running.set("hr", 106, 42)
        running.set("hr", 107, *(w >> 8 | (w & 255) << 8 for w in words("ACME", 4)))
        await running.sync()
        yield running


async def test_texts_are_read_with_their_neighbours_and_told_when_they_change(
    server: ModbusServer,
) -> None:
    bench = Bench(site(server.address))
    events: list[tuple[str, str, str]] = []
    problems: Any = bench.problems
    problems.event = lambda kind, ident, text: events.append((kind, ident, text))
    async with bench.scanning():
        await bench.until(lambda: len(bench.samples) >= 9)
        stats = bench.scanner.stats()
        assert stats.texts == {"batch": "Charge Ä-7", "maker": "ACME"}
        assert bench.value(1) == 42.0
        assert bench.quality(0) == bench.quality(2) == (Quality.GOOD, 0)
        assert stats.devices["plc"].requests["good"] <= stats.devices["plc"].polls, "one read each"
        server.set("hr", 100, *words("Charge B", 6))
        await server.sync()
        await bench.until(lambda: bench.scanner.stats().texts["batch"] == "Charge B")
    assert {sample[0] for sample in bench.recorded} == {1}, "no text in the history"
    assert events == [
        ("text", "batch", 'now "Charge Ä-7"'),
        ("text", "maker", 'now "ACME"'),
    ], "the newer one waits its ten seconds"


async def test_a_text_of_a_dead_device_is_bad(server: ModbusServer) -> None:
    async with FaultProxy("127.0.0.1", server.port) as line:
        bench = Bench(site(line.address))
        async with bench.scanning():
            await bench.until(lambda: len(bench.samples) >= 3)
            line.down.drop = True
            await bench.until(lambda: bench.quality(0)[0] == Quality.BAD)
        assert {sample[0] for sample in bench.recorded} == {1}


def test_a_text_that_never_rests_is_sent_now_and_then() -> None:
    told: list[str] = []

    class Sink:
        def event(self, kind: str, ident: str, text: str) -> None:
            told.append(f"{kind} {ident} {text}")

    problems: Any = Sink()
    texts = Texts({3: "batch"}, problems)
    step_ns = SENT_EVERY_NS // 4
    for number in range(9):
        texts.take({3: f"n{number}"}, (number + 1) * step_ns)
    assert told == ['text batch now "n0"', 'text batch now "n4"', 'text batch now "n8"']
    assert texts.overtaken == 6
    assert texts.by_tag() == {"batch": "n8"}


@pytest.mark.parametrize(
    ("order", "data", "text"),
    [
        ("ABCD", b"PUMP 7\0\0", "PUMP 7"),
        ("ABCD", b"  a b   ", "a b"),
        ("BADC", b"UPPM7 \0\0", "PUMP 7"),
        ("CDAB", b"PUMP 7\0\0", "PUMP 7"),
        ("ABCD", b"a\0bcdefg", "a"),
        ("ABCD", b"x\x01\n\x1b[2y", "x???[2y"),
        ("ABCD", b"x\xff\xfey", "x??y"),
    ],
)
def test_registers_as_a_text(order: str, data: bytes, text: str) -> None:
    point = parse_point("hr:0", "text", order, length=4)
    found = decode_text(point, data)
    assert found.replace("\N{REPLACEMENT CHARACTER}", "?") == text
    assert found.isprintable()
