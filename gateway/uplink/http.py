"""HTTP uplink on aiohttp: batches of JSON, POSTed; 2xx means that the platform has stored them.

``POST <url>/alerts`` has ``{"alerts": [CloudEvent, …]}``, ``POST <url>/samples`` has
``{"samples": [message, …]}``. Redirects are not followed and a page is not an answer, whatever its
status: that is how a captive portal looks.

======================================  ====================================================
answer                                  verdict
======================================  ====================================================
2xx                                     accepted
400, 413, 422                           the batch is halved until the one is found: refused
401, 403, 404, 405 and any other 4xx    lane denied: slow retry, the other lanes go on,
                                        nothing delivered
408, 425, 429, 5xx                      the link pauses, for Retry-After where that is given
207, 3xx, a page (HTML), other          the link pauses: nobody said that it is stored
no connection, no answer in time        nothing known: reconnect
certificates (TLS)                      link refused: slow retry, one alert
======================================  ====================================================
"""

import socket
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.errors import UplinkError
from gateway.uplink import message
from gateway.uplink.base import (
    ACCEPTED,
    ALERT,
    LANES,
    Acknowledges,
    LinkRefusedError,
    Outgoing,
    Refused,
    Retry,
    Verdict,
)
from gateway.uplink.stream import addresses_of
from gateway.uplink.tls import client_context, refusal_of, watch_peer

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

BATCH_BYTES_MAX: Final = 256 * 1024
DENIED_RETRY_S: Final = 30.0
RETRY_AFTER_S_MAX: Final = 3_600.0
RATE_BYTES_S_MIN: Final = 4_000  # a body gets more time than ``timeout`` on a line of 32 kbit/s
_ANSWER_BYTES: Final = 1_024  # what is looked at of an answer's body

_BAD_ITEM: Final = frozenset({400, 413, 422})
_LATER: Final = frozenset({408, 425, 429})
_MULTI_STATUS: Final = 207  # success and failure item by item, in a form that is the platform's own
_PAGE_TYPES: Final = ("text/html", "application/xhtml+xml")

_Body = tuple[int, bytes]  # place in the send, encoded item


class HttpUplink:
    """One platform. Raises UplinkError and nothing else."""

    acknowledges = Acknowledges.STORED

    def __init__(
        self, config: "UplinkConfig", sender: "Sender", credentials: "Credentials | None" = None
    ) -> None:
        self._url = config.url.rstrip("/")
        self._tls = config.url.startswith("https:")
        self._sender = sender
        self.credentials = credentials  # read by connect()
        self._timeout_s = config.timeout / 1e9
        self._session: aiohttp.ClientSession | None = None
        self.certificate_not_after_utc_ns = 0  # of the server, 0 where there is none

    async def connect(self) -> bool:
        """Nobody has answered yet when this returns: the first POST will tell."""
        await self.close()
        context = await client_context(self.credentials) if self._tls else None
        if context:
            watch_peer(context, self._certificate_seen)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context or True,
                limit_per_host=len(LANES),
                resolver=_Resolver(self._timeout_s),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", **self._authorization()},
        )
        return False

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """POST in batches, in order."""
        verdicts: list[Verdict | None] = [None] * len(items)
        bodies: list[_Body] = []
        for index, out in enumerate(items):
            try:
                bodies.append((index, message.encode(self._sender, lane, out)))
            except (msgspec.MsgspecError, ValueError) as error:
                verdicts[index] = Refused("unreadable", str(error))
        rest: Verdict = Retry()
        try:
            for part in _parts(bodies):
                stop = await self._deliver(lane, part, verdicts)
                if stop:
                    rest = stop
                    break
        except UplinkError as error:
            if not any(verdicts):
                raise
            rest = Retry(reason=str(error))
        return [verdict or rest for verdict in verdicts]

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _deliver(
        self, lane: str, batch: "Sequence[_Body]", verdicts: list[Verdict | None]
    ) -> Retry | None:
        """Halved until the one that the platform refuses stands alone; Retry: stop here."""
        verdict = await self._post(lane, [body for _index, body in batch])
        if isinstance(verdict, Refused) and len(batch) > 1:
            middle = len(batch) // 2
            stop = await self._deliver(lane, batch[:middle], verdicts)
            return stop or await self._deliver(lane, batch[middle:], verdicts)
        if isinstance(verdict, Retry):
            return verdict
        for index, _body in batch:
            verdicts[index] = verdict
        return None

    async def _post(self, lane: str, bodies: list[bytes]) -> Verdict:
        session = self._session
        if session is None:
            msg = "not connected"
            raise UplinkError(msg)
        if lane == ALERT:
            url, body = f"{self._url}/alerts", message.alerts_body(self._sender, bodies)
        else:
            url, body = f"{self._url}/samples", message.samples_body(bodies)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s + len(body) / RATE_BYTES_S_MIN)
        try:
            async with session.post(
                url, data=body, allow_redirects=False, timeout=timeout
            ) as response:
                start = await response.content.read(_ANSWER_BYTES)
                return _verdict(response.status, response.headers, start, url)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _link_error(url, error) from error

    def _certificate_seen(self, not_after_utc_ns: int) -> None:
        self.certificate_not_after_utc_ns = not_after_utc_ns

    def _authorization(self) -> dict[str, str]:
        credentials = self.credentials
        if credentials is None or not credentials.password:
            return {}
        password = credentials.password.reveal()
        if credentials.username:
            both = f"{credentials.username}:{password}".encode()
            return {"Authorization": f"Basic {b64encode(both).decode()}"}
        return {"Authorization": f"Bearer {password}"}


class _Resolver(AbstractResolver):
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


def _parts(bodies: Sequence[_Body]) -> Iterator[list[_Body]]:
    """In order, each part at most BATCH_BYTES_MAX unless one item alone is more."""
    part: list[_Body] = []
    size = 0
    for body in bodies:
        if part and size + len(body[1]) > BATCH_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body[1])
    if part:
        yield part


def _verdict(status: int, headers: Mapping[str, str], start: bytes, url: str) -> Verdict:
    """See the table in this module's docstring."""
    if status < 400 and _is_page(headers, start):
        return Retry(reason=f"{url}: a page came, not an answer (status {status})")
    if 200 <= status < 300 and status != _MULTI_STATUS:
        return ACCEPTED
    if status in _BAD_ITEM:
        return Refused(f"http_{status}", start[:200].decode("utf-8", "replace"))
    reason = f"{url}: status {status}"
    if status in _LATER or status >= 500:
        return Retry(_retry_after_s(headers), reason)
    if status >= 400:
        return Retry(DENIED_RETRY_S, reason, denied=True)
    return Retry(reason=reason)


def _is_page(headers: Mapping[str, str], start: bytes) -> bool:
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in _PAGE_TYPES or start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds or a date, measured by the server's own clock where it says its time; 0: not said."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), RETRY_AFTER_S_MAX)
    try:
        until = parsedate_to_datetime(text)
        if "Date" in headers:
            now = parsedate_to_datetime(headers["Date"])
        else:
            now = datetime.fromtimestamp(time.time_ns() / 1e9, UTC)
        return min(max((until - now).total_seconds(), 0.0), RETRY_AFTER_S_MAX)
    except (TypeError, ValueError):
        return 0.0


def _link_error(url: str, error: BaseException) -> UplinkError:
    causes = (getattr(error, "certificate_error", None), getattr(error, "os_error", None))
    for cause in (*causes, error.__cause__, error):
        refusal = refusal_of(cause) if cause else None
        if refusal:
            return LinkRefusedError(f"{url}: {refusal}")
    if isinstance(error, TimeoutError):
        return UplinkError(f"{url}: no answer in time")
    return UplinkError(f"{url}: {error or type(error).__name__}")
