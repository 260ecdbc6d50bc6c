"""The scanner polls a libmodbus server; what arrives is compared with what was set there."""

import asyncio
import math
import time
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.kind import Surroundings
from fastpath.codes import NONE_U32, Quality, Reason
from gateway.guard.apply import Running
from gateway.site.model import Burst, Config, Device, Duration, Point, Signal, Site, Tag
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.proxy import FaultProxy
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

MS = 1_000_000


def device(address: str, **fields: Any) -> Device:
    defaults: dict[str, Any] = {
        "poll": Duration(20 * MS),
        "timeout": Duration(200 * MS),
        "settle": Duration(0),
    }
    return Device(id="plc", driver="modbus-tcp", address=address, **(defaults | fields))


def tag(ident: str, address: str, **fields: Any) -> Tag:
    scale = fields.pop("scale", 1.0)
    point = Point(address=address, type=fields.pop("type", ""), scale=scale)
    defaults: dict[str, Any] = {
        "poll": Duration(20 * MS),
        "stale_after": Duration(150 * MS),
        "record": "change",
    }
    return Tag(id=ident, device="plc", point=point, **(defaults | fields))


def site(address: str, *tags: Tag, **fields: Any) -> Config:
    return Config(site=Site(id="s"), device=(device(address, **fields),), tag=tags)


@pytest.fixture
async def server() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as running:
        running.set_float("ir", 100, 1.5)
        running.set("hr", 5, 7)
        running.set("di", 3, 1)
        await running.sync()
        yield running


async def test_values_reach_the_image_in_one_samples_per_poll(server: ModbusServer) -> None:
    config = site(
        server.address,
        tag("ch4", "ir:100", type="float32"),
        tag("level", "hr:5"),
        tag("fan", "di:3"),
    )
    async with Bench(config).scanning() as bench:
        await bench.until(lambda: len(bench.samples) >= 6)
    assert [bench.value(i) for i in range(3)] == [1.5, 7.0, 1.0]
    assert {sample[1] for sample in bench.samples} == {Quality.GOOD}
    first, second = bench.samples[:3], bench.samples[3:6]
    assert sorted(sample[0] for sample in first) == [0, 1, 2]
    assert len({sample[5] for sample in first}) == 1
    assert first[0][5] < second[0][5]
    assert bench.recorded == first


async def test_the_guard_gets_its_tags_by_its_slots(server: ModbusServer) -> None:
    config = site(server.address, tag("ch4", "ir:100", type="float32"), tag("level", "hr:5"))
    async with Bench(config).scanning() as bench:
        await bench.until(lambda: len(bench.samples) >= 2)
        assert bench.link.sent == []
        bench.running = Running(b"Q" * 32, {}, array("I"), array("I", [NONE_U32, 9]))
        bench.scanner.resend()
        [(program, [resent])] = bench.link.sent
        count = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > count)
    assert program == int.from_bytes(b"Q" * 8, "little")
    assert (resent[0], resent[4], resent[5]) == (9, 7.0, bench.samples[count - 1][5])
    assert [sample[0] for sample in bench.link.sent[-1][1]] == [9]


async def test_a_silent_device_turns_bad_at_stale_after_and_comes_back(
    server: ModbusServer,
) -> None:
    async with FaultProxy("127.0.0.1", server.port) as line:
        config = site(line.address, tag("level", "hr:5"))
        async with Bench(config).scanning() as bench:
            await bench.until(lambda: bench.quality(0) == (Quality.GOOD, 0))
            line.down.drop = True
            await bench.until(lambda: bench.quality(0)[0] == Quality.BAD)
            good, bad = bench.samples[-2:]
            assert bench.quality(0) == (Quality.BAD, Reason.COMM_FAILURE)
            assert math.isnan(bad[4])
            assert bad[5] - good[5] > 150 * MS
            assert bench.recorded[-1][:4] == bad[:4]
            line.heal()
            await bench.until(lambda: bench.quality(0) == (Quality.GOOD, 0))
    assert [sample[1] for sample in bench.recorded] == [Quality.GOOD, Quality.BAD, Quality.GOOD]


async def test_an_unreachable_device_is_one_problem(server: ModbusServer) -> None:
    async with FaultProxy("127.0.0.1", server.port) as line:
        await line.refuse()
    bench = Bench(site(line.address, tag("level", "hr:5")))
    async with bench.scanning():
        while not bench.problems.active():  # noqa: ASYNC110  told by the session's own task
            await asyncio.sleep(0.005)
    [problem] = bench.problems.active()
    assert (problem.kind, problem.ident) == ("device", "plc")
    assert problem.text.startswith("no connection")
    assert bench.samples == []
    assert not bench.scanner.stats().devices["plc"].up


@pytest.fixture
async def small_server() -> AsyncIterator[str]:
    """A pymodbus server with holding registers 0 to 9 alone."""
    data = [SimData(0, values=7, count=10, datatype=DataType.REGISTERS)]
    server: Any = ModbusTcpServer(SimDevice(1, simdata=data), address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    yield f"127.0.0.1:{server.transport.sockets[0].getsockname()[1]}"
    await server.shutdown()


async def test_a_wrong_register_is_named_and_spoils_no_other(small_server: str) -> None:
    config = site(small_server, tag("level", "hr:5"), tag("lost", "hr:12"))
    async with Bench(config).scanning() as bench:
        await bench.until(lambda: bench.quality(1)[1] == Reason.DEVICE_FAILURE)
        while not bench.problems.active():  # noqa: ASYNC110  told after the samples
            await asyncio.sleep(0.005)
        await bench.until(lambda: bench.quality(0)[0] == Quality.GOOD)
    [problem] = bench.problems.active()
    assert (problem.kind, problem.ident) == ("points", "plc")
    assert problem.text.startswith("lost: ")
    assert "level" not in problem.text


async def test_fast_devices_are_the_guards_alone() -> None:
    bench = Bench(site("127.0.0.1:1", tag("level", "hr:5"), fast=True))
    assert bench.scanner.jobs() == {}
    assert bench.scanner.stats().devices == {}


async def test_the_guard_is_told_whether_a_device_is_connected(server: ModbusServer) -> None:
    bench = Bench(site(server.address, tag("a", "hr:5")))
    names = {"tags": ["sys.gateway.alive", "a", "sys.plc.connected"]}
    bench.running = Running(b"P" * 32, names, array("I"), array("I", [NONE_U32]))
    within_ns = 3 * 20 * MS + 200 * MS
    bench.scanner.tell_connected(1_000 * MS)
    assert bench.link.sent == []  # it may still answer
    bench.scanner.tell_connected(1_001 * MS + within_ns)
    assert _told(bench) == [0.0]
    async with bench.scanning():
        await bench.until(lambda: bench.value(0) == 7.0)
    newest_ns = max(sample[5] for sample in bench.samples)
    bench.scanner.tell_connected(newest_ns)
    assert _told(bench)[-1] == 1.0
    count = len(_told(bench))
    bench.scanner.tell_connected(newest_ns + within_ns)
    assert len(_told(bench)) == count  # within a second nothing new
    bench.scanner.tell_connected(newest_ns + within_ns + 1)
    assert _told(bench)[count:] == [0.0]
    bench.scanner.tell_connected(newest_ns + within_ns + 1_001 * MS)
    assert _told(bench)[count:] == [0.0, 0.0]  # again, lest it goes stale there
    assert {program for program, _ in bench.link.sent} == {bench.running.number}


async def test_signals_of_a_device_that_we_poll(server: ModbusServer, tmp_path: Path) -> None:
    config = site(
        server.address,
        tag("level", "hr:20", signal=Signal(kind="4-20mA"), range=(0.0, 10.0), scale=0.001),
        tag("passed", "hr:21", signal=Signal(kind="counter", bits=16)),
        tag("still", "hr:22", stuck_after=Duration(200 * MS)),
    )
    server.set("hr", 20, 12_000)
    server.set("hr", 21, 65_530)
    server.set("hr", 22, 7)
    await server.sync()
    async with Bench(config, Surroundings(no_secrets, tmp_path)).scanning() as bench:
        await bench.until(lambda: bench.value(0) == 5.0)
        await bench.until(lambda: bench.value(1) == 65_530.0)
        server.set("hr", 20, 2_100)
        server.set("hr", 21, 4)
        await bench.until(lambda: bench.quality(0) == (Quality.BAD, Reason.DEVICE_FAILURE))
        await bench.until(lambda: bench.value(1) == 65_540.0)
        await bench.until(lambda: bench.quality(2) == (Quality.BAD, Reason.STUCK))
        server.set("hr", 22, 8)
        await bench.until(lambda: bench.quality(2) == (Quality.GOOD, 0))
        told = {problem.ident: problem.text for problem in bench.problems.active()}
        assert told["level"] == "the signal has failed: 2.1 mA (NE 43: below 3.6 or above 21)"
        assert told["still"].startswith("stands still")
    async with Bench(config, Surroundings(no_secrets, tmp_path)).scanning() as bench:
        server.set("hr", 21, 10)
        await bench.until(lambda: bench.value(1) == 65_546.0)  # over a restart


async def test_a_value_by_hand_is_uncertain_lasts_and_is_bad_for_the_guard(
    server: ModbusServer,
) -> None:
    async with FaultProxy("127.0.0.1", server.port) as line:
        config = site(line.address, tag("level", "hr:5", uncertain="use"))
        async with Bench(config).scanning() as bench:
            bench.running = Running(b"Q" * 32, {}, array("I"), array("I", [3]))
            await bench.until(lambda: bench.quality(0) == (Quality.GOOD, 0))
            bench.link.sent.clear()
            bench.scanner.substitute(0, 4.5)
            assert (bench.value(0), bench.quality(0)) == (4.5, BY_HAND)
            line.down.drop = True  # it holds while the device is away, for longer than stale_after
            begun = len(bench.samples)
            await bench.until(lambda: len(bench.samples) >= begun + 5)
            assert {sample[1:3] for sample in bench.samples[begun - 1 :]} == {BY_HAND}
            bench.scanner.resend()
            told = [sample for _, samples in bench.link.sent for sample in samples]
            assert len(told) >= 6
            assert {sample[1:3] for sample in told} == {(Quality.BAD, Reason.SUBSTITUTED)}
            bench.scanner.substitute(0, None)
            assert bench.quality(0) == (Quality.BAD, Reason.COMM_FAILURE)
            line.heal()
            await bench.until(lambda: bench.quality(0) == (Quality.GOOD, 0))
    assert bench.value(0) == 7.0


async def test_an_alarm_raises_the_rate_of_its_device(server: ModbusServer) -> None:
    raised: set[str] = set()
    burst = Burst(poll=Duration(10 * MS), hold=Duration(60_000 * MS))
    config = site(server.address, tag("level", "hr:5", poll=Duration(3_600_000 * MS)), burst=burst)
    bench = Bench(config)
    bench.scanner._raised_tags = lambda: raised
    async with bench.scanning():
        await bench.until(lambda: len(bench.samples) == 1)
        raised.add("elsewhere")
        bench.scanner.look_for_bursts(time.monotonic_ns())
        raised.add("level")
        await bench.until(lambda: len(bench.samples) >= 5)
    assert bench.scanner.stats().devices["plc"].bursts == 1


BY_HAND = (Quality.UNCERTAIN, Reason.SUBSTITUTED)


def _told(bench: Bench) -> list[float]:
    """What the guard was told of the device's connection."""
    return [sample[4] for _, samples in bench.link.sent for sample in samples if sample[0] == 2]
