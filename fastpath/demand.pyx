# cython: cdivision=True
"""Who demands an output: interlocks, STOP, or another output that failed; and what silences it.

An output that failed demands its fallbacks until its own demand has ended and it is released; then
they may be released by their own rules. A silenced output stays demanded, but is not commanded,
until its time is over, an interlock that names it trips anew, or something else demands it.
"""

from fastpath.bank cimport DEMANDED
from fastpath.types cimport *

cdef enum:
    PASSES_MAX = 5  # fallbacks are at most four deep


cdef bint _trips(uint32_t state) noexcept nogil:
    return state in (_OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED)


cdef void _stand_in(Bank* bank) noexcept nogil:
    """Demand the fallbacks of every output that failed and was not released since."""
    cdef const FallbackDef* f
    cdef uint32_t i
    for i in range(bank.program.output_count):
        bank.runs[i].demand &= ~<uint32_t>_DEMAND_FALLBACK
    for i in range(bank.program.fallback_count):
        f = &bank.program.fallbacks[i]
        if bank.runs[f.output].demand & _DEMAND_FAILED:
            bank.runs[f.fallback].demand |= _DEMAND_FALLBACK
            bank.runs[f.fallback].failed = f.output


cdef bint _end_failed(Bank* bank, uint32_t index) noexcept nogil:
    """Its own demand ended and it is let go: so are those that stand in for it."""
    cdef OutputRun* run = &bank.runs[index]
    cdef uint32_t i
    if not run.demand & _DEMAND_FAILED or demand_holds(run.demand) or bank.demand[index]:
        return False
    if _trips(run.latch.state) and not bank.releasable[index]:
        return False
    run.demand &= ~<uint32_t>_DEMAND_FAILED
    for i in range(bank.program.fallback_count):
        if bank.program.fallbacks[i].output == index:
            bank.releasable[bank.program.fallbacks[i].fallback] = 1
    return True


cdef void _fallbacks(Bank* bank) noexcept nogil:
    """A chain ends from its head, all of it in one scan."""
    cdef uint32_t i
    cdef bint ended = True
    cdef int _k
    for _k in range(PASSES_MAX + 1):
        if not ended:
            return
        _stand_in(bank)
        ended = False
        for i in range(bank.program.output_count):
            if _end_failed(bank, i):
                ended = True


cdef void _silence(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """Does it stay silent?"""
    cdef OutputRun* run = &bank.runs[index]
    cdef bint more = (
        run.demand & _DEMAND_FALLBACK and not run.latch.demand & _DEMAND_FALLBACK)
    if demand_holds(run.demand) and not (
        more or bank.stopping or now.boot_ns >= run.latch.silence_until_ns
        or bank.marks[index] != run.latch.silence_mark
    ):
        bank.silenced += 1
        return
    run.sounds_again = demand_holds(run.demand)
    run.demand &= ~<uint32_t>_DEMAND_SILENCED
    run.latch.silence_until_ns = 0
    run.dirty = 1


cdef void demands_scan(Bank* bank, const Stamp* now) noexcept nogil:
    """Every output's ``demand`` of this scan, from the interlocks' and from what failed."""
    cdef OutputRun* run
    cdef uint32_t i, kept = 0
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        run.demand = run.latch.demand & (
            _DEMAND_FAILED | _DEMAND_SILENCED | _DEMAND_BEAT_STOPPED)
        kept |= run.demand
        if bank.demand[i] == DEMANDED or bank.stopping:
            run.demand |= _DEMAND_CAUSE
        if run.first_hold:
            run.demand |= _DEMAND_FIRST_HOLD
    if kept & _DEMAND_FAILED:
        _fallbacks(bank)
    bank.silenced = 0
    if not kept & _DEMAND_SILENCED:
        return
    for i in range(bank.program.output_count):
        if bank.runs[i].demand & _DEMAND_SILENCED:
            _silence(bank, i, now)


cdef void demand_silence(
    Bank* bank, uint32_t index, uint64_t mark, const Stamp* now,
) noexcept nogil:
    """Silence it for its time; ``mark`` tells the trips that whoever silences it has heard of."""
    cdef OutputRun* run = &bank.runs[index]
    run.latch.demand |= _DEMAND_SILENCED
    run.latch.silence_mark = mark
    run.latch.silence_until_ns = now.boot_ns + bank.program.outputs[index].silence_ns
    bank.silenced += 1
