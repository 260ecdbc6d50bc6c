"""Which bytes are the reply to a request: judged byte by byte, for each way of framing.

What pymodbus lets pass is refused here: any transaction id but the one asked (0 too), another
unit, another function, a length that is not the asked one, an echo that differs, bytes that
nobody asked for. Frames of the serial line are judged by the guard's own code.

What pymodbus gets in the place of a reply to a read is a short one: it would make a number of each
register, and a CRC byte by byte, for nobody. Our caller takes the PDU that was checked here.
"""

from typing import Final, NamedTuple, Protocol

from drivers.errors import ProtocolError
from fastpath.codes import Refusal
from fastpath.rtu import crc, reply_of

HEADER_BYTES: Final = 7  # transaction, protocol, length, unit
CRC_BYTES: Final = 2
ECHO_UNKNOWN: Final = 0
EXCEPTION_BIT: Final = 0x80
EXCEPTION_BODY: Final = 3  # unit, function, code
_SHORT_LENGTH: Final = EXCEPTION_BODY.to_bytes(2, "big")
ECHO_BODY: Final = 6  # unit, function, address, value or count
READ_FUNCTIONS: Final = (1, 2, 3, 4)
_REFUSED: Final = {
    Refusal.PROTOCOL: "with a wrong CRC",
    Refusal.LENGTH: "of a wrong length",
    Refusal.UNIT: "of another unit",
    Refusal.FUNCTION: "to another function",
    Refusal.BYTE_COUNT: "with a wrong byte count",
    Refusal.ECHO: "with another echo",
}


class Reply(NamedTuple):
    """A whole reply that was checked."""

    frame: bytes  # what pymodbus is to read: that its request was answered
    pdu: bytes  # function code and what follows


class Framing(Protocol):
    """How requests and replies stand on the wire. ``request`` is the frame as it was sent."""

    def reply(self, request: bytes, data: bytes) -> Reply | None:
        """The reply that ``data`` is; None while it is the beginning of a right one.

        Raises ProtocolError as soon as it cannot become one.
        """


class SocketFraming:
    """MBAP headers: Modbus TCP, inside TLS or not."""

    def reply(self, request: bytes, data: bytes) -> Reply | None:
        """As ``reply_is_whole`` judges."""
        if not reply_is_whole(request, data):
            return None
        pdu = data[HEADER_BYTES:]
        if pdu[0] not in READ_FUNCTIONS:
            return Reply(data, pdu)
        return Reply(data[:4] + _SHORT_LENGTH + data[6:7] + _short(pdu[0]), pdu)


class RtuFraming:
    """Frames with a CRC: the serial line, or the same bytes over TCP. May begin with our echo."""

    def __init__(self) -> None:
        self._echo = ECHO_UNKNOWN

    @property
    def echo_known(self) -> bool:
        """Whether a reply has shown if the line sends our own requests back.

        Until then the reply to functions 5 and 6 cannot be told from our request.
        """
        return self._echo != ECHO_UNKNOWN

    def reply(self, request: bytes, data: bytes) -> Reply | None:
        """As the guard judges it."""
        if not request:
            return None
        body = request[:-CRC_BYTES]
        asked = b"\x00\x01\x00\x00" + len(body).to_bytes(2, "big") + body
        verdict, reply, taken, echo = reply_of(asked, [data], self._echo)
        if verdict < 0:
            text = f"a reply {_REFUSED.get(Refusal(-verdict), 'that cannot be')}: {data[:16].hex()}"
            raise ProtocolError(text)
        if verdict == 0:
            return None
        if len(data) > taken:
            text = f"{len(data) - taken} bytes after the reply"
            raise ProtocolError(text)
        self._echo = echo
        pdu = reply[HEADER_BYTES:]
        if pdu[0] not in READ_FUNCTIONS:
            return Reply(data[taken - verdict :], pdu)
        short = request[:1] + _short(pdu[0])
        return Reply(short + crc(short).to_bytes(CRC_BYTES, "little"), pdu)


def _short(function: int) -> bytes:
    """The PDU of an exception: the shortest reply that there is."""
    return bytes((function | EXCEPTION_BIT, 1))


def reply_is_whole(request: bytes, data: bytes) -> bool:
    """Whether ``data`` is the whole reply to ``request``; False while it is a right beginning.

    Both are ADUs with their header. Raises ProtocolError at the first byte that cannot belong to
    a right reply, and for bytes beyond it. An empty request means that nothing was asked.
    """
    if not request:
        text = f"{len(data)} bytes that were not asked for"
        raise ProtocolError(text)
    _check_header(request, data)
    if len(data) <= HEADER_BYTES:
        return False
    body = _body_bytes(request, data[HEADER_BYTES])
    length = int.from_bytes(data[4:6], "big")
    if length != body:
        text = f"reply length {length}, expected {body}"
        raise ProtocolError(text)
    whole = HEADER_BYTES - 1 + body
    if len(data) > whole:
        text = f"{len(data) - whole} bytes after the reply"
        raise ProtocolError(text)
    return len(data) == whole and _content_fits(request, data, body)


def _check_header(request: bytes, data: bytes) -> None:
    """Transaction, protocol and unit, as far as they have arrived."""
    if data[:2] != request[: len(data[:2])]:
        text = (
            f"reply to transaction {int.from_bytes(data[:2], 'big')}, "
            f"expected {int.from_bytes(request[:2], 'big')}"
        )
        raise ProtocolError(text)
    if any(data[2:4]):
        text = f"protocol id {int.from_bytes(data[2:4], 'big')}, expected 0"
        raise ProtocolError(text)
    if len(data) >= HEADER_BYTES and data[6] != request[6]:
        text = f"reply of unit {data[6]}, expected {request[6]}"
        raise ProtocolError(text)


def _body_bytes(request: bytes, function: int) -> int:
    """What the header's length must be, for the reply's function code."""
    asked = request[HEADER_BYTES]
    if function == asked | EXCEPTION_BIT:
        return EXCEPTION_BODY
    if function != asked:
        text = f"reply to function {function}, expected {asked}"
        raise ProtocolError(text)
    if asked not in READ_FUNCTIONS:
        return ECHO_BODY
    return 3 + _payload_bytes(request)


def _payload_bytes(request: bytes) -> int:
    count = int.from_bytes(request[HEADER_BYTES + 3 : HEADER_BYTES + 5], "big")
    return (count + 7) // 8 if request[HEADER_BYTES] in (1, 2) else 2 * count


def _content_fits(request: bytes, data: bytes, body: int) -> bool:
    """Byte count of a read, echo of a write. Raises ProtocolError; True otherwise."""
    if data[HEADER_BYTES] & EXCEPTION_BIT:
        return True
    if request[HEADER_BYTES] in READ_FUNCTIONS:
        if data[HEADER_BYTES + 1] != body - 3:
            text = f"byte count {data[HEADER_BYTES + 1]}, expected {body - 3}"
            raise ProtocolError(text)
        return True
    if data[HEADER_BYTES:] != request[HEADER_BYTES : HEADER_BYTES + 5]:
        text = f"echo {data[HEADER_BYTES:].hex()}, expected {request[7:12].hex()}"
        raise ProtocolError(text)
    return True
