"""HTTP uplink on aiohttp: batches of JSON, POSTed; 2xx means that the platform has stored them.

``POST <url>/alerts`` has ``{"alerts": [CloudEvent, …]}``, ``POST <url>/samples`` has
``{"samples": [message, …]}``. Redirects are not followed and a page is not an answer, whatever its
status: that is how a captive portal looks. The same bytes have the same ``Idempotency-Key``
whenever they are sent.

======================================  ====================================================
answer                                  verdict
======================================  ====================================================
2xx                                     accepted
207 or 2xx with {"errors": [{"id" or    those items are refused, all others accepted
"seq", "reason"}]}
2xx with JSON that has an error and     the link pauses: nobody said that it is stored (1)
names no item, or cannot be read
2xx with a text that is no JSON         accepted, whatever the text
400, 413, 422                           the batch is halved until the one is found: refused
401, 403, 404, 405 and any other 4xx    lane denied: slow retry, the other lanes go on,
                                        nothing delivered (1)
408, 425, 429                           the link pauses, for Retry-After where that is given
5xx                                     likewise (1)
3xx, a page (HTML), other               the link pauses: nobody said that it is stored (1)
no connection                           nothing known: reconnect
closed without an answer, none in time  nothing known: reconnect (1)
certificates (TLS), the proxy's 407     link refused: slow retry, one alert
======================================  ====================================================

(1) Every time for one item, while others are taken: the item's fault after all (``doubts``).

A connection that the server had closed while it was idle is no failed link: it is opened again.
"""

import asyncio
import contextlib
import gzip
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import msgspec

from gateway.errors import UplinkError
from gateway.site.webhook_secret import keys_of
from gateway.uplink import message, webhook
from gateway.uplink.base import (
    ACCEPTED,
    ALERT,
    LANES,
    Acknowledges,
    LinkRefusedError,
    Outgoing,
    Refused,
    Retry,
    UnansweredError,
    Verdict,
)
from gateway.uplink.http_answer import REFUSED_ITEM, Answer, ItemError, answer_of
from gateway.uplink.http_session import (
    Resolver,
    Reuse,
    StaleError,
    link_error,
    read_answer,
    telling_reuse,
)
from gateway.uplink.proxy import Proxy, proxy_of
from gateway.uplink.rate import RateLimit
from gateway.uplink.tls import client_context, watch_peer

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

BATCH_BYTES_MAX: Final = 256 * 1024
RATE_BYTES_S_MIN: Final = 4_000  # a body gets more time than ``timeout`` on a line of 32 kbit/s
_STALE_MAX: Final = len(LANES) + 1  # so many idle connections there may be, and one that is not


class _Body(NamedTuple):
    """One item of a send."""

    place: int  # in the send
    seq: int
    json: bytes


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
        self.proxy_credentials: Credentials | None = None  # too
        self._proxy_setting = config.proxy
        self._sign = config.sign
        self._gzip_above = config.gzip_above
        self._rate = RateLimit(config.messages_per_second, config.bytes_per_second)
        self._timeout_s = config.timeout / 1e9
        self._proxy: Proxy | None = None
        self._keys: tuple[bytes, ...] = ()
        self._secrets: tuple[bytes, ...] = ()
        self._session: aiohttp.ClientSession | None = None
        self.certificate_not_after_utc_ns = 0  # of the server, 0 where there is none

    async def connect(self) -> bool:
        """Nobody has answered yet when this returns: the first POST will tell."""
        await self.close()
        self._keys = self._signing_keys()
        self._proxy = proxy_of(self._proxy_setting, self._url, self.proxy_credentials)
        self._secrets = self._known_secrets()
        context = await client_context(self.credentials) if self._tls else None
        if context:
            watch_peer(context, self._certificate_seen)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context or True,
                limit_per_host=len(LANES),
                resolver=Resolver(self._timeout_s),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # and no headers: a proxy would see those, too
            trace_configs=[telling_reuse()],
        )
        return False

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """POST in batches, in order."""
        verdicts: list[Verdict | None] = [None] * len(items)
        bodies: list[_Body] = []
        for index, out in enumerate(items):
            try:
                encoded = message.encode(self._sender, lane, out)
                bodies.append(_Body(index, out.item.seq, encoded))
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
        self, lane: str, batch: Sequence[_Body], verdicts: list[Verdict | None]
    ) -> Retry | None:
        """Halved until the one that the platform refuses stands alone; Retry: stop here."""
        answer = await self._post(lane, [body.json for body in batch])
        if isinstance(answer, tuple):
            return _settle(lane, batch, answer, verdicts)
        if isinstance(answer, Refused) and len(batch) > 1:
            middle = len(batch) // 2
            stop = await self._deliver(lane, batch[:middle], verdicts)
            return stop or await self._deliver(lane, batch[middle:], verdicts)
        if isinstance(answer, Retry):
            return answer
        for body in batch:
            verdicts[body.place] = answer
        return None

    async def _post(self, lane: str, bodies: list[bytes]) -> Answer:
        if lane == ALERT:
            url, body = f"{self._url}/alerts", message.alerts_body(self._sender, bodies)
        else:
            url, body = f"{self._url}/samples", message.samples_body(bodies)
        headers = self._headers_of(body)
        if self._gzip_above is not None and len(body) > self._gzip_above:
            body = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
            headers["Content-Encoding"] = "gzip"
        await self._rate.pay(lane, len(body))
        known = Reuse()
        try:
            for _ in range(_STALE_MAX):
                known = Reuse()
                with contextlib.suppress(StaleError):
                    return await self._exchange(url, body, headers, known)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise link_error(url, error, sent=known.connected) from error
        msg = f"{url}: every connection was closed by the server"
        raise UnansweredError(msg)

    async def _exchange(
        self, url: str, body: bytes, headers: Mapping[str, str], known: "Reuse"
    ) -> Answer:
        """One POST. Raises StaleError where an idle connection was closed before any answer."""
        session = self._session
        if session is None:
            msg = "not connected"
            raise UplinkError(msg)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s + len(body) / RATE_BYTES_S_MIN)
        try:
            async with session.post(
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
                trace_request_ctx=known,
                **self._by_proxy(),
            ) as response:
                answered = await read_answer(response.content)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if known.reused and not isinstance(error, aiohttp.ClientConnectorError):
                raise StaleError from error
            raise
        for secret in self._secrets:  # a server that repeats what it was sent
            answered = answered.replace(secret, b"***")
        return answer_of(response.status, response.headers, answered, url)

    def _headers_of(self, body: bytes) -> dict[str, str]:
        """Of one body, before any compression."""
        ident = webhook.identity(body)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": ident,
            **self._authorization(),
        }
        if self._keys:
            now_s = time.time_ns() // 1_000_000_000
            headers.update(webhook.headers(self._keys, ident, now_s, body))
        proxy = self._proxy
        if proxy and proxy.authorization and not self._tls:
            headers["Proxy-Authorization"] = proxy.authorization
        return headers

    def _by_proxy(self) -> dict[str, Any]:
        proxy = self._proxy
        if proxy is None:
            return {}
        if not (self._tls and proxy.authorization):
            return {"proxy": proxy.url}
        return {
            "proxy": proxy.url,
            "proxy_headers": {"Proxy-Authorization": proxy.authorization},
        }

    def _signing_keys(self) -> tuple[bytes, ...]:
        if not self._sign:
            return ()
        credentials = self.credentials
        if credentials is None or credentials.webhook_secret is None:
            msg = "sign = true, and the credentials have no webhook-secret"
            raise LinkRefusedError(msg)
        return keys_of(credentials.webhook_secret.reveal())

    def _known_secrets(self) -> tuple[bytes, ...]:
        """What no text of ours may show, however it came there."""
        texts = [value.partition(" ")[2] for value in self._authorization().values()]
        if self._proxy:
            texts.append(self._proxy.authorization.partition(" ")[2])
        for held in (self.credentials, self.proxy_credentials):
            if held is not None:
                texts.append(held.password.reveal() if held.password else "")
                texts.extend(held.webhook_secret.reveal().split() if held.webhook_secret else ())
        return tuple(text.encode() for text in texts if text)

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


def _settle(
    lane: str, batch: Sequence[_Body], errors: Sequence[ItemError], verdicts: list[Verdict | None]
) -> Retry | None:
    """Refuse the items that the answer names, accept the others; nothing where it names no such."""
    by_seq = {body.seq: body.place for body in batch}
    by_id = {message.head_of(body.json).id: body.place for body in batch} if lane == ALERT else {}
    refused: dict[int, Refused] = {}
    for error in errors:
        place = by_id.get(error.id) if error.id else by_seq.get(error.seq)
        if place is None:
            named = error.id[:80] or error.seq
            text = f"the answer names an item that was not sent: {named}"
            return Retry(reason=text, fault=REFUSED_ITEM)
        refused[place] = Refused(REFUSED_ITEM, error.reason[:200])
    for body in batch:
        verdicts[body.place] = refused.get(body.place, ACCEPTED)
    return None


def _parts(bodies: Sequence[_Body]) -> Iterator[list[_Body]]:
    """In order, each part at most BATCH_BYTES_MAX unless one item alone is more."""
    part: list[_Body] = []
    size = 0
    for body in bodies:
        if part and size + len(body.json) > BATCH_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body.json)
    if part:
        yield part
