"""Serial peers in processes of their own: libmodbus on a tty, a bad cable, socat's pty pair."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.build import build

WAIT_S = 10.0


@dataclass(slots=True)
class Peer:
    """A process that takes commands and answers some of them, line by line."""

    process: asyncio.subprocess.Process

    def send(self, line: str) -> None:
        """One command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def answer(self) -> list[str]:
        """The words of its next line. Raises TimeoutError."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), WAIT_S)
        return line.decode().split()

    async def ask(self, line: str) -> list[str]:
        """A command that is answered; the words of the answer."""
        self.send(line)
        return await self.answer()


@asynccontextmanager
async def running(*command: str | Path) -> AsyncIterator[Peer]:
    """A program, until the end; it ends with its standard input."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await process.stdin.wait_closed()
        await asyncio.wait_for(process.wait(), WAIT_S)
        assert process.stdout is not None
        await process.stdout.read()


@asynccontextmanager
async def rtu_server(
    tty: str, *, unit: int = 1, baud: int = 115_200, cells: int = 65_536
) -> AsyncIterator[Peer]:
    """libmodbus as a device with so many cells; its commands are in rtu_server.c."""
    program = await asyncio.to_thread(build, "rtu_server")
    async with running(program, tty, str(unit), str(baud), str(cells)) as server:
        assert await server.answer() == ["ready"]
        yield server


@asynccontextmanager
async def mangler(seed: int) -> AsyncIterator[tuple[Peer, str, str]]:
    """(the cable, the guard's tty, the device's tty); its commands are in mangler.c."""
    program = await asyncio.to_thread(build, "mangler")
    async with running(program, str(seed)) as cable:
        near, far = await cable.answer()
        yield cable, near, far


@asynccontextmanager
async def socat_pair(near: Path, far: Path) -> AsyncIterator[None]:
    """A pty pair under two names, until the end: then the adapter is pulled out."""
    ends = [f"pty,raw,echo=0,link={path}" for path in (near, far)]
    process = await asyncio.create_subprocess_exec("socat", *ends)
    try:
        async with asyncio.timeout(WAIT_S):
            while not (near.exists() and far.exists()):  # noqa: ASYNC110  socat makes them
                await asyncio.sleep(0.005)
        yield
    finally:
        process.kill()
        await process.wait()
        for path in (near, far):
            path.unlink(missing_ok=True)
