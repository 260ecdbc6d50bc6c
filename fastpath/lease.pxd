"""Which of two guards owns a device's outputs: three registers in the device itself."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastpath.journal cimport Shm, Stamp
from fastpath.types cimport DeviceDef

cdef enum:
    LEASE_REGISTERS = 3  # instance low word, high word, counter

cdef enum LeaseState:
    LEASE_LOOKING = 0  # nothing known yet
    LEASE_CLAIMED = 1  # our instance is in; another may have written at the same time
    LEASE_OWNER = 2
    LEASE_PASSIVE = 3  # another guard moves the counter

cdef enum LeaseWish:
    LEASE_NOTHING = 0
    LEASE_READ = 1
    LEASE_CLAIM = 2  # all three registers
    LEASE_COUNT = 3  # the counter alone: it takes the device from nobody

cdef struct Lease:
    uint8_t state
    uint8_t write  # LeaseWish: the registers were read, and may be written now
    uint16_t count  # ours
    uint16_t other_count
    uint32_t other  # instance that was seen, 0: none
    int64_t other_ns  # when its counter moved last, or it was first seen
    int64_t claimed_ns  # when our claim was first read back, 0: not yet
    int64_t asked_ns  # when the newest reading was sent
    int64_t sure_ns  # sending of the last reading that said that we own it, 0: not on this connection
    int64_t owned_ns  # the same, over connections
    int64_t due_ns  # next reading

cdef void lease_opened(Lease* lease) noexcept nogil
cdef uint8_t lease_wish(const Lease* lease, int64_t now_ns) noexcept nogil
cdef bint lease_sure(const Lease* lease, int64_t now_ns) noexcept nogil
cdef void lease_asked(Lease* lease, int64_t now_ns) noexcept nogil
cdef void lease_ask(Lease* lease) noexcept nogil
cdef void lease_values(Lease* lease, uint32_t instance, uint16_t* values) noexcept nogil
cdef void lease_look(
    Lease* lease, Shm* shm, uint32_t device, const DeviceDef* d, uint32_t instance,
    const uint8_t* data, const Stamp* now) noexcept nogil
