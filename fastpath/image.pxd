"""Slots of value, quality and times, each under a lock word of its own.

One writer at a time (the scan thread, or the gateway's loop over its own image). Readers never
wait: eight tries, then the slot counts as unreadable for this read.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastpath.types cimport Slot

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* at)
    uint64_t sw_load_relaxed(const uint64_t* at)
    void sw_store_relaxed(uint64_t* at, uint64_t value)
    void sw_store_release(uint64_t* at, uint64_t value)
    void sw_fence_acquire()
    void sw_fence_release()

cdef enum:
    _READ_TRIES_MAX = 8


cdef inline void slot_write(
    Slot* s, double value, uint8_t quality, uint8_t reason,
    int64_t mono_ns, int64_t utc_ns, int64_t source_utc_ns,
) noexcept nogil:
    """Store one value. A lock that a killed writer left odd is taken over; the owner stays."""
    cdef uint64_t lock = sw_load_relaxed(&s.lock) | 1
    sw_store_relaxed(&s.lock, lock)
    sw_fence_release()
    s.value = value
    s.mono_ns = mono_ns
    s.utc_ns = utc_ns
    s.source_utc_ns = source_utc_ns
    s.quality = quality
    s.reason = reason
    sw_store_release(&s.lock, lock + 1)


cdef inline void slot_touch(Slot* s, int64_t mono_ns) noexcept nogil:
    """Refresh the age alone; never makes it older."""
    cdef uint64_t lock = sw_load_relaxed(&s.lock) | 1
    if s.mono_ns >= mono_ns:
        return
    sw_store_relaxed(&s.lock, lock)
    sw_fence_release()
    s.mono_ns = mono_ns
    sw_store_release(&s.lock, lock + 1)


cdef inline bint slot_read(const Slot* s, Slot* out) noexcept nogil:
    """Copy a slot without tearing. False: unreadable now, ``out`` means nothing."""
    cdef uint64_t lock
    cdef int _try
    for _try in range(_READ_TRIES_MAX):
        lock = sw_load_acquire(&s.lock)
        if lock & 1:
            continue
        out[0] = s[0]
        sw_fence_acquire()
        if sw_load_relaxed(&s.lock) == lock:
            return True
    return False


cdef inline bint slot_look(
    const Slot* s, double* value, int64_t* mono_ns, uint8_t* quality, uint8_t* reason,
) noexcept nogil:
    """As ``slot_read``, but only what a condition asks for."""
    cdef uint64_t lock
    cdef int _try
    for _try in range(_READ_TRIES_MAX):
        lock = sw_load_acquire(&s.lock)
        if lock & 1:
            continue
        value[0], mono_ns[0] = s.value, s.mono_ns
        quality[0], reason[0] = s.quality, s.reason
        sw_fence_acquire()
        if sw_load_relaxed(&s.lock) == lock:
            return True
    return False


cdef class TagImage:
    cdef Slot* slots
    cdef readonly uint32_t count
