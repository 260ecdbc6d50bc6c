"""Samples that wait for the history, by poll group."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastpath.types cimport SampleRecord

cdef struct Entry:  # one sample that waits
    int64_t utc_ns
    double value
    uint32_t order  # of arrival: the sort is stable by it
    uint32_t column
    uint8_t quality


cdef struct Group:
    Entry* entries
    uint32_t count
    uint32_t capacity
    uint32_t columns


cdef class Accumulator:
    cdef Group* groups
    cdef uint32_t group_count
    cdef uint32_t* group_of  # by tag, _NONE_U32: in no group
    cdef uint32_t* column_of
    cdef uint32_t tag_count
    cdef list tags  # of each group
    cdef uint32_t max_samples
    cdef uint32_t waiting
    cdef uint64_t* piece_of  # by column: the last piece that has it,
    cdef uint64_t* step_of  # the last time,
    cdef uint32_t* place_of  # and its place in the piece
    cdef uint64_t piece_id
    cdef uint64_t step_id
    cdef readonly uint64_t refused  # samples that came when PENDING_MAX waited

    cdef int _keep(self, const SampleRecord* record) except -1
    cdef int _take_group(self, uint32_t g, list pieces) except -1
    cdef uint32_t _step(self, Group* group, uint32_t at, uint32_t* fresh) noexcept nogil
    cdef tuple _piece(self, uint32_t g, uint32_t first, uint32_t end, uint32_t columns)
    cdef bytes _body(self, const Entry* entries, uint32_t count, uint32_t columns)
