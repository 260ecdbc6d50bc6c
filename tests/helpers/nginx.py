"""Debian's nginx on a free loopback port, in front of a platform."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.helpers.ports import free_port
from tests.helpers.programs import find

READY_S = 5.0


@asynccontextmanager
async def nginx(
    folder: Path, *locations: str, tls: Path | None = None, http: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Its URL. ``tls``: a folder of certificates, of whose authority it asks for one, too."""
    port = free_port()
    listen = f"listen 127.0.0.1:{port}{' ssl' if tls else ''};"
    secure = (
        f"ssl_certificate {tls}/server.pem; ssl_certificate_key {tls}/server-key.pem;"
        f"ssl_client_certificate {tls}/ca.pem; ssl_verify_client on;"
        if tls
        else ""
    )
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;"
        f"events {{}} http {{ access_log off; {temporary} {' '.join(http)}"
        f"server {{ {listen} {secure} {' '.join(locations)} }} }}"
    )
    process = await asyncio.create_subprocess_exec(
        find("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await _listens(port, process)
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            if process.returncode is not None:
                _out, told = await process.communicate()
                raise AssertionError(f"nginx has ended: {told.decode()}")
            try:
                _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return
