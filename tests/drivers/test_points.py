"""Points: what a site file may say of a place in a device, and how values become registers."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import PointError, RequestError
from drivers.points import (
    Area,
    decode_fields,
    encode_registers,
    parse_address,
    parse_point,
    reorder,
)
from fastpath.codes import ByteOrder, PointType, Quality, Reason
from fastpath.decode import Decoder

LAYOUTS = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
    "float32": "f", "float64": "d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "base", "area", "number", "bit"),
    [
        ("hr:0", 0, Area.HOLDING_REGISTER, 0, None),
        ("ir:65535", 0, Area.INPUT_REGISTER, 65535, None),
        ("ir:0x64", 0, Area.INPUT_REGISTER, 100, None),
        ("c:16", 0, Area.COIL, 16, None),
        ("di:1", 1, Area.DISCRETE_INPUT, 0, None),
        ("hr:65536", 1, Area.HOLDING_REGISTER, 65535, None),
        ("hr:5.3", 0, Area.HOLDING_REGISTER, 5, 3),
        ("ir:0x0A.15", 0, Area.INPUT_REGISTER, 10, 15),
    ],
)
def test_addresses(text: str, base: int, area: Area, number: int, bit: int | None) -> None:
    address = parse_address(text, base=base)
    assert (address.area, address.number, address.bit) == (area, number, bit)


@pytest.mark.parametrize(
    ("text", "base", "says"),
    [
        ("", 0, "expected an address such as"),
        ("hr", 0, "expected an address such as"),
        ("hr:-1", 0, "expected an address such as"),
        ("hr:" + "9" * 5000, 0, "expected an address such as"),
        ("HR:1", 0, "expected an address such as"),
        ("hr:65536", 0, "from 0 to 65535"),
        ("hr:0", 1, "from 1 to 65536"),
        ("c:5.1", 0, "a bit is taken of ir: and hr: only"),
        ("hr:5.16", 0, "a bit from 0 to 15"),
        ("40101", 0, 'did you mean "hr:100"'),
        ("300001", 0, 'did you mean "ir:0"'),
    ],
)
def test_wrong_addresses(text: str, base: int, says: str) -> None:
    with pytest.raises(PointError, match="found") as caught:
        parse_address(text, base=base)
    assert says in str(caught.value)
    assert caught.value.key == "address"


def test_types_by_default() -> None:
    assert parse_point("hr:1").type is PointType.UINT16
    assert parse_point("c:1").type is PointType.BOOL
    assert parse_point("di:1", "bool").type is PointType.BOOL
    assert parse_point("ir:1.2").type is PointType.BIT
    assert parse_point("ir:1", "float64").width == 4
    assert parse_point("hr:1", default_order="CDAB").order is ByteOrder.CDAB
    assert parse_point("hr:1", order="BADC", default_order="CDAB").order is ByteOrder.BADC


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"address": "hr:1", "type_name": "float"}, "type"),
        ({"address": "hr:1", "type_name": "text"}, "length"),
        ({"address": "hr:1", "type_name": "bool"}, "type"),
        ({"address": "c:1", "type_name": "uint16"}, "type"),
        ({"address": "hr:1.2", "type_name": "uint16"}, "type"),
        ({"address": "hr:65535", "type_name": "int32"}, "address"),
        ({"address": "hr:65533", "type_name": "float64"}, "address"),
        ({"address": "hr:1", "order": "ACBD"}, "order"),
        ({"address": "hr:1", "scale": 0.0}, "scale"),
        ({"address": "hr:1", "scale": math.inf}, "scale"),
        ({"address": "hr:1", "offset": math.nan}, "offset"),
        ({"address": "di:1", "scale": 2.0}, "scale"),
        ({"address": "hr:1.0", "offset": 1.0}, "offset"),
        ({"address": "hr:1", "limits": (4.0, 0.0)}, "range"),
        ({"address": "hr:1", "limits": (0.0, math.inf)}, "range"),
    ],
)
def test_wrong_points(fields: dict[str, object], key: str) -> None:
    with pytest.raises(PointError) as caught:
        parse_point(**fields)  # type: ignore[arg-type]
    assert caught.value.key == key


@pytest.mark.parametrize("order", list(ByteOrder))
def test_reorder_is_its_own_inverse(order: ByteOrder) -> None:
    data = bytes(range(8))
    assert reorder(reorder(data, order), order) == data


def test_reorder_as_the_names_say() -> None:
    assert reorder(b"AB", ByteOrder.BADC) == reorder(b"AB", ByteOrder.DCBA) == b"BA"
    assert reorder(b"AB", ByteOrder.CDAB) == b"AB"
    assert [reorder(b"ABCD", order).decode() for order in ByteOrder] == [
        order.name for order in ByteOrder
    ]
    assert reorder(b"ABCDEFGH", ByteOrder.CDAB) == b"GHEFCDAB"
    assert reorder(b"ABCDEFGH", ByteOrder.DCBA) == b"HGFEDCBA"
    assert reorder(b"ABCDEFGH", ByteOrder.BADC) == b"BADCFEHG"


@pytest.mark.parametrize("order", [order.name for order in ByteOrder])
@pytest.mark.parametrize("type_name", list(LAYOUTS))
@settings(deadline=None)
@given(data=st.data())
def test_what_is_written_reads_the_same(type_name: str, order: str, data: st.DataObject) -> None:
    """Values through our registers and the compiled decoder, against struct alone."""
    layout = LAYOUTS[type_name]
    raw = data.draw(st.binary(min_size=struct.calcsize(layout), max_size=struct.calcsize(layout)))
    value = struct.unpack(">" + layout, raw)[0]
    point = parse_point("hr:7", type_name, order)
    decoder = Decoder(decode_fields([(point, 0)]))
    ((got, quality, reason),) = decoder.registers(reorder(raw, point.order))
    if isinstance(value, float) and not math.isfinite(value):
        assert (quality, reason) == (Quality.BAD, Reason.NOT_A_NUMBER)
        return
    exact = not isinstance(value, int) or abs(value) <= 2**53
    assert got == float(value)
    assert (quality, reason) == (
        (Quality.GOOD, 0) if exact else (Quality.UNCERTAIN, Reason.PRECISION)
    )
    if exact:
        wire = struct.pack(f">{point.width}H", *encode_registers(point, float(value)))
        assert wire == reorder(raw, point.order)


def test_scaled_values_are_written_as_raw_ones() -> None:
    point = parse_point("hr:7", "int16", scale=0.1, offset=-40.0)
    assert encode_registers(point, 10.0) == [500]
    assert encode_registers(point, -50.0) == [65436]


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("uint16", -1.0), ("uint16", 65536.0), ("int16", 1.5), ("int16", math.nan),
        ("float32", 1e300), ("uint64", 2.0**64), ("float32", math.inf), ("int32", 1234567.5),
    ],
)  # fmt: skip
def test_values_that_a_point_cannot_hold(type_name: str, value: float) -> None:
    with pytest.raises(RequestError, match="hr:7"):
        encode_registers(parse_point("hr:7", type_name), value)


def test_a_text_is_not_written_as_a_number() -> None:
    with pytest.raises(RequestError, match="hr:7"):
        encode_registers(parse_point("hr:7", "text", length=4), 1.0)


@pytest.mark.parametrize("address", ["hr:7.1", "ir:7"])
def test_places_that_cannot_be_written(address: str) -> None:
    with pytest.raises(RequestError):
        encode_registers(parse_point(address), 1.0)
