"""Evaluate a program over an image. Single assignment, no jumps, three-valued.

A truth register holds two runs of one condition, ``low`` with unknown as false and ``high`` with
unknown as true: (0, 0) is false, (1, 1) true, (0, 1) unknown. What rests on a bypassed tag abstains
and, for whoever does not ask about that, is unknown.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastpath.layout cimport _REG_TRUTH, ProgramView
from fastpath.types cimport NodeState, Slot
from fastpath.windows cimport WindowBank

cdef struct Register:  # 24 bytes
    double value  # of a number; NaN while bad
    uint8_t kind  # _REG_*; 0: never evaluated, or a broken check
    uint8_t low
    uint8_t high
    uint8_t starting  # an input below was never read
    uint8_t bad  # of a number: not usable in this condition
    uint8_t abstain  # it rests on nothing but bypassed tags
    uint16_t t  # of a count: votes known true,
    uint16_t u  # unknown,
    uint16_t n  # and all that do not abstain
    uint32_t deciding  # slot of the leading tag, or _NONE_U32

# Codes of Truth for a truth register.
cdef inline int truth_of(const Register* r) noexcept nogil:
    if r.kind == _REG_TRUTH and r.abstain:
        return 3
    if r.kind != _REG_TRUTH or r.low != r.high:
        return 0
    return 2 if r.low else 1

# One scan: every instruction, in order. ``nodes`` has one state per NODE of the program, ``windows``
# one per WINDOW, ``regs`` one register per instruction. 1: done; 0: an index of the program was out of bounds (a fault):
# the registers concerned are unknown.
cdef int program_evaluate(
    const ProgramView* p, const Slot* image, NodeState* nodes, WindowBank* windows,
    Register* regs, int64_t now_ns,
) noexcept nogil
