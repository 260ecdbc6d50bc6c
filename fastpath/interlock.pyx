# cython: cdivision=True
"""Interlocks: states, delays, latches, first-out (the state table of the guard).

Per scan: the cause's truth K, then C = K after ``bad_for`` and ``on_bad``, then one row of the
state table. A record goes to the journal before the latch is stored, both before any output moves.
Under a bypass that withholds, the state follows C without a latch and nothing is commanded.
"""

from libc.string cimport memcpy, memset

from fastpath.bank cimport AWAITED, DEMANDED
from fastpath.evaluate cimport _ABSTAINS, _HIGH, _LOW, _STARTING, Register
from fastpath.journal cimport interlock_store, journal_write
from fastpath.types cimport *

cdef int64_t BLIND_NS = 10_000_000_000  # a condition whose unknown is ignored is told of after it

cdef struct BlindPayload:  # records.PAYLOADS[CONDITION_BLIND]
    int64_t since_ns
    uint32_t slot
    uint32_t quality

cdef struct TripPayload:  # records.PAYLOADS[TRIP]
    uint32_t generation
    uint16_t reason
    uint16_t first_out
    uint64_t legs
    int64_t demand_mono_ns
    uint32_t slot[3]
    uint32_t pad
    double value[3]

cdef struct StatePayload:  # READY, NOT_READY, PENDING, PENDING_END
    uint32_t generation
    uint32_t permissive
    uint64_t legs
    int64_t left_ns

cdef struct ReleasePayload:  # RESET, RETURN
    uint32_t generation
    uint32_t under_bypass
    uint64_t ledger_seq
    uint8_t command_id[16]


cdef uint8_t _truth(const Register* r) noexcept nogil:
    cdef uint32_t known = r.state & (_LOW | _HIGH)
    if known == _HIGH:
        return _T_UNKNOWN
    return _T_TRUE if known else _T_FALSE


cdef uint8_t _leg(const Register* r) noexcept nogil:
    return _T_ABSTAIN if r.state & _ABSTAINS else _truth(r)


cdef uint64_t _legs(const Logic* logic, uint32_t index) noexcept nogil:
    """Two bits per leg, as they are now."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef uint64_t packed = 0
    cdef uint32_t i
    for i in range(min(d.legs_count, <uint32_t>_LEGS_PER_INTERLOCK_MAX)):
        packed |= <uint64_t>_leg(
            &logic.registers[logic.program.legs[d.legs_first + i].reg]) << (2 * i)
    return packed


cdef void _trip_payload(
    const Logic* logic, uint32_t index, const Stamp* now, TripPayload* out,
) noexcept nogil:
    """At most three legs that decided, and when the newest of their samples arrived."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef const InterlockRun* run = &logic.runs[index]
    cdef uint8_t wanted = _T_TRUE if run.truth == _T_TRUE else _T_UNKNOWN
    cdef int64_t newest = 0
    cdef uint32_t i, slot, found = 0
    for i in range(3):
        out.slot[i] = _NONE_U32
    out.demand_mono_ns = now.mono_ns
    if run.latch.reason != _TRIP_CAUSE:
        return
    for i in range(min(d.legs_count, <uint32_t>_LEGS_PER_INTERLOCK_MAX)):
        slot = logic.program.legs[d.legs_first + i].slot
        if slot == _NONE_U32 or (run.latch.legs >> (2 * i)) & 3 != wanted:
            continue
        if found < 3:
            out.slot[found] = slot
            out.value[found] = logic.shm.image[slot].value
            found += 1
        newest = max(newest, logic.shm.image[slot].mono_ns)
    # A delay that ran out decides now, whenever its sample came.
    if newest >= logic.last_scan_ns:
        out.demand_mono_ns = newest


cdef uint16_t _first_out(Logic* logic, uint32_t index) noexcept nogil:
    """Take the group's first-out where it is free; SAME_SCAN where it went in this scan."""
    cdef uint32_t group = logic.program.interlocks[index].group
    if group == _NONE_U32:
        return _LATCH_FIRST_OUT
    if not logic.group_taken[group]:
        logic.group_taken[group] = 1
        logic.group_scan[group] = logic.shm.live.scan
        return _LATCH_FIRST_OUT
    if logic.group_scan[group] == logic.shm.live.scan:
        return _LATCH_SAME_SCAN
    return 0


cdef void interlock_trip(
    Logic* logic, uint32_t index, uint32_t reason, const Stamp* now,
) noexcept nogil:
    """Any state -> TRIPPED with a new generation: record, then latch."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockRun* run = &logic.runs[index]
    cdef InterlockLatch* latch = &run.latch
    cdef TripPayload payload
    cdef uint16_t flags = 0
    cdef uint16_t taken
    cdef bint again = interlock_holds(latch)
    memset(&payload, 0, sizeof(payload))
    latch.flags &= ~<uint32_t>_LATCH_WITHHELD
    if again:
        flags |= _EVF_RETRIP
    else:
        latch.effects_from_ns = now.boot_ns  # what is commanded already stays so
        taken = _first_out(logic, index)
        # What was first stays so until the group is reset, also through a second trip of its own.
        if taken & _LATCH_FIRST_OUT or not latch.flags & _LATCH_FIRST_OUT:
            latch.flags = (
                latch.flags & ~<uint32_t>(_LATCH_FIRST_OUT | _LATCH_SAME_SCAN)) | taken
    if latch.flags & _LATCH_SAME_SCAN:
        flags |= _EVF_SAME_SCAN
    if not d.flags & _IL_ARMED:
        flags |= _EVF_UNARMED
    logic.runs[index].ended = 0
    latch.state = _ILS_TRIPPED
    latch.generation += 1
    latch.reason = reason
    if reason != _TRIP_CAUSE:
        latch.flags |= _LATCH_NEEDS_RESET
    latch.since_ns = now.boot_ns
    latch.tripped_utc_ns = now.utc_ns
    latch.demands += 1
    latch.legs = _legs(logic, index)
    latch.trip_boot_ns = now.boot_ns
    _trip_payload(logic, index, now, &payload)
    payload.generation = latch.generation
    payload.reason = <uint16_t>reason
    payload.first_out = 1 if latch.flags & _LATCH_FIRST_OUT else 0
    payload.legs = latch.legs
    interlock_record(logic, index, now, _EV_TRIP, flags, &payload, sizeof(payload))
    logic.shm.live.counters[_COUNT_TRIPS] += 1


cdef void interlock_record(
    Logic* logic, uint32_t index, const Stamp* now, uint16_t type, uint16_t flags,
    const void* payload, size_t payload_bytes,
) noexcept nogil:
    """Journal first; the latch that knows of it is stored at once after."""
    cdef InterlockRun* run = &logic.runs[index]
    cdef uint64_t seq = journal_write(
        logic.shm, now, type, flags, index, logic.program.interlocks[index].key,
        payload, payload_bytes)
    if seq != 0:
        run.latch.last_seq = seq
    interlock_store(&logic.shm.interlocks[index], &run.latch)
    run.dirty = 0


cdef void _move(
    Logic* logic, uint32_t index, const Stamp* now, uint32_t state, uint16_t type, int64_t left_ns,
) noexcept nogil:
    """A transition between NORMAL, PENDING, TRIPPED and READY that is no trip and no release."""
    cdef InterlockRun* run = &logic.runs[index]
    cdef StatePayload payload
    cdef uint16_t flags = 0
    memset(&payload, 0, sizeof(payload))
    run.latch.state = state
    run.latch.since_ns = now.boot_ns
    run.latch.legs = _legs(logic, index)
    payload.generation = run.latch.generation
    payload.permissive = run.permitted
    payload.legs = run.latch.legs
    payload.left_ns = left_ns
    if not logic.program.interlocks[index].flags & _IL_ARMED:
        flags = _EVF_UNARMED
    if run.latch.flags & _LATCH_WITHHELD:
        flags |= _EVF_WITHHELD
    interlock_record(logic, index, now, type, flags, &payload, sizeof(payload))


cdef void interlock_release(
    Logic* logic, uint32_t index, const Stamp* now, uint16_t type, uint64_t ledger_seq,
    const uint8_t* command_id,
) noexcept nogil:
    """-> NORMAL by RESET or RETURN; permits the release of the outputs that it held."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockRun* run = &logic.runs[index]
    cdef ReleasePayload payload
    cdef uint16_t flags = 0 if d.flags & _IL_ARMED else _EVF_UNARMED
    cdef uint32_t i
    memset(&payload, 0, sizeof(payload))
    run.latch.state = _ILS_NORMAL
    run.latch.reason = 0
    run.latch.since_ns = now.boot_ns
    run.latch.flags &= ~<uint32_t>_LATCH_NEEDS_RESET
    if run.latch.flags & _LATCH_BYPASSED:
        run.latch.flags |= _LATCH_WITHHELD
        payload.under_bypass = 1
    payload.generation = run.latch.generation
    payload.ledger_seq = ledger_seq
    if command_id != NULL:
        memcpy(payload.command_id, command_id, 16)
    interlock_record(logic, index, now, type, flags, &payload, sizeof(payload))
    if d.flags & _IL_ARMED:
        for i in range(d.effects_count):
            logic.releasable[logic.program.effects[d.effects_first + i].output] = 1
    _clear_first_out(logic, index)


cdef void _clear_first_out(Logic* logic, uint32_t index) noexcept nogil:
    """The group's first-out ends when none of it is TRIPPED or READY any more."""
    cdef uint32_t group = logic.program.interlocks[index].group
    cdef uint32_t first = index
    cdef uint32_t count = 1
    cdef uint32_t i, clear = ~<uint32_t>(_LATCH_FIRST_OUT | _LATCH_SAME_SCAN)
    if group != _NONE_U32:
        first = 0
        count = logic.program.interlock_count
        for i in range(count):
            if logic.program.interlocks[i].group == group and interlock_holds(&logic.runs[i].latch):
                return
        logic.group_taken[group] = 0
    for i in range(first, first + count):
        if i == index or logic.program.interlocks[i].group == group:
            if logic.runs[i].latch.flags & ~clear:
                logic.runs[i].latch.flags &= clear
                logic.runs[i].dirty = 1


cdef bint _acts(
    const InterlockDef* d, InterlockRun* run, const Stamp* now,
) noexcept nogil:
    """C: the cause after ``bad_for`` and ``on_bad``.

    The unknown-timers start anew only after the cause was known for as long as they run, so that
    a flickering sensor does not extend them for ever.
    """
    cdef int64_t ride_ns = d.bad_for_ns + d.hold_max_ns
    cdef int64_t unknown_ns
    if run.truth != _T_UNKNOWN:
        run.last_known = run.truth
        if run.unknown_since_ns != 0:
            if run.known_since_ns == 0:
                run.known_since_ns = now.mono_ns
            if now.mono_ns - run.known_since_ns >= ride_ns:
                run.unknown_since_ns = 0
        return run.truth == _T_TRUE
    run.known_since_ns = 0
    if run.unknown_since_ns == 0:
        run.unknown_since_ns = now.mono_ns
    unknown_ns = now.mono_ns - run.unknown_since_ns
    if run.last_known != _T_UNKNOWN:
        if unknown_ns < d.bad_for_ns:
            return run.last_known == _T_TRUE
        if d.on_bad == _ON_BAD_HOLD and unknown_ns < ride_ns:
            return run.last_known == _T_TRUE
    return d.on_bad != _ON_BAD_IGNORE


cdef bint _starting(Logic* logic, uint32_t index) noexcept nogil:
    """True while the start grace holds back what comes from unknown alone."""
    cdef InterlockRun* run = &logic.runs[index]
    cdef const Register* cause = &logic.registers[logic.program.interlocks[index].cause]
    cdef uint32_t flags = run.latch.flags & ~<uint32_t>_LATCH_STARTING
    if not cause.state & _STARTING:
        run.grace = 0
    if run.grace:
        flags |= _LATCH_STARTING
    if flags != run.latch.flags:
        run.latch.flags = flags
        run.dirty = 1
    return run.grace


cdef void _demanded(Logic* logic, uint32_t index, const Stamp* now) noexcept nogil:
    """C, for as long as it has to be: a trip, or under a bypass what would have been one."""
    cdef InterlockRun* run = &logic.runs[index]
    cdef InterlockLatch* latch = &run.latch
    cdef TripPayload payload
    if not latch.flags & _LATCH_WITHHELD:
        interlock_trip(logic, index, _TRIP_BYPASS_END if run.ended else _TRIP_CAUSE, now)
        return
    memset(&payload, 0, sizeof(payload))
    latch.state = _ILS_TRIPPED
    latch.reason = _TRIP_CAUSE
    latch.since_ns = now.boot_ns
    latch.withheld_demands += 1
    latch.legs = _legs(logic, index)
    _trip_payload(logic, index, now, &payload)
    payload.generation = latch.generation
    payload.reason = _TRIP_CAUSE
    payload.legs = latch.legs
    interlock_record(
        logic, index, now, _EV_TRIP,
        _EVF_WITHHELD | (0 if logic.program.interlocks[index].flags & _IL_ARMED else _EVF_UNARMED),
        &payload, sizeof(payload))


cdef void _withheld_over(Logic* logic, uint32_t index, const Stamp* now) noexcept nogil:
    """What would have been a trip is over: under a bypass there is no latch."""
    cdef InterlockRun* run = &logic.runs[index]
    cdef ReleasePayload payload
    memset(&payload, 0, sizeof(payload))
    run.latch.state = _ILS_NORMAL
    run.latch.reason = 0
    run.latch.since_ns = now.boot_ns
    payload.generation = run.latch.generation
    payload.under_bypass = 1
    interlock_record(
        logic, index, now, _EV_RETURN,
        _EVF_WITHHELD | (0 if logic.program.interlocks[index].flags & _IL_ARMED else _EVF_UNARMED),
        &payload, sizeof(payload))


cdef void _blind(Logic* logic, uint32_t index, const Stamp* now) noexcept nogil:
    """Tell once of a condition that stays unknown where that does not trip."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockRun* run = &logic.runs[index]
    cdef BlindPayload payload
    if run.truth != _T_UNKNOWN:
        run.blind = 0
    elif not run.blind and now.mono_ns - run.unknown_since_ns >= BLIND_NS:
        run.blind = 1
        memset(&payload, 0, sizeof(payload))
        payload.since_ns = run.unknown_since_ns
        payload.slot = logic.registers[d.cause].deciding
        if payload.slot != _NONE_U32:
            payload.quality = logic.shm.image[payload.slot].quality
        interlock_record(logic, index, now, _EV_CONDITION_BLIND, 0, &payload, sizeof(payload))


cdef void _transit(
    Logic* logic, uint32_t index, bint acts, const Stamp* now,
) noexcept nogil:
    """One row of the state table."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockRun* run = &logic.runs[index]
    cdef InterlockLatch* latch = &run.latch
    cdef bint clear = run.truth == _T_FALSE and run.permitted
    if latch.state == _ILS_NORMAL:
        if acts and (d.delay_ns == 0 or run.ended == BYPASS_ENDED_LASTED):
            _demanded(logic, index, now)
        elif acts:
            _move(logic, index, now, _ILS_PENDING, _EV_PENDING, d.delay_ns)
    elif latch.state == _ILS_PENDING:
        if not acts:
            _move(logic, index, now, _ILS_NORMAL, _EV_PENDING_END,
                  d.delay_ns - (now.boot_ns - latch.since_ns))
        elif now.boot_ns - latch.since_ns >= d.delay_ns:
            _demanded(logic, index, now)
    elif latch.flags & _LATCH_WITHHELD:
        if not acts:
            _withheld_over(logic, index, now)
    elif latch.state == _ILS_READY_TO_RESET or (run.ended and acts):
        if acts:
            _demanded(logic, index, now)
        elif not clear:
            _move(logic, index, now, _ILS_TRIPPED, _EV_NOT_READY, 0)
    elif clear and now.boot_ns - latch.trip_boot_ns >= d.min_trip_ns:
        if _returns(d, latch):
            interlock_release(logic, index, now, _EV_RETURN, 0, NULL)
        else:
            _move(logic, index, now, _ILS_READY_TO_RESET, _EV_READY, 0)


cdef void _step(Logic* logic, uint32_t index, const Stamp* now) noexcept nogil:
    """One interlock, one scan."""
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockRun* run = &logic.runs[index]
    cdef InterlockLatch* latch = &run.latch
    cdef uint64_t legs
    run.truth = _truth(&logic.registers[d.cause])
    run.permitted = (
        d.permissive == _NONE_U32 or _truth(&logic.registers[d.permissive]) == _T_TRUE)
    if _starting(logic, index) and run.truth == _T_UNKNOWN:
        # What was running goes on counting; nothing else comes of what was never read.
        if latch.state == _ILS_PENDING and now.boot_ns - latch.since_ns >= d.delay_ns:
            _demanded(logic, index, now)
        if run.ended != BYPASS_ENDED_LASTED:  # that acts as soon as anything is known
            run.ended = 0
        return
    _transit(logic, index, _acts(d, run, now), now)
    run.ended = 0
    if d.on_bad == _ON_BAD_IGNORE:
        _blind(logic, index, now)
    legs = _legs(logic, index)
    if legs != latch.legs:
        latch.legs = legs
        run.dirty = 1


cdef bint _returns(const InterlockDef* d, const InterlockLatch* latch) noexcept nogil:
    """It goes back by itself: an unarmed one always, an armed one without latch after a cause."""
    if not d.flags & _IL_ARMED:
        return True
    return not d.flags & _IL_LATCH and not latch.flags & _LATCH_NEEDS_RESET


cdef void interlocks_scan(Logic* logic, const Stamp* now) noexcept nogil:
    """Every interlock once, in the site file's order."""
    cdef uint32_t i
    for i in range(logic.program.interlock_count):
        _step(logic, logic.order[i], now)


cdef void interlocks_store(Logic* logic) noexcept nogil:
    """Store the latches whose flags or legs changed without a record."""
    cdef uint32_t i
    for i in range(logic.program.interlock_count):
        if logic.runs[i].dirty:
            interlock_store(&logic.shm.interlocks[i], &logic.runs[i].latch)
            logic.runs[i].dirty = 0


cdef void interlocks_demand(
    Logic* logic, const Stamp* now, uint8_t* demand, uint32_t* cause, int64_t* demand_ns,
) noexcept nogil:
    """Per output: DEMANDED where an armed interlock that names it holds; which one; since when.

    AWAITED where all that do have yet to wait for their effect's delay: then it is not commanded,
    but what is tripped already is not let go either.
    """
    cdef const InterlockDef* d
    cdef const EffectDef* effect
    cdef uint32_t i, k, index
    memset(demand, 0, logic.program.output_count)
    for i in range(logic.program.interlock_count):
        index = logic.order[i]
        d = &logic.program.interlocks[index]
        if not d.flags & _IL_ARMED or not interlock_holds(&logic.runs[index].latch):
            continue
        for k in range(d.effects_count):
            effect = &logic.program.effects[d.effects_first + k]
            if now.boot_ns - logic.runs[index].latch.effects_from_ns < effect.delay_ns:
                demand[effect.output] = max(demand[effect.output], <uint8_t>AWAITED)
            elif demand[effect.output] != DEMANDED:
                demand[effect.output] = DEMANDED
                cause[effect.output] = index
                demand_ns[effect.output] = _demand_ns(logic, index, now)


cdef void interlocks_marks(
    const Logic* logic, int64_t before_ns, uint64_t* marks,
) noexcept nogil:
    """Per output: a number that tells how often each armed interlock that names it has tripped.

    Each weighs by its own key: what a swap takes away does not make up for a trip. Trips from
    ``before_ns`` (boottime) on do not count.
    """
    cdef const InterlockDef* d
    cdef const InterlockLatch* latch
    cdef uint64_t generation
    cdef uint32_t i, k
    memset(marks, 0, logic.program.output_count * sizeof(uint64_t))
    for i in range(logic.program.interlock_count):
        d = &logic.program.interlocks[i]
        latch = &logic.runs[i].latch
        generation = latch.generation
        if generation != 0 and latch.trip_boot_ns >= before_ns:
            generation -= 1
        generation = (generation + 1) * (d.key | 1)
        for k in range(d.effects_count):
            if d.flags & _IL_ARMED:
                marks[logic.program.effects[d.effects_first + k].output] += generation


cdef int64_t _demand_ns(const Logic* logic, uint32_t index, const Stamp* now) noexcept nogil:
    """When the newest sample of the interlock's deciding legs arrived, or now."""
    cdef TripPayload payload
    memset(&payload, 0, sizeof(payload))
    _trip_payload(logic, index, now, &payload)
    return payload.demand_mono_ns


cdef void interlocks_regroup(Logic* logic) noexcept nogil:
    """After a start or a swap: which groups have their first-out."""
    cdef uint32_t i, group
    for i in range(logic.program.group_count):
        logic.group_taken[i] = 0
        logic.group_scan[i] = 0
    for i in range(logic.program.interlock_count):
        group = logic.program.interlocks[i].group
        # Also where what was first is reset already: the rest of its group still holds.
        if group != _NONE_U32 and interlock_holds(&logic.runs[i].latch):
            logic.group_taken[group] = 1
