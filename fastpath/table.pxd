"""Samples by tag and time in memory: what is packed, and what comes out of a body."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    _MS_NS = 1000000
    _TABLE_SAMPLES_MAX = 1048576
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
cdef bint table_make_steps(Table* table, uint32_t steps) noexcept nogil
cdef void table_free(Table* table) noexcept nogil
# Sort each tag's samples by time, those of one time as they stand. False: there is no memory.
cdef bint table_sort(Table* table) noexcept nogil
cdef bint table_align(Table* table) noexcept nogil  # find the steps, however many
# The steps, to be freed. 1: found; 0: they are more than ``most``; -1: no memory.
cdef int table_find_steps(
    const Table* table, size_t most, int64_t** found, size_t* count,
) noexcept nogil
cdef int64_t whole_ms(int64_t utc_ns) noexcept nogil  # cut down to it, still in nanoseconds
