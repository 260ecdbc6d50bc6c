"""MQTT 5 uplink on aiomqtt: QoS 1, every acknowledgement looked at, a new client per connection.

ACCEPTED means that the broker took the message. Topics ``sitewarden/<gateway>/`` + ``alerts``,
``live``, ``backfill`` and ``status`` (retained, with a will). A broker without MQTT 5 is refused:
version 3.1.1 cannot say that a publish was not allowed, so that it would count as delivered.

What the other end's codes mean:

=====================  ========================================  ==================================
where                  code                                      verdict
=====================  ========================================  ==================================
PUBACK                 0x00, 0x10 (nobody subscribed)            accepted
PUBACK                 0x87 not authorised, 0x90 topic name      lane denied: slow retry, the other
                                                                 lanes go on, nothing delivered
PUBACK                 0x91 packet id in use, 0x97 quota         the link pauses
PUBACK                 0x99 payload format, 0x95 too large,      this item is refused
                       0x80, 0x83 and any other >= 0x80
(before sending)       above the broker's Maximum Packet Size    this item is refused
CONNACK, DISCONNECT    0x84 0x85 0x86 0x87 0x8A 0x8C 0x8E 0x9B   link refused: slow retry, one alert
                       and certificates (TLS)
DISCONNECT             0x81 0x82 0x90 0x94 0x95 0x99             one of the items did that: sent one
                                                                 by one, then that one is refused
any                    anything else, silence, a lost link       nothing known: reconnect
=====================  ========================================  ==================================
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiomqtt
import msgspec

from gateway.errors import UplinkError
from gateway.uplink import message
from gateway.uplink.base import (
    ACCEPTED,
    ALERT,
    BACKFILL,
    LIVE,
    Acknowledges,
    LinkRefusedError,
    Outgoing,
    Refused,
    Retry,
    SuspectError,
    Verdict,
)
from gateway.uplink.mqtt_client import AckingClient, Disconnected
from gateway.uplink.stream import open_stream
from gateway.uplink.tls import client_context, not_after_utc_ns, refusal_of, stream_error

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

_LOGGER = logging.getLogger(__name__)

DENIED_RETRY_S: Final = 30.0
QUOTA_RETRY_S: Final = 5.0
GOODBYE_S: Final = 1.0

_TOPICS: Final = {ALERT: "alerts", LIVE: "live", BACKFILL: "backfill"}
_DENIED: Final = {0x87: "not authorised", 0x90: "topic name invalid"}
_PAUSE: Final = {0x91: "packet id in use", 0x97: "quota exceeded"}
_BAD_ITEM: Final = {
    0x80: "unspecified",
    0x83: "implementation_specific",
    0x95: "packet_too_large",
    0x99: "payload_format_invalid",
}
_LINK_REFUSED: Final = {
    0x84: "it does not speak MQTT 5",
    0x85: "it does not accept our client id",
    0x86: "bad user name or password",
    0x87: "not authorised",
    0x8A: "we are banned",
    0x8C: "bad authentication method",
    0x8E: "another client took the session over: the same gateway and uplink id are used twice",
    0x9B: "it does not support QoS 1",
}
_SUSPECT: Final = {
    0x81: "malformed_packet",
    0x82: "protocol_error",
    0x90: "topic_name_invalid",
    0x94: "topic_alias_invalid",
    0x95: "packet_too_large",
    0x99: "payload_format_invalid",
}
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_HEADER_BYTES: Final = 16  # fixed header, topic length, packet id, properties of a PUBLISH


class MqttUplink:
    """One broker. Raises UplinkError and nothing else."""

    acknowledges = Acknowledges.BROKER

    def __init__(
        self, config: "UplinkConfig", sender: "Sender", credentials: "Credentials | None" = None
    ) -> None:
        url = urlsplit(config.url)
        self._host = url.hostname or ""
        self._port = url.port or _PORTS[url.scheme]
        self._tls = url.scheme == "mqtts"
        self._sender = sender
        self.credentials = credentials  # read by connect()
        self._window = config.window
        self._timeout_s = config.timeout / 1e9
        self._prefix = f"sitewarden/{sender.gateway}"
        # A simulated run of the same site must not take the real one's session or its word.
        self._apart = "-simulated" if sender.exercise else ""
        self._status_topic = f"{self._prefix}/status{self._apart}"
        self._client: AckingClient | None = None
        self._slots = _Slots(config.window)
        self._status_taken = True  # a broker may end the session over it: not tried twice
        self.certificate_not_after_utc_ns = 0  # of the server, 0 where there is none

    async def connect(self) -> bool:
        """A new session with the broker; it has answered when this returns."""
        await self.close()
        context = await client_context(self.credentials) if self._tls else None
        try:
            sock = await open_stream(
                self._host, self._port, timeout_s=self._timeout_s, context=context
            )
        except OSError as error:
            raise stream_error(self._host, self._port, error) from error
        self.certificate_not_after_utc_ns = not_after_utc_ns(sock)
        client = self._make_client()
        try:
            await client.open(sock)
        except Disconnected as error:
            raise _link_error(error, sent=False) from error
        self._client = client
        self._slots = _Slots(min(self._window, client.receive_maximum))
        if self._status_taken:
            await self._say_online(client)
        return True

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """Publish all, wait for each PUBACK."""
        client = self._client
        if client is None or client.ended is not None:
            raise _link_error(client.ended if client else None)
        results = await asyncio.gather(*(self._publish(client, lane, out) for out in items))
        verdicts = [result for result in results if result is not None]
        if len(verdicts) == len(items):
            return verdicts
        ended = client.ended or Disconnected("no answer")
        if verdicts:  # what is known of some is progress; the next call finds the link down
            return [result or Retry(reason=str(ended)) for result in results]
        if ended.code in _SUSPECT and len(items) == 1:
            return [Refused(_SUSPECT[ended.code], str(ended))]
        raise _link_error(ended) from ended

    async def lost(self) -> None:
        """Raises UplinkError when the session ends."""
        client = self._client
        if client is None:
            raise _link_error(None)
        ended = await client.wait_ended()
        raise _link_error(ended) from ended

    async def close(self) -> None:
        """Say goodbye where somebody listens, then disconnect."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            if client.ended is None:
                async with asyncio.timeout(GOODBYE_S):
                    if self._status_taken:
                        await client.publish_acked(
                            self._status_topic, self._word("offline"), retain=True
                        )
                    await client.goodbye()
        except (TimeoutError, Disconnected) as error:
            _LOGGER.debug("%s: left without a goodbye: %s", self._sender.uplink, error)
        finally:
            client.drop()

    def _make_client(self) -> AckingClient:
        credentials = self.credentials
        return AckingClient(
            self._host,
            identifier=f"sitewarden-{self._sender.gateway}-{self._sender.uplink}{self._apart}",
            username=credentials.username if credentials else None,
            password=credentials.password.reveal()
            if credentials and credentials.password
            else None,
            will=aiomqtt.Will(self._status_topic, self._word("offline"), qos=1, retain=True),
            window=self._window,
            timeout_s=self._timeout_s,
        )

    async def _say_online(self, client: AckingClient) -> None:
        try:
            code = await client.publish_acked(self._status_topic, self._word("online"), retain=True)
        except Disconnected as error:
            raise _link_error(error, sent=False) from error
        if code >= 0x80:
            self._status_taken = False
            _LOGGER.warning(
                "%s: the broker does not take %s (0x%02x)",
                self._sender.uplink, self._status_topic, code,
            )  # fmt: skip

    def _word(self, state: str) -> bytes:
        word: dict[str, object] = {"gateway": self._sender.gateway, "state": state}
        if self._sender.exercise:
            word["exercise"] = True
        return msgspec.json.encode(word)

    async def _publish(self, client: AckingClient, lane: str, out: Outgoing) -> Verdict | None:
        """None where nothing is known of the item."""
        topic = f"{self._prefix}/{_TOPICS[lane]}"
        try:
            payload = message.encode(self._sender, lane, out)
        except (msgspec.MsgspecError, ValueError) as error:
            return Refused("unreadable", str(error))
        length = len(payload) + len(topic) + _HEADER_BYTES
        if length > client.packet_bytes_max:
            detail = f"{length} bytes, the broker takes {client.packet_bytes_max}"
            return Refused(_BAD_ITEM[0x95], detail)
        async with self._slots.of(lane):
            try:
                code = await client.publish_acked(topic, payload)
            except Disconnected:
                return None
        return _verdict(code, topic)


class _Slots:
    """Bounds what is in flight; a share is kept for alerts, or they would wait behind samples."""

    def __init__(self, total: int) -> None:
        self._all = asyncio.Semaphore(total)
        self._samples = asyncio.Semaphore(max(1, total - max(1, total // 4)))

    def of(self, lane: str) -> "_Slot":
        return _Slot([self._all] if lane == ALERT else [self._samples, self._all])


class _Slot:
    """One place in flight."""

    def __init__(self, semaphores: list[asyncio.Semaphore]) -> None:
        self._wanted = semaphores
        self._held: list[asyncio.Semaphore] = []

    async def __aenter__(self) -> None:
        try:
            for semaphore in self._wanted:
                await semaphore.acquire()
                self._held.append(semaphore)
        except asyncio.CancelledError:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        while self._held:
            self._held.pop().release()


def _verdict(code: int, topic: str) -> Verdict:
    if code < 0x80:
        return ACCEPTED
    if code in _DENIED:
        return Retry(DENIED_RETRY_S, f"{topic}: {_DENIED[code]}", denied=True)
    if code in _PAUSE:
        return Retry(QUOTA_RETRY_S, _PAUSE[code])
    return Refused(_BAD_ITEM.get(code, "unspecified"), f"PUBACK 0x{code:02x}")


def _link_error(ended: Disconnected | None, *, sent: bool = True) -> UplinkError:
    """``sent``: an item may have been what the session ended over."""
    if ended is None:
        return UplinkError("not connected")
    cause = refusal_of(ended.cause) if ended.cause else None
    if cause:
        return LinkRefusedError(cause)
    if ended.code in _LINK_REFUSED:
        return LinkRefusedError(f"the broker refuses us: {_LINK_REFUSED[ended.code]}")
    if sent and ended.code in _SUSPECT:
        return SuspectError(str(ended))
    return UplinkError(str(ended))
