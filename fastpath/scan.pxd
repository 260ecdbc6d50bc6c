"""One scan: strengthening commands, evaluation, transitions, weakening commands, outputs, wire."""

from libc.stdint cimport uint8_t, uint32_t

from fastpath.journal cimport Stamp
from fastpath.runtime cimport Runtime
from fastpath.scanner cimport Scanner

cdef void scan_once(Scanner* scanner, const Stamp* now) noexcept nogil
cdef void scan_swap(Scanner* scanner, const Stamp* now) noexcept nogil
cdef void scan_answer_load(Scanner* scanner, const Stamp* now) noexcept nogil
cdef uint32_t scanner_begin(
    Scanner* scanner, uint8_t* shared, Runtime* runtimes, bytes blob, bint power_loss,
    bint lost_program, dict interlocks, dict outputs, const Stamp* now) except? 0xFFFFFFFF
