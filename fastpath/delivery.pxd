"""What is to be written of an output now, and what became of it on the way."""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.bank cimport Bank
from fastpath.journal cimport Stamp

cdef void output_wish(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef void output_sent(
    Bank* bank, uint32_t index, uint32_t slot, const Stamp* now) noexcept nogil
cdef void output_replied(
    Bank* bank, uint32_t index, bint refused, const Stamp* now) noexcept nogil
cdef void output_expired(Bank* bank, uint32_t index) noexcept nogil
cdef void output_parted(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef void outputs_link_down(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void outputs_link_up(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void outputs_gateway(Bank* bank, bint up, const Stamp* now) noexcept nogil
cdef bint output_result(
    Bank* bank, uint64_t key, uint32_t generation, uint32_t code, const Stamp* now) noexcept nogil
