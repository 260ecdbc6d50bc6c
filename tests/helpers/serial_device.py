"""A Modbus RTU bus in the test's own loop: the far end of a pty, with devices by their unit.

A twist gets what the guard sent and may answer anything, late, twice, or with noise.
"""

import asyncio
import contextlib
import os
import struct
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fastpath import blob as blobs
from fastpath.codes import DeviceKind
from tests.helpers.blobs import MS
from tests.helpers.device import READS, Asked, Device

WRITES_OF_ONE = (5, 6)


def crc16(data: bytes) -> bytes:
    """CRC of the serial line, bit by bit as the specification has it; low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return struct.pack("<H", crc)


def framed(pdu: bytes, unit: int = 1) -> bytes:
    """An RTU frame."""
    body = bytes((unit,)) + pdu
    return body + crc16(body)


def request_bytes(data: bytes) -> int:
    """Length of the request that begins here, 0 where that is not yet known."""
    if len(data) < 2:
        return 0
    if data[1] in READS or data[1] in WRITES_OF_ONE:
        return 8
    return 9 + data[6] if len(data) >= 7 else 0


# Gets the raw frame and the plain answer; gives what goes onto the wire.
Wire = Callable[[bytes, bytes], bytes]


@dataclass(slots=True)
class SerialBus:
    """The devices of one line by unit, and what the guard sent."""

    units: dict[int, Device]
    master: int = -1
    slave: int = -1
    sent: list[bytes] = field(default_factory=list)
    wire: Wire | None = None
    _rx: bytes = b""

    @property
    def path(self) -> str:
        """The tty for the guard."""
        return os.ttyname(self.slave)

    def put(self, data: bytes) -> None:
        """Onto the wire, towards the guard."""
        if self.master >= 0 and data:
            os.write(self.master, data)

    def put_later(self, seconds: float, data: bytes) -> None:
        """The same, some time from now."""
        asyncio.get_running_loop().call_later(seconds, self.put, data)

    def answer(self, frame: bytes) -> bytes:
        """What the addressed device answers, b"" for nothing."""
        device = self.units.get(frame[0])
        if device is None or crc16(frame[:-2]) != frame[-2:]:
            return b""
        function, address, word = struct.unpack(">BHH", frame[1:6])
        asked = Asked(0, 1, function, address, word, frame[6:-2])
        device.asked.append(asked)
        reply = device.twist(asked) if device.twist is not None else None
        reply = device.plain(asked) if reply is None else reply
        return framed(reply[7:], frame[0]) if reply else b""

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self._rx += os.read(self.master, 4096)
        while size := request_bytes(self._rx):
            if len(self._rx) < size:
                break
            frame, self._rx = self._rx[:size], self._rx[size:]
            self.sent.append(frame)
            reply = self.answer(frame)
            self.put(reply if self.wire is None else self.wire(frame, reply))

    def plug(self) -> None:
        """A new pty."""
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def unplug(self) -> None:
        """The adapter is pulled out."""
        if self.master >= 0:
            asyncio.get_running_loop().remove_reader(self.master)
            os.close(self.slave)
            os.close(self.master)
            self.master = self.slave = -1
            self._rx = b""


@contextmanager
def bus_of(**units: Device) -> Iterator[SerialBus]:
    """A line with devices ``u1``, ``u2`` ... until the end."""
    bus = SerialBus({int(name[1:]): device for name, device in units.items()})
    bus.plug()
    try:
        yield bus
    finally:
        bus.unplug()


def on_line(program: blobs.Program, path: str, **changes: Any) -> blobs.Program:
    """The program with its one device on a serial line instead."""
    serial: dict[str, Any] = {
        "address": bytes(16), "port": 0, "kind": DeviceKind.MODBUS_RTU, "tty": 0,
        "baud": 115_200, "data_bits": 8, "stop_bits": 1, "timeout_ns": 100 * MS,
    }  # fmt: skip
    program.devices[0] = replace(program.devices[0], **(serial | changes))
    program.names["ttys"] = [path]
    return program
