# cython: boundscheck=False, wraparound=False, cdivision=True
"""Evaluate a program over an image. Single assignment, no jumps, three-valued.

The guard evaluates the whole program in every scan, the gateway its alarms after every poll, with
the same code. A verified program cannot reach outside its tables; the checks of each index stay
on all the same, and what fails one is unknown.
"""

from libc.math cimport NAN, fabs, isfinite
from libc.stdint cimport int64_t, uint16_t, uint32_t

from fastpath.image cimport slot_look
from fastpath.layout cimport _REG_COUNT, _REG_NUMBER, _REG_TRUTH, ProgramView
from fastpath.nodes cimport NODE_HIGH, NODE_LOW, node_check, node_long_ago, node_lose
from fastpath.types cimport *
from fastpath.windows cimport WindowBank, window_number

cdef enum:
    _VOTES_MAX = 32

# ---- node memory -----------------------------------------------------------------------------


cdef inline bint _recall(
    const ProgramView* p, uint32_t index, const NodeState* nodes, NodeState* out,
) noexcept nogil:
    """What a node remembers. False: the check is wrong, the memory is lost, the runs apart."""
    if nodes[index].check == node_check(p.seals[index], &nodes[index]):
        out[0] = nodes[index]
        return True
    node_lose(out, p.nodes[index].key)
    return False


cdef inline void _store(
    NodeState* node, uint32_t seal, const NodeState* new, bint unchanged_is_good,
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
    node.check = node_check(seal, node)


cdef inline bint _elapsed(
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
#
# Truths are the two bits _LOW and _HIGH of a state: 0 false, both true, _HIGH alone unknown. So they
# compare as numbers, and Kleene's logic is that of the bits.


cdef inline void _broken(Register* r) noexcept nogil:
    """A failed check: unknown, as a number, a truth and a count alike."""
    r.value.votes.t = 0
    r.value.votes.u = _VOTES_MAX
    r.value.votes.n = _VOTES_MAX
    r.state = _HIGH | _UNUSABLE
    r.deciding = _NONE_U32


cdef inline uint32_t _lead(const Register* a, const Register* b) noexcept nogil:
    return a.deciding if a.deciding != <uint32_t>_NONE_U32 else b.deciding


cdef inline bint _number(
    Register* r, double value, uint32_t state, uint32_t deciding,
) noexcept nogil:
    """``state``: _STARTING and _UNUSABLE, as far as they are known before the value is."""
    # Division by zero, overflow and NaN end here, whatever made them.
    if state & _UNUSABLE or not isfinite(value):
        value = NAN
        state |= _UNUSABLE
    r.value.number = value
    r.state = _REG_NUMBER | state
    r.deciding = deciding
    return True


cdef inline bint _truth(Register* r, uint32_t state, uint32_t deciding) noexcept nogil:
    """``state``: _LOW, _HIGH and _STARTING."""
    r.state = _REG_TRUTH | state
    r.deciding = deciding
    return True


cdef inline bint _abstain(Register* r, uint32_t kind) noexcept nogil:
    """A number or a truth that rests on a bypassed tag."""
    r.value.number = NAN
    r.state = kind | _HIGH | _UNUSABLE | _ABSTAINS
    r.deciding = _NONE_U32
    return True


cdef inline bint _tag(
    const ProgramView* p, const Slot* image, uint32_t slot, Register* r, int64_t now_ns,
    uint32_t grace,
) noexcept nogil:
    """``grace``: _STARTING while an input that was never read is excused, else 0."""
    cdef const TagDef* t = &p.tags[slot]
    cdef double value
    cdef int64_t mono_ns
    cdef uint8_t quality, reason
    cdef uint32_t state = 0
    if image[slot].flags & _SLOT_BYPASSED:
        return _abstain(r, _REG_NUMBER)
    if not slot_look(&image[slot], &value, &mono_ns, &quality, &reason):
        return _number(r, NAN, _UNUSABLE, slot)
    if quality != _Q_GOOD:
        if quality != _Q_UNCERTAIN or not t.flags & _TAG_UNCERTAIN_USE:
            state = _UNUSABLE
        if quality == _Q_BAD and reason == _REASON_NEVER_READ:
            state |= grace
    if t.stale_after_ns > 0 and now_ns - mono_ns > t.stale_after_ns:
        state |= _UNUSABLE
    return _number(r, value, state, slot)


cdef inline bint _window(
    const ProgramView* p, const Slot* image, WindowBank* windows, uint32_t index, Register* r,
    int64_t now_ns,
) noexcept nogil:
    """Bad until it is covered; that it is starting excuses for as long as that may take."""
    cdef const WindowDef* d
    cdef double value = NAN
    cdef uint32_t state = 0
    if index >= p.window_count or p.windows[index].slot >= p.tag_count:
        return False
    d = &p.windows[index]
    if image[d.slot].flags & _SLOT_BYPASSED:
        return _abstain(r, _REG_NUMBER)
    if not window_number(windows, index, now_ns, &value):
        state = _UNUSABLE
        if p.started_ns == 0 or now_ns - p.started_ns < max(p.start_within_ns, d.span_ns):
            state |= _STARTING
    return _number(r, value, state, d.slot)


cdef inline bint _arithmetic(
    int op, const Register* a, const Register* b, Register* r,
) noexcept nogil:
    cdef uint32_t either = a.state | b.state
    cdef double x = a.value.number, y = b.value.number, value = NAN
    if either & _ABSTAINS:
        return _abstain(r, _REG_NUMBER)
    if op == _OP_ADD:
        value = x + y
    elif op == _OP_SUB:
        value = x - y
    elif op == _OP_MUL:
        value = x * y
    elif op == _OP_DIV:
        if y != 0.0:
            value = x / y
    elif op == _OP_MIN:
        value = x if x <= y else y
    else:
        value = x if x >= y else y
    return _number(r, value, either & (_STARTING | _UNUSABLE), _lead(a, b))


cdef inline double _left(const InstructionDef* ins, const Register* regs) noexcept nogil:
    return regs[ins.a].value.number


cdef inline double _right(const InstructionDef* ins, const Register* regs) noexcept nogil:
    return regs[ins.b].value.number


cdef inline bint _compare(
    const InstructionDef* ins, const Register* regs, Register* r, bint result,
) noexcept nogil:
    """``result``: of the values, whatever they are worth."""
    cdef const Register* a = &regs[ins.a]
    cdef const Register* b = &regs[ins.b]
    cdef uint32_t either = a.state | b.state
    if either & _UNUSABLE:
        if either & _ABSTAINS:
            return _abstain(r, _REG_TRUTH)
        return _truth(r, _HIGH | (either & _STARTING), _lead(a, b))
    return _truth(
        r, (-<uint32_t>result & (_LOW | _HIGH)) | (either & _STARTING), _lead(a, b))


cdef inline bint _quality(uint32_t wanted, const Register* a, Register* r) noexcept nogil:
    """``bad(x)``, ``wanted`` _UNUSABLE, and ``good(x)``, 0: always known, but while nothing was ever
    read.
    """
    if a.state & _ABSTAINS:
        return _abstain(r, _REG_TRUTH)
    if a.state & _STARTING:
        return _truth(r, _HIGH | _STARTING, a.deciding)
    return _truth(r, _LOW | _HIGH if a.state & _UNUSABLE == wanted else 0, a.deciding)


cdef inline uint32_t _known(const Register* r) noexcept nogil:
    """The two bits of a truth: 0 false, _HIGH unknown, both true."""
    return r.state & (_LOW | _HIGH)


cdef inline bint _both(
    const Register* a, const Register* b, Register* r, uint32_t known, bint b_decides,
) noexcept nogil:
    """Kleene's and, or: ``known`` is the result's bits. The operand that decides names the deciding
    tag; one that abstains is left out.
    """
    cdef uint32_t either = a.state | b.state
    if either & _ABSTAINS:
        r[0] = b[0] if a.state & _ABSTAINS else a[0]
        return True
    return _truth(
        r, (known & (_LOW | _HIGH)) | (either & _STARTING),
        _lead(b, a) if b_decides else _lead(a, b),
    )


cdef inline bint _and(const Register* a, const Register* b, Register* r) noexcept nogil:
    return _both(a, b, r, a.state & b.state, _known(b) < _known(a))


cdef inline bint _or(const Register* a, const Register* b, Register* r) noexcept nogil:
    return _both(a, b, r, a.state | b.state, _known(b) > _known(a))


cdef inline bint _vote(int op, const Register* a, const Register* b, Register* r) noexcept nogil:
    """One more vote; ``a`` is the count so far or NULL. One that abstains is left out or true."""
    cdef bint abstains = b.state & _ABSTAINS != 0
    cdef bint counts = not abstains or op == _OP_VOTE_TRIP
    cdef bint t = counts and (abstains or _known(b) == (_LOW | _HIGH))
    cdef bint u = counts and not t and _known(b) != 0
    cdef Votes before
    cdef uint32_t deciding = b.deciding, state = b.state & _STARTING
    before.t = before.u = before.n = 0
    if a != NULL:
        before = a.value.votes
        state |= a.state & _STARTING
        # The first vote that is true leads; before there is one, the first unknown, the first at
        # all.
        if (
            before.n and not (before.t == 0 and t)
            and not (before.t + before.u == 0 and u)
        ):
            deciding = a.deciding
    r.value.votes.t = <uint16_t>(before.t + t)
    r.value.votes.u = <uint16_t>(before.u + u)
    r.value.votes.n = <uint16_t>(before.n + counts)
    r.state = _REG_COUNT | state
    r.deciding = deciding
    return True


cdef inline bint _moon(const Register* a, uint16_t least, Register* r) noexcept nogil:
    """M out of those that do not abstain; of fewer than M all of them."""
    cdef Votes votes = a.value.votes
    least = min(least, votes.n)
    if votes.n == 0:
        return _abstain(r, _REG_TRUTH)
    return _truth(
        r,
        (_LOW if votes.t >= least else 0) | (_HIGH if votes.t + votes.u >= least else 0)
        | (a.state & _STARTING),
        a.deciding,
    )


cdef inline bint _until(
    const ProgramView* p, uint32_t index, const Register* a, const Register* b,
    NodeState* nodes, Register* r,
) noexcept nogil:
    """Hysteresis: set wins, clear ends, between them each run keeps what it was."""
    cdef NodeState memory
    cdef uint32_t low, high, either = a.state | b.state
    cdef bint good
    if index >= p.node_count:
        return False
    if either & _ABSTAINS:
        return _abstain(r, _REG_TRUTH)
    good = _recall(p, index, nodes, &memory)
    low = a.state & _LOW
    if memory.flags & NODE_LOW and not b.state & _HIGH:
        low = _LOW
    high = a.state & _HIGH
    if memory.flags & NODE_HIGH and not b.state & _LOW:
        high = _HIGH
    # What was never read leaves the memory as it is: the innocent past, or the restored one.
    if not either & _STARTING or (low != 0) == (high != 0):
        memory.since_low_ns = 0
        memory.since_high_ns = 0
        memory.flags = (NODE_LOW if low else 0) | (NODE_HIGH if high else 0)
        _store(&nodes[index], p.seals[index], &memory, good)
    return _truth(r, low | high | (either & _STARTING), _lead(a, b))


cdef inline bint _for(
    const ProgramView* p, uint32_t index, const Register* a, NodeState* nodes, Register* r,
    int64_t now_ns,
) noexcept nogil:
    """On-delay: true once its input was true for the whole duration."""
    cdef NodeState memory
    cdef uint32_t known = 0
    cdef int64_t duration_ns
    cdef bint good
    if index >= p.node_count:
        return False
    if a.state & _ABSTAINS:
        return _abstain(r, _REG_TRUTH)
    if a.state & _STARTING and _known(a) == _HIGH:
        return _truth(r, _HIGH | _STARTING, a.deciding)
    duration_ns = p.nodes[index].duration_ns
    good = _recall(p, index, nodes, &memory)
    if _elapsed(a.state & _LOW != 0, &memory.since_low_ns, duration_ns, now_ns):
        known = _LOW | _HIGH
    if _elapsed(a.state & _HIGH != 0, &memory.since_high_ns, duration_ns, now_ns):
        known |= _HIGH
    memory.flags = 0
    _store(&nodes[index], p.seals[index], &memory, good)
    return _truth(r, known | (a.state & _STARTING), a.deciding)


cdef inline bint _lasts(
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
    cdef uint32_t known = 0
    cdef int64_t duration_ns
    cdef bint good
    if index >= p.node_count:
        return False
    if a.state & _ABSTAINS:
        return _abstain(r, _REG_TRUTH)
    duration_ns = p.nodes[index].duration_ns
    good = _recall(p, index, nodes, &memory)
    if a.state & _STARTING and _known(a) == _HIGH:
        if _lasts(0, &memory.since_low_ns, duration_ns, now_ns):
            known = _LOW
        return _truth(r, known | _HIGH | _STARTING, a.deciding)
    if _lasts(a.state & _LOW != 0, &memory.since_low_ns, duration_ns, now_ns):
        known = _LOW | _HIGH
    if _lasts(a.state & _HIGH != 0, &memory.since_high_ns, duration_ns, now_ns):
        known |= _HIGH
    memory.flags = 0
    _store(&nodes[index], p.seals[index], &memory, good)
    return _truth(r, known | (a.state & _STARTING), a.deciding)


cdef inline uint32_t _node_index(double imm) noexcept nogil:
    """The index itself is checked where it is used."""
    return <uint32_t>imm if 0.0 <= imm <= <double>_NODES_MAX else <uint32_t>_NONE_U32


cdef inline bint _flipped(const Register* a, Register* r) noexcept nogil:
    """``not``: the runs change places."""
    if a.state & _ABSTAINS:
        return _abstain(r, _REG_TRUTH)
    return _truth(
        r,
        (0 if a.state & _HIGH else _LOW) | (0 if a.state & _LOW else _HIGH)
        | (a.state & _STARTING),
        a.deciding,
    )


cdef inline bint _boolean(const Register* a, Register* r) noexcept nogil:
    """A number as a truth: 0 is false."""
    if a.state & _ABSTAINS:
        return _abstain(r, _REG_TRUTH)
    if a.state & _UNUSABLE:
        return _truth(r, _HIGH | (a.state & _STARTING), a.deciding)
    return _truth(
        r, (_LOW | _HIGH if a.value.number != 0.0 else 0) | (a.state & _STARTING), a.deciding)


cdef inline bint _alone(const Register* a, Register* r, double value) noexcept nogil:
    """Arithmetic of one operand."""
    if a.state & _ABSTAINS:
        return _abstain(r, _REG_NUMBER)
    return _number(r, value, a.state & (_STARTING | _UNUSABLE), a.deciding)


# ---- one scan --------------------------------------------------------------------------------


cdef inline bint _has_one(const InstructionDef* ins, uint32_t i) noexcept nogil:
    """Its operand stands before it."""
    return ins.a < i


cdef inline bint _has_two(const InstructionDef* ins, uint32_t i) noexcept nogil:
    return max(ins.a, ins.b) < i


cdef inline bint _has_vote(const InstructionDef* ins, uint32_t i) noexcept nogil:
    return ins.b < i and (ins.a < i or ins.a == _NONE_U16)


cdef void registers_begin(const ProgramView* p, Register* regs) noexcept nogil:
    cdef uint32_t i
    for i in range(p.code_count):
        if p.code[i].op == _OP_CONST:
            _number(&regs[i], p.code[i].imm, 0, _NONE_U32)
        else:
            _broken(&regs[i])
    for i in range(p.tag_count):
        regs[p.code_count + i].state = 0
    for i in range(p.code_count):
        if p.code[i].op == _OP_TAG and p.code[i].a < p.tag_count:
            regs[p.code_count + p.code[i].a].state = _ASKED


cdef inline void _look(
    const ProgramView* p, const Slot* image, Register* tags, int64_t now_ns, uint32_t grace,
) noexcept nogil:
    """Every tag that is asked for, once a scan: most are asked for several times."""
    cdef uint32_t slot
    for slot in range(p.tag_count):
        if tags[slot].state & _ASKED:
            _tag(p, image, slot, &tags[slot], now_ns, grace)
            tags[slot].state |= _ASKED


cdef int program_evaluate(
    const ProgramView* p, const Slot* image, NodeState* nodes, WindowBank* windows,
    Register* regs, int64_t now_ns,
) noexcept nogil:
    cdef uint32_t grace = (
        _STARTING if p.started_ns == 0 or now_ns - p.started_ns < p.start_within_ns else 0)
    cdef const InstructionDef* ins
    cdef Register* r
    cdef const InstructionDef* code = p.code
    cdef uint32_t i, count = p.code_count
    cdef Register* tags = regs + count
    cdef int op, done = 1
    cdef bint good
    _look(p, image, tags, now_ns, grace)
    for i in range(count):
        ins = &code[i]
        r = &regs[i]
        op = ins.op
        # One flat choice: nested ones cost as much again as an operation.
        if op == _OP_TAG:
            good = ins.a < p.tag_count
            if good:
                r[0] = tags[ins.a]
        elif op == _OP_CONST:
            good = True  # it stands there since registers_begin
        elif op == _OP_LT:
            good = _has_two(ins, i) and _compare(
                ins, regs, r, _left(ins, regs) < _right(ins, regs))
        elif op == _OP_LE:
            good = _has_two(ins, i) and _compare(
                ins, regs, r, _left(ins, regs) <= _right(ins, regs))
        elif op == _OP_GT:
            good = _has_two(ins, i) and _compare(
                ins, regs, r, _left(ins, regs) > _right(ins, regs))
        elif op == _OP_GE:
            good = _has_two(ins, i) and _compare(
                ins, regs, r, _left(ins, regs) >= _right(ins, regs))
        elif op == _OP_EQ:
            good = _has_two(ins, i) and _compare(
                ins, regs, r, _left(ins, regs) == _right(ins, regs))
        elif op == _OP_NE:
            good = _has_two(ins, i) and _compare(
                ins, regs, r, _left(ins, regs) != _right(ins, regs))
        elif op == _OP_AND:
            good = _has_two(ins, i) and _and(&regs[ins.a], &regs[ins.b], r)
        elif op == _OP_OR:
            good = _has_two(ins, i) and _or(&regs[ins.a], &regs[ins.b], r)
        elif op == _OP_UNTIL:
            good = _has_two(ins, i) and _until(
                p, _node_index(ins.imm), &regs[ins.a], &regs[ins.b], nodes, r)
        elif (
            op == _OP_ADD or op == _OP_SUB or op == _OP_MUL or op == _OP_DIV
            or op == _OP_MIN or op == _OP_MAX
        ):
            good = _has_two(ins, i) and _arithmetic(op, &regs[ins.a], &regs[ins.b], r)
        elif op == _OP_VOTE or op == _OP_VOTE_TRIP:
            good = _has_vote(ins, i) and _vote(
                op, &regs[ins.a] if ins.a != _NONE_U16 else NULL, &regs[ins.b], r)
        elif op == _OP_MOON:
            good = _has_one(ins, i) and _moon(&regs[ins.a], ins.b, r)
        elif op == _OP_NOT:
            good = _has_one(ins, i) and _flipped(&regs[ins.a], r)
        elif op == _OP_BOOL:
            good = _has_one(ins, i) and _boolean(&regs[ins.a], r)
        elif op == _OP_FOR:
            good = _has_one(ins, i) and _for(
                p, _node_index(ins.imm), &regs[ins.a], nodes, r, now_ns)
        elif op == _OP_HOLD:
            good = _has_one(ins, i) and _hold(
                p, _node_index(ins.imm), &regs[ins.a], nodes, r, now_ns)
        elif op == _OP_NEG:
            good = _has_one(ins, i) and _alone(
                &regs[ins.a], r, -_left(ins, regs))
        elif op == _OP_ABS:
            good = _has_one(ins, i) and _alone(
                &regs[ins.a], r, fabs(_left(ins, regs)))
        elif op == _OP_IS_BAD:
            good = _has_one(ins, i) and _quality(_UNUSABLE, &regs[ins.a], r)
        elif op == _OP_IS_GOOD:
            good = _has_one(ins, i) and _quality(0, &regs[ins.a], r)
        elif op == _OP_FALSE or op == _OP_TRUE:
            good = _truth(r, _LOW | _HIGH if op == _OP_TRUE else 0, _NONE_U32)
        elif op == _OP_WINDOW:
            good = _window(p, image, windows, ins.a, r, now_ns)
        else:
            good = False
        if not good:
            _broken(r)
            done = 0
    return done
