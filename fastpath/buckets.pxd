"""What remains of a tag's samples in each bucket of time: the tier behind the raw samples."""

from libc.stdint cimport int64_t, uint32_t

from fastpath.table cimport Table

cdef enum:  # the places of one tag in a body of buckets
    _FIELD_MINIMUM = 0
    _FIELD_MEAN = 1
    _FIELD_MAXIMUM = 2
    _FIELD_LAST = 3
    _FIELD_COUNT = 4
    _FIELDS = 5

cdef uint32_t count_buckets(const Table* raw, int64_t span_ns) noexcept nogil
# Into a table that is all zero, of _FIELDS tags for each; table_free it. False: no memory.
cdef bint table_summarize(const Table* raw, int64_t span_ns, Table* found) noexcept nogil
