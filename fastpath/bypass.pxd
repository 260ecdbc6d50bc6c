"""Bypasses of interlocks and tags: who may, for how long, and their ends."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastpath.interlock cimport Logic
from fastpath.journal cimport Stamp

cdef struct BypassOrder:  # what a command asks for
    int64_t duration_ns
    uint64_t ledger_seq
    const uint8_t* command_id

# Before anything else of a scan: what is over ends, what is nearly over is told.
cdef void bypasses_scan(Logic* logic, const Stamp* now) noexcept nogil

# ResultCode: DONE, ALREADY, NOT_ALLOWED or LIMIT.
cdef uint32_t bypass_start_interlock(
    Logic* logic, uint32_t index, const BypassOrder* order, const Stamp* now) noexcept nogil
cdef uint32_t bypass_start_tag(
    Logic* logic, uint32_t slot, const BypassOrder* order, const Stamp* now) noexcept nogil

# ResultCode: DONE, or ALREADY where there is none. ``order`` may be NULL.
cdef uint32_t bypass_end_interlock(
    Logic* logic, uint32_t index, uint32_t cause, const BypassOrder* order, const Stamp* now,
) noexcept nogil
cdef uint32_t bypass_end_tag(
    Logic* logic, uint64_t key, uint32_t cause, const BypassOrder* order, const Stamp* now,
) noexcept nogil

# Whether operand b of an operation is a register.
cdef bint op_has_b(int op) noexcept nogil

# A tag's slot by its key, -1: none.
cdef int64_t bypass_slot(const Logic* logic, uint64_t key) noexcept nogil

# At a start, once the image is empty: those of tags that the shared file keeps. A damaged one is
# over; ``power_loss`` ends all.
cdef void bypasses_recover(Logic* logic, bint power_loss, const Stamp* now) noexcept nogil

# The record of an end, where this one, by its kind and key, is not live. ``index``: of the
# interlock or the tag, _NONE_U32: the program has it no more.
cdef void bypass_over(
    Logic* logic, uint32_t kind, uint64_t key, uint32_t index, const Stamp* now) noexcept nogil

# After a swap: tags have moved, and what the program forbids now ends.
cdef void bypasses_rebind(Logic* logic, const Stamp* now) noexcept nogil
