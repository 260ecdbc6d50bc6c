"""Devices that nobody wants on a site: dead, slow, with a hole in its registers, hostile.

Modbus TCP by hand, so that they do what no library lets a server do.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

REQUEST_BYTES = 12
ILLEGAL = 7  # the register of each ten that one of them refuses
_OVER = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A server on a port of its own: the port."""

    tasks: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(*_OVER):
                await serve(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        while tasks:
            await asyncio.wait(tasks)


async def dead(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accepts and reads, and never answers."""
    while await reader.read(1024):
        pass


def slow(after_s: float) -> Serve:
    """Answers with zeros, so late."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readexactly(REQUEST_BYTES)
            await asyncio.sleep(after_s)
            writer.write(right_reply(request))

    return serve


async def holed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuses every read that touches one register (exception 2)."""
    while True:
        request = await reader.readexactly(REQUEST_BYTES)
        first = int.from_bytes(request[8:10], "big")
        count = int.from_bytes(request[10:12], "big")
        if (ILLEGAL - first) % 10 < count:
            writer.write(request[:4] + b"\x00\x03" + request[6:7] + bytes([request[7] | 0x80, 2]))
        else:
            writer.write(right_reply(request))


async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers at once with noise, without end, as fast as it is taken."""
    await reader.readexactly(REQUEST_BYTES)
    noise = os.urandom(65_536)
    while True:
        writer.write(noise)
        await writer.drain()
        await asyncio.sleep(0)  # a drain that need not wait gives way to nobody


def right_reply(request: bytes) -> bytes:
    """Zeros, as asked for."""
    size = 2 * int.from_bytes(request[10:12], "big")
    head = request[:4] + (3 + size).to_bytes(2, "big") + request[6:8] + bytes([size])
    return head + bytes(size)
