"""Registers or bits of one reply -> value, quality and reason of one tag."""

from libc.stdint cimport uint8_t

from fastpath.types cimport DecodeDef, TagDef

cdef enum:
    _DECODED = 1  # value, quality and reason are set

# ``data`` is the reply's payload after its byte count. The tag gives the range alone.
# Returns _DECODED, or 0: the point lies outside the payload or is none; then BAD(device_failure).
cdef int decode_point(
    const DecodeDef* d, const TagDef* t, const uint8_t* data, int data_bytes,
    double* value, uint8_t* quality, uint8_t* reason,
) noexcept nogil

# Registers that a point of this type takes; 1 for a bit of either kind, 0 for an unknown type.
cdef int decode_width(uint8_t kind) noexcept nogil


cdef class Decoder:
    cdef DecodeDef* defs
    cdef TagDef* tags
    cdef Py_ssize_t count

    cdef int _set(self, Py_ssize_t i, object point) except -1
    cdef list _decode(self, bytes payload, bint bits)
