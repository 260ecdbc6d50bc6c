"""How an output goes from state to state: each step recorded, then stored, before it is written."""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from fastpath.bank cimport Bank
from fastpath.journal cimport Stamp

cdef enum:
    SEEN_UNKNOWN = 0xFFFF

cdef inline bint state_trips(uint32_t state) noexcept nogil:
    return 2 <= state <= 4  # TRIPPING, TRIPPED, TRIP_FAILED

cdef uint16_t output_value(const Bank* bank, uint32_t index) noexcept nogil
cdef uint16_t output_seen(const Bank* bank, uint32_t index) noexcept nogil
cdef bint output_agrees(const Bank* bank, uint32_t index) noexcept nogil
cdef void output_record(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t type, uint16_t flags, uint32_t code,
) noexcept nogil
cdef void output_enter(
    Bank* bank, uint32_t index, uint32_t state, const Stamp* now) noexcept nogil
cdef void output_begin_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef void output_begin_release(
    Bank* bank, uint32_t index, const Stamp* now, uint32_t code) noexcept nogil
cdef void output_confirm(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t flags) noexcept nogil
cdef void output_fail(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t type, uint32_t code) noexcept nogil
cdef void output_unverified(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
