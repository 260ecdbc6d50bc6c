"""The serial line: whatever stands before, in or behind a reply, only the very reply is taken.

Input: the number of a request; a byte of choices; the size of the pieces; then what comes.
"""

from collections.abc import Iterator

from fastpath import modbus, rtu
from fastpath.codes import Refusal
from tests.fuzz.reader import Reader
from tests.fuzz.tcp import REQUESTS, good_reply
from tests.helpers.serial_device import crc16, framed

MAX_BYTES = 700
RIGHT_CRC = 4  # bits of the choices
WITH_ECHO = 8


def run(data: bytes) -> int:
    """One exchange, in pieces and whole."""
    reader = Reader(data)
    request = REQUESTS[reader.number() % len(REQUESTS)]
    choices, piece = reader.number(), 1 + reader.number() % 64
    echo, came = choices % 3, reader.rest()
    if choices & RIGHT_CRC:
        came += crc16(came)
    if choices & WITH_ECHO:
        came = rtu.rtu_frame(request) + came
    pieces = [came[at : at + piece] for at in range(0, len(came), piece)]
    result = rtu.reply_of(request, [came], echo)
    assert rtu.reply_of(request, pieces, echo) == result
    verdict, adu, taken, known = result
    assert known in {0, 1, 2}
    assert 0 <= taken <= len(came)
    if verdict <= 0:
        assert verdict == 0 or -verdict in set(Refusal)
        return 50 - verdict
    assert framed(adu[7:], adu[6]) in came, "a reply that never came"
    assert adu[6:7] == request[6:7]
    assert adu[7] & 0x7F == request[7]
    code, _ = modbus.reply_code(adu, request)
    assert code == modbus.REPLY_GOOD or adu[7] & 0x80
    return code


def seeds() -> Iterator[bytes]:
    """Good replies, exceptions, with an echo, with noise before and behind."""
    for number, request in enumerate(REQUESTS):
        pdu = good_reply(request)[7:]
        if len(pdu) > 100:
            continue
        good = framed(pdu, request[6])
        yield bytes((number, 1, 255)) + good
        yield bytes((number, WITH_ECHO, 3)) + good
        yield bytes((number, RIGHT_CRC | 2, 0)) + bytes((request[6], request[7] | 0x80, 2))
    yield bytes((3, 0, 9)) + b"\0\xff" + good
    yield bytes((3, 1, 9)) + good + b"\xff\0" + good
