"""MQTT 5 uplink on aiomqtt: QoS 1, every acknowledgement looked at, a new client per connection.

ACCEPTED means that the broker took the message. Topics ``sitewarden/<gateway>/`` + ``alerts``,
``live``, ``backfill`` and ``status`` (retained, with a will). No message expires. A broker without
MQTT 5 is refused: version 3.1.1 cannot say that a publish was not allowed, so that it would count
as delivered. What the other end's codes mean is in ``mqtt_codes``.

Of several brokers the first one that answers is used, in the order of the site file; while that is
not the first of all, the first is tried now and then and gone back to. To answer is more than to
give a session: the status has to be acknowledged, too. After a session that took nothing of what it
was given the next broker is the first to be asked.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiomqtt
import msgspec

from gateway.errors import UplinkError
from gateway.uplink import message, session_mark
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
    TakenOverError,
    Verdict,
)
from gateway.uplink.in_flight import Slots
from gateway.uplink.mqtt_client import AckingClient, Disconnected
from gateway.uplink.mqtt_codes import TAKEN_OVER, link_error, suspected, too_large, verdict_of
from gateway.uplink.rate import RateLimit
from gateway.uplink.session_mark import SessionMark
from gateway.uplink.stream import open_stream
from gateway.uplink.tls import client_context, not_after_utc_ns, stream_error

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

_LOGGER = logging.getLogger(__name__)

GOODBYE_S: Final = 1.0
FIRST_RETRY_S: Final = 60.0  # between two looks for the first broker while a backup is in use

_TOPICS: Final = {ALERT: "alerts", LIVE: "live", BACKFILL: "backfill"}
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_HEADER_BYTES: Final = 16  # fixed header, topic length, packet id, properties of a PUBLISH


class Broker(NamedTuple):
    """Where one is."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, url: str) -> Self:
        """From a site file's URL."""
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        return cls(parts.hostname or "", port, parts.scheme == "mqtts")


class MqttUplink:
    """One platform. Raises UplinkError and nothing else."""

    acknowledges = Acknowledges.BROKER

    def __init__(
        self, config: "UplinkConfig", sender: "Sender", credentials: "Credentials | None" = None
    ) -> None:
        self._brokers = [Broker.of(url) for url in (config.url, *config.backup_urls)]
        self._place = 0  # of the broker in use
        self._took: bool | None = None  # whether this session did; None: it was given nothing
        self._sender = sender
        self.credentials = credentials  # read by connect()
        self._window = config.window
        self._group = config.group
        self._timeout_s = config.timeout / 1e9
        self._prefix = f"sitewarden/{sender.gateway}"
        # A simulated run of the same site must not take the real one's session or its word.
        self._apart = "-simulated" if sender.exercise else ""
        self._status_topic = f"{self._prefix}/status{self._apart}"
        self._mark = SessionMark(sender.gateway, sender.uplink, exercise=sender.exercise)
        self._client: AckingClient | None = None
        self._slots = Slots(config.window)
        self._rate = RateLimit(config.messages_per_second, config.bytes_per_second)
        self._status_taken = True  # a broker may end the session over it: not tried twice
        self._may_listen = True  # likewise
        self.certificate_not_after_utc_ns = 0  # of the server, 0 where there is none

    @property
    def notices(self) -> Mapping[str, str]:
        """A backup broker in use, somebody else in our session."""
        host, port, _ = self._brokers[self._place]
        backup = f"the backup broker {host}:{port} is in use" if self._place else ""
        return {"broker": backup, "session": session_mark.NOTICE if self._mark.contested else ""}

    async def connect(self) -> bool:
        """A new session with the first broker that gives one; it has answered when this returns."""
        await self.close()
        errors: list[UplinkError] = []
        begin = self._place + 1 if self._took is False else 0
        self._took = None
        for index in range(len(self._brokers)):
            place = (begin + index) % len(self._brokers)
            try:
                self._client = client = await self._open(self._brokers[place])
                await self._greet(client)
            except UplinkError as error:
                errors.append(error)
                await self.close()
                continue
            self._place = place
            self._slots = Slots(min(self._window, client.receive_maximum))
            return True
        refused = [error for error in errors if isinstance(error, LinkRefusedError)]
        raise (refused or errors)[0]

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """Publish all, wait for each PUBACK."""
        client = self._client
        if client is None or client.ended is not None:
            raise link_error(client.ended if client else None)
        group = self._group if lane == ALERT else 1
        parts = [items[first : first + group] for first in range(0, len(items), group)]
        self._took = bool(self._took)
        found = await asyncio.gather(*(self._deliver(client, lane, part) for part in parts))
        results = [result for part in found for result in part]
        verdicts = [result for result in results if result is not None]
        self._took = self._took or ACCEPTED in verdicts
        if len(verdicts) == len(items):
            return verdicts
        ended = client.ended or Disconnected("no answer")
        self._took = self._took or suspected(ended) is not None  # that is the item's fault
        if verdicts:  # what is known of some is progress; the next call finds the link down
            return [result or Retry(reason=str(ended)) for result in results]
        if len(items) == 1 and (refusal := suspected(ended)):
            return [refusal]
        raise link_error(ended, under_way=True) from ended

    async def lost(self) -> None:
        """Raises UplinkError when the session ends."""
        client = self._client
        if client is None:
            raise link_error(None)
        if self._place:
            ended = await self._ended_or_first_back(client)
        else:
            ended = await client.wait_ended()
        if client.asking:  # some brokers end a session that may not subscribe
            self._may_listen = False
        self._mark.doubted = ended.code == 0
        if ended.code == TAKEN_OVER:
            self._mark.taken_over()
        if self._mark.contested and ended.code == 0:
            raise TakenOverError(session_mark.NOTICE) from ended
        raise link_error(ended) from ended

    async def close(self) -> None:
        """Say goodbye where somebody listens, then disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await self._leave(client, say=self._status_taken)

    # One session

    async def _open(self, broker: Broker) -> AckingClient:
        context = await client_context(self.credentials) if broker.tls else None
        try:
            sock = await open_stream(
                broker.host, broker.port, timeout_s=self._timeout_s, context=context
            )
        except OSError as error:
            raise stream_error(broker.host, broker.port, error) from error
        self.certificate_not_after_utc_ns = not_after_utc_ns(sock)
        client = self._make_client(broker)
        try:
            await client.open(sock)
        except Disconnected as error:
            raise link_error(error, sent=False) from error
        return client

    async def _ended_or_first_back(self, client: AckingClient) -> Disconnected:
        """The session's end; or the first broker is there again, and this session is to end."""
        ended = asyncio.create_task(client.wait_ended())
        try:
            while not (await asyncio.wait((ended,), timeout=FIRST_RETRY_S))[0]:
                try:
                    await self._try_first()
                except UplinkError as error:
                    _LOGGER.debug("%s: the first broker: %s", self._sender.uplink, error)
                    continue
                self._took = None
                msg = "back to the first broker"
                raise UplinkError(msg)
            return ended.result()
        finally:
            ended.cancel()

    async def _try_first(self) -> None:
        """Raises UplinkError where the first broker gives no session, or answers nothing in it."""
        client = await self._open(self._brokers[0])
        try:
            if self._status_taken:
                word = self._mark.word("offline")  # there we are
                await client.publish_acked(self._status_topic, word, retain=True)
        except Disconnected as error:
            raise link_error(error, sent=False) from error
        finally:
            await self._leave(client, say=False)

    async def _leave(self, client: AckingClient, *, say: bool) -> None:
        try:
            if client.ended is None:
                async with asyncio.timeout(GOODBYE_S):
                    if say:
                        await client.publish_acked(
                            self._status_topic, self._mark.word("offline"), retain=True
                        )
                    await client.goodbye()
        except (TimeoutError, Disconnected) as error:
            _LOGGER.debug("%s: left without a goodbye: %s", self._sender.uplink, error)
        finally:
            client.drop()

    def _make_client(self, broker: Broker) -> AckingClient:
        credentials = self.credentials
        return AckingClient(
            broker.host,
            identifier=f"sitewarden-{self._sender.gateway}-{self._sender.uplink}{self._apart}",
            username=credentials.username if credentials else None,
            password=credentials.password.reveal()
            if credentials and credentials.password
            else None,
            will=aiomqtt.Will(self._status_topic, self._mark.word("offline"), qos=1, retain=True),
            window=self._window,
            timeout_s=self._timeout_s,
        )

    async def _greet(self, client: AckingClient) -> None:
        """Say that we are there; after an end without a word first look who said so last."""
        if self._may_listen and self._mark.worth_a_look():
            client.listen(self._status_topic, self._mark.heard)
        if not self._status_taken:
            return
        try:
            word = self._mark.word("online")
            code = await client.publish_acked(self._status_topic, word, retain=True)
        except Disconnected as error:
            if client.asking:
                self._may_listen = False
            raise link_error(error, sent=False) from error
        if code >= 0x80:
            self._status_taken = False
            _LOGGER.warning(
                "%s: the broker does not take %s (0x%02x)",
                self._sender.uplink, self._status_topic, code,
            )  # fmt: skip

    # Items

    async def _deliver(
        self, client: AckingClient, lane: str, outs: Sequence[Outgoing]
    ) -> list[Verdict | None]:
        """None where nothing is known. A group that is refused is halved until the one is found."""
        verdict = await self._publish(client, lane, outs)
        if isinstance(verdict, Refused) and len(outs) > 1:
            middle = len(outs) // 2
            first = await self._deliver(client, lane, outs[:middle])
            return first + await self._deliver(client, lane, outs[middle:])
        return [verdict] * len(outs)

    async def _publish(
        self, client: AckingClient, lane: str, outs: Sequence[Outgoing]
    ) -> Verdict | None:
        topic = f"{self._prefix}/{_TOPICS[lane]}"
        try:
            encoded = [message.encode(self._sender, lane, out) for out in outs]
        except (msgspec.MsgspecError, ValueError) as error:
            return Refused("unreadable", str(error))
        grouped = lane == ALERT and self._group > 1
        payload = message.alert_group(encoded) if grouped else encoded[0]
        length = len(payload) + len(topic) + _HEADER_BYTES
        if length > client.packet_bytes_max:
            return too_large(length, client.packet_bytes_max)
        async with self._slots.of(lane):
            await self._rate.pay(lane, length)
            try:
                return verdict_of(await client.publish_acked(topic, payload), topic)
            except Disconnected:
                return None
