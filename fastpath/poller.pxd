"""The guard's own reading of its fast devices: one connection, one request at a time."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.intake cimport Intake
from fastpath.journal cimport Shm, Stamp
from fastpath.link cimport Link
from fastpath.program cimport ProgramView

cdef enum:
    RUN_REQUESTS_MAX = 18_432  # every REQUEST, and what bisection can split them into

cdef struct RunRequest:
    uint32_t request  # REQUEST it came from
    uint32_t decode_first
    uint32_t decode_count
    int32_t next  # of the same device, -1: last
    int64_t due_ns
    uint16_t address
    uint16_t count
    uint8_t guilty  # the device refuses this one point
    uint8_t busy  # retries of this poll after exceptions 5 and 6

cdef struct Poller:
    Link link
    int32_t first  # RunRequest, -1: this device is not read
    int32_t outstanding  # RunRequest, -1: none
    uint16_t tid
    uint8_t late  # the reply of an expired request is still to come
    uint8_t told  # 0 nothing, 1 DEVICE_UP, 2 DEVICE_DOWN
    int64_t sent_ns
    int64_t deadline_ns
    int64_t not_before_ns
    int64_t settle_until_ns
    int64_t down_since_ns  # monotonic
    int64_t yielded_ns  # monotonic, 0: never
    int frame_length
    uint8_t frame[16]

cdef struct PollBank:
    Shm* shm
    const ProgramView* program
    Intake* intake
    RunRequest* requests
    uint32_t request_count
    uint32_t request_max
    Poller* pollers
    uint8_t* device_up
    uint64_t random
    uint64_t sent  # requests so far

cdef void pollers_plan(PollBank* bank, int64_t now_ns) noexcept nogil
cdef void poller_turn(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void poller_yield(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef bint poller_event(
    PollBank* bank, uint32_t device, short revents, const Stamp* now) noexcept nogil
cdef int64_t poller_due(const PollBank* bank, uint32_t device) noexcept nogil

# What the bus of a serial line does with a poller: ask, hear, give up, begin, end.
cdef bint poller_ask(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef bint poller_answered(
    PollBank* bank, uint32_t device, const uint8_t* adu, int length, const Stamp* now,
) noexcept nogil
cdef void poller_failed(PollBank* bank, uint32_t device) noexcept nogil
cdef int64_t poller_next_ns(const PollBank* bank, uint32_t device) noexcept nogil
cdef void poller_begin(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void poller_end(
    PollBank* bank, uint32_t device, uint32_t reason, int error, const Stamp* now) noexcept nogil
