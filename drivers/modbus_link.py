"""One Modbus TCP connection: one request, one reply that was checked byte by byte.

pymodbus carries the bytes. What it lets pass is refused here: any transaction id but the one
asked (0 too), another unit, another function, a length that is not the asked one, an echo that
differs, bytes that nobody asked for. Whatever is odd ends the connection, as does silence, so no
late reply can ever meet a later request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException

from drivers.errors import DeviceError, DriverError, LinkError, ProtocolError
from drivers.resolve import error_text, resolve

HEADER_BYTES: Final = 7  # transaction, protocol, length, unit
EXCEPTION_BIT: Final = 0x80
EXCEPTION_BODY: Final = 3  # unit, function, code
ECHO_BODY: Final = 6  # unit, function, address, value or count
RECEIVED_MAX: Final = 1 << 20  # pymodbus throws more than this away unseen; we end at one reply
READ_FUNCTIONS: Final = (1, 2, 3, 4)
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

# Every failed request is an ERROR line there; the session counts them and logs once.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class ExceptionReply(DeviceError):
    """The device answered with a Modbus exception; ``code`` is its number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code} ({EXCEPTION_NAMES.get(code, 'unknown')})")
        self.code = code


class SilenceError(LinkError):
    """No whole reply within the timeout."""


class ModbusLink:
    """A connection that is opened, used by one caller at a time, and closed by any failure."""

    def __init__(self, host: str, port: int, unit: int, timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._unit = unit
        self._timeout_s = timeout_s
        self._client: AsyncModbusTcpClient | None = None
        self._ended: asyncio.Future[DriverError] | None = None  # why the connection ended
        self._transaction = 0  # newest id; goes on over reconnects, so that none comes twice soon
        self._request = b""  # as sent; empty: nothing is asked
        self._reply = b""  # whole and checked

    async def open(self) -> None:
        """Connect within the timeout. Raises LinkError."""
        self.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        addresses = await resolve(self._host, self._port, self._timeout_s)
        failure = ""
        for tried, address in enumerate(addresses):
            share_s = (deadline - loop.time()) / (len(addresses) - tried)
            failure = await self._connect(address, share_s)
            if not failure:
                return
        text = f"{self._host}:{self._port}: {failure}"
        raise LinkError(text)

    async def _connect(self, address: str, timeout_s: float) -> str:
        """Try one address; empty when it is connected, else why not."""
        client = AsyncModbusTcpClient(
            address,
            port=self._port,
            timeout=self._timeout_s,
            retries=0,
            reconnect_delay=0,
            trace_packet=self._on_packet,
            trace_connect=self._on_connect,
        )
        client.ctx.max_buffer_size = RECEIVED_MAX
        why: list[OSError] = []
        client.ctx.call_create = _noting(client.ctx.call_create, why)
        self._client = client
        self._ended = asyncio.get_running_loop().create_future()
        self._request = b""
        connected = False
        try:
            async with asyncio.timeout(timeout_s):
                connected = await client.connect()
        except TimeoutError:
            pass
        finally:
            if not connected:
                self.close()
        if connected:
            client.ctx.next_tid = self._transaction
            client.ctx.call_create = _refused  # it would reconnect by itself inside a request
            return ""
        return error_text(why[0]) if why else f"no connection within {self._timeout_s:g} s"

    def close(self) -> None:
        """Drop the connection at once; nothing lingers."""
        client, self._client = self._client, None
        self._request = b""
        if client is None:
            return
        self._transaction = client.ctx.next_tid or self._transaction
        _abort(client)
        client.close()

    async def read(self, function: int, address: int, count: int) -> bytes:
        """The bytes after the byte count of a reply to functions 1 to 4.

        Raises ExceptionReply (the connection stays), LinkError or ProtocolError (it is closed).
        """
        client = self._open_client()
        ask = {
            1: client.read_coils,
            2: client.read_discrete_inputs,
            3: client.read_holding_registers,
            4: client.read_input_registers,
        }[function]
        reply = await self._exchange(lambda: ask(address, count=count, device_id=self._unit))
        return reply[HEADER_BYTES + 2 :]

    async def write_coil(self, address: int, on: bool) -> None:
        """Write one coil; the device's echo must be the request. Raises as ``read``."""
        client = self._open_client()
        await self._exchange(lambda: client.write_coil(address, on, device_id=self._unit))

    async def write_registers(self, address: int, values: list[int]) -> None:
        """Write one register (function 6) or several (16); the echo must fit. Raises alike."""
        client, unit = self._open_client(), self._unit
        if len(values) == 1:
            await self._exchange(lambda: client.write_register(address, values[0], device_id=unit))
        else:
            await self._exchange(lambda: client.write_registers(address, values, device_id=unit))

    def _open_client(self) -> AsyncModbusTcpClient:
        """The client of an open, clean connection. Raises what ended it otherwise."""
        if self._client is None or self._ended is None:
            text = "not connected"
            raise LinkError(text)
        if self._ended.done():
            self._raise_end(self._ended.result())
        return self._client

    async def _exchange(self, ask: Callable[[], Awaitable[Any]]) -> bytes:
        """Ask, and await pymodbus's answer or the connection's end, whichever comes first."""
        ended = self._ended
        task: asyncio.Future[Any] | None = None
        answered = False
        try:
            task = asyncio.ensure_future(ask())
            if ended is not None:
                await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    self._raise_end(ended.result())
            await task
            answered = True
        except ConnectionException:
            text = "the connection was lost"
            raise LinkError(text) from None
        except ModbusException:
            text = f"no reply within {self._timeout_s:g} s"
            raise SilenceError(text) from None
        finally:
            self._request = b""
            if not answered:
                self.close()
            if task is not None and not answered:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        reply = self._reply
        if reply[HEADER_BYTES] & EXCEPTION_BIT:
            raise ExceptionReply(reply[HEADER_BYTES + 1])
        return reply

    def _raise_end(self, error: DriverError) -> NoReturn:
        self.close()
        raise error

    def _on_packet(self, sending: bool, data: bytes) -> bytes:
        """Called by pymodbus: the request as sent, or all bytes received since."""
        if sending:
            self._request, self._reply = data, b""
            return data
        try:
            if reply_is_whole(self._request, data):
                self._request, self._reply = b"", data
        except ProtocolError as error:
            self._end(error)
            return b""
        return data

    def _on_connect(self, connected: bool) -> None:
        if not connected:
            text = "the device closed the connection"
            self._end(LinkError(text))

    def _end(self, error: DriverError) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(error)
        if self._client is not None:
            _abort(self._client)


def reply_is_whole(request: bytes, data: bytes) -> bool:
    """Whether ``data`` is the whole reply to ``request``; False while it is a right beginning.

    Both are ADUs with their header. Raises ProtocolError at the first byte that cannot belong to
    a right reply, and for bytes beyond it. An empty request means that nothing was asked.
    """
    if not request:
        text = f"{len(data)} bytes that were not asked for"
        raise ProtocolError(text)
    _check_header(request, data)
    if len(data) <= HEADER_BYTES:
        return False
    body = _body_bytes(request, data[HEADER_BYTES])
    length = int.from_bytes(data[4:6], "big")
    if length != body:
        text = f"reply length {length}, expected {body}"
        raise ProtocolError(text)
    whole = HEADER_BYTES - 1 + body
    if len(data) > whole:
        text = f"{len(data) - whole} bytes after the reply"
        raise ProtocolError(text)
    return len(data) == whole and _content_fits(request, data, body)


def _check_header(request: bytes, data: bytes) -> None:
    """Transaction, protocol and unit, as far as they have arrived."""
    if data[:2] != request[: len(data[:2])]:
        text = (
            f"reply to transaction {int.from_bytes(data[:2], 'big')}, "
            f"expected {int.from_bytes(request[:2], 'big')}"
        )
        raise ProtocolError(text)
    if any(data[2:4]):
        text = f"protocol id {int.from_bytes(data[2:4], 'big')}, expected 0"
        raise ProtocolError(text)
    if len(data) >= HEADER_BYTES and data[6] != request[6]:
        text = f"reply of unit {data[6]}, expected {request[6]}"
        raise ProtocolError(text)


def _body_bytes(request: bytes, function: int) -> int:
    """What the header's length must be, for the reply's function code."""
    asked = request[HEADER_BYTES]
    if function == asked | EXCEPTION_BIT:
        return EXCEPTION_BODY
    if function != asked:
        text = f"reply to function {function}, expected {asked}"
        raise ProtocolError(text)
    if asked not in READ_FUNCTIONS:
        return ECHO_BODY
    return 3 + _payload_bytes(request)


def _payload_bytes(request: bytes) -> int:
    count = int.from_bytes(request[HEADER_BYTES + 3 : HEADER_BYTES + 5], "big")
    return (count + 7) // 8 if request[HEADER_BYTES] in (1, 2) else 2 * count


def _content_fits(request: bytes, data: bytes, body: int) -> bool:
    """Byte count of a read, echo of a write. Raises ProtocolError; True otherwise."""
    if data[HEADER_BYTES] & EXCEPTION_BIT:
        return True
    if request[HEADER_BYTES] in READ_FUNCTIONS:
        if data[HEADER_BYTES + 1] != body - 3:
            text = f"byte count {data[HEADER_BYTES + 1]}, expected {body - 3}"
            raise ProtocolError(text)
        return True
    if data[HEADER_BYTES:] != request[HEADER_BYTES : HEADER_BYTES + 5]:
        text = f"echo {data[HEADER_BYTES:].hex()}, expected {request[7:12].hex()}"
        raise ProtocolError(text)
    return True


def _abort(client: AsyncModbusTcpClient) -> None:
    """Drop what is unsent too: a graceful close would wait for a peer that does not read."""
    transport = client.ctx.transport
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


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
