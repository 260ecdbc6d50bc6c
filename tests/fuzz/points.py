"""Points of a reply: value and quality, held against the struct module.

Input: type, order, bit, place, whether there is a range; scale, offset, low, high; the payload.
"""

import math
import struct
from collections.abc import Iterator

from fastpath.codes import ByteOrder, PointType, Quality, Reason
from fastpath.decode import Decoder
from tests.fuzz.reader import Reader

MAX_BYTES = 300
PAYLOAD_BYTES_MAX = 250  # of a reply
POINT = struct.Struct("<BBBHB4d")
LAYOUTS = {
    PointType.INT16: ">h", PointType.UINT16: ">H", PointType.INT32: ">i", PointType.UINT32: ">I",
    PointType.INT64: ">q", PointType.UINT64: ">Q", PointType.FLOAT32: ">f", PointType.FLOAT64: ">d",
}  # fmt: skip
Decoded = tuple[float, int, int]


def run(data: bytes) -> int:
    """Decode one point; refused is what cannot be one."""
    reader = Reader(data.ljust(POINT.size, b"\0"))
    kind, order, bit, at, flags, scale, offset, low, high = POINT.unpack(reader.take(POINT.size))
    payload = reader.take(PAYLOAD_BYTES_MAX)
    point = (at, kind, order, bit, scale, offset, low, high, bool(flags & 1))
    expected = None
    if kind in set(PointType) and order in set(ByteOrder) and bit <= 15:
        raw = _raw(PointType(kind), ByteOrder(order), bit, at, payload)
        if raw is not None:
            exact = not isinstance(raw, int) or abs(raw) <= 2**53
            limits = (low, high) if flags & 1 else None
            expected = _valued(float(raw) * scale + offset, exact, limits)
    try:
        decoder = Decoder([point])
        found = (decoder.bits if kind == PointType.BOOL else decoder.registers)(payload)[0]
    except ValueError:
        assert expected is None, "a sound point was refused"
        return 100
    assert expected is not None, "a point that is none was decoded"
    assert found[1:] == expected[1:]
    assert found[0] == expected[0] or (math.isnan(found[0]) and math.isnan(expected[0]))
    return 32 * found[1] + found[2]


def _raw(
    kind: PointType, order: ByteOrder, bit: int, at: int, payload: bytes
) -> int | float | None:
    if kind == PointType.BOOL:
        return payload[at >> 3] >> (at & 7) & 1 if at >> 3 < len(payload) else None
    layout = LAYOUTS.get(kind, ">H")
    size = struct.calcsize(layout)
    wire = payload[2 * at : 2 * at + size]
    if len(wire) < size:
        return None
    words = [wire[i : i + 2] for i in range(0, size, 2)]
    if order in {ByteOrder.CDAB, ByteOrder.DCBA}:
        words.reverse()
    if order in {ByteOrder.BADC, ByteOrder.DCBA}:
        words = [word[::-1] for word in words]
    raw: int | float = struct.unpack(layout, b"".join(words))[0]
    return int(raw) >> bit & 1 if kind == PointType.BIT else raw


def _valued(value: float, exact: bool, limits: tuple[float, float] | None) -> Decoded:
    if not math.isfinite(value):
        return math.nan, Quality.BAD, Reason.NOT_A_NUMBER
    if limits is not None and not limits[0] <= value <= limits[1]:
        return value, Quality.BAD, Reason.OUT_OF_RANGE
    if not exact:
        return value, Quality.UNCERTAIN, Reason.PRECISION
    return value, Quality.GOOD, Reason.NEVER_READ


def seeds() -> Iterator[bytes]:
    """Each type in each order."""
    payload = struct.pack(">fdHq", 1.5, -2.25, 7, -(2**60)) + b"\xff\xff"
    for kind in PointType:
        for order in ByteOrder if kind in LAYOUTS else (ByteOrder.ABCD,):
            yield POINT.pack(kind, order, 3, kind % 4, 0, 0.5, 10.0, 0.0, 0.0) + payload
    yield POINT.pack(PointType.FLOAT32, ByteOrder.ABCD, 0, 0, 1, 1.0, 0.0, 0.0, 1.0) + payload
    yield POINT.pack(PointType.FLOAT64, ByteOrder.ABCD, 0, 0, 0, 1e300, 0.0, 0.0, 1.0) + bytes(
        (127, 239, 255, 255, 255, 255, 255, 255)
    )
