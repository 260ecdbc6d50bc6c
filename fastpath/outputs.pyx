# cython: cdivision=True
"""OutputBank: what each output must be (the state table), apart from how it is sent.

A trip is wished for again until the device's own reply has come and the read-back agrees. A normal
value is wished for at most three times within 10 s, and only after a reset, a return or a release.
"""

from fastpath.bank cimport OutputRun
from fastpath.delivery cimport output_wish
from fastpath.demand cimport demand_acts, demand_holds, demand_silence, demands_scan
from fastpath.heartbeat cimport heartbeats_plan, heartbeats_scan
from fastpath.journal cimport output_store
from fastpath.transition cimport (
    SEEN_UNKNOWN, output_agrees, output_begin_release, output_begin_trip, output_confirm,
    output_enter, output_fail, output_record, output_seen, output_unverified, output_value,
    state_trips,
)
from fastpath.types cimport *
from fastpath.watchdog cimport watchdogs_plan

cdef int64_t RELEASE_NS_MAX = 10_000_000_000
cdef uint8_t RELEASE_TRIES_MAX = 3


cdef void outputs_plan(Bank* bank) noexcept nogil:
    """For a program that begins to run: whatever is counted from scan to scan is unknown."""
    bank.silenced = 1
    bank.failing = 1
    heartbeats_plan(bank)
    watchdogs_plan(bank)


cdef void _tripping(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    cdef OutputRun* run = &bank.runs[index]
    if run.replied and output_agrees(bank, index):
        output_confirm(bank, index, now, _EVF_LATE if run.restored else 0)
    elif run.refused:
        output_fail(bank, index, now, _EV_OUT_FAILED, _OUTC_REFUSED)
    elif now.mono_ns >= run.confirm_by_ns:
        output_fail(bank, index, now, _EV_OUT_FAILED, _OUTC_TIMEOUT)


cdef void _failed(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    if bank.runs[index].replied and output_agrees(bank, index):
        output_confirm(bank, index, now, _EVF_LATE)


cdef void _tripped(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """Re-assert, and watch the read-back."""
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    cdef uint16_t seen = output_seen(bank, index)
    cdef bint agrees = d.readback == _NONE_U32 or seen == (1 if d.trip else 0)
    if run.unverified and run.replied and agrees:
        output_confirm(bank, index, now, _EVF_LATE)
    elif run.unverified and run.confirm_by_ns != 0 and now.mono_ns >= run.confirm_by_ns:
        output_fail(bank, index, now, _EV_OUT_FAILED, _OUTC_TIMEOUT)
    elif agrees:
        run.differs_since_ns = 0
    elif seen == SEEN_UNKNOWN:
        run.differs_since_ns = 0
        if not run.unverified:
            output_unverified(bank, index, now)
    elif run.differs_since_ns == 0:
        run.differs_since_ns = now.mono_ns
    elif now.mono_ns - run.differs_since_ns >= d.confirm_ns:
        output_fail(bank, index, now, _EV_OUT_MISMATCH, _OUTC_MISMATCH)


cdef void _releasing(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """A normal value permits, it starts nothing: the device's own reply is its confirmation."""
    cdef OutputRun* run = &bank.runs[index]
    cdef uint32_t code = _OUTC_REFUSED if run.refused else _OUTC_TIMEOUT
    if run.replied:
        run.latch.confirmed = 1
        output_enter(bank, index, _OUTS_RELEASED, now)
        output_record(bank, index, now, _EV_OUT_RELEASED, 0, 0)
    elif now.mono_ns - run.entered_ns >= RELEASE_NS_MAX or (
        run.tries >= RELEASE_TRIES_MAX and not run.in_flight
    ):
        if run.tries == 0 and _unwatched(bank, index):
            code = _OUTC_WATCHDOG
        output_enter(bank, index, _OUTS_HELD, now)
        output_record(bank, index, now, _EV_OUT_HELD, 0, code)


cdef void _held(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """After a first start alone: the plant already is as ``normal`` says."""
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    if not run.first_hold:
        _idle(bank, index, now)
        return
    if not d.flags & _OUT_HAS_NORMAL or d.readback == _NONE_U32:
        return
    if output_seen(bank, index) == (1 if d.normal else 0):
        run.first_hold = 0
        output_enter(bank, index, _OUTS_RELEASED, now)
        output_record(bank, index, now, _EV_OUT_RELEASED, 0, 0)


cdef void _idle(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """RELEASED or HELD: a read-back that contradicts for long is told once, and moves nothing.

    Two values that read back alike are not told apart.
    """
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    cdef uint16_t seen = output_seen(bank, index)
    if d.flags & _OUT_HAS_NORMAL and (d.trip != 0) == (d.normal != 0):
        return
    if seen == SEEN_UNKNOWN:
        run.differs_since_ns = 0
    elif seen == (1 if output_value(bank, index) else 0):
        run.differs_since_ns = 0
        if run.uncommanded:
            run.uncommanded = 0
            output_record(bank, index, now, _EV_OUT_MISMATCH, 0, _OUTC_NOTHING)
    elif run.differs_since_ns == 0:
        run.differs_since_ns = now.mono_ns
    elif not run.uncommanded and now.mono_ns - run.differs_since_ns >= d.confirm_ns:
        run.uncommanded = 1
        output_record(bank, index, now, _EV_OUT_MISMATCH, 0, _OUTC_UNCOMMANDED)


cdef void _step(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """One output: its demand, then one row of the state table."""
    cdef OutputRun* run = &bank.runs[index]
    cdef uint32_t state = run.latch.state
    if demand_holds(run.demand) or bank.demand[index]:
        bank.releasable[index] = 0
    if run.latch.demand != run.demand:
        run.latch.demand = run.demand
        run.dirty = 1
    if state_trips(state):
        if not demand_holds(run.demand) and bank.releasable[index]:
            bank.releasable[index] = 0
            output_begin_release(bank, index, now, 0)
    elif demand_acts(run.demand):
        output_begin_trip(bank, index, now)
    state = run.latch.state
    if state == _OUTS_TRIPPING:
        _tripping(bank, index, now)
    elif state == _OUTS_TRIPPED:
        _tripped(bank, index, now)
    elif state == _OUTS_TRIP_FAILED:
        _failed(bank, index, now)
    elif state == _OUTS_RELEASING:
        _releasing(bank, index, now)
    elif state == _OUTS_HELD:
        _held(bank, index, now)
    elif state == _OUTS_RELEASED:
        _idle(bank, index, now)


cdef void _settle(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """At the end of its scan: the wish, and the latch where it changed without a record."""
    cdef OutputRun* run = &bank.runs[index]
    output_wish(bank, index, now)
    if run.dirty:
        output_store(&bank.shm.outputs[index], &run.latch)
        run.dirty = 0


cdef void _follow(Bank* bank, const Stamp* now) noexcept nogil:
    """What failed in this scan trips its fallbacks in this scan, also those that were silenced."""
    cdef const FallbackDef* f
    cdef OutputRun* run
    cdef uint32_t i
    bank.failed_now = False
    for i in range(bank.program.fallback_count):
        f = &bank.program.fallbacks[i]
        run = &bank.runs[f.fallback]
        if (
            not bank.runs[f.output].latch.demand & _DEMAND_FAILED
            or run.latch.demand & _DEMAND_FALLBACK
        ):
            continue
        run.failed = f.output
        run.sounds_again = run.latch.demand & _DEMAND_SILENCED != 0
        run.latch.silence_until_ns = 0
        run.latch.demand = (run.latch.demand | _DEMAND_FALLBACK) & ~<uint32_t>(
            _DEMAND_SILENCED | _DEMAND_FIRST_HOLD)
        run.dirty = 1
        if not state_trips(run.latch.state):
            output_begin_trip(bank, f.fallback, now)
        _settle(bank, f.fallback, now)


cdef void outputs_scan(Bank* bank, const Stamp* now) noexcept nogil:
    """Every output once: demand, one row of the state table, the wish, the latch."""
    cdef const OutputRun* run
    cdef uint32_t i, failing = 0
    bank.failed_now = False
    demands_scan(bank, now)
    for i in range(bank.program.output_count):
        _step(bank, i, now)
        _settle(bank, i, now)
        run = &bank.runs[i]
        if run.latch.state == _OUTS_TRIP_FAILED or run.latch.demand & _DEMAND_BEAT_STOPPED:
            failing += 1
    bank.failing = failing
    if bank.failed_now:
        _follow(bank, now)
    heartbeats_scan(bank, now)


cdef void output_restore_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """At start, where its copies are damaged: the trip value, whatever was demanded."""
    output_begin_trip(bank, index, now)
    bank.runs[index].restored = 1


cdef bint _unwatched(const Bank* bank, uint32_t index) noexcept nogil:
    """Its device's own watchdog is not known to be set as it must be."""
    return (
        bank.program.outputs[index].path == _PATH_MODBUS
        and bank.unwatched[bank.program.outputs[index].device])


cdef uint32_t output_command_release(
    Bank* bank, uint32_t index, uint32_t forbidden, uint64_t mark, const Stamp* now,
    uint32_t* detail,
) noexcept nogil:
    """RELEASE command: HELD (or tripped with nothing that demands it) -> RELEASING.

    A demanded output that may be silenced is silenced for its time, and ``detail`` says so;
    ``mark`` is the sum of its interlocks' generations. ``forbidden`` is the result where its causes
    are not all known false, else 0.
    """
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    cdef bint silence = (
        d.silence_ns > 0 and demand_holds(run.latch.demand) and not bank.stopping)
    detail[0] = 0
    if run.latch.state == _OUTS_RELEASED or run.latch.state == _OUTS_RELEASING:
        return _RESULT_ALREADY
    if not silence and (bank.demand[index] or bank.stopping or demand_holds(run.latch.demand)):
        return _RESULT_CAUSE_PRESENT
    if not silence and forbidden != 0:
        return forbidden
    if not d.flags & _OUT_HAS_NORMAL or _unwatched(bank, index):
        return _RESULT_NOT_ALLOWED
    if silence:
        demand_silence(bank, index, mark, now)
        detail[0] = _DETAIL_SILENCED
    output_begin_release(bank, index, now, _OUTC_SILENCED if silence else _OUTC_NOTHING)
    return _RESULT_DONE


cdef bint outputs_confirmed(const Bank* bank) noexcept nogil:
    """Every output is TRIPPED and confirmed (what STOP waits for)."""
    cdef uint32_t i
    for i in range(bank.program.output_count):
        if bank.runs[i].latch.state != _OUTS_TRIPPED or not bank.runs[i].latch.confirmed:
            return False
    return True
