"""Native polling: requests per second and their cost, and what dead devices do to living ones.

Throughput: 50 connections, blocks of 100 registers, 8 values decoded of each; one core has the
server, the other whoever polls. The guard is given more than it can do: 40 requests a device at
the shortest period. Dead and slow: lateness is what the device's own log says of 40 healthy ones,
with ten healthy neighbours and with five that swallow everything and five that answer late.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastpath import blob as blobs
from fastpath.codes import ByteOrder, DeviceKind, Owner, PointType, RecordMode, ResultCode
from tests.benchmarks.loads import output_of
from tests.benchmarks.reaction import CLIENT_PRIORITY, DEVICE_PRIORITY, realtime_allowed
from tests.helpers.blobs import MS, SECOND, conditions
from tests.helpers.build import build
from tests.helpers.guard import GuardProcess, directories
from tests.helpers.modbus_server import ModbusServer, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECTIONS, REGISTERS, FLOATS = 50, 100, 8
REQUESTS_PER_DEVICE = 40  # at 5 ms: 400,000 a second, more than any of them can do
SECONDS = 2.0
SERVER_CORE, CLIENT_CORE = 0, 1
HEALTHY, DEAD, SLOW = 40, 5, 5
POLL_NS, TIMEOUT_NS = 50 * MS, 200 * MS
SLOW_S = 0.9 * TIMEOUT_NS / SECOND
WATCH_S = 3.0


@dataclass
class Speed:
    """One client's rounds: reads per second, and CPU ns per read."""

    per_s: list[float] = field(default_factory=list)
    cpu_ns: list[float] = field(default_factory=list)


@dataclass
class Polling:
    """By client, and the lateness of the healthy devices' polls (ns, one list per round)."""

    speed: dict[str, Speed] = field(default_factory=dict)
    healthy: list[list[int]] = field(default_factory=list)
    with_dead: list[list[int]] = field(default_factory=list)


# ---- programs ------------------------------------------------------------------------------------


def _device(number: int, port: int) -> blobs.Device:
    return blobs.Device(
        key=number + 1, address=bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]),
        connect_timeout_ns=TIMEOUT_NS, timeout_ns=TIMEOUT_NS, settle_ns=0, every_ns=0,
        watchdog_ns=0, request_delay_ns=0, connected_within_ns=SECOND, port=port,
        heartbeat_address=0, flags=0, unit=1, kind=DeviceKind.MODBUS_TCP,
    )  # fmt: skip


def program_of(
    ports: Iterable[int], requests: int, floats: int, period_ns: int, record: RecordMode
) -> blobs.Program:
    """One device per port, each with so many equal requests of input registers."""
    program = conditions(0, start_within_ns=SECOND).program
    for device, port in enumerate(ports):
        program.devices.append(_device(device, port))
        for _ in range(requests):
            first = len(program.tags)
            program.requests.append(
                blobs.Request(device, first, floats, period_ns, 0, REGISTERS, 4, 1)
            )
            for k in range(floats):
                program.tags.append(
                    blobs.Tag(
                        first + k + 1, stale_after_ns=5 * SECOND, owner=Owner.GUARD,
                        record=record, device=device,
                    )
                )  # fmt: skip
                program.decode.append(
                    blobs.Decode(
                        first + k, len(program.requests) - 1, 2 * k, PointType.FLOAT32,
                        ByteOrder.ABCD,
                    )
                )  # fmt: skip
    return program


# ---- throughput ----------------------------------------------------------------------------------


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())


def pin(pid: int, core: int) -> None:
    """Every thread of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@contextmanager
def _core(core: int) -> Iterator[None]:
    """What is started meanwhile runs there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def _server() -> "AsyncIterator[ModbusServer]":
    async with ModbusServer(fifo=DEVICE_PRIORITY if realtime_allowed() else 0) as device:
        if (os.cpu_count() or 1) > 1:
            pin(device.pid, SERVER_CORE)
        yield device


@asynccontextmanager
async def guard_of(program: blobs.Program) -> "AsyncIterator[GuardProcess]":
    """A guard that runs the program."""
    with directories() as (runtime, state):
        guard = GuardProcess(runtime, state)
        try:
            await guard.start()
            result = await asyncio.to_thread(guard.load, program)
            if result.code != ResultCode.DONE:
                raise RuntimeError(f"the guard refused the program: {result}")
            yield guard
        finally:
            await guard.close()


async def _guard_speed(speed: Speed, seconds: float) -> None:
    async with _server() as device:
        program = program_of(
            [device.port] * CONNECTIONS, REQUESTS_PER_DEVICE, FLOATS, 5 * MS, RecordMode.CHANGE
        )
        async with guard_of(program) as guard:
            assert guard.process is not None
            assert guard.view is not None
            view = guard.view
            if (os.cpu_count() or 1) > 1:
                pin(guard.process.pid, CLIENT_CORE)
            await guard.until(lambda: view.device(CONNECTIONS - 1).requests > 100)
            loop = asyncio.get_running_loop()
            before = sum(view.device(i).requests for i in range(CONNECTIONS))
            cpu, begin = cpu_ns(guard.process.pid), loop.time()
            await asyncio.sleep(seconds)  # the measurement itself
            reads = sum(view.device(i).requests for i in range(CONNECTIONS)) - before
            cpu = cpu_ns(guard.process.pid) - cpu
            speed.per_s.append(reads / (loop.time() - begin))
            speed.cpu_ns.append(cpu / reads)


async def _peer_speed(speed: Speed, words: list[object], seconds: float) -> None:
    async with _server() as device:
        whole = [word if word != "PORT" else device.port for word in words]
        with _core(CLIENT_CORE if (os.cpu_count() or 1) > 1 else 0):
            reads, cpu = (int(word) for word in (await output_of(whole)).split())
    speed.per_s.append(reads / seconds)
    speed.cpu_ns.append(cpu / reads)


async def throughput(
    result: Polling, guard: str, bare: str, plain: str, seconds_max: float
) -> None:
    """One round of each client."""
    seconds = min(SECONDS, seconds_max)
    own = result.speed.setdefault(guard, Speed())
    c = result.speed.setdefault(bare, Speed())
    py = result.speed.setdefault(plain, Speed())
    await _guard_speed(own, seconds)
    program = str(await asyncio.to_thread(build, "bare_polls"))
    fifo = CLIENT_PRIORITY if realtime_allowed() else 0
    block = [CONNECTIONS, REGISTERS, FLOATS, seconds]
    await _peer_speed(c, [program, "PORT", *block, fifo], seconds)
    words = [sys.executable, "-m", "tests.benchmarks.plain_polls", "PORT", *block]
    await _peer_speed(py, words, seconds)


# ---- dead and slow neighbours --------------------------------------------------------------------


@asynccontextmanager
async def _swallower() -> "AsyncIterator[int]":
    """Accepts and reads, and never answers: its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while await reader.read(1024):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _late() -> "AsyncIterator[int]":
    """Answers each request with zeros, at 90 % of the timeout: its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.suppress(*over):
            while True:
                request = await reader.readexactly(12)
                await asyncio.sleep(SLOW_S)
                size = 2 * REGISTERS
                head = request[:4] + (3 + size).to_bytes(2, "big") + request[6:8] + bytes([size])
                writer.write(head + bytes(size))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def lateness(requests: Iterable[Request]) -> list[int]:
    """Of each connection's reads: how long after its own regular times they came, ns."""
    times: dict[int, list[int]] = {}
    for request in requests:
        if request.kind == "r":
            times.setdefault(request.connection, []).append(request.ns)
    late: list[int] = []
    for connection in sorted(times)[:HEALTHY]:  # opened in the order of the devices
        found = times[connection]
        offsets = [(ns - found[0] + POLL_NS // 2) % POLL_NS - POLL_NS // 2 for ns in found]
        late += [offset - min(offsets) for offset in offsets]
    return late


async def _lateness(directory: Path, neighbours: list[int], name: str, watch_s: float) -> list[int]:
    fifo = DEVICE_PRIORITY if realtime_allowed() else 0
    log = directory / name
    async with ModbusServer(log, fifo=fifo) as device:
        ports = [device.port] * HEALTHY
        others = [port or device.port for port in neighbours]
        program = program_of([*ports, *others], 1, FLOATS, POLL_NS, RecordMode.CHANGE)
        async with guard_of(program) as guard:
            assert guard.view is not None
            view = guard.view
            polls = int(watch_s * SECOND / POLL_NS)
            await guard.until(lambda: view.device(HEALTHY - 1).requests >= polls, WATCH_S * 4)
        return lateness(await device.requests())


async def neighbours(result: Polling, directory: Path, seconds_max: float) -> None:
    """One round: ten healthy neighbours, then five dead and five slow ones."""
    watch_s = min(WATCH_S, seconds_max)
    result.healthy.append(await _lateness(directory, [0] * (DEAD + SLOW), "healthy", watch_s))
    async with _swallower() as dead, _late() as slow:
        mixed = [dead] * DEAD + [slow] * SLOW
        result.with_dead.append(await _lateness(directory, mixed, "mixed", watch_s))
