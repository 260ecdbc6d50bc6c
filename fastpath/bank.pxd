"""What each output must be, and what is known of it: the structs that its parts share."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastpath.journal cimport Shm
from fastpath.program cimport ProgramView
from fastpath.types cimport _DEVICES_MAX, _OUTPUTS_MAX, _WATCHDOGS_MAX, OutputLatch

cdef enum:
    WISH_NONE = 0
    WISH_TRIP = 1
    WISH_NORMAL = 2

cdef enum:  # Bank.demand
    AWAITED = 1  # what names it holds, but its effect's delay still runs: not let go meanwhile
    DEMANDED = 2

cdef struct OutputRun:
    OutputLatch latch  # working copy; stored where it changed
    uint32_t demand  # OutputDemand of this scan, before it enters the latch
    uint32_t failure  # OutputCode of its last OUT_FAILED or OUT_MISMATCH
    uint32_t failed  # output that it stands in for (while demanded as a fallback)
    uint8_t wish  # what is to be written now
    uint8_t in_flight  # a write of it is outstanding: number of its slot + 1
    uint8_t replied  # the device's own reply to the present command has come
    uint8_t refused  # the device refused the present command
    uint8_t tries  # of a release
    uint8_t unverified
    uint8_t first_hold  # HELD by a first start: the read-back alone may release it
    uint8_t restored  # tripped before a restart: its confirmation is late
    uint8_t sounds_again  # its silence ended with the demand still there
    uint8_t uncommanded  # told: the read-back contradicts what nobody commanded
    uint8_t dirty
    int64_t entered_ns  # monotonic: this state
    int64_t confirm_by_ns  # monotonic, 0: none
    int64_t next_write_ns
    int64_t retry_ns
    int64_t differs_since_ns  # the read-back contradicts, 0: it does not

cdef struct Bank:
    Shm* shm
    const ProgramView* program
    OutputRun* runs
    uint8_t* demand  # by the interlocks, in this scan
    uint32_t* cause
    int64_t* demand_ns
    uint8_t* releasable
    bint stopping  # STOP with on_stop = trip: everything is demanded
    bint gateway_up  # whoever writes the outputs of PATH_GATEWAY is heard
    bint failed_now  # an output failed in this scan: its fallbacks follow in the same
    uint32_t failing  # outputs that are TRIP_FAILED, or withhold heartbeats
    bint withholding  # a heartbeat is withheld
    uint8_t withheld[_DEVICES_MAX]
    uint32_t withheld_by[_DEVICES_MAX]  # the output that failed
    uint32_t silenced
    uint64_t marks[_OUTPUTS_MAX]  # generations of the interlocks that name each; if any is silenced
    uint32_t watchdog_count
    uint32_t watchdogs[_WATCHDOGS_MAX]  # slots of the registers
    uint8_t unwatched[_DEVICES_MAX]  # one of its registers is not known right: nothing is released
    uint8_t misset[_DEVICES_MAX]  # told: one has another value
