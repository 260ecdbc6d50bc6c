"""The handlers that only read: for everybody who may open a socket of the view.

What belongs to the loop is gathered on it, in one moment; the answer is made and encoded off it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from gateway.commission.holdings import all_holdings
from gateway.guard.apply import program_blob
from gateway.view import live
from gateway.view.answers import JSON, as_json, refusal
from gateway.view.health import HealthWatch
from gateway.view.history_query import HistoryQuery
from gateway.view.letters import PAGE_MAX, row_of
from gateway.view.requests import number_of

if TYPE_CHECKING:
    from gateway.parts import Gateway
    from gateway.view.metrics import Metrics

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Reads:
    """The reading handlers over one gateway; heavy ones run in ``executor``."""

    def __init__(self, gateway: "Gateway", metrics: "Metrics", executor: Executor) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._executor = executor
        self._health = HealthWatch(gateway)
        self._history = HistoryQuery(gateway.paths.history)

    async def metrics(self, _request: web.Request) -> web.Response:
        """The exposition text."""
        body = await self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 while everything that protects and records is alive, else 503 with the reasons."""
        health = self._health.look()
        return as_json(health, status=200 if health.healthy else 503)

    async def status(self, _request: web.Request) -> web.Response:
        """``status --json``."""
        return await self._read(live.status_of)

    async def tags(self, _request: web.Request) -> web.Response:
        """``tags --json``."""
        return await self._read(live.tags_of)

    async def interlocks(self, _request: web.Request) -> web.Response:
        """``interlocks --json``."""
        return await self._read(live.interlocks_of)

    async def alarms(self, _request: web.Request) -> web.Response:
        """``alarms --json``."""
        return await self._read(live.alarms_of)

    async def holdings(self, _request: web.Request) -> web.Response:
        """What of the plant this site holds, by its site file and by the guard's program."""
        gateway = self._gateway

        def held() -> Any:
            program = program_blob(gateway.paths, gateway.running.program)
            return all_holdings(gateway.config, program)

        return await self._made(held)

    async def letters(self, request: web.Request) -> web.Response:
        """``letters --json``: a page of them, without what they hold."""
        after, limit = number_of(request, "after", 0), number_of(request, "limit", PAGE_MAX)
        every = bool(number_of(request, "all", 0))
        box = self._gateway.ledger.letters
        found = await box.page(after, min(max(limit, 1), PAGE_MAX), every=every)
        return as_json([row_of(letter) for letter in found])

    async def letter(self, request: web.Request) -> web.Response:
        """One letter with what it holds; null where there is none."""
        ident = int(request.match_info["id"])
        found = await self._gateway.ledger.letters.some([ident], body=True)
        return as_json(row_of(found[0]) if found else None)

    async def history(self, request: web.Request) -> web.Response:
        """One tag's samples: ``?tag=&from=&to=&limit=&resolution=raw|5m``."""
        try:
            return as_json(await self._history.answer(request.query))
        except LookupError as error:
            return refusal(404, str(error.args[0]))
        except ValueError as error:
            return refusal(400, str(error))

    async def _read(self, make: Callable[[live.Moment], Any]) -> web.Response:
        """Gather on the loop what belongs to it, and make the rest of it."""
        return await self._made(partial(make, live.Moment.of(self._gateway)))

    async def _made(self, make: Callable[[], Any]) -> web.Response:
        """What ``make`` gives, made and encoded off the loop."""
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._executor, lambda: msgspec.json.encode(make()))
        return web.Response(body=body, content_type=JSON)
