"""What happens when a value arrives, or does not."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastpath.journal cimport Shm, Stamp
from fastpath.program cimport ProgramView
from fastpath.windows cimport WindowBank

cdef struct TagRun:
    double recorded  # value of the last sample in the journal
    int64_t recorded_ns  # monotonic, 0: none yet
    uint8_t recorded_quality
    uint8_t recorded_reason
    uint8_t quality  # as last told
    uint8_t reason
    uint8_t watched  # a good value stands in ``still``
    double still  # the last good value, for whoever asks whether it is stuck
    int64_t still_ns  # monotonic: its newest good reading
    int64_t stood_ns  # for how long readings succeeded and were the same to the bit

cdef struct Intake:
    Shm* shm
    const ProgramView* program
    TagRun* runs
    WindowBank* windows
    const uint8_t* device_up  # per device of the guard: 1 while its readings count

cdef void intake_store(
    Intake* intake, uint32_t slot, double value, uint8_t quality, uint8_t reason,
    int64_t mono_ns, int64_t utc_ns, const Stamp* now) noexcept nogil
cdef void intake_touch(Intake* intake, uint32_t slot, int64_t mono_ns) noexcept nogil
cdef void intake_age(Intake* intake, const Stamp* now, bint pause) noexcept nogil
