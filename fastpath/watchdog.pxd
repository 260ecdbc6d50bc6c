"""A device's own watchdog registers: nothing is released while one is not as it must be."""

from fastpath.bank cimport Bank
from fastpath.journal cimport Stamp

cdef void watchdogs_plan(Bank* bank) noexcept nogil
cdef void watchdogs_scan(Bank* bank, const Stamp* now) noexcept nogil
