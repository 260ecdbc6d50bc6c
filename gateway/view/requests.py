"""What a client asks: the bodies and queries of requests, and what makes one refused."""

import asyncio
import socket
import struct
import time
from typing import Any, Final, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

TEXT_CHARACTERS_MAX: Final = 500
DIGITS_MAX: Final = 19
READ_S: Final = 10.0
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid of the peer

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


class RequestError(Exception):
    """A request that is not served, with the words for the client."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


async def body_of(request: web.Request, kind: type[_T]) -> _T:
    """The body of a POST. Raises RequestError."""
    try:
        async with asyncio.timeout(READ_S):
            body = await request.read()
        return msgspec.json.decode(body, type=kind)
    except TimeoutError as error:
        msg = "the request's body did not come in time"
        raise RequestError(msg, status=408) from error
    except msgspec.MsgspecError as error:
        msg = f"the request's body is not understood: {error}"
        raise RequestError(msg) from error


async def order_of(request: web.Request) -> Order:
    """The body of a command. Raises RequestError."""
    order = await body_of(request, Order)
    check_time(order.not_after_ns)
    check_reason(order.reason)
    return order


def check_reason(reason: str) -> None:
    """Raises RequestError for one that is too long."""
    if len(reason) > TEXT_CHARACTERS_MAX:
        msg = f"a reason has at most {TEXT_CHARACTERS_MAX} characters"
        raise RequestError(msg)


def number_of(request: web.Request, name: str, default: int) -> int:
    """A number of the query. Raises RequestError."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < DIGITS_MAX):
        msg = f"{name}: found {text!r}, expected a number"
        raise RequestError(msg)
    return int(text)


def check_time(not_after_ns: int | None) -> None:
    """Raises RequestError for what lay in the socket while this process stood still."""
    if not_after_ns is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) > not_after_ns:
        # Whoever sent it has been told so.
        text = "the command came too late and was not carried out; send it again"
        raise RequestError(text, status=408)


def need_reason(order: Order, text: str) -> None:
    """Raises RequestError where the order gives none."""
    if not order.reason.strip():
        raise RequestError(text)


def peer_uid(request: web.Request) -> int:
    """The uid at the other end of gateway.sock. Raises RequestError where there is none."""
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport else None
    if peer is None or peer.family != socket.AF_UNIX:
        msg = "commands are taken on gateway.sock alone"
        raise RequestError(msg, status=403)
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid
