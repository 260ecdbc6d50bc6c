"""A body of codec 1 -> samples."""

from libc.stdint cimport uint32_t

from fastpath.table cimport Table

# Into a table that is all zero; table_free it whatever becomes of it. Raises ValueError.
cdef int unpack_table(Table* table, bytes body, uint32_t tags) except -1
