"""One Modbus connection: one request, one reply that was checked byte by byte.

pymodbus carries the bytes, ``modbus_frames`` judges them. Whatever is odd ends the connection, as
does silence, so no late reply can ever meet a later request; a serial port has no end and stays
open (``modbus_line`` keeps late replies apart there). Where replies name no transaction, no request
leaves while something lies there unread.
"""

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ConnectionException, ModbusException

from drivers.errors import DeviceError, DriverError, LinkError, ProtocolError
from drivers.modbus_dial import Dial, drop, refusal_text
from drivers.modbus_frames import EXCEPTION_BIT, RtuFraming
from drivers.modbus_tty import TtyTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EXCEPTION_NAMES: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target does not answer",
}


class ExceptionReply(DeviceError):
    """The device answered with a Modbus exception; ``code`` is its number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code} ({EXCEPTION_NAMES.get(code, 'unknown')})")
        self.code = code


class SilenceError(LinkError):
    """No whole reply within the timeout."""


class NotQuietError(ProtocolError):
    """Something came just before the request, which was not sent; the connection stays."""


class Call(NamedTuple):
    """One request. ``values`` are coils or registers to write."""

    function: int
    address: int
    size: int = 0  # registers or bits
    values: tuple[int, ...] = ()


class ModbusLink:
    """A connection that is opened, used by one caller at a time, and closed by any failure."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._framing = dial.framing()
        self._client: ModbusBaseClient | None = None
        self._transport: object = None  # of the last connection
        self._ended: asyncio.Future[DriverError] | None = None  # why the connection ended
        self._odd: asyncio.Future[ProtocolError] | None = None  # of this request
        self._transaction = 0  # newest id; goes on over reconnects, so that none comes twice soon
        self._request = b""  # as sent; empty: nothing is asked
        self._pdu = b""  # of the reply, checked
        self.heard_ns = 0  # newest byte, monotonic

    @property
    def dial(self) -> Dial:
        """How it is made."""
        return self._dial

    @property
    def is_open(self) -> bool:
        """Whether it is connected, as far as anyone knows."""
        return self._client is not None and self._ended is not None and not self._ended.done()

    async def open(self, timeout_s: float) -> None:
        """Connect within the timeout. Raises LinkError."""
        self.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        addresses = await self._dial.addresses(timeout_s)
        failure = ""
        for tried, address in enumerate(addresses):
            share_s = (deadline - loop.time()) / (len(addresses) - tried)
            failure = await self._connect(address, share_s, timeout_s)
            if not failure:
                return
        text = f"{self._dial.name}: {failure}"
        raise LinkError(text)

    async def _connect(self, address: str, share_s: float, timeout_s: float) -> str:
        """Try one address; empty when it is connected, else why not."""
        client = await self._dial.client(address, self._on_packet, self._on_connect, self._on_flaw)
        why: list[OSError] = []
        client.ctx.call_create = _noting(client.ctx.call_create, why)
        context: Any = client.ctx
        context.connection_lost = self._telling(context.connection_lost)
        self._client = client
        self._framing = self._dial.framing()
        self._ended = asyncio.get_running_loop().create_future()
        self._request = b""
        connected = False
        try:
            async with asyncio.timeout(share_s):
                connected = await client.connect()
                await asyncio.sleep(0)  # a serial port begins to listen one turn later
            if connected and self._ended.done():  # a TLS device that does not like us
                connected = False
                return str(self._ended.result()).removeprefix(f"{self._dial.name}: ")
            if connected:
                self._dial.connected(client)
        except TimeoutError:
            connected = False
        except LinkError:
            connected = False
            raise
        finally:
            if not connected:
                self.close()
        if connected:
            self._transport = client.ctx.transport
            client.ctx.next_tid = self._transaction
            client.ctx.call_create = _refused  # it would reconnect by itself inside a request
            return ""
        return refusal_text(why[0]) if why else f"no connection within {timeout_s:g} s"

    def close(self) -> None:
        """Drop the connection at once; nothing lingers."""
        client, self._client = self._client, None
        self._request = b""
        if client is None:
            return
        self._transaction = client.ctx.next_tid or self._transaction
        self._transport = client.ctx.transport or self._transport
        drop(client)

    async def closed(self) -> None:
        """Wait until what :meth:`close` began has ended; bounded."""
        if isinstance(self._transport, TtyTransport):
            await self._transport.closed()
        else:
            await asyncio.sleep(0)  # the loop closes the socket in its next turn

    async def ask(self, call: Call, unit: int, timeout_s: float) -> bytes:
        """The PDU of the reply, checked.

        Raises ExceptionReply and NotQuietError (the connection stays), LinkError or ProtocolError
        (it is closed, but for a serial port that is still there).
        """
        client = self._open_client()
        self._odd = asyncio.get_running_loop().create_future()
        task: asyncio.Future[Any] | None = None
        answered = unsent = False
        try:
            task = asyncio.ensure_future(_request(client, self._sendable(call), unit))
            await self._reply_of(task, timeout_s)
            answered = True
        except NotQuietError:
            unsent = True
            raise
        except ConnectionException:
            self._end(LinkError("the connection was lost"))
            self._raise_end()
        except ModbusException:
            text = f"no reply within {timeout_s:g} s"
            raise SilenceError(text) from None
        finally:
            self._request = b""
            if not answered and not unsent:
                self._give_up(client)
            if task is not None and not answered:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._pdu[0] & EXCEPTION_BIT:
            raise ExceptionReply(self._pdu[1])
        return self._pdu

    def _give_up(self, client: ModbusBaseClient) -> None:
        """Nothing of a request that failed leaves later, least of all a write."""
        if self._dial.keeps and self.is_open:
            self._dial.recall(client)
        else:
            self.close()

    async def _reply_of(self, task: "asyncio.Future[Any]", timeout_s: float) -> None:
        """Until pymodbus has the reply. Raises what came instead."""
        ended, odd = self._ended, self._odd
        if ended is None or odd is None:
            return
        any_of = (task, ended, odd)
        await asyncio.wait(any_of, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._pdu and not task.done():  # it came in time, this loop was late
            await asyncio.wait(any_of, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            self._raise_end()
        if odd.done():
            raise odd.result()
        if not task.done():
            text = f"no reply within {timeout_s:g} s"
            raise SilenceError(text)
        await task

    def _sendable(self, call: Call) -> Call:
        """Functions 15 and 16 for 5 and 6 while an echo could be taken for the reply."""
        unknown = isinstance(self._framing, RtuFraming) and not self._framing.echo_known
        if unknown and call.function in (5, 6):
            return call._replace(function=call.function + 10)
        return call

    def _open_client(self) -> ModbusBaseClient:
        """The client of an open, clean connection. Raises what ended it otherwise."""
        if self._client is None or self._ended is None:
            text = "not connected"
            raise LinkError(text)
        if self._ended.done():
            self._raise_end()
        return self._client

    def _raise_end(self) -> NoReturn:
        self.close()
        text = "not connected"
        raise self._ended.result() if self._ended is not None else LinkError(text)

    def _on_packet(self, sending: bool, data: bytes) -> bytes:
        """Called by pymodbus: the request as sent, or all bytes received since."""
        client = self._client
        if sending:
            if client is not None and self._dial.unread(client):
                text = "the line was not quiet before the request"
                self._tell_odd(NotQuietError(text))
                return b""
            self._request, self._pdu = data, b""
            return data
        self.heard_ns = time.monotonic_ns()
        if not self._request and client is not None and isinstance(self._framing, RtuFraming):
            client.ctx.recv_buffer = b""  # late, or noise: not kept until the next request
            return b""
        try:
            reply = self._framing.reply(self._request, data)
        except ProtocolError as error:
            self._request = b""
            self._refuse(error)
            return b""
        if reply is None:
            return b""
        self._request, self._pdu = b"", reply.pdu
        if client is not None:
            client.ctx.recv_buffer = b""
        return reply.frame

    def _refuse(self, error: ProtocolError) -> None:
        if self._dial.keeps:
            self._tell_odd(error)
        else:
            self._end(error)

    def _tell_odd(self, error: ProtocolError) -> None:
        if self._odd is not None and not self._odd.done():
            self._odd.set_result(error)

    def _on_flaw(self) -> None:
        """A byte came with a parity or framing error: whatever it belongs to is no reply."""
        self.heard_ns = time.monotonic_ns()
        if self._request:
            self._request = b""
            text = "a byte of the reply has a parity or framing error"
            self._refuse(ProtocolError(text))

    def _telling(
        self, lost: "Callable[[Exception | None], None]"
    ) -> "Callable[[Exception | None], None]":
        """Keep the own word of what ended it: TLS 1.3 says no after the handshake."""

        def told(reason: Exception | None) -> None:
            if isinstance(reason, ssl.SSLError):
                self._end(LinkError(refusal_text(reason)))
            elif isinstance(reason, LinkError):  # of a serial port
                self._end(reason)
            lost(reason)

        return told

    def _on_connect(self, connected: bool) -> None:
        if not connected:
            text = "the device closed the connection"
            self._end(LinkError(text))

    def _end(self, error: DriverError) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(error)
        if self._client is not None:
            drop(self._client)


async def _request(client: ModbusBaseClient, call: Call, unit: int) -> None:
    """One request by pymodbus."""
    function, address, size, values = call
    answer: Awaitable[Any]
    if function == 1:
        answer = client.read_coils(address, count=size, device_id=unit)
    elif function == 2:
        answer = client.read_discrete_inputs(address, count=size, device_id=unit)
    elif function == 3:
        answer = client.read_holding_registers(address, count=size, device_id=unit)
    elif function == 4:
        answer = client.read_input_registers(address, count=size, device_id=unit)
    elif function == 5:
        answer = client.write_coil(address, bool(values[0]), device_id=unit)
    elif function == 6:
        answer = client.write_register(address, values[0], device_id=unit)
    elif function == 15:
        answer = client.write_coils(address, [bool(each) for each in values], device_id=unit)
    else:
        answer = client.write_registers(address, list(values), device_id=unit)
    await answer


async def _refused() -> NoReturn:
    text = "only open() connects"
    raise ConnectionError(text)


def _noting(create: Any, why: list[OSError]) -> Any:
    """Keep the reason of a failed connect, which pymodbus only logs."""

    async def noted() -> Any:
        try:
            return await create()
        except OSError as error:
            why.append(error)
            raise

    return noted
