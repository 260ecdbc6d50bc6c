"""Registers without a type, in every decoding, so that people see which one is right."""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from drivers.errors import PointError
from drivers.points import NUMBER_TYPES, ORDERS, WIDTHS, reorder
from fastpath.codes import ByteOrder, PointType
from gateway.commission.words import type_of
from gateway.site.complaints import did_you_mean, shown

DEFAULT: Final = ("hex", "uint16", "int16", "float32")
REGISTERS_MAX: Final = 4  # of one value
CHOICES: Final = ("hex", "bits", *NUMBER_TYPES)
_STRUCT: Final = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
    "float32": ">f", "float64": ">d",
}  # fmt: skip

Value = float | int | str | None


def columns_of(text: str | None) -> list[tuple[str, str]]:
    """(type, order) of every column that ``--as`` names: ``int32,float32:CDAB``.

    A type of one register has no order (""), a wider one has all four unless one is named. Raises
    PointError.
    """
    columns: list[tuple[str, str]] = []
    for word in (text or ",".join(DEFAULT)).split(","):
        name, _, order = word.strip().partition(":")
        name = type_of(name).lower()
        if name not in CHOICES:
            near = did_you_mean(name, CHOICES) or f" ({', '.join(CHOICES)})"
            raise PointError(key="as", text=f"found {shown(name)}, expected a type{near}")
        if order and order not in ORDERS:
            expected = ", ".join(ORDERS)
            raise PointError(key="as", text=f"found {shown(order)}, expected one of {expected}")
        if width_of(name) > 1:
            columns += [(name, one) for one in ([order] if order else ORDERS)]
        else:
            columns.append((name, ""))
    return columns


def width_of(name: str) -> int:
    """Registers that a decoding takes."""
    return WIDTHS[PointType[name.upper()]] if name in NUMBER_TYPES else 1


def decode(words: Sequence[int | None], name: str, order: str) -> Value:
    """The value that begins at ``words[0]``; None where a register of it is not known."""
    taken = words[: width_of(name)]
    known = [word for word in taken if word is not None]
    if len(known) < width_of(name):
        return None
    if name == "hex":
        return f"0x{known[0]:04X}"
    if name == "bits":
        return f"{known[0]:016b}"
    data = struct.pack(f">{len(known)}H", *known)
    if order:
        data = reorder(data, ByteOrder[order])
    value: float | int = struct.unpack(_STRUCT[name], data)[0]
    return value


def decoded(
    registers: Mapping[int, int | None], at: int, columns: Sequence[tuple[str, str]]
) -> dict[str, Value]:
    """Every column's value at register ``at``; ``float32:CDAB`` is a column's name."""
    words = [registers.get(at + i) for i in range(REGISTERS_MAX)]
    return {column_name(name, order): decode(words, name, order) for name, order in columns}


def column_name(name: str, order: str) -> str:
    """As ``--as`` takes it."""
    return f"{name}:{order}" if order else name
