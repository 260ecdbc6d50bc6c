"""Computed tags of the gateway."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastpath.program cimport Conditions
from fastpath.types cimport SampleRecord


cdef struct Result:  # one computed tag
    uint32_t register
    uint32_t tag  # the site's index
    uint32_t first_input  # into the inputs
    uint32_t input_count
    uint8_t record  # RecordMode
    uint8_t truth  # its register is a truth
    uint8_t quality
    uint8_t reason
    double value
    double kept_value
    int64_t kept_ns
    uint8_t kept_quality
    uint8_t kept_reason


cdef class Evaluator(Conditions):
    cdef Result* results
    cdef uint32_t result_count
    cdef uint32_t* inputs  # slots
    cdef int64_t utc_ns  # that goes with now_ns
    cdef bytearray merged
    cdef bytearray kept

    cdef int _at(self, int64_t mono_ns, int64_t utc_ns) except -1
    cdef bint _feed(self, const SampleRecord* record)
    cdef int _report(self) except -1
    cdef void _judge(self, Result* result, SampleRecord* out) noexcept nogil
    cdef bint _is_kept(self, Result* result, const SampleRecord* out) noexcept nogil
