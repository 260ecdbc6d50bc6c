"""Native Modbus TCP frames: encode, and check replies against their request. No sockets.

A reply counts only when transaction, protocol, length, unit, function and, for a write, the echo
are those of the request: a device (or a gateway before it) that answers something else has lost
the thread, and a value from the wrong register must never reach a condition.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp, memset

from fastpath.types cimport (
    _REFUSED_BYTE_COUNT,
    _REFUSED_ECHO,
    _REFUSED_EXCEPTION_ADDRESS,
    _REFUSED_EXCEPTION_BUSY,
    _REFUSED_EXCEPTION_GATEWAY,
    _REFUSED_EXCEPTION_OTHER,
    _REFUSED_FUNCTION,
    _REFUSED_LENGTH,
    _REFUSED_PROTOCOL,
    _REFUSED_TRANSACTION,
    _REFUSED_UNIT,
)

cdef enum:
    _MBAP_BYTES = 7  # transaction, protocol, length, unit
    _LENGTH_MIN = 2  # unit and function
    _LENGTH_MAX = 254
    _WRITE_REPLY_BYTES = 12
    _EXCEPTION_REPLY_BYTES = 9
    _ADDRESSES = 65536

REPLY_GOOD = _REPLY_GOOD
REPLY_REFUSED = _REPLY_REFUSED
ADU_BYTES_MAX = _ADU_BYTES_MAX


cdef inline uint16_t _get16(const uint8_t* at) noexcept nogil:
    return <uint16_t>((at[0] << 8) | at[1])


cdef inline void _put16(uint8_t* at, uint16_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>(value & 0xFF)


cdef inline int _begin(
    uint8_t* out, uint16_t tid, uint8_t unit, uint8_t fc, uint16_t address, uint16_t word,
    int data_bytes,
) noexcept nogil:
    """Everything up to the second word of the request; ``data_bytes`` follow it."""
    _put16(out, tid)
    _put16(out + 2, 0)
    _put16(out + 4, <uint16_t>(6 + data_bytes))
    out[6] = unit
    out[7] = fc
    _put16(out + 8, address)
    _put16(out + 10, word)
    return 12 + data_bytes


cdef inline bint _legal(uint16_t tid, uint16_t address, int count, int most) noexcept nogil:
    # Transaction 0 is never sent: a zeroed reply buffer must not look like an answer.
    return tid != 0 and 1 <= count <= most and address + count <= _ADDRESSES


cdef int encode_read(
    uint8_t* out, uint16_t tid, uint8_t unit, uint8_t fc, uint16_t address, uint16_t count,
) noexcept nogil:
    cdef int most = _READ_BITS_MAX if fc <= 2 else _READ_REGISTERS_MAX
    if fc < 1 or fc > 4 or not _legal(tid, address, count, most):
        return 0
    return _begin(out, tid, unit, fc, address, count, 0)


cdef int encode_write_coil(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, bint value,
) noexcept nogil:
    if tid == 0:
        return 0
    return _begin(out, tid, unit, 5, address, 0xFF00 if value else 0, 0)


cdef int encode_write_register(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, uint16_t value,
) noexcept nogil:
    if tid == 0:
        return 0
    return _begin(out, tid, unit, 6, address, value, 0)


cdef int encode_write_coils(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, uint16_t count,
    const uint8_t* values,
) noexcept nogil:
    cdef int i, data_bytes = (count + 7) >> 3
    if not _legal(tid, address, count, _WRITE_COILS_MAX):
        return 0
    memset(out + 13, 0, data_bytes)
    for i in range(count):
        if values[i]:
            out[13 + (i >> 3)] |= <uint8_t>(1 << (i & 7))
    out[12] = <uint8_t>data_bytes
    return _begin(out, tid, unit, 15, address, count, 1 + data_bytes)


cdef int encode_write_registers(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, uint16_t count,
    const uint16_t* values,
) noexcept nogil:
    cdef int i
    if not _legal(tid, address, count, _WRITE_REGISTERS_MAX):
        return 0
    for i in range(count):
        _put16(out + 13 + 2 * i, values[i])
    out[12] = <uint8_t>(2 * count)
    return _begin(out, tid, unit, 16, address, count, 1 + 2 * count)


cdef int frame_length(const uint8_t* buf, int have) noexcept nogil:
    cdef int length
    if have >= 4 and _get16(buf + 2) != 0:
        return -_REFUSED_PROTOCOL
    if have < 6:
        return 0
    length = _get16(buf + 4)
    if length < _LENGTH_MIN or length > _LENGTH_MAX:
        return -_REFUSED_LENGTH
    length += _MBAP_BYTES - 1
    return length if have >= length else 0


cdef inline int _exception_class(uint8_t number) noexcept nogil:
    if 1 <= number <= 3:
        return _REFUSED_EXCEPTION_ADDRESS
    if number == 5 or number == 6:
        return _REFUSED_EXCEPTION_BUSY
    if number == 10 or number == 11:
        return _REFUSED_EXCEPTION_GATEWAY
    return _REFUSED_EXCEPTION_OTHER


cdef inline int _check_read(const uint8_t* adu, int length, uint8_t fc, int count) noexcept nogil:
    cdef int data_bytes = (count + 7) >> 3 if fc <= 2 else 2 * count
    if length < 9 or adu[8] != data_bytes:
        return _REPLY_REFUSED + _REFUSED_BYTE_COUNT
    if length != 9 + data_bytes:
        return _REPLY_REFUSED + _REFUSED_LENGTH
    return _REPLY_GOOD


cdef inline int _check_write(
    const uint8_t* adu, int length, uint16_t address, const uint8_t* request, int request_length,
) noexcept nogil:
    if length != _WRITE_REPLY_BYTES:
        return _REPLY_REFUSED + _REFUSED_LENGTH
    if request_length < _WRITE_REPLY_BYTES or _get16(adu + 8) != address:
        return _REPLY_REFUSED + _REFUSED_ECHO
    if memcmp(adu + 8, request + 8, 4) != 0:
        return _REPLY_REFUSED + _REFUSED_ECHO
    return _REPLY_GOOD


cdef int check_reply(
    const uint8_t* adu, int length, uint16_t tid, uint8_t unit, uint8_t fc,
    uint16_t address, uint16_t count, const uint8_t* request, int request_length,
    uint8_t* exception_out,
) noexcept nogil:
    exception_out[0] = 0
    if length <= _MBAP_BYTES or length > _ADU_BYTES_MAX:
        return _REPLY_REFUSED + _REFUSED_LENGTH
    if _get16(adu + 2) != 0:
        return _REPLY_REFUSED + _REFUSED_PROTOCOL
    if _get16(adu + 4) != length - _MBAP_BYTES + 1:
        return _REPLY_REFUSED + _REFUSED_LENGTH
    if tid == 0 or _get16(adu) != tid:
        return _REPLY_REFUSED + _REFUSED_TRANSACTION
    if adu[6] != unit:
        return _REPLY_REFUSED + _REFUSED_UNIT
    if adu[7] == (fc | 0x80):
        if length != _EXCEPTION_REPLY_BYTES:
            return _REPLY_REFUSED + _REFUSED_LENGTH
        exception_out[0] = adu[8]
        return _REPLY_REFUSED + _exception_class(adu[8])
    if adu[7] != fc:
        return _REPLY_REFUSED + _REFUSED_FUNCTION
    if 1 <= fc <= 4:
        return _check_read(adu, length, fc, count)
    if fc == 5 or fc == 6 or fc == 15 or fc == 16:
        return _check_write(adu, length, address, request, request_length)
    return _REPLY_REFUSED + _REFUSED_FUNCTION


# ---- the same for Python: tools and tests ----------------------------------------------------

cdef bytes _frame(const uint8_t* out, int length):
    if length == 0:
        raise ValueError("not a legal Modbus request")
    return (<const char*>out)[:length]


def read_frame(uint16_t tid, uint8_t unit, uint8_t fc, uint16_t address, uint16_t count) -> bytes:
    """Request of function 1 to 4. Raises ValueError when it is not legal."""
    cdef uint8_t out[_ADU_BYTES_MAX]
    return _frame(out, encode_read(out, tid, unit, fc, address, count))


def write_frame(
    uint16_t tid, uint8_t unit, uint8_t fc, uint16_t address, values not None,
) -> bytes:
    """Request of function 5, 6, 15 or 16. Raises ValueError when it is not legal."""
    cdef uint8_t out[_ADU_BYTES_MAX]
    cdef uint8_t coils[_WRITE_COILS_MAX]
    cdef uint16_t registers[_WRITE_REGISTERS_MAX]
    cdef int i, count = min(len(values), 65535)
    if fc == 5 and count == 1:
        return _frame(out, encode_write_coil(out, tid, unit, address, values[0]))
    if fc == 6 and count == 1:
        return _frame(out, encode_write_register(out, tid, unit, address, values[0]))
    if fc == 15 and count <= _WRITE_COILS_MAX:
        for i in range(count):
            coils[i] = 1 if values[i] else 0
        return _frame(out, encode_write_coils(out, tid, unit, address, <uint16_t>count, coils))
    if fc == 16 and count <= _WRITE_REGISTERS_MAX:
        for i in range(count):
            registers[i] = values[i]
        return _frame(
            out, encode_write_registers(out, tid, unit, address, <uint16_t>count, registers)
        )
    raise ValueError("not a legal Modbus request")


def whole_frame(bytes data not None) -> int:
    """0: more is needed; > 0: bytes of the first whole frame; < 0: -codes.Refusal."""
    return frame_length(<const uint8_t*><const char*>data, <int>min(len(data), _ADU_BYTES_MAX))


def reply_code(bytes reply not None, bytes request not None) -> tuple:
    """(1 good or 100 + codes.Refusal, exception number) of a reply to one of our requests.

    Raises ValueError when ``request`` is not a request.
    """
    cdef const uint8_t* sent = <const uint8_t*><const char*>request
    cdef const uint8_t* adu = <const uint8_t*><const char*>reply
    cdef uint8_t exception = 0
    cdef int code
    if len(request) < 12:
        raise ValueError("not a Modbus request")
    code = check_reply(
        adu, <int>min(len(reply), _ADU_BYTES_MAX + 1), _get16(sent), sent[6], sent[7],
        _get16(sent + 8), _get16(sent + 10), sent, <int>min(len(request), _ADU_BYTES_MAX),
        &exception,
    )
    return code, exception
