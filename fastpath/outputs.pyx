# cython: cdivision=True
"""OutputBank: what each output must be (the state table), apart from how it is sent.

A trip is wished for again until the device's own reply has come and the read-back agrees. A normal
value is wished for at most three times within 10 s, and only after a reset, a return or a release.
"""

from libc.string cimport memset

from fastpath.journal cimport journal_write, output_store
from fastpath.types cimport *

cdef int64_t WRITE_TIMEOUT_NS = 200_000_000
cdef int64_t RETRY_NS_MIN = 100_000_000
cdef int64_t RETRY_NS_MAX = 1_000_000_000
cdef int64_t RELEASE_NS_MAX = 10_000_000_000
cdef uint8_t RELEASE_TRIES_MAX = 3
cdef uint16_t SEEN_UNKNOWN = 0xFFFF

cdef struct OutputPayload:  # records.PAYLOADS[OUT_*]
    uint32_t generation
    uint16_t wanted
    uint16_t seen
    uint32_t code
    uint32_t tries
    int64_t demand_ns
    int64_t wire_ns
    int64_t confirm_ns
    uint64_t cause_key


cdef uint16_t _seen(const Bank* bank, uint32_t index) noexcept nogil:
    """The read-back as the output's state: 0, 1, or SEEN_UNKNOWN."""
    cdef const OutputDef* d = &bank.program.outputs[index]
    cdef const Slot* slot
    cdef bint on
    if d.readback == _NONE_U32:
        return SEEN_UNKNOWN
    slot = &bank.shm.image[d.readback]
    if slot.quality != _Q_GOOD:
        return SEEN_UNKNOWN
    on = slot.value != 0.0
    if d.flags & _OUT_READBACK_INVERTED:
        on = not on
    return 1 if on else 0


cdef bint _agrees(const Bank* bank, uint32_t index, uint16_t value) noexcept nogil:
    """The read-back says ``value``, by a reading not older than the write; True without one."""
    cdef const OutputDef* d = &bank.program.outputs[index]
    if d.readback == _NONE_U32:
        return True
    return (
        _seen(bank, index) == (1 if value else 0)
        and bank.shm.image[d.readback].mono_ns >= bank.runs[index].latch.wire_ns
    )


cdef void _record(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t type, uint16_t flags, uint32_t code,
) noexcept nogil:
    """Journal first, then the latch."""
    cdef OutputRun* run = &bank.runs[index]
    cdef OutputPayload payload
    cdef uint64_t seq
    memset(&payload, 0, sizeof(payload))
    payload.generation = run.latch.generation
    payload.wanted = output_value(bank, index)
    payload.seen = _seen(bank, index)
    payload.code = code
    payload.tries = run.latch.fails
    payload.demand_ns = run.latch.demand_ns
    payload.wire_ns = run.latch.wire_ns
    payload.confirm_ns = run.latch.confirm_ns
    payload.cause_key = run.latch.cause_key
    seq = journal_write(
        bank.shm, now, type, flags, index, bank.program.outputs[index].key,
        &payload, sizeof(payload))
    if seq != 0:
        run.latch.last_seq = seq
    output_store(&bank.shm.outputs[index], &run.latch)
    run.dirty = 0


cdef void _enter(Bank* bank, uint32_t index, uint32_t state, const Stamp* now) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    run.latch.state = state
    run.latch.since_ns = now.boot_ns
    run.entered_ns = now.mono_ns
    run.differs_since_ns = 0
    run.dirty = 1


cdef void _begin_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """-> TRIPPING: drops any release, writes now."""
    cdef OutputRun* run = &bank.runs[index]
    _enter(bank, index, _OUTS_TRIPPING, now)
    run.latch.generation += 1
    run.latch.fails = 0
    run.latch.confirmed = 0
    run.latch.wire_ns = 0
    run.latch.confirm_ns = 0
    run.latch.demand_ns = now.mono_ns
    run.latch.cause_key = 0
    if bank.demand[index] and not bank.stopping:
        run.latch.demand_ns = bank.demand_ns[index]
        run.latch.cause_key = bank.program.interlocks[bank.cause[index]].key
    run.replied = 0
    run.refused = 0
    run.in_flight = 0
    run.unverified = 0
    run.first_hold = 0
    run.restored = 0
    run.next_write_ns = now.mono_ns
    run.retry_ns = RETRY_NS_MIN
    run.confirm_by_ns = now.mono_ns + bank.program.outputs[index].confirm_ns
    _record(bank, index, now, _EV_OUT_TRIP, 0, 0)


cdef void _begin_release(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """-> RELEASING, or HELD where the site file gives no normal value."""
    cdef OutputRun* run = &bank.runs[index]
    run.replied = 0
    run.refused = 0
    run.in_flight = 0
    run.tries = 0
    run.unverified = 0
    run.first_hold = 0
    run.latch.confirmed = 0
    run.latch.fails = 0
    run.next_write_ns = now.mono_ns
    if not bank.program.outputs[index].flags & _OUT_HAS_NORMAL:
        _enter(bank, index, _OUTS_HELD, now)
        _record(bank, index, now, _EV_OUT_HELD, 0, 0)
        return
    _enter(bank, index, _OUTS_RELEASING, now)
    _record(bank, index, now, _EV_OUT_RELEASE, 0, 0)


cdef void _confirm(Bank* bank, uint32_t index, const Stamp* now, uint16_t flags) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    if run.latch.confirm_ns == 0:
        run.latch.confirm_ns = now.mono_ns
    run.latch.confirmed = 1
    run.unverified = 0
    run.restored = 0
    run.confirm_by_ns = 0
    if run.latch.state != _OUTS_TRIPPED:
        _enter(bank, index, _OUTS_TRIPPED, now)
    run.next_write_ns = now.mono_ns + bank.program.outputs[index].reassert_ns
    _record(bank, index, now, _EV_OUT_CONFIRMED, flags, 0)


cdef void _fail(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t type, uint32_t code,
) noexcept nogil:
    """-> TRIP_FAILED: goes on trying for ever, 100 ms doubling to 1 s."""
    cdef OutputRun* run = &bank.runs[index]
    _enter(bank, index, _OUTS_TRIP_FAILED, now)
    run.latch.confirmed = 0
    run.latch.confirm_ns = 0
    run.latch.fails += 1
    run.confirm_by_ns = 0
    run.replied = 0
    run.refused = 0
    run.retry_ns = RETRY_NS_MIN
    run.next_write_ns = now.mono_ns
    _record(bank, index, now, type, 0, code)


cdef void _tripping(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    if run.replied and _agrees(bank, index, bank.program.outputs[index].trip):
        _confirm(bank, index, now, _EVF_LATE if run.restored else 0)
    elif run.refused:
        _fail(bank, index, now, _EV_OUT_FAILED, 1)
    elif now.mono_ns >= run.confirm_by_ns:
        _fail(bank, index, now, _EV_OUT_FAILED, 2)


cdef void _failed(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    if run.replied and _agrees(bank, index, bank.program.outputs[index].trip):
        _confirm(bank, index, now, _EVF_LATE)


cdef void _tripped(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """Re-assert, and watch the read-back."""
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    cdef uint16_t seen = _seen(bank, index)
    cdef bint agrees = d.readback == _NONE_U32 or seen == (1 if d.trip else 0)
    if run.unverified and run.replied and agrees:
        _confirm(bank, index, now, _EVF_LATE)
    elif run.unverified and run.confirm_by_ns != 0 and now.mono_ns >= run.confirm_by_ns:
        _fail(bank, index, now, _EV_OUT_FAILED, 2)
    elif agrees:
        run.differs_since_ns = 0
    elif seen == SEEN_UNKNOWN:
        run.differs_since_ns = 0
        if not run.unverified:
            _unverified(bank, index, now)
    elif run.differs_since_ns == 0:
        run.differs_since_ns = now.mono_ns
    elif now.mono_ns - run.differs_since_ns >= d.confirm_ns:
        _fail(bank, index, now, _EV_OUT_MISMATCH, 3)


cdef void _unverified(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    run.unverified = 1
    run.latch.confirmed = 0
    run.confirm_by_ns = 0
    _record(bank, index, now, _EV_OUT_UNVERIFIED, 0, 0)


cdef void _releasing(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """A normal value permits, it starts nothing: the device's own reply is its confirmation."""
    cdef OutputRun* run = &bank.runs[index]
    if run.replied:
        run.latch.confirmed = 1
        _enter(bank, index, _OUTS_RELEASED, now)
        _record(bank, index, now, _EV_OUT_RELEASED, 0, 0)
    elif now.mono_ns - run.entered_ns >= RELEASE_NS_MAX or (
        run.tries >= RELEASE_TRIES_MAX and not run.in_flight
    ):
        _enter(bank, index, _OUTS_HELD, now)
        _record(bank, index, now, _EV_OUT_HELD, 0, 1 if run.refused else 2)


cdef void _held(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """After a first start alone: the plant already is as ``normal`` says."""
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    if not run.first_hold or not d.flags & _OUT_HAS_NORMAL or d.readback == _NONE_U32:
        return
    if _seen(bank, index) == (1 if d.normal else 0):
        run.first_hold = 0
        _enter(bank, index, _OUTS_RELEASED, now)
        _record(bank, index, now, _EV_OUT_RELEASED, 0, 0)


cdef void _wish(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """What is to be written now, if anything."""
    cdef OutputRun* run = &bank.runs[index]
    run.wish = WISH_NONE
    if run.in_flight or now.mono_ns < run.next_write_ns:
        return
    if run.latch.state in (_OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED):
        run.wish = WISH_TRIP
    elif run.latch.state == _OUTS_RELEASING and run.tries < RELEASE_TRIES_MAX:
        run.wish = WISH_NORMAL


cdef void outputs_scan(Bank* bank, const Stamp* now) noexcept nogil:
    """Every output once: demand, one row of the state table, the wish, the latch."""
    cdef OutputRun* run
    cdef uint32_t i, state, demanded
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        demanded = 1 if bank.demand[i] or bank.stopping else 0
        state = run.latch.state
        if demanded:
            bank.releasable[i] = 0
        if run.first_hold:
            demanded |= 2  # kept in the latch over a restart
        if run.latch.demand != demanded:
            run.latch.demand = demanded
            run.dirty = 1
        demanded &= 1
        if state in (_OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED):
            if not demanded and bank.releasable[i]:
                bank.releasable[i] = 0
                _begin_release(bank, i, now)
        elif demanded:
            _begin_trip(bank, i, now)
        state = run.latch.state
        if state == _OUTS_TRIPPING:
            _tripping(bank, i, now)
        elif state == _OUTS_TRIPPED:
            _tripped(bank, i, now)
        elif state == _OUTS_TRIP_FAILED:
            _failed(bank, i, now)
        elif state == _OUTS_RELEASING:
            _releasing(bank, i, now)
        elif state == _OUTS_HELD:
            _held(bank, i, now)
        _wish(bank, i, now)
        if run.dirty:
            output_store(&bank.shm.outputs[i], &run.latch)
            run.dirty = 0


cdef uint16_t output_value(const Bank* bank, uint32_t index) noexcept nogil:
    """The value that the present state commands."""
    cdef uint32_t state = bank.runs[index].latch.state
    if state == _OUTS_RELEASING or state == _OUTS_RELEASED:
        return bank.program.outputs[index].normal
    return bank.program.outputs[index].trip


cdef void output_sent(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """A whole write of it is on the wire (``now`` was taken after the send)."""
    cdef OutputRun* run = &bank.runs[index]
    run.in_flight = 1
    run.wish = WISH_NONE
    run.latch.commanded = output_value(bank, index)
    run.dirty = 1
    if run.latch.state == _OUTS_RELEASING:
        run.tries += 1
        run.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS
        return
    if run.latch.wire_ns == 0:
        run.latch.wire_ns = now.mono_ns
    if run.latch.state == _OUTS_TRIPPED and not run.unverified:
        run.next_write_ns = now.mono_ns + bank.program.outputs[index].reassert_ns
    elif run.latch.state == _OUTS_TRIP_FAILED:
        run.next_write_ns = now.mono_ns + run.retry_ns
        run.retry_ns = min(2 * run.retry_ns, RETRY_NS_MAX)
    else:
        run.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS


cdef void output_replied(
    Bank* bank, uint32_t index, bint refused, const Stamp* now,
) noexcept nogil:
    """The device's own reply to the outstanding write: an echo, or a refusal."""
    cdef OutputRun* run = &bank.runs[index]
    if not run.in_flight:
        return
    run.in_flight = 0
    run.dirty = 1
    if refused:
        run.refused = 1
        run.latch.fails += 1
        return
    run.refused = 0
    run.replied = 1
    run.latch.last_reply_ns = now.mono_ns


cdef void output_expired(Bank* bank, uint32_t index) noexcept nogil:
    """No reply to the outstanding write in its time: it may be written again."""
    bank.runs[index].in_flight = 0
    bank.runs[index].latch.fails += 1


cdef void output_parted(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """The write that it shared with others was refused: written again, alone, at once."""
    cdef OutputRun* run = &bank.runs[index]
    if not run.in_flight:
        return
    run.in_flight = 0
    run.next_write_ns = now.mono_ns
    if run.tries > 0:
        run.tries -= 1


cdef void output_restore_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """At start, where its copies are damaged: the trip value, whatever was demanded."""
    _begin_trip(bank, index, now)
    bank.runs[index].restored = 1


cdef void outputs_link_down(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """The connection that carries this device's outputs ended."""
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        if bank.program.outputs[i].device != device:
            continue
        run.in_flight = 0
        if run.latch.state == _OUTS_TRIPPED and not run.unverified:
            run.replied = 0
            _unverified(bank, i, now)
        elif run.latch.state == _OUTS_TRIPPED:
            run.confirm_by_ns = 0
        elif run.latch.state in (_OUTS_TRIPPING, _OUTS_TRIP_FAILED):
            run.replied = 0


cdef void outputs_link_up(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """A new connection: every pending trip value is the first thing on it."""
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        if bank.program.outputs[i].device != device:
            continue
        if run.latch.state in (_OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED):
            run.replied = 0
            run.next_write_ns = now.mono_ns
            if run.latch.state == _OUTS_TRIPPED:
                run.unverified = 1
                run.confirm_by_ns = now.mono_ns + bank.program.outputs[i].confirm_ns
            _wish(bank, i, now)


cdef uint32_t output_command_release(
    Bank* bank, uint32_t index, uint32_t forbidden, const Stamp* now,
) noexcept nogil:
    """RELEASE command: HELD (or tripped with nothing that demands it) -> RELEASING.

    ``forbidden`` is the result where its causes are not all known false, else 0.
    """
    cdef OutputRun* run = &bank.runs[index]
    if run.latch.state == _OUTS_RELEASED or run.latch.state == _OUTS_RELEASING:
        return _RESULT_ALREADY
    if bank.demand[index] or bank.stopping:
        return _RESULT_CAUSE_PRESENT
    if forbidden != 0:
        return forbidden
    if not bank.program.outputs[index].flags & _OUT_HAS_NORMAL:
        return _RESULT_NOT_ALLOWED
    _begin_release(bank, index, now)
    return _RESULT_DONE


cdef bint outputs_quiet(const Bank* bank) noexcept nogil:
    """No output is commanded to its trip value or on the way there or back."""
    cdef uint32_t i, state
    for i in range(bank.program.output_count):
        state = bank.runs[i].latch.state
        if bank.demand[i] or state in (
            _OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED, _OUTS_RELEASING
        ):
            return False
    return True


cdef bint outputs_confirmed(const Bank* bank) noexcept nogil:
    """Every output is TRIPPED and confirmed (what STOP waits for)."""
    cdef uint32_t i
    for i in range(bank.program.output_count):
        if bank.runs[i].latch.state != _OUTS_TRIPPED or not bank.runs[i].latch.confirmed:
            return False
    return True
