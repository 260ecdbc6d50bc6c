"""Serial instruments: whatever comes, a line or frame is taken only as it came, with its checksum.

Input: the number of an instrument; the size of the pieces; then what comes, of which FF FE stands
for a good line or frame and FF FD for one with a byte damaged.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from drivers.framing import FRAME_BYTES_MAX, LINE_BYTES_MAX
from drivers.serial_protocol import parse_protocol
from drivers.serial_values import Values, make_values
from fastpath.codes import Quality, Reason
from gateway.site.model import Point
from tests.drivers.test_framing import own_checksum
from tests.fuzz.reader import Reader
from tests.helpers.instruments import device_of

MAX_BYTES = 1_200
GOOD = {
    "wind": b"$WIMWV,214.8,R,0.1,K,A*28\r\n",
    "scale": b"ST,GS,+  12.340kg\r\n",
    "gas": b">01,0.52,21.3,OK46\r",
    "logger": bytes.fromhex("AA550E000FA02EE04E200DACFB3E"),
}
KINDS = tuple(GOOD)
GOOD_MARK, DAMAGED_MARK = b"\xff\xfe", b"\xff\xfd"


@cache
def values_of(kind: str) -> Values:
    """Every field of a template."""
    device = device_of(kind, "/dev/x")
    points: list[tuple[Any, None]] = [(Point(field=field.name), None) for field in device.fields]
    return make_values(device, parse_protocol(device), points)


def run(data: bytes) -> int:
    """One stream, in pieces and whole."""
    reader = Reader(data)
    kind = KINDS[reader.number() % len(KINDS)]
    piece, place, change = 1 + reader.number() % 64, reader.number(), 1 + reader.number() % 255
    damaged = bytearray(GOOD[kind])
    damaged[place % len(damaged)] ^= change
    stream = reader.rest().replace(GOOD_MARK, GOOD[kind]).replace(DAMAGED_MARK, bytes(damaged))
    values = values_of(kind)
    whole, cut = values.protocol.framer(), values.protocol.framer()
    frames = list(whole.feed(stream))
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    assert [frame for part in pieces for frame in cut.feed(part)] == frames
    assert cut.counts == whole.counts
    outcome = 0
    for frame in frames:
        _check_frame(values, frame, stream)
        outcome |= _check_values(values, frame)
    return outcome + 16 * min(3, len(frames)) + 64 * sum(map(bool, whole.counts.values()))


def _check_frame(values: Values, frame: bytes, stream: bytes) -> None:
    """It came so, and with the checksum of a second implementation behind it."""
    checksum = values.protocol.checksum
    assert 0 < len(frame) <= max(FRAME_BYTES_MAX, LINE_BYTES_MAX)
    if checksum is None:
        assert frame in stream
        return
    over = frame.removeprefix(b"$").removeprefix(b"!") if checksum.name == "nmea" else frame
    told = own_checksum(checksum.name, over)
    if not values.protocol.of_lines:
        assert frame + told in stream
        return
    star = b"*" if checksum.name == "nmea" else b""
    forms = (told.hex().encode(), told.hex().upper().encode())
    mixed = {bytes((a, b)) for a in b"".join(f[:1] for f in forms) for b in b"".join(
        f[1:] for f in forms)}  # fmt: skip
    assert any(frame + star + form in stream for form in (*forms, *mixed))


def _check_values(values: Values, frame: bytes) -> int:
    """Numbers that are some, reasons for those that are none."""
    found = values.read(frame)
    if found is None:
        return 1
    outcome = 2 if found else 4
    for point, (value, quality, reason) in found:
        assert 0 <= point < values.count
        assert Reason(reason) in Reason
        assert math.isfinite(value) or quality == Quality.BAD
        outcome |= 8 if quality == Quality.BAD else 0
    return outcome


def seeds() -> Iterator[bytes]:
    """Good and damaged ones, states, noise before, between and behind."""
    for number in range(len(KINDS)):
        head = bytes((number, 7, 5, 16))
        yield head + GOOD_MARK * 3
        yield head + b"noise" + GOOD_MARK + DAMAGED_MARK + GOOD_MARK + bytes(255) + GOOD_MARK
    yield bytes((0, 1, 20, 22)) + b"$WIMWV,,R,,M,V*31\r\n$GPGLL,1*2B\r\n" + DAMAGED_MARK
    yield bytes((1, 3, 1, 1)) + b"OL,NT,-------kg\r\nUS,GS,-0.1lb\r\n" + b"x" * 600 + b"\r\n"
    yield bytes((2, 3, 1, 1)) + b">01,,,CAL5E\r>01,1,2,ERR78\r>02,1,2,OK8F\r"
    yield bytes((3, 9, 2, 240)) + DAMAGED_MARK + GOOD_MARK * 2 + b"\xaa\x55\x04\xaa\x55\x05\0\0"
