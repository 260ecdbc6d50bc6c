"""What a point is in a line or frame, and the reading that it makes of one."""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from typing import Protocol as Shape

from drivers.errors import PointError
from drivers.points import NUMBER_TYPES, parse_order
from drivers.serial_protocol import Group, Groups, Protocol, SerialDevice, fits
from drivers.serial_tables import SerialField, SerialStatus
from fastpath.codes import ByteOrder, PointType, Quality, Reason
from fastpath.decode import Decoder

FRAME_TYPES: Final = ("uint8", "int8", "bool", *NUMBER_TYPES)
TEXT_BYTES_MAX: Final = 32  # of a number
_NUMBER: Final = re.compile(
    rb"[ \t]*([+-]?)[ \t]*((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)[ \t]*"
)
_SIZES: Final = {"8": 1, "16": 2, "32": 4, "64": 8}

Limits = tuple[float, float] | None
Value = tuple[float, int, int]  # value, quality, reason

_FAILED: Final[Value] = (math.nan, int(Quality.BAD), int(Reason.DEVICE_FAILURE))
_NO_NUMBER: Final[Value] = (math.nan, int(Quality.BAD), int(Reason.NOT_A_NUMBER))


class SerialPoint(Shape):
    """What is read of a tag's point."""

    @property
    def field(self) -> str | int | None:
        """A field's name, a group's, or a number from 1."""

    @property
    def at(self) -> int | None:
        """Bytes from a frame's first."""

    @property
    def type(self) -> str:
        """Of a frame; of a line "bool" or nothing."""

    @property
    def order(self) -> str:
        """Of a frame; empty: the device's."""

    @property
    def scale(self) -> float:
        """Value = raw x scale + offset."""

    @property
    def offset(self) -> float:
        """In engineering units."""


class LineValue:
    """One value of the lines of a protocol."""

    def __init__(
        self, field: SerialField, scale: float, offset: float, limits: Limits, *, boolean: bool
    ) -> None:
        self._group: Group = field.name if field.group is None else field.group
        self._when = [(_group(name), text.encode("latin-1")) for name, text in field.when.items()]
        self._words = {text.encode("latin-1"): number for text, number in field.words.items()}
        self._factor_of = field.factor_of
        self._factors = {text.encode("latin-1"): by for text, by in field.factors.items()}
        self._boolean = boolean
        self.selective = bool(field.when)
        self._decoder = _decoder(PointType.FLOAT64, ByteOrder.ABCD, scale, offset, limits)

    def of(self, groups: Groups) -> Value | None:
        """What this line says; None where it says nothing of it."""
        if any(groups(group) != text for group, text in self._when):
            return None
        text = groups(self._group)
        if text is None:
            return None
        text = text.strip()
        if not text:
            return _FAILED  # the place is there, and the instrument has nothing to say
        number = self._words.get(text)
        if number is None:
            number = None if self._words else number_of(text)
        if number is None or (self._boolean and number not in (0.0, 1.0)):
            return _NO_NUMBER
        if self._factor_of is not None:
            factor = self._factors.get((groups(self._factor_of) or b"").strip())
            if factor is None:
                return _FAILED  # another unit than anybody told us
            number *= factor
        return self._decoder.registers(struct.pack(">d", number))[0]


class FrameValue:
    """One value of the frames of a protocol; ``width`` bytes at ``at``."""

    def __init__(
        self,
        at: int,
        type_name: str,
        order: ByteOrder,
        scaling: tuple[float, float],
        limits: Limits,
    ) -> None:
        self.at = at
        self.width = width_of(type_name)
        self._signed = type_name == "int8"
        self._boolean = type_name == "bool"
        wide = {"uint8": "UINT16", "int8": "INT16", "bool": "UINT16"}
        kind = PointType[wide.get(type_name, type_name.upper())]
        self._decoder = _decoder(
            kind, order if self.width > 1 else ByteOrder.ABCD, *scaling, limits
        )

    def of(self, frame: bytes) -> Value | None:
        """What this frame says; None where it is too short for it."""
        raw = frame[self.at : self.at + self.width]
        if len(raw) < self.width:
            return None
        if self._boolean:
            raw = b"\0\1" if raw[0] else b"\0\0"
        elif self.width == 1:
            raw = (b"\xff" if self._signed and raw[0] > 127 else b"\0") + raw
        return self._decoder.registers(raw)[0]


@dataclass(frozen=True, slots=True)
class Values:
    """All points of a device. ``read`` is (point, value) pairs of one line or frame."""

    protocol: Protocol
    lines: tuple[LineValue, ...]
    frames: tuple[FrameValue, ...]

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.lines) + len(self.frames)

    @property
    def selective(self) -> bool:
        """Whether a line rightly says nothing of some points."""
        return any(line.selective for line in self.lines)

    def read(self, taken: bytes) -> list[tuple[int, Value]] | None:
        """The values of a frame as the framer gave it; None: it is not one of this protocol."""
        if not self.protocol.of_lines:
            verdict = _verdict(self.protocol.table.status, _byte_of(taken, self.protocol))
            found = [(number, value.of(taken)) for number, value in enumerate(self.frames)]
        else:
            groups = self.protocol.groups(taken)
            if groups is None:
                return None
            status = self.protocol.table.status
            said = None if status is None else (groups(status.field or 1) or b"").strip()
            verdict = _verdict(status, None if said is None else said.decode("latin-1"))
            found = [(number, value.of(groups)) for number, value in enumerate(self.lines)]
        return [(number, _judged(value, verdict)) for number, value in found if value is not None]


def make_values(
    device: SerialDevice, protocol: Protocol, points: Sequence[tuple[SerialPoint, Limits]]
) -> Values:
    """Every point of the device, checked. Raises PointError."""
    if protocol.of_lines:
        lines = tuple(_line_value(device, protocol, point, limits) for point, limits in points)
        return Values(protocol, lines, ())
    frames = tuple(_frame_value(device, protocol, point, limits) for point, limits in points)
    return Values(protocol, (), frames)


def number_of(text: bytes) -> float | None:
    """A number as instruments write it ("+  12.50"); None for anything else."""
    match = _NUMBER.fullmatch(text) if len(text) <= TEXT_BYTES_MAX else None
    return None if match is None else float(match[1] + match[2])


def field_of(device: SerialDevice, point: SerialPoint) -> SerialField | None:
    """The device's field that a point names, None where it names none."""
    return next((field for field in device.fields if field.name == point.field), None)


def width_of(type_name: str) -> int:
    """Bytes that a value of this type takes in a frame."""
    digits = type_name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return _SIZES.get(digits, 1)


def is_boolean(device: SerialDevice, point: SerialPoint) -> bool:
    """Whether the value is 0 or 1."""
    field = field_of(device, point)
    return "bool" in {point.type, field.type if field is not None else ""}


def check_fields(device: SerialDevice, protocol: Protocol) -> list[PointError]:
    """What is wrong with the fields of a device."""
    errors: list[PointError] = []
    seen: set[str] = set()
    for number, field in enumerate(device.fields):
        if field.name in seen:
            text = f'found "{field.name}" a second time, expected it once'
            errors.append(PointError(key=f"fields.{number}.name", text=text))
        seen.add(field.name)
        try:
            _check_field(device, protocol, field)
        except PointError as error:
            key = error.key if error.key != "field" else "group"
            errors.append(PointError(key=f"fields.{number}.{key}", text=str(error)))
    return errors


def _check_field(device: SerialDevice, protocol: Protocol, field: SerialField) -> None:
    _check_scaling(field.scale, field.offset)
    if not protocol.of_lines:
        for key in ("group", "factor_of"):
            if getattr(field, key) is not None:
                raise PointError(key=key, text="found it, but the protocol is of frames")
        for key in ("when", "words", "factors"):
            if getattr(field, key):
                raise PointError(key=key, text="found it, but the protocol is of frames")
        _check_place(protocol, field.at, field.type)
        parse_order(field.order or device.order)
        return
    if field.at is not None:
        raise PointError(key="at", text="found it, but the protocol is of lines")
    _check_line_type(field.type)
    if bool(field.factors) != (field.factor_of is not None):
        raise PointError(key="factors", text="expected factors and factor_of together")
    named: list[tuple[str, Group]] = [("group", field.name if field.group is None else field.group)]
    named += [("when", _group(name)) for name in field.when]
    named += [("factor_of", field.factor_of)] if field.factor_of is not None else []
    for key, group in named:
        _check_group(protocol, group, key)
    for text in (*field.when.values(), *field.words, *field.factors):
        if not text.isascii():
            raise PointError(key="when", text=f'found "{text}", expected ASCII')


def _check_group(protocol: Protocol, group: Group, key: str) -> None:
    if fits(protocol.table, group, protocol.names):
        return
    shown = f'"{group}"' if isinstance(group, str) else str(group)
    if protocol.pattern is None:
        raise PointError(key=key, text=f"found {shown}, expected the number of a field, from 1")
    names = ", ".join(f'"{name}"' for name in protocol.pattern.groupindex)
    numbers = f"1 to {protocol.pattern.groups}" if protocol.pattern.groups else "no group"
    text = f"found {shown}, expected a group of the pattern ({names or numbers})"
    raise PointError(key=key, text=text)


def _check_scaling(scale: float, offset: float) -> None:
    if not math.isfinite(scale) or scale == 0.0:
        raise PointError(key="scale", text=f"found {scale}, expected a finite number other than 0")
    if not math.isfinite(offset):
        raise PointError(key="offset", text=f"found {offset}, expected a finite number")


def _check_line_type(name: str) -> None:
    if name not in ("", "bool"):
        text = f'found "{name}", expected "bool" or nothing: a line has numbers as text'
        raise PointError(key="type", text=text)


def _check_place(protocol: Protocol, at: int | None, type_name: str) -> None:
    if at is None:
        raise PointError(key="at", text="found nothing, expected the place of its first byte")
    if type_name not in FRAME_TYPES:
        found = f'"{type_name}"' if type_name else "nothing"
        text = f"found {found}, expected one of {', '.join(FRAME_TYPES)}"
        raise PointError(key="type", text=text)
    if not isinstance(protocol.length, int):
        return
    end = protocol.length - (protocol.checksum.width if protocol.checksum is not None else 0)
    if at + width_of(type_name) > end:
        text = f"found {at}, expected {type_name} to end within the {end} bytes before the checksum"
        raise PointError(key="at", text=text)


def _line_value(
    device: SerialDevice, protocol: Protocol, point: SerialPoint, limits: Limits
) -> LineValue:
    if point.at is not None:
        raise PointError(key="at", text="found it, but the protocol is of lines, expected field")
    if point.field is None:
        named = ", ".join(f'"{field.name}"' for field in device.fields)
        text = f"found nothing, expected {named or 'the name or number of a field'}"
        raise PointError(key="field", text=text)
    field = field_of(device, point)
    if field is None:
        if device.fields:
            named = ", ".join(f'"{field.name}"' for field in device.fields)
            text = f'found "{point.field}", expected one of {named}'
            raise PointError(key="field", text=text)
        _check_group(protocol, point.field, "field")
        field = SerialField(name=str(point.field), group=point.field)
    _check_scaling(point.scale, point.offset)
    _check_line_type(point.type)
    boolean = is_boolean(device, point)
    scale, offset = _scaling(field, point, boolean=boolean)
    return LineValue(field, scale, offset, limits, boolean=boolean)


def _frame_value(
    device: SerialDevice, protocol: Protocol, point: SerialPoint, limits: Limits
) -> FrameValue:
    field = field_of(device, point)
    if point.field is not None and field is None:
        named = ", ".join(f'"{field.name}"' for field in device.fields)
        text = f'found "{point.field}", expected {f"one of {named}" if named else "at"}'
        raise PointError(key="field", text=text)
    if field is not None and point.at is not None:
        raise PointError(key="at", text="found it beside field, expected one of both")
    at, name = (point.at, point.type) if field is None else (field.at, point.type or field.type)
    _check_place(protocol, at, name)
    _check_scaling(point.scale, point.offset)
    order = parse_order(point.order or (field.order if field is not None else "") or device.order)
    own = field if field is not None else SerialField(name="point")
    scaling = _scaling(own, point, boolean=name == "bool")
    return FrameValue(at or 0, name, order, scaling, limits)


def _scaling(field: SerialField, point: SerialPoint, *, boolean: bool) -> tuple[float, float]:
    """The point's scaling upon the field's."""
    scale = field.scale * point.scale
    offset = field.offset * point.scale + point.offset
    if boolean and (scale, offset) != (1.0, 0.0):
        key = "scale" if scale != 1.0 else "offset"
        raise PointError(key=key, text="a bool is 0 or 1 and takes no scale and no offset")
    return scale, offset


def _decoder(
    kind: PointType, order: ByteOrder, scale: float, offset: float, limits: Limits
) -> Decoder:
    low, high = limits or (0.0, 0.0)
    return Decoder([(0, int(kind), int(order), 0, scale, offset, low, high, limits is not None)])


def _group(name: str) -> Group:
    return int(name) if name.isdigit() else name


def _byte_of(frame: bytes, protocol: Protocol) -> str | None:
    status = protocol.table.status
    if status is None or status.at is None:
        return None
    return frame[status.at : status.at + 1].hex()


def _verdict(status: SerialStatus | None, said: str | None) -> Quality:
    """What the instrument says of its values, GOOD where it says nothing of that kind."""
    if status is None or said is None:
        return Quality.GOOD
    if said in status.good or said.upper() in status.good:
        return Quality.GOOD
    if said in status.uncertain or said.upper() in status.uncertain:
        return Quality.UNCERTAIN
    return Quality.BAD


def _judged(value: Value, verdict: Quality) -> Value:
    if verdict == Quality.BAD:
        return _FAILED
    if verdict == Quality.UNCERTAIN and value[1] == Quality.GOOD:
        return value[0], int(verdict), int(Reason.DEVICE_FAILURE)
    return value
