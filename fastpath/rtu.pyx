# cython: cdivision=True
"""Modbus RTU frames: the serial form of what ``modbus`` encodes and checks. No descriptors.

RTU has no transaction and no length: a reply is known by its unit, its function, its byte count
(a write: its echo) and its CRC alone, and its end by the length that the function makes. Whatever
deviates ends the exchange; nothing is looked for further on in the bytes. Source: Modbus over
Serial Line V1.02, 2.5.1; the CRC's code and its example: 6.2.2.

An adapter may play our own request back. A reply to FC5 and FC6 is byte for byte its request, so
such a reply is refused until another function has shown whether the line echoes.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp, memcpy

from fastpath.types cimport (
    _REFUSED_BYTE_COUNT,
    _REFUSED_ECHO,
    _REFUSED_FUNCTION,
    _REFUSED_LENGTH,
    _REFUSED_PROTOCOL,
    _REFUSED_UNIT,
)

cdef enum:
    _MBAP_BYTES = 6  # what stands before the unit
    _CRC_BYTES = 2
    _WRITE_REPLY_BYTES = 8
    _EXCEPTION_REPLY_BYTES = 5
    _READ_OVERHEAD_BYTES = 5  # unit, function, byte count, CRC

RTU_BYTES_MAX = _RTU_BYTES_MAX

cdef uint16_t[256] _TABLE


cdef void _fill_table() noexcept:
    cdef uint16_t crc
    cdef int i, _k
    for i in range(256):
        crc = <uint16_t>i
        for _k in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        _TABLE[i] = crc


_fill_table()


cdef uint16_t rtu_crc(const uint8_t* data, int length) noexcept nogil:
    """CRC-16 of the serial line: polynomial 0xA001 reflected, starts with ones."""
    cdef uint16_t crc = 0xFFFF
    cdef int i
    for i in range(length):
        crc = (crc >> 8) ^ _TABLE[(crc ^ data[i]) & 0xFF]
    return crc


cdef inline uint8_t _unit(const uint8_t* adu) noexcept nogil:
    return adu[6]


cdef inline uint8_t _function(const uint8_t* adu) noexcept nogil:
    return adu[7]


cdef inline int _word(const uint8_t* adu) noexcept nogil:
    """Count of a read or of FC15 and FC16."""
    return (adu[10] << 8) | adu[11]


cdef int rtu_encode(uint8_t* out, const uint8_t* adu, int length) noexcept nogil:
    cdef int pdu_bytes = length - _MBAP_BYTES
    cdef uint16_t crc
    if pdu_bytes < 2 or pdu_bytes + _CRC_BYTES > _RTU_BYTES_MAX:
        return 0
    memcpy(out, adu + _MBAP_BYTES, pdu_bytes)
    crc = rtu_crc(out, pdu_bytes)
    out[pdu_bytes] = <uint8_t>(crc & 0xFF)  # low byte first, as nothing else in Modbus
    out[pdu_bytes + 1] = <uint8_t>(crc >> 8)
    return pdu_bytes + _CRC_BYTES


cdef int rtu_decode(
    uint8_t* out, const uint8_t* request_adu, const uint8_t* frame, int length,
) noexcept nogil:
    cdef int pdu_bytes = length - _CRC_BYTES
    memcpy(out, request_adu, 4)
    out[4] = <uint8_t>(pdu_bytes >> 8)
    out[5] = <uint8_t>(pdu_bytes & 0xFF)
    memcpy(out + _MBAP_BYTES, frame, pdu_bytes)
    return _MBAP_BYTES + pdu_bytes


cdef inline int _data_bytes(const uint8_t* adu) noexcept nogil:
    return (_word(adu) + 7) >> 3 if _function(adu) <= 2 else 2 * _word(adu)


cdef int rtu_reply_bytes(const uint8_t* request_adu) noexcept nogil:
    cdef uint8_t fc = _function(request_adu)
    if 1 <= fc <= 4:
        return _READ_OVERHEAD_BYTES + _data_bytes(request_adu)
    return _WRITE_REPLY_BYTES if fc in (5, 6, 15, 16) else 0


cdef inline bint _crc_holds(const uint8_t* frame, int length) noexcept nogil:
    cdef uint16_t crc = rtu_crc(frame, length - _CRC_BYTES)
    return frame[length - 2] == (crc & 0xFF) and frame[length - 1] == (crc >> 8)


cdef int _reply(const uint8_t* adu, const uint8_t* rx, int have) noexcept nogil:
    """One more byte of what should be the reply: as ``rtu_look``, without an echo."""
    cdef uint8_t fc = _function(adu)
    cdef int length
    if have < 1:
        return 0
    if rx[0] != _unit(adu):
        return -_REFUSED_UNIT
    if have < 2:
        return 0
    if rx[1] == (fc | 0x80):
        length = _EXCEPTION_REPLY_BYTES
    elif rx[1] != fc:
        return -_REFUSED_FUNCTION
    else:
        length = rtu_reply_bytes(adu)
        if length == 0 or length > _RTU_BYTES_MAX:
            return -_REFUSED_LENGTH
        if fc <= 4 and have >= 3 and rx[2] != _data_bytes(adu):
            return -_REFUSED_BYTE_COUNT
        # A write answers with its address and its value or count.
        if fc > 4 and memcmp(rx + 2, adu + 8, min(have - 2, 4)) != 0:
            return -_REFUSED_ECHO
    if have < length:
        return 0
    return length if _crc_holds(rx, length) else -_REFUSED_PROTOCOL


cdef int rtu_look(
    const uint8_t* request_adu, const uint8_t* sent, int sent_bytes,
    const uint8_t* rx, int have, uint8_t* echo, int* skip,
) noexcept nogil:
    cdef bint same
    cdef int verdict
    if skip[0] > 0:
        return _reply(request_adu, rx + skip[0], have - skip[0])
    if echo[0] != ECHO_NO and have <= sent_bytes:
        same = memcmp(rx, sent, have) == 0
        if same and have == sent_bytes and (
            echo[0] == ECHO_YES or _function(request_adu) not in (5, 6)
        ):
            echo[0] = ECHO_YES
            skip[0] = sent_bytes
            return 0
        if echo[0] == ECHO_YES:
            if same:
                return 0
            # The adapter changed, or another sender met us on the wire.
            echo[0] = ECHO_UNKNOWN
            return -_REFUSED_ECHO
        verdict = _reply(request_adu, rx, have)
        # What still may become our own request is no error yet.
        if verdict <= 0 and same:
            return 0
        # The echo of FC5 and FC6 looks like their reply: it confirms nothing.
        if verdict > 0 and same:
            return -_REFUSED_ECHO
    else:
        verdict = _reply(request_adu, rx, have)
    if verdict > 0:
        echo[0] = ECHO_NO
    return verdict


# ---- the same for Python: tools and tests ----------------------------------------------------

def crc(bytes data not None) -> int:
    """CRC-16 of the serial line."""
    return rtu_crc(<const uint8_t*><const char*>data, <int>len(data))


def rtu_frame(bytes adu not None) -> bytes:
    """The RTU form of an MBAP request. Raises ValueError where it is none or too long."""
    cdef uint8_t out[_RTU_BYTES_MAX]
    cdef int length = rtu_encode(out, <const uint8_t*><const char*>adu, <int>min(len(adu), 300))
    if len(adu) < 12 or length == 0:
        raise ValueError("not a request of a serial line")
    return (<const char*>out)[:length]


def reply_of(bytes request not None, list chunks not None, int echo=ECHO_NO) -> tuple:
    """(verdict, reply as MBAP frame, bytes taken, echo) of what came in these chunks.

    ``request`` is an MBAP frame; verdict 0: more is needed, > 0: bytes of the reply, < 0:
    -codes.Refusal. Raises ValueError where ``request`` is none.
    """
    cdef bytes sent = rtu_frame(request)
    cdef bytes rx = b""
    cdef uint8_t out[_MBAP_BYTES + _RTU_BYTES_MAX]
    cdef uint8_t known = <uint8_t>echo
    cdef int have = 0, skip = 0, verdict = 0, length
    for chunk in chunks:
        rx += chunk
        while verdict == 0 and have < len(rx):
            have += 1
            verdict = rtu_look(
                <const uint8_t*><const char*>request, <const uint8_t*><const char*>sent,
                <int>len(sent), <const uint8_t*><const char*>rx, have, &known, &skip)
    if verdict <= 0:
        return verdict, b"", have, known
    length = rtu_decode(
        out, <const uint8_t*><const char*>request,
        <const uint8_t*><const char*>rx + skip, verdict)
    return verdict, (<const char*>out)[:length], have, known
