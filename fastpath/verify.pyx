# cython: boundscheck=False, wraparound=False, cdivision=True
"""The check of a program before it runs: the rules of the guard's contract, one by one.

``layout`` has rules 1 and 2, ``indices`` 6, 7 and 10.

What this guard does not know is refused, never half obeyed: a code that stands for nothing breaks
rule 6 like an index out of range, a field that only a later guard has rule 2 like padding that is
not zero.
"""

from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from fastpath.decode cimport decode_width
from fastpath.indices cimport indices_rule_6, indices_rule_7, indices_rule_10, unit_answers
from fastpath.layout cimport (
    _REG_COUNT,
    _REG_NUMBER,
    _REG_TRUTH,
    ProgramView,
    layout_rule,
    op_result,
    program_open,
    records_padded,
)
from fastpath.modbus cimport _READ_BITS_MAX, _READ_REGISTERS_MAX
from fastpath.types cimport *

cdef enum:
    _FALLBACK_DEPTH_MAX = 4
    _ADDRESSES = 65536

cdef int64_t _DURATION_NS_MAX = 315360000000000000  # ten years: no sum of two overflows
cdef int64_t _POLL_NS_MIN = 5000000
cdef int64_t _TICK_NS_MIN = 1000000
cdef int64_t _TICK_NS_MAX = 1000000000
cdef int64_t _TIMEOUT_NS_MIN = 10000000
cdef int64_t _TIMEOUT_NS_MAX = 10000000000
cdef int64_t _WINDOW_NS_MIN = 64  # a bucket is one of 64
cdef int64_t _WINDOW_NS_MAX = 600000000000  # of an interlock


cdef int program_verify(const uint8_t* blob, size_t size) noexcept nogil:
    cdef ProgramView p
    cdef int rule = layout_rule(blob, size)
    if rule != 0:
        return rule
    if not program_open(blob, size, &p):
        return 1
    if not records_padded(&p):
        return 2
    if _rule_3_code(&p):
        return 3
    if _rule_4_numbers(&p):
        return 4
    if _rule_5_keys(&p):
        return 5
    if indices_rule_6(&p):
        return 6
    if indices_rule_7(&p):
        return 7
    if _rule_8_votes(&p):
        return 8
    if _rule_9_fallbacks(&p):
        return 9
    if indices_rule_10(&p):
        return 10
    if _rule_11_requests(&p):
        return 11
    if _rule_12_values(&p):
        return 12
    if _rule_13_effects(&p):
        return 13
    if _rule_14_times(&p):
        return 14
    return 0


# Rule 3: instruction i writes register i, operands stand before it and are of the right kind.


cdef int _kind_of_a(int op) noexcept nogil:
    """Kind of register that operand a must be, 0: a is none."""
    if _OP_ADD <= op <= _OP_MAX or op == _OP_BOOL or _OP_LT <= op <= _OP_NE:
        return _REG_NUMBER
    if op == _OP_IS_BAD or op == _OP_IS_GOOD:
        return _REG_NUMBER
    if op == _OP_NOT or op == _OP_AND or op == _OP_OR or _OP_UNTIL <= op <= _OP_HOLD:
        return _REG_TRUTH
    return _REG_COUNT if op == _OP_MOON or op == _OP_VOTE or op == _OP_VOTE_TRIP else 0


cdef int _kind_of_b(int op) noexcept nogil:
    if _OP_ADD <= op <= _OP_DIV or op == _OP_MIN or op == _OP_MAX or _OP_LT <= op <= _OP_NE:
        return _REG_NUMBER
    if op == _OP_AND or op == _OP_OR or op == _OP_UNTIL:
        return _REG_TRUTH
    if op == _OP_VOTE or op == _OP_VOTE_TRIP:
        return _REG_TRUTH
    return 0


cdef inline bint _operand(const ProgramView* p, uint32_t a, uint32_t i, int kind) noexcept nogil:
    return kind == 0 or (a < i and op_result(p.code[a].op) == kind)


cdef bint _rule_3_code(const ProgramView* p) noexcept nogil:
    cdef const InstructionDef* ins
    cdef uint32_t i
    cdef int kind
    for i in range(p.code_count):
        ins = &p.code[i]
        if ins.dst != i or op_result(ins.op) == 0:
            return True
        kind = _kind_of_a(ins.op)
        if kind == _REG_COUNT and ins.op != _OP_MOON and ins.a == _NONE_U16:
            kind = 0  # the first vote of its count
        if not _operand(p, ins.a, i, kind) or not _operand(p, ins.b, i, _kind_of_b(ins.op)):
            return True
    return False


# Rule 4: constants, ranges and durations finite and not negative.


cdef inline bint _duration(int64_t ns) noexcept nogil:
    return 0 <= ns <= _DURATION_NS_MAX


cdef inline bint _span(const WindowDef* window) noexcept nogil:
    cdef int64_t most = _DURATION_NS_MAX
    if window.interlock != <uint32_t>_NONE_U32:
        most = _WINDOW_NS_MAX
    return _WINDOW_NS_MIN <= window.span_ns <= most


cdef bint _rule_4_numbers(const ProgramView* p) noexcept nogil:
    cdef const TagDef* t
    cdef const DecodeDef* d
    cdef uint32_t i
    for i in range(p.tag_count):
        t = &p.tags[i]
        if not (isfinite(t.low) and isfinite(t.high) and t.low <= t.high):
            return True
        if not (_duration(t.stale_after_ns) and _duration(t.settle_ns) and _duration(t.stuck_ns)):
            return True
    for i in range(p.code_count):
        if not isfinite(p.code[i].imm):
            return True
    for i in range(p.node_count):
        if not _duration(p.nodes[i].duration_ns):
            return True
    for i in range(p.window_count):
        if not _span(&p.windows[i]):
            return True
    for i in range(p.effect_count):
        if not _duration(p.effects[i].delay_ns):
            return True
    for i in range(p.leg_count):
        if not isfinite(p.legs[i].limit):
            return True
    for i in range(p.decode_count):
        d = &p.decode[i]
        # A scale of zero would make a constant of every input.
        if not (isfinite(d.scale) and isfinite(d.offset) and d.scale != 0.0):
            return True
    return not _duration(p.start_within_ns) or _rule_4_durations(p)


cdef bint _rule_4_durations(const ProgramView* p) noexcept nogil:
    cdef const InterlockDef* lock
    cdef const OutputDef* output
    cdef const DeviceDef* device
    cdef uint32_t i
    for i in range(p.interlock_count):
        lock = &p.interlocks[i]
        if not (
            _duration(lock.delay_ns) and _duration(lock.bad_for_ns)
            and _duration(lock.hold_max_ns) and _duration(lock.min_trip_ns)
            and _duration(lock.response_ns) and _duration(lock.bypass_max_ns)
        ):
            return True
        if lock.on_bad == _ON_BAD_HOLD and lock.hold_max_ns == 0:
            return True
    for i in range(p.output_count):
        output = &p.outputs[i]
        if not (
            _duration(output.confirm_ns) and _duration(output.reassert_ns)
            and _duration(output.silence_ns)
        ):
            return True
    for i in range(p.device_count):
        device = &p.devices[i]
        if not (
            _duration(device.settle_ns) and _duration(device.watchdog_ns)
            and _duration(device.request_delay_ns) and _duration(device.connected_within_ns)
            and _duration(device.every_ns) and _duration(device.lease_ns)
        ):
            return True
    return False


# Rule 5: keys strictly ascending, so that a swap is one merge.


cdef bint _rule_5_keys(const ProgramView* p) noexcept nogil:
    cdef uint32_t i
    for i in range(1, p.tag_count):
        if p.tags[i].key <= p.tags[i - 1].key:
            return True
    for i in range(1, p.interlock_count):
        if p.interlocks[i].key <= p.interlocks[i - 1].key:
            return True
    for i in range(1, p.output_count):
        if p.outputs[i].key <= p.outputs[i - 1].key:
            return True
    for i in range(1, p.group_count):
        if p.groups[i].key <= p.groups[i - 1].key:
            return True
    for i in range(1, p.device_count):
        if p.devices[i].key <= p.devices[i - 1].key:
            return True
    return False


# Rule 8: M out of N with 1 <= M <= N <= 32, and N votes in its count.


cdef bint _rule_8_votes(const ProgramView* p) noexcept nogil:
    cdef uint8_t votes[_CODE_MAX + 1]
    cdef const InstructionDef* ins
    cdef uint32_t i
    for i in range(p.code_count):
        ins = &p.code[i]
        votes[i] = 0
        if ins.op == _OP_VOTE or ins.op == _OP_VOTE_TRIP:
            votes[i] = 1 if ins.a == _NONE_U16 else votes[ins.a] + 1
            if votes[i] > _LEGS_PER_INTERLOCK_MAX:
                return True
        if ins.op == _OP_MOON:
            if ins.b < 1 or ins.b > votes[ins.a] or ins.imm != <double>votes[ins.a]:
                return True
    return False


# Rule 9: the fallback graph ends, at most four deep; no output is its own fallback.


cdef bint _rule_9_fallbacks(const ProgramView* p) noexcept nogil:
    cdef uint8_t depth[_OUTPUTS_MAX]
    cdef const FallbackDef* f
    cdef uint32_t i
    cdef int _k
    memset(depth, 0, sizeof(depth))
    for i in range(p.fallback_count):
        f = &p.fallbacks[i]
        if f.output >= p.output_count or f.fallback >= p.output_count or f.output == f.fallback:
            return True
    # Each pass makes every chain known one step deeper; a circle grows for ever.
    for _k in range(_FALLBACK_DEPTH_MAX + 1):
        for i in range(p.fallback_count):
            f = &p.fallbacks[i]
            if depth[f.output] < depth[f.fallback] + 1:
                depth[f.output] = depth[f.fallback] + 1
            if depth[f.output] > _FALLBACK_DEPTH_MAX:
                return True
    return False


# Rule 11: what one Modbus request may carry.


cdef bint _rule_11_requests(const ProgramView* p) noexcept nogil:
    cdef const RequestDef* request
    cdef const DecodeDef* d
    cdef uint32_t i
    cdef int most, width
    for i in range(p.request_count):
        request = &p.requests[i]
        if not 1 <= request.function <= 4:
            return True
        most = _READ_BITS_MAX if request.function <= 2 else _READ_REGISTERS_MAX
        if request.count < 1 or request.count > most:
            return True
        if not unit_answers(p, request.device, request.unit):
            return True
        if <int>request.address + request.count > _ADDRESSES:
            return True
    for i in range(p.decode_count):
        d = &p.decode[i]
        request = &p.requests[d.request]
        width = decode_width(d.type)
        if width == 0 or (d.type == _TYPE_BOOL) != (request.function <= 2):
            return True
        if <int>d.at + width > request.count:
            return True
    return False


# Rules 12 to 14: a trip does something, and in time.


cdef bint _rule_12_values(const ProgramView* p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.output_count):
        if p.outputs[i].flags & _OUT_HAS_NORMAL and p.outputs[i].trip == p.outputs[i].normal:
            return True
    return False


cdef bint _rule_13_effects(const ProgramView* p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.interlock_count):
        if p.interlocks[i].flags & _IL_ARMED and p.interlocks[i].effects_count == 0:
            return True
    return False


cdef inline bint _timeout(int64_t ns) noexcept nogil:
    return _TIMEOUT_NS_MIN <= ns <= _TIMEOUT_NS_MAX


cdef bint _rule_14_times(const ProgramView* p) noexcept nogil:
    cdef const DeviceDef* device
    cdef uint32_t i
    if not _TICK_NS_MIN <= p.tick_ns <= _TICK_NS_MAX:
        return True
    for i in range(p.device_count):
        device = &p.devices[i]
        if not _timeout(device.connect_timeout_ns) or not _timeout(device.timeout_ns):
            return True
        if device.flags & _DEVICE_HAS_HEARTBEAT and device.every_ns < _POLL_NS_MIN:
            return True
        # A lease that is not refreshed twice in its time is lost by every late reply.
        if device.flags & _DEVICE_HAS_LEASE and device.lease_ns < 2 * device.every_ns:
            return True
    for i in range(p.request_count):
        if not _POLL_NS_MIN <= p.requests[i].period_ns <= _DURATION_NS_MAX:
            return True
    for i in range(p.output_count):
        if p.outputs[i].confirm_ns < _TIMEOUT_NS_MIN or p.outputs[i].reassert_ns < _POLL_NS_MIN:
            return True
    return False
