"""What the HTTP uplink adds to aiohttp's session: names, reused connections, what errors mean."""

import json
import socket
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.errors import UplinkError
from gateway.uplink.base import LinkRefusedError, UnansweredError
from gateway.uplink.http_answer import ANSWER_BYTES_MAX
from gateway.uplink.stream import addresses_of
from gateway.uplink.tls import refusal_of

if TYPE_CHECKING:
    from types import SimpleNamespace

_PROXY_DENIED: Final = 407


class Resolver(AbstractResolver):
    """Names by threads of their own: one that hangs does not keep the process from ending."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host``, of any family. Raises UplinkError."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await addresses_of(host, port, self._timeout_s)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Reuse:
    """Whether a request went over a connection, and over one that was there already."""

    def __init__(self) -> None:
        self.connected = False
        self.reused = False


class StaleError(Exception):
    """The server had closed an idle connection: the request met nobody."""


def telling_reuse() -> aiohttp.TraceConfig:
    """Tells the ``Reuse`` that a request has as its context."""
    tracing = aiohttp.TraceConfig()

    async def reused(
        _session: aiohttp.ClientSession,
        context: "SimpleNamespace",
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.connected = context.trace_request_ctx.reused = True

    async def created(
        _session: aiohttp.ClientSession,
        context: "SimpleNamespace",
        _params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        context.trace_request_ctx.connected = True

    tracing.on_connection_reuseconn.append(reused)
    tracing.on_connection_create_end.append(created)
    return tracing


async def read_answer(content: aiohttp.StreamReader) -> bytes:
    """All of an answer, or a little more than what is looked at, in UTF-8 (``in_utf8``)."""
    parts: list[bytes] = []
    size = 0
    while size <= ANSWER_BYTES_MAX:
        part = await content.read(ANSWER_BYTES_MAX + 1 - size)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return in_utf8(b"".join(parts))


def in_utf8(body: bytes) -> bytes:
    """JSON of any Unicode form as UTF-8 without a mark: .NET writes UTF-16. Others as they are."""
    encoding = json.detect_encoding(body)
    return body if encoding == "utf-8" else body.decode(encoding, "replace").encode()


def link_error(url: str, error: BaseException, *, sent: bool) -> UplinkError:
    """What a POST without an answer means. ``sent``: there was a connection for it."""
    causes = (getattr(error, "certificate_error", None), getattr(error, "os_error", None))
    for cause in (*causes, error.__cause__, error):
        refusal = refusal_of(cause) if cause else None
        if refusal:
            return LinkRefusedError(f"{url}: {refusal}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"{url}: the proxy answers with status {error.status}"
        return LinkRefusedError(text) if error.status == _PROXY_DENIED else UplinkError(text)
    kind = UnansweredError if sent else UplinkError
    if isinstance(error, TimeoutError):
        return kind(f"{url}: no answer in time")
    return kind(f"{url}: {str(error) or type(error).__name__}")
