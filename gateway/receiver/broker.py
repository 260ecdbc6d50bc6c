"""MQTT in: a subscriber whose acknowledgement means stored.

Every message is acknowledged by hand, after the commit. The broker keeps a persistent session by
the client id, so that what comes while nobody receives, or was not acknowledged, comes again. At
most RECEIVE_MAXIMUM messages are under way: the broker holds the rest.

One client object is one connection: an acknowledgement is a packet number, and in the next
connection the same number may be another message's.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.errors import GatewayError, UplinkError
from gateway.receiver.arrival import ALERTS, SAMPLES, STATUS, Arrival
from gateway.receiver.platform import Outcome
from gateway.receiver.writer import Writer
from gateway.uplink.tls import client_context

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials

_LOGGER = logging.getLogger(__name__)

TOPICS: Final = {
    "sitewarden/+/alerts": ALERTS,
    "sitewarden/+/live": SAMPLES,
    "sitewarden/+/backfill": SAMPLES,
    "sitewarden/+/status": STATUS,
}
RECEIVE_MAXIMUM: Final = 256
SESSION_S: Final = 7 * 86_400  # how long the broker keeps what nobody fetches
KEEPALIVE_S: Final = 20
CONNECT_S: Final = 5.0
RETRY_S_FIRST: Final = 0.5
RETRY_S_MAX: Final = 15.0
_PREFIX: Final = "sitewarden/"
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_KINDS: Final = {topic.rpartition("/")[2]: kind for topic, kind in TOPICS.items()}


class BrokerIn:
    """One broker. ``told`` is called on the loop with "subscribed", "connecting" or what is wrong.

    ``client_id`` "": no session is kept.
    """

    def __init__(
        self,
        url: str,
        writer: Writer,
        *,
        client_id: str,
        credentials: "Credentials | None",
        told: Callable[[str], None],
    ) -> None:
        """Raises GatewayError for an address that is none."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in _PORTS or not parts.hostname or port == 0:
            msg = f'found "{url}", expected a broker such as "mqtt://127.0.0.1:1883"'
            raise GatewayError(msg)
        self._host, self._port = parts.hostname, port or _PORTS[parts.scheme]
        self._tls = parts.scheme == "mqtts"
        self._writer = writer
        self._client_id = client_id
        self._credentials = credentials
        self._told = told
        self._said = ""

    async def run(self) -> None:
        """Receive until cancelled; a connection that ends is made anew."""
        delay_s = RETRY_S_FIRST
        while True:
            self._told("connecting")
            session = _Session(self._writer, self._host, self._port)
            try:
                client = await self._client(session)
                await session.run(client, partial(self._connect, client), self._subscribed)
            except (OSError, ValueError, UplinkError) as error:
                self._say(str(error) or type(error).__name__)
            except Exception as error:  # whatever it is, the other way in goes on
                _LOGGER.exception("receive: a fault")
                self._say(f"{type(error).__name__}: {error}")
            if session.subscribed:
                delay_s = RETRY_S_FIRST
                self._say(session.why)
            elif session.why:
                self._say(session.why)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_S_MAX)

    async def _client(self, session: "_Session") -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_S
        credentials = self._credentials
        if credentials and credentials.username is not None:
            password = credentials.password.reveal() if credentials.password else None
            client.username_pw_set(credentials.username, password)
        if self._tls:
            client.tls_set_context(await client_context(credentials))
        session.attach(client)
        return client

    def _connect(self, client: paho.Client) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.SessionExpiryInterval = SESSION_S if self._client_id else 0
        client.connect(
            self._host,
            self._port,
            keepalive=KEEPALIVE_S,
            clean_start=not self._client_id,
            properties=properties,
        )

    def _subscribed(self) -> None:
        if self._said:
            _LOGGER.info("receive: %s:%d: subscribed again", self._host, self._port)
        self._said = ""
        self._told("subscribed")

    def _say(self, why: str) -> None:
        """Once until it is over."""
        if not self._said:
            _LOGGER.warning("receive: %s:%d: %s; trying again", self._host, self._port, why)
        self._said = why
        self._told(why)


class _Client(paho.Client):
    """Tells of a thread that ended by an error, such as a packet that the library cannot read."""

    died: Callable[[str], None]

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """What the library's thread does."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:  # noqa: BLE001  else nobody hears of it
            self._sock_close()
            self.died(f"{type(error).__name__}: {error}")
            return MQTTErrorCode.MQTT_ERR_UNKNOWN


class _Session:
    """One connection, from its socket to its end. Callbacks come from the library's thread."""

    def __init__(self, writer: Writer, host: str, port: int) -> None:
        self._writer = writer
        self._place = f"{host}:{port}"
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._on_subscribed: Callable[[], None] = lambda: None
        self.subscribed = False
        self.why = ""

    def attach(self, client: "_Client") -> None:
        """Listen to it."""
        client.on_connect = self._connected
        client.on_subscribe = self._granted
        client.on_message = self._message
        client.on_disconnect = self._disconnected
        client.died = self._end

    async def run(
        self,
        client: paho.Client,
        connect: Callable[[], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        """Returns when it is over. Raises OSError where there is no connection."""
        self._on_subscribed = on_subscribed
        connecting = asyncio.ensure_future(asyncio.to_thread(connect))
        try:
            await asyncio.shield(connecting)
            client.loop_start()
            await self._ended.wait()
        finally:
            await asyncio.wait((connecting,))
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)

    def _connected(
        self,
        client: paho.Client,
        _userdata: Any,
        _flags: paho.ConnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._end(f"the broker refuses us: {code}")
            return
        client.subscribe([(topic, 1) for topic in TOPICS])

    def _granted(
        self,
        _client: paho.Client,
        _userdata: Any,
        _mid: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = [f"{topic}: {code}" for topic, code in zip(TOPICS, codes, strict=False)
                   if code.is_failure]  # fmt: skip
        if refused:
            self._end("the broker does not let us subscribe: " + ", ".join(refused))
            return
        self._loop.call_soon_threadsafe(self._up)

    def _up(self) -> None:
        self.subscribed = True
        self._on_subscribed()

    def _message(self, client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        gateway, _, word = message.topic.removeprefix(_PREFIX).partition("/")
        kind = _KINDS.get(word)
        if kind is None or (kind == STATUS and not message.payload):
            client.ack(message.mid, message.qos)  # a retained word that was taken back
            return
        done = partial(self._stored, client, message.mid, message.qos, message.topic)
        self._writer.put(Arrival(kind, bytes(message.payload), gateway), done)

    def _stored(
        self, client: paho.Client, mid: int, qos: int, topic: str, outcome: Outcome
    ) -> None:
        """From the writer's thread: acknowledge, or leave it to the broker to send again."""
        if outcome.later:
            self._end(outcome.later)
            return
        if outcome.refused:  # it would come again for ever
            _LOGGER.error("receive: %s: %s; it is dropped", topic, outcome.refused)
        client.ack(mid, qos)

    def _disconnected(
        self,
        _client: paho.Client,
        _userdata: Any,
        _flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._end(f"the connection ended: {code}")

    def _end(self, why: str) -> None:
        self.why = self.why or why
        self._loop.call_soon_threadsafe(self._ended.set)
