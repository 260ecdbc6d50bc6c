"""Codec 1: the samples of one poll group in a body.

A body is a line of varints, then streams, each deflated where that makes it smaller:

    0x10 | shared   samples   tags   first ms   streams present (a bit each)
    of each present: length << 1 | deflated, and if so its length in the body

Stream 0 is read from its begin to its end, and says how much of which other comes next. Where times
are shared it begins with how many there are, and their sequence. Then of each tag

    form << 2 | odd qualities << 1 | times of its own         0: it has no sample
    times of its own: how many; shared: which of them, else their sequence
    odd qualities: runs, of each length and quality
    the values in their form

Shared times suit polls: one time column, of which every tag has all or some. Where each tag has
times of its own they stand with the tag; without the bit they are those of the tag before.
"""

from libc.stdint cimport int64_t

from fastpath.table cimport Table

cdef enum:
    _MARK = 0x10
    _SHARED = 0x01
    _RAW_DEFLATE = -15

cdef enum:  # what the byte of a tag says beside its form
    _OWN_TIMES = 1
    _ODD_QUALITIES = 2


cdef inline int64_t packed_first_ms() noexcept nogil:
    """What is added to a time in ms, that it is not negative."""
    return 9223372036854


cdef bytes pack_table(const Table* table)  # its times are whole milliseconds
