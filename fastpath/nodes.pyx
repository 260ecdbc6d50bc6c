# cython: boundscheck=False, wraparound=False, cdivision=True
"""What a program's nodes remember from scan to scan, sealed by a checksum each."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastpath.types cimport NodeState

cdef enum:
    _NODE_BYTES = 28  # key, the two times and the flags: what the check covers

# zlib's crc32 is linear: each byte's part depends on its value and the bytes behind it alone. So
# the parts are looked up side by side, and those of a node at rest, all zero, not at all.
cdef uint32_t _crc_parts[_NODE_BYTES][256]  # by number of bytes behind, by value


cdef void _crc_begin() noexcept nogil:
    cdef uint32_t part
    cdef int i, k, _bit
    for i in range(256):
        part = <uint32_t>i
        for _bit in range(8):
            part = (part >> 1) ^ (0xEDB88320u if part & 1 else 0u)
        _crc_parts[0][i] = part
    for i in range(256):
        for k in range(1, _NODE_BYTES):
            part = _crc_parts[k - 1][i]
            _crc_parts[k][i] = (part >> 8) ^ _crc_parts[0][part & 0xFF]


_crc_begin()


cdef inline uint32_t _crc_part(uint64_t word, int behind) noexcept nogil:
    """The part of eight bytes that have ``behind`` bytes after them."""
    return (
        _crc_parts[behind + 7][word & 0xFF] ^ _crc_parts[behind + 6][(word >> 8) & 0xFF]
        ^ _crc_parts[behind + 5][(word >> 16) & 0xFF] ^ _crc_parts[behind + 4][(word >> 24) & 0xFF]
        ^ _crc_parts[behind + 3][(word >> 32) & 0xFF] ^ _crc_parts[behind + 2][(word >> 40) & 0xFF]
        ^ _crc_parts[behind + 1][(word >> 48) & 0xFF] ^ _crc_parts[behind][word >> 56]
    )


cdef uint32_t node_seal(uint64_t key) noexcept nogil:
    return _crc_part(key ^ 0xFFFFFFFFu, 20) ^ 0xFFFFFFFFu


cdef uint32_t node_check(uint32_t seal, const NodeState* node) noexcept nogil:
    cdef uint32_t crc = seal
    if node.since_low_ns != 0:
        crc ^= _crc_part(<uint64_t>node.since_low_ns, 12)
    if node.since_high_ns != 0:
        crc ^= _crc_part(<uint64_t>node.since_high_ns, 4)
    if node.flags != 0:  # mostly one byte; the part of a byte that is 0 is 0
        crc ^= _crc_parts[3][node.flags & 0xFF]
        if node.flags > 0xFF:
            crc ^= (
                _crc_parts[2][(node.flags >> 8) & 0xFF] ^ _crc_parts[1][(node.flags >> 16) & 0xFF]
                ^ _crc_parts[0][node.flags >> 24]
            )
    return crc


cdef void node_begin(NodeState* node, uint64_t key) noexcept nogil:
    memset(node, 0, sizeof(NodeState))
    node.check = node_check(node_seal(key), node)


cdef void node_lose(NodeState* node, uint64_t key) noexcept nogil:
    memset(node, 0, sizeof(NodeState))
    node.since_high_ns = node_long_ago()
    node.flags = NODE_HIGH
    node.check = node_check(node_seal(key), node)
