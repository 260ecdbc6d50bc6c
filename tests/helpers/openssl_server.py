"""``openssl s_server``: a TLS server that is not ours, and sends alerts as the protocol says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.helpers.programs import find


@asynccontextmanager
async def openssl_server(folder: Path, name: str, *options: str) -> AsyncIterator[int]:
    """Its port, with name.pem and ca.pem of ``folder``."""
    process = await asyncio.create_subprocess_exec(
        find("openssl"), "s_server", "-accept", "127.0.0.1:0", "-cert", f"{name}.pem",
        "-key", f"{name}-key.pem", "-CAfile", "ca.pem", "-verify_return_error", *options,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,  # its end would end the server
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(10):
            while not (line := await process.stdout.readline()).startswith(b"ACCEPT 127"):
                assert line, "openssl has ended"
        yield int(line.rsplit(b":", 1)[1])
    finally:
        process.kill()
        await process.communicate()
