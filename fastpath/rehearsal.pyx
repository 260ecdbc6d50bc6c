# cython: cdivision=True
"""The way of a trip walked on scratch paper, so that a real one finds code and memory warm.

Between two polls the processor sleeps and forgets. Once a request is on its way the scan thread
has nothing to do for the round trip: it trips a copy of the first interlock and of the first
output in memory of its own, and fetches the places where a real trip would be written. Nothing
that anybody else can see changes.
"""

from libc.string cimport memset

from fastpath.interlock cimport Logic, interlock_trip
from fastpath.journal cimport sample_place
from fastpath.outputs cimport Bank, output_restore_trip
from fastpath.types cimport *

cdef extern from *:
    """
    static inline void sw_fetch_to_write(const void *at) { __builtin_prefetch(at, 1, 3); }
    """
    void sw_fetch_to_write(const void* at) nogil

cdef enum:
    CACHE_LINE_BYTES = 64


cdef inline void _fetch(const void* at, size_t size) noexcept nogil:
    cdef size_t line
    for line in range((size + CACHE_LINE_BYTES - 1) // CACHE_LINE_BYTES):
        sw_fetch_to_write(<const char*>at + line * CACHE_LINE_BYTES)


cdef void rehearse(Rehearsal* r, const Parts* parts, const Stamp* now) noexcept nogil:
    """About a microsecond; for a program with an interlock and an output."""
    cdef Logic logic = parts.logic
    cdef Bank bank = parts.bank
    cdef const Shm* shm = parts.shm
    if logic.program.interlock_count == 0 or logic.program.output_count == 0:
        return
    memset(&r.live, 0, sizeof(r.live))  # an empty ring: each record goes into its first place
    r.shm = shm[0]
    r.shm.live = &r.live
    r.shm.events = &r.event
    r.shm.interlocks = &r.interlock
    r.shm.outputs = &r.output
    r.interlock_run = logic.runs[0]
    logic.shm = &r.shm
    logic.runs = &r.interlock_run
    logic.group_taken = r.group_taken
    logic.group_scan = r.group_scan
    interlock_trip(&logic, 0, _TRIP_CAUSE, now)
    r.live.event_head = 0
    r.output_run = bank.runs[0]
    bank.shm = &r.shm
    bank.runs = &r.output_run
    output_restore_trip(&bank, 0, now)
    _fetch(&shm.events[shm.live.event_head % _EVENTS_MAX], 2 * sizeof(Event))
    _fetch(sample_place(shm), CACHE_LINE_BYTES)
    _fetch(&shm.interlocks[0], sizeof(r.interlock))
    _fetch(&shm.outputs[0], sizeof(r.output))
