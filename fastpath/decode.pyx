"""Registers or bits -> value and quality, one pass, no object per value on the way.

The guard decodes its fast devices' replies with it, the drivers those of the slow ones, so that
a register means the same on both ways.
"""

from libc.math cimport NAN, isfinite
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastpath.types cimport (
    _ORDER_ABCD,
    _ORDER_BADC,
    _ORDER_CDAB,
    _ORDER_DCBA,
    _Q_BAD,
    _Q_GOOD,
    _Q_UNCERTAIN,
    _REASON_DEVICE_FAILURE,
    _REASON_NEVER_READ,
    _REASON_NOT_A_NUMBER,
    _REASON_OUT_OF_RANGE,
    _REASON_PRECISION,
    _TAG_HAS_RANGE,
    _TYPE_BIT,
    _TYPE_BOOL,
    _TYPE_FLOAT32,
    _TYPE_FLOAT64,
    _TYPE_INT16,
    _TYPE_INT32,
    _TYPE_INT64,
    _TYPE_UINT16,
    _TYPE_UINT32,
    _TYPE_UINT64,
    DecodeDef,
    TagDef,
)

cdef enum:
    _REPLY_BYTES_MAX = 250  # 125 registers or 2,000 bits
    _POINTS_MAX = 2000
    _EXACT_INTEGER_MAX = 9007199254740992  # 2**53: beyond it a float64 skips integers


cdef int decode_width(uint8_t kind) noexcept nogil:
    if _TYPE_BOOL <= kind <= _TYPE_UINT16:
        return 1
    if kind == _TYPE_INT32 or kind == _TYPE_UINT32 or kind == _TYPE_FLOAT32:
        return 2
    if kind == _TYPE_INT64 or kind == _TYPE_UINT64 or kind == _TYPE_FLOAT64:
        return 4
    return 0


cdef inline uint64_t _gather(const uint8_t* at, int registers, uint8_t order) noexcept nogil:
    """The registers as one big-endian number, after the byte and word order."""
    cdef bint words_reversed = order == _ORDER_CDAB or order == _ORDER_DCBA
    cdef bint bytes_swapped = order == _ORDER_BADC or order == _ORDER_DCBA
    cdef uint64_t raw = 0
    cdef const uint8_t* word
    cdef int i
    for i in range(registers):
        word = at + 2 * (registers - 1 - i if words_reversed else i)
        if bytes_swapped:
            raw = (raw << 16) | (<uint64_t>word[1] << 8) | word[0]
        else:
            raw = (raw << 16) | (<uint64_t>word[0] << 8) | word[1]
    return raw


cdef inline double _float32(uint64_t raw) noexcept nogil:
    cdef uint32_t bits = <uint32_t>raw
    cdef float number
    memcpy(&number, &bits, 4)
    return number


cdef inline double _float64(uint64_t raw) noexcept nogil:
    cdef double number
    memcpy(&number, &raw, 8)
    return number


cdef inline double _number(uint64_t raw, uint8_t kind, uint8_t bit, bint* exact) noexcept nogil:
    """``raw`` as its type says; an integer that a float64 cannot hold is not ``exact``."""
    exact[0] = True
    if kind == _TYPE_BIT:
        return <double>((raw >> (bit & 15)) & 1)
    if kind == _TYPE_INT16:
        return <double><int16_t><uint16_t>raw
    if kind == _TYPE_INT32:
        return <double><int32_t><uint32_t>raw
    if kind == _TYPE_INT64:
        exact[0] = -<int64_t>_EXACT_INTEGER_MAX <= <int64_t>raw <= <int64_t>_EXACT_INTEGER_MAX
        return <double><int64_t>raw
    if kind == _TYPE_FLOAT32:
        return _float32(raw)
    if kind == _TYPE_FLOAT64:
        return _float64(raw)
    exact[0] = raw <= <uint64_t>_EXACT_INTEGER_MAX
    return <double>raw


cdef int decode_point(
    const DecodeDef* d, const TagDef* t, const uint8_t* data, int data_bytes,
    double* value, uint8_t* quality, uint8_t* reason,
) noexcept nogil:
    cdef int width = decode_width(d.type)
    cdef double number
    cdef bint exact = True
    value[0] = NAN
    quality[0] = _Q_BAD
    reason[0] = _REASON_DEVICE_FAILURE
    if width == 0 or data_bytes < 0:
        return 0
    if d.type == _TYPE_BOOL:
        if (d.at >> 3) >= data_bytes:
            return 0
        number = <double>((data[d.at >> 3] >> (d.at & 7)) & 1)
    else:
        if 2 * (d.at + width) > data_bytes or d.order < _ORDER_ABCD or d.order > _ORDER_DCBA:
            return 0
        number = _number(_gather(data + 2 * d.at, width, d.order), d.type, d.bit, &exact)
    number = number * d.scale + d.offset
    if not isfinite(number):
        reason[0] = _REASON_NOT_A_NUMBER
        return _DECODED
    value[0] = number
    if (t.flags & _TAG_HAS_RANGE) and not t.low <= number <= t.high:
        reason[0] = _REASON_OUT_OF_RANGE
        return _DECODED
    quality[0] = _Q_GOOD if exact else _Q_UNCERTAIN
    reason[0] = _REASON_NEVER_READ if exact else _REASON_PRECISION
    return _DECODED


cdef class Decoder:
    """A fixed list of points of one reply."""

    def __cinit__(self, points not None):
        cdef Py_ssize_t i
        self.count = len(points)
        if self.count > _POINTS_MAX:
            raise ValueError(f"{self.count} points in one reply, at most {_POINTS_MAX}")
        self.defs = <DecodeDef*>calloc(self.count + 1, sizeof(DecodeDef))
        self.tags = <TagDef*>calloc(self.count + 1, sizeof(TagDef))
        if self.defs == NULL or self.tags == NULL:
            raise MemoryError
        for i in range(self.count):
            self._set(i, points[i])

    def __dealloc__(self):
        free(self.defs)
        free(self.tags)

    cdef int _set(self, Py_ssize_t i, object point) except -1:
        cdef DecodeDef* d = &self.defs[i]
        at, kind, order, bit, scale, offset, low, high, has_range = point
        if not 0 <= kind <= 255 or decode_width(kind) == 0:
            raise ValueError(f"point {i}: unknown type {kind}")
        if not _ORDER_ABCD <= order <= _ORDER_DCBA:
            raise ValueError(f"point {i}: unknown order {order}")
        if not 0 <= bit <= 15:
            raise ValueError(f"point {i}: bit {bit} is not in a register")
        if not 0 <= at <= 65535:
            raise ValueError(f"point {i}: place {at}")
        d.at, d.type, d.order, d.bit = at, kind, order, bit
        d.scale, d.offset = scale, offset
        self.tags[i].low, self.tags[i].high = low, high
        self.tags[i].flags = _TAG_HAS_RANGE if has_range else 0
        return 0

    cdef list _decode(self, bytes payload, bint bits):
        cdef const uint8_t* data = <const uint8_t*><const char*>payload
        cdef double value = 0
        cdef uint8_t quality = 0, reason = 0
        cdef Py_ssize_t i
        cdef list out = []
        if len(payload) > _REPLY_BYTES_MAX:
            raise ValueError(f"{len(payload)} bytes are more than a reply can have")
        for i in range(self.count):
            if (self.defs[i].type == _TYPE_BOOL) != bits:
                raise ValueError(f"point {i} is not of this kind of reply")
            if decode_point(
                &self.defs[i], &self.tags[i], data, <int>len(payload), &value, &quality, &reason
            ) != _DECODED:
                raise ValueError(f"point {i} lies outside {len(payload)} bytes")
            out.append((value, quality, reason))
        return out

    def registers(self, bytes payload not None) -> list:
        """(value, quality, reason) per point of a register reply. Raises ValueError."""
        return self._decode(payload, False)

    def bits(self, bytes payload not None) -> list:
        """(value, quality, reason) per point of a coil or discrete-input reply."""
        return self._decode(payload, True)
