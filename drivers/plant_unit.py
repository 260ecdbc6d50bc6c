"""One Modbus unit of a simulated plant: its four tables, and its answer to each request.

Every place exists and is 0 where nothing is said of it, so that whoever reads holes along is
answered. What is written stays, and a tag there shows it; what is not written shows its signal.
"""

import contextlib
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from drivers.plan import FUNCTIONS, READ_BITS_MAX, READ_REGISTERS_MAX
from drivers.plant import HeartbeatText, OutputText, Plant, ServerText, TagText, integer_bounds
from drivers.points import ADDRESS_MAX, Area, ModbusPoint, pack_registers
from fastpath.codes import PointType

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3
DEVICE_FAILURE: Final = 4
WRITE_REGISTERS_MAX: Final = 123
WRITE_BITS_MAX: Final = 1_968
WIDTH_MAX: Final = 4  # registers of the widest number
_AREAS: Final = {function: area for area, function in FUNCTIONS.items()}
_HEAD: Final = struct.Struct(">HH")  # address, and count or value
_COIL_ON: Final = 0xFF00


class _Refused(Exception):
    """The answer is an exception of this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Unit:
    """The tables of one unit. ``memory`` is by (area, number)."""

    def __init__(self, unit: int, server: ServerText, plant: Plant) -> None:
        self._plant = plant
        self._memory: dict[tuple[Area, int], int] = {}
        self._tags: dict[Area, list[TagText]] = {area: [] for area in Area}
        self._outputs: dict[tuple[Area, int], OutputText] = {}
        self._beats: list[tuple[tuple[str, int, int], HeartbeatText]] = []
        for tag in sorted(server.tags, key=lambda tag: tag.place.address):
            if tag.unit == unit:
                self._tags[tag.place.area].append(tag)
        self._starts = {area: [t.place.address for t in tags] for area, tags in self._tags.items()}
        for register in server.registers:
            if register.unit == unit:
                self._memory[register.place.area, register.place.address] = register.value
        for output in server.outputs:
            if output.unit == unit:
                key = (output.place.area, output.place.address)
                self._outputs[key] = output
                self._memory[key] = output.normal
        for beat in server.heartbeats:
            if beat.unit == unit:
                self._beats.append(((server.name, unit, beat.address), beat))

    def go_on(self, before: "Unit") -> None:
        """Keep what was written there."""
        self._memory |= before._memory  # noqa: SLF001  of its own kind

    def answer(self, request: bytes, now_ns: int) -> bytes:
        """The reply's PDU, an exception's where the request cannot be served."""
        function = request[0] if request else 0
        try:
            serve = self._serves(function)
            return serve(function, request[1:], now_ns)
        except _Refused as refused:
            return bytes((function | 0x80, refused.code))
        except (struct.error, IndexError):
            return bytes((function | 0x80, ILLEGAL_VALUE))

    def _serves(self, function: int) -> Callable[[int, bytes, int], bytes]:
        if function in _AREAS:
            return self._read
        found = {5: self._write_one, 6: self._write_one, 15: self._write_bits}
        found[16] = self._write_registers
        if function not in found:
            raise _Refused(ILLEGAL_FUNCTION)
        return found[function]

    # Reads

    def _read(self, function: int, body: bytes, now_ns: int) -> bytes:
        start, count = _HEAD.unpack(body)
        area = _AREAS[function]
        _check(start, count, READ_BITS_MAX if area.of_bits else READ_REGISTERS_MAX)
        values = self._values(area, start, count, now_ns)
        if not area.of_bits:
            data = struct.pack(f">{count}H", *values)
        else:
            packed = sum(bit << place for place, bit in enumerate(values))
            data = packed.to_bytes((count + 7) // 8, "little")
        return bytes((function, len(data))) + data

    def _values(self, area: Area, start: int, count: int, now_ns: int) -> list[int]:
        values = [self._memory.get((area, start + i), 0) for i in range(count)]
        starts = self._starts[area]
        first, last = bisect_left(starts, start - WIDTH_MAX + 1), bisect_left(starts, start + count)
        for tag in self._tags[area][first:last]:
            place = tag.place
            if place.address + place.width <= start:
                continue
            if self._plant.refused(tag.id):
                raise _Refused(DEVICE_FAILURE)
            if self._remembered(place) and not self._plant.is_driven(tag.id):
                continue
            raw = (self._plant.value(tag.id, now_ns) - place.offset) / place.scale
            _put(values, place, raw, start)
        return values

    def _remembered(self, place: ModbusPoint) -> bool:
        places = range(place.address, place.address + place.width)
        return any((place.area, number) in self._memory for number in places)

    # Writes

    def _write_one(self, function: int, body: bytes, now_ns: int) -> bytes:
        address, value = _HEAD.unpack(body)
        if function == 5 and value not in (0, _COIL_ON):
            raise _Refused(ILLEGAL_VALUE)
        area = Area.COIL if function == 5 else Area.HOLDING_REGISTER
        self._store(area, address, [int(bool(value)) if function == 5 else value], now_ns)
        return bytes((function,)) + body

    def _write_bits(self, function: int, body: bytes, now_ns: int) -> bytes:
        start, count = _HEAD.unpack(body[:4])
        _check(start, count, WRITE_BITS_MAX)
        if len(body) != 5 + (count + 7) // 8 or body[4] != len(body) - 5:
            raise _Refused(ILLEGAL_VALUE)
        packed = int.from_bytes(body[5:], "little")
        self._store(Area.COIL, start, [packed >> i & 1 for i in range(count)], now_ns)
        return bytes((function,)) + body[:4]

    def _write_registers(self, function: int, body: bytes, now_ns: int) -> bytes:
        start, count = _HEAD.unpack(body[:4])
        _check(start, count, WRITE_REGISTERS_MAX)
        if len(body) != 5 + 2 * count or body[4] != 2 * count:
            raise _Refused(ILLEGAL_VALUE)
        self._store(Area.HOLDING_REGISTER, start, struct.unpack(f">{count}H", body[5:]), now_ns)
        return bytes((function,)) + body[:4]

    def _store(self, area: Area, start: int, values: Sequence[int], now_ns: int) -> None:
        for number, value in enumerate(values, start=start):
            self._memory[area, number] = value
            output = self._outputs.get((area, number))
            if output is not None:
                self._plant.write(output.id, value, now_ns)
        for key, beat in self._beats:
            here = [self._memory.get((Area.HOLDING_REGISTER, beat.address + i), 0) for i in (0, 1)]
            if area is Area.HOLDING_REGISTER and start <= beat.address < start + len(values):
                self._plant.beat(key, (here[0], here[1]), now_ns)


def _check(start: int, count: int, count_max: int) -> None:
    if not 1 <= count <= count_max:
        raise _Refused(ILLEGAL_VALUE)
    if start + count - 1 > ADDRESS_MAX:
        raise _Refused(ILLEGAL_ADDRESS)


def _put(values: list[int], place: ModbusPoint, raw: float, start: int) -> None:
    """Put a raw value into what was asked for; a part of it where not all was asked for."""
    at = place.address - start
    if place.type is PointType.BOOL:
        values[at] = int(raw >= 0.5)
        return
    if place.type is PointType.BIT:
        values[at] = values[at] & ~(1 << place.bit) | int(raw >= 0.5) << place.bit
        return
    if place.type not in (PointType.FLOAT32, PointType.FLOAT64):
        low, high = integer_bounds(place)
        raw = min(max(raw, low), high)
    with contextlib.suppress(OverflowError):  # a float32 that is too great stays 0
        for i, register in enumerate(pack_registers(place, raw)):
            if 0 <= at + i < len(values):
                values[at + i] = register
