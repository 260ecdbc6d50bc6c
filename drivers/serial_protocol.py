"""A serial instrument's protocol, checked: its request, its framer, what a good answer is.

``{station}`` in a request, pattern or start is the device's own address on the line, ``{checksum}``
at the end of a request the checksum of what stands before it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from typing import Protocol as Shape

from drivers.checksums import CHECKSUMS, NMEA, Checksum
from drivers.errors import PointError
from drivers.framing import (
    BinaryFramer,
    Framer,
    LengthField,
    LineFramer,
)
from drivers.patterns import compile_pattern
from drivers.serial_tables import LengthAt, SerialField, SerialProtocol

WRONG: Final = "a serial device that cannot be"
DELIMITER: Final = "\r\n"
DELIMITER_BYTES_MAX: Final = 8
REQUEST_BYTES_MAX: Final = 256
STATION: Final = "{station}"
CHECKSUM: Final = "{checksum}"
_STATION: Final = re.compile("[\x21-\x7e]{1,16}")
_LITTLE: Final = frozenset(("BADC", "DCBA"))
_LINE_KEYS: Final = ("delimiter", "pattern", "separator")
_FRAME_KEYS: Final = ("start", "length", "length_at")

Group = str | int
Groups = Callable[[Group], bytes | None]  # None: there is none, or it took no part


class SerialDevice(Shape):
    """What the protocol reads of a device."""

    @property
    def protocol(self) -> SerialProtocol | None:
        """None: left out, and no template."""

    @property
    def fields(self) -> tuple[SerialField, ...]:
        """Values under names."""

    @property
    def station(self) -> str | int | None:
        """Its own address on a line that it shares."""

    @property
    def order(self) -> str:
        """Byte order of values that name none."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol without errors. ``pattern`` and ``separator``: of lines, one of both."""

    table: SerialProtocol
    request: bytes | None
    delimiter: bytes
    pattern: re.Pattern[bytes] | None
    separator: bytes
    start: bytes
    length: int | LengthField
    least: int
    checksum: Checksum | None
    addressed: bool  # its answers name their station
    names: frozenset[Group] = field(default=frozenset())  # the pattern's groups

    @property
    def of_lines(self) -> bool:
        """Whether it is of lines, not of frames."""
        return self.table.kind == "line"

    def framer(self) -> Framer:
        """A framer for one connection; a stream is joined anywhere, an answer begins."""
        if self.of_lines:
            return LineFramer(self.delimiter, self.checksum, joining=self.request is None)
        return BinaryFramer(self.start, self.length, self.least, self.checksum)

    def groups(self, line: bytes) -> Groups | None:
        """The fields of a line; None where it is not one of this protocol."""
        if self.pattern is not None:
            match = self.pattern.fullmatch(line)
            return None if match is None else match.group
        cells = line.split(self.separator)

        def cell(number: Group) -> bytes | None:
            return cells[number - 1] if isinstance(number, int) and number <= len(cells) else None

        return cell


def parse_protocol(device: SerialDevice) -> Protocol:
    """The protocol of a device. Raises an ExceptionGroup of PointError, all there are."""
    return _Parser(device).parse()


def fits(protocol: SerialProtocol, group: Group, names: frozenset[Group]) -> bool:
    """Whether a line of this protocol can have the group."""
    if protocol.pattern is not None:
        return group in names
    return isinstance(group, int) and group >= 1


class _Parser:
    def __init__(self, device: SerialDevice) -> None:
        self._table = device.protocol or SerialProtocol(kind="line")
        self._given = device.protocol is not None
        self._station = device.station
        self._errors: list[PointError] = []
        self._pattern: re.Pattern[bytes] | None = None

    def parse(self) -> Protocol:
        table = self._table
        if not self._given:
            self._complain("protocol", 'found nothing, expected template = "…" or protocol = { … }')
            raise ExceptionGroup(WRONG, self._errors)
        self._check_keys()
        checksum = CHECKSUMS[table.checksum] if table.checksum else None
        start, length, least, delimiter = b"", 0, 1, b""
        size: int | LengthField = length
        if table.kind == "line":
            delimiter = self._delimiter()
            self._lines()
        else:
            start = self._hex("start", table.start) if table.start is not None else b""
            size, least = self._length(start, checksum)
        request = None if table.request is None else self._request(table.request, checksum)
        self._check_station()
        if self._errors:
            raise ExceptionGroup(WRONG, self._errors)
        names = frozenset[Group]()
        if self._pattern is not None:
            names = frozenset((*self._pattern.groupindex, *range(1, self._pattern.groups + 1)))
        return Protocol(
            table=table,
            request=request,
            delimiter=delimiter,
            pattern=self._pattern,
            separator=(table.separator or "").encode("latin-1", "replace"),
            start=start,
            length=size,
            least=least,
            checksum=checksum,
            addressed=STATION in (table.pattern or "") + (table.start or ""),
            names=names,
        )

    def _complain(self, key: str, text: str) -> None:
        name = key if key in {"protocol", "station"} else f"protocol.{key}"
        self._errors.append(PointError(key=name, text=text))

    def _check_keys(self) -> None:
        """Each kind has its own keys."""
        table = self._table
        lines = table.kind == "line"
        for key in _FRAME_KEYS if lines else _LINE_KEYS:
            if getattr(table, key) is not None:
                other = "frame" if lines else "line"
                text = f'found it with kind = "{table.kind}", expected it with kind = "{other}"'
                self._complain(key, text)
        if lines and (table.pattern is None) == (table.separator is None):
            found = "nothing" if table.pattern is None else "pattern and separator"
            text = f'found {found}, expected one of pattern = "…" and separator = "…"'
            self._complain("pattern", text)
        if not lines and table.start is None:
            text = 'found nothing, expected the first bytes of a frame such as "AA 55"'
            self._complain("start", text)
        if not lines and (table.length is None) == (table.length_at is None):
            found = "nothing" if table.length is None else "length and length_at"
            text = f"found {found}, expected one of length = 16 and length_at = {{ at = 2 }}"
            self._complain("length", text)
        if not lines and table.checksum == NMEA:
            offered = ", ".join(f'"{name}"' for name in CHECKSUMS if name != NMEA)
            self._complain("checksum", f'found "nmea", expected one of {offered} for a frame')
        if table.echo and table.request is None:
            text = "found true without a request, expected it where something is sent"
            self._complain("echo", text)
        self._check_status()

    def _check_status(self) -> None:
        status = self._table.status
        if status is None:
            return
        wanted, other = ("field", "at") if self._table.kind == "line" else ("at", "field")
        if getattr(status, wanted) is None:
            self._complain(f"status.{wanted}", "found nothing, expected where the status stands")
        if getattr(status, other) is not None:
            text = f'found it with kind = "{self._table.kind}", expected {wanted}'
            self._complain(f"status.{other}", text)
        if not status.good:
            self._complain("status.good", "found [], expected the texts of a good value")
        if self._table.kind == "frame":
            for key in ("good", "uncertain"):
                if not all(re.fullmatch("[0-9A-Fa-f]{2}", text) for text in getattr(status, key)):
                    self._complain(f"status.{key}", 'expected bytes such as "00"')

    def _delimiter(self) -> bytes:
        text = DELIMITER if self._table.delimiter is None else self._table.delimiter
        raw = text.encode("latin-1", "replace")
        if not 1 <= len(raw) <= DELIMITER_BYTES_MAX:
            said = f"found {len(raw)} characters, expected 1 to {DELIMITER_BYTES_MAX}"
            self._complain("delimiter", said)
        return raw or b"\n"

    def _lines(self) -> None:
        table = self._table
        if table.separator is not None and not 1 <= len(table.separator) <= DELIMITER_BYTES_MAX:
            said = f"found {len(table.separator)} characters, expected 1 to {DELIMITER_BYTES_MAX}"
            self._complain("separator", said)
        if table.pattern is None:
            return
        station = re.escape(self._station_text())
        try:
            self._pattern = compile_pattern(
                table.pattern.replace(STATION, station), "protocol.pattern"
            )
        except PointError as error:
            self._errors.append(error)
            return
        status = table.status
        names = frozenset((*self._pattern.groupindex, *range(1, self._pattern.groups + 1)))
        if status is not None and status.field is not None and status.field not in names:
            offered = ", ".join(map(str, self._pattern.groupindex)) or "no named group"
            text = f"found {status.field!r}, expected a group of the pattern ({offered})"
            self._complain("status.field", text)

    def _length(self, start: bytes, checksum: Checksum | None) -> tuple[int | LengthField, int]:
        """(the length or where it stands, the least that it can be)."""
        table, width = self._table, checksum.width if checksum is not None else 0
        least = len(start) + width + 1
        at = table.length_at
        if at is None:
            length = table.length or least
            if length < least:
                text = f"found {length}, expected {least} or more: start, one byte, checksum"
                self._complain("length", text)
            return length, length
        if at.at < len(start):
            text = f"found {at.at}, expected {len(start)} or more: behind the start"
            self._complain("length_at.at", text)
        wide = _length_field(at)
        return wide, max(least, at.at + wide.width + width)

    def _request(self, text: str, checksum: Checksum | None) -> bytes:
        """The bytes to send."""
        body, mark, tail = text.partition(CHECKSUM)
        if mark and checksum is None:
            self._complain("request", f"found {CHECKSUM} without a checksum, expected checksum")
            return b""
        if self._table.kind == "frame":
            raw, end = self._hex("request", body), self._hex("request", tail) if tail else b""
            added = checksum.packed(raw) if mark and checksum is not None else b""
        else:
            raw, end = self._text(body), self._text(tail)
            named = checksum is not None and checksum.name == NMEA
            over = raw.removesuffix(b"*")[1:] if named else raw
            added = checksum.written(over) if mark and checksum is not None else b""
        sent = raw + added + end
        if not 1 <= len(sent) <= REQUEST_BYTES_MAX:
            said = f"found {len(sent)} bytes, expected 1 to {REQUEST_BYTES_MAX}"
            self._complain("request", said)
        return sent

    def _text(self, text: str) -> bytes:
        try:
            return text.replace(STATION, self._station_text()).encode("latin-1")
        except UnicodeEncodeError:
            self._complain("request", "found characters beyond Latin-1, expected none")
            return b""

    def _hex(self, key: str, text: str) -> bytes:
        station = self._station_text()
        try:
            raw = bytes.fromhex(text.replace(STATION, station))
        except ValueError:
            raw = b""
            if STATION in text and not _is_byte(station):
                if not any(error.key == "station" for error in self._errors):
                    said = f'found "{station}", expected a byte such as "0A" or 10'
                    self._complain("station", said)
                return b"\0"
        if not raw:
            said = f'found "{text}", expected hexadecimal bytes such as "AA 55"'
            self._complain(key, said)
        return raw or b"\0"

    def _station_text(self) -> str:
        """The station as it stands in a line, or as the two digits of a byte."""
        if self._station is None:
            return "00"  # told by _check_station
        if isinstance(self._station, int):
            return f"{self._station:02X}" if self._table.kind == "frame" else str(self._station)
        return self._station

    def _check_station(self) -> None:
        table = self._table
        places = [text for text in (table.request, table.pattern, table.start) if text]
        used = any(STATION in text for text in places)
        if used and self._station is None:
            text = f"found nothing, expected the device's address: the protocol has {STATION}"
            self._complain("station", text)
        elif self._station is not None and not used:
            text = f"found it, but the protocol has no {STATION}, expected it in request or pattern"
            self._complain("station", text)
        elif self._station is not None and _STATION.fullmatch(self._station_text()) is None:
            self._complain("station", "expected 1 to 16 characters without blanks")


def _length_field(table: LengthAt) -> LengthField:
    width = 1 if table.type == "uint8" else 2
    return LengthField(table.at, width, table.order in _LITTLE, table.add)


def _is_byte(text: str) -> bool:
    return re.fullmatch("[0-9A-Fa-f]{2}", text) is not None
