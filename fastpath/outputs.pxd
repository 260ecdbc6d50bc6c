"""OutputBank: what each output must be (the state table), apart from how it is sent."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.bank cimport WISH_NONE, WISH_NORMAL, WISH_TRIP, Bank, OutputRun
from fastpath.journal cimport Stamp

cdef void outputs_plan(Bank* bank) noexcept nogil
cdef void outputs_scan(Bank* bank, const Stamp* now) noexcept nogil
cdef void output_restore_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef uint32_t output_command_release(
    Bank* bank, uint32_t index, uint32_t forbidden, uint64_t mark, const Stamp* now,
    uint32_t* detail) noexcept nogil
cdef bint outputs_confirmed(const Bank* bank) noexcept nogil
