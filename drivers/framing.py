"""Bytes as they arrive -> lines and frames, in step again after noise, at a bounded cost.

A framer gives the same frames however the bytes are cut into pieces. What is no frame is counted
by kind and dropped; each byte is looked at a bounded number of times.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from drivers.checksums import NMEA, Checksum

LINE_BYTES_MAX: Final = 512
FRAME_BYTES_MAX: Final = 1_024
_TRIES: Final = 8  # checksums per byte, in the mean: a stream of nothing but starts costs no more
_PRINTABLE: Final = frozenset((*range(0x20, 0x7F), *range(0x80, 0x100), 0x02, 0x03, 0x09))
_SENTENCE_STARTS: Final = b"$!"
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class Framer(Protocol):
    """Cuts one stream. ``counts``: noise (runs of it), bad_checksum, too_long, line_error."""

    counts: Counter[str]
    pause_s: float  # longer than any instrument's within a line or frame

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that these bytes complete, checked, without delimiter and checksum."""

    def spoil(self) -> None:
        """The line marked an error here: what is under way is no frame."""

    def pause(self) -> Iterator[bytes]:
        """Nothing came for ``pause_s``: what is under way ends here, or is damaged.

        Frames that stand within what only seemed to be one.
        """

    def restart(self) -> None:
        """Forget what is under way, in order (before a request)."""


@dataclass(frozen=True, slots=True)
class LengthField:
    """A frame's length within it: ``width`` bytes at ``at``, to which ``add`` is added."""

    at: int
    width: int
    little: bool
    add: int

    def of(self, frame: bytes, start: int) -> int | None:
        """Bytes of the whole frame that begins at ``start``; None while that is not yet known."""
        begin = start + self.at
        if len(frame) < begin + self.width:
            return None
        number = frame[begin : begin + self.width]
        return int.from_bytes(number, "little" if self.little else "big") + self.add


class LineFramer:
    """Lines that end with ``delimiter``.

    ``joining``: the stream is joined at any place, so that its first line is no whole one.
    """

    pause_s = 0.5

    def __init__(self, delimiter: bytes, checksum: Checksum | None, *, joining: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._delimiter = delimiter
        self._checksum = checksum
        self._joining = joining
        self._buffer = b""
        self._skipping = joining

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that these bytes complete."""
        *lines, rest = (self._buffer + data).split(self._delimiter)
        self._buffer = b""
        for line in lines:
            skipped, self._skipping = self._skipping, False
            if not skipped:
                taken = self._taken(line)
                if taken:
                    yield taken
        self._keep(rest)

    def spoil(self) -> None:
        """Skip to the next delimiter."""
        self.counts["line_error"] += 1
        self._buffer = b""
        self._skipping = True

    def pause(self) -> Iterator[bytes]:
        """A line without a checksum that pauses was torn: what follows is not its end."""
        if self._buffer and self._checksum is None and not self._skipping:
            self.counts["noise"] += 1
            self._buffer = b""
            self._skipping = True
        return iter(())

    def restart(self) -> None:
        """Forget the line under way."""
        self._buffer = b""
        self._skipping = self._joining

    def _keep(self, rest: bytes) -> None:
        """What may become a line; of one that is too long only what may begin a delimiter."""
        if len(rest) > LINE_BYTES_MAX + len(self._delimiter):
            if not self._skipping:
                self.counts["too_long"] += 1
            self._skipping = True
        if self._skipping:
            rest = rest[1 - len(self._delimiter) :] if len(self._delimiter) > 1 else b""
        self._buffer = rest

    def _taken(self, line: bytes) -> bytes | None:
        if len(line) > LINE_BYTES_MAX:
            self.counts["too_long"] += 1
            return None
        line = line.strip(b"\r\n")  # of instruments that send more of them than the delimiter
        if not line:
            return None
        if self._checksum is not None and self._checksum.name == NMEA:
            # Of two starts the second may be a damaged byte: what follows it would be checked
            # alone, and by fewer bits than the whole.
            starts = line.count(b"$") + line.count(b"!")
            line = line[max(line.find(b"$"), line.find(b"!")) :] if starts == 1 else b"\0"
        if not _PRINTABLE.issuperset(line):
            self.counts["noise"] += 1
            return None
        return line if self._checksum is None else self._checked(line, self._checksum)

    def _checked(self, line: bytes, checksum: Checksum) -> bytes | None:
        """The line without its checksum, None where that is wrong."""
        digits = 2 * checksum.width
        body, told = line[:-digits], line[-digits:]
        good = len(told) == digits and _HEX.issuperset(told)
        if good and checksum.name == NMEA:
            good = body[:1] in _SENTENCE_STARTS and body[-1:] == b"*"
            good = good and int(told, 16) == checksum.value(body[1:-1])
            body = body[:-1]
        elif good:
            good = int(told, 16) == checksum.value(body)
        if not good or not body:
            self.counts["bad_checksum"] += 1
            return None
        return body


class BinaryFramer:
    """Frames of ``length`` bytes (or as long as they say) from ``start`` to their checksum.

    ``least`` is the shortest frame that can be one, with start and checksum.
    """

    pause_s = 0.1

    def __init__(
        self, start: bytes, length: int | LengthField, least: int, checksum: Checksum | None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._start = start
        self._length = length
        self._least = least
        self._checksum = checksum
        self._buffer = b""
        self._noisy = False  # the newest bytes were noise: one run of it is counted once
        self._credit = _TRIES * FRAME_BYTES_MAX

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that these bytes complete."""
        buffer, at = self._buffer + data, 0
        while True:
            at = self._seek(buffer, at)
            length = self._length_of(buffer, at)
            if length is None:
                break
            if not self._least <= length <= FRAME_BYTES_MAX:
                at = self._drop(at, 1)
                continue
            if len(buffer) - at < length:
                break
            frame = buffer[at : at + length]
            taken = self._checked(frame)
            if taken is None:
                at = self._drop(at, self._step(length))
            else:
                self._noisy = False
                at += length
                self._earn(length)
                yield taken
        self._buffer = buffer[at:]

    def spoil(self) -> None:
        """What came of a frame is dropped."""
        self.counts["line_error"] += 1
        self._buffer = b""

    def pause(self) -> Iterator[bytes]:
        """Look for frames within the one that did not come to its end."""
        while self._buffer:
            rest, self._buffer = self._buffer, b""
            self._drop(0, 1)
            if self._checksum is not None:
                yield from self.feed(rest[1:])

    def restart(self) -> None:
        """Forget the frame under way."""
        self._buffer = b""
        self._noisy = False

    def _seek(self, buffer: bytes, at: int) -> int:
        """The next place where a frame may begin."""
        found = buffer.find(self._start, at)
        if found < 0:
            found = len(buffer)
            for kept in range(min(len(self._start) - 1, found - at), 0, -1):
                if self._start.startswith(buffer[found - kept :]):
                    found -= kept
                    break
        return self._drop(at, found - at)

    def _length_of(self, buffer: bytes, at: int) -> int | None:
        if len(buffer) - at < len(self._start):
            return None
        if isinstance(self._length, int):
            return self._length
        return self._length.of(buffer, at)

    def _checked(self, frame: bytes) -> bytes | None:
        checksum = self._checksum
        if checksum is None:
            return frame
        self._credit -= len(frame)
        body = frame[: -checksum.width]
        if frame[-checksum.width :] == checksum.packed(body):
            return body
        self.counts["bad_checksum"] += 1
        self._noisy = True  # counted by now
        return None

    def _step(self, length: int) -> int:
        """How far to go on after a wrong checksum: by a byte, while that stays cheap."""
        return 1 if self._credit > 0 else length

    def _drop(self, at: int, count: int) -> int:
        """Leave these bytes behind as noise."""
        if count > 0:
            if not self._noisy:
                self.counts["noise"] += 1
            self._noisy = True
            self._earn(count)
        return at + count

    def _earn(self, count: int) -> None:
        self._credit = min(self._credit + _TRIES * count, _TRIES * FRAME_BYTES_MAX)
