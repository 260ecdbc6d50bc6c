"""Commands of a wake: who may what, and what came of it."""

from libc.stdint cimport uint32_t

from fastpath.journal cimport Stamp
from fastpath.mailbox cimport Command
from fastpath.scanner cimport Scanner

cdef void commands_run(Scanner* scanner, bint strengthening, const Stamp* now) noexcept nogil
cdef void command_answer(
    Scanner* scanner, const Command* command, uint32_t code, uint32_t generation, uint32_t detail,
    const Stamp* now) noexcept nogil
