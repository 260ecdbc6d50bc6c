"""A small receiving platform for the demo, for trials and for tests: not meant for a plant.

It takes what the HTTP uplink sends, keeps it in memory and, with a file, as one JSON line per item
(written before the answer: 2xx means stored). ``POST /control {"down": true}`` plays a cut link:
every connection of an uplink is closed without an answer, until ``{"down": false}``.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from aiohttp import web

from gateway.errors import GatewayError
from gateway.uplink.received import Received

_LOGGER = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 16 * 1024 * 1024


async def receive(
    listen: str, *, store: Path | None = None, on_ready: Callable[[str], None]
) -> None:
    """Serve on ``host:port`` (port 0: any) until cancelled; ``on_ready`` gets the base URL.

    Raises GatewayError where the address or the file cannot be used.
    """
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        msg = f'found "{listen}", expected an address such as "127.0.0.1:8080"'
        raise GatewayError(msg)
    platform = Platform(store)
    runner = web.AppRunner(platform.app(), access_log=None, shutdown_timeout=0.5)
    try:
        platform.open()
        await runner.setup()
        site = web.TCPSite(runner, host.strip("[]") or None, int(port))
        await site.start()
        bound = runner.addresses[0]
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        on_ready(f"http://{name}:{bound[1]}")
        await asyncio.Event().wait()
    except OSError as error:
        msg = f"cannot receive on {listen}: {error.strerror or error}"
        raise GatewayError(msg) from error
    finally:
        await runner.cleanup()
        platform.close()


class Platform:
    """The HTTP handlers and what they keep."""

    def __init__(self, store: Path | None = None) -> None:
        self._path = store
        self._file: BinaryIO | None = None
        self._received = Received()
        self._down = False

    def open(self) -> None:
        """Open the file. Raises OSError."""
        if self._path is not None:
            self._file = self._path.open("ab")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/alerts", self._alerts)
        app.router.add_post("/samples", self._samples)
        app.router.add_get("/received", self._summary)
        app.router.add_post("/control", self._control)
        return app

    async def _alerts(self, request: web.Request) -> web.StreamResponse:
        events = await self._items(request, "alerts")
        if events is None:
            return _cut(request)
        alerts = [data for event in events if isinstance(data := event.get("data"), dict)]
        if len(alerts) < len(events) or not all("id" in alert for alert in alerts):
            return _refuse("alerts: expected CloudEvents with an alert in data")
        fresh = [alert for alert in alerts if self._received.alert(alert)]
        await self._keep("alert", fresh)
        return web.json_response({"stored": len(alerts)})

    async def _samples(self, request: web.Request) -> web.StreamResponse:
        messages = await self._items(request, "samples")
        if messages is None:
            return _cut(request)
        if not all("seq" in message and "v" in message for message in messages):
            return _refuse("samples: expected messages with seq and v")
        fresh = [message for message in messages if self._received.samples(message)]
        await self._keep("samples", fresh)
        return web.json_response({"stored": len(messages)})

    async def _summary(self, _request: web.Request) -> web.Response:
        return web.json_response({**self._received.summary(), "down": self._down})

    async def _control(self, request: web.Request) -> web.Response:
        wanted = (await _json(request)).get("down")
        if not isinstance(wanted, bool):
            return _refuse('expected {"down": true} or {"down": false}')
        self._down = wanted
        _LOGGER.info("receiver: the link is %s", "cut" if wanted else "back")
        return web.json_response({"down": wanted})

    async def _items(self, request: web.Request, key: str) -> list[dict[str, Any]] | None:
        """The items of a body; None while the link is cut. Raises HTTPBadRequest."""
        if self._down:
            return None
        items = (await _json(request)).get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise web.HTTPBadRequest(text=f"{key}: expected a list of objects\n")
        return None if self._down else items

    async def _keep(self, kind: str, items: list[dict[str, Any]]) -> None:
        if self._file is not None and items:
            lines = [msgspec.json.encode({"kind": kind, "item": item}) + b"\n" for item in items]
            await asyncio.to_thread(_append, self._file, b"".join(lines))


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.read())
    except msgspec.MsgspecError as error:
        raise web.HTTPBadRequest(text=f"not JSON: {error}\n") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="expected an object\n")
    return body


def _append(file: BinaryIO, lines: bytes) -> None:
    file.write(lines)
    file.flush()


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the connection; the answer that the library wants has nowhere to go."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def _refuse(text: str) -> web.Response:
    return web.Response(status=422, text=f"{text}\n")
