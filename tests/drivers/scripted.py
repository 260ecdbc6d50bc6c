"""A Modbus TCP server that answers each request with whatever bytes a test wants."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[["Conversation", bytes], Awaitable[None]]


@dataclass(slots=True)
class Conversation:
    """One connection as the script sees it."""

    writer: asyncio.StreamWriter
    number: int  # from 0, of the server's connections
    requests: list[bytes]  # of all connections

    async def send(self, *chunks: bytes) -> None:
        """Send chunks that arrive one by one."""
        for chunk in chunks:
            self.writer.write(chunk)
            await self.writer.drain()
            await asyncio.sleep(0.002)

    def reset(self) -> None:
        """End the connection with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def finish(self) -> None:
        """End the connection with FIN."""
        self.writer.close()


@dataclass(slots=True)
class Scripted:
    """A running server."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[Scripted]:
    """Serve ``answer`` on a free port of loopback."""
    server: Scripted
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        writers.append(writer)
        talk = Conversation(writer, server.connections, server.requests)
        server.connections += 1
        try:
            while True:
                head = await reader.readexactly(7)
                body = await reader.readexactly(int.from_bytes(head[4:6], "big") - 1)
                server.requests.append(head + body)
                await answer(talk, head + body)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = Scripted(listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        for writer in writers:
            writer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply(request: bytes, pdu: bytes, **wrong: int) -> bytes:
    """An ADU that answers ``request``; ``tid``, ``protocol``, ``length``, ``unit`` may lie."""
    tid = wrong.get("tid", int.from_bytes(request[:2], "big"))
    unit = wrong.get("unit", request[6])
    length = wrong.get("length", len(pdu) + 1)
    return struct.pack(">HHHB", tid, wrong.get("protocol", 0), length, unit) + pdu


def fields(request: bytes) -> tuple[int, int, int]:
    """(function, address, count or value) of a request."""
    function, address, count = struct.unpack(">BHH", request[7:12])
    return function, address, count


def registers_reply(request: bytes, value: Callable[[int], int] = lambda address: address) -> bytes:
    """A right reply to a register read: register n holds ``value(n)``."""
    function, address, count = fields(request)
    data = b"".join(struct.pack(">H", value(address + i) & 0xFFFF) for i in range(count))
    return reply(request, bytes([function, len(data)]) + data)


def exception_reply(request: bytes, code: int) -> bytes:
    """The exception ``code``."""
    return reply(request, bytes([request[7] | 0x80, code]))


async def right(talk: Conversation, request: bytes) -> None:
    """Answer as a right device with registers n = n would."""
    await talk.send(registers_reply(request))


async def silent(_talk: Conversation, _request: bytes) -> None:
    """Never answer."""
