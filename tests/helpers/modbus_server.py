"""The libmodbus server as tests see it: its commands, its events, its log of every request."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.helpers.build import build

READS = (1, 2, 3, 4)
COIL_WRITES = (5, 15)
WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the server's log. Times are CLOCK_MONOTONIC ns."""

    kind: str  # open, close, r, w
    ns: int
    connection: int
    function: int = 0
    address: int = 0
    count: int = 0
    reply_ns: int = 0  # reads: just before the reply was sent
    values: tuple[tuple[int, int], ...] = ()  # writes: (old, new) of each coil or register


@dataclass(frozen=True, slots=True)
class Edge:
    """A coil that changed because somebody wrote it."""

    ns: int
    connection: int
    address: int
    value: int


class ModbusServer:
    """A libmodbus server process on a port of its own; an async context manager.

    ``reads=False`` leaves reads out of the log; ``fifo`` is a SCHED_FIFO priority, 0 for none.
    """

    def __init__(
        self, log: Path | None = None, *, port: int = 0, reads: bool = True, fifo: int = 0
    ) -> None:
        self.port = port
        self._log = log
        self._reads = reads
        self._fifo = fifo
        self._lines: dict[str, asyncio.Queue[list[str]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._token = 0

    async def __aenter__(self) -> Self:
        program = await asyncio.to_thread(build, "modbus_server")
        command = [str(program), f"--port={self.port}", f"--fifo={self._fifo}"]
        command += [f"--log={self._log}"] if self._log else []
        command += [] if self._reads else ["--no-reads"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        first = await asyncio.wait_for(self._stdout().readline(), WAIT_S)
        self.port = json.loads(first)["port"]
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is None or self._reader is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await self._process.stdin.wait_closed()
        await asyncio.wait_for(self._process.wait(), WAIT_S)
        await self._reader

    @property
    def address(self) -> str:
        """As a site file's ``address``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """To stop and continue it."""
        assert self._process is not None
        return self._process.pid

    def send(self, command: str) -> None:
        """One command; see modbus_server.c."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    def set(self, area: str, address: int, *values: int) -> None:
        """Set cells of ``hr``, ``ir``, ``c`` or ``di``."""
        self.send(f"{area} {address} {' '.join(str(int(value)) for value in values)}")

    def set_float(self, area: str, address: int, value: float) -> None:
        """Set a float32, ABCD, in ``hr`` or ``ir``."""
        self.send(f"f32 {area} {address} {value!r}")

    def ramp(self, area: str, address: int, first: float, last: float, ms: float) -> None:
        """Let a float32 move from ``first`` to ``last`` within ``ms``, from now on."""
        self.send(f"ramp {area} {address} {first!r} {last!r} {ms!r}")

    def count(self, area: str, address: int, count: int) -> None:
        """Let each of these cells go up by one after each reading of it."""
        self.send(f"count {area} {address} {count}")

    def link(self, coil: int, contact: int, ms: float = 5.0, *, invert: bool = False) -> None:
        """Let a discrete input follow a coil: an auxiliary contact."""
        self.send(f"link {coil} {contact} {ms!r} {int(invert)}")

    async def trip_by(self, area: str, address: int, value: float, coil: int, trip: int = 0) -> int:
        """Put ``value`` into the next read reply; ns from that reply to the write of ``trip``."""
        self.send(f"arm t {area} {address} {value!r} {coil} {trip}")
        sent = await self.event("sent")
        tripped = await self.event("trip")
        return int(tripped[1]) - int(sent[1])

    async def event(self, word: str, wait_s: float = WAIT_S) -> list[str]:
        """The words after ``word`` of the next such line. Raises TimeoutError."""
        async with asyncio.timeout(wait_s):
            return await self._queue(word).get()

    def forget(self, word: str) -> None:
        """Drop such lines that nobody came for."""
        queue = self._queue(word)
        while not queue.empty():
            queue.get_nowait()

    async def get(self, area: str, address: int, count: int = 1) -> list[int]:
        """The cells as they are now."""
        self.send(f"get {area} {address} {count}")
        return [int(word) for word in await self.event("got")]

    async def sync(self) -> None:
        """Every command so far is carried out and the log is readable."""
        self._token += 1
        self.send(f"sync {self._token}")
        while await self.event("sync") != [str(self._token)]:
            pass

    async def requests(self) -> list[Request]:
        """Everything that was asked so far. Needs ``log``."""
        assert self._log is not None
        await self.sync()
        return await asyncio.to_thread(parse_log, self._log)

    async def edges(self, coil: int) -> list[Edge]:
        """Every change of a coil so far, by whomever it was written."""
        return edges_of(await self.requests(), coil)

    def _queue(self, word: str) -> asyncio.Queue[list[str]]:
        return self._lines.setdefault(word, asyncio.Queue())

    def _stdout(self) -> asyncio.StreamReader:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    async def _read(self) -> None:
        while line := await self._stdout().readline():
            word, *rest = line.decode().split()
            if word == "error":
                message = f"the server does not know {' '.join(rest)!r}"
                raise ValueError(message)
            self._queue(word).put_nowait(rest)


def parse_log(path: Path) -> list[Request]:
    """The server's log; a line that is still being written is left out."""
    text = path.read_text()
    return [_request(line.split()) for line in text[: text.rfind("\n") + 1].splitlines()]


def edges_of(requests: Sequence[Request], coil: int) -> list[Edge]:
    """Every change of a coil in a log."""
    found = []
    for request in requests:
        index = coil - request.address
        if request.kind != "w" or request.function not in COIL_WRITES:
            continue
        if 0 <= index < len(request.values):
            old, new = request.values[index]
            if old != new:
                found.append(Edge(request.ns, request.connection, coil, new))
    return found


def _request(words: list[str]) -> Request:
    kind, ns, connection, *rest = words
    if kind in {"open", "close"}:
        return Request(kind, int(ns), int(connection))
    function, address, count = (int(word) for word in rest[:3])
    if kind == "r":
        return Request(kind, int(ns), int(connection), function, address, count, int(rest[3]))
    pairs = (word.split(":") for word in rest[3:])
    values = tuple((int(old), int(new)) for old, new in pairs)
    return Request(kind, int(ns), int(connection), function, address, count, 0, values)
