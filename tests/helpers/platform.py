"""A receiving platform that is not ours: keeps every alert and sample batch that was posted."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from aiohttp import web

from fastpath.codes import Quality

BODY_BYTES_MAX = 16 * 1024 * 1024


class Platform:
    """HTTP on a port of its own; an async context manager. ``down`` refuses everything by 503."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []  # every CloudEvent in order of arrival, doubles too
        self.arrived_ns: dict[str, int] = {}  # CLOCK_MONOTONIC of each alert's first arrival
        self.samples: list[dict[str, Any]] = []
        self.down = False
        self.refused = 0
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/alerts", self._take_alerts)
        app.router.add_post("/samples", self._take_samples)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        """As a site file's ``url``."""
        return f"http://127.0.0.1:{self.port}"

    def unique(self) -> dict[str, dict[str, Any]]:
        """The alerts (their data) by id, doubles dropped."""
        return {event["id"]: event["data"] for event in self.alerts}

    async def wait_for(self, ids: set[str], wait_s: float = 15.0) -> None:
        """Until all of these alerts have arrived. Raises TimeoutError, naming what is missing."""
        try:
            async with asyncio.timeout(wait_s), self._arrived:
                await self._arrived.wait_for(lambda: ids <= self.unique().keys())
        except TimeoutError:
            missing = sorted(ids - self.unique().keys())
            message = f"{len(missing)} alerts did not arrive: {missing[:5]}"
            raise TimeoutError(message) from None

    async def wait_until(self, ready: Callable[[], bool], wait_s: float = 15.0) -> None:
        """Until what has arrived is enough. Raises TimeoutError."""
        async with asyncio.timeout(wait_s), self._arrived:
            await self._arrived.wait_for(ready)

    async def _take_alerts(self, request: web.Request) -> web.Response:
        body = await request.json()
        now_ns = time.monotonic_ns()
        answer = await self._take(self.alerts, body["alerts"])
        for event in body["alerts"] if answer.status < 300 else ():
            self.arrived_ns.setdefault(event["id"], now_ns)
        return answer

    async def _take_samples(self, request: web.Request) -> web.Response:
        return await self._take(self.samples, [await request.json()])

    async def _take(self, kept: list[dict[str, Any]], items: list[dict[str, Any]]) -> web.Response:
        if self.down:
            self.refused += 1
            return web.Response(status=503)
        async with self._arrived:
            kept.extend(items)
            self._arrived.notify_all()
        return web.Response(status=204)


def readings(tag: str, bodies: Sequence[dict[str, Any]]) -> list[float]:
    """The good values of a tag, sorted; messages that came twice are dropped."""
    messages = [message for body in bodies for message in body["samples"]]
    unique = {(m["epoch"], m["historical"], m["seq"]): m for m in messages}
    found: list[float] = []
    for message in unique.values():
        for i, name in enumerate(message.get("tags", ())):
            if name == tag:
                values = message["v"][i]
                qualities = message["q"][i] if "q" in message else [Quality.GOOD] * len(values)
                pairs = zip(values, qualities, strict=True)
                found += [v for v, q in pairs if v is not None and q == Quality.GOOD]
    return sorted(found)
