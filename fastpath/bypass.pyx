# cython: cdivision=True
"""Bypasses of interlocks and tags: who may, for how long, and their ends.

A bypassed interlock is evaluated and shown, its effects are withheld; what was tripped already
stays so until a reset. What reads a bypassed tag abstains. Ends are boottime, so that a bypass
never outlives a suspend; a record comes before each begin, and memory that is damaged means: over.
"""

from libc.string cimport memcmp, memcpy, memset

from fastpath.interlock cimport (
    BYPASS_ENDED_LASTED, BYPASS_ENDED_QUIET, InterlockRun, TagBypassRun, interlock_holds,
    interlock_record,
)
from fastpath.journal cimport TagBypassPair, crc32_of, journal_write
from fastpath.types cimport *

cdef extern from "atomics.h" nogil:
    void sw_compiler_barrier()

cdef enum:
    _TOLD = 1  # TagBypassLatch.flags: its end was announced

cdef struct BypassPayload:  # records.PAYLOADS[BYPASS*]
    uint32_t kind
    uint32_t cause
    int64_t until_ns
    int64_t left_ns
    uint64_t ledger_seq
    uint8_t command_id[16]


cdef void _describe(
    BypassPayload* out, uint32_t kind, uint32_t cause, int64_t until_ns, const BypassOrder* order,
    const Stamp* now,
) noexcept nogil:
    memset(out, 0, sizeof(BypassPayload))
    out.kind = kind
    out.cause = cause
    out.until_ns = until_ns
    out.left_ns = until_ns - now.boot_ns
    if order != NULL:
        out.ledger_seq = order.ledger_seq
        memcpy(out.command_id, order.command_id, 16)


cdef inline bint _nearly_over(int64_t from_ns, int64_t until_ns, int64_t now_ns) noexcept nogil:
    """80 % of its time."""
    return until_ns - now_ns <= (until_ns - from_ns) // 5


# ---- of interlocks -------------------------------------------------------------------------------


cdef void _record(
    Logic* logic, uint32_t index, uint16_t type, const BypassPayload* payload, const Stamp* now,
) noexcept nogil:
    cdef uint16_t flags = 0
    if logic.runs[index].latch.flags & _LATCH_WITHHELD:
        flags |= _EVF_WITHHELD
    if not logic.program.interlocks[index].flags & _IL_ARMED:
        flags |= _EVF_UNARMED
    interlock_record(logic, index, now, type, flags, payload, sizeof(BypassPayload))


cdef uint32_t bypass_start_interlock(
    Logic* logic, uint32_t index, const BypassOrder* order, const Stamp* now,
) noexcept nogil:
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockLatch* latch = &logic.runs[index].latch
    cdef BypassPayload payload
    if latch.flags & _LATCH_BYPASSED:
        return _RESULT_ALREADY
    if d.flags & _IL_NO_BYPASS:
        return _RESULT_NOT_ALLOWED
    if not 0 < order.duration_ns <= d.bypass_max_ns or not _room(logic, index):
        return _RESULT_LIMIT
    latch.bypass_from_ns = now.boot_ns
    latch.bypass_until_ns = now.boot_ns + order.duration_ns
    memcpy(latch.bypass_id, order.command_id, 16)
    # Begun on a trip it leaves the trip standing.
    latch.flags |= _LATCH_BYPASSED | (0 if interlock_holds(latch) else _LATCH_WITHHELD)
    _describe(&payload, _BYPASS_INTERLOCK, 0, latch.bypass_until_ns, order, now)
    _record(logic, index, _EV_BYPASS, &payload, now)
    return _RESULT_DONE


cdef uint32_t bypass_end_interlock(
    Logic* logic, uint32_t index, uint32_t cause, const BypassOrder* order, const Stamp* now,
) noexcept nogil:
    """Off. What it withheld acts in the evaluation that follows."""
    cdef InterlockRun* run = &logic.runs[index]
    cdef InterlockLatch* latch = &run.latch
    cdef bint withheld = latch.flags & _LATCH_WITHHELD != 0
    cdef BypassPayload payload
    if not latch.flags & _LATCH_BYPASSED:
        return _RESULT_ALREADY
    _describe(&payload, _BYPASS_INTERLOCK, cause, latch.bypass_until_ns, order, now)
    run.ended = BYPASS_ENDED_QUIET
    if withheld and latch.state == _ILS_TRIPPED:
        run.ended = BYPASS_ENDED_LASTED
        latch.state = _ILS_NORMAL
        latch.reason = 0
        latch.since_ns = now.boot_ns
    latch.flags &= ~<uint32_t>(_LATCH_BYPASSED | _LATCH_WITHHELD | _LATCH_BYPASS_ENDING)
    latch.bypass_from_ns = 0
    latch.bypass_until_ns = 0
    memset(latch.bypass_id, 0, 16)
    _record(logic, index, _EV_BYPASS_END, &payload, now)
    return _RESULT_DONE


cdef void _scan_interlock(Logic* logic, uint32_t index, const Stamp* now) noexcept nogil:
    cdef InterlockLatch* latch = &logic.runs[index].latch
    cdef BypassPayload payload
    if logic.program.interlocks[index].flags & _IL_NO_BYPASS:
        bypass_end_interlock(logic, index, _BYPASSE_FORBIDDEN, NULL, now)
    elif now.boot_ns >= latch.bypass_until_ns:
        bypass_end_interlock(logic, index, _BYPASSE_TIME, NULL, now)
    elif not latch.flags & _LATCH_BYPASS_ENDING and _nearly_over(
        latch.bypass_from_ns, latch.bypass_until_ns, now.boot_ns
    ):
        latch.flags |= _LATCH_BYPASS_ENDING
        _describe(&payload, _BYPASS_INTERLOCK, 0, latch.bypass_until_ns, NULL, now)
        _record(logic, index, _EV_BYPASS_ENDING, &payload, now)


cdef void bypasses_scan(Logic* logic, const Stamp* now) noexcept nogil:
    cdef uint32_t i
    for i in range(logic.program.interlock_count):
        if logic.runs[i].latch.flags & _LATCH_BYPASSED:
            _scan_interlock(logic, i, now)
    if logic.tag_bypass_count == 0:
        return
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        if logic.tag_bypasses[i].latch.until_ns != 0:
            _scan_tag(logic, i, now)


# ---- how many may be -----------------------------------------------------------------------------


cdef uint32_t _bypassed_in(const Logic* logic, uint32_t group, uint32_t alone) noexcept nogil:
    """Bypassed interlocks of a group (or the one that is alone), and bypassed tags they read."""
    cdef uint64_t members[16]
    cdef uint64_t read
    cdef uint32_t i, k, count = 0
    memset(members, 0, sizeof(members))
    for i in range(logic.program.interlock_count):
        if logic.program.interlocks[i].group == group and (group != _NONE_U32 or i == alone):
            members[i // 64] |= <uint64_t>1 << (i % 64)
            count += logic.runs[i].latch.flags & _LATCH_BYPASSED != 0
    if logic.tag_bypass_count == 0:
        return count
    for k in range(<uint32_t>_TAG_BYPASSES_MAX):
        if logic.tag_bypasses[k].latch.until_ns == 0:
            continue
        read = 0
        for i in range(16):
            read |= members[i] & logic.tag_bypasses[k].readers[i]
        count += read != 0
    return count


cdef bint _room(const Logic* logic, uint32_t index) noexcept nogil:
    """One more bypass in this interlock's group; without a group it stands alone."""
    cdef uint32_t group = logic.program.interlocks[index].group
    cdef uint32_t most = 1
    if group != _NONE_U32:
        most = logic.program.groups[group].max_bypassed
    return _bypassed_in(logic, group, index) < most


# ---- of tags -------------------------------------------------------------------------------------


cdef bint op_has_b(int op) noexcept nogil:
    return (
        _OP_ADD <= op <= _OP_DIV or op == _OP_MIN or op == _OP_MAX or _OP_LT <= op <= _OP_NE
        or op == _OP_AND or op == _OP_OR or op == _OP_UNTIL or op == _OP_VOTE
        or op == _OP_VOTE_TRIP
    )


cdef bint _find_readers(Logic* logic, uint32_t slot, TagBypassRun* out) noexcept nogil:
    """Which interlocks' conditions read this tag; False: none. One pass over the program."""
    cdef const InstructionDef* ins
    cdef const InterlockDef* d
    cdef uint8_t* reads = logic.reads
    cdef uint32_t i
    cdef bint any = False
    memset(out.readers, 0, sizeof(out.readers))
    for i in range(logic.program.code_count):
        ins = &logic.program.code[i]
        if ins.op == _OP_TAG:
            reads[i] = ins.a == slot
        elif ins.op == _OP_WINDOW:
            reads[i] = logic.program.windows[ins.a].slot == slot
        elif ins.op in (_OP_CONST, _OP_FALSE, _OP_TRUE):
            reads[i] = 0
        else:
            reads[i] = (ins.a < i and reads[ins.a]) or (
                op_has_b(ins.op) and ins.b < i and reads[ins.b])
    for i in range(logic.program.interlock_count):
        d = &logic.program.interlocks[i]
        if reads[d.cause] or (d.permissive != _NONE_U32 and reads[d.permissive]):
            out.readers[i // 64] |= <uint64_t>1 << (i % 64)
            any = True
    return any


cdef uint32_t _may_bypass(
    Logic* logic, TagBypassRun* run, int64_t duration_ns, bint count,
) noexcept nogil:
    """DONE, or why not: some interlock reads it, none forbids it, each group has room."""
    cdef const InterlockDef* d
    cdef uint32_t i, code = _RESULT_DONE
    cdef uint8_t counted[_GROUPS_MAX]
    memset(counted, 0, sizeof(counted))
    if not _find_readers(logic, run.slot, run):
        return _RESULT_NOT_ALLOWED
    for i in range(logic.program.interlock_count):
        d = &logic.program.interlocks[i]
        if not (run.readers[i // 64] >> (i % 64)) & 1:
            continue
        if d.flags & _IL_NO_BYPASS:
            return _RESULT_NOT_ALLOWED
        if not count:
            continue
        if not 0 < duration_ns <= d.bypass_max_ns:
            code = _RESULT_LIMIT
        elif (d.group == _NONE_U32 or not counted[d.group]) and not _room(logic, i):
            code = _RESULT_LIMIT
        if d.group != _NONE_U32:
            counted[d.group] = 1  # a group is counted once
    return code


cdef void _store_tag(Logic* logic, uint32_t at) noexcept nogil:
    """Seal it and store both copies, A then B; all zero where it is over."""
    cdef TagBypassPair* pair = &logic.shm.tag_bypasses[at]
    cdef TagBypassLatch* latch = &logic.tag_bypasses[at].latch
    if latch.until_ns == 0:
        memset(latch, 0, sizeof(TagBypassLatch))
    else:
        latch.not_until = ~<uint32_t>latch.until_ns
        latch.crc = crc32_of(latch, sizeof(TagBypassLatch) - 8)
    memcpy(&pair.a, latch, sizeof(TagBypassLatch))
    sw_compiler_barrier()
    memcpy(&pair.b, latch, sizeof(TagBypassLatch))
    sw_compiler_barrier()


cdef void _tag_record(
    Logic* logic, uint32_t at, uint16_t type, uint32_t cause, const BypassOrder* order,
    const Stamp* now,
) noexcept nogil:
    cdef TagBypassRun* run = &logic.tag_bypasses[at]
    cdef BypassPayload payload
    _describe(&payload, _BYPASS_TAG, cause, run.latch.until_ns, order, now)
    journal_write(
        logic.shm, now, type, 0, run.slot, run.latch.key, &payload, sizeof(payload))


cdef int64_t _live(const Logic* logic, uint64_t key) noexcept nogil:
    """Where a tag's bypass stands, -1: it has none."""
    cdef uint32_t i
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        if logic.tag_bypasses[i].latch.until_ns != 0 and logic.tag_bypasses[i].latch.key == key:
            return i
    return -1


cdef uint32_t bypass_start_tag(
    Logic* logic, uint32_t slot, const BypassOrder* order, const Stamp* now,
) noexcept nogil:
    cdef uint64_t key = logic.program.tags[slot].key
    cdef TagBypassRun* run
    cdef TagBypassRun wanted
    cdef uint32_t i, code
    if _live(logic, key) >= 0:
        return _RESULT_ALREADY
    memset(&wanted, 0, sizeof(wanted))
    wanted.slot = slot
    code = _may_bypass(logic, &wanted, order.duration_ns, True)
    if code != _RESULT_DONE:
        return code
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        run = &logic.tag_bypasses[i]
        if run.latch.until_ns != 0:
            continue
        run[0] = wanted
        run.latch.key = key
        run.latch.from_ns = now.boot_ns
        run.latch.until_ns = now.boot_ns + order.duration_ns
        memcpy(run.latch.id, order.command_id, 16)
        _tag_record(logic, i, _EV_BYPASS, 0, order, now)
        _store_tag(logic, i)
        logic.tag_bypass_count += 1
        logic.shm.image[slot].flags |= _SLOT_BYPASSED
        return _RESULT_DONE
    return _RESULT_LIMIT


cdef void _end_tag(
    Logic* logic, uint32_t at, uint32_t cause, const BypassOrder* order, const Stamp* now,
) noexcept nogil:
    cdef TagBypassRun* run = &logic.tag_bypasses[at]
    if run.slot < logic.program.tag_count:
        logic.shm.image[run.slot].flags &= ~<uint16_t>_SLOT_BYPASSED
    _tag_record(logic, at, _EV_BYPASS_END, cause, order, now)
    run.latch.until_ns = 0
    _store_tag(logic, at)
    logic.tag_bypass_count -= 1


cdef uint32_t bypass_end_tag(
    Logic* logic, uint64_t key, uint32_t cause, const BypassOrder* order, const Stamp* now,
) noexcept nogil:
    cdef int64_t at = _live(logic, key)
    if at < 0:
        return _RESULT_ALREADY
    _end_tag(logic, <uint32_t>at, cause, order, now)
    return _RESULT_DONE


cdef void _scan_tag(Logic* logic, uint32_t at, const Stamp* now) noexcept nogil:
    cdef TagBypassRun* run = &logic.tag_bypasses[at]
    if now.boot_ns >= run.latch.until_ns:
        _end_tag(logic, at, _BYPASSE_TIME, NULL, now)
    elif not run.latch.flags & _TOLD and _nearly_over(
        run.latch.from_ns, run.latch.until_ns, now.boot_ns
    ):
        run.latch.flags |= _TOLD
        _tag_record(logic, at, _EV_BYPASS_ENDING, 0, NULL, now)
        _store_tag(logic, at)


# ---- over lives and programs ---------------------------------------------------------------------


cdef int64_t bypass_slot(const Logic* logic, uint64_t key) noexcept nogil:
    cdef int64_t low = 0
    cdef int64_t high = <int64_t>logic.program.tag_count - 1
    cdef int64_t middle
    while low <= high:
        middle = (low + high) // 2
        if logic.program.tags[middle].key == key:
            return middle
        if logic.program.tags[middle].key < key:
            low = middle + 1
        else:
            high = middle - 1
    return -1


cdef bint _whole(const TagBypassPair* pair) noexcept nogil:
    return (
        pair.a.until_ns != 0
        and memcmp(&pair.a, &pair.b, sizeof(TagBypassLatch)) == 0
        and pair.a.crc == crc32_of(&pair.a, sizeof(TagBypassLatch) - 8)
        and pair.a.not_until == ~<uint32_t>pair.a.until_ns
    )


cdef void bypasses_recover(Logic* logic, bint power_loss, const Stamp* now) noexcept nogil:
    cdef uint32_t i
    logic.tag_bypass_count = 0
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        memset(&logic.tag_bypasses[i], 0, sizeof(TagBypassRun))
        logic.tag_bypasses[i].slot = _NONE_U32
        if _whole(&logic.shm.tag_bypasses[i]):
            logic.tag_bypasses[i].latch = logic.shm.tag_bypasses[i].a
            logic.tag_bypass_count += 1
        else:
            _store_tag(logic, i)
    bypasses_rebind(logic, now)
    if not power_loss:
        return
    for i in range(logic.program.interlock_count):
        bypass_end_interlock(logic, i, _BYPASSE_BOOT, NULL, now)
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        if logic.tag_bypasses[i].latch.until_ns != 0:
            _end_tag(logic, i, _BYPASSE_BOOT, NULL, now)


cdef void bypass_over(
    Logic* logic, uint32_t kind, uint64_t key, uint32_t index, const Stamp* now,
) noexcept nogil:
    cdef BypassPayload payload
    if kind == _BYPASS_TAG and _live(logic, key) >= 0:
        return
    if kind == _BYPASS_INTERLOCK and index != _NONE_U32 and (
        logic.runs[index].latch.flags & _LATCH_BYPASSED
    ):
        return
    _describe(&payload, kind, _BYPASSE_BOOT, now.boot_ns, NULL, now)
    journal_write(logic.shm, now, _EV_BYPASS_END, 0, index, key, &payload, sizeof(payload))


cdef void bypasses_rebind(Logic* logic, const Stamp* now) noexcept nogil:
    cdef TagBypassRun* run
    cdef int64_t slot
    cdef uint32_t i
    for i in range(logic.program.tag_count):
        logic.shm.image[i].flags &= ~<uint16_t>_SLOT_BYPASSED
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        run = &logic.tag_bypasses[i]
        if run.latch.until_ns == 0:
            continue
        slot = bypass_slot(logic, run.latch.key)
        run.slot = <uint32_t>slot if slot >= 0 else <uint32_t>_NONE_U32
        if slot < 0 or _may_bypass(logic, run, 0, False) != _RESULT_DONE:
            _end_tag(logic, i, _BYPASSE_FORBIDDEN, NULL, now)
        else:
            logic.shm.image[run.slot].flags |= _SLOT_BYPASSED
