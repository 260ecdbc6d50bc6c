"""The way of a trip walked on scratch paper, so that a real one finds code and memory warm."""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.interlock cimport InterlockRun
from fastpath.journal cimport InterlockPair, LiveHeader, OutputPair, Shm, Stamp
from fastpath.outputs cimport OutputRun
from fastpath.runtime cimport Parts
from fastpath.types cimport _GROUPS_MAX, Event

cdef struct Rehearsal:
    Shm shm  # its live header, ring and latches are the scratch ones below
    LiveHeader live
    Event event
    InterlockPair interlock
    OutputPair output
    InterlockRun interlock_run
    OutputRun output_run
    uint8_t group_taken[_GROUPS_MAX]
    uint64_t group_scan[_GROUPS_MAX]

cdef void rehearse(Rehearsal* r, const Parts* parts, const Stamp* now) noexcept nogil
