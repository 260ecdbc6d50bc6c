"""What stands before a device's own program: a plain serial server, a TLS end."""

import asyncio
import contextlib
import os
import ssl
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def serial_server(path: str) -> AsyncIterator[int]:
    """A port of loopback whose bytes go to a tty and back, as those boxes on a rail do it.

    What the tty sends goes to everybody who is connected then.
    """
    loop = asyncio.get_running_loop()
    port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    tty.setraw(port)
    clients: set[asyncio.StreamWriter] = set()

    def from_line() -> None:
        with contextlib.suppress(OSError):
            data = os.read(port, 4096)
            for writer in clients:
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                os.write(port, data)
        clients.discard(writer)
        writer.close()

    loop.add_reader(port, from_line)
    async with _listening(serve, clients) as number:
        yield number
    loop.remove_reader(port)
    os.close(port)


@asynccontextmanager
async def tls_end(target: int, context: Callable[[], ssl.SSLContext]) -> AsyncIterator[int]:
    """A TLS port before a plain one; each record of the answer comes in two of them."""
    clients: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(writer)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)

        async def down() -> None:
            while data := await far_reader.read(4096):
                for part in (data[:5], data[5:]):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)

        task = asyncio.create_task(down())
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                far_writer.write(data)
        clients.discard(writer)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await task
        far_writer.close()
        writer.close()

    async with _listening(serve, clients, context()) as number:
        yield number


def tls_server(folder: Path) -> ssl.SSLContext:
    """Asks for a certificate of the authority in ``folder`` and shows its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    clients: set[asyncio.StreamWriter],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(noted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in list(clients):
            writer.transport.abort()
        while tasks:
            await asyncio.wait(list(tasks))
