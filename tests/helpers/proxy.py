"""A TCP proxy that breaks what passes through it: the fault injector of every protocol.

In a test: ``async with FaultProxy("127.0.0.1", port) as proxy: proxy.down.delay_s = 0.2``.
As a process of its own: ``python -m tests.helpers.proxy HOST:PORT`` prints {"port": N} and takes
one JSON object per line, such as {"down": {"delay_s": 0.2}} or {"cut": "rst"}; an empty object
heals. ``up`` is client to server, ``down`` server to client.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from tests.helpers.loss import SEGMENT_BYTES, Loss

CHUNK_BYTES = 65536
SLOW_BYTES = 1024
MBAP_BYTES = 6  # transaction, protocol, length; the length counts what follows

Mode = Literal["open", "black_hole", "refuse"]
End = Literal["fin", "rst"]


@dataclass
class Faults:
    """What happens to one direction. The defaults let everything pass."""

    delay_s: float = 0.0  # every message later by this ...
    jitter_s: float = 0.0  # ... and at random up to this
    frozen: bool = False  # nothing passes and nothing is read until it thaws
    drop: bool = False  # read and thrown away
    skip: int = 0  # leave so many messages alone first
    limit: int | None = None  # then break so many of them; None: all
    truncate_to: int | None = None  # only the first n bytes of a message pass
    cut_at: int | None = None  # end the connection after byte n of what passed on it
    cut_on: bytes | None = None  # end it at a message that has this in it, which does not pass
    cut_how: End = "rst"
    dribble_s: float | None = None  # byte by byte, so far apart
    bytes_per_s: float | None = None  # a slow line: 1 KB at a time
    coalesce_s: float = 0.0  # wait so long and send everything at once
    duplicate: bool = False  # every message twice
    mutate: tuple[tuple[int, int], ...] = ()  # (offset, xor) of bytes in a message
    loss: Loss | None = None  # segments that come late, as if they had been lost

    def heal(self) -> None:
        """Back to the defaults."""
        for field in fields(self):
            setattr(self, field.name, field.default)


class FaultProxy:
    """Forwards to one server. ``framed``: messages are Modbus TCP frames, else what one read gave.

    ``narrow``: it takes no more than a few KB before they have gone on, as a slow line does.
    ``mode`` is for connections to come: open, black_hole (accepted, never answered) or refuse.
    ``connections`` counts those that were accepted; ``passed`` bytes per direction.
    """

    def __init__(
        self, host: str, port: int, *, framed: bool = True, narrow: bool = False, seed: int = 1
    ) -> None:
        self.up = Faults()
        self.down = Faults()
        self.mode: Mode = "open"
        self.connections = 0
        self.passed = {"up": 0, "down": 0}
        self.port = 0
        self._target = (host, port)
        self._framed = framed
        self._narrow = narrow
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close_listener()
        self.cut("rst")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """As a site file's ``address``."""
        return f"127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Let everything pass; connections that were cut stay cut."""
        self.up.heal()
        self.down.heal()
        self.mode = "open"

    def cut(self, how: End = "rst") -> None:
        """End every connection now, on both sides."""
        for writer in list(self._writers):
            _end(writer, how)

    async def refuse(self, *, refused: bool = True) -> None:
        """Close the port, or open the same one again."""
        if refused:
            await self._close_listener()
        elif self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind(("127.0.0.1", self.port))
        limit = SLOW_BYTES if self._narrow else CHUNK_BYTES
        self._server = await asyncio.start_server(self._accept, sock=sock, limit=limit)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        finally:
            self._writers.discard(writer)
            _end(writer, "fin")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "black_hole":
            while await reader.read(CHUNK_BYTES):
                pass
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _end(writer, "rst")
            return
        self._writers.add(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump("up", self.up, reader, far_writer, writer))
                group.create_task(self._pump("down", self.down, far_reader, writer, far_writer))
        finally:
            self._writers.discard(far_writer)
            _end(far_writer, "fin")

    async def _pump(
        self,
        name: str,
        faults: Faults,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while message := await self._message(reader, faults):
                parts = await self._broken(message, faults)
                for part in parts:
                    room = None if faults.cut_at is None else max(faults.cut_at - passed, 0)
                    if faults.cut_on is not None and faults.cut_on in part:
                        room = 0
                    reset = not await self._write(writer, part[:room], faults)
                    passed += len(part[:room])
                    self.passed[name] += len(part[:room])
                    if reset or (room is not None and len(part) >= room):
                        _end(writer, faults.cut_how)
                        _end(other, faults.cut_how)
                        return
        _end(writer, "fin")

    async def _message(self, reader: asyncio.StreamReader, faults: Faults) -> bytes:
        """The next message, b"" at the end of the stream."""
        await _thawed(faults)
        if not self._framed:
            message = await reader.read(SLOW_BYTES if self._narrow else CHUNK_BYTES)
        else:
            try:
                head = await reader.readexactly(MBAP_BYTES)
                message = head + await reader.readexactly(struct.unpack(">H", head[4:])[0])
            except asyncio.IncompleteReadError as error:
                message = error.partial
        await _thawed(faults)
        if faults.coalesce_s:
            await asyncio.sleep(faults.coalesce_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    message += await reader.read(CHUNK_BYTES)
        return message

    async def _broken(self, message: bytes, faults: Faults) -> list[bytes]:
        delay = faults.delay_s + self._random.random() * faults.jitter_s
        if delay:
            await asyncio.sleep(delay)
        if faults.skip:
            faults.skip -= 1
            return [message]
        if faults.limit is not None:
            if faults.limit == 0:
                return [message]
            faults.limit -= 1
        if faults.drop:
            return []
        changed = bytearray(message)
        for offset, xor in faults.mutate:
            if offset < len(changed):
                changed[offset] ^= xor
        whole = bytes(changed[: faults.truncate_to])
        return [whole, whole] if faults.duplicate else [whole]

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, faults: Faults) -> bool:
        """False: the connection is to be reset in the middle of it."""
        if faults.loss is None:
            await self._write_all(writer, data, faults)
            return True
        for place in range(0, len(data), SEGMENT_BYTES):
            late_s = faults.loss.stall_s()
            if late_s is None:
                return False
            await asyncio.sleep(late_s)
            await self._write_all(writer, data[place : place + SEGMENT_BYTES], faults)
        return True

    async def _write_all(self, writer: asyncio.StreamWriter, data: bytes, faults: Faults) -> None:
        if faults.bytes_per_s is not None:
            for place in range(0, len(data), SLOW_BYTES):
                part = data[place : place + SLOW_BYTES]
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(len(part) / faults.bytes_per_s)
            return
        if faults.dribble_s is None:
            writer.write(data)
            await writer.drain()
            return
        for byte in data:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(faults.dribble_s)


async def _thawed(faults: Faults) -> None:
    while faults.frozen:  # noqa: ASYNC110  a plain flag is what tests set
        await asyncio.sleep(0.002)


def _end(writer: asyncio.StreamWriter, how: End) -> None:
    if how == "rst":
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


async def _apply(proxy: FaultProxy, order: dict[str, Any]) -> None:
    if not order:
        proxy.heal()
    for name in ("up", "down"):
        for key, value in order.get(name, {}).items():
            setattr(getattr(proxy, name), key, value)
    proxy.mode = order.get("mode", proxy.mode)
    if "refuse" in order:
        await proxy.refuse(refused=order["refuse"])
    if "cut" in order:
        proxy.cut(order["cut"])


async def _main(target: str) -> None:
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with FaultProxy(host, int(port)) as proxy:
        sys.stdout.write(json.dumps({"port": proxy.port}) + "\n")
        sys.stdout.flush()
        while line := await reader.readline():
            await _apply(proxy, json.loads(line))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
