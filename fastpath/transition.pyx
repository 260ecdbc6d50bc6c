# cython: cdivision=True
"""How an output goes from state to state: each step recorded, then stored, before it is written."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from fastpath.bank cimport DEMANDED, OutputRun
from fastpath.journal cimport journal_write, output_store
from fastpath.types cimport *

cdef int64_t RETRY_NS_MIN = 100_000_000

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


cdef uint16_t output_value(const Bank* bank, uint32_t index) noexcept nogil:
    """The value that the present state commands."""
    cdef uint32_t state = bank.runs[index].latch.state
    if state == _OUTS_RELEASING or state == _OUTS_RELEASED:
        return bank.program.outputs[index].normal
    return bank.program.outputs[index].trip


cdef uint16_t output_seen(const Bank* bank, uint32_t index) noexcept nogil:
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


cdef bint output_agrees(const Bank* bank, uint32_t index) noexcept nogil:
    """The read-back says tripped, by a reading not older than the write; True without one.

    Before anything was asked for, as right after a restart, no reading is.
    """
    cdef const OutputDef* d = &bank.program.outputs[index]
    if d.readback == _NONE_U32:
        return True
    return (
        output_seen(bank, index) == (1 if d.trip else 0)
        and bank.runs[index].latch.wire_ns != 0
        and bank.shm.image[d.readback].mono_ns >= bank.runs[index].latch.wire_ns
    )


cdef void output_record(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t type, uint16_t flags, uint32_t code,
) noexcept nogil:
    """Journal first, then the latch."""
    cdef OutputRun* run = &bank.runs[index]
    cdef OutputPayload payload
    cdef uint64_t seq
    memset(&payload, 0, sizeof(payload))
    payload.generation = run.latch.generation
    payload.wanted = output_value(bank, index)
    payload.seen = output_seen(bank, index)
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


cdef void output_enter(
    Bank* bank, uint32_t index, uint32_t state, const Stamp* now,
) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    run.latch.state = state
    run.latch.since_ns = now.boot_ns
    run.entered_ns = now.mono_ns
    run.differs_since_ns = 0
    run.uncommanded = 0
    run.dirty = 1


cdef uint32_t _cause(Bank* bank, uint32_t index) noexcept nogil:
    """Who demands it, into the latch; the record's code.

    An interlock's key, or with FALLBACK the key of the output that failed.
    """
    cdef OutputRun* run = &bank.runs[index]
    run.latch.cause_key = 0
    if bank.demand[index] == DEMANDED and not bank.stopping:
        run.latch.demand_ns = bank.demand_ns[index]
        run.latch.cause_key = bank.program.interlocks[bank.cause[index]].key
    elif run.latch.demand & _DEMAND_FALLBACK and not bank.stopping:
        run.latch.cause_key = bank.program.outputs[run.failed].key
        if not run.sounds_again:
            return _OUTC_FALLBACK
    return _OUTC_SOUNDS_AGAIN if run.sounds_again else _OUTC_NOTHING


cdef void output_begin_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """-> TRIPPING: drops any release, writes now."""
    cdef OutputRun* run = &bank.runs[index]
    cdef uint32_t code
    output_enter(bank, index, _OUTS_TRIPPING, now)
    run.latch.generation += 1
    run.latch.fails = 0
    run.latch.confirmed = 0
    run.latch.wire_ns = 0
    run.latch.confirm_ns = 0
    run.latch.demand_ns = now.mono_ns
    code = _cause(bank, index)
    run.sounds_again = 0
    run.replied = 0
    run.refused = 0
    run.in_flight = 0
    run.unverified = 0
    run.first_hold = 0
    run.restored = 0
    run.next_write_ns = now.mono_ns
    run.retry_ns = RETRY_NS_MIN
    run.confirm_by_ns = now.mono_ns + bank.program.outputs[index].confirm_ns
    output_record(bank, index, now, _EV_OUT_TRIP, 0, code)


cdef void output_begin_release(
    Bank* bank, uint32_t index, const Stamp* now, uint32_t code,
) noexcept nogil:
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
    run.latch.demand &= ~<uint32_t>_DEMAND_BEAT_STOPPED
    run.next_write_ns = now.mono_ns
    if not bank.program.outputs[index].flags & _OUT_HAS_NORMAL:
        output_enter(bank, index, _OUTS_HELD, now)
        output_record(bank, index, now, _EV_OUT_HELD, 0, code)
        return
    if bank.program.outputs[index].path == _PATH_GATEWAY:
        run.latch.generation += 1  # a late result of the trip is none of the release
    output_enter(bank, index, _OUTS_RELEASING, now)
    output_record(bank, index, now, _EV_OUT_RELEASE, 0, code)


cdef void output_confirm(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t flags,
) noexcept nogil:
    """-> TRIPPED, or verified again; heartbeats that were withheld for it may go on."""
    cdef OutputRun* run = &bank.runs[index]
    if run.latch.confirm_ns == 0:
        run.latch.confirm_ns = now.mono_ns
    run.latch.confirmed = 1
    run.latch.demand &= ~<uint32_t>_DEMAND_BEAT_STOPPED
    run.unverified = 0
    run.restored = 0
    run.confirm_by_ns = 0
    if run.latch.state != _OUTS_TRIPPED:
        output_enter(bank, index, _OUTS_TRIPPED, now)
    run.next_write_ns = now.mono_ns + bank.program.outputs[index].reassert_ns
    output_record(bank, index, now, _EV_OUT_CONFIRMED, flags, 0)


cdef void output_fail(
    Bank* bank, uint32_t index, const Stamp* now, uint16_t type, uint32_t code,
) noexcept nogil:
    """-> TRIP_FAILED: goes on trying for ever, 100 ms doubling to 1 s; its fallbacks trip."""
    cdef OutputRun* run = &bank.runs[index]
    output_enter(bank, index, _OUTS_TRIP_FAILED, now)
    run.latch.confirmed = 0
    run.latch.confirm_ns = 0
    run.latch.fails += 1
    run.latch.demand |= _DEMAND_FAILED
    run.failure = code
    bank.failed_now = True
    run.confirm_by_ns = 0
    run.replied = 0
    run.refused = 0
    run.retry_ns = RETRY_NS_MIN
    run.next_write_ns = now.mono_ns
    output_record(bank, index, now, type, 0, code)


cdef void output_unverified(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """TRIPPED, but nobody hears whether it still is."""
    cdef OutputRun* run = &bank.runs[index]
    run.unverified = 1
    run.latch.confirmed = 0
    run.confirm_by_ns = 0
    output_record(bank, index, now, _EV_OUT_UNVERIFIED, 0, 0)
