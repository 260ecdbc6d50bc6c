"""What people may order of an interlock: trip, reset; and what forbids to release an output."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.interlock cimport Logic
from fastpath.journal cimport Stamp

cdef uint32_t order_trip(
    Logic* logic, uint32_t index, uint32_t kind, const Stamp* now, uint32_t* detail,
) noexcept nogil
cdef uint32_t order_reset(
    Logic* logic, uint32_t index, uint32_t generation, uint64_t ledger_seq,
    const uint8_t* command_id, const Stamp* now, uint32_t* detail) noexcept nogil
cdef uint32_t release_forbidden(const Logic* logic, uint32_t output) noexcept nogil
