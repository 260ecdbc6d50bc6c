"""The gateway's Modbus drivers: whatever a device sends, only the very reply is a value.

Input: which request, TCP or RTU, how the bytes are cut, then changes of the right reply (or any
bytes). The driver, its link and pymodbus run whole, over a connection of memory and on a clock
that jumps: a silence costs nothing, and a wait without an end is found at once.
"""

import asyncio
import contextlib
import selectors
import struct
from collections.abc import Iterator
from typing import Any

from drivers.errors import DriverError
from drivers.modbus import ModbusUnit
from drivers.modbus_dial import RtuTcpDial, TcpDial
from drivers.modbus_line import LineWire
from drivers.modbus_link import Call
from drivers.modbus_wire import OwnWire, Wire
from drivers.points import parse_point
from fastpath.codes import Quality
from tests.fuzz.reader import Reader
from tests.fuzz.tcp import _is_good, good_reply
from tests.helpers.serial_device import crc16

MAX_BYTES = 400
UNIT = 7
TIMEOUT_S = 1.0
POINTS = tuple(
    parse_point(address, kind)
    for address, kind in (
        ("hr:4", ""), ("hr:5", "int16"), ("ir:8", "float32"), ("ir:100", "float64"), ("c:3", ""),
        ("di:40", ""), ("hr:9.3", ""),
    )
)  # fmt: skip
READS = len(POINTS)
WRITES = (Call(5, 16, 1, (1,)), Call(6, 16, 1, (513,)), Call(16, 16, 2, (1, 2)))


class Jumping(selectors.BaseSelector):
    """Selects nothing; a wait is over at once. Raises AssertionError where none has an end."""

    def __init__(self) -> None:
        self.now = 0.0
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "it waits for ever"
        assert timeout < 60, "it waits for pymodbus, not for its own deadline"
        self.now += max(0.0, timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._map


class Loop(asyncio.SelectorEventLoop):
    """Its clock is the selector's."""

    def __init__(self) -> None:
        self.jumping = Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


class Memory(asyncio.Transport):
    """Answers what is written with these chunks, each in a turn of its own."""

    def __init__(self, ctx: Any, device: "Device") -> None:
        super().__init__()
        self._ctx = ctx
        self._device = device
        self._closed = False

    def write(self, data: Any) -> None:
        loop = asyncio.get_running_loop()
        for number, chunk in enumerate(self._device.answer(bytes(data))):
            loop.call_later(0.001 * number, self._give, chunk)

    def _give(self, chunk: bytes) -> None:
        if not self._closed:
            self._ctx.data_received(chunk)

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().call_soon(self._ctx.connection_lost, None)

    def close(self) -> None:
        self.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default


class Device:
    """Changes the right reply as the input says; remembers what it was asked and sent."""

    def __init__(self, data: Reader, *, rtu: bool) -> None:
        self._data = data
        self._rtu = rtu
        self.asked = b""  # as MBAP
        self.sent = b""

    def answer(self, request: bytes) -> list[bytes]:
        body = request[:-2] if self._rtu else request[6:]
        self.asked = (request[:4] if not self._rtu else bytes(4)) + struct.pack(">H", len(body))
        self.asked += body
        right = good_reply(self.asked)
        if self._rtu:
            right = right[6:] + crc16(right[6:])
        cuts = self._data.number()
        self.sent = self._changed(bytearray(right))
        if not cuts:
            return [self.sent] if self.sent else []
        step = 1 + cuts % 16
        return [self.sent[at : at + step] for at in range(0, len(self.sent), step)]

    def _changed(self, frame: bytearray) -> bytes:
        """At most eight changes; then the CRC may be made good again."""
        data = self._data
        for _ in range(8):
            if not data.left:
                break
            kind, at, value = data.number() % 7, data.number(), data.number()
            place = at % len(frame) if frame else 0
            if kind == 0 and frame:
                frame[place] ^= value or 1
            elif kind == 1:
                del frame[place:]
            elif kind == 2:
                frame[place:place] = data.take(1 + value % 8)
            elif kind == 3:
                frame += bytes(frame[:300])
            elif kind == 4 and frame:
                del frame[place]
            elif kind == 5:
                frame[:] = data.rest()
            elif self._rtu and len(frame) > 2:
                frame[-2:] = crc16(bytes(frame[:-2]))
        return bytes(frame[:300])


def good_prefix(device: Device, *, rtu: bool) -> bytes:
    """The right reply that what was sent begins with, as an MBAP frame; empty for none."""
    for length in range(5, len(device.sent) + 1):
        frame = device.sent[:length]
        if rtu:
            if crc16(frame[:-2]) != frame[-2:]:
                continue
            frame = device.asked[:4] + struct.pack(">H", len(frame) - 2) + frame[:-2]
        elif len(frame) < 9 or int.from_bytes(frame[4:6], "big") != len(frame) - 6:
            continue
        if _is_good(frame, device.asked):
            return frame
    return b""


def run(data: bytes) -> int:
    """One request and what came back, held against the definition of a reply."""
    reader = Reader(data)
    rtu, which = bool(reader.number() & 1), reader.number() % (READS + len(WRITES))
    with contextlib.closing(Loop()) as loop:
        return loop.run_until_complete(_exchange(reader, which, rtu=rtu))


async def _exchange(reader: Reader, which: int, *, rtu: bool) -> int:
    device = Device(reader, rtu=rtu)
    wire = _wire(device, rtu=rtu)
    driver = ModbusUnit(wire, POINTS)
    await driver.connect()
    try:
        if which >= READS:
            call = WRITES[which - READS]
            await wire.ask(call)
            assert good_prefix(device, rtu=rtu), "a write was confirmed by what confirms nothing"
            return 2
        plan = driver.plan([which])
        block = plan[0]
        device_readings = await driver.read(plan)
        good = [each for each in device_readings if each.quality != Quality.BAD]
        if good:
            frame = good_prefix(device, rtu=rtu)
            assert frame, "a value of what is no reply"
            [expected] = block._whole.readings(frame[9:])
            assert good == [expected]
            return 3
        return 4
    except DriverError as error:
        return 10 + len(type(error).__name__)
    finally:
        await driver.close()
        await asyncio.sleep(0)


def _wire(device: Device, *, rtu: bool) -> Wire:
    if rtu:
        return LineWire(_MemoryRtu("127.0.0.1", 1, device), UNIT, TIMEOUT_S, {})
    return OwnWire(_Memory("127.0.0.1", 1, device), UNIT, TIMEOUT_S)


class _Memory(TcpDial):
    """A dial to the device of memory."""

    def __init__(self, host: str, port: int, device: Device) -> None:
        super().__init__(host, port)
        self._device = device

    async def client(self, *how: Any) -> Any:
        return _remembering(await TcpDial.client(self, *how), self._device)


class _MemoryRtu(RtuTcpDial):
    """The same with the frames of the serial line."""

    def __init__(self, host: str, port: int, device: Device) -> None:
        super().__init__(host, port)
        self._device = device

    async def client(self, *how: Any) -> Any:
        return _remembering(await RtuTcpDial.client(self, *how), self._device)


def _remembering(client: Any, device: Device) -> Any:
    async def create() -> tuple[Memory, Any]:
        transport = Memory(client.ctx, device)
        client.ctx.connection_made(transport)
        return transport, client.ctx

    client.ctx.call_create = create
    return client


def seeds() -> Iterator[bytes]:
    """The right reply to each request, whole and byte by byte, and one of each change."""
    for rtu in (0, 1):
        for which in range(READS + len(WRITES)):
            yield bytes((rtu, which, 0))
        yield bytes((rtu, 0, 16))
        for kind in range(7):
            yield bytes((rtu, kind, 0, kind, 3, 5)) + b"\xff\x01\x02"
    yield bytes((1, 0, 0, 0, 3, 1, 6, 0, 0))  # another value with a CRC that fits
    yield bytes((0, 0, 0, 5, 0, 0)) + b"HTTP/1.1 400 Bad Request\r\n"
