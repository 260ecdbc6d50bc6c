"""Layout of guard.shm and the writer's functions (GUARD: header, regions, two-copy latches)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.layout cimport ProgramView
from fastpath.types cimport (
    CommandSlot, DeviceStats, Event, InterlockLatch, NodeState, OutputLatch, SampleRecord, Slot,
    TagBypassLatch, WindowState, _INTERLOCKS_MAX, _OUTPUTS_MAX,
)

cdef struct Region:  # 24 bytes, in the fixed header
    uint32_t id
    uint32_t version
    uint64_t offset
    uint32_t record_bytes
    uint32_t count

cdef struct FixedHeader:  # 512 bytes; written once, before the file gets its name
    char magic[8]
    uint32_t layout
    uint32_t regions
    uint8_t boot_id[16]
    uint64_t journal_id
    uint8_t pad0[24]
    Region region[11]
    uint8_t pad1[180]
    uint32_t crc

cdef struct LiveHeader:  # 3584 bytes; a cache line for each writer's concern
    uint64_t guard_starts
    uint32_t pid
    uint32_t clean_stop
    uint8_t pad0[48]
    uint64_t scan
    int64_t scan_mono_ns
    uint64_t scan_ns_max
    uint64_t overruns
    uint8_t pad1[32]
    uint64_t program_lock
    uint8_t program[32]
    uint8_t pad2[24]
    uint64_t event_head
    uint64_t event_tail
    uint64_t events_lost
    uint8_t pad3[40]
    uint64_t sample_head
    uint64_t samples_shed
    uint8_t pad4[48]
    uint32_t gateway_connected
    uint32_t pad5
    int64_t last_message_mono_ns
    uint32_t moving  # the latches are being moved: ``spare`` has them whole
    uint8_t pad6[172]
    uint64_t counters[256]
    # How much of the regions that a program sizes is there; 0: all, a file of an older guard.
    uint32_t tags_ready
    uint32_t nodes_ready
    uint32_t windows_ready
    uint32_t samples_ready
    uint64_t sample_first  # nothing older is in the ring
    uint32_t sample_count  # places in the ring, a power of two; 0: SAMPLES_MAX
    uint32_t pad8
    uint64_t lost_first  # first seq that found no room since the last LOST
    uint64_t lost_count  # 0: none
    uint8_t pad7[976]

cdef struct InterlockPair:
    InterlockLatch a
    InterlockLatch b

cdef struct OutputPair:
    OutputLatch a
    OutputLatch b

cdef struct TagBypassPair:
    TagBypassLatch a
    TagBypassLatch b

cdef struct SpareLatches:  # a copy of all, while they are moved
    InterlockPair interlocks[_INTERLOCKS_MAX]
    OutputPair outputs[_OUTPUTS_MAX]

cdef struct Shm:
    uint8_t* base
    FixedHeader* fixed
    LiveHeader* live
    InterlockPair* interlocks
    TagBypassPair* tag_bypasses
    OutputPair* outputs
    SpareLatches* spare
    CommandSlot* commands
    NodeState* nodes
    WindowState* windows
    Slot* image
    DeviceStats* devices
    Event* events
    SampleRecord* samples
    uint16_t clock_flags  # CLOCK_SYNCED while the wall clock is disciplined

cdef struct Stamp:  # the clocks of one wake
    int64_t mono_ns
    int64_t boot_ns
    int64_t utc_ns

cdef uint32_t crc32_of(const void* data, size_t length) noexcept nogil
cdef void shm_map(Shm* shm, uint8_t* base) noexcept nogil
cdef uint64_t journal_write(
    Shm* shm, const Stamp* now, uint16_t type, uint16_t flags, uint32_t index, uint64_t key,
    const void* payload, size_t payload_bytes) noexcept nogil
cdef bint journal_has_room(const Shm* shm, bint class_a) noexcept nogil
cdef void sample_write(
    Shm* shm, uint32_t slot, uint8_t quality, uint8_t reason, double value,
    int64_t mono_ns, int64_t utc_ns) noexcept nogil
cdef void interlock_store(InterlockPair* pair, InterlockLatch* latch) noexcept nogil
cdef bint interlock_load(const InterlockPair* pair, InterlockLatch* out) noexcept nogil
cdef void interlock_salvage(const InterlockPair* pair, InterlockLatch* out) noexcept nogil
cdef void output_store(OutputPair* pair, OutputLatch* latch) noexcept nogil
cdef bint output_load(const OutputPair* pair, OutputLatch* out) noexcept nogil
cdef void output_salvage(const OutputPair* pair, OutputLatch* out) noexcept nogil
cdef void latches_spill(Shm* shm, uint32_t interlocks, uint32_t outputs) noexcept nogil
cdef void latches_settled(Shm* shm) noexcept nogil
cdef SampleRecord* sample_place(const Shm* shm) noexcept nogil
cdef uint32_t tags_ready(const Shm* shm) noexcept nogil
cdef uint32_t samples_wanted(const ProgramView* p) noexcept nogil
cdef void samples_grow(Shm* shm, uint32_t wanted) noexcept nogil
cdef bint event_valid(const Event* event, uint64_t seq) noexcept nogil

cdef class SharedFile:
    cdef int fd
    cdef uint8_t* base
    cdef readonly bint fresh
    cdef readonly object set_aside
    cdef readonly bint locked
    cdef int _ready(self, uint64_t first, uint64_t end) except -1
    cdef int fit(self, const ProgramView* p) except -1
