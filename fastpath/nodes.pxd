"""What a program's nodes remember from scan to scan, sealed by a checksum each."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastpath.types cimport NodeState

cdef enum:  # flags of an ``until``: what each run remembers
    NODE_LOW = 1
    NODE_HIGH = 2
    _LONG_AGO_BITS = 62

# A start that every duration has elapsed since, whatever the uptime.
cdef inline int64_t node_long_ago() noexcept nogil:
    return -(<int64_t>1 << _LONG_AGO_BITS)

# What a node's key adds to its check: the same for as long as the program runs.
cdef uint32_t node_seal(uint64_t key) noexcept nogil

# crc32 of the key (its seal) and the fields, as it stands in ``check``.
cdef uint32_t node_check(uint32_t seal, const NodeState* node) noexcept nogil

# A node that never ran: the innocent past.
cdef void node_begin(NodeState* node, uint64_t key) noexcept nogil

# A node whose memory was lost: the runs apart, unknown until the input decides.
cdef void node_lose(NodeState* node, uint64_t key) noexcept nogil
