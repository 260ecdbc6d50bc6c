"""Windows over a tag's samples: mean, rate, delta, lowest, highest and total of the last while.

Fixed memory, 64 buckets each. What a window says is a function of the samples and the time alone,
whenever a scan looked.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastpath.layout cimport ProgramView
from fastpath.types cimport WindowDef, WindowState

cdef enum:  # WindowState.flags
    WINDOW_KNOWN = 1  # last_value is a value
    WINDOW_HELD = 2  # and it counts until the next sample, or until it is stale

cdef struct WindowRun:  # what a scan need not add up anew
    int64_t oldest  # bucket number: the sums are of this one and all complete ones after it
    int64_t head
    double sum
    double first
    int64_t covered_ns
    uint32_t summed  # 0: not yet
    uint32_t next  # the tag's next window, or _NONE_U32

cdef struct WindowBank:
    const ProgramView* program
    WindowState* states  # per WINDOW of the program
    WindowRun* runs
    uint32_t* first  # per tag: its first window, or _NONE_U32

# Lists each tag's windows and forgets all sums. ``runs`` and ``first`` have room for them.
cdef void windows_list(WindowBank* bank) noexcept nogil

# An empty window.
cdef void window_begin(WindowState* w, const WindowDef* d) noexcept nogil

# After a start over the same memory: what is not whole or not this window begins empty. How many
# were damaged (a window that never was is not).
cdef uint32_t windows_recover(WindowBank* bank, int64_t now_ns) noexcept nogil

# A sample of this tag arrived.
cdef void windows_take(
    WindowBank* bank, uint32_t slot, double value, uint8_t quality, int64_t mono_ns) noexcept nogil

# The same for one window alone.
cdef void window_take(
    WindowBank* bank, uint32_t index, double value, uint8_t quality, int64_t mono_ns,
) noexcept nogil

# The tag's value was still the same at that time.
cdef void windows_touch(WindowBank* bank, uint32_t slot, int64_t mono_ns) noexcept nogil

# What it tells now. False: good samples cover less than 80 % of its span.
cdef bint window_number(
    WindowBank* bank, uint32_t index, int64_t now_ns, double* out) noexcept nogil
