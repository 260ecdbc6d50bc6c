"""Registers and bits -> value and quality, held against the struct module."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.codes import ByteOrder, PointType, Quality, Reason
from fastpath.decode import Decoder

LAYOUTS = {
    PointType.INT16: "h", PointType.UINT16: "H", PointType.INT32: "i", PointType.UINT32: "I",
    PointType.INT64: "q", PointType.UINT64: "Q", PointType.FLOAT32: "f", PointType.FLOAT64: "d",
}  # fmt: skip
GOOD = (Quality.GOOD, Reason.NEVER_READ)
Point = tuple[int, int, int, int, float, float, float, float, bool]


def point(
    kind: PointType,
    order: ByteOrder = ByteOrder.ABCD,
    *,
    at: int = 0,
    bit: int = 0,
    scale: float = 1.0,
    offset: float = 0.0,
    limits: tuple[float, float] | None = None,
) -> Point:
    low, high = limits or (0.0, 0.0)
    return (at, kind, order, bit, scale, offset, low, high, limits is not None)


def on_the_wire(big_endian: bytes, order: ByteOrder) -> bytes:
    """What a device of that order sends for a big-endian value."""
    words = [big_endian[i : i + 2] for i in range(0, len(big_endian), 2)]
    if order in (ByteOrder.CDAB, ByteOrder.DCBA):
        words.reverse()
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        words = [word[::-1] for word in words]
    return b"".join(words)


def decode(point: Point, payload: bytes) -> tuple[float, int, int]:
    return Decoder([point]).registers(payload)[0]


def test_letters_of_the_orders_mean_what_they_say() -> None:
    value = bytes([0xA, 0xB, 0xC, 0xD])
    assert on_the_wire(value, ByteOrder.BADC) == bytes([0xB, 0xA, 0xD, 0xC])
    assert on_the_wire(value, ByteOrder.CDAB) == bytes([0xC, 0xD, 0xA, 0xB])
    assert on_the_wire(value, ByteOrder.DCBA) == bytes([0xD, 0xC, 0xB, 0xA])


@pytest.mark.parametrize("order", ByteOrder)
@pytest.mark.parametrize("kind", LAYOUTS)
@given(data=st.data())
def test_decodes_as_struct_does(kind: PointType, order: ByteOrder, data: st.DataObject) -> None:
    size = struct.calcsize(LAYOUTS[kind])
    raw = data.draw(st.binary(min_size=size, max_size=size))
    before = data.draw(st.integers(0, 5))
    (expected,) = struct.unpack(">" + LAYOUTS[kind], raw)
    payload = bytes(2 * before) + on_the_wire(raw, order) + b"\xff\xff"
    value, quality, reason = decode(point(kind, order, at=before), payload)
    if not math.isfinite(expected):
        assert math.isnan(value)
        assert (quality, reason) == (Quality.BAD, Reason.NOT_A_NUMBER)
    elif isinstance(expected, int) and abs(expected) > 2**53:
        assert value == float(expected)
        assert (quality, reason) == (Quality.UNCERTAIN, Reason.PRECISION)
    else:
        assert value == expected
        assert (quality, reason) == GOOD


@given(raw=st.integers(0, 0xFFFF), bit=st.integers(0, 15), swapped=st.booleans())
def test_a_bit_of_a_register(raw: int, bit: int, swapped: bool) -> None:
    order = ByteOrder.DCBA if swapped else ByteOrder.CDAB
    payload = on_the_wire(raw.to_bytes(2, "big"), order)
    assert decode(point(PointType.BIT, order, bit=bit), payload) == (float(raw >> bit & 1), *GOOD)


@given(payload=st.binary(min_size=1, max_size=250), data=st.data())
def test_bits_come_least_significant_first(payload: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 8 * len(payload) - 1))
    expected = int.from_bytes(payload, "little") >> at & 1
    assert Decoder([point(PointType.BOOL, at=at)]).bits(payload) == [(float(expected), *GOOD)]


@given(
    raw=st.integers(-(2**15), 2**15 - 1), scale=st.floats(-1e3, 1e3), offset=st.floats(-1e3, 1e3)
)
def test_scale_and_offset(raw: int, scale: float, offset: float) -> None:
    value, quality, _ = decode(
        point(PointType.INT16, scale=scale, offset=offset), struct.pack(">h", raw)
    )
    assert value == raw * scale + offset
    assert quality == Quality.GOOD


@pytest.mark.parametrize(
    ("raw", "reason"), [(-1, Reason.OUT_OF_RANGE), (0, 0), (40, 0), (41, Reason.OUT_OF_RANGE)]
)
def test_range_ends_are_inclusive_and_in_engineering_units(raw: int, reason: Reason) -> None:
    value, quality, why = decode(
        point(PointType.INT16, scale=0.5, offset=10.0, limits=(10.0, 30.0)), struct.pack(">h", raw)
    )
    assert value == raw * 0.5 + 10.0  # kept: people want to see what the device said
    assert (quality, why) == (Quality.BAD if reason else Quality.GOOD, reason)


def test_scaling_into_infinity_is_not_a_number() -> None:
    value, quality, reason = decode(point(PointType.FLOAT64, scale=1e300), struct.pack(">d", 1e300))
    assert math.isnan(value)
    assert (quality, reason) == (Quality.BAD, Reason.NOT_A_NUMBER)


@pytest.mark.parametrize("raw", [2**53, -(2**53), 2**53 + 1, -(2**53) - 1])
def test_integers_are_exact_up_to_two_to_the_53(raw: int) -> None:
    _, quality, _ = decode(point(PointType.INT64), struct.pack(">q", raw))
    assert quality == (Quality.GOOD if abs(raw) <= 2**53 else Quality.UNCERTAIN)


def test_many_points_of_one_reply_in_their_order() -> None:
    payload = struct.pack(">fHd", 1.5, 7, -2.25)
    points = [
        point(PointType.FLOAT64, at=3),
        point(PointType.FLOAT32),
        point(PointType.UINT16, at=2),
    ]
    assert [value for value, _, _ in Decoder(points).registers(payload)] == [-2.25, 1.5, 7.0]


@pytest.mark.parametrize(
    ("kind", "at", "size"),
    [(PointType.FLOAT32, 0, 3), (PointType.FLOAT32, 1, 4), (PointType.UINT16, 0, 0),
     (PointType.INT64, 122, 250), (PointType.BIT, 125, 250)],
)  # fmt: skip
def test_a_point_past_the_end_of_the_payload(kind: PointType, at: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        decode(point(kind, at=at), bytes(size))


def test_a_bit_past_the_end_of_the_payload() -> None:
    with pytest.raises(ValueError, match="outside"):
        Decoder([point(PointType.BOOL, at=8)]).bits(b"\xff")


@pytest.mark.parametrize(
    "wrong",
    [(0, 0, 1, 0), (0, 11, 1, 0), (0, 300, 1, 0), (0, 3, 0, 0), (0, 3, 5, 0), (0, 2, 1, 16),
     (65536, 3, 1, 0), (-1, 3, 1, 0)],
)  # fmt: skip
def test_a_point_that_cannot_be_decoded(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="point 0"):
        Decoder([(*wrong, 1.0, 0.0, 0.0, 0.0, False)])


def test_points_of_the_other_kind_of_reply() -> None:
    with pytest.raises(ValueError, match="kind"):
        Decoder([point(PointType.BOOL)]).registers(b"\0\0")
    with pytest.raises(ValueError, match="kind"):
        Decoder([point(PointType.UINT16)]).bits(b"\0\0")


def test_more_than_a_reply_can_have() -> None:
    with pytest.raises(ValueError, match="251"):
        Decoder([]).registers(bytes(251))
