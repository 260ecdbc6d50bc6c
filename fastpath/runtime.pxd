"""Everything whose size a program decides: two of them, one runs, the other is made ready."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastpath.bus cimport DOORS_MAX, Bus, BusBank, Door, Unit
from fastpath.intake cimport Intake, TagRun
from fastpath.interlock cimport InterlockRun, Logic
from fastpath.journal cimport Shm, Stamp
from fastpath.outputs cimport Bank, OutputRun
from fastpath.poller cimport PollBank, Poller, RunRequest
from fastpath.program cimport ProgramView, Register
from fastpath.types cimport DeviceStats, NodeState, Slot, WindowState
from fastpath.windows cimport WindowBank, WindowRun
from fastpath.writer cimport Writer, WriterBank

cdef enum:
    SYSTEM_TAGS_MAX = 128

cdef struct Runtime:
    ProgramView program
    uint8_t* space  # all that follows lies in it; present as far as the program needs
    size_t space_bytes
    bint locked  # in memory
    uint8_t* arena  # the blob
    InterlockRun* interlocks
    uint32_t* order
    uint8_t* group_taken
    uint64_t* group_scan
    OutputRun* outputs
    uint8_t* demand
    uint32_t* cause
    int64_t* demand_ns
    uint8_t* releasable
    TagRun* tags
    WindowRun* windows
    uint32_t* window_first  # per tag
    uint32_t* seals  # per node
    RunRequest* requests
    Poller* pollers
    Writer* writers
    Bus* buses
    Unit* units
    uint8_t* device_up
    uint32_t system_slots[SYSTEM_TAGS_MAX]
    uint32_t system_count
    # Where each record stood in the program that runs now, -1: it is new. For a swap.
    int32_t* interlock_from
    int32_t* output_from
    int32_t* tag_from
    int32_t* node_from
    int32_t* window_from
    int32_t* device_from
    # And where each record of the old program stands in this one, -1: it is gone.
    int32_t* interlock_to
    int32_t* output_to
    uint8_t* output_same  # what is written where is the same
    uint32_t weakened  # changes that weaken what is armed

cdef struct Parts:  # what the scan works on, bound to one Runtime
    Logic logic
    Bank bank
    Intake intake
    WindowBank windows
    PollBank polls
    WriterBank writers
    BusBank buses
    Door doors[DOORS_MAX]
    Shm* shm
    int poll_fd  # the epoll set that watches the devices, -1: none
    Register* registers
    Slot* spare_image
    NodeState* spare_nodes
    WindowState* spare_windows
    DeviceStats* spare_devices
    uint8_t* space  # the tables above lie in it, at their limits; present as programs needed
    size_t space_bytes
    bint locked
    bint lost_program  # the program that ran before this start is lost, and its latches with it

cdef bint runtime_alloc(Runtime* rt) noexcept
cdef bint parts_alloc(Parts* parts) noexcept
cdef void parts_ready(Parts* parts, const ProgramView* p) noexcept
cdef void runtime_bind(Parts* parts, Runtime* rt) noexcept nogil
cdef bint runtime_load(Runtime* rt, const uint8_t* blob, size_t size) noexcept
cdef void fresh_interlock(Runtime* rt, uint32_t i, const Stamp* now) noexcept nogil
cdef void define_interlock(Runtime* rt, uint32_t i) noexcept nogil
cdef void fresh_output(Runtime* rt, uint32_t i, const Stamp* now, bint first) noexcept nogil
cdef void runtime_watch(Parts* parts, Runtime* rt) noexcept nogil
cdef void runtime_begin(Parts* parts, Runtime* rt, const Stamp* now) noexcept nogil
cdef void runtime_name(Shm* shm, const ProgramView* program) noexcept nogil
