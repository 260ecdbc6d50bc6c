"""The guard's clocks, read once per wake and handed on as arguments."""

from libc.stdint cimport int64_t
from posix.time cimport clock_gettime, timespec

cdef extern from "time.h" nogil:
    int CLOCK_MONOTONIC
    int CLOCK_BOOTTIME
    int CLOCK_REALTIME

cdef inline int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec

cdef inline int64_t mono_ns() noexcept nogil:
    return clock_ns(CLOCK_MONOTONIC)

cdef inline int64_t boot_ns() noexcept nogil:
    return clock_ns(CLOCK_BOOTTIME)

cdef inline int64_t utc_ns() noexcept nogil:
    return clock_ns(CLOCK_REALTIME)
