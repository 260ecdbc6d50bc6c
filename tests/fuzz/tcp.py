"""Modbus TCP: a stream of any bytes is cut into frames, and only the very reply is good.

Input: the number of a request, then what comes from the device.
"""

import struct
from collections.abc import Iterator

from fastpath import modbus
from fastpath.codes import Refusal

MAX_BYTES = 700
TID = 0x1234
UNIT = 7
REQUESTS = (
    *(modbus.read_frame(TID, UNIT, fc, 100, n) for fc in (1, 2, 3, 4) for n in (1, 9, 125)),
    modbus.read_frame(TID, UNIT, 1, 0, 2000),
    modbus.write_frame(TID, UNIT, 5, 16, [1]),
    modbus.write_frame(TID, UNIT, 6, 16, [513]),
    modbus.write_frame(TID, UNIT, 15, 16, [1, 0, 1]),
    modbus.write_frame(TID, UNIT, 16, 16, [1, 2, 3]),
)


def run(data: bytes) -> int:
    """Cut and check; held against what a frame and a reply are, read off their definition."""
    request = REQUESTS[data[0] % len(REQUESTS)] if data else REQUESTS[0]
    stream = data[1:]
    code = 0
    while stream:
        length = modbus.whole_frame(stream)
        assert length == _whole(stream)
        for have in range(0, min(len(stream), 12)):  # however it dribbles in
            early = modbus.whole_frame(stream[:have])
            assert early in {0, length} or (early == length > 0)
        if length <= 0:
            return 200 - length
        frame, stream = stream[:length], stream[length:]
        code, exception = modbus.reply_code(frame, request)
        assert (code == modbus.REPLY_GOOD) == _is_good(frame, request)
        assert (exception != 0) <= (frame[7] == request[7] | 0x80 and length == 9)
    modbus.reply_code(data, request)  # also what nobody cut
    return code


def _whole(data: bytes) -> int:
    """The length of the first frame, 0: more is needed, negative: none."""
    if len(data) >= 4 and data[2:4] != b"\0\0":
        return -Refusal.PROTOCOL
    if len(data) < 6:
        return 0
    length = int.from_bytes(data[4:6])
    if not 2 <= length <= 254:
        return -Refusal.LENGTH
    return 6 + length if len(data) >= 6 + length else 0


def _is_good(frame: bytes, request: bytes) -> bool:
    if frame[:4] != request[:4] or frame[6:8] != request[6:8] or len(frame) < 9:
        return False
    if request[7] > 4:
        return frame[8:] == request[8:12]
    count = int.from_bytes(request[10:12])
    size = (count + 7) // 8 if request[7] <= 2 else 2 * count
    return frame[8] == size and len(frame) == 9 + size


def good_reply(request: bytes) -> bytes:
    """What a sound device answers."""
    if request[7] > 4:
        pdu = request[7:12]
    else:
        count = int.from_bytes(request[10:12])
        size = (count + 7) // 8 if request[7] <= 2 else 2 * count
        pdu = bytes((request[7], size)) + bytes(range(size % 251)) + bytes(size - size % 251)
    return request[:4] + struct.pack(">H", len(pdu) + 1) + request[6:7] + pdu


def seeds() -> Iterator[bytes]:
    """Good replies, exceptions, two frames in one, a torn one."""
    for number, request in enumerate(REQUESTS):
        reply = good_reply(request)
        if len(reply) > 100:
            continue
        head = bytes((number,))
        yield head + reply
        yield head + request[:4] + b"\0\3" + request[6:7] + bytes((request[7] | 0x80, 2))
        yield head + reply + reply[:-1]
    yield bytes((0,)) + b"HTTP/1.1 400 Bad Request\r\n"
    yield bytes((0,)) + b"\x12\x34\0\0\xff\xff\7\3"
    yield bytes((0,)) + b"\x12\x34\0\0\0\0\7\3"
