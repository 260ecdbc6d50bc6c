"""HTTP in: POST /alerts and /samples, answered with 2xx when everything of the body is stored.

``GET /received`` is the report, ``GET /alerts?after=N`` what arrived after that arrival number.
``POST /control {"down": true}`` plays a cut link: every connection of an uplink is closed without
an answer, until ``{"down": false}``; from this machine alone.
"""

import asyncio
import logging
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.receiver.arrival import ALERTS, SAMPLES, Arrival
from gateway.receiver.platform import Outcome
from gateway.receiver.signature import Verifier
from gateway.receiver.writer import Writer

_LOGGER = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
WAITING_MAX: Final = 16  # bodies in memory
BODY_S: Final = 30.0  # that a body may take, and one more for each so many bytes of it
BODY_BYTES_S_MIN: Final = 1_000
BODY_S_MAX: Final = 300.0  # whatever it says of its length: it holds a place meanwhile
ALERTS_MAX: Final = 1_000  # of one answer
LATER_S: Final = 5
OWN_ADDRESSES: Final = ("127.0.0.1", "::1")


class WebIn:
    """The handlers. ``broker`` says how the other way in stands, None where there is none."""

    def __init__(self, writer: Writer, verifier: Verifier | None) -> None:
        self._writer = writer
        self._verifier = verifier
        self._down = False
        self._places = asyncio.Semaphore(WAITING_MAX)
        self.broker: str | None = None

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/alerts", self._alerts)
        app.router.add_post("/samples", self._samples)
        app.router.add_get("/alerts", self._list)
        app.router.add_get("/received", self._received)
        app.router.add_post("/control", self._control)
        return app

    async def _alerts(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, ALERTS)

    async def _samples(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, SAMPLES)

    async def _take(self, request: web.Request, kind: str) -> web.StreamResponse:
        async with self._places:
            body = await self._body(request)
            if body is None:
                return _cut(request)
            refusal = self._verifier.refusal(request.headers, body) if self._verifier else ""
            if refusal:
                _LOGGER.warning("receive: a body from %s: %s", request.remote, refusal)
                self._writer.call(lambda platform: platform.refuse("signature"))
                return _text(401, refusal)
            outcome = await self._stored(Arrival(kind, body))
        if outcome.later:
            return _text(503, outcome.later, {"Retry-After": str(LATER_S)})
        if outcome.refused:
            return _text(422, outcome.refused)
        return web.json_response({"stored": outcome.stored})

    async def _body(self, request: web.Request) -> bytes | None:
        """None while the link is cut, where it is cut meanwhile, and where the body does not come.

        A sender whose link is gone without a word must not keep its place for ever.
        """
        body = None if self._down else await _read(request)
        return None if self._down else body

    async def _stored(self, arrival: Arrival) -> Outcome:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()

        def told(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        self._writer.put(arrival, lambda outcome: loop.call_soon_threadsafe(told, outcome))
        return await answer

    async def _received(self, _request: web.Request) -> web.Response:
        report = await asyncio.wrap_future(self._writer.call(lambda platform: platform.report()))
        return web.json_response({**report, "down": self._down, "broker": self.broker})

    async def _list(self, request: web.Request) -> web.Response:
        text = request.query.get("after", "0")
        if not (text.isascii() and text.isdecimal()):
            return _text(422, "after: expected an arrival number")
        after = int(text)
        found = self._writer.call(lambda platform: platform.alerts_after(after, ALERTS_MAX))
        return web.json_response(await asyncio.wrap_future(found))

    async def _control(self, request: web.Request) -> web.Response:
        if request.remote not in OWN_ADDRESSES:
            _LOGGER.warning("receive: %s may not cut the link", request.remote)
            return _text(403, "this is for the machine itself: 127.0.0.1 or ::1")
        try:
            body: Any = msgspec.json.decode(await request.read())
        except msgspec.MsgspecError:
            body = None
        wanted = body.get("down") if isinstance(body, dict) else None
        if not isinstance(wanted, bool):
            return _text(422, 'expected {"down": true} or {"down": false}')
        self._down = wanted
        _LOGGER.info("receive: the link is %s", "cut" if wanted else "back")
        return web.json_response({"down": wanted})


async def _read(request: web.Request) -> bytes | None:
    """None where it comes too slowly. Raises HTTPRequestEntityTooLarge."""
    loop = asyncio.get_running_loop()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S) as limit:
            begun_s = loop.time()
            while part := await request.content.readany():
                body += part
                if len(body) > BODY_BYTES_MAX:
                    raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, len(body))
                may_take_s = min(BODY_S + len(body) / BODY_BYTES_S_MIN, BODY_S_MAX)
                limit.reschedule(begun_s + may_take_s)
    except TimeoutError:
        _LOGGER.warning("receive: a body from %s does not come to its end", request.remote)
        return None
    return bytes(body)


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the connection; the answer that the library wants has nowhere to go."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=headers)
