"""What was heard on a serial line -> the template or protocol that reads it, ready to paste.

A guess is only made where most of what was heard fits it; a checksum that holds is proof.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeVar

from drivers.checksums import CHECKSUMS, NMEA
from drivers.errors import PointError
from drivers.framing import FRAME_BYTES_MAX, BinaryFramer, Framer, LengthField, LineFramer
from drivers.serial_kind import SERIAL
from drivers.serial_protocol import parse_protocol
from drivers.serial_values import make_values, number_of
from fastpath.codes import Quality
from gateway.site.model import Device, Line, Point
from gateway.site.serial_templates import templates

LEAST: Final = 2  # frames, before anything is said
MOST: Final = 0.8  # of what was heard must fit
DELIMITERS: Final = (b"\r\n", b"\n", b"\r", b"\x03")
SEPARATORS: Final = (b";", b",", b"\t", b"|")
BYTES_MAX: Final = 65_536  # of what was heard that is looked at
_STARTS_MAX: Final = 24
T = TypeVar("T")

_TEXT: Final = frozenset((*range(0x20, 0x7F), *b"\r\n\t\x02\x03"))


@dataclass(frozen=True, slots=True)
class Guess:
    """One way to read the line. ``fits`` is the share of what was heard, 0 to 1."""

    title: str
    fits: float
    frames: int
    settings: tuple[str, ...]  # lines of the device's table
    points: tuple[tuple[str, str, str], ...]  # name, the point's table, newest value in words

    def stanza(self, ident: str, address: str, line: Line) -> str:
        """The tables of a site file."""
        rows = [
            "[[device]]",
            f'id = "{ident}"',
            f'driver = "{SERIAL}"',
            f'address = "{address}"',
            line_text(line),
            *self.settings,
        ]
        for name, point, newest in self.points:
            rows += ["", "[[tag]]", f'id = "{ident}.{name}"', f'device = "{ident}"']
            rows += [f"point = {point}  # {newest}" if newest else f"point = {point}"]
        return "\n".join(rows) + "\n"


def line_text(line: Line) -> str:
    """How a line is set, as a site file has it."""
    parts = [f"baud = {line.baud}"]
    parts += [f"bits = {line.bits}"] if line.bits != 8 else []
    parts += [f'parity = "{line.parity}"'] if line.parity != "none" else []
    parts += [f"stop = {line.stop}"] if line.stop != 1 else []
    return f"line = {{ {', '.join(parts)} }}"


def guess(heard: bytes) -> Guess | None:
    """The best way to read what was heard; None where nothing fits most of it."""
    heard = heard[-BYTES_MAX:]
    found = [*_by_templates(heard), *_lines(heard)] or list(_frames(heard))
    return max(found, key=lambda one: one.fits, default=None)


# ---- templates


def _by_templates(heard: bytes) -> Iterator[Guess]:
    """Instruments that are known, and send by themselves."""
    for name, template in templates().items():
        if template.protocol.request is not None:
            continue
        device = Device(
            id="guess",
            driver=SERIAL,
            address="/dev/null",
            protocol=template.protocol,
            fields=template.fields,
        )
        points = [(Point(field=field.name), None) for field in template.fields]
        try:
            protocol = parse_protocol(device)
            values = make_values(device, protocol, points)
        except (PointError, ExceptionGroup):
            continue
        newest: dict[int, str] = {}
        frames = list(protocol.framer().feed(heard))
        read = [found for frame in frames if (found := values.read(frame)) is not None]
        if len(read) < LEAST:
            continue
        for number, (value, quality, _) in (pair for found in read for pair in found):
            unit = template.fields[number].unit
            newest[number] = f"{value:.6g} {unit}" if quality != Quality.BAD else "bad"
        shown = tuple(
            (template.fields[n].name, f'{{ field = "{template.fields[n].name}" }}', newest[n])
            for n in sorted(newest)
        )
        yield Guess(
            title=template.description,
            fits=1.0 + len(read),  # what is known goes before what is guessed
            frames=len(read),
            settings=(f'template = "{name}"',),
            points=shown,
        )


# ---- lines


def _lines(heard: bytes) -> Iterator[Guess]:
    text = sum(byte in _TEXT for byte in heard)
    if not heard or text < MOST * len(heard):
        return
    counts = [(heard.count(delimiter), delimiter) for delimiter in DELIMITERS]
    count, delimiter = next(((n, d) for n, d in counts if n >= LEAST + 1), (0, b""))
    if not count:
        return
    for name in (*CHECKSUMS, None):
        checksum = CHECKSUMS[name] if name is not None else None
        lines = list(LineFramer(delimiter, checksum, joining=True).feed(heard))
        if len(lines) >= max(LEAST, MOST * (count - 1)):
            found = _fields(lines, delimiter, name)
            if found is not None:
                yield replace(found, fits=found.fits * len(lines) / (count - 1))
            return


def _fields(lines: list[bytes], delimiter: bytes, checksum: str | None) -> Guess | None:
    """Lines of the commonest form: its numbers by place, or by a pattern."""
    separator = _separator(lines)
    end = "" if delimiter == b"\r\n" else f'delimiter = "{_escaped(delimiter)}", '
    sums = f', checksum = "{checksum}"' if checksum is not None else ""
    if separator is None or checksum == NMEA or lines[-1][:1] in (b"$", b"!"):
        skeleton, share = _commonest([_skeleton(line) for line in lines])
        last = next(line for line in reversed(lines) if _skeleton(line) == skeleton)
        pattern, numbers = _pattern(last)
        points = tuple((f"v{i}", f'{{ field = "v{i}" }}', n) for i, n in enumerate(numbers, 1))
        protocol = f"protocol = {{ kind = \"line\", {end}pattern = '{pattern}'{sums} }}"
    else:
        cells, share = _commonest([line.count(separator) for line in lines])
        last = next(line for line in reversed(lines) if line.count(separator) == cells)
        points = tuple(
            (f"v{i}", f"{{ field = {i} }}", cell.decode("latin-1").strip())
            for i, cell in enumerate(last.split(separator), 1)
            if number_of(cell) is not None
        )
        parted = _escaped(separator)
        protocol = f'protocol = {{ kind = "line", {end}separator = "{parted}"{sums} }}'
    if not points:
        return None
    title = f"lines{f' with {checksum}' if checksum else ''}"
    return Guess(title, share, len(lines), (protocol,), points)


def _separator(lines: list[bytes]) -> bytes | None:
    """What parts most lines into equally many fields."""
    for separator in SEPARATORS:
        cells, share = _commonest([line.count(separator) for line in lines])
        if cells and share >= MOST:
            return separator
    return None


_NUMBER: Final = re.compile(rb"[+-]? *[0-9]+(?:\.[0-9]*)?")


def _skeleton(line: bytes) -> bytes:
    """A line without its numbers; of a sentence only what it is."""
    if line[:1] in (b"$", b"!"):
        return line.split(b",")[0] + b",%d" % line.count(b",")
    return _NUMBER.sub(b"0", line)


def _pattern(line: bytes) -> tuple[str, list[str]]:
    """(a pattern of lines like this one, their numbers now)."""
    numbers: list[str] = []
    parts: list[str] = []

    def number(cell: bytes) -> str:
        numbers.append(cell.decode("latin-1").strip())
        return f"(?P<v{len(numbers)}>[-+0-9. ]*)"

    if line[:1] in (b"$", b"!"):
        head, *cells = line.split(b",")
        parts = [_literally(head)]
        parts += [number(cell) if number_of(cell) is not None else "[^,]*" for cell in cells]
        return ",".join(parts), numbers
    at = 0
    for match in _NUMBER.finditer(line):
        parts += [_literally(line[at : match.start()]), number(match[0])]
        at = match.end()
    return "".join([*parts, _literally(line[at:])]), numbers


def _literally(raw: bytes) -> str:
    """As a part of a pattern in single quotes, which TOML takes as it stands: no control codes."""
    return "".join(
        re.escape(chr(byte)) if 0x20 <= byte < 0x7F and byte != 0x27 else f"\\x{byte:02x}"
        for byte in raw
    )


# ---- frames


def _frames(heard: bytes) -> Iterator[Guess]:
    """Frames that begin alike and whose checksum holds."""
    for start, places in _starts(heard):
        spans = [following - place for place, following in pairwise(places)]
        for length in _lengths(heard, places, spans):
            for name, checksum in CHECKSUMS.items():
                if name == NMEA:
                    continue
                least = len(start) + 1 + checksum.width
                framer: Framer = BinaryFramer(start, length, least, checksum)
                frames = list(framer.feed(heard))
                size = sum(len(frame) + checksum.width for frame in frames)
                # Eight bits hold by chance once in 256 tries, and there are many tries.
                if len(frames) < LEAST + 3 or size < MOST * (len(heard) - FRAME_BYTES_MAX // 8):
                    continue
                sized = _length_text(length)
                text = (
                    f'protocol = {{ kind = "frame", start = "{start.hex(" ").upper()}", '
                    f'{sized}, checksum = "{name}" }}'
                )
                points = _moving(frames, len(start))
                title = f"frames with {name}"
                yield Guess(title, size / len(heard), len(frames), (text,), points)
                return


def _starts(heard: bytes) -> Iterator[tuple[bytes, list[int]]]:
    """Pairs of bytes that come often, the commonest first, with their places."""
    pairs = Counter(heard[i : i + 2] for i in range(len(heard) - 1))
    for start, _ in pairs.most_common(_STARTS_MAX):
        places = [match.start() for match in re.finditer(re.escape(start), heard)]
        if len(places) > LEAST:
            yield start, places


def _lengths(heard: bytes, places: Sequence[int], spans: list[int]) -> Iterator[int | LengthField]:
    """How long the frames may be: all alike, or as a byte of theirs says."""
    for span, count in Counter(spans).most_common(2):
        if count >= LEAST and 4 <= span <= FRAME_BYTES_MAX:
            yield span
    for at in range(2, 6):
        told = [
            (heard[place + at], span) for place, span in zip(places, spans, strict=False)
            if place + at < len(heard)
        ]  # fmt: skip
        added, share = _commonest([span - number for number, span in told])
        if share >= 0.5 and -255 <= added <= 255 and len({span for _, span in told}) > 1:
            yield LengthField(at, 1, little=False, add=added)


def _length_text(length: int | LengthField) -> str:
    if isinstance(length, int):
        return f"length = {length}"
    added = f", add = {length.add}" if length.add else ""
    return f"length_at = {{ at = {length.at}{added} }}"


def _moving(frames: list[bytes], first: int) -> tuple[tuple[str, str, str], ...]:
    """Pairs of bytes that are not always the same: perhaps values; people know which."""
    shortest = min(map(len, frames))
    points = []
    for at in range(first, shortest - 1, 2):
        if len({frame[at : at + 2] for frame in frames}) > 1:
            newest = int.from_bytes(frames[-1][at : at + 2])
            points.append((f"at{at}", f'{{ at = {at}, type = "uint16" }}', str(newest)))
    return tuple(points)


def _commonest(items: list[T]) -> tuple[T, float]:
    [(item, count)] = Counter(items).most_common(1)
    return item, count / len(items)


def _escaped(raw: bytes) -> str:
    """As a TOML text in double quotes."""
    named = {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\"}
    return "".join(
        named.get(byte, chr(byte) if 0x20 <= byte < 0x7F else f"\\u{byte:04x}") for byte in raw
    )
