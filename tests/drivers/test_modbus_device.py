"""What a device is beside its points: two addresses, a life counter, places nobody may read."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import Reading
from drivers.errors import DriverError, LinkError
from drivers.kind import Surroundings
from drivers.life import Life
from drivers.modbus import DAY_NS, ModbusUnit
from drivers.modbus_dial import TcpDial
from drivers.modbus_wire import UNREACHED_MAX, BackupWire, OwnWire
from drivers.plan import plan
from drivers.points import Excluded, parse_excluded, parse_point
from drivers.registry import make_driver
from fastpath.codes import Quality, Reason
from gateway.site.model import Alive, Config, Device, Duration, Point, Site, Tag
from tests.helpers.device import Device as DeviceOnLoop
from tests.helpers.device import serving
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.proxy import FaultProxy
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
S = 1_000_000_000
BAD = (Quality.BAD, Reason.DEVICE_FAILURE)


@pytest.fixture
async def server() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as running:
        running.set("hr", 5, 7)
        await running.sync()
        yield running


def site(device: Device, *addresses: str) -> Config:
    tags = tuple(
        Tag(
            id=f"t{number}",
            device=device.id,
            point=Point(address=address),
            poll=Duration(20 * MS),
            stale_after=Duration(500 * MS),
            record="change",
        )
        for number, address in enumerate(addresses)
    )
    return Config(site=Site(id="s"), device=(device,), tag=tags)


def device(address: str, **fields: object) -> Device:
    return Device(
        id="plc", driver="modbus-tcp", address=address, poll=Duration(20 * MS),
        timeout=Duration(100 * MS), settle=Duration(0), **fields,  # type: ignore[arg-type]
    )  # fmt: skip


# ---- a second address --------------------------------------------------------------------------


async def test_the_second_address_takes_over_stays_and_gives_back(server: ModbusServer) -> None:
    async with (
        FaultProxy("127.0.0.1", server.port) as first,
        FaultProxy("127.0.0.1", server.port) as second,
    ):
        bench = Bench(site(device(first.address, backup=second.address), "hr:5"))
        facts = bench.scanner.stats().devices["plc"]

        def address() -> str:
            bench.scanner.stats()
            return facts.facts.address

        async with bench.scanning():
            await bench.until(lambda: bench.value(0) == 7.0)
            assert (address(), second.connections) == (first.address, 0)
            first.down.drop = True  # silent: its connection still stands
            await bench.until(lambda: second.passed["down"] > 0)
            await bench.told(problems=1)
            [problem] = bench.problems.active()
            assert (problem.kind, problem.text) == (
                "backup",
                f"on its second address {second.address}",
            )
            assert address() == second.address
            assert bench.quality(0) == (Quality.GOOD, 0), "before it went stale"
            first.heal()
            passed, connections = first.passed["down"], first.connections
            count = len(bench.samples)
            await bench.until(lambda: len(bench.samples) > count + 10)
            assert (first.passed["down"], first.connections) == (passed, connections), "it stays"
            await second.refuse()
            second.cut()
            await bench.until(lambda: first.passed["down"] > passed)
            await bench.told(problems=0)
            assert address() == first.address


async def test_a_gateway_that_does_not_reach_the_unit_gives_way_to_the_other() -> None:
    refusing = DeviceOnLoop(twist=lambda asked: asked.refusal(11))
    async with serving(refusing) as first, serving(DeviceOnLoop(registers={5: 7})) as second:
        address, backup = (f"127.0.0.1:{each.port}" for each in (first, second))
        bench = Bench(site(device(address, backup=backup), "hr:5"))
        async with bench.scanning():
            await bench.until(lambda: bench.value(0) == 7.0)
        assert len(first.asked) == UNREACHED_MAX


async def test_two_dead_addresses_are_both_named() -> None:
    async with FaultProxy("127.0.0.1", 1) as one, FaultProxy("127.0.0.1", 1) as two:
        await one.refuse()
        await two.refuse()
    wires = [OwnWire(TcpDial("127.0.0.1", port), 1, 1.0) for port in (one.port, two.port)]
    wire = BackupWire(*wires)
    with pytest.raises(LinkError, match=rf"{one.port}: .*; .*{two.port}: "):
        await wire.open()
    wire.close()


async def test_a_connection_that_was_cut_is_tried_first_again(server: ModbusServer) -> None:
    async with (
        FaultProxy("127.0.0.1", server.port) as first,
        FaultProxy("127.0.0.1", server.port) as second,
    ):
        wires = [OwnWire(TcpDial("127.0.0.1", line.port), 1, 1.0) for line in (first, second)]
        wire = BackupWire(*wires)
        await wire.open()
        first.cut()
        with contextlib.suppress(DriverError):
            while True:
                await wire.read(3, 5, 1)
        wire.close()
        await wire.open()
        assert await wire.read(3, 5, 1) == b"\0\7"
        assert not wire.on_backup
        wire.close()
        await asyncio.sleep(0)


def test_an_end_of_the_certificate_is_told_before_it_comes() -> None:
    class Certified(OwnWire):
        ends_ns = 100 * DAY_NS

        @property
        def not_after_utc_ns(self) -> int:
            return self.ends_ns

    now_ns = 0
    unit = ModbusUnit(Certified(TcpDial("h", 802), 1, 1.0), [], utc_ns=lambda: now_ns)
    told = []
    for day in (0, 69, 71, 92, 94, 99, 101):
        now_ns = day * DAY_NS + 1
        told.append(dict(unit.facts().troubles))
    assert told[:2] == [{}, {}]
    assert "within 30 days, on 1970-04-11 00:00 UTC" in told[2]["certificate_30d"]
    assert told[2] == told[3]
    assert told[4].keys() == {"certificate_7d"}  # a trouble of its own: an alert of its own
    assert "within 7 days" in told[4]["certificate_7d"]
    assert "within a day" in told[6]["certificate_1d"]


# ---- a counter that must move ------------------------------------------------------------------


async def test_a_plc_in_stop_is_bad_until_its_counter_moves_again(server: ModbusServer) -> None:
    alive = Alive(point="hr:1", within=Duration(200 * MS))
    bench = Bench(site(device(server.address, alive=alive), "hr:5", "c:3"))
    server.count("hr", 1, 1)
    await server.sync()
    async with bench.scanning():
        await bench.until(lambda: len(bench.samples) > 40)
        assert {sample[1] for sample in bench.samples} == {Quality.GOOD}
        assert {sample[0] for sample in bench.samples} == {0, 1}, "the counter is no tag"
        server.count("hr", 60_000, 1)  # it answers, and its counter stands
        await bench.until(lambda: bench.quality(0) == BAD and bench.quality(1) == BAD)
        await bench.told(problems=1)
        [problem] = bench.problems.active()
        assert (problem.kind, problem.ident) == ("alive", "plc")
        assert problem.text == "its life counter hr:1 has not moved for 0.2 s"
        count = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > count + 20)
        assert {sample[1] for sample in bench.samples[count:]} == {Quality.BAD}
        server.set("hr", 1, 99)
        await bench.until(lambda: bench.quality(0)[0] == Quality.GOOD)
        await bench.told(problems=0)


def beat(value: float, point: int = 1) -> Reading:
    return Reading(point, value, int(Quality.GOOD), 0, 0)


def test_a_reconnect_proves_nothing_and_costs_nothing() -> None:
    life = Life(1, "hr:1", 5 * S)
    for at_s in range(6):
        life.judged([beat(3.0)], at_s * S)
    assert not life.stopped
    late = life.judged([beat(1.0, 0), beat(3.0)], 7 * S)
    assert [reading.quality for reading in late] == [Quality.BAD]
    life.connected()
    assert [r.quality for r in life.judged([beat(1.0, 0), beat(3.0)], 8 * S)] == [Quality.BAD]
    assert [r.value for r in life.judged([beat(1.0, 0), beat(4.0)], 9 * S)] == [1.0]
    life.connected()  # away for an hour
    life.judged([beat(4.0)], 3600 * S)
    assert not life.stopped


def test_a_counter_that_stands_over_many_short_connections_is_found() -> None:
    """A PLC in STOP whose connection drops faster than its time runs out."""
    life = Life(1, "hr:1", 5 * S)
    for lost in range(4):
        life.connected()
        for at_s in range(3):
            life.judged([beat(3.0)], (100 * lost + at_s + 1) * S)
        assert life.stopped == (lost >= 2), "two seconds of each connection count"
    life.connected()
    life.judged([beat(9.0)], 1000 * S)
    assert life.stopped, "it may just have begun anew"
    life.judged([beat(10.0)], 1001 * S)
    assert not life.stopped


def test_a_counter_that_moved_while_nobody_looked_has_its_whole_time() -> None:
    life = Life(1, "hr:1", 5 * S)
    for lost in range(4):
        life.connected()
        for at_s in range(3):
            life.judged([beat(float(lost))], (100 * lost + at_s + 1) * S)
    assert not life.stopped


def test_a_counter_that_is_refused_does_not_move() -> None:
    life = Life(1, "hr:1", 5 * S)
    refused = Reading(1, float("nan"), int(Quality.BAD), int(Reason.DEVICE_FAILURE), 0)
    life.judged([refused], S)
    assert [r.quality for r in life.judged([beat(1.0, 0), refused], 7 * S)] == [Quality.BAD]


# ---- places that nobody may read ---------------------------------------------------------------


@given(st.data())
def test_no_read_touches_what_is_excluded(data: st.DataObject) -> None:
    chance = random.Random(data.draw(st.integers(0, 10**6)))
    excluded = [
        Excluded(parse_point("hr:0").area, first, first + chance.randrange(3))
        for first in chance.sample(range(0, 60, 5), 4)
    ]
    points = [parse_point(f"hr:{n}") for n in chance.sample(range(64), 20)]
    points = [p for p in points if not any(each.holds(p) for each in excluded)]
    requests = plan(points, max_gap=60, exclude=excluded)
    read = {n for r in requests for n in range(r.address, r.address + r.count)}
    barred = {n for each in excluded for n in range(each.first, each.last + 1)}
    assert not read & barred
    assert {p.address for p in points} <= read
    free = plan(points, max_gap=60)
    assert len(requests) <= len(free) + len(excluded), "no more reads than that costs"


def test_ranges_of_addresses() -> None:
    assert parse_excluded("hr:100-0x78") == Excluded(parse_point("hr:0").area, 100, 120)
    assert parse_excluded("ir:1", base=1) == Excluded(parse_point("ir:0").area, 0, 0)
    for wrong in ("hr", "hr:5-4", "hr:1-70000", "hr:0", "hr:1-", "hr:1.2", "40001-40010"):
        with pytest.raises(DriverError, match="expected addresses such as"):
            parse_excluded(wrong, base=1)


async def test_a_device_is_read_around_what_it_excludes(server: ModbusServer) -> None:
    made = device(server.address, exclude=("hr:6-8",))
    points: Sequence[tuple[Point, None]] = [
        (Point(address="hr:5"), None),
        (Point(address="hr:9"), None),
    ]
    driver = make_driver("modbus-tcp", made, points, Surroundings(no_secrets))
    blocks = driver.plan([0, 1])
    assert [(b._whole.request.address, b._whole.request.count) for b in blocks] == [(5, 1), (9, 1)]


async def test_many_bits_of_one_register_cost_one_read(server: ModbusServer) -> None:
    server.set("hr", 7, 0b1010)
    await server.sync()
    points = [(Point(address=f"hr:7.{bit}"), None) for bit in range(16)]
    driver = make_driver("modbus-tcp", device(server.address), points, Surroundings(no_secrets))
    await driver.connect()
    readings = await driver.read(driver.plan(range(16)))
    assert [r.value for r in readings] == [float(0b1010 >> bit & 1) for bit in range(16)]
    assert driver.stats() == {"good": 1}
    await driver.close()
