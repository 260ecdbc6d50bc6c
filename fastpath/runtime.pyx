# cython: cdivision=True
"""Everything whose size a program decides: allocation, loading, and how the scan's parts see it.

The main thread fills a Runtime (``runtime_load``); ``recover`` gives it its first states and
``swap`` carries them into the next one. Nothing here allocates
on the scan thread.
"""

from libc.string cimport memcpy, memset

from fastpath.bus cimport BUSES_MAX, buses_init, buses_plan
from fastpath.evaluate cimport register_count, registers_begin
from fastpath.link cimport link_init, link_watch
from fastpath.outputs cimport outputs_plan
from fastpath.interlock cimport TagBypassRun
from fastpath.journal cimport samples_grow, samples_wanted, tags_ready
from fastpath.memory cimport range_ready, space_carve, space_empty, space_reserve
from fastpath.nodes cimport node_seal
from fastpath.poller cimport RUN_REQUESTS_MAX, pollers_plan
from fastpath.program cimport program_open
from fastpath.types cimport *
from fastpath.watch cimport WATCH_READ, WATCH_TRIP, watch_token
from fastpath.windows cimport windows_list, windows_recover
from fastpath.writer cimport writers_plan

cdef extern from "atomics.h" nogil:
    void sw_store_release(uint64_t* p, uint64_t value)
    void sw_fence_release()

cdef enum:
    ROUNDING_BYTES = 64 * 64  # what aligning the tables of a space may cost


# ---- memory --------------------------------------------------------------------------------------

cdef bint runtime_alloc(Runtime* rt) noexcept:
    """Address space for the largest program, once, at start; memory comes with a program."""
    memset(rt, 0, sizeof(Runtime))
    rt.space_bytes = (
        _BLOB_BYTES_MAX + _TAGS_MAX * (sizeof(TagRun) + sizeof(uint32_t) + sizeof(int32_t))
        + _WINDOWS_MAX * (sizeof(WindowRun) + sizeof(int32_t)) + _NODES_MAX * (sizeof(int32_t) + sizeof(uint32_t))
        + RUN_REQUESTS_MAX * sizeof(RunRequest)
        + _INTERLOCKS_MAX * (sizeof(InterlockRun) + sizeof(uint32_t) + 2 * sizeof(int32_t))
        + _GROUPS_MAX * (1 + sizeof(uint64_t))
        + _OUTPUTS_MAX * (
            sizeof(OutputRun) + 3 + sizeof(uint32_t) + sizeof(int64_t) + 2 * sizeof(int32_t))
        + _DEVICES_MAX * (
            sizeof(Poller) + sizeof(Writer) + sizeof(Unit) + 1 + sizeof(int32_t))
        + BUSES_MAX * sizeof(Bus) + ROUNDING_BYTES
    )
    rt.space = space_reserve(rt.space_bytes)
    return rt.space != NULL


cdef uint8_t* _lay_out(Runtime* rt, uint8_t* at) noexcept:
    """Every table from there on, the large ones as long as the program wants; where they end."""
    cdef const ProgramView* p = &rt.program
    rt.interlocks = <InterlockRun*>space_carve(&at, _INTERLOCKS_MAX * sizeof(InterlockRun))
    rt.order = <uint32_t*>space_carve(&at, _INTERLOCKS_MAX * sizeof(uint32_t))
    rt.group_taken = <uint8_t*>space_carve(&at, _GROUPS_MAX)
    rt.group_scan = <uint64_t*>space_carve(&at, _GROUPS_MAX * sizeof(uint64_t))
    rt.outputs = <OutputRun*>space_carve(&at, _OUTPUTS_MAX * sizeof(OutputRun))
    rt.demand = <uint8_t*>space_carve(&at, _OUTPUTS_MAX)
    rt.cause = <uint32_t*>space_carve(&at, _OUTPUTS_MAX * sizeof(uint32_t))
    rt.demand_ns = <int64_t*>space_carve(&at, _OUTPUTS_MAX * sizeof(int64_t))
    rt.releasable = <uint8_t*>space_carve(&at, _OUTPUTS_MAX)
    rt.pollers = <Poller*>space_carve(&at, _DEVICES_MAX * sizeof(Poller))
    rt.writers = <Writer*>space_carve(&at, _DEVICES_MAX * sizeof(Writer))
    rt.buses = <Bus*>space_carve(&at, BUSES_MAX * sizeof(Bus))
    rt.units = <Unit*>space_carve(&at, _DEVICES_MAX * sizeof(Unit))
    rt.device_up = <uint8_t*>space_carve(&at, _DEVICES_MAX)
    rt.interlock_from = <int32_t*>space_carve(&at, _INTERLOCKS_MAX * sizeof(int32_t))
    rt.interlock_to = <int32_t*>space_carve(&at, _INTERLOCKS_MAX * sizeof(int32_t))
    rt.output_from = <int32_t*>space_carve(&at, _OUTPUTS_MAX * sizeof(int32_t))
    rt.output_to = <int32_t*>space_carve(&at, _OUTPUTS_MAX * sizeof(int32_t))
    rt.output_same = <uint8_t*>space_carve(&at, _OUTPUTS_MAX)
    rt.device_from = <int32_t*>space_carve(&at, _DEVICES_MAX * sizeof(int32_t))
    rt.tags = <TagRun*>space_carve(&at, p.tag_count * sizeof(TagRun))
    rt.window_first = <uint32_t*>space_carve(&at, p.tag_count * sizeof(uint32_t))
    rt.tag_from = <int32_t*>space_carve(&at, p.tag_count * sizeof(int32_t))
    rt.windows = <WindowRun*>space_carve(&at, p.window_count * sizeof(WindowRun))
    rt.window_from = <int32_t*>space_carve(&at, p.window_count * sizeof(int32_t))
    rt.node_from = <int32_t*>space_carve(&at, p.node_count * sizeof(int32_t))
    rt.seals = <uint32_t*>space_carve(&at, p.node_count * sizeof(uint32_t))
    rt.requests = <RunRequest*>space_carve(&at, _run_requests(p) * sizeof(RunRequest))
    return at


cdef inline uint32_t _run_requests(const ProgramView* p) noexcept nogil:
    """Every request of a program, and what bisection can split them into."""
    return min(p.request_count + p.decode_count, <uint32_t>RUN_REQUESTS_MAX)


cdef bint parts_alloc(Parts* parts) noexcept:
    """As ``runtime_alloc``; ``parts_ready`` makes of it what a program needs."""
    cdef uint8_t* at
    memset(parts, 0, sizeof(Parts))
    parts.poll_fd = -1
    parts.buses.poll_fd = -1
    parts.buses.main_fd = -1
    parts.space_bytes = (
        _CODE_MAX * (sizeof(Register) + 1) + _TAG_BYPASSES_MAX * sizeof(TagBypassRun)
        + _TAGS_MAX * (sizeof(Slot) + sizeof(Register)) + _NODES_MAX * sizeof(NodeState)
        + _WINDOWS_MAX * sizeof(WindowState) + _DEVICES_MAX * sizeof(DeviceStats)
        + ROUNDING_BYTES
    )
    at = parts.space = space_reserve(parts.space_bytes)
    if at == NULL:
        return False
    parts.logic.tag_bypasses = <TagBypassRun*>space_carve(
        &at, _TAG_BYPASSES_MAX * sizeof(TagBypassRun))
    parts.spare_devices = <DeviceStats*>space_carve(&at, _DEVICES_MAX * sizeof(DeviceStats))
    parts.logic.reads = <uint8_t*>space_carve(&at, _CODE_MAX)
    parts.registers = <Register*>space_carve(
        &at, (_CODE_MAX + _TAGS_MAX) * sizeof(Register))
    parts.spare_image = <Slot*>space_carve(&at, _TAGS_MAX * sizeof(Slot))
    parts.spare_nodes = <NodeState*>space_carve(&at, _NODES_MAX * sizeof(NodeState))
    parts.spare_windows = <WindowState*>space_carve(&at, _WINDOWS_MAX * sizeof(WindowState))
    parts.locked = True
    return True


cdef void parts_ready(Parts* parts, const ProgramView* p) noexcept:
    """Memory for this program too, before the scan thread is offered it; nothing moves."""
    cdef bint locked = range_ready(
        parts.logic.tag_bypasses, _TAG_BYPASSES_MAX * sizeof(TagBypassRun))
    locked &= range_ready(parts.spare_devices, _DEVICES_MAX * sizeof(DeviceStats))
    locked &= range_ready(parts.logic.reads, p.code_count)
    locked &= range_ready(parts.registers, register_count(p) * sizeof(Register))
    locked &= range_ready(parts.spare_image, p.tag_count * sizeof(Slot))
    locked &= range_ready(parts.spare_nodes, p.node_count * sizeof(NodeState))
    locked &= range_ready(parts.spare_windows, p.window_count * sizeof(WindowState))
    parts.locked &= locked


cdef void runtime_bind(Parts* parts, Runtime* rt) noexcept nogil:
    """Point every part of the scan at this runtime."""
    cdef Shm* shm = parts.shm
    # Until the first evaluation all is unknown, and nothing is another program's.
    registers_begin(&rt.program, parts.registers)
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
    parts.polls.request_max = _run_requests(&rt.program)
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
    cdef uint8_t* tables
    if size > _BLOB_BYTES_MAX:
        return False
    space_empty(rt.space, rt.space_bytes)  # all tables are zero again
    rt.arena = rt.space
    memcpy(rt.arena, blob, size)
    if not program_open(rt.arena, size, &rt.program):
        return False
    tables = rt.arena
    space_carve(&tables, size)
    rt.locked = range_ready(rt.space, _lay_out(rt, tables) - rt.space)
    for i in range(rt.program.node_count):
        rt.seals[i] = node_seal(rt.program.nodes[i].key)
    rt.program.seals = rt.seals
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
    memset(parts.shm.image, 0, tags_ready(parts.shm) * sizeof(Slot))
    memset(parts.shm.devices, 0, _DEVICES_MAX * sizeof(DeviceStats))
    for i in range(rt.program.tag_count):
        parts.shm.image[i].owner = rt.program.tags[i].owner
    for i in range(rt.program.device_count):
        parts.shm.devices[i].key = rt.program.devices[i].key
        parts.shm.devices[i].state = _LINK_CONNECTING
    samples_grow(parts.shm, samples_wanted(&rt.program))
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
