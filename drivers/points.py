"""What a Modbus point is: its place in the device, its type, order, scaling and range.

Addresses are PDU addresses, zero-based. A point is checked whole when it is parsed; a
:class:`ModbusPoint` that exists can be planned and decoded.
"""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from drivers.errors import PointError, RequestError
from fastpath.codes import ByteOrder, PointType

ADDRESS_MAX: Final = 65_535
BIT_MAX: Final = 15  # bit 0 is the least significant


class Area(StrEnum):
    """The four tables of a Modbus device."""

    COIL = "c"
    DISCRETE_INPUT = "di"
    INPUT_REGISTER = "ir"
    HOLDING_REGISTER = "hr"

    @property
    def of_bits(self) -> bool:
        """Whether the table holds bits, not registers."""
        return self in (Area.COIL, Area.DISCRETE_INPUT)

    @property
    def writable(self) -> bool:
        """Whether a master can write it."""
        return self in (Area.COIL, Area.HOLDING_REGISTER)


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a device, base already taken off. ``bit`` is None for the whole register."""

    area: Area
    number: int
    bit: int | None = None


@dataclass(frozen=True, slots=True)
class ModbusPoint:
    """One value in a device. ``low`` and ``high`` are inclusive, 0 without ``has_range``."""

    area: Area
    address: int
    type: PointType
    order: ByteOrder = ByteOrder.ABCD
    bit: int = 0
    scale: float = 1.0
    offset: float = 0.0
    low: float = 0.0
    high: float = 0.0
    has_range: bool = False
    text_registers: int = 0  # of a text, whose type is not looked at; 0: a number or a bit

    @property
    def width(self) -> int:
        """Registers that the value takes; 1 for a coil or discrete input."""
        return self.text_registers or WIDTHS[self.type]

    @property
    def boolean(self) -> bool:
        """Whether the value is 0 or 1."""
        return self.type in (PointType.BOOL, PointType.BIT)


@dataclass(frozen=True, slots=True)
class Excluded:
    """Addresses that are never read, both ends among them. No point lies there."""

    area: Area
    first: int
    last: int

    def holds(self, point: ModbusPoint) -> bool:
        """Whether the point takes any of them."""
        begins_before = point.address <= self.last
        return (
            point.area is self.area and begins_before and point.address + point.width > self.first
        )


WIDTHS: Final[dict[PointType, int]] = {
    PointType.BOOL: 1,
    PointType.BIT: 1,
    PointType.INT16: 1,
    PointType.UINT16: 1,
    PointType.INT32: 2,
    PointType.UINT32: 2,
    PointType.FLOAT32: 2,
    PointType.INT64: 4,
    PointType.UINT64: 4,
    PointType.FLOAT64: 4,
}
ORDERS: Final[tuple[str, ...]] = tuple(order.name for order in ByteOrder)
FLOAT32_MAX: Final = 3.402_823_466e38
STEP_MAX: Final = 1e-3  # how far from a whole step a value to write may be: what scaling rounds
TEXT: Final = "text"
TEXT_REGISTERS_MAX: Final = 125
NUMBER_TYPES: Final[tuple[str, ...]] = (
    "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64",
)  # fmt: skip

_NUMBER: Final = "(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,8})"
_ADDRESS: Final = re.compile(rf"(c|di|ir|hr):{_NUMBER}(?:\.([0-9]{{1,3}}))?")
_RANGE: Final = re.compile(rf"(c|di|ir|hr):{_NUMBER}(?:-{_NUMBER})?")
_TRADITIONAL: Final = re.compile(r"(?P<table>[0134])(?P<number>[0-9]{4,5})")
_TRADITIONAL_AREAS: Final = {"0": "c", "1": "di", "3": "ir", "4": "hr"}
_EXPECTED: Final = 'expected an address such as "hr:100", "ir:0x64", "c:16", "di:3" or "hr:5.3"'
_STRUCT: Final[dict[PointType, str]] = {
    PointType.INT16: ">h",
    PointType.UINT16: ">H",
    PointType.INT32: ">i",
    PointType.UINT32: ">I",
    PointType.INT64: ">q",
    PointType.UINT64: ">Q",
    PointType.FLOAT32: ">f",
    PointType.FLOAT64: ">d",
}


def parse_address(text: str, *, base: int = 0) -> Address:
    """Read ``c: di: ir: hr:`` + decimal or 0x number (+ ``.bit``). Raises PointError."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise PointError(
            key="address", text=f'found "{text}", {_EXPECTED}{_traditional_hint(text)}'
        )
    area = Area(match[1])
    number = _number(match[2]) - base
    if not 0 <= number <= ADDRESS_MAX:
        raise PointError(
            key="address",
            text=f'found "{text}", expected a number from {base} to {ADDRESS_MAX + base} '
            f"(base = {base})",
        )
    if match[3] is None:
        return Address(area, number)
    if area.of_bits:
        raise PointError(
            key="address", text=f'found "{text}", but a bit is taken of ir: and hr: only'
        )
    bit = int(match[3])
    if bit > BIT_MAX:
        raise PointError(key="address", text=f'found "{text}", expected a bit from 0 to {BIT_MAX}')
    return Address(area, number, bit)


def parse_excluded(text: str, *, base: int = 0) -> Excluded:
    """Read ``hr:100-120`` or ``hr:100``. Raises PointError."""
    match = _RANGE.fullmatch(text.strip())
    found = f'found "{text}", expected addresses such as "hr:100-120"'
    if match is None:
        raise PointError(key="exclude", text=found)
    first = _number(match[2]) - base
    last = first if match[3] is None else _number(match[3]) - base
    if not 0 <= first <= last <= ADDRESS_MAX:
        raise PointError(key="exclude", text=f"{found} within {base} to {ADDRESS_MAX + base}")
    return Excluded(Area(match[1]), first, last)


def parse_order(text: str, key: str = "order") -> ByteOrder:
    """Read ABCD, BADC, CDAB or DCBA. Raises PointError."""
    try:
        return ByteOrder[text]
    except KeyError:
        expected = ", ".join(ORDERS)
        raise PointError(key=key, text=f'found "{text}", expected one of {expected}') from None


def parse_point(
    address: str,
    type_name: str = "",
    order: str = "",
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    limits: tuple[float, float] | None = None,
    base: int = 0,
    default_order: str = "ABCD",
    length: int | None = None,
) -> ModbusPoint:
    """Make a point of the site file's fields; ``limits`` is the instrument range of the tag.

    An empty type is bool for c:, di: and bits, uint16 otherwise; an empty order is the device's.
    ``length`` is the registers of a text.
    Raises PointError with the key at fault.
    """
    place = parse_address(address, base=base)
    if type_name == TEXT:
        _check_text(address, place, length, limits, plain=(scale, offset) == (1.0, 0.0))
        found = parse_order(order or default_order)
        registers = length or 0
        return ModbusPoint(
            place.area, place.number, PointType.UINT16, found, text_registers=registers
        )
    if length is not None:
        raise PointError(key="length", text=f'found {length}, expected it with type = "{TEXT}"')
    kind = _type_of(place, type_name)
    _check_end(address, place, kind)
    _check_scaling(kind, scale, offset)
    low, high = _check_limits(limits)
    return ModbusPoint(
        area=place.area,
        address=place.number,
        type=kind,
        order=parse_order(order or default_order),
        bit=place.bit or 0,
        scale=scale,
        offset=offset,
        low=low,
        high=high,
        has_range=limits is not None,
    )


def encode_registers(point: ModbusPoint, value: float) -> list[int]:
    """The registers to write so that the point reads ``value`` (engineering units).

    Raises RequestError for what cannot be written: a bit of a register (no atomic way), a text, a
    value that the type cannot hold or, for integers, not hold exactly.
    """
    if point.boolean or point.text_registers or point.area is not Area.HOLDING_REGISTER:
        msg = f"{describe(point)} cannot be written as registers"
        raise RequestError(msg)
    raw = (value - point.offset) / point.scale
    if not math.isfinite(raw):
        msg = f"{describe(point)} cannot be written: {value} is no finite number"
        raise RequestError(msg)
    integer = point.type not in (PointType.FLOAT32, PointType.FLOAT64)
    if integer and abs(raw - round(raw)) > min(1e-6 * max(1.0, abs(raw)), STEP_MAX):
        msg = f"{describe(point)} holds whole steps of {point.scale}, not {value}"
        raise RequestError(msg)
    try:
        return pack_registers(point, raw)
    except (struct.error, OverflowError):
        msg = f"{describe(point)} cannot hold {value:.10g}: {_span(point)}"
        raise RequestError(msg) from None


def pack_registers(point: ModbusPoint, raw: float) -> list[int]:
    """The registers of a number as it stands in the device, rounded where it is an integer.

    Raises struct.error or OverflowError for one that the type cannot hold.
    """
    integer = point.type not in (PointType.FLOAT32, PointType.FLOAT64)
    data = struct.pack(_STRUCT[point.type], round(raw) if integer else raw)
    return list(struct.unpack(f">{len(data) // 2}H", reorder(data, point.order)))


def _span(point: ModbusPoint) -> str:
    """What a number can be, in engineering units: ``uint16 0..65535``."""
    kind = point.type
    bits = 16 * point.width
    low, high = 0.0, 2.0**bits - 1
    if kind in (PointType.FLOAT32, PointType.FLOAT64):
        low, high = -FLOAT32_MAX, FLOAT32_MAX  # a finite number is never too large for 64 bits
    elif kind in (PointType.INT16, PointType.INT32, PointType.INT64):
        low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    first, last = sorted(end * point.scale + point.offset for end in (low, high))
    return f"{kind.name.lower()} {first:.10g}..{last:.10g}"


def decode_text(point: ModbusPoint, data: bytes) -> str:
    """The text of its registers: up to the first NUL, without blanks at its ends."""
    swapped = point.order in (ByteOrder.BADC, ByteOrder.DCBA)
    straight = reorder(data, ByteOrder.BADC) if swapped else data
    text = straight.partition(b"\0")[0].decode("utf-8", "replace").strip()
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def reorder(data: bytes, order: ByteOrder) -> bytes:
    """Big-endian bytes as they travel in ``order`` (and back: each order is its own inverse)."""
    words = [data[i : i + 2] for i in range(0, len(data), 2)]
    if order in (ByteOrder.CDAB, ByteOrder.DCBA):
        words.reverse()
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        words = [word[::-1] for word in words]
    return b"".join(words)


def describe(point: ModbusPoint) -> str:
    """The point as people write it, zero-based: ``hr:5.3``."""
    bit = f".{point.bit}" if point.type is PointType.BIT else ""
    return f"{point.area.value}:{point.address}{bit}"


def decode_fields(
    points: Sequence[tuple[ModbusPoint, int]],
) -> list[tuple[int, int, int, int, float, float, float, float, bool]]:
    """What ``fastpath.decode.Decoder`` takes, of (point, its place in the reply) pairs."""
    return [
        (at, int(p.type), int(p.order), p.bit, p.scale, p.offset, p.low, p.high, p.has_range)
        for p, at in points
    ]


def _number(digits: str) -> int:
    return int(digits, 16) if digits[:2] in ("0x", "0X") else int(digits)


def _type_of(place: Address, name: str) -> PointType:
    if place.area.of_bits:
        if name not in ("", "bool"):
            raise PointError(key="type", text=f'found "{name}", expected "bool" for c: and di:')
        return PointType.BOOL
    if place.bit is not None:
        if name not in ("", "bool"):
            raise PointError(
                key="type", text=f'found "{name}", expected "bool" for a bit of a register'
            )
        return PointType.BIT
    if name in ("bool", "bit"):
        raise PointError(key="type", text=f'found "{name}", but it needs a bit such as "hr:5.3"')
    if name == "":
        return PointType.UINT16
    if name not in NUMBER_TYPES:
        raise PointError(
            key="type", text=f'found "{name}", expected one of {", ".join(NUMBER_TYPES)}'
        )
    return PointType[name.upper()]


def _check_end(text: str, place: Address, kind: PointType) -> None:
    if place.number + WIDTHS[kind] - 1 > ADDRESS_MAX:
        raise PointError(
            key="address",
            text=f'found "{text}", but {kind.name.lower()} takes {WIDTHS[kind]} registers and the '
            f"table ends at {ADDRESS_MAX}",
        )


def _check_text(
    text: str,
    place: Address,
    length: int | None,
    limits: tuple[float, float] | None,
    *,
    plain: bool,
) -> None:
    if place.area.of_bits or place.bit is not None:
        raise PointError(key="type", text=f'found "{TEXT}", expected it of whole registers alone')
    if length is None or not 1 <= length <= TEXT_REGISTERS_MAX:
        found = "nothing" if length is None else length
        expected = f"expected the text's registers, 1 to {TEXT_REGISTERS_MAX}"
        raise PointError(key="length", text=f"found {found}, {expected}")
    if place.number + length - 1 > ADDRESS_MAX:
        expected = f"but the table ends at {ADDRESS_MAX}"
        raise PointError(key="address", text=f'found "{text}", {expected}')
    if not plain:
        raise PointError(key="type", text="a text takes no scale and no offset")
    if limits is not None:
        raise PointError(key="range", text="found a range of a text, expected none")


def _check_scaling(kind: PointType, scale: float, offset: float) -> None:
    if not math.isfinite(scale) or scale == 0.0:
        raise PointError(key="scale", text=f"found {scale}, expected a finite number other than 0")
    if not math.isfinite(offset):
        raise PointError(key="offset", text=f"found {offset}, expected a finite number")
    if kind in (PointType.BOOL, PointType.BIT) and (scale, offset) != (1.0, 0.0):
        key = "scale" if scale != 1.0 else "offset"
        raise PointError(key=key, text="a bool is 0 or 1 and takes no scale and no offset")


def _check_limits(limits: tuple[float, float] | None) -> tuple[float, float]:
    if limits is None:
        return 0.0, 0.0
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise PointError(
            key="range", text=f"found [{low}, {high}], expected [low, high] with low < high"
        )
    return low, high


def _traditional_hint(text: str) -> str:
    """Suggest what ``40101`` means, which many device manuals print."""
    match = _TRADITIONAL.fullmatch(text.strip())
    if match is None or int(match["number"]) == 0:
        return ""
    area = _TRADITIONAL_AREAS[match["table"]]
    return f'; did you mean "{area}:{int(match["number"]) - 1}" (zero-based)'
