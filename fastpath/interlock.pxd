"""Interlocks: states, delays, latches, reset, first-out (the state table of the guard)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastpath.journal cimport Shm, Stamp
from fastpath.program cimport ProgramView, Register
from fastpath.types cimport InterlockLatch

cdef struct InterlockRun:
    InterlockLatch latch  # working copy; stored where it changed
    int64_t unknown_since_ns  # the ride-through's clock (monotonic), 0: not running
    int64_t known_since_ns
    uint8_t last_known  # Truth before it became unknown; _T_UNKNOWN: nothing known yet
    uint8_t truth  # of the cause, this scan
    uint8_t permitted  # this scan
    uint8_t grace  # until every input of its cause was read, or had its time to be
    uint8_t dirty

cdef struct Logic:
    Shm* shm
    const ProgramView* program
    Register* registers
    InterlockRun* runs
    uint32_t* order  # interlock indices in the site file's order
    uint8_t* group_taken  # the group has a first-out
    uint64_t* group_scan  # the scan in which it got it
    uint8_t* releasable  # per output: a reset or return permits its release
    int64_t last_scan_ns  # monotonic: when the scan before this one began

cdef void interlocks_scan(Logic* logic, const Stamp* now) noexcept nogil
cdef void interlocks_demand(
    Logic* logic, const Stamp* now, uint8_t* demand, uint32_t* cause, int64_t* demand_ns,
) noexcept nogil
cdef void interlock_trip(
    Logic* logic, uint32_t index, uint32_t reason, const Stamp* now) noexcept nogil
cdef uint32_t interlock_command_trip(
    Logic* logic, uint32_t index, uint32_t kind, const Stamp* now, uint32_t* detail,
) noexcept nogil
cdef uint32_t interlock_command_reset(
    Logic* logic, uint32_t index, uint32_t generation, uint64_t ledger_seq,
    const uint8_t* command_id, const Stamp* now, uint32_t* detail) noexcept nogil
cdef uint32_t interlock_forbids(const Logic* logic, uint32_t output) noexcept nogil
cdef void interlocks_marks(
    const Logic* logic, int64_t before_ns, uint64_t* marks) noexcept nogil
cdef void interlocks_store(Logic* logic) noexcept nogil
cdef void interlocks_regroup(Logic* logic) noexcept nogil
cdef bint interlocks_quiet(const Logic* logic) noexcept nogil
