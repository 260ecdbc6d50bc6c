# cython: cdivision=True
"""Which of two guards owns a device's outputs: three registers in the device itself.

Each guard reads them on every new connection and before every heartbeat. Whoever finds another's
instance with a counter that still moves is passive there: it writes nothing. A lease that is free,
or whose counter stood still for its time, is claimed: our instance is written, and believed only
when it is still there a pause after it was first read back. An owner writes heartbeats and normal
values only shortly after it asked the device that named it the owner, for less than that pause, and
moves nothing but the counter: so two guards never both believe it and write, however late requests
and replies come and however long one of them was stopped.
"""

from libc.string cimport memset

from fastpath.journal cimport journal_write
from fastpath.types cimport *

cdef int64_t SETTLE_NS = 500_000_000  # a claim is believed after that
cdef int64_t SURE_NS = 400_000_000  # and ownership acted upon for less

cdef struct DevicePayload:  # records.PAYLOADS[DEVICE_*]
    uint32_t reason
    uint32_t error
    int64_t down_ns
    uint64_t requests
    uint16_t refused[12]


cdef void lease_opened(Lease* lease) noexcept nogil:
    """A new connection: nothing is sure before the registers were read on it."""
    lease.sure_ns = 0
    lease.due_ns = 0
    lease.write = 0


cdef uint8_t lease_wish(const Lease* lease, int64_t now_ns) noexcept nogil:
    """What is to be asked of the device now."""
    if lease.write:
        return lease.write
    return LEASE_READ if now_ns >= lease.due_ns else LEASE_NOTHING


cdef bint lease_sure(const Lease* lease, int64_t now_ns) noexcept nogil:
    """We own it, and the device said so a moment ago."""
    return (
        lease.state == LEASE_OWNER and lease.sure_ns != 0 and now_ns - lease.sure_ns < SURE_NS)


cdef void lease_asked(Lease* lease, int64_t now_ns) noexcept nogil:
    """A reading is on the wire: what it will say was so at this moment at the earliest."""
    lease.asked_ns = now_ns


cdef void lease_ask(Lease* lease) noexcept nogil:
    """A normal value waits: read at once."""
    lease.due_ns = 0


cdef void lease_values(Lease* lease, uint32_t instance, uint16_t* values) noexcept nogil:
    """What is written; the counter moves with every write."""
    lease.count += 1
    values[0] = <uint16_t>(instance & 0xFFFF)
    values[1] = <uint16_t>(instance >> 16)
    values[2] = lease.count
    lease.write = 0


cdef void _tell(Shm* shm, uint32_t device, uint64_t key, bint lost, const Stamp* now) noexcept nogil:
    """DEVICE_DOWN or DEVICE_UP with the reason LEASE, once."""
    cdef DeviceStats* stats = &shm.devices[device]
    cdef DevicePayload payload
    if ((stats.flags & _DEVST_LEASE_LOST) != 0) == lost:
        return
    memset(&payload, 0, sizeof(payload))
    payload.reason = _DOWN_LEASE
    payload.requests = stats.requests
    stats.flags &= ~<uint32_t>_DEVST_LEASE_LOST
    if lost:
        stats.flags |= _DEVST_LEASE_LOST
        shm.live.counters[_COUNT_LEASE_LOST] += 1
    journal_write(
        shm, now, _EV_DEVICE_DOWN if lost else _EV_DEVICE_UP, 0, device, key,
        &payload, sizeof(payload))


cdef void _claim(Lease* lease, const Stamp* now) noexcept nogil:
    lease.state = LEASE_CLAIMED
    lease.write = LEASE_CLAIM
    lease.claimed_ns = 0
    lease.other = 0
    lease.due_ns = now.mono_ns


cdef void _settle(Lease* lease, const Stamp* now) noexcept nogil:
    """Ours stands there; whoever asked before that acts on it for less than this pause."""
    lease.state = LEASE_CLAIMED
    lease.claimed_ns = now.mono_ns
    lease.due_ns = now.mono_ns + SETTLE_NS


cdef void _ours(Lease* lease, const DeviceDef* d, const Stamp* now) noexcept nogil:
    if lease.state == LEASE_CLAIMED and lease.claimed_ns == 0:
        _settle(lease, now)
    elif lease.state == LEASE_CLAIMED and lease.asked_ns - lease.claimed_ns < SETTLE_NS:
        lease.due_ns = lease.claimed_ns + SETTLE_NS
    elif (
        lease.state == LEASE_CLAIMED
        and lease.asked_ns - lease.claimed_ns >= SETTLE_NS + d.lease_ns // 2
    ):
        _settle(lease, now)  # stopped meanwhile: another may have been here
    elif lease.state == LEASE_OWNER and lease.asked_ns - lease.owned_ns >= d.lease_ns:
        _settle(lease, now)  # away for so long that another may have been here
    elif lease.state == LEASE_CLAIMED or lease.state == LEASE_OWNER:
        lease.state = LEASE_OWNER
        lease.sure_ns = lease.asked_ns
        lease.owned_ns = lease.asked_ns
        lease.write = LEASE_COUNT
    else:
        _claim(lease, now)


cdef void _others(
    Lease* lease, const DeviceDef* d, uint32_t holder, uint16_t count, const Stamp* now,
) noexcept nogil:
    """Another's instance: passive as soon as it lives, our turn when it stood still."""
    if lease.state == LEASE_OWNER or lease.state == LEASE_CLAIMED:
        lease.state = LEASE_PASSIVE
    if holder != lease.other:
        lease.other = holder
        lease.other_ns = now.mono_ns
    elif count != lease.other_count:
        lease.state = LEASE_PASSIVE
        lease.other_ns = now.mono_ns
    elif now.mono_ns - lease.other_ns >= d.lease_ns:
        _claim(lease, now)
    lease.other_count = count


cdef void lease_look(
    Lease* lease, Shm* shm, uint32_t device, const DeviceDef* d, uint32_t instance,
    const uint8_t* data, const Stamp* now,
) noexcept nogil:
    """The three registers as the device has them now (big-endian, as they came)."""
    cdef uint32_t holder = (
        (data[0] << 8 | data[1]) | (<uint32_t>(data[2] << 8 | data[3]) << 16))
    cdef uint16_t count = <uint16_t>(data[4] << 8 | data[5])
    lease.due_ns = now.mono_ns + d.every_ns
    if holder == instance:
        lease.count = count
        _ours(lease, d, now)
    elif holder == 0:
        _claim(lease, now)
    else:
        _others(lease, d, holder, count, now)
    if lease.state == LEASE_PASSIVE:
        _tell(shm, device, d.key, True, now)
    elif lease.state == LEASE_OWNER:
        _tell(shm, device, d.key, False, now)
