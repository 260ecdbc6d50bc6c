"""Native Modbus TCP frames: encode, and check replies against their request. No sockets."""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    _ADU_BYTES_MAX = 260
    _READ_BITS_MAX = 2000
    _READ_REGISTERS_MAX = 125
    _WRITE_COILS_MAX = 1968
    _WRITE_REGISTERS_MAX = 123
    _REPLY_GOOD = 1
    _REPLY_REFUSED = 100  # + a code of Refusal

# Encoders return the length of the frame in ``out`` (room for _ADU_BYTES_MAX), or 0: not legal.
cdef int encode_read(
    uint8_t* out, uint16_t tid, uint8_t unit, uint8_t fc, uint16_t address, uint16_t count,
) noexcept nogil
cdef int encode_write_coil(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, bint value,
) noexcept nogil
cdef int encode_write_register(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, uint16_t value,
) noexcept nogil
cdef int encode_write_coils(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, uint16_t count,
    const uint8_t* values,
) noexcept nogil
cdef int encode_write_registers(
    uint8_t* out, uint16_t tid, uint8_t unit, uint16_t address, uint16_t count,
    const uint16_t* values,
) noexcept nogil

# 0: more bytes are needed; > 0: bytes of the first whole ADU; < 0: -Refusal, the stream is lost.
cdef int frame_length(const uint8_t* buf, int have) noexcept nogil

# _REPLY_GOOD or _REPLY_REFUSED + Refusal. ``exception_out`` is the device's number, 0 without.
# ``request`` is the frame that was sent; a write's reply must echo it.
cdef int check_reply(
    const uint8_t* adu, int length, uint16_t tid, uint8_t unit, uint8_t fc,
    uint16_t address, uint16_t count, const uint8_t* request, int request_length,
    uint8_t* exception_out,
) noexcept nogil
