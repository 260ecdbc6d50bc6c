"""Native Modbus frames, held against pymodbus's codec and against every kind of wrong reply."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU, bit_message, register_message

from fastpath import modbus
from fastpath.codes import Refusal

tids = st.integers(1, 0xFFFF)
units = st.integers(0, 255)
addresses = st.integers(0, 0xFFFF)

READ_REQUESTS: dict[int, type[ModbusPDU]] = {
    1: bit_message.ReadCoilsRequest,
    2: bit_message.ReadDiscreteInputsRequest,
    3: register_message.ReadHoldingRegistersRequest,
    4: register_message.ReadInputRegistersRequest,
}
READ_REPLIES: dict[int, type[ModbusPDU]] = {
    1: bit_message.ReadCoilsResponse,
    2: bit_message.ReadDiscreteInputsResponse,
    3: register_message.ReadHoldingRegistersResponse,
    4: register_message.ReadInputRegistersResponse,
}


def peer_frame(message: ModbusPDU) -> bytes:
    """The frame as pymodbus makes it."""
    return FramerSocket(DecodePDU(is_server=False)).buildFrame(message)


def refused(reason: Refusal, exception: int = 0) -> tuple[int, int]:
    return modbus.REPLY_REFUSED + reason, exception


GOOD = (modbus.REPLY_GOOD, 0)


def read_reply(fc: int, tid: int, unit: int, count: int) -> bytes:
    values: dict[str, Any] = (
        {"bits": [bool(i % 3) for i in range(count)]}
        if fc <= 2
        else {"registers": list(range(count))}
    )
    return peer_frame(READ_REPLIES[fc](dev_id=unit, transaction_id=tid, **values))


@given(st.sampled_from([1, 2, 3, 4]), tids, units, addresses, st.integers(0, 2100))
def test_reads_are_what_pymodbus_sends(
    fc: int, tid: int, unit: int, address: int, count: int
) -> None:
    most = 2000 if fc <= 2 else 125
    if not 1 <= count <= most or address + count > 0x10000:
        with pytest.raises(ValueError, match="legal"):
            modbus.read_frame(tid, unit, fc, address, count)
        return
    message = READ_REQUESTS[fc](dev_id=unit, transaction_id=tid, address=address, count=count)
    assert modbus.read_frame(tid, unit, fc, address, count) == peer_frame(message)


@given(tids, units, addresses, st.booleans())
def test_one_coil_is_what_pymodbus_sends(tid: int, unit: int, address: int, on: bool) -> None:
    request = modbus.write_frame(tid, unit, 5, address, [on])
    message = bit_message.WriteSingleCoilRequest(
        dev_id=unit, transaction_id=tid, address=address, bits=[on]
    )
    assert request == peer_frame(message)
    assert modbus.reply_code(request, request) == GOOD  # its reply is its echo


@given(tids, units, addresses, st.integers(0, 0xFFFF))
def test_one_register_is_what_pymodbus_sends(tid: int, unit: int, address: int, value: int) -> None:
    request = modbus.write_frame(tid, unit, 6, address, [value])
    message = register_message.WriteSingleRegisterRequest(
        dev_id=unit, transaction_id=tid, address=address, registers=[value]
    )
    assert request == peer_frame(message)
    assert modbus.reply_code(request, request) == GOOD


@given(tids, units, st.integers(0, 60000), st.lists(st.booleans(), min_size=1, max_size=1968))
def test_coils_are_what_pymodbus_sends(
    tid: int, unit: int, address: int, values: list[bool]
) -> None:
    request = modbus.write_frame(tid, unit, 15, address, values)
    message = bit_message.WriteMultipleCoilsRequest(
        dev_id=unit, transaction_id=tid, address=address, bits=values
    )
    reply = bit_message.WriteMultipleCoilsResponse(
        dev_id=unit, transaction_id=tid, address=address, count=len(values)
    )
    assert request == peer_frame(message)
    assert modbus.reply_code(peer_frame(reply), request) == GOOD


@given(
    tids, units, st.integers(0, 60000), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=123)
)
def test_registers_are_what_pymodbus_sends(
    tid: int, unit: int, address: int, values: list[int]
) -> None:
    request = modbus.write_frame(tid, unit, 16, address, values)
    message = register_message.WriteMultipleRegistersRequest(
        dev_id=unit, transaction_id=tid, address=address, registers=values
    )
    reply = register_message.WriteMultipleRegistersResponse(
        dev_id=unit, transaction_id=tid, address=address, count=len(values)
    )
    assert request == peer_frame(message)
    assert modbus.reply_code(peer_frame(reply), request) == GOOD


@pytest.mark.parametrize(
    ("fc", "values"), [(15, [1] * 1969), (16, [1] * 124), (15, []), (16, []), (5, [1, 1]), (7, [1])]
)
def test_writes_beyond_the_limits(fc: int, values: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="legal"):
        modbus.write_frame(1, 1, fc, 0, values)


def test_a_range_that_leaves_the_address_space() -> None:
    assert modbus.write_frame(1, 1, 16, 0xFFFF, [1])
    with pytest.raises(ValueError, match="legal"):
        modbus.write_frame(1, 1, 16, 0xFFFF, [1, 1])


def test_transaction_zero_is_never_sent() -> None:
    with pytest.raises(ValueError, match="legal"):
        modbus.read_frame(0, 1, 3, 0, 1)
    for fc in (5, 6, 15, 16):
        with pytest.raises(ValueError, match="legal"):
            modbus.write_frame(0, 1, fc, 0, [1])


@given(st.sampled_from([1, 2, 3, 4]), tids, units, st.integers(1, 2000))
def test_replies_of_pymodbus_are_good(fc: int, tid: int, unit: int, count: int) -> None:
    count = count if fc <= 2 else 1 + count % 125
    request = modbus.read_frame(tid, unit, fc, 0, count)
    reply = read_reply(fc, tid, unit, count)
    assert modbus.whole_frame(reply) == len(reply)
    assert modbus.reply_code(reply, request) == GOOD


@pytest.mark.parametrize("fc", [1, 2, 3, 4, 5, 6, 15, 16])
@pytest.mark.parametrize(
    ("exception", "reason"),
    [(1, Refusal.EXCEPTION_ADDRESS), (2, Refusal.EXCEPTION_ADDRESS),
     (3, Refusal.EXCEPTION_ADDRESS), (4, Refusal.EXCEPTION_OTHER), (5, Refusal.EXCEPTION_BUSY),
     (6, Refusal.EXCEPTION_BUSY), (7, Refusal.EXCEPTION_OTHER), (10, Refusal.EXCEPTION_GATEWAY),
     (11, Refusal.EXCEPTION_GATEWAY), (0, Refusal.EXCEPTION_OTHER)],
)  # fmt: skip
def test_exceptions_by_class(fc: int, exception: int, reason: Refusal) -> None:
    request = modbus.read_frame(9, 1, fc, 0, 2) if fc <= 4 else modbus.write_frame(9, 1, fc, 0, [1])
    reply = peer_frame(ExceptionResponse(fc, exception, device_id=1, transaction=9))
    assert modbus.reply_code(reply, request) == refused(reason, exception)


WRONG_READS = [
    ("another transaction", 0, b"\0\6", Refusal.TRANSACTION),
    ("another protocol", 2, b"\0\1", Refusal.PROTOCOL),
    ("another unit", 6, b"\2", Refusal.UNIT),
    ("another function", 7, b"\4", Refusal.FUNCTION),
    ("another function's exception", 7, b"\x84", Refusal.FUNCTION),
    ("fewer registers", 8, b"\2", Refusal.BYTE_COUNT),
    ("a length that is not the frame's", 4, b"\0\x09", Refusal.LENGTH),
]


@pytest.mark.parametrize(
    ("at", "bytes_", "reason"), [row[1:] for row in WRONG_READS], ids=[r[0] for r in WRONG_READS]
)
def test_wrong_replies_to_a_read(at: int, bytes_: bytes, reason: Refusal) -> None:
    request = modbus.read_frame(5, 1, 3, 100, 2)
    reply = bytearray(read_reply(3, 5, 1, 2))
    reply[at : at + len(bytes_)] = bytes_
    assert modbus.reply_code(bytes(reply), request) == refused(reason)


def test_a_shorter_reply_with_its_own_byte_count() -> None:
    request = modbus.read_frame(5, 1, 3, 100, 4)
    assert modbus.reply_code(read_reply(3, 5, 1, 1), request) == refused(Refusal.BYTE_COUNT)
    assert modbus.reply_code(read_reply(3, 5, 1, 5), request) == refused(Refusal.BYTE_COUNT)


def test_a_reply_with_bytes_behind_its_data() -> None:
    request = modbus.read_frame(5, 1, 3, 100, 2)
    reply = bytearray(read_reply(3, 5, 1, 2)) + b"\0"
    reply[5] += 1
    assert modbus.reply_code(bytes(reply), request) == refused(Refusal.LENGTH)


@pytest.mark.parametrize("fc", [5, 6, 15, 16])
@pytest.mark.parametrize("at", [8, 9, 10, 11])
def test_a_write_that_is_not_echoed(fc: int, at: int) -> None:
    request = modbus.write_frame(5, 1, fc, 0x1234, [1])
    reply = bytearray(request[:12])
    reply[4:6] = b"\0\6"
    assert modbus.reply_code(bytes(reply), request) == GOOD
    reply[at] ^= 1
    assert modbus.reply_code(bytes(reply), request) == refused(Refusal.ECHO)


def test_an_exception_with_bytes_behind_it() -> None:
    request = modbus.read_frame(5, 1, 3, 100, 2)
    assert modbus.reply_code(b"\0\5\0\0\0\4\1\x83\2\0", request) == refused(Refusal.LENGTH)
    assert modbus.reply_code(b"\0\5\0\0\0\2\1\x83", request) == refused(Refusal.LENGTH)


def test_transaction_zero_is_no_answer_even_to_itself() -> None:
    request = b"\0\0" + modbus.read_frame(5, 1, 3, 100, 2)[2:]
    assert modbus.reply_code(read_reply(3, 0, 1, 2), request) == refused(Refusal.TRANSACTION)


def test_a_write_answered_too_short() -> None:
    request = modbus.write_frame(5, 1, 5, 16, [0])
    reply = bytearray(request[:10])
    reply[5] = 4
    assert modbus.reply_code(bytes(reply), request) == refused(Refusal.LENGTH)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_are_taken_for_a_reply(data: bytes) -> None:
    """Only the reply itself is good, whatever else comes (the odds of drawing it are nil)."""
    request = modbus.read_frame(0xBEEF, 17, 3, 100, 9)
    code, _ = modbus.reply_code(data, request)
    assert code >= modbus.REPLY_REFUSED


@given(st.integers(0, 18), st.integers(1, 255))
def test_a_changed_header_is_never_good(at: int, flip: int) -> None:
    request = modbus.read_frame(0x1234, 1, 4, 100, 5)
    reply = bytearray(read_reply(4, 0x1234, 1, 5))
    reply[at] ^= flip
    assert (modbus.reply_code(bytes(reply), request) == GOOD) == (at >= 9)


@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 125), st.data())
def test_a_stream_is_cut_into_its_frames(fc: int, count: int, data: st.DataObject) -> None:
    first, second = read_reply(fc, 1, 1, count), read_reply(3, 2, 1, 1)
    have = data.draw(st.integers(0, len(first) - 1))
    assert modbus.whole_frame(first[:have]) == 0
    assert modbus.whole_frame(first + second) == len(first)


@pytest.mark.parametrize("length", [0, 1, 255, 0xFFFF])
def test_a_length_that_no_frame_has(length: int) -> None:
    assert modbus.whole_frame(b"\0\1\0\0" + length.to_bytes(2, "big")) == -Refusal.LENGTH


def test_another_protocol_is_seen_before_the_length() -> None:
    assert modbus.whole_frame(b"\0\1\0") == 0
    assert modbus.whole_frame(b"HTTP") == -Refusal.PROTOCOL


@pytest.mark.parametrize(("length", "whole"), [(2, 8), (254, 260)])
def test_the_shortest_and_the_longest_frame(length: int, whole: int) -> None:
    frame = b"\0\1\0\0" + length.to_bytes(2, "big") + bytes(length)
    assert modbus.whole_frame(frame) == whole
