"""What a simulated serial instrument sends: lines and frames of a protocol, made of values.

A line is made of its pattern: each group with a value has its text, the rest is the first that
the pattern takes. Values that stand in different lines (``when``) make a line each.
"""

import importlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from drivers.errors import PointError
from drivers.points import parse_order, reorder
from drivers.serial_protocol import Group, parse_protocol
from drivers.serial_tables import SerialField, SerialProtocol
from drivers.serial_values import make_values, width_of
from fastpath.codes import ByteOrder

FORMATS: Final = ("{:.3f}", "{:.1f}", "{:.0f}", "{:+.2f}", "{:03.0f}", "{:06.2f}", "{:05.1f}")
PRINTABLE: Final = range(0x20, 0x7F)
_PARSER: Final[Any] = importlib.import_module("re._parser")  # as patterns.py does
_PACK: Final = {
    "uint8": "B", "int8": "b", "bool": "B", "int16": ">h", "uint16": ">H", "int32": ">i",
    "uint32": ">I", "int64": ">q", "uint64": ">Q", "float32": ">f", "float64": ">d",
}  # fmt: skip


class InstrumentTag(Struct, frozen=True, kw_only=True):
    """One tag of an instrument, as its point has it."""

    id: str
    field: str | int | None = None
    at: int | None = None
    type: str = ""
    order: str = ""
    scale: float = 1.0
    offset: float = 0.0


class InstrumentText(Struct, frozen=True, kw_only=True):
    """One instrument on a port; ``period_s`` of one that sends by itself."""

    protocol: SerialProtocol
    fields: tuple[SerialField, ...] = ()
    station: str | int | None = None
    order: str = "ABCD"
    period_s: float = 1.0
    tags: tuple[InstrumentTag, ...] = ()


class Instrument:
    """One instrument. Raises PointError for one whose messages cannot be made."""

    def __init__(self, text: InstrumentText) -> None:
        try:
            self._protocol = parse_protocol(text)
        except ExceptionGroup as group:
            error = group.exceptions[0]
            raise PointError(key="protocol", text=str(error)) from None
        self._check = make_values(text, self._protocol, [(tag, None) for tag in text.tags])
        self._text = text
        self._fields = {field.name: field for field in text.fields}
        self.period_s = text.period_s
        self.messages({tag.id: 0.0 for tag in text.tags})  # told here, not while it runs

    @property
    def request(self) -> bytes | None:
        """What it answers to."""
        return self._protocol.request

    def messages(self, values: Mapping[str, float]) -> list[bytes]:
        """What it sends when its tags show these values, in their units; NaN is said as none."""
        if self._protocol.of_lines:
            return [self._line(tags, values) for tags in self._lines()]
        return [self._frame(values)]

    # Lines

    def _lines(self) -> list[list[InstrumentTag]]:
        """The tags that stand in one line each."""
        lines: dict[tuple[tuple[str, str], ...], list[InstrumentTag]] = {}
        for tag in self._text.tags:
            when = tuple(sorted(self._field(tag).when.items()))
            lines.setdefault(when, []).append(tag)
        return list(lines.values()) or [[]]

    def _field(self, tag: InstrumentTag) -> SerialField:
        name = str(tag.field)
        return self._fields.get(name, SerialField(name=name, group=tag.field))

    def _line(self, tags: list[InstrumentTag], values: Mapping[str, float]) -> bytes:
        protocol = self._protocol
        for form in FORMATS:
            body = self._body(self._texts(tags, values, form))
            if protocol.pattern is None or protocol.pattern.fullmatch(body) is not None:
                break
        else:
            text = "no line of this pattern could be made; it is not simulated"
            raise PointError(key="protocol.pattern", text=text)
        checksum = protocol.checksum
        if checksum is not None and checksum.name == "nmea":
            body += b"*" + checksum.written(body[1:])
        elif checksum is not None:
            body += checksum.written(body)
        return body + protocol.delimiter

    def _texts(
        self, tags: list[InstrumentTag], values: Mapping[str, float], form: str
    ) -> dict[Group, str]:
        texts: dict[Group, str] = {}
        status = self._protocol.table.status
        if status is not None and status.field is not None:
            texts[status.field] = status.good[0]
        for tag in tags:
            field = self._field(tag)
            texts.update({_group(name): word for name, word in field.when.items()})
            raw = _raw(values[tag.id], tag, field)
            if field.factor_of is not None:
                unit, factor = next(iter(field.factors.items()))
                texts[field.factor_of] = unit
                raw /= factor
            words = {number: word for word, number in field.words.items()}
            group = field.name if field.group is None else field.group
            texts[group] = "" if raw != raw else words.get(raw, form.format(raw))
        return texts

    def _body(self, texts: Mapping[Group, str]) -> bytes:
        protocol = self._protocol
        if protocol.pattern is not None:
            names = {number: name for name, number in protocol.pattern.groupindex.items()}
            by_number = {
                number: texts.get(number, texts.get(names.get(number, ""), None))
                for number in range(1, protocol.pattern.groups + 1)
            }
            parsed = _PARSER.parse(protocol.pattern.pattern)
            return b"".join(_made(parsed, by_number))
        last = max((group for group in texts if isinstance(group, int)), default=1)
        cells = [texts.get(number, "0").encode("latin-1") for number in range(1, last + 1)]
        return protocol.separator.join(cells)

    # Frames

    def _frame(self, values: Mapping[str, float]) -> bytes:
        protocol = self._protocol
        width = protocol.checksum.width if protocol.checksum is not None else 0
        placed = [self._placed(tag, values[tag.id]) for tag in self._text.tags]
        status = protocol.table.status
        if status is not None and status.at is not None:
            placed.append((status.at, bytes.fromhex(status.good[0])))
        if isinstance(protocol.length, int):
            body = bytearray(protocol.length - width)
        else:
            ends = [at + len(data) for at, data in placed]
            body = bytearray(max([protocol.least - width, *ends]))
        body[: len(protocol.start)] = protocol.start
        for at, data in placed:
            body[at : at + len(data)] = data
        if not isinstance(protocol.length, int):
            field = protocol.length
            number = len(body) + width - field.add
            order: Any = "little" if field.little else "big"
            body[field.at : field.at + field.width] = number.to_bytes(field.width, order)
        checksum = protocol.checksum
        return bytes(body) + (checksum.packed(bytes(body)) if checksum is not None else b"")

    def _placed(self, tag: InstrumentTag, value: float) -> tuple[int, bytes]:
        field = self._fields.get(str(tag.field), SerialField(name=str(tag.field), at=tag.at))
        kind = tag.type or field.type
        raw = _raw(value, tag, field)
        order = parse_order(tag.order or field.order or self._text.order)
        layout = _PACK[kind]
        if not kind.startswith("float"):
            bits, low = 8 * width_of(kind), 0
            if kind.startswith("int"):
                bits, low = bits - 1, -(2 ** (bits - 1))
            raw = 0 if raw != raw else min(max(round(raw), low), 2**bits - 1)
        data = struct.pack(layout, raw)
        at = tag.at if tag.at is not None else field.at or 0
        return at, data if len(data) == 1 else reorder(data, ByteOrder(order))


def _raw(value: float, tag: InstrumentTag, field: SerialField) -> float:
    """The number in the message: the point's scaling off, then the field's."""
    by_point = (value - tag.offset) / tag.scale
    return (by_point - field.offset) / field.scale


def _group(name: str) -> Group:
    return int(name) if name.isdigit() else name


def _made(parsed: Any, texts: Mapping[int, str | None]) -> Iterator[bytes]:
    """The first text that a parsed pattern takes, with these texts in its groups."""
    for op, argument in parsed:
        make = _MAKERS.get(str(op))
        if make is not None:
            yield from make(argument, texts)


def _repeat(argument: Any, texts: Mapping[int, str | None]) -> Iterator[bytes]:
    least, _, inner = argument
    for _ in range(least):
        yield from _made(inner, texts)


def _subpattern(argument: Any, texts: Mapping[int, str | None]) -> Iterator[bytes]:
    group, _, _, inner = argument
    text = texts.get(group) if group is not None else None
    if text is None:
        yield from _made(inner, texts)
    else:
        yield text.encode("latin-1")


def _one_of(argument: Any, _: Mapping[int, str | None]) -> Iterator[bytes]:
    negated = str(argument[0][0]) == "NEGATE"
    taken: set[int] = set()
    for op, what in argument:
        if str(op) == "LITERAL":
            taken.add(what)
        elif str(op) == "RANGE":
            taken.update(range(what[0], what[1] + 1))
        elif str(op) == "CATEGORY":
            taken.update(_category(str(what)))
    chosen = [byte for byte in PRINTABLE if (byte in taken) is not negated]
    yield bytes(chosen[:1])


def _category(name: str) -> Iterable[int]:
    """The bytes of a class such as CATEGORY_DIGIT or CATEGORY_NOT_SPACE."""
    positive = name.replace("NOT_", "")
    classes = {"CATEGORY_DIGIT": _DIGITS, "CATEGORY_SPACE": b" \t"}
    members = classes.get(positive, _DIGITS + _LETTERS)
    return members if positive == name else [byte for byte in PRINTABLE if byte not in members]


_DIGITS: Final = b"0123456789"
_LETTERS: Final = bytes((*range(0x41, 0x5B), *range(0x61, 0x7B), 0x5F))
_MAKERS: Final[Mapping[str, Callable[[Any, Mapping[int, str | None]], Iterator[bytes]]]] = {
    "LITERAL": lambda what, _: iter((bytes((what,)),)),
    "ANY": lambda _, __: iter((b" ",)),
    "NOT_LITERAL": lambda what, _: iter((b"x" if what != ord("x") else b"y",)),
    "IN": _one_of,
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
    "POSSESSIVE_REPEAT": _repeat,
    "SUBPATTERN": _subpattern,
    "BRANCH": lambda what, texts: _made(what[1][0], texts),
}
