"""Which heartbeats are withheld on purpose, so that a PLC's own watchdog acts."""

from fastpath.bank cimport Bank
from fastpath.journal cimport Stamp

cdef void heartbeats_plan(Bank* bank) noexcept nogil
cdef void heartbeats_scan(Bank* bank, const Stamp* now) noexcept nogil
