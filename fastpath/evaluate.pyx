# cython: boundscheck=False, wraparound=False, cdivision=True
"""Evaluate a program over an image. Single assignment, no jumps, three-valued.

The guard evaluates the whole program in every scan, the gateway its alarms after every poll, with
the same code. A verified program cannot reach outside its tables; the checks of each index stay
on all the same, and what fails one is unknown.
"""

from libc.math cimport NAN, fabs, isfinite
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.image cimport slot_read
from fastpath.layout cimport _REG_COUNT, _REG_NUMBER, _REG_TRUTH, ProgramView, op_result
from fastpath.nodes cimport NODE_HIGH, NODE_LOW, node_check, node_long_ago, node_lose
from fastpath.types cimport *
from fastpath.windows cimport WindowBank, window_number

cdef enum:
    _VOTES_MAX = 32

# ---- node memory -----------------------------------------------------------------------------


cdef inline bint _recall(const NodeState* node, uint64_t key, NodeState* out) noexcept nogil:
    """What a node remembers. False: the check is wrong, the memory is lost, the runs apart."""
    if node.check == node_check(key, node):
        out[0] = node[0]
        return True
    node_lose(out, key)
    return False


cdef inline void _store(
    NodeState* node, uint64_t key, const NodeState* new, bint unchanged_is_good,
) noexcept nogil:
    """Keep what a node remembers; most scans change nothing."""
    if (
        unchanged_is_good
        and node.since_low_ns == new.since_low_ns
        and node.since_high_ns == new.since_high_ns
        and node.flags == new.flags
    ):
        return
    node.since_low_ns = new.since_low_ns
    node.since_high_ns = new.since_high_ns
    node.flags = new.flags
    node.check = node_check(key, node)


cdef inline uint8_t _elapsed(
    bint running, int64_t* since_ns, int64_t duration_ns, int64_t now_ns,
) noexcept nogil:
    """One run of a ``for``: starts, goes on or ends at ``since_ns``."""
    if not running:
        since_ns[0] = 0
        return 0
    if since_ns[0] == 0 or since_ns[0] > now_ns:
        since_ns[0] = now_ns if now_ns > 0 else 1
    return now_ns - since_ns[0] >= duration_ns


# ---- one instruction -------------------------------------------------------------------------


cdef inline void _broken(Register* r) noexcept nogil:
    """A failed check: unknown, as a number, a truth and a count alike."""
    r.value = NAN
    r.kind = 0
    r.low = 0
    r.high = 1
    r.starting = 0
    r.bad = 1
    r.abstain = 0
    r.t = 0
    r.u = _VOTES_MAX
    r.n = _VOTES_MAX
    r.deciding = _NONE_U32


cdef inline uint32_t _lead(const Register* a, const Register* b) noexcept nogil:
    return a.deciding if a.deciding != <uint32_t>_NONE_U32 else b.deciding


cdef inline bint _set_number(
    Register* r, double value, bint bad, uint8_t starting, uint32_t deciding,
) noexcept nogil:
    # Division by zero, overflow and NaN end here, whatever made them.
    bad = bad or not isfinite(value)
    r.value = NAN if bad else value
    r.kind = _REG_NUMBER
    r.bad = bad
    r.abstain = 0
    r.starting = starting
    r.deciding = deciding
    return True


cdef inline bint _set_truth(
    Register* r, uint8_t low, uint8_t high, uint8_t starting, uint32_t deciding,
) noexcept nogil:
    r.kind = _REG_TRUTH
    r.low = low
    r.high = high
    r.starting = starting
    r.abstain = 0
    r.deciding = deciding
    return True


cdef inline bint _abstain(Register* r, uint8_t kind) noexcept nogil:
    """A number or a truth that rests on a bypassed tag."""
    r.value = NAN
    r.kind = kind
    r.low = 0
    r.high = 1
    r.starting = 0
    r.bad = 1
    r.abstain = 1
    r.deciding = _NONE_U32
    return True


cdef inline bint _tag(
    const ProgramView* p, const Slot* image, uint32_t slot, Register* r, int64_t now_ns, bint grace,
) noexcept nogil:
    cdef const TagDef* t
    cdef Slot s
    cdef bint good, never
    if slot >= p.tag_count:
        return False
    t = &p.tags[slot]
    if image[slot].flags & _SLOT_BYPASSED:
        return _abstain(r, _REG_NUMBER)
    if not slot_read(&image[slot], &s):
        return _set_number(r, NAN, True, False, slot)
    never = s.quality == _Q_BAD and s.reason == _REASON_NEVER_READ
    good = s.quality == _Q_GOOD
    if s.quality == _Q_UNCERTAIN and t.flags & _TAG_UNCERTAIN_USE:
        good = True
    if t.stale_after_ns > 0 and now_ns - s.mono_ns > t.stale_after_ns:
        good = False
    return _set_number(r, s.value, not good, never and grace, slot)


cdef inline bint _window(
    const ProgramView* p, const Slot* image, WindowBank* windows, uint32_t index, Register* r,
    int64_t now_ns,
) noexcept nogil:
    """Bad until it is covered; that it is starting excuses for as long as that may take."""
    cdef const WindowDef* d
    cdef double value = NAN
    cdef bint known
    if index >= p.window_count or p.windows[index].slot >= p.tag_count:
        return False
    d = &p.windows[index]
    if image[d.slot].flags & _SLOT_BYPASSED:
        return _abstain(r, _REG_NUMBER)
    known = window_number(windows, index, now_ns, &value)
    return _set_number(
        r, value, not known,
        not known and (
            p.started_ns == 0 or now_ns - p.started_ns < max(p.start_within_ns, d.span_ns)),
        d.slot,
    )


cdef inline bint _arithmetic(
    int op, const Register* a, const Register* b, Register* r,
) noexcept nogil:
    cdef bint bad = a.bad or b.bad
    cdef double value = NAN
    if bad:
        if a.abstain or b.abstain:
            return _abstain(r, _REG_NUMBER)
    elif op == _OP_ADD:
        value = a.value + b.value
    elif op == _OP_SUB:
        value = a.value - b.value
    elif op == _OP_MUL:
        value = a.value * b.value
    elif op == _OP_DIV:
        if b.value != 0.0:
            value = a.value / b.value
    elif op == _OP_MIN:
        value = a.value if a.value <= b.value else b.value
    else:
        value = a.value if a.value >= b.value else b.value
    return _set_number(r, value, bad, a.starting | b.starting, _lead(a, b))


cdef inline bint _compare(
    int op, const Register* a, const Register* b, Register* r,
) noexcept nogil:
    cdef uint8_t starting = a.starting | b.starting
    cdef bint result
    if a.bad or b.bad:
        if a.abstain or b.abstain:
            return _abstain(r, _REG_TRUTH)
        return _set_truth(r, 0, 1, starting, _lead(a, b))
    if op == _OP_LT:
        result = a.value < b.value
    elif op == _OP_LE:
        result = a.value <= b.value
    elif op == _OP_GT:
        result = a.value > b.value
    elif op == _OP_GE:
        result = a.value >= b.value
    elif op == _OP_EQ:
        result = a.value == b.value
    else:
        result = a.value != b.value
    return _set_truth(r, result, result, starting, _lead(a, b))


cdef inline bint _quality(int op, const Register* a, Register* r) noexcept nogil:
    """``bad(x)`` and ``good(x)``: always known, but while nothing was ever read."""
    cdef uint8_t result = a.bad if op == _OP_IS_BAD else not a.bad
    if a.starting:
        return _set_truth(r, 0, 1, 1, a.deciding)
    return _set_truth(r, result, result, 0, a.deciding)


cdef inline bint _both(int op, const Register* a, const Register* b, Register* r) noexcept nogil:
    """Kleene's and, or. The operand that decides names the deciding tag; one that abstains is
    left out.
    """
    cdef uint8_t low, high
    cdef bint b_decides
    if a.abstain or b.abstain:
        r[0] = b[0] if a.abstain else a[0]
        return True
    if op == _OP_AND:
        low, high = a.low & b.low, a.high & b.high
        b_decides = b.low + b.high < a.low + a.high
    else:
        low, high = a.low | b.low, a.high | b.high
        b_decides = b.low + b.high > a.low + a.high
    return _set_truth(
        r, low, high, a.starting | b.starting,
        _lead(b, a) if b_decides else _lead(a, b),
    )


cdef inline bint _vote(int op, const Register* a, const Register* b, Register* r) noexcept nogil:
    """One more vote; ``a`` is the count so far or NULL. One that abstains is left out or true."""
    cdef bint counts = not b.abstain or op == _OP_VOTE_TRIP
    cdef uint16_t t = 0, u = 0
    if counts:
        t = b.abstain or (b.low and b.high)
        u = not t and b.high
    r.kind = _REG_COUNT
    r.t = <uint16_t>((a.t if a != NULL else 0) + t)
    r.u = <uint16_t>((a.u if a != NULL else 0) + u)
    r.n = <uint16_t>((a.n if a != NULL else 0) + counts)
    r.starting = b.starting | (a.starting if a != NULL else 0)
    r.abstain = 0
    r.deciding = b.deciding
    # The first vote that is true leads; before there is one, the first unknown, the first at all.
    if a != NULL and a.n and not (a.t == 0 and t) and not (a.t + a.u == 0 and u):
        r.deciding = a.deciding
    return True


cdef inline bint _moon(const Register* a, uint16_t least, Register* r) noexcept nogil:
    """M out of those that do not abstain; of fewer than M all of them."""
    least = min(least, a.n)
    if a.n == 0:
        return _abstain(r, _REG_TRUTH)
    return _set_truth(r, a.t >= least, a.t + a.u >= least, a.starting, a.deciding)


cdef inline bint _until(
    const ProgramView* p, uint32_t index, const Register* a, const Register* b,
    NodeState* nodes, Register* r,
) noexcept nogil:
    """Hysteresis: set wins, clear ends, between them each run keeps what it was."""
    cdef NodeState memory
    cdef uint8_t low, high, starting = a.starting | b.starting
    cdef bint good
    if index >= p.node_count:
        return False
    if a.abstain or b.abstain:
        return _abstain(r, _REG_TRUTH)
    good = _recall(&nodes[index], p.nodes[index].key, &memory)
    low = a.low | ((memory.flags & NODE_LOW != 0) & (b.high ^ 1))
    high = a.high | ((memory.flags & NODE_HIGH != 0) & (b.low ^ 1))
    # What was never read leaves the memory as it is: the innocent past, or the restored one.
    if low == high or not starting:
        memory.since_low_ns = 0
        memory.since_high_ns = 0
        memory.flags = (NODE_LOW if low else 0) | (NODE_HIGH if high else 0)
        _store(&nodes[index], p.nodes[index].key, &memory, good)
    return _set_truth(r, low, high, starting, _lead(a, b))


cdef inline bint _for(
    const ProgramView* p, uint32_t index, const Register* a, NodeState* nodes, Register* r,
    int64_t now_ns,
) noexcept nogil:
    """On-delay: true once its input was true for the whole duration."""
    cdef NodeState memory
    cdef uint8_t low, high
    cdef int64_t duration_ns
    cdef bint good
    if index >= p.node_count:
        return False
    if a.starting and a.low != a.high:
        return _set_truth(r, 0, 1, 1, a.deciding)
    duration_ns = p.nodes[index].duration_ns
    good = _recall(&nodes[index], p.nodes[index].key, &memory)
    low = _elapsed(a.low, &memory.since_low_ns, duration_ns, now_ns)
    high = _elapsed(a.high, &memory.since_high_ns, duration_ns, now_ns)
    memory.flags = 0
    _store(&nodes[index], p.nodes[index].key, &memory, good)
    return _set_truth(r, low, high | low, a.starting, a.deciding)


cdef inline uint8_t _lasts(
    bint on, int64_t* last_ns, int64_t duration_ns, int64_t now_ns,
) noexcept nogil:
    """One run of a ``hold``: keeps when it was last on."""
    if on or last_ns[0] > now_ns or last_ns[0] == node_long_ago():  # lost: perhaps a moment ago
        last_ns[0] = now_ns if now_ns != 0 else 1
    return on or (last_ns[0] != 0 and now_ns - last_ns[0] < duration_ns)


cdef inline bint _hold(
    const ProgramView* p, uint32_t index, const Register* a, NodeState* nodes, Register* r,
    int64_t now_ns,
) noexcept nogil:
    """Off-delay: true while its input is, and for the duration after it last was."""
    cdef NodeState memory
    cdef uint8_t low, high
    cdef int64_t duration_ns
    cdef bint good
    if index >= p.node_count:
        return False
    duration_ns = p.nodes[index].duration_ns
    good = _recall(&nodes[index], p.nodes[index].key, &memory)
    if a.starting and a.low != a.high:
        return _set_truth(r, _lasts(0, &memory.since_low_ns, duration_ns, now_ns), 1, 1, a.deciding)
    low = _lasts(a.low, &memory.since_low_ns, duration_ns, now_ns)
    high = _lasts(a.high, &memory.since_high_ns, duration_ns, now_ns)
    memory.flags = 0
    _store(&nodes[index], p.nodes[index].key, &memory, good)
    return _set_truth(r, low, high | low, a.starting, a.deciding)


cdef inline uint32_t _node_index(const ProgramView* p, double imm) noexcept nogil:
    return <uint32_t>imm if 0.0 <= imm < <double>p.node_count else <uint32_t>_NONE_U32


# ---- one scan --------------------------------------------------------------------------------


cdef inline bint _two_operands(
    const ProgramView* p, const InstructionDef* ins, NodeState* nodes, Register* regs, uint32_t i,
) noexcept nogil:
    cdef const Register* a = &regs[ins.a]
    cdef const Register* b = &regs[ins.b]
    cdef int op = ins.op
    if ins.a >= i or ins.b >= i:
        return False
    if _OP_LT <= op <= _OP_NE:
        return _compare(op, a, b, &regs[i])
    if op == _OP_AND or op == _OP_OR:
        return _both(op, a, b, &regs[i])
    if op == _OP_UNTIL:
        return _until(p, _node_index(p, ins.imm), a, b, nodes, &regs[i])
    return _arithmetic(op, a, b, &regs[i])


cdef inline bint _one_operand(
    const ProgramView* p, const InstructionDef* ins, NodeState* nodes, Register* regs, uint32_t i,
    int64_t now_ns,
) noexcept nogil:
    cdef const Register* a = &regs[ins.a]
    cdef Register* r = &regs[i]
    cdef int op = ins.op
    if ins.a >= i:
        return False
    if a.abstain:
        return _abstain(r, <uint8_t>op_result(op))
    if op == _OP_BOOL:
        return _set_truth(
            r, not a.bad and a.value != 0.0, a.bad or a.value != 0.0, a.starting, a.deciding
        )
    if op == _OP_NOT:
        return _set_truth(r, a.high ^ 1, a.low ^ 1, a.starting, a.deciding)
    if op == _OP_FOR:
        return _for(p, _node_index(p, ins.imm), a, nodes, r, now_ns)
    if op == _OP_HOLD:
        return _hold(p, _node_index(p, ins.imm), a, nodes, r, now_ns)
    if op == _OP_MOON:
        return _moon(a, ins.b, r)
    if op == _OP_NEG:
        return _set_number(r, -a.value, a.bad, a.starting, a.deciding)
    if op == _OP_ABS:
        return _set_number(r, fabs(a.value), a.bad, a.starting, a.deciding)
    return _quality(op, a, r)


cdef inline bint _counted(const InstructionDef* ins, Register* regs, uint32_t i) noexcept nogil:
    if ins.b >= i or (ins.a >= i and ins.a != _NONE_U16):
        return False
    return _vote(ins.op, &regs[ins.a] if ins.a != _NONE_U16 else NULL, &regs[ins.b], &regs[i])


cdef int program_evaluate(
    const ProgramView* p, const Slot* image, NodeState* nodes, WindowBank* windows,
    Register* regs, int64_t now_ns,
) noexcept nogil:
    cdef bint grace = p.started_ns == 0 or now_ns - p.started_ns < p.start_within_ns
    cdef const InstructionDef* ins
    cdef uint32_t i
    cdef int op, done = 1
    cdef bint good
    for i in range(p.code_count):
        ins = &p.code[i]
        op = ins.op
        if op == _OP_TAG:
            good = _tag(p, image, ins.a, &regs[i], now_ns, grace)
        elif op == _OP_CONST:
            good = _set_number(&regs[i], ins.imm, False, 0, _NONE_U32)
        elif (
            op == _OP_ADD or op == _OP_SUB or op == _OP_MUL or op == _OP_DIV
            or op == _OP_MIN or op == _OP_MAX or op == _OP_LT or op == _OP_LE
            or op == _OP_GT or op == _OP_GE or op == _OP_EQ or op == _OP_NE
            or op == _OP_AND or op == _OP_OR or op == _OP_UNTIL
        ):
            good = _two_operands(p, ins, nodes, regs, i)
        elif op == _OP_VOTE or op == _OP_VOTE_TRIP:
            good = _counted(ins, regs, i)
        elif op == _OP_FALSE or op == _OP_TRUE:
            good = _set_truth(&regs[i], op == _OP_TRUE, op == _OP_TRUE, 0, _NONE_U32)
        elif (
            op == _OP_BOOL or op == _OP_NOT or op == _OP_FOR or op == _OP_HOLD or op == _OP_MOON
            or op == _OP_NEG or op == _OP_ABS or op == _OP_IS_BAD or op == _OP_IS_GOOD
        ):
            good = _one_operand(p, ins, nodes, regs, i, now_ns)
        elif op == _OP_WINDOW:
            good = _window(p, image, windows, ins.a, &regs[i], now_ns)
        else:
            good = False
        if not good:
            _broken(&regs[i])
            done = 0
    return done
