"""What breaks at an OPC UA server, and what the driver, its session and the scanner make of it."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from asyncua.ua.status_codes import code_to_name_doc
from msgspec.structs import replace

from drivers import opcua_subscription
from drivers.errors import DriverError, LinkError
from drivers.kind import Surroundings
from drivers.opcua import OpcUa
from drivers.opcua_certificates import load_certificate, trust
from drivers.opcua_client import CHUNKS_MAX, MESSAGE_BYTES_MAX, within
from drivers.opcua_status import overflowed, quality_of
from drivers.opcua_subscribing import OpcUaSubscribing
from drivers.registry import make_driver
from fastpath.codes import Quality, Reason
from gateway.site.model import Config, Device, Duration, Point, Site, Tag
from tests.helpers.opcua_server import OpcUaServer, opcua_server
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
WITHIN_S = 20.0
MANY = 3_000
GOOD = (Quality.GOOD, 0)
LOST = (Quality.BAD, Reason.COMM_FAILURE)


@pytest.fixture
def pki(opcua_peer: OpcUaServer) -> Path:
    """Its certificate serves others too."""
    return Path(opcua_peer.options["pki"])


@pytest.fixture
def server(opcua_peer: OpcUaServer) -> OpcUaServer:
    return opcua_peer


def device(url: str, **fields: Any) -> Device:
    if "security" not in fields:
        fields |= {"security": "None", "insecure": True}
    defaults: dict[str, Any] = {
        "id": "dut",
        "driver": "opcua",
        "address": url,
        "poll": Duration(200 * MS),
        "timeout": Duration(1_000 * MS),
        "settle": Duration(0),
    }
    return Device(**(defaults | fields))


def node(name: str, **fields: Any) -> Point:
    return Point(node=f"ns=1;s={name}", **fields)


def made(device: Device, points: list[Point], state: Path | None = None) -> OpcUa:
    around = Surroundings(no_secrets, state)
    driver = make_driver("opcua", device, [(point, None) for point in points], around)
    return cast("OpcUa", driver)


def site(device: Device, *points: Point) -> Config:
    tags = tuple(
        Tag(
            id=f"tag{number}",
            device="dut",
            point=point,
            poll=Duration(device.poll),
            stale_after=Duration(1_600 * MS),
            record="change",
        )
        for number, point in enumerate(points)
    )
    return Config(site=Site(id="s"), device=(device,), tag=tags)


async def until(bench: Bench, wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        await bench.until(wanted)


async def lost_and_back(
    server: OpcUaServer, lose: Callable[[], None], back: Callable[[], Awaitable[None]]
) -> None:
    """Its tags are BAD while it is away and GOOD again, of a new session, told once."""
    bench = Bench(site(device(server.url), node("fixed"), node("flag", type="bool")))
    async with bench.scanning():
        await until(bench, lambda: bench.quality(0) == bench.quality(1) == GOOD)
        stats = bench.scanner.stats().devices["dut"]
        first = stats.connects
        lose()
        await until(bench, lambda: bench.quality(0) == bench.quality(1) == LOST)
        async with asyncio.timeout(WITHIN_S):
            await bench.told(problems=1)
        await back()
        await until(bench, lambda: bench.quality(0) == bench.quality(1) == GOOD)
        async with asyncio.timeout(WITHIN_S):
            await bench.told(problems=0)
        assert stats.connects > first, "a new session, never the old one"


@pytest.mark.timeout(120)  # two starts of a server that takes seconds
async def test_a_killed_server_is_bad_in_time_and_back_by_itself(pki: Path) -> None:
    with opcua_server(pki) as server:
        await lost_and_back(server, server.kill, lambda: asyncio.to_thread(server.start))


async def test_a_frozen_server_is_bad_in_time_and_back_by_itself(server: OpcUaServer) -> None:
    async def back() -> None:
        server.thaw()

    try:
        await lost_and_back(server, server.freeze, back)
    finally:
        server.thaw()


async def test_a_subscription_that_ends_while_its_session_lives_is_made_anew(
    server: OpcUaServer,
) -> None:
    server.set("temp", 1.0)
    bench = Bench(site(device(server.url), node("temp")))
    async with bench.scanning():
        await until(bench, lambda: bench.quality(0) == GOOD and bench.value(0) == 1.0)
        stats = bench.scanner.stats().devices["dut"]
        before = stats.connects
        server.tell(drop=True)
        server.set("temp", 2.0)
        await until(bench, lambda: bench.quality(0) == GOOD and bench.value(0) == 2.0)
        assert stats.connects > before
        assert stats.error


async def test_a_server_with_fewer_subscriptions_than_poll_periods_tells_of_all(pki: Path) -> None:
    config = site(device(""), *(node(name) for name in ("temp", "Level", "count", "byte")))
    tags = [
        replace(tag, poll=Duration(ms * MS))
        for tag, ms in zip(config.tag, (400, 300, 200, 100), strict=True)
    ]
    with opcua_server(pki, subscriptions=2) as small:
        bench = Bench(replace(config, device=(device(small.url),), tag=tuple(tags)))
        async with bench.scanning():
            await until(bench, lambda: all(bench.quality(i) == GOOD for i in range(4)))
            assert small.tell(count=True)["subscriptions"] == 2
            small.set("temp", 77.0)
            await until(bench, lambda: bench.value(0) == 77.0)
            assert bench.scanner.stats().devices["dut"].connects == 1


async def test_a_node_that_goes_and_comes_is_bad_and_good_again(
    server: OpcUaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcua_subscription, "RETRY_NS", 100 * MS)
    server.tell(add="pump", value=1.5)
    bench = Bench(site(device(server.url), node("pump"), node("flag", type="bool")))
    async with bench.scanning():
        await until(bench, lambda: bench.quality(0) == bench.quality(1) == GOOD)
        server.tell(remove="pump")
        await until(bench, lambda: bench.quality(0) == (Quality.BAD, Reason.UNREADABLE))
        server.tell(add="pump", value=2.5)
        await until(bench, lambda: bench.quality(0) == GOOD and bench.value(0) == 2.5)
        assert bench.quality(1) == GOOD
        assert bench.scanner.stats().devices["dut"].connects == 1
    server.tell(remove="pump")


async def test_unchanged_values_stay_fresh_and_reach_the_guard_as_touches(
    server: OpcUaServer,
) -> None:
    server.set("temp", 1.0)
    bench = Bench(site(device(server.url), node("temp"), node("flag", type="bool")))
    bench.running.slots[0] = 4
    bench.running.slots[1] = 7
    async with bench.scanning():
        async with asyncio.timeout(WITHIN_S):
            while len(bench.link.touched) < 10:  # noqa: ASYNC110  2 s, longer than stale_after
                await asyncio.sleep(0.05)
    assert {tuple(slots) for _, _, slots in bench.link.touched} == {(4, 7)}
    assert {sample[1] for sample in bench.samples} == {Quality.GOOD}
    assert len(bench.recorded) == 2, "what did not change is not recorded again"


async def test_a_source_clock_of_1970_or_2100_ages_nothing(server: OpcUaServer) -> None:
    now_ns = time.time_ns()
    driver = made(device(server.url, read="poll"), [node("temp")])
    await driver.connect()
    try:
        for when in ({"time": "1970-01-02"}, {"time": "2100-01-01"}, {}):
            server.set("temp", 3.0, **when)
            [reading] = await driver.read((0,))
            assert (reading.value, reading.quality) == (3.0, Quality.GOOD)
            about_now = 0 <= reading.source_utc_ns - now_ns < 60_000_000_000
            assert about_now or reading.source_utc_ns == 0
        assert about_now
    finally:
        await driver.close()
        server.set("temp", 3.0)


async def test_every_status_code_has_its_quality_and_no_bad_value_is_used(
    server: OpcUaServer,
) -> None:
    qualities = (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD)
    driver = made(device(server.url, read="poll"), [node("count")])
    await driver.connect()
    seen = set()
    try:
        for code in sorted(code_to_name_doc):
            server.tell(set="count", value=7, status=code)
            [reading] = await driver.read((0,))
            assert reading.quality == qualities[code >> 30], hex(code)
            assert (reading.value == 7.0) is (reading.quality != Quality.BAD), hex(code)
            seen.add((reading.quality, reading.reason))
    finally:
        await driver.close()
        server.set("count", -7)
    assert len(seen) > 8


def test_codes_of_tomorrow_and_flags() -> None:
    assert quality_of(0xC000_0000)[0] is Quality.BAD, "reserved severity"
    assert quality_of(0x8FFF_0000) == (Quality.BAD, Reason.DEVICE_FAILURE)
    assert quality_of(0x4FFF_0480)[0] is Quality.UNCERTAIN
    assert quality_of(0x0000_0480) == (Quality.GOOD, Reason.NEVER_READ)
    assert quality_of(0x8031_0480) == quality_of(0x8031_0000) == (Quality.BAD, Reason.COMM_FAILURE)
    assert overflowed(0x0000_0480)
    assert not overflowed(0x0000_0080), "the bit means something else without its info type"
    assert not overflowed(0x0000_0400)


async def test_values_that_the_servers_queue_lost_are_counted(server: OpcUaServer) -> None:
    slow = device(server.url, poll=Duration(500 * MS), sampling=Duration(20 * MS), queue=2)
    driver = made(slow, [node("n0")])
    assert isinstance(driver, OpcUaSubscribing)
    await driver.connect()
    try:
        await driver.subscribe([(500 * MS, (0,))])
        server.tell(turn=40, every=25)
        async with asyncio.timeout(WITHIN_S):
            while not (await driver.pushed()).gaps:
                pass
    finally:
        await driver.close()
    await asyncio.to_thread(server.told)


async def test_a_server_that_tells_less_often_is_said_to(server: OpcUaServer) -> None:
    hasty = device(server.url, poll=Duration(10 * MS))  # node-opcua: 50 ms at best
    driver = made(hasty, [node("temp")])
    assert isinstance(driver, OpcUaSubscribing)
    await driver.connect()
    try:
        await driver.subscribe([(10 * MS, (0,))])
        assert "tells changes every 0.05 s" in driver.facts().troubles["server_pace"]
    finally:
        await driver.close()
    assert not driver.facts().troubles


async def test_many_nodes_each_second_lose_nothing(server: OpcUaServer) -> None:
    await follow_many(server, rounds=4)


@pytest.mark.campaign
@pytest.mark.timeout(900)
async def test_many_nodes_for_ten_minutes_lose_nothing(server: OpcUaServer) -> None:
    await follow_many(server, rounds=600)


async def follow_many(server: OpcUaServer, rounds: int) -> None:
    """Every value of 3,000 nodes that change each second arrives, in its order."""
    driver = made(
        device(server.url, poll=Duration(1_000 * MS), timeout=Duration(5_000 * MS)),
        [node(f"n{i}") for i in range(MANY)],
    )
    assert isinstance(driver, OpcUaSubscribing)
    await driver.connect()
    got: list[list[float]] = [[] for _ in range(MANY)]
    try:
        await driver.subscribe([(1_000 * MS, driver.plan(range(MANY)))])
        async with asyncio.timeout(WITHIN_S):
            while not all(got):
                for reading in (await driver.pushed()).readings:
                    got[reading.point].append(reading.value)
        first = [values[-1] for values in got]
        cpu_s, gaps = time.process_time(), 0
        server.tell(turn=rounds, every=1_000)
        async with asyncio.timeout(WITHIN_S + 1.5 * rounds):
            while any(values[-1] != rounds for values in got):
                batch = await driver.pushed()
                gaps += batch.gaps
                for reading in batch.readings:
                    got[reading.point].append(reading.value)
        cpu_s = time.process_time() - cpu_s
        print(f"{MANY} nodes, {rounds} rounds: {cpu_s / rounds:.2f} s CPU each")
        assert not gaps
        assert not driver.faults()
    finally:
        await driver.close()
    await asyncio.to_thread(server.told)
    expected = [float(number) for number in range(1, rounds + 1)]
    for begin, values in zip(first, got, strict=True):
        assert values[values.index(begin) + 1 :] == expected


@pytest.mark.parametrize(
    ("times", "security"),
    [
        (20, "None"),
        pytest.param(
            1_000, "Basic256Sha256", marks=[pytest.mark.campaign, pytest.mark.timeout(900)]
        ),
    ],
)
async def test_reconnecting_leaves_nothing_behind(
    server: OpcUaServer, tmp_path: Path, times: int, security: str
) -> None:
    trust(tmp_path, "dut", load_certificate(server.certificate))
    made_so = device(server.url, security=security, insecure=security == "None")
    driver = made(made_so, [node("temp")], tmp_path)
    assert isinstance(driver, OpcUaSubscribing)
    left = server.tell(count=1)["sessions"]  # of tests that cut their line: it keeps them a minute
    held: list[tuple[int, int, int]] = []
    for _ in range(times):
        await driver.connect()
        await driver.subscribe([(200 * MS, (0,))])
        await driver.pushed()
        held.append(
            (len(asyncio.all_tasks()), threading.active_count(), len(os.listdir("/proc/self/fd")))
        )
        await driver.close()
    assert held[-1] == held[1], "tasks, threads, descriptors"
    assert server.tell(count=1)["sessions"] <= left + 1


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hostile(peer: Peer) -> AsyncIterator[str]:
    """A server of ours that means no good; its address."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(cast("asyncio.Task[None]", task))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await peer(reader, writer)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"opc.tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take HEL and allow everything in ACK; then take OPN."""
    await reader.readexactly(struct.unpack("<I", (await reader.readexactly(8))[4:])[0] - 8)
    huge = 2**31 - 1
    writer.write(b"ACKF" + struct.pack("<IIIIII", 28, 0, huge, huge, huge, huge))
    await reader.readexactly(struct.unpack("<I", (await reader.readexactly(8))[4:])[0] - 8)


async def poured(writer: asyncio.StreamWriter, chunk: Callable[[int], bytes], count: int) -> int:
    """Bytes that could be written before the other side ended the connection."""
    written = 0
    with contextlib.suppress(OSError):
        for number in range(count):
            data = chunk(number)
            writer.write(data)
            await writer.drain()
            written += len(data)
    return written


async def test_a_message_of_100_mb_is_cut_off_at_a_chunk() -> None:
    written: list[int] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greeted(reader, writer)
        writer.write(b"OPNF" + struct.pack("<II", 100_000_000, 1))
        written.append(await poured(writer, lambda _: bytes(65_536), 1_500))

    async with hostile(peer) as url:
        driver = made(device(url), [])
        with pytest.raises(DriverError):
            await driver.connect()
        await driver.close()
        async with asyncio.timeout(WITHIN_S):
            while not written:  # noqa: ASYNC110  no event of its own
                await asyncio.sleep(0.01)
    assert written[0] < MESSAGE_BYTES_MAX + 8_000_000, "what the kernel's buffers hold besides"


async def test_endless_chunks_are_cut_off() -> None:
    written: list[int] = []
    policy = b"http://opcfoundation.org/UA/SecurityPolicy#None"

    def chunk(number: int) -> bytes:
        security = struct.pack("<I", len(policy)) + policy + struct.pack("<ii", -1, -1)
        body = security + struct.pack("<II", number + 1, 1) + bytes(60_000)
        return b"OPNC" + struct.pack("<II", 12 + len(body), 1) + body

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greeted(reader, writer)
        written.append(await poured(writer, chunk, 10 * CHUNKS_MAX))

    async with hostile(peer) as url:
        driver = made(device(url), [])
        with pytest.raises(DriverError):
            await driver.connect()
        await driver.close()
        async with asyncio.timeout(WITHIN_S):
            while not written:  # noqa: ASYNC110  no event of its own
                await asyncio.sleep(0.01)
    assert written[0] < MESSAGE_BYTES_MAX + 8_000_000


async def test_a_timeout_is_no_cancellation_whatever_the_library_raises() -> None:
    class OddCancelledError(asyncio.CancelledError):
        """As the library's own wait raises it when an answer comes as it is timed out."""

    async def call() -> None:
        async with within(0.01):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OddCancelledError from None

    with pytest.raises(TimeoutError):
        await call()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_noise_is_no_server() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)
        await writer.drain()

    async with hostile(peer) as url:
        driver = made(device(url), [])
        with pytest.raises(DriverError):
            await driver.connect()
        await driver.close()


async def test_a_name_service_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(*_: object, **__: object) -> list[Any]:
        release.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    driver = made(device("opc.tcp://dcs.plant:4840", timeout=Duration(200 * MS)), [])
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count())
    with pytest.raises(LinkError, match="name service"):
        await driver.connect()
    counting.cancel()
    await driver.close()
    release.set()
    assert turns >= 5, "the loop went on meanwhile"


def test_the_library_is_imported_for_such_a_device_alone() -> None:
    program = (
        "import sys; import gateway.__main__, gateway.run; "
        "gateway.__main__.parser(); assert 'asyncua' not in sys.modules; "
        "from drivers.registry import DRIVERS; assert 'opcua' in DRIVERS; "
        "assert 'asyncua' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
