"""The receiving platform as a whole: its file, its writer, HTTP in and MQTT in.

A small reference for whoever writes a platform, and the other end of the demo. 2xx and PUBACK mean
stored.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from msgspec import Struct

from gateway.errors import GatewayError
from gateway.receiver.archive import Archive
from gateway.receiver.broker import BrokerIn
from gateway.receiver.platform import Platform
from gateway.receiver.signature import Verifier
from gateway.receiver.web import WebIn
from gateway.receiver.writer import Writer

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials


class Settings(Struct, frozen=True, kw_only=True):
    """``listen``: ``host:port``, port 0 any, "" no HTTP. ``mqtt``: a broker's URL, "" none."""

    listen: str = "127.0.0.1:0"
    mqtt: str = ""
    store: Path | None = None
    samples: bool = True  # False: count them, keep their sequence and not their content
    secret_file: Path | None = None
    credentials: "Credentials | None" = None


async def receive(settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Receive until cancelled; ``on_ready`` gets the base URL ("": no HTTP).

    Raises GatewayError where an address or the file cannot be used.
    """
    verifier = Verifier.of_file(settings.secret_file) if settings.secret_file else None
    archive = Archive(settings.store, samples=settings.samples)
    archive.open()
    writer = Writer(Platform(archive))
    writer.start()
    web_in = WebIn(writer, verifier)
    try:
        async with asyncio.TaskGroup() as tasks, _serving(settings.listen, web_in) as url:
            if settings.mqtt:
                broker = _broker(settings, archive, writer, web_in)
                tasks.create_task(broker.run())
            on_ready(url)
            await asyncio.Event().wait()
    except* GatewayError as errors:
        raise errors.exceptions[0] from None
    finally:
        await asyncio.to_thread(writer.close)
        archive.close()


def _broker(settings: Settings, archive: Archive, writer: Writer, web_in: WebIn) -> BrokerIn:
    def told(state: str) -> None:
        web_in.broker = state

    return BrokerIn(
        settings.mqtt,
        writer,
        client_id=archive.client_id() if settings.store else "",
        credentials=settings.credentials,
        told=told,
    )


@contextlib.asynccontextmanager
async def _serving(listen: str, web_in: WebIn) -> AsyncIterator[str]:
    """The base URL while it is served. Raises GatewayError."""
    if not listen:
        yield ""
        return
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        msg = f'found "{listen}", expected an address such as "127.0.0.1:8080"'
        raise GatewayError(msg)
    runner = web.AppRunner(web_in.app(), access_log=None, shutdown_timeout=0.5)
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
        except (OSError, OverflowError) as error:
            msg = f"cannot receive on {listen}: {getattr(error, 'strerror', None) or error}"
            raise GatewayError(msg) from error
        bound = runner.addresses[0]
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        yield f"http://{name}:{bound[1]}"
    finally:
        await runner.cleanup()
