# cython: cdivision=True
"""A device's own watchdog registers: nothing is released while one is not as it must be.

A remote I/O whose watchdog is off keeps its last values when this guard dies; one that is set
otherwise brings old outputs back when talk returns. So the site file names the registers and the
values that they must have, the guard reads them for as long as it runs, and writes no normal value
to the device before all of them are known to be right.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.journal cimport journal_write
from fastpath.types cimport *

cdef struct DevicePayload:  # records.PAYLOADS[DEVICE_*]
    uint32_t reason
    uint32_t error
    int64_t down_ns
    uint64_t requests
    uint16_t refused[12]


cdef void watchdogs_plan(Bank* bank) noexcept nogil:
    """Find the registers of a program that begins to run; none of them is known yet."""
    cdef uint32_t i
    bank.watchdog_count = 0
    memset(bank.unwatched, 0, sizeof(bank.unwatched))
    for i in range(bank.program.device_count):
        bank.misset[i] = 1 if bank.shm.devices[i].flags & _DEVST_WATCHDOG_WRONG else 0
    for i in range(bank.program.tag_count):
        if (
            bank.program.tags[i].flags & _TAG_WATCHDOG
            and bank.watchdog_count < <uint32_t>_WATCHDOGS_MAX
        ):
            bank.watchdogs[bank.watchdog_count] = i
            bank.watchdog_count += 1
            bank.unwatched[bank.program.tags[i].device] = 1


cdef void _tell(Bank* bank, uint32_t device, bint wrong, const Stamp* now) noexcept nogil:
    """DEVICE_DOWN or DEVICE_UP with the reason WATCHDOG."""
    cdef DeviceStats* stats = &bank.shm.devices[device]
    cdef DevicePayload payload
    memset(&payload, 0, sizeof(payload))
    payload.reason = _DOWN_WATCHDOG
    payload.requests = stats.requests
    bank.misset[device] = wrong
    stats.flags &= ~<uint32_t>_DEVST_WATCHDOG_WRONG
    if wrong:
        stats.flags |= _DEVST_WATCHDOG_WRONG
    journal_write(
        bank.shm, now, _EV_DEVICE_DOWN if wrong else _EV_DEVICE_UP, 0, device,
        bank.program.devices[device].key, &payload, sizeof(payload))


cdef void watchdogs_scan(Bank* bank, const Stamp* now) noexcept nogil:
    """Which devices may be released. A register that has another value is told once."""
    cdef uint8_t wrong[_DEVICES_MAX]
    cdef const Slot* slot
    cdef uint32_t i, device
    if bank.watchdog_count == 0:
        return
    memset(wrong, 0, sizeof(wrong))
    memset(bank.unwatched, 0, sizeof(bank.unwatched))
    for i in range(bank.watchdog_count):
        device = bank.program.tags[bank.watchdogs[i]].device
        slot = &bank.shm.image[bank.watchdogs[i]]
        if slot.quality != _Q_GOOD:
            bank.unwatched[device] = 1
        if slot.quality == _Q_BAD and slot.reason == _REASON_OUT_OF_RANGE:
            wrong[device] = 1
    for device in range(bank.program.device_count):
        if wrong[device] and not bank.misset[device]:
            _tell(bank, device, True, now)
        elif bank.misset[device] and not bank.unwatched[device]:
            _tell(bank, device, False, now)
