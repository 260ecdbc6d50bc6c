"""An HTTP server that answers as told, and the uplink that is connected to it."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.uplink.http import HttpUplink
from tests.helpers.uplinks import SENDER, config_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Script:
    """A server that answers as told and keeps what it got."""

    def __init__(self, answer: Handler | None = None) -> None:
        self.answer = answer
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.posts.append((request.path, json.loads(body, parse_constant=_no_number)))
        self.headers.append(dict(request.headers))
        return await self.answer(request) if self.answer else web.Response()

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator["Script"]:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{runner.addresses[0][1]}/in"
        try:
            yield self
        finally:
            await runner.cleanup()


@asynccontextmanager
async def connected(url: str, **more: Any) -> AsyncIterator[HttpUplink]:
    credentials, by_proxy = more.pop("credentials", None), more.pop("by_proxy", None)
    uplink = HttpUplink(config_of(url, kind="http", **more), SENDER, credentials)
    uplink.proxy_credentials = by_proxy
    answered = await uplink.connect()
    assert answered is False
    try:
        yield uplink
    finally:
        await uplink.close()


def answers(status: int, text: str | bytes = "", **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = text.encode() if isinstance(text, str) else text
        return web.Response(status=status, body=body, headers=named)

    return answer


@dataclass
class Kept:
    """A credential's text."""

    text: str

    def reveal(self) -> str:
        return self.text


@dataclass
class Held:
    """Credentials as the uplink reads them."""

    username: str | None = None
    password: Kept | None = None
    ca_path: Path | None = None
    cert_path: Path | None = None
    key_path: Path | None = None
    webhook_secret: Kept | None = None


def _no_number(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")
