# cython: cdivision=True
"""Everything whose size a program decides: allocation, loading, and how the scan's parts see it.

The main thread fills a Runtime (``runtime_load``); ``recover`` gives it its first states and
``swap`` carries them into the next one. Nothing here allocates after start.
"""

from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset
from posix.mman cimport mlock
from posix.stdlib cimport posix_memalign

from fastpath.bus cimport BUSES_MAX, buses_init, buses_plan
from fastpath.link cimport link_init, link_watch
from fastpath.outputs cimport outputs_plan
from fastpath.interlock cimport TagBypassRun
from fastpath.poller cimport RUN_REQUESTS_MAX, pollers_plan
from fastpath.program cimport program_open
from fastpath.types cimport *
from fastpath.watch cimport WATCH_READ, WATCH_TRIP, watch_token
from fastpath.windows cimport windows_list, windows_recover
from fastpath.writer cimport writers_plan

cdef extern from "atomics.h" nogil:
    void sw_store_release(uint64_t* p, uint64_t value)
    void sw_fence_release()


# ---- memory --------------------------------------------------------------------------------------

cdef bint runtime_alloc(Runtime* rt) noexcept:
    """All tables at their limits, once, at start."""
    memset(rt, 0, sizeof(Runtime))
    if posix_memalign(<void**>&rt.arena, 4096, _BLOB_BYTES_MAX) != 0:
        return False
    rt.interlocks = <InterlockRun*>calloc(_INTERLOCKS_MAX, sizeof(InterlockRun))
    rt.order = <uint32_t*>calloc(_INTERLOCKS_MAX, sizeof(uint32_t))
    rt.group_taken = <uint8_t*>calloc(_GROUPS_MAX, 1)
    rt.group_scan = <uint64_t*>calloc(_GROUPS_MAX, sizeof(uint64_t))
    rt.outputs = <OutputRun*>calloc(_OUTPUTS_MAX, sizeof(OutputRun))
    rt.demand = <uint8_t*>calloc(_OUTPUTS_MAX, 1)
    rt.cause = <uint32_t*>calloc(_OUTPUTS_MAX, sizeof(uint32_t))
    rt.demand_ns = <int64_t*>calloc(_OUTPUTS_MAX, sizeof(int64_t))
    rt.releasable = <uint8_t*>calloc(_OUTPUTS_MAX, 1)
    rt.tags = <TagRun*>calloc(_TAGS_MAX, sizeof(TagRun))
    rt.windows = <WindowRun*>calloc(_WINDOWS_MAX, sizeof(WindowRun))
    rt.window_first = <uint32_t*>calloc(_TAGS_MAX, sizeof(uint32_t))
    rt.requests = <RunRequest*>calloc(RUN_REQUESTS_MAX, sizeof(RunRequest))
    rt.pollers = <Poller*>calloc(_DEVICES_MAX, sizeof(Poller))
    rt.writers = <Writer*>calloc(_DEVICES_MAX, sizeof(Writer))
    rt.buses = <Bus*>calloc(BUSES_MAX, sizeof(Bus))
    rt.units = <Unit*>calloc(_DEVICES_MAX, sizeof(Unit))
    rt.device_up = <uint8_t*>calloc(_DEVICES_MAX, 1)
    rt.interlock_from = <int32_t*>calloc(_INTERLOCKS_MAX, sizeof(int32_t))
    rt.output_from = <int32_t*>calloc(_OUTPUTS_MAX, sizeof(int32_t))
    rt.tag_from = <int32_t*>calloc(_TAGS_MAX, sizeof(int32_t))
    rt.node_from = <int32_t*>calloc(_NODES_MAX, sizeof(int32_t))
    rt.window_from = <int32_t*>calloc(_WINDOWS_MAX, sizeof(int32_t))
    rt.device_from = <int32_t*>calloc(_DEVICES_MAX, sizeof(int32_t))
    rt.interlock_to = <int32_t*>calloc(_INTERLOCKS_MAX, sizeof(int32_t))
    rt.output_to = <int32_t*>calloc(_OUTPUTS_MAX, sizeof(int32_t))
    rt.output_same = <uint8_t*>calloc(_OUTPUTS_MAX, 1)
    return (
        rt.interlocks != NULL and rt.order != NULL and rt.group_taken != NULL
        and rt.group_scan != NULL and rt.outputs != NULL and rt.demand != NULL
        and rt.cause != NULL and rt.demand_ns != NULL and rt.releasable != NULL
        and rt.tags != NULL and rt.requests != NULL and rt.pollers != NULL
        and rt.writers != NULL and rt.buses != NULL and rt.units != NULL
        and rt.device_up != NULL and rt.interlock_from != NULL
        and rt.output_from != NULL and rt.tag_from != NULL and rt.node_from != NULL
        and rt.device_from != NULL and rt.interlock_to != NULL and rt.output_to != NULL
        and rt.output_same != NULL and rt.windows != NULL and rt.window_first != NULL
        and rt.window_from != NULL
    )


cdef bint parts_alloc(Parts* parts) noexcept:
    memset(parts, 0, sizeof(Parts))
    parts.poll_fd = -1
    parts.buses.poll_fd = -1
    parts.buses.main_fd = -1
    parts.registers = <Register*>calloc(_CODE_MAX, sizeof(Register))
    parts.logic.tag_bypasses = <TagBypassRun*>calloc(_TAG_BYPASSES_MAX, sizeof(TagBypassRun))
    parts.logic.reads = <uint8_t*>calloc(_CODE_MAX, 1)
    parts.spare_image = <Slot*>calloc(_TAGS_MAX, sizeof(Slot))
    parts.spare_nodes = <NodeState*>calloc(_NODES_MAX, sizeof(NodeState))
    parts.spare_windows = <WindowState*>calloc(_WINDOWS_MAX, sizeof(WindowState))
    parts.spare_devices = <DeviceStats*>calloc(_DEVICES_MAX, sizeof(DeviceStats))
    return (
        parts.logic.tag_bypasses != NULL and parts.logic.reads != NULL
        and parts.registers != NULL and parts.spare_image != NULL and parts.spare_nodes != NULL
        and parts.spare_windows != NULL and parts.spare_devices != NULL
    )


cdef bint runtime_locked(const Runtime* rt, const Parts* parts) noexcept:
    """Lock what the scan touches; False where the rights do not allow it."""
    return (
        mlock(rt.arena, _BLOB_BYTES_MAX) == 0
        and mlock(rt.interlocks, _INTERLOCKS_MAX * sizeof(InterlockRun)) == 0
        and mlock(rt.outputs, _OUTPUTS_MAX * sizeof(OutputRun)) == 0
        and mlock(rt.tags, _TAGS_MAX * sizeof(TagRun)) == 0
        and mlock(rt.requests, RUN_REQUESTS_MAX * sizeof(RunRequest)) == 0
        and mlock(rt.pollers, _DEVICES_MAX * sizeof(Poller)) == 0
        and mlock(rt.writers, _DEVICES_MAX * sizeof(Writer)) == 0
        and mlock(rt.buses, BUSES_MAX * sizeof(Bus)) == 0
        and mlock(rt.units, _DEVICES_MAX * sizeof(Unit)) == 0
        and mlock(parts.registers, _CODE_MAX * sizeof(Register)) == 0
    )


cdef void runtime_bind(Parts* parts, Runtime* rt) noexcept nogil:
    """Point every part of the scan at this runtime."""
    cdef Shm* shm = parts.shm
    cdef uint32_t i
    # Until the first evaluation all is unknown, and nothing is another program's.
    memset(parts.registers, 0, rt.program.code_count * sizeof(Register))
    for i in range(rt.program.code_count):
        parts.registers[i].high = 1
    parts.intake.shm = shm
    parts.intake.program = &rt.program
    parts.intake.runs = rt.tags
    parts.intake.windows = &parts.windows
    parts.windows.program = &rt.program
    parts.windows.states = shm.windows
    parts.windows.runs = rt.windows
    parts.windows.first = rt.window_first
    windows_list(&parts.windows)
    parts.intake.device_up = rt.device_up
    parts.logic.shm = shm
    parts.logic.program = &rt.program
    parts.logic.registers = parts.registers
    parts.logic.runs = rt.interlocks
    parts.logic.order = rt.order
    parts.logic.group_taken = rt.group_taken
    parts.logic.group_scan = rt.group_scan
    parts.logic.releasable = rt.releasable
    parts.bank.shm = shm
    parts.bank.program = &rt.program
    parts.bank.runs = rt.outputs
    parts.bank.demand = rt.demand
    parts.bank.cause = rt.cause
    parts.bank.demand_ns = rt.demand_ns
    parts.bank.releasable = rt.releasable
    parts.polls.shm = shm
    parts.polls.program = &rt.program
    parts.polls.intake = &parts.intake
    parts.polls.requests = rt.requests
    parts.polls.pollers = rt.pollers
    parts.polls.device_up = rt.device_up
    parts.writers.shm = shm
    parts.writers.program = &rt.program
    parts.writers.outputs = &parts.bank
    parts.writers.writers = rt.writers
    parts.buses.shm = shm
    parts.buses.program = &rt.program
    parts.buses.polls = &parts.polls
    parts.buses.writers = &parts.writers
    parts.buses.buses = rt.buses
    parts.buses.units = rt.units
    parts.buses.doors = parts.doors


# ---- a program into a runtime (main thread) ------------------------------------------------------

cdef bint runtime_load(Runtime* rt, const uint8_t* blob, size_t size) noexcept:
    """Copy a verified blob into the arena and clear what belonged to the program before."""
    cdef const InterlockDef* d
    cdef uint32_t i, k
    if size > _BLOB_BYTES_MAX:
        return False
    memcpy(rt.arena, blob, size)
    if not program_open(rt.arena, size, &rt.program):
        return False
    memset(rt.interlocks, 0, _INTERLOCKS_MAX * sizeof(InterlockRun))
    memset(rt.outputs, 0, _OUTPUTS_MAX * sizeof(OutputRun))
    memset(rt.demand, 0, _OUTPUTS_MAX)
    memset(rt.releasable, 0, _OUTPUTS_MAX)
    memset(rt.tags, 0, _TAGS_MAX * sizeof(TagRun))
    memset(rt.pollers, 0, _DEVICES_MAX * sizeof(Poller))
    memset(rt.writers, 0, _DEVICES_MAX * sizeof(Writer))
    memset(rt.device_up, 0, _DEVICES_MAX)
    buses_init(rt.buses, rt.units)
    for i in range(<uint32_t>_DEVICES_MAX):
        link_init(&rt.pollers[i].link)
        link_init(&rt.writers[i].link)
    # Insertion by the site file's order; the records stand in the order of their keys.
    for i in range(rt.program.interlock_count):
        d = &rt.program.interlocks[i]
        k = i
        while k > 0 and rt.program.interlocks[rt.order[k - 1]].order > d.order:
            rt.order[k] = rt.order[k - 1]
            k -= 1
        rt.order[k] = i
    rt.system_count = 0
    for i in range(rt.program.tag_count):
        if rt.program.tags[i].owner == _OWNER_SYSTEM and rt.system_count < SYSTEM_TAGS_MAX:
            rt.system_slots[rt.system_count] = i
            rt.system_count += 1
    return True


# ---- records that begin anew ----------------------------------------------------------------------

cdef void fresh_interlock(Runtime* rt, uint32_t i, const Stamp* now) noexcept nogil:
    """NORMAL, with a start grace."""
    cdef const InterlockDef* d = &rt.program.interlocks[i]
    cdef InterlockRun* run = &rt.interlocks[i]
    memset(run, 0, sizeof(InterlockRun))
    run.latch.key = d.key
    run.latch.state = _ILS_NORMAL
    run.latch.since_ns = now.boot_ns
    define_interlock(rt, i)


cdef void define_interlock(Runtime* rt, uint32_t i) noexcept nogil:
    cdef const InterlockDef* d = &rt.program.interlocks[i]
    cdef InterlockRun* run = &rt.interlocks[i]
    run.latch.fingerprint = d.fingerprint
    run.latch.flags &= ~<uint32_t>_LATCH_ARMED
    if d.flags & _IL_ARMED:
        run.latch.flags |= _LATCH_ARMED
    run.grace = 1
    run.dirty = 1


cdef void fresh_output(Runtime* rt, uint32_t i, const Stamp* now, bint first) noexcept nogil:
    """HELD: nothing is written; ``first`` lets an agreeing read-back release it."""
    cdef OutputRun* run = &rt.outputs[i]
    memset(run, 0, sizeof(OutputRun))
    run.latch.key = rt.program.outputs[i].key
    run.latch.state = _OUTS_HELD
    run.latch.since_ns = now.boot_ns
    run.entered_ns = now.mono_ns
    run.first_hold = first
    run.dirty = 1


# ---- begin -----------------------------------------------------------------------------------------

cdef void runtime_begin(Parts* parts, Runtime* rt, const Stamp* now) noexcept nogil:
    """Image and devices start empty; the header names the program; requests are laid out."""
    cdef uint32_t i
    parts.shm.live.counters[_COUNT_WINDOWS_LOST] += windows_recover(&parts.windows, now.mono_ns)
    memset(parts.shm.image, 0, _TAGS_MAX * sizeof(Slot))
    memset(parts.shm.devices, 0, _DEVICES_MAX * sizeof(DeviceStats))
    for i in range(rt.program.tag_count):
        parts.shm.image[i].owner = rt.program.tags[i].owner
    for i in range(rt.program.device_count):
        parts.shm.devices[i].key = rt.program.devices[i].key
        parts.shm.devices[i].state = _LINK_CONNECTING
    rt.program.started_ns = now.mono_ns
    runtime_name(parts.shm, &rt.program)
    pollers_plan(&parts.polls, now.mono_ns)
    outputs_plan(&parts.bank)
    writers_plan(&parts.writers)
    buses_plan(&parts.buses)


cdef void runtime_watch(Parts* parts, Runtime* rt) noexcept nogil:
    """Have the connections of every device of this program watched, under its index."""
    cdef uint32_t i
    for i in range(rt.program.device_count):
        link_watch(&rt.pollers[i].link, parts.poll_fd, watch_token(WATCH_READ, i))
        link_watch(&rt.writers[i].link, parts.poll_fd, watch_token(WATCH_TRIP, i))


cdef void runtime_name(Shm* shm, const ProgramView* program) noexcept nogil:
    """The running program's hash, under its lock."""
    cdef uint64_t lock = shm.live.program_lock | 1
    sw_store_release(&shm.live.program_lock, lock)
    sw_fence_release()
    memcpy(shm.live.program, program.hash, 32)
    sw_store_release(&shm.live.program_lock, lock + 1)
