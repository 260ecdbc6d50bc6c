"""Interlocks: states, delays, latches, first-out (the state table of the guard)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.journal cimport Shm, Stamp
from fastpath.program cimport ProgramView, Register
from fastpath.types cimport (
    _ILS_READY_TO_RESET, _ILS_TRIPPED, _LATCH_WITHHELD, InterlockLatch, TagBypassLatch,
)

cdef struct InterlockRun:
    InterlockLatch latch  # working copy; stored where it changed
    int64_t unknown_since_ns  # the ride-through's clock (monotonic), 0: not running
    int64_t known_since_ns
    uint8_t last_known  # Truth before it became unknown; _T_UNKNOWN: nothing known yet
    uint8_t truth  # of the cause, this scan
    uint8_t permitted  # this scan
    uint8_t ended  # a bypass ended in this scan: BYPASS_ENDED_*
    uint8_t blind  # told that its condition is
    uint8_t grace  # until every input of its cause was read, or had its time to be
    uint8_t dirty

cdef enum:  # InterlockRun.ended
    BYPASS_ENDED_QUIET = 1
    BYPASS_ENDED_LASTED = 2  # the cause had been there for its delay

cdef struct TagBypassRun:
    TagBypassLatch latch  # until_ns 0: free
    uint32_t slot
    uint64_t readers[16]  # bit per interlock: its condition reads the tag

cdef struct Logic:
    Shm* shm
    const ProgramView* program
    Register* registers
    InterlockRun* runs
    uint32_t* order  # interlock indices in the site file's order
    uint8_t* group_taken  # the group has a first-out
    uint64_t* group_scan  # the scan in which it got it
    uint8_t* releasable  # per output: a reset or return permits its release
    TagBypassRun* tag_bypasses  # _TAG_BYPASSES_MAX of them
    uint32_t tag_bypass_count  # live ones
    uint8_t* reads  # per register, for whoever looks which conditions read a tag
    int64_t last_scan_ns  # monotonic: when the scan before this one began
    bint faulted  # the program could not be evaluated whole in this scan

# It holds its outputs, and its group's first-out.
cdef inline bint interlock_holds(const InterlockLatch* latch) noexcept nogil:
    return not latch.flags & _LATCH_WITHHELD and (
        latch.state == _ILS_TRIPPED or latch.state == _ILS_READY_TO_RESET)

cdef void interlocks_scan(Logic* logic, const Stamp* now) noexcept nogil
cdef void interlocks_demand(
    Logic* logic, const Stamp* now, uint8_t* demand, uint32_t* cause, int64_t* demand_ns,
) noexcept nogil
# Any state -> TRIPPED with a new generation. A bypass goes on, but withholds nothing any more.
cdef void interlock_trip(
    Logic* logic, uint32_t index, uint32_t reason, const Stamp* now) noexcept nogil
# RESET or RETURN -> NORMAL; under a bypass what comes next is withheld.
cdef void interlock_release(
    Logic* logic, uint32_t index, const Stamp* now, uint16_t type, uint64_t ledger_seq,
    const uint8_t* command_id) noexcept nogil
# A record of this interlock, then its latch.
cdef void interlock_record(
    Logic* logic, uint32_t index, const Stamp* now, uint16_t type, uint16_t flags,
    const void* payload, size_t payload_bytes) noexcept nogil
cdef void interlocks_marks(
    const Logic* logic, int64_t before_ns, uint64_t* marks) noexcept nogil
cdef void interlocks_store(Logic* logic) noexcept nogil
cdef void interlocks_regroup(Logic* logic) noexcept nogil
