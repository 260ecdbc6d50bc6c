"""Modbus RTU frames: the serial form of what ``modbus`` encodes and checks. No descriptors."""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    _RTU_BYTES_MAX = 256

# What the line does with our own request (an adapter may play it back to us).
cdef enum RtuEcho:
    ECHO_UNKNOWN = 0
    ECHO_NO = 1
    ECHO_YES = 2

cdef uint16_t rtu_crc(const uint8_t* data, int length) noexcept nogil

# MBAP frame -> RTU frame in ``out`` (room for _RTU_BYTES_MAX); its length, or 0: does not fit.
cdef int rtu_encode(uint8_t* out, const uint8_t* adu, int length) noexcept nogil

# The same reply as an MBAP frame with the request's transaction; its length.
cdef int rtu_decode(
    uint8_t* out, const uint8_t* request_adu, const uint8_t* frame, int length) noexcept nogil

# Bytes of the good reply to ``request_adu`` with its CRC, 0 where it is none.
cdef int rtu_reply_bytes(const uint8_t* request_adu) noexcept nogil

# Of the first ``have`` bytes since the request: 0 more is needed, > 0 bytes of the whole reply,
# < 0 -Refusal. ``have`` is to grow one by one; ``skip`` bytes of echo were found to stand first.
cdef int rtu_look(
    const uint8_t* request_adu, const uint8_t* sent, int sent_bytes,
    const uint8_t* rx, int have, uint8_t* echo, int* skip) noexcept nogil
