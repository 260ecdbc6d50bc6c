"""Evaluate a program over an image. Single assignment, no jumps, three-valued.

A truth register holds two runs of one condition, ``low`` with unknown as false and ``high`` with
unknown as true: (0, 0) is false, (1, 1) true, (0, 1) unknown. What rests on a bypassed tag abstains
and, for whoever does not ask about that, is unknown.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from fastpath.layout cimport _REG_TRUTH, ProgramView
from fastpath.types cimport NodeState, Slot
from fastpath.windows cimport WindowBank

cdef enum:  # Register.state: what it holds, and what is known of it
    _KIND = 3  # _REG_*; 0: never evaluated, or a broken check
    _LOW = 1 << 2  # of a truth
    _HIGH = 1 << 3
    _STARTING = 1 << 4  # an input below was never read
    _UNUSABLE = 1 << 5  # of a number: bad in this condition
    _ABSTAINS = 1 << 6  # it rests on nothing but bypassed tags
    _ASKED = 1 << 7  # of a tag: some instruction asks for it

cdef struct Votes:  # so far
    uint16_t t  # known true
    uint16_t u  # unknown
    uint16_t n  # all that do not abstain

cdef union RegisterValue:
    double number  # NaN while unusable
    Votes votes

cdef struct Register:  # 16 bytes, so that an operation reads and writes few words
    RegisterValue value
    uint32_t state
    uint32_t deciding  # slot of the leading tag, or _NONE_U32

# Codes of Truth for a truth register; one that abstains is unknown to who does not ask.
cdef inline int truth_of(const Register* r) noexcept nogil:
    cdef uint32_t known = r.state & (_LOW | _HIGH)
    if (r.state & (_KIND | _ABSTAINS)) == (_REG_TRUTH | _ABSTAINS):
        return 3
    if (r.state & _KIND) != _REG_TRUTH or known == _HIGH:
        return 0
    return 2 if known else 1

# Those that a program needs: one per instruction, then one per tag.
cdef inline uint32_t register_count(const ProgramView* p) noexcept nogil:
    return p.code_count + p.tag_count

# Before the first scan of a program: its constants, and all else unknown.
cdef void registers_begin(const ProgramView* p, Register* regs) noexcept nogil

# One scan: every instruction, in order, over registers that were begun. ``nodes`` has one state per NODE of the program, ``windows``
# one per WINDOW, ``regs`` ``register_count``. 1: done; 0: an index of the program was out of bounds (a fault):
# the registers concerned are unknown.
cdef int program_evaluate(
    const ProgramView* p, const Slot* image, NodeState* nodes, WindowBank* windows,
    Register* regs, int64_t now_ns,
) noexcept nogil
