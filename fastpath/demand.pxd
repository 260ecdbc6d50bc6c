"""Who demands an output, what it stands in for, and what silences it."""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.bank cimport Bank, OutputRun
from fastpath.journal cimport Stamp
from fastpath.types cimport _DEMAND_CAUSE, _DEMAND_FALLBACK, _DEMAND_SILENCED

# An interlock or a failed output holds it, silenced or not.
cdef inline bint demand_holds(uint32_t demand) noexcept nogil:
    return demand & (_DEMAND_CAUSE | _DEMAND_FALLBACK) != 0

# It is commanded to its trip value.
cdef inline bint demand_acts(uint32_t demand) noexcept nogil:
    return demand_holds(demand) and not demand & _DEMAND_SILENCED

cdef void demands_scan(Bank* bank, const Stamp* now) noexcept nogil
cdef void demand_silence(
    Bank* bank, uint32_t index, uint64_t mark, const Stamp* now) noexcept nogil
