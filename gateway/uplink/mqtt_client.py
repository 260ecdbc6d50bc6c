"""aiomqtt's client, made to tell what became of each publish.

The library's own ``publish`` takes a refused publish for a delivered one and lets a pending one
wait out its time after a disconnect. This subclass looks at the reason code of every PUBACK, fails
at once when the session ends, and keeps what CONNACK said of limits. It leans on private names of
aiomqtt 2 and paho 2; ``tests/peers/test_mosquitto.py`` holds them against a real broker.

One object is one session: entering a client again makes paho send what was not acknowledged once
more, behind the pump's back.
"""

import asyncio
import contextlib
import fcntl
import logging
import socket
import ssl
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.uplink.tls import refusal_of

_LOGGER = logging.getLogger(__name__)
KEEPALIVE_S: Final = 20
_PACKET_BYTES_MAX: Final = 268_435_455  # of the protocol
_RECEIVE_MAXIMUM: Final = 65_535  # where CONNACK does not say
_LAST_RECORDS: Final = 16  # that are read for a word at the end
_RECORD_BYTES_MAX: Final = 16_384  # of TLS
_INT: Final = struct.Struct("i")
_PROTOCOL_ERROR: Final = 0x82
_QOS_NOT_SUPPORTED: Final = 0x9B


class Disconnected(Exception):
    """The session ended. ``code`` is the other end's reason code, 0 where it gave none."""

    def __init__(self, text: str, code: int = 0, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.cause = cause


class _Ear(logging.Logger):
    """The library logs why a socket failed and tells nobody else: kept here, printed nowhere."""

    def __init__(self) -> None:
        super().__init__(__name__, logging.ERROR)
        self.heard: BaseException | None = None

    def handle(self, record: logging.LogRecord) -> None:
        """Keep the exception of an error's arguments."""
        for argument in record.args or ():
            if isinstance(argument, BaseException):
                self.heard = argument


class AckingClient(aiomqtt.Client):
    """One session with a broker. All calls on the loop that made it."""

    def __init__(
        self,
        host: str,
        *,
        identifier: str,
        username: str | None,
        password: str | None,
        will: aiomqtt.Will,
        window: int,
        timeout_s: float,
    ) -> None:
        self._ear = _Ear()
        super().__init__(
            host,
            logger=self._ear,
            identifier=identifier,
            username=username,
            password=password,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=will,
            timeout=timeout_s,
            keepalive=KEEPALIVE_S,
            clean_start=True,
            max_inflight_messages=window + 1,  # one for the status
        )
        self._timeout_s = timeout_s
        self._acks: dict[int, asyncio.Future[int]] = {}
        self._heard_s = 0.0  # loop time of the last PUBACK, or of the first publish without one
        self._moved_s = 0.0  # loop time at which what waits to leave was last seen to shrink
        self._left_bytes = 0
        self._idle_task: asyncio.Task[None] | None = None
        self._heard: Callable[[bytes], None] | None = None
        self.asking = False  # a subscription is not answered yet
        self._ended: asyncio.Future[Disconnected] = self._loop.create_future()
        self.receive_maximum = _RECEIVE_MAXIMUM
        self.packet_bytes_max = _PACKET_BYTES_MAX

    @property
    def ended(self) -> Disconnected | None:
        """Why the session is over, None while it lasts."""
        return self._ended.result() if self._ended.done() else None

    async def wait_ended(self) -> Disconnected:
        """Returns when the session is over."""
        return await asyncio.shield(self._ended)

    async def open(self, sock: socket.socket) -> None:
        """MQTT's own handshake on a connected socket, which is ours from now on.

        Raises Disconnected.
        """
        self._client._create_socket = lambda: sock  # type: ignore[method-assign]  # noqa: SLF001
        try:
            self._client_connect()
            await asyncio.wait(
                (self._connected, self._ended),
                timeout=self._timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._check_welcome()
            self._idle_task = self._loop.create_task(self._watch_idle())
        except OSError as error:
            self.drop()
            raise Disconnected(str(error), cause=error) from error
        except BaseException:
            self.drop()
            raise

    async def publish_acked(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """The PUBACK's reason code. Raises Disconnected where none came, however that was."""
        if self.ended:
            raise self.ended
        if not self._acks:
            self._heard_s = self._loop.time()
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise self._end(Disconnected(paho.error_string(info.rc)))
        ack = self._acks[info.mid] = self._loop.create_future()
        try:
            return await self._patiently(ack)
        finally:
            self._acks.pop(info.mid, None)

    def listen(self, topic: str, heard: Callable[[bytes], None]) -> None:
        """What is retained on ``topic``, and what comes there later, goes to ``heard``."""
        self._heard = heard
        self.asking = True
        self._client.subscribe(topic, qos=0)

    async def goodbye(self) -> None:
        """Send DISCONNECT and wait until it has left; the will is not published then."""
        self._client.disconnect()
        await self.wait_ended()

    def drop(self) -> None:
        """Close the socket now; the session is over."""
        if self._idle_task is not None:
            self._idle_task.cancel()
        self._end(Disconnected("closed"))
        self._client._sock_close()  # noqa: SLF001

    async def _patiently(self, ack: "asyncio.Future[int]") -> int:
        """Wait as long as acknowledgements come or bytes leave: a slow link is no lost link."""
        while not ack.done():
            await asyncio.wait((ack,), timeout=self._timeout_s / 4)
            self._look_out()
            silent_s = self._loop.time() - max(self._heard_s, self._moved_s)
            if not ack.done() and silent_s >= self._timeout_s:
                self._end(Disconnected(f"no acknowledgement within {self._timeout_s:g} s"))
        return ack.result()

    def _look_out(self) -> None:
        """Notice that the other end's TCP takes what was written."""
        sock = self._client.socket()
        if sock is None or sock.fileno() < 0:
            return
        waiting = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        left_bytes: int = _INT.unpack(waiting)[0]
        left_bytes += sum(packet["to_process"] for packet in list(self._client._out_packet))  # noqa: SLF001
        if left_bytes < self._left_bytes:
            self._moved_s = self._loop.time()
        self._left_bytes = left_bytes

    async def _watch_idle(self) -> None:
        """With nothing under way, ask whether somebody is there: half-open within the timeout."""
        pause_s = self._timeout_s / 2
        asked_s: float | None = None
        while not self.ended:
            await asyncio.sleep(pause_s)
            if self._acks or self._loop.time() - self._heard_s < pause_s:
                asked_s = None
            elif asked_s is None or self._client._ping_t == 0:  # noqa: SLF001  0: it was answered
                asked_s = self._loop.time()
                self._guarded(self._client._send_pingreq)  # noqa: SLF001
            else:
                self._end(Disconnected(f"no answer to a ping within {pause_s:g} s"))

    def _check_welcome(self) -> None:
        refusal = self._connected.exception() if self._connected.done() else None
        if isinstance(refusal, aiomqtt.MqttCodeError):
            code = refusal.rc.value if isinstance(refusal.rc, ReasonCode) else 0
            msg = f"connection refused: {refusal}"
            raise Disconnected(msg, code)
        if self.ended:
            raise self.ended
        if not self._connected.done():
            msg = f"no answer to CONNECT within {self._timeout_s:g} s"
            raise Disconnected(msg)

    def _end(self, why: Disconnected) -> Disconnected:
        """The session is over, now: fail whatever waits. The first reason stands."""
        if not self._ended.done():
            self._ended.set_result(why)
        for ack in self._acks.values():
            if not ack.done():
                ack.set_exception(self._ended.result())
        return self._ended.result()

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.receive_maximum = getattr(properties, "ReceiveMaximum", _RECEIVE_MAXIMUM)
        self.packet_bytes_max = getattr(properties, "MaximumPacketSize", _PACKET_BYTES_MAX)
        if getattr(properties, "MaximumQoS", 1) < 1:
            self._end(Disconnected("the broker takes QoS 0 alone", _QOS_NOT_SUPPORTED))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            why = Disconnected(f"the broker disconnected us: {reason_code}", reason_code.value)
        elif reason_code.value == _PROTOCOL_ERROR:
            why = Disconnected("the broker answered what this client cannot read", _PROTOCOL_ERROR)
        else:
            cause = self._ear.heard
            why = Disconnected(
                f"connection lost: {cause}" if cause else "connection lost", 0, cause
            )
        self._end(why)

    def _on_publish(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        self._heard_s = self._loop.time()
        ack = self._acks.get(mid)
        if ack and not ack.done():
            ack.set_result(reason_code.value)

    def _on_subscribe(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_codes: list[ReasonCode],
        properties: Properties | None = None,
    ) -> None:
        self.asking = False

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if self._heard is not None:
            self._heard(bytes(message.payload))

    # The library registers the socket by number, later, from any thread: a number that may be
    # somebody else's by then. Here all of it happens at once and on the loop.
    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._loop.add_reader(sock.fileno(), self._guarded, self._read)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock.fileno(), self._guarded, self._client.loop_write)

    def _on_socket_close(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """A write to a broker that has hung up fails before its last word was read: why it did."""
        super()._on_socket_close(client, userdata, sock)
        if isinstance(sock, ssl.SSLSocket) and self._ear.heard is not None:
            self._ear.heard = _last_word(sock) or self._ear.heard

    def _read(self) -> None:
        self._client.loop_read()
        sock = self._client.socket()
        if sock is not None and sock.fileno() >= 0:
            # A broker with Nagle's algorithm holds the next PUBACK back until this one is
            # acknowledged, and Linux waits 40 ms with that. The option lasts until the next read.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # type: ignore[attr-defined]
        while isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0 and sock.pending():
            self._client.loop_read()

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # whatever paho makes of hostile bytes ends this session alone
            _LOGGER.debug("mqtt: %s", error, exc_info=True)
            self._end(Disconnected(f"{type(error).__name__}: {error}"))
            self._client._sock_close()  # noqa: SLF001


def _last_word(sock: ssl.SSLSocket) -> BaseException | None:
    """The TLS alert that has come on a socket that nobody reads any more; None where none has.

    In TLS 1.3 a client has shaken hands before its certificate is looked at.
    """
    with contextlib.suppress(OSError, ValueError):
        for _ in range(_LAST_RECORDS):
            try:
                if not sock.recv(_RECORD_BYTES_MAX):
                    break
            except ssl.SSLError as error:
                return error if refusal_of(error) else None
    return None
