"""OutputBank: what each output must be (the state table), apart from how it is sent."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastpath.journal cimport Shm, Stamp
from fastpath.program cimport ProgramView
from fastpath.types cimport OutputLatch

cdef enum:
    WISH_NONE = 0
    WISH_TRIP = 1
    WISH_NORMAL = 2

cdef struct OutputRun:
    OutputLatch latch  # working copy; stored where it changed
    uint8_t wish  # what is to be written now
    uint8_t in_flight  # a write of it is outstanding
    uint8_t replied  # the device's own reply to the present command has come
    uint8_t refused  # the device refused the present command
    uint8_t tries  # of a release
    uint8_t unverified
    uint8_t first_hold  # HELD by a first start: the read-back alone may release it
    uint8_t restored  # tripped before a restart: its confirmation is late
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
    uint8_t* demand
    uint32_t* cause
    int64_t* demand_ns
    uint8_t* releasable
    bint stopping  # STOP with on_stop = trip: everything is demanded

cdef void outputs_scan(Bank* bank, const Stamp* now) noexcept nogil
cdef void output_sent(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef void output_replied(
    Bank* bank, uint32_t index, bint refused, const Stamp* now) noexcept nogil
cdef void output_expired(Bank* bank, uint32_t index) noexcept nogil
cdef void output_parted(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef void output_restore_trip(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef void outputs_link_down(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void outputs_link_up(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef uint32_t output_command_release(
    Bank* bank, uint32_t index, uint32_t forbidden, const Stamp* now) noexcept nogil
cdef uint16_t output_value(const Bank* bank, uint32_t index) noexcept nogil
cdef bint outputs_quiet(const Bank* bank) noexcept nogil
cdef bint outputs_confirmed(const Bank* bank) noexcept nogil
