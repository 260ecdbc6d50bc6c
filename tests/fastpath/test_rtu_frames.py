"""Frames of the serial line: only the very reply is taken, however its bytes were cut."""

import struct
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastpath import modbus, rtu
from fastpath.codes import Refusal
from tests.helpers.serial_device import crc16, framed

UNKNOWN, NO, YES = 0, 1, 2

units = st.integers(1, 247)
addresses = st.integers(0, 60_000)
counts = st.integers(1, 100)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A read or a write, as an MBAP frame."""
    function = draw(st.sampled_from((1, 2, 3, 4, 5, 6, 15, 16)))
    unit, address, count = draw(units), draw(addresses), draw(counts)
    if function <= 4:
        return modbus.read_frame(7, unit, function, address, count)
    if function in {5, 6}:
        return modbus.write_frame(7, unit, function, address, [draw(st.integers(0, 1))])
    values = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return modbus.write_frame(7, unit, function, address, values)


def reply_pdu(request: bytes, fill: bytes) -> bytes:
    """What a device answers, its data repeated from ``fill``."""
    function = request[7]
    if function > 4:
        return request[7:12]
    count = int.from_bytes(request[10:12])
    size = (count + 7) // 8 if function <= 2 else 2 * count
    return bytes((function, size)) + (fill * size)[:size]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


# ---- the check sum -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        ("02 07", "41 12"),  # Modbus over Serial Line V1.02, 6.2.2
        ("01 03 00 00 00 01", "84 0a"),
        ("11 03 00 6b 00 03", "76 87"),
        ("11 06 00 01 00 03", "9a 9b"),
    ],
)
def test_the_crc_of_known_frames(data: str, wire: str) -> None:
    assert struct.pack("<H", rtu.crc(bytes.fromhex(data))) == bytes.fromhex(wire)


def test_the_crc_of_nothing_is_what_it_starts_with() -> None:
    assert rtu.crc(b"") == 0xFFFF


@given(st.binary(max_size=256))
def test_the_crc_is_the_specifications(data: bytes) -> None:
    assert struct.pack("<H", rtu.crc(data)) == crc16(data)


# ---- replies -----------------------------------------------------------------------------------


@given(requests())
def test_a_request_is_its_mbap_form_without_the_head(request: bytes) -> None:
    frame = rtu.rtu_frame(request)
    assert frame == framed(request[7:], request[6])
    assert len(frame) <= rtu.RTU_BYTES_MAX


@given(requests(), st.binary(min_size=1, max_size=9), st.lists(st.integers(0, 260)))
def test_a_good_reply_is_taken_however_it_was_cut(
    request: bytes, fill: bytes, places: list[int]
) -> None:
    pdu = reply_pdu(request, fill)
    frame = framed(pdu, request[6])
    verdict, adu, taken, _ = rtu.reply_of(request, cut(frame, places))
    assert (verdict, taken) == (len(frame), len(frame))
    assert adu[:4] == request[:4]
    assert adu[6:] == request[6:7] + pdu
    assert modbus.reply_code(adu, request)[0] == modbus.REPLY_GOOD


@given(requests(), st.binary(max_size=260))
def test_whatever_is_taken_has_its_crc_its_unit_and_its_function(
    request: bytes, data: bytes
) -> None:
    verdict, adu, _, _ = rtu.reply_of(request, [data])
    if verdict > 0:
        assert crc16(data[: verdict - 2]) == data[verdict - 2 : verdict]
        assert data[0] == request[6]
        assert data[1] & 0x7F == request[7]
        assert modbus.reply_code(adu, request)[0] >= modbus.REPLY_GOOD


@given(
    requests(), st.binary(min_size=1, max_size=9),
    st.sampled_from(("unit", "function", "length", "crc", "bit", "bits")), st.data(),
)  # fmt: skip
def test_a_reply_that_is_not_quite_right_is_never_taken(
    request: bytes, fill: bytes, damage: str, data: st.DataObject
) -> None:
    pdu, unit = reply_pdu(request, fill), request[6]
    if damage == "unit":
        unit = data.draw(units)
        assume(unit != request[6])
    if damage == "function":
        other = data.draw(st.integers(0, 255))
        assume(other & 0x7F != request[7])
        pdu = bytes((other,)) + pdu[1:]
    if damage == "length":
        assume(request[7] <= 4)
        size = data.draw(st.integers(0, 255))
        assume(size != pdu[1])
        pdu = bytes((request[7], size)) + (fill * 255)[:size]
    frame = bytearray(framed(pdu, unit))
    if damage == "crc":
        frame[-1] ^= data.draw(st.integers(1, 255))
    if damage == "bit":
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if damage == "bits":  # a burst of up to 16 bits is always found
        at = data.draw(st.integers(0, len(frame) - 2))
        frame[at] ^= data.draw(st.integers(1, 255))
        frame[at + 1] ^= data.draw(st.integers(0, 255))
    verdict, adu, _, _ = rtu.reply_of(request, [bytes(frame)])
    assert verdict <= 0 or modbus.reply_code(adu, request)[0] > modbus.REPLY_REFUSED


@given(
    requests(), st.binary(max_size=300), st.lists(st.integers(0, 300)),
    st.sampled_from((UNKNOWN, NO, YES)), st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_cut_gives_the_same_result(
    request: bytes, noise: bytes, places: list[int], echo: int, echoed: bool, good: bool
) -> None:
    data = rtu.rtu_frame(request) if echoed else b""
    data += framed(reply_pdu(request, b"\x12\x34"), request[6]) if good else b""
    data += noise
    assert rtu.reply_of(request, cut(data, places), echo) == rtu.reply_of(request, [data], echo)


@given(requests(), st.binary(min_size=1, max_size=9))
def test_an_exception_is_a_reply(request: bytes, fill: bytes) -> None:
    frame = framed(bytes((request[7] | 0x80, fill[0])), request[6])
    verdict, adu, _, _ = rtu.reply_of(request, [frame])
    assert verdict == 5
    code, number = modbus.reply_code(adu, request)
    assert code > modbus.REPLY_REFUSED
    assert number == fill[0]


def test_each_kind_of_refusal() -> None:
    request = modbus.read_frame(1, 9, 3, 100, 2)
    good = framed(bytes((3, 4, 1, 2, 3, 4)), 9)

    def kind(data: bytes) -> Refusal:
        return Refusal(-rtu.reply_of(request, [data])[0])

    assert kind(b"\x08") == Refusal.UNIT
    assert kind(b"\x09\x04") == Refusal.FUNCTION
    assert kind(b"\x09\x03\x06") == Refusal.BYTE_COUNT
    assert kind(good[:-1] + b"\x00") == Refusal.PROTOCOL  # the CRC
    written = modbus.write_frame(1, 9, 6, 100, [7])
    assert -rtu.reply_of(written, [framed(bytes((6, 0, 100, 0, 8)), 9)])[0] == Refusal.ECHO


# ---- a line that echoes ------------------------------------------------------------------------


@given(requests(), st.binary(min_size=1, max_size=9))
def test_an_echo_is_found_and_passed_over(request: bytes, fill: bytes) -> None:
    assume(request[7] not in {5, 6})
    reply = framed(reply_pdu(request, fill), request[6])
    assume(reply != rtu.rtu_frame(request))
    verdict, adu, _, known = rtu.reply_of(request, [rtu.rtu_frame(request) + reply], UNKNOWN)
    assert (verdict, known) == (len(reply), YES)
    assert adu[6:] == reply[:-2]


@given(requests())
def test_an_echo_alone_confirms_nothing(request: bytes) -> None:
    sent = rtu.rtu_frame(request)
    for echo in (UNKNOWN, YES):
        assert rtu.reply_of(request, [sent], echo)[0] <= 0


@pytest.mark.parametrize("function", [5, 6])
def test_a_write_of_one_is_confirmed_by_its_reply_where_nothing_echoes(function: int) -> None:
    request = modbus.write_frame(1, 1, function, 16, [0])
    sent = rtu.rtu_frame(request)
    assert rtu.reply_of(request, [sent], NO)[0] == 8
    assert rtu.reply_of(request, [sent + sent], YES)[0] == 8


def test_an_adapter_that_stops_to_echo_is_learned_anew() -> None:
    request = modbus.read_frame(1, 1, 3, 100, 1)
    reply = framed(bytes((3, 2, 0, 7)), 1)
    verdict, _, _, known = rtu.reply_of(request, [reply], YES)
    assert (verdict, known) == (-Refusal.ECHO, UNKNOWN)
    assert rtu.reply_of(request, [reply], UNKNOWN)[0] == 7


def test_what_is_no_request_of_a_serial_line_is_refused() -> None:
    for data in (b"", bytes(7), bytes(11), modbus.read_frame(1, 1, 3, 0, 1) + bytes(250)):
        with pytest.raises(ValueError, match="serial line"):
            rtu.rtu_frame(data)
