"""The HTTP handlers: reads for everybody on this machine, commands on the Unix socket alone.

Two applications of the same handlers. TCP has /metrics and /healthz and nothing that changes
anything; gateway.sock has the commands besides, and the peer's uid says who commands.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from fastpath.journal import JournalError
from gateway.commission.holdings import all_holdings
from gateway.errors import GatewayError
from gateway.guard.apply import program_blob
from gateway.orders.commands import Commands, who_of
from gateway.plant.simulation import simulate
from gateway.view import live
from gateway.view.health import HealthWatch
from gateway.view.history_query import HistoryQuery
from gateway.view.letters import PAGE_MAX, row_of

if TYPE_CHECKING:
    from gateway.orders.outcome import Outcome
    from gateway.parts import Gateway
    from gateway.view.metrics import Metrics

_LOGGER = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 16 * 1024
TEXT_CHARACTERS_MAX: Final = 500
DIGITS_MAX: Final = 19
READ_S: Final = 10.0
END_S: Final = 0.05
JSON: Final = "application/json"
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "sitewarden",  # not the versions of what is underneath
}
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid of the peer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_T = TypeVar("_T")


class Order(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a command."""

    id: str = ""
    generation: int | None = None
    reason: str = ""
    site: str = ""  # reload: another file than the one that runs
    guard: bool = False  # stop: the guard, not the gateway
    tag: bool = False  # bypass: of a tag, not of an interlock
    for_ns: int = 0  # bypass, substitute: how long
    end: bool = False  # bypass, substitute, simulate: end it
    value: float | None = None  # substitute; simulate: where to drive the tag
    over_s: float = 0.0  # simulate: how long it takes to get there
    bad: bool = False  # simulate: make the tag bad
    not_after_ns: int | None = None  # boot time at which the client gives up


class Written(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a note on a write: before it without ``seq``, after it with the one given."""

    action: Literal["write", "opcua trust"] = "write"
    target: str = ""
    detail: dict[str, Any] = {}
    seq: int = 0
    code: int = 0  # 1: done
    text: str = ""
    not_after_ns: int | None = None  # boot time at which the client gives up, and does not write


class LetterOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an order about dead letters."""

    action: Literal["resend", "discard"]
    ids: list[int]
    reason: str = ""
    not_after_ns: int | None = None  # boot time at which the client gives up


class Api:
    """The handlers over one gateway; heavy reads run in ``executor``."""

    def __init__(self, gateway: "Gateway", metrics: "Metrics", executor: Executor) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._executor = executor
        self._health = HealthWatch(gateway)
        self._history = HistoryQuery(gateway.paths.history)
        self._names: dict[int, str] = {}  # uid: who

    def tcp_application(self) -> web.Application:
        """Metrics and health, nothing else."""
        application = _application("this address serves /metrics and /healthz")
        application.router.add_get("/metrics", self.metrics)
        application.router.add_get("/healthz", self.healthz)
        return application

    def unix_application(self) -> web.Application:
        """Everything; whoever may open the socket may command."""
        application = _application("this socket serves /status /tags /interlocks /alarms ...")
        application.router.add_get("/metrics", self.metrics)
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/status", self.status)
        application.router.add_get("/tags", self.tags)
        application.router.add_get("/interlocks", self.interlocks)
        application.router.add_get("/alarms", self.alarms)
        application.router.add_get("/holdings", self.holdings)
        application.router.add_get("/api/history", self.history)
        application.router.add_get("/letters", self.letters)
        application.router.add_get("/letters/{id:[0-9]{1,18}}", self.letter)
        application.router.add_post("/letters", self.letter_order)
        application.router.add_post("/written", self.written)
        application.router.add_post("/trip", self.trip)
        application.router.add_post("/reset", self.reset)
        application.router.add_post("/release", self.release)
        application.router.add_post("/bypass", self.bypass)
        application.router.add_post("/substitute", self.substitute)
        application.router.add_post("/drill", self.drill)
        application.router.add_post("/stop", self.stop)
        application.router.add_post("/reload", self.reload)
        application.router.add_post("/simulate", self.simulate)
        return application

    async def metrics(self, _request: web.Request) -> web.Response:
        """The exposition text."""
        body = await self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 while everything that protects and records is alive, else 503 with the reasons."""
        health = self._health.look()
        return _json(health, status=200 if health.healthy else 503)

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

        def made() -> bytes:
            program = program_blob(gateway.paths, gateway.running.program)
            return msgspec.json.encode(all_holdings(gateway.config, program))

        body = await asyncio.get_running_loop().run_in_executor(self._executor, made)
        return web.Response(body=body, content_type=JSON)

    async def letters(self, request: web.Request) -> web.Response:
        """``letters --json``: a page of them, without what they hold."""
        after, limit = _number(request, "after", 0), _number(request, "limit", PAGE_MAX)
        every = bool(_number(request, "all", 0))
        box = self._gateway.ledger.letters
        found = await box.page(after, min(max(limit, 1), PAGE_MAX), every=every)
        return _json([row_of(letter) for letter in found])

    async def letter(self, request: web.Request) -> web.Response:
        """One letter with what it holds; null where there is none."""
        ident = int(request.match_info["id"])
        found = await self._gateway.ledger.letters.some([ident], body=True)
        return _json(row_of(found[0]) if found else None)

    async def letter_order(self, request: web.Request) -> web.Response:
        """Have letters sent again, or give them up."""
        order = await _body(request, LetterOrder)
        _in_time(order.not_after_ns)
        _check_reason(order.reason)
        who, orders = await self._who(request), self._commands.letters
        if order.action == "discard":
            if not order.reason.strip():
                msg = "giving a letter up needs a reason"
                raise _Refusal(msg)
            return _json(await orders.discard(order.ids, order.reason, who))
        outcome = await orders.resend(order.ids, order.reason, who)
        for pump in self._gateway.pumps:
            pump.nudge()
        return _json(outcome)

    async def history(self, request: web.Request) -> web.Response:
        """One tag's samples: ``?tag=&from=&to=&limit=&resolution=raw|5m``."""
        try:
            return _json(await self._history.answer(request.query))
        except LookupError as error:
            return _said(404, str(error.args[0]))
        except ValueError as error:
            return _said(400, str(error))

    async def written(self, request: web.Request) -> web.StreamResponse:
        """A commissioning write into the audit: before it is made, and what became of it."""
        note = await _body(request, Written)
        _in_time(note.not_after_ns)
        who = await self._who(request)
        ledger = self._gateway.ledger
        if note.seq:
            await ledger.command_result(note.seq, note.code, note.text)
            return _json({"seq": note.seq})
        return _json({"seq": await ledger.command(who, note.action, note.target, note.detail)})

    async def trip(self, request: web.Request) -> web.StreamResponse:
        """Trip an interlock."""
        order = await _order(request)
        who = await self._who(request)
        act = partial(self._commands.trip, order.id, order.reason, who)
        return await self._act(request, act)

    async def reset(self, request: web.Request) -> web.StreamResponse:
        """Reset an interlock."""
        order = await _order(request)
        who = await self._who(request)
        act = partial(self._commands.reset, order.id, order.generation, order.reason, who)
        return await self._act(request, partial(act, not_after_ns=order.not_after_ns))

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Release an output."""
        order = await _order(request)
        who = await self._who(request)
        return await self._act(
            request, partial(self._commands.release, order.id, order.reason, who)
        )

    async def bypass(self, request: web.Request) -> web.StreamResponse:
        """Begin or end a bypass of an interlock or of a tag."""
        order = await _order(request)
        who = await self._who(request)
        bypasses = self._commands.bypasses
        if order.end:
            end = partial(bypasses.end, order.id, order.reason, who, tag=order.tag)
            return await self._act(request, end)
        if order.for_ns <= 0:
            msg = "a bypass needs its time (for_ns)"
            raise _Refusal(msg)
        _need_reason(order, "a bypass needs a reason")
        begin = partial(
            bypasses.begin,
            order.id,
            order.for_ns,
            order.reason,
            who,
            tag=order.tag,
            not_after_ns=order.not_after_ns,
        )
        return await self._act(request, begin)

    async def substitute(self, request: web.Request) -> web.StreamResponse:
        """Begin or end a tag's value by hand."""
        order = await _order(request)
        who = await self._who(request)
        substitutions = self._commands.substitutions
        if substitutions is None:
            msg = "the gateway is still starting; try again"
            raise _Refusal(msg, status=503)
        if order.end:
            return await self._act(request, partial(substitutions.end, order.id, order.reason, who))
        if order.value is None or order.for_ns <= 0:
            msg = "a substitution needs its value and its time (value, for_ns)"
            raise _Refusal(msg)
        _need_reason(order, "a substitution needs a reason")
        begin = partial(
            substitutions.begin, order.id, order.value, order.for_ns, order.reason, who,
            not_after_ns=order.not_after_ns,
        )  # fmt: skip
        return await self._act(request, begin)

    async def drill(self, request: web.Request) -> web.StreamResponse:
        """Prove an interlock by tripping it."""
        order = await _order(request)
        who = await self._who(request)
        return await self._act(
            request, partial(self._commands.drills.run, order.id, order.reason, who)
        )

    async def simulate(self, request: web.Request) -> web.StreamResponse:
        """Drive a tag of a simulated site."""
        order = await _order(request)
        who = await self._who(request)
        outcome = await simulate(
            self._gateway, order.id, order.value, order.over_s, who, bad=order.bad, end=order.end
        )
        return _json(outcome)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """End the guard for a reason, or this gateway."""
        order = await _order(request)
        who = await self._who(request)
        if order.guard:
            _need_reason(order, "a reason is needed to end the guard")
            act = partial(self._commands.stop_guard, order.reason, who)
            return await self._act(request, partial(act, not_after_ns=order.not_after_ns))
        _LOGGER.info("stopped by %s", who)
        return _json(await self._commands.stop_gateway(who, self._end))

    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Load the site file anew."""
        order = await _order(request)
        reloader = self._gateway.reloader
        if reloader is None:
            msg = "the gateway is still starting; try again"
            raise _Refusal(msg, status=503)
        return _json(await reloader.reload(order.site, order.reason, await self._who(request)))

    def _end(self) -> None:
        """As SIGTERM from outside, a moment after the answer has gone."""
        asyncio.get_running_loop().call_later(END_S, os.kill, os.getpid(), signal.SIGTERM)

    @property
    def _commands(self) -> Commands:
        commands = self._gateway.commands
        if commands is None:
            msg = "the gateway is still starting; try again"
            raise _Refusal(msg, status=503)
        return commands

    async def _read(self, make: Callable[[live.Moment], Any]) -> web.Response:
        """Gather on the loop what belongs to it, make and encode the rest off it."""
        moment = live.Moment.of(self._gateway)
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._executor, lambda: msgspec.json.encode(make(moment)))
        return web.Response(body=body, content_type=JSON)

    async def _act(self, request: web.Request, command: partial[Any]) -> web.StreamResponse:
        """Run a command: the answer's head goes out when the guard has answered, the body after.

        So whoever waits knows within milliseconds that the guard has it, and may wait longer for
        the outputs. A client that goes away meanwhile ends nothing.
        """
        response = web.StreamResponse()
        response.content_type = JSON

        async def answered() -> None:
            await _quietly(response.prepare(request))

        outcome: Outcome = await command(answered=answered)
        if not response.prepared:
            await response.prepare(request)
        await _quietly(response.write(msgspec.json.encode(outcome)))
        await _quietly(response.write_eof())
        return response

    async def _who(self, request: web.Request) -> str:
        """``uid:NAME`` of the peer; a name service may be slow, so off the loop."""
        uid = _peer_uid(request)
        if uid not in self._names:
            loop = asyncio.get_running_loop()
            self._names[uid] = await loop.run_in_executor(self._executor, who_of, uid)
        return self._names[uid]


class _Refusal(Exception):
    """A request that is not served, with the words for the client."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def _application(hint: str) -> web.Application:
    @web.middleware
    async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every refusal and failure as one JSON line, every wait bounded."""
        try:
            if request.method == "POST":
                return await handler(request)
            async with asyncio.timeout(READ_S):
                return await handler(request)
        except web.HTTPNotFound:
            return _said(404, hint)
        except web.HTTPException as error:
            return _said(error.status, error.reason)
        except _Refusal as refusal:
            return _said(refusal.status, str(refusal))
        except JournalError as error:
            return _said(503, f"the guard's state cannot be read: {error}")
        except TimeoutError:
            return _said(503, "not ready in time; try again")
        except GatewayError as error:
            return _said(500, str(error))

    application = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[told])
    application.on_response_prepare.append(_harden)
    return application


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _body(request: web.Request, kind: type[_T]) -> _T:
    """The body of a POST. Raises _Refusal."""
    try:
        async with asyncio.timeout(READ_S):
            body = await request.read()
        return msgspec.json.decode(body, type=kind)
    except TimeoutError as error:
        msg = "the request's body did not come in time"
        raise _Refusal(msg, status=408) from error
    except msgspec.MsgspecError as error:
        msg = f"the request's body is not understood: {error}"
        raise _Refusal(msg) from error


async def _order(request: web.Request) -> Order:
    """The body of a command. Raises _Refusal."""
    order = await _body(request, Order)
    _in_time(order.not_after_ns)
    _check_reason(order.reason)
    return order


def _check_reason(reason: str) -> None:
    """Raises _Refusal for one that is too long."""
    if len(reason) > TEXT_CHARACTERS_MAX:
        msg = f"a reason has at most {TEXT_CHARACTERS_MAX} characters"
        raise _Refusal(msg)


def _number(request: web.Request, name: str, default: int) -> int:
    """A number of the query. Raises _Refusal."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < DIGITS_MAX):
        msg = f"{name}: found {text!r}, expected a number"
        raise _Refusal(msg)
    return int(text)


def _in_time(not_after_ns: int | None) -> None:
    """Raises _Refusal for what lay in the socket while this process stood still."""
    if not_after_ns is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) > not_after_ns:
        # Whoever sent it has been told so.
        text = "the command came too late and was not carried out; send it again"
        raise _Refusal(text, status=408)


def _need_reason(order: Order, text: str) -> None:
    """Raises _Refusal where the order gives none."""
    if not order.reason.strip():
        raise _Refusal(text)


def _peer_uid(request: web.Request) -> int:
    """The uid at the other end of gateway.sock. Raises _Refusal where there is none."""
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport else None
    if peer is None or peer.family != socket.AF_UNIX:
        msg = "commands are taken on gateway.sock alone"
        raise _Refusal(msg, status=403)
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON)


def _said(status: int, text: str) -> web.Response:
    return _json({"error": text}, status)


async def _quietly(sending: Awaitable[Any]) -> None:
    """Send to a client that may have gone away."""
    with contextlib.suppress(ConnectionError):
        await sending
