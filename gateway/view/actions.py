"""The handlers that change something: on gateway.sock alone, where the peer's uid says who."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiohttp import web

from gateway.orders.commands import Commands, who_of
from gateway.plant.simulation import simulate
from gateway.view.answers import JSON, as_json
from gateway.view.requests import (
    LetterOrder,
    RequestError,
    Written,
    body_of,
    check_reason,
    check_time,
    need_reason,
    order_of,
    peer_uid,
)

if TYPE_CHECKING:
    from gateway.orders.outcome import Outcome
    from gateway.parts import Gateway

_LOGGER = logging.getLogger(__name__)

END_S: Final = 0.05  # until the answer has gone

_T = TypeVar("_T")


class Actions:
    """The commanding handlers over one gateway; names of people are looked up in ``executor``."""

    def __init__(self, gateway: "Gateway", executor: Executor) -> None:
        self._gateway = gateway
        self._executor = executor
        self._names: dict[int, str] = {}  # uid: who

    async def trip(self, request: web.Request) -> web.StreamResponse:
        """Trip an interlock."""
        order = await order_of(request)
        who = await self._who(request)
        act = partial(self._commands.trip, order.id, order.reason, who)
        return await self._act(request, act)

    async def reset(self, request: web.Request) -> web.StreamResponse:
        """Reset an interlock."""
        order = await order_of(request)
        who = await self._who(request)
        act = partial(self._commands.reset, order.id, order.generation, order.reason, who)
        return await self._act(request, partial(act, not_after_ns=order.not_after_ns))

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Release an output."""
        order = await order_of(request)
        who = await self._who(request)
        return await self._act(
            request, partial(self._commands.release, order.id, order.reason, who)
        )

    async def bypass(self, request: web.Request) -> web.StreamResponse:
        """Begin or end a bypass of an interlock or of a tag."""
        order = await order_of(request)
        who = await self._who(request)
        bypasses = self._commands.bypasses
        if order.end:
            end = partial(bypasses.end, order.id, order.reason, who, tag=order.tag)
            return await self._act(request, end)
        if order.for_ns <= 0:
            msg = "a bypass needs its time (for_ns)"
            raise RequestError(msg)
        need_reason(order, "a bypass needs a reason")
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
        order = await order_of(request)
        who = await self._who(request)
        substitutions = _started(self._commands.substitutions)
        if order.end:
            return await self._act(request, partial(substitutions.end, order.id, order.reason, who))
        if order.value is None or order.for_ns <= 0:
            msg = "a substitution needs its value and its time (value, for_ns)"
            raise RequestError(msg)
        need_reason(order, "a substitution needs a reason")
        begin = partial(
            substitutions.begin, order.id, order.value, order.for_ns, order.reason, who,
            not_after_ns=order.not_after_ns,
        )  # fmt: skip
        return await self._act(request, begin)

    async def drill(self, request: web.Request) -> web.StreamResponse:
        """Prove an interlock by tripping it."""
        order = await order_of(request)
        who = await self._who(request)
        return await self._act(
            request, partial(self._commands.drills.run, order.id, order.reason, who)
        )

    async def simulate(self, request: web.Request) -> web.StreamResponse:
        """Drive a tag of a simulated site."""
        order = await order_of(request)
        who = await self._who(request)
        outcome = await simulate(
            self._gateway, order.id, order.value, order.over_s, who, bad=order.bad, end=order.end
        )
        return as_json(outcome)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """End the guard for a reason, or this gateway."""
        order = await order_of(request)
        who = await self._who(request)
        if order.guard:
            need_reason(order, "a reason is needed to end the guard")
            act = partial(self._commands.stop_guard, order.reason, who)
            return await self._act(request, partial(act, not_after_ns=order.not_after_ns))
        _LOGGER.info("stopped by %s", who)
        return as_json(await self._commands.stop_gateway(who, self._end))

    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Load the site file anew."""
        order = await order_of(request)
        reloader = _started(self._gateway.reloader)
        return as_json(await reloader.reload(order.site, order.reason, await self._who(request)))

    async def written(self, request: web.Request) -> web.StreamResponse:
        """A commissioning write into the audit: before it is made, and what became of it."""
        note = await body_of(request, Written)
        check_time(note.not_after_ns)
        who = await self._who(request)
        ledger = self._gateway.ledger
        if note.seq:
            await ledger.command_result(note.seq, note.code, note.text)
            return as_json({"seq": note.seq})
        return as_json({"seq": await ledger.command(who, note.action, note.target, note.detail)})

    async def letter_order(self, request: web.Request) -> web.Response:
        """Have letters sent again, or give them up."""
        order = await body_of(request, LetterOrder)
        check_time(order.not_after_ns)
        check_reason(order.reason)
        who, orders = await self._who(request), self._commands.letters
        if order.action == "discard":
            if not order.reason.strip():
                msg = "giving a letter up needs a reason"
                raise RequestError(msg)
            return as_json(await orders.discard(order.ids, order.reason, who))
        outcome = await orders.resend(order.ids, order.reason, who)
        for pump in self._gateway.pumps:
            pump.nudge()
        return as_json(outcome)

    def _end(self) -> None:
        """As SIGTERM from outside, a moment after the answer has gone."""
        asyncio.get_running_loop().call_later(END_S, os.kill, os.getpid(), signal.SIGTERM)

    @property
    def _commands(self) -> Commands:
        return _started(self._gateway.commands)

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
        uid = peer_uid(request)
        if uid not in self._names:
            loop = asyncio.get_running_loop()
            self._names[uid] = await loop.run_in_executor(self._executor, who_of, uid)
        return self._names[uid]


def _started(part: _T | None) -> _T:
    """A part that a gateway has once it has started. Raises RequestError before."""
    if part is None:
        msg = "the gateway is still starting; try again"
        raise RequestError(msg, status=503)
    return part


async def _quietly(sending: Awaitable[Any]) -> None:
    """Send to a client that may have gone away."""
    with contextlib.suppress(ConnectionError):
        await sending
