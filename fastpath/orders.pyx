# cython: cdivision=True
"""What people may order of an interlock: trip, reset; and what forbids to release an output."""

from fastpath.bypass cimport bypass_end_interlock
from fastpath.interlock cimport (
    InterlockRun, interlock_holds, interlock_release, interlock_trip,
)
from fastpath.journal cimport interlock_store
from fastpath.types cimport *


cdef uint32_t order_trip(
    Logic* logic, uint32_t index, uint32_t kind, const Stamp* now, uint32_t* detail,
) noexcept nogil:
    """TRIP command: acts in this scan. DONE or ALREADY; ``detail`` says UNARMED.

    It ends a bypass that withholds. What is tripped already, and would return by itself, waits for
    a reset from now on.
    """
    cdef InterlockLatch* latch = &logic.runs[index].latch
    detail[0] = 0
    if not logic.program.interlocks[index].flags & _IL_ARMED:
        detail[0] = _DETAIL_UNARMED
    if latch.state == _ILS_TRIPPED and not latch.flags & _LATCH_WITHHELD:
        if not latch.flags & _LATCH_NEEDS_RESET:
            latch.flags |= _LATCH_NEEDS_RESET
            interlock_store(&logic.shm.interlocks[index], latch)
        return _RESULT_ALREADY
    bypass_end_interlock(logic, index, _BYPASSE_TRIP, NULL, now)
    interlock_trip(
        logic, index, _TRIP_EXERCISE if kind == _TRIPK_EXERCISE else _TRIP_MANUAL, now)
    return _RESULT_DONE


cdef uint32_t order_reset(
    Logic* logic, uint32_t index, uint32_t generation, uint64_t ledger_seq,
    const uint8_t* command_id, const Stamp* now, uint32_t* detail,
) noexcept nogil:
    """RESET command: releases READY_TO_RESET of the same generation, else says why not.

    ``detail`` is the number of a leg that is true (4) or unknown (5).
    """
    cdef const InterlockDef* d = &logic.program.interlocks[index]
    cdef InterlockRun* run = &logic.runs[index]
    detail[0] = 0
    if run.latch.state == _ILS_NORMAL or (
        run.latch.flags & _LATCH_WITHHELD and run.latch.state != _ILS_PENDING
    ):
        return _RESULT_ALREADY
    if run.latch.generation != generation:
        return _RESULT_WRONG_GENERATION
    if run.latch.state == _ILS_PENDING:
        return _RESULT_CAUSE_PRESENT
    if logic.faulted:
        # Nothing that was evaluated in this scan is a reason to release, bypassed or not.
        return _RESULT_CAUSE_UNKNOWN
    if run.latch.flags & _LATCH_BYPASSED:
        # Begun on a trip: its outputs go free, its cause may be there.
        if not run.permitted:
            return _RESULT_PERMISSIVE
        interlock_release(logic, index, now, _EV_RESET, ledger_seq, command_id)
        return _RESULT_DONE
    # A restored READY is none before its inputs were read.
    if (
        run.latch.state == _ILS_READY_TO_RESET and run.truth == _T_FALSE and run.permitted
    ):
        interlock_release(logic, index, now, _EV_RESET, ledger_seq, command_id)
        return _RESULT_DONE
    if run.truth == _T_TRUE:
        detail[0] = _leg_that_is(run.latch.legs, d.legs_count, _T_TRUE)
        return _RESULT_CAUSE_PRESENT
    if run.grace or run.truth == _T_UNKNOWN:
        detail[0] = _leg_that_is(run.latch.legs, d.legs_count, _T_UNKNOWN)
        return _RESULT_CAUSE_UNKNOWN
    if not run.permitted:
        return _RESULT_PERMISSIVE
    return _RESULT_MINIMUM_TRIP_TIME


cdef uint32_t release_forbidden(const Logic* logic, uint32_t output) noexcept nogil:
    """Why a RELEASE of this output must wait: its causes are not all known false. 0: nothing."""
    cdef const InterlockDef* d
    cdef const InterlockRun* run
    cdef uint32_t i, k
    cdef uint32_t why = _RESULT_CAUSE_UNKNOWN if logic.faulted else 0
    for i in range(logic.program.interlock_count):
        d = &logic.program.interlocks[i]
        run = &logic.runs[i]
        if not d.flags & _IL_ARMED or run.latch.flags & _LATCH_WITHHELD:
            continue
        for k in range(d.effects_first, d.effects_first + d.effects_count):
            if logic.program.effects[k].output != output:
                continue
            if interlock_holds(&run.latch) or run.truth == _T_TRUE:
                return _RESULT_CAUSE_PRESENT
            # Where bad input is ignored for good, it forbids nothing once it had time to be read.
            if run.truth == _T_UNKNOWN and (
                run.grace or d.on_bad != _ON_BAD_IGNORE
            ):
                why = _RESULT_CAUSE_UNKNOWN
    return why


cdef uint32_t _leg_that_is(uint64_t legs, uint32_t count, uint8_t truth) noexcept nogil:
    cdef uint32_t i
    for i in range(min(count, <uint32_t>_LEGS_PER_INTERLOCK_MAX)):
        if (legs >> (2 * i)) & 3 == truth:
            return i
    return 0
