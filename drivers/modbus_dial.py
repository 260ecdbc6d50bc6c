"""How a Modbus connection is made: over TCP, over TLS, over a serial port.

A dial makes pymodbus clients; what happens on them is the link's affair. A Modbus TLS client checks
the device's certificate and its name and shows its own; credentials are read at every connect, so
that a renewed certificate is taken up by itself.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.transport import CommParams, CommType

from drivers.errors import LinkError
from drivers.kind import Secrets
from drivers.modbus_frames import Framing, RtuFraming, SocketFraming
from drivers.modbus_tty import TtyTransport, open_tty, unread
from drivers.resolve import error_text, resolve
from drivers.serial_port import Settings

RECEIVED_MAX: Final = 1 << 20  # pymodbus throws more than this away unseen; we end at one reply
NEVER_S: Final = 3600.0  # pymodbus's own deadlines: ours are shorter, and for each request
CHARACTER_BITS: Final = 11  # of a serial line, at most
GAP_CHARACTERS: Final = 3.5
GAP_S_MIN: Final = 0.00175  # above 19,200 baud, Modbus over Serial Line V1.02, 2.5.1.1

# Every failed request is an ERROR line there; the session counts them and logs once.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

ALERTS_ON_CERTIFICATES: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")

OnPacket = Callable[[bool, bytes], bytes]
OnConnect = Callable[[bool], None]
OnFlaw = Callable[[], None]  # a byte with a parity or framing error


class Dial(Protocol):
    """One way to one far end."""

    @property
    def name(self) -> str:
        """For people: the address as the site file has it."""

    @property
    def keeps(self) -> bool:
        """Whether the connection outlives a request that failed: a serial port has no end."""

    @property
    def gap_s(self) -> float:
        """The least rest between two frames."""

    @property
    def settings(self) -> tuple[object, ...]:
        """How the line is set; units of one line must agree."""

    def framing(self) -> Framing:
        """A new one for a connection."""

    async def addresses(self, timeout_s: float) -> list[str]:
        """What to try, one after the other. Raises LinkError."""

    async def client(
        self, address: str, on_packet: OnPacket, on_connect: OnConnect, on_flaw: OnFlaw
    ) -> ModbusBaseClient:
        """A client that is not connected yet. Raises LinkError."""

    def connected(self, client: ModbusBaseClient) -> None:
        """What is left to do on a new connection. Raises LinkError."""

    def unread(self, client: ModbusBaseClient) -> int:
        """Bytes that came before the request, where a reply does not name its request."""

    def recall(self, client: ModbusBaseClient) -> None:
        """What was not sent in its time is not sent later."""

    def not_after_utc_ns(self) -> int:
        """When the first of the certificates in use ends; 0 where there is none."""


@dataclass(slots=True)
class TcpDial:
    """Modbus TCP."""

    host: str
    port: int
    keeps: bool = field(default=False, init=False)
    gap_s: float = field(default=0.0, init=False)
    settings: tuple[object, ...] = field(default=(), init=False)

    @property
    def name(self) -> str:
        """host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def framing(self) -> Framing:
        """MBAP."""
        return SocketFraming()

    async def addresses(self, timeout_s: float) -> list[str]:
        """The host's."""
        return await resolve(self.host, self.port, timeout_s)

    async def client(
        self, address: str, on_packet: OnPacket, on_connect: OnConnect, on_flaw: OnFlaw
    ) -> ModbusBaseClient:
        """One TCP client."""
        del on_flaw
        return self._tcp(address, on_packet, on_connect, FramerType.SOCKET)

    def connected(self, client: ModbusBaseClient) -> None:
        """Nothing."""

    def unread(self, client: ModbusBaseClient) -> int:
        """Replies have a transaction."""
        del client
        return 0

    def recall(self, client: ModbusBaseClient) -> None:
        """Nothing: the connection ends."""

    def not_after_utc_ns(self) -> int:
        """None."""
        return 0

    def _tcp(
        self, address: str, on_packet: OnPacket, on_connect: OnConnect, framer: FramerType
    ) -> ModbusBaseClient:
        client = AsyncModbusTcpClient(
            address,
            port=self.port,
            framer=framer,
            timeout=NEVER_S,
            retries=0,
            reconnect_delay=0,
            trace_packet=on_packet,
            trace_connect=on_connect,
        )
        client.ctx.max_buffer_size = RECEIVED_MAX
        return client


@dataclass(slots=True)
class RtuTcpDial(TcpDial):
    """Frames of the serial line over TCP, as plain serial servers carry them."""

    gap_s: float = field(default=GAP_S_MIN, init=False)

    def framing(self) -> Framing:
        """RTU."""
        return RtuFraming()

    async def client(
        self, address: str, on_packet: OnPacket, on_connect: OnConnect, on_flaw: OnFlaw
    ) -> ModbusBaseClient:
        """One TCP client with the other framer."""
        del on_flaw
        return self._tcp(address, on_packet, on_connect, FramerType.RTU)

    def unread(self, client: ModbusBaseClient) -> int:
        """What the socket has for us."""
        transport: Any = client.ctx.transport
        socket = transport.get_extra_info("socket") if transport is not None else None
        return unread(socket.fileno()) if socket is not None else 0


@dataclass(slots=True)
class TlsDial(TcpDial):
    """Modbus TLS, mutual. ``load`` reads our credentials anew; it raises LinkError."""

    load: Callable[[], Secrets]
    _not_after_utc_ns: int = field(default=0, init=False)

    async def client(
        self, address: str, on_packet: OnPacket, on_connect: OnConnect, on_flaw: OnFlaw
    ) -> ModbusBaseClient:
        """A TLS client with MBAP frames: pymodbus's own TLS framer takes each record for one."""
        del on_flaw
        try:
            context = await asyncio.to_thread(mutual_context, self.load())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            text = f"{self.name}: cannot load the certificates: {_tls_text(error)}"
            raise LinkError(text) from None
        client = ModbusBaseClient(
            FramerType.SOCKET,
            0,
            CommParams(
                comm_type=CommType.TLS,
                host=address,
                port=self.port,
                sslctx=context,
                timeout_connect=NEVER_S,
                reconnect_delay=0,
            ),
            on_packet,
            None,
            on_connect,
        )
        client.ctx.max_buffer_size = RECEIVED_MAX
        client.ctx.call_create = partial(
            asyncio.get_running_loop().create_connection,
            client.ctx.handle_new_connection,
            address,
            self.port,
            ssl=context,
            server_hostname=self.host,
        )
        return client

    def connected(self, client: ModbusBaseClient) -> None:
        """Note when the device's certificate ends."""
        shown: Any = client.ctx.transport.get_extra_info("peercert") or {}
        ends = shown.get("notAfter")
        self._not_after_utc_ns = (
            int(ssl.cert_time_to_seconds(ends)) * 1_000_000_000 if isinstance(ends, str) else 0
        )

    def not_after_utc_ns(self) -> int:
        """The device's own."""
        return self._not_after_utc_ns


@dataclass(frozen=True, slots=True)
class SerialDial:
    """A serial port, 8 data bits."""

    path: str
    baud: int = 9600
    parity: str = "none"
    stop: int = 1
    rs485: bool = False
    keeps: bool = field(default=True, init=False)

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def gap_s(self) -> float:
        """3.5 characters."""
        return max(GAP_S_MIN, GAP_CHARACTERS * CHARACTER_BITS / self.baud)

    @property
    def settings(self) -> tuple[object, ...]:
        """Speed, parity, stop bits, direction."""
        return (self.baud, self.parity, self.stop, self.rs485)

    def framing(self) -> Framing:
        """RTU."""
        return RtuFraming()

    async def addresses(self, timeout_s: float) -> list[str]:
        """The one."""
        del timeout_s
        return [self.path]

    async def client(
        self, address: str, on_packet: OnPacket, on_connect: OnConnect, on_flaw: OnFlaw
    ) -> ModbusBaseClient:
        """Opens the port for itself alone, on a thread."""
        client = AsyncModbusSerialClient(
            address,
            timeout=NEVER_S,
            retries=0,
            reconnect_delay=0,
            trace_packet=on_packet,
            trace_connect=on_connect,
        )
        settings = Settings(self.baud, 8, self.parity, self.stop, self.rs485)
        client.ctx.call_create = partial(
            open_tty, self.path, settings, client.ctx, on_flaw, NEVER_S
        )
        return client

    def connected(self, client: ModbusBaseClient) -> None:
        """Nothing."""

    def unread(self, client: ModbusBaseClient) -> int:
        """What the port has for us."""
        transport: Any = client.ctx.transport
        return unread(transport.fileno()) if isinstance(transport, TtyTransport) else 0

    def recall(self, client: ModbusBaseClient) -> None:
        """A port may be held up by its far end for long."""
        transport: Any = client.ctx.transport
        if isinstance(transport, TtyTransport):
            transport.recall()

    def not_after_utc_ns(self) -> int:
        """None."""
        return 0


def drop(client: ModbusBaseClient) -> None:
    """Close at once, with what is unsent: a graceful end waits for a peer that does not read."""
    transport: Any = client.ctx.transport
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
    client.close()


def mutual_context(secrets: Secrets) -> ssl.SSLContext:
    """Verifies the device by our CA alone and shows our own certificate. Blocks on files.

    Raises OSError or ValueError.
    """
    for path, name in (
        (secrets.ca_path, "ca.pem"),
        (secrets.cert_path, "cert.pem"),
        (secrets.key_path, "key.pem"),
    ):
        if path is None:
            text = f"no {name} in these credentials, Modbus TLS needs it"
            raise ValueError(text)
        path.read_bytes()  # the ssl module does not say which file it did not find
    context = ssl.create_default_context(cafile=str(secrets.ca_path))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(secrets.cert_path), str(secrets.key_path))
    return context


def refusal_text(error: OSError | ValueError) -> str:
    """Why a connection could not be made, for people."""
    if isinstance(error, ssl.SSLError):
        return _tls_text(error)
    return error_text(error) if isinstance(error, OSError) else str(error)


def _tls_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the device's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        if any(word in reason for word in ALERTS_ON_CERTIFICATES) and "ALERT" in reason:
            return f"the device refuses our certificate: {reason}"
        if "ALERT" in reason:
            return f"the device refuses our TLS: {reason}"
        return f"it speaks no TLS, or another one: {reason}"
    filename, strerror = getattr(error, "filename", None), getattr(error, "strerror", None)
    return f"{filename}: {strerror}" if filename else str(strerror or error)
