"""asyncua's client as a session uses it: bounded, resolved off the loop, supervised by us.

What the library leaves open is closed here: memory that a server may make us take, name lookups on
shared threads, its own reconnecting, passwords in plain text. One object is one session; after its
end a new one is made. Every library error that leaves is one of ours.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UASocketProtocol
from asyncua.common.connection import TransportLimits
from asyncua.common.shortcuts import Shortcuts
from asyncua.crypto.uacrypto import InvalidSignature
from asyncua.ua.status_codes import StatusCodes

import drivers.opcua_bounds  # noqa: F401  it puts bounds in
from drivers.errors import DriverError, LinkError, ProtocolError
from drivers.opcua_status import status_text
from drivers.resolve import error_text, resolve

CHUNK_BYTES_MAX: Final = 65_536
CHUNKS_MAX: Final = 64
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
SESSION_TIMEOUT_MS: Final = 60_000  # a crash loop must not use up a small server's sessions
CHANNEL_MS_MIN: Final = 10_000  # renewing it more often is no use of a processor
CHANNEL_TIMEOUT_MS: Final = 3_600_000
KEEP_S_MAX: Final = 20.0  # a third of the session timeout that we ask for
KEEP_S_MIN: Final = 1.0
# Every publish is an INFO record, every refusal a CRITICAL one; errors come to us as exceptions and
# are told once.
logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
_ENDED: Final = frozenset(  # what a server answers to a session that it does not keep
    (
        StatusCodes.BadSecureChannelClosed,
        StatusCodes.BadSecureChannelIdInvalid,
        StatusCodes.BadSecureChannelTokenUnknown,
        StatusCodes.BadSecurityChecksFailed,
        StatusCodes.BadSessionClosed,
        StatusCodes.BadSessionIdInvalid,
        StatusCodes.BadSessionNotActivated,
    )
)
_CLOCK: Final = ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)


class _Limits(TransportLimits):
    """What we take; the server's acknowledgement may lower it and never raise it."""

    def update_client_limits(self, msg: ua.Acknowledge) -> None:
        """Take the server's own limit of what it receives; ours stay."""
        if msg.ReceiveBufferSize:
            self.max_send_buffer = min(CHUNK_BYTES_MAX, int(msg.ReceiveBufferSize))


class _Protocol(UASocketProtocol):
    """The library's socket, with a bound on a message that never becomes whole."""

    receive_buffer: bytes | None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.receive_buffer is not None and len(self.receive_buffer) > CHUNK_BYTES_MAX:
            self.receive_buffer = None
            self.disconnect_socket()

    async def send_hello(
        self, url: str, max_messagesize: int = 0, max_chunkcount: int = 0
    ) -> ua.Acknowledge:
        hello = ua.Hello()
        hello.EndpointUrl = url
        hello.ReceiveBufferSize = hello.SendBufferSize = CHUNK_BYTES_MAX
        hello.MaxMessageSize = max_messagesize
        hello.MaxChunkCount = max_chunkcount
        answer: asyncio.Future[ua.Acknowledge] = asyncio.get_running_loop().create_future()
        self._callbackmap[0] = answer
        if self.transport is None:
            text = "connection is closed"
            raise ConnectionError(text)
        self.transport.write(ua.ua_binary.uatcp_to_binary(ua.MessageType.Hello, hello))
        async with asyncio.timeout(self.timeout):
            return await answer


class _Transport(UaClient):
    """The library's lower half over our socket and our name lookup."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.lost = asyncio.Event()
        self.reached = False  # somebody took the connection
        self._protocols: list[_Protocol] = []  # the library forgets one that it only began to close

    def _make_protocol(self) -> UASocketProtocol:
        limits = _Limits(CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, MESSAGE_BYTES_MAX)
        protocol = _Protocol(self._timeout, security_policy=self.security_policy, limits=limits)
        protocol.pre_request_hook = self._pre_request_hook
        protocol.on_connection_lost = self._on_transport_lost
        protocol.is_session_closing = self._is_session_closing
        self._protocols.append(protocol)
        self.protocol = protocol
        return protocol

    def _on_transport_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        super()._on_transport_lost(exc)

    async def connect_socket(self, host: str, port: int) -> None:
        """Open the connection to the first address of ``host`` that takes it."""
        failure: Exception = ConnectionError("no address")
        for address in await resolve(host, port, self._timeout):
            try:
                await super().connect_socket(address, port)
                self.reached = True
                return
            except (OSError, TimeoutError) as error:
                failure = error
        raise failure

    def abort(self) -> None:
        """Close every socket now, whatever is still to be sent on it."""
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
        self._protocols.clear()

    async def request(self, request: Any) -> Any:
        """One service call that the library has no function for; the answer's bytes."""
        return await self._send_request(request)


class OpcUaClient(Client):
    """One session. ``insecure``: the site has said that nothing need be secret."""

    def __init__(self, url: str, timeout_s: float, *, insecure: bool = False) -> None:
        super().__init__(url, timeout_s)
        self.transport = _Transport(timeout_s)
        self.transport.pre_request_hook = self.check_connection
        self.uaclient = self.transport
        self.nodes = Shortcuts(self.transport.session)
        self.session_timeout = SESSION_TIMEOUT_MS
        self.secure_channel_timeout = CHANNEL_TIMEOUT_MS
        self.max_messagesize = MESSAGE_BYTES_MAX
        self.max_chunkcount = CHUNKS_MAX
        self.name = self.description = "Sitewarden"
        self._timeout_s = timeout_s
        self._insecure = insecure
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Socket, channel, session. No supervisor of the library's runs. Raises DriverError."""
        with mapped(f"no session with {self.server_url.netloc}"):
            # Four exchanges, one deadline for all that a site file's timeout is meant for each.
            async with within(4 * self._timeout_s):
                try:
                    await self._connect_sequence()
                except AssertionError:  # a fault stands where the library wants a channel
                    text = (
                        f"{self.server_url.netloc} opens no channel: it may not trust our "
                        "certificate yet, or not offer this security"
                    )
                    raise LinkError(text) from None
            if self.secure_channel_timeout < CHANNEL_MS_MIN:
                text = f"the server keeps a channel for {self.secure_channel_timeout} ms only"
                raise LinkError(text)
            self._keeping = asyncio.create_task(self._keep())

    async def knock(self) -> None:
        """Whether the port is open; nothing is sent. Raises LinkError where it is not."""
        with mapped(f"no session with {self.server_url.netloc}"):
            async with within(self._timeout_s):
                await self.connect_socket()
        self.transport.abort()
        self.transport.reached = False  # nobody has answered us anything

    async def activate_session(self, *args: Any, **kwargs: Any) -> ua.ActivateSessionResult:
        """As the library's, but for a password that everybody on the network could read."""
        if self._username and not self._insecure:
            policy = self.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri
            plain = not policy or policy.endswith("#None")
            if plain and self.security_policy.Mode != ua.MessageSecurityMode.SignAndEncrypt:
                text = "the server wants the password in plain text: mode = SignAndEncrypt"
                raise LinkError(text)
        return await super().activate_session(*args, **kwargs)

    @property
    def ended(self) -> str:
        """Why this session cannot go on; empty while it can."""
        if self.transport.lost.is_set():
            return "the server closed the connection"
        renewing = self._renew_channel_task
        if renewing is not None and renewing.done():
            return "the channel could not be renewed"
        if self._keeping is not None and self._keeping.done():
            error = None if self._keeping.cancelled() else self._keeping.exception()
            if isinstance(error, ua.UaStatusCodeError):
                return f"the server ended the session: {status_text(int(error.code))}"
            return "the server did not answer between two polls"
        return ""

    async def shut(self) -> None:
        """End the session if that takes no longer than the timeout, and the socket always."""
        try:
            with contextlib.suppress(Exception):
                async with within(self._timeout_s):
                    await self.close_session()
                    await self.close_secure_channel()
        finally:
            ours = [task for task in (self._renew_channel_task, self._keeping) if task is not None]
            for task in ours:
                task.cancel()
            self.transport.abort()
        await asyncio.gather(*ours, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes the socket in its next turn

    async def _keep(self) -> None:
        """Ask for something now and then: a server ends a session that asks for nothing.

        Slow polls are further apart than that, and a publish request may wait as long.
        """
        every_s = min(KEEP_S_MAX, max(KEEP_S_MIN, self.session_timeout / 3000))
        while True:
            await asyncio.sleep(every_s)
            parameters = ua.ReadParameters()
            parameters.NodesToRead = [ua.ReadValueId(_CLOCK, ua.AttributeIds.Value)]
            try:
                await self.uaclient.read(parameters)
            except ua.UaStatusCodeError as error:
                if int(error.code) in _ENDED:
                    raise
                # A server that has no room for this read has answered: its session lives.


@contextlib.asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """``asyncio.timeout`` around the library's calls, which may raise a cancellation of their own.

    The library's wait raises a kind of its own when a request ends as it is cancelled; only a
    plain one is what ``asyncio.timeout`` knows.
    """
    async with asyncio.timeout(timeout_s):
        with _plain_cancellation():
            yield


@contextlib.contextmanager
def _plain_cancellation() -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError as error:
        if type(error) is asyncio.CancelledError:
            raise
        raise asyncio.CancelledError from None


class StatusError(LinkError):
    """The server answered a whole request with a bad status, ``code``; single items never do."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn the library's errors into ours, its cancellations into plain ones; ``what`` failed."""
    try:
        with _plain_cancellation():
            yield
    except DriverError:
        raise
    except ua.UaStatusCodeError as error:
        raise StatusError(int(error.code), f"{what}: {status_text(int(error.code))}") from None
    except TimeoutError:
        text = f"{what}: no answer in time"
        raise LinkError(text) from None
    except OSError as error:
        text = f"{what}: {error_text(error) or 'the connection ended'}"
        raise LinkError(text) from None
    except InvalidSignature:
        text = f"{what}: a signature is not the trusted certificate's"
        raise ProtocolError(text) from None
    except Exception as error:  # noqa: BLE001  a seam: whatever comes is mapped
        # The library answers what it does not expect with whatever comes: assertions, too.
        text = f"{what}: {str(error) or type(error).__name__}"
        raise ProtocolError(text) from None
