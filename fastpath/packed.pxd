"""Codec 1: the samples of one poll group in a body, and back."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    _MS_NS = 1000000
    _TABLE_SAMPLES_MAX = 1048576  # of one body
    _ABSENT = 0xFF  # in a quality column: the tag has no sample at that time


cdef struct Table:  # samples by tag, and of each tag by time
    uint32_t tags
    uint32_t samples
    uint32_t* starts  # of each tag; one more is the end
    int64_t* times_ns
    double* values
    uint8_t* qualities
    # Steps: the times of all tags, each as often as one tag has it. 0: not known.
    uint32_t steps
    int64_t* step_ns
    uint32_t* step_of  # by sample


cdef bint table_make(Table* table, uint32_t tags, uint32_t samples) noexcept nogil
cdef void table_free(Table* table) noexcept nogil
# Sort each tag's samples by time, those of one time as they stand. False: there is no memory.
cdef bint table_sort(Table* table) noexcept nogil
cdef bint table_align(Table* table) noexcept nogil  # find the steps
cdef int64_t whole_ms(int64_t utc_ns) noexcept nogil  # cut down to it, still in nanoseconds

cdef bytes pack_table(const Table* table)
# Into a table that is all zero; table_free it whatever becomes of it. Raises ValueError.
cdef int unpack_table(Table* table, bytes body, uint32_t tags) except -1
