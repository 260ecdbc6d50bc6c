# cython: cdivision=True
"""Everything whose size a program decides: allocation, recovery at start, and the swap.

The main thread fills a Runtime (``runtime_load``, ``runtime_map``); the scan thread alone moves
state into it (``swap_merge``) at a scan's border. Nothing here allocates after start.
"""

from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport mlock
from posix.stdlib cimport posix_memalign

from fastpath.bus cimport BUSES_MAX, buses_init, buses_plan, buses_swap
from fastpath.clock cimport mono_ns
from fastpath.delivery cimport outputs_link_down
from fastpath.image cimport slot_write
from fastpath.interlock cimport (
    TagBypassRun, interlock_trip, interlocks_quiet, interlocks_regroup,
)
from fastpath.journal cimport (
    event_valid, interlock_load, interlock_store, journal_write, output_load, output_store,
)
from fastpath.link cimport link_close, link_init, link_watch
from fastpath.outputs cimport output_restore_trip, outputs_plan, outputs_quiet
from fastpath.poller cimport RUN_REQUESTS_MAX, pollers_plan
from fastpath.program cimport node_begin, program_open
from fastpath.types cimport *
from fastpath.watch cimport WATCH_READ, WATCH_TRIP, watch_token
from fastpath.windows cimport window_begin, windows_list, windows_recover
from fastpath.writer cimport writers_plan

cdef extern from "atomics.h" nogil:
    void sw_store_release(uint64_t* p, uint64_t value)
    void sw_fence_release()

cdef struct ProgramPayload:  # records.PAYLOADS[PROGRAM]
    uint8_t old[16]
    uint8_t new[16]
    uint32_t kept
    uint32_t changed
    int64_t swap_ns
    uint8_t command_id[16]


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
    return (
        rt.interlocks != NULL and rt.order != NULL and rt.group_taken != NULL
        and rt.group_scan != NULL and rt.outputs != NULL and rt.demand != NULL
        and rt.cause != NULL and rt.demand_ns != NULL and rt.releasable != NULL
        and rt.tags != NULL and rt.requests != NULL and rt.pollers != NULL
        and rt.writers != NULL and rt.buses != NULL and rt.units != NULL
        and rt.device_up != NULL and rt.interlock_from != NULL
        and rt.output_from != NULL and rt.tag_from != NULL and rt.node_from != NULL
        and rt.device_from != NULL and rt.windows != NULL and rt.window_first != NULL
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


cdef void runtime_map(Runtime* rt, const Runtime* old) except *:
    """For a swap: where each record of the new program stood in the old one."""
    cdef uint32_t i
    interlocks = {old.program.interlocks[i].key: i for i in range(old.program.interlock_count)}
    outputs = {old.program.outputs[i].key: i for i in range(old.program.output_count)}
    tags = {old.program.tags[i].key: i for i in range(old.program.tag_count)}
    nodes = {old.program.nodes[i].key: i for i in range(old.program.node_count)}
    windows = {old.program.windows[i].key: i for i in range(old.program.window_count)}
    devices = {old.program.devices[i].key: i for i in range(old.program.device_count)}
    for i in range(rt.program.interlock_count):
        rt.interlock_from[i] = interlocks.get(rt.program.interlocks[i].key, -1)
    for i in range(rt.program.output_count):
        rt.output_from[i] = outputs.get(rt.program.outputs[i].key, -1)
    for i in range(rt.program.node_count):
        rt.node_from[i] = nodes.get(rt.program.nodes[i].key, -1)
        if rt.node_from[i] >= 0 and not _same_node(rt, i, old, <uint32_t>rt.node_from[i]):
            rt.node_from[i] = -1
    for i in range(rt.program.device_count):
        rt.device_from[i] = devices.get(rt.program.devices[i].key, -1)
        if rt.device_from[i] >= 0 and not _same_device(rt, i, old, <uint32_t>rt.device_from[i]):
            rt.device_from[i] = -1
    for i in range(rt.program.tag_count):
        rt.tag_from[i] = tags.get(rt.program.tags[i].key, -1)
        if rt.tag_from[i] >= 0 and not _same_tag(rt, i, old, <uint32_t>rt.tag_from[i]):
            rt.tag_from[i] = -1
    for i in range(rt.program.window_count):
        rt.window_from[i] = windows.get(rt.program.windows[i].key, -1)
        if rt.window_from[i] >= 0 and not _same_window(rt, i, old, <uint32_t>rt.window_from[i]):
            rt.window_from[i] = -1


cdef bint _same_device(const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k) noexcept:
    """The same in every respect; a serial line may stand elsewhere among the ttys."""
    cdef DeviceDef a = rt.program.devices[i]
    cdef DeviceDef b = old.program.devices[k]
    if a.kind == _DEVICE_MODBUS_RTU and b.kind == a.kind:
        if a.tty >= <uint32_t>BUSES_MAX or b.tty >= <uint32_t>BUSES_MAX:
            return False
        if rt.buses[a.tty].door != old.buses[b.tty].door:
            return False
        a.tty = b.tty
    return memcmp(&a, &b, sizeof(DeviceDef)) == 0


cdef bint _same_node(const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k) noexcept:
    """A node keeps its memory only where its interlock's fingerprint is the same."""
    cdef const NodeDef* a = &rt.program.nodes[i]
    cdef const NodeDef* b = &old.program.nodes[k]
    return a.kind == b.kind and _same_owner(rt, a.interlock, old, b.interlock)


cdef bint _same_window(const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k) noexcept:
    """The same of a tag that is the same, for an interlock with the same fingerprint."""
    cdef const WindowDef* a = &rt.program.windows[i]
    cdef const WindowDef* b = &old.program.windows[k]
    return (
        a.kind == b.kind and a.span_ns == b.span_ns
        and rt.tag_from[a.slot] == <int32_t>b.slot
        and _same_owner(rt, a.interlock, old, b.interlock)
    )


cdef bint _same_owner(
    const Runtime* rt, uint32_t a, const Runtime* old, uint32_t b,
) noexcept:
    """The interlocks that memory belongs to are one, and its fingerprint is the same."""
    cdef int32_t owner
    if a >= rt.program.interlock_count or b >= old.program.interlock_count:
        return a == b
    owner = rt.interlock_from[a]
    return owner == <int32_t>b and (
        rt.program.interlocks[a].fingerprint == old.program.interlocks[owner].fingerprint)


cdef bint _same_tag(const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k) noexcept:
    """The same tag in every respect; its device may have moved to another index."""
    cdef TagDef a = rt.program.tags[i]
    cdef TagDef b = old.program.tags[k]
    if (a.device == _NONE_U16) != (b.device == _NONE_U16):
        return False
    if a.device != _NONE_U16:
        if rt.device_from[a.device] != <int32_t>b.device:
            return False
        a.device = b.device
    return memcmp(&a, &b, sizeof(TagDef)) == 0


# ---- start ---------------------------------------------------------------------------------------

cdef void _fresh_interlock(Runtime* rt, uint32_t i, const Stamp* now) noexcept nogil:
    """NORMAL, with a start grace."""
    cdef const InterlockDef* d = &rt.program.interlocks[i]
    cdef InterlockRun* run = &rt.interlocks[i]
    memset(run, 0, sizeof(InterlockRun))
    run.latch.key = d.key
    run.latch.state = _ILS_NORMAL
    run.latch.since_ns = now.boot_ns
    _define_interlock(rt, i)


cdef void _define_interlock(Runtime* rt, uint32_t i) noexcept nogil:
    cdef const InterlockDef* d = &rt.program.interlocks[i]
    cdef InterlockRun* run = &rt.interlocks[i]
    run.latch.fingerprint = d.fingerprint
    run.latch.flags &= ~<uint32_t>_LATCH_ARMED
    if d.flags & _IL_ARMED:
        run.latch.flags |= _LATCH_ARMED
    run.grace = 1
    run.dirty = 1


cdef void _fresh_output(Runtime* rt, uint32_t i, const Stamp* now, bint first) noexcept nogil:
    """HELD: nothing is written; ``first`` lets an agreeing read-back release it."""
    cdef OutputRun* run = &rt.outputs[i]
    memset(run, 0, sizeof(OutputRun))
    run.latch.key = rt.program.outputs[i].key
    run.latch.state = _OUTS_HELD
    run.latch.since_ns = now.boot_ns
    run.entered_ns = now.mono_ns
    run.first_hold = first
    run.dirty = 1


cdef dict _trips_after(const Shm* shm):
    """Per interlock key, of what is still in the ring: type of its newest TRIP, RESET or RETURN,
    seq and generation of its newest TRIP.
    """
    cdef uint64_t head = shm.live.event_head
    cdef uint64_t first = head - min(head - 1, <uint64_t>_EVENTS_MAX)
    cdef uint64_t seq
    cdef uint32_t generation
    cdef const Event* e
    out = {}
    trips = {}
    for seq in range(first, head):
        e = &shm.events[seq % _EVENTS_MAX]
        if not event_valid(e, seq) or e.flags & _EVF_WITHHELD:
            continue
        if e.type == _EV_TRIP:
            memcpy(&generation, e.payload, sizeof(generation))
            trips[e.key] = (seq, generation)
        if e.type == _EV_TRIP or e.type == _EV_RESET or e.type == _EV_RETURN:
            out[e.key] = (e.type, *trips.get(e.key, (0, 0)))
    return out


cdef dict _latches(const Shm* shm):
    """Every interlock's pair in the file: key -> (good, latch bytes)."""
    cdef InterlockLatch latch
    cdef uint32_t i
    out = {}
    for i in range(<uint32_t>_INTERLOCKS_MAX):
        good = interlock_load(&shm.interlocks[i], &latch)
        for key in {shm.interlocks[i].a.key, shm.interlocks[i].b.key}:
            if key != 0 and (key not in out or not good):
                out[key] = (good, (<char*>&latch)[:sizeof(InterlockLatch)])
    return out


cdef dict _output_latches(const Shm* shm):
    cdef OutputLatch latch
    cdef uint32_t i
    out = {}
    for i in range(<uint32_t>_OUTPUTS_MAX):
        good = output_load(&shm.outputs[i], &latch)
        for key in {shm.outputs[i].a.key, shm.outputs[i].b.key}:
            if key != 0 and (key not in out or not good):
                out[key] = (good, (<char*>&latch)[:sizeof(OutputLatch)])
    return out


cdef uint32_t runtime_recover(
    Parts* parts, Runtime* rt, dict interlocks, dict outputs, bint power_loss, const Stamp* now,
) except? 0xFFFFFFFF:
    """Before the first scan: states by key from the file or a clean stop; how many were restored.

    ``interlocks`` and ``outputs`` (key -> latch bytes) come from a clean-stop file and are used
    where the shared file has nothing: then another boot's clocks and journal are meant. Pairs that disagree, and trips in the journal that the
    latch does not know, mean TRIPPED. After a power loss every armed, latching interlock trips.
    """
    cdef Shm* shm = parts.shm
    cdef InterlockRun* run
    cdef const InterlockDef* d
    cdef uint32_t i, k, restored = 0
    cdef bint damaged
    cdef const char* raw
    found = _latches(shm)
    found_outputs = _output_latches(shm)
    trips = _trips_after(shm)
    for key, stored in interlocks.items():
        found.setdefault(key, (True, _rebased(stored, now)))
    for key, stored in outputs.items():
        found_outputs.setdefault(key, (True, stored))
    runtime_bind(parts, rt)
    # All states first: a trip recorded below must find its group as it was.
    for i in range(rt.program.interlock_count):
        d = &rt.program.interlocks[i]
        run = &rt.interlocks[i]
        _fresh_interlock(rt, i, now)
        entry = found.get(d.key)
        if entry is not None and entry[0]:
            raw = entry[1]
            memcpy(&run.latch, raw, sizeof(InterlockLatch))
            _define_interlock(rt, i)
    for i in range(rt.program.output_count):
        _recover_output(rt, i, found_outputs.get(rt.program.outputs[i].key), power_loss, now)
    memset(shm.interlocks + rt.program.interlock_count, 0,
           (_INTERLOCKS_MAX - rt.program.interlock_count) * sizeof(shm.interlocks[0]))
    memset(shm.outputs + rt.program.output_count, 0,
           (_OUTPUTS_MAX - rt.program.output_count) * sizeof(shm.outputs[0]))
    interlocks_regroup(&parts.logic)
    for k in range(rt.program.interlock_count):
        i = rt.order[k]
        d = &rt.program.interlocks[i]
        run = &rt.interlocks[i]
        entry = found.get(d.key)
        kind, trip_seq, generation = trips.get(d.key, (0, 0, 0))
        damaged = entry is not None and not entry[0]
        if entry is None and kind == _EV_TRIP:
            damaged = True
        if entry is not None and entry[0] and trip_seq > run.latch.last_seq:
            damaged = True
        if damaged:
            restored += 1
            run.latch.generation = max(run.latch.generation, <uint32_t>generation)
            _restore_tripped(parts, i, entry, now)
        elif power_loss and d.flags & _IL_ARMED and d.flags & _IL_LATCH:
            if run.latch.state not in (_ILS_TRIPPED, _ILS_READY_TO_RESET):
                interlock_trip(&parts.logic, i, _TRIP_POWER_LOSS, now)
        interlock_store(&shm.interlocks[i], &run.latch)
    for i in range(rt.program.output_count):
        entry = found_outputs.get(rt.program.outputs[i].key)
        if entry is not None and not entry[0]:
            output_restore_trip(&parts.bank, i, now)
        output_store(&shm.outputs[i], &rt.outputs[i].latch)
    # Nodes stay as they stand. What is not sealed under its own key, as all is after a power
    # loss, is lost memory: unknown.
    return restored


cdef tuple runtime_latches(const Runtime* rt, int64_t boot_ns):
    """(interlocks, outputs) for a clean stop: key -> latch bytes.

    Another boot has another clock: the times of the interlocks are relative to ``boot_ns``.
    """
    cdef InterlockLatch latch
    cdef OutputLatch output
    cdef uint32_t i
    interlocks = {}
    outputs = {}
    for i in range(rt.program.interlock_count):
        latch = rt.interlocks[i].latch
        latch.since_ns -= boot_ns
        latch.trip_boot_ns -= boot_ns
        latch.effects_from_ns -= boot_ns
        latch.bypass_from_ns -= boot_ns
        latch.bypass_until_ns -= boot_ns
        interlocks[rt.program.interlocks[i].key] = (<char*>&latch)[:sizeof(latch)]
    for i in range(rt.program.output_count):
        output = rt.outputs[i].latch
        # A silence ends with the boot that it was given in: demanded, it sounds again.
        output.demand &= ~<uint32_t>_DEMAND_SILENCED
        outputs[rt.program.outputs[i].key] = (<char*>&output)[:sizeof(output)]
    return interlocks, outputs


cdef bytes _rebased(const char* stored, const Stamp* now):
    """A latch of a clean stop: its times, relative to the stop, in this boot; no seq as yet."""
    cdef InterlockLatch latch
    memcpy(&latch, stored, sizeof(InterlockLatch))
    latch.since_ns = now.boot_ns + min(latch.since_ns, 0)
    latch.trip_boot_ns = now.boot_ns + min(latch.trip_boot_ns, 0)
    latch.effects_from_ns = now.boot_ns + min(latch.effects_from_ns, 0)
    if latch.flags & _LATCH_BYPASSED:
        # What was left of it is left; it never grows.
        latch.bypass_from_ns = now.boot_ns + min(latch.bypass_from_ns, 0)
        latch.bypass_until_ns = now.boot_ns + max(latch.bypass_until_ns, 0)
    else:
        latch.bypass_from_ns = 0
        latch.bypass_until_ns = 0
    latch.last_seq = 0
    return (<char*>&latch)[:sizeof(InterlockLatch)]


cdef void _restore_tripped(Parts* parts, uint32_t i, entry, const Stamp* now) except *:
    """TRIPPED(restored): a damaged pair keeps at least its generation, where that reads."""
    cdef InterlockRun* run = &parts.logic.runs[i]
    cdef InterlockLatch latch
    cdef const char* raw
    if entry is not None:
        raw = entry[1]
        memcpy(&latch, raw, sizeof(InterlockLatch))
        run.latch.generation = max(run.latch.generation, latch.generation)
        run.latch.demands = latch.demands
    run.latch.state = _ILS_NORMAL
    interlock_trip(&parts.logic, i, _TRIP_RESTORED, now)


cdef void _recover_output(
    Runtime* rt, uint32_t i, entry, bint power_loss, const Stamp* now,
) except *:
    """RELEASED and HELD stay, what was tripped is written again, a release ends in HELD."""
    cdef OutputRun* run = &rt.outputs[i]
    cdef OutputLatch latch
    cdef const char* raw
    _fresh_output(rt, i, now, entry is None and not power_loss)
    if entry is None:
        return
    raw = entry[1]
    memcpy(&latch, raw, sizeof(OutputLatch))
    if not entry[0]:
        latch.state = _OUTS_TRIPPING
        latch.key = rt.program.outputs[i].key
    run.latch = latch
    run.first_hold = 1 if latch.demand & _DEMAND_FIRST_HOLD else 0
    if latch.state in (_OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED):
        run.latch.state = _OUTS_TRIPPING
        run.latch.confirmed = 0
        run.latch.wire_ns = 0
        run.latch.confirm_ns = 0
        run.latch.demand_ns = now.mono_ns
        run.restored = 1
        run.next_write_ns = now.mono_ns
        run.confirm_by_ns = now.mono_ns + rt.program.outputs[i].confirm_ns
    elif latch.state == _OUTS_RELEASING or power_loss:
        run.latch.state = _OUTS_HELD
        run.first_hold = 0


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
    _name_program(parts.shm, &rt.program)
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


cdef void _name_program(Shm* shm, const ProgramView* program) noexcept nogil:
    """The running program's hash, under its lock."""
    cdef uint64_t lock = shm.live.program_lock | 1
    sw_store_release(&shm.live.program_lock, lock)
    sw_fence_release()
    memcpy(shm.live.program, program.hash, 32)
    sw_store_release(&shm.live.program_lock, lock + 1)


# ---- swap (scan thread) --------------------------------------------------------------------------

cdef bint swap_allowed(
    const Parts* parts, const Runtime* old, const Runtime* new,
) noexcept nogil:
    """Equal keys and fingerprints, or nothing tripped: else a trip could vanish."""
    cdef bint equal = (
        old.program.interlock_count == new.program.interlock_count
        and old.program.output_count == new.program.output_count)
    cdef uint32_t i
    if interlocks_quiet(&parts.logic) and outputs_quiet(&parts.bank):
        return True
    for i in range(new.program.interlock_count):
        if not equal:
            break
        equal = (
            old.program.interlocks[i].key == new.program.interlocks[i].key
            and old.program.interlocks[i].fingerprint == new.program.interlocks[i].fingerprint)
    for i in range(new.program.output_count):
        if not equal:
            break
        equal = memcmp(
            &old.program.outputs[i], &new.program.outputs[i], sizeof(OutputDef)) == 0
    return equal


cdef void _swap_logic(
    Parts* parts, const Runtime* old, Runtime* new, const Stamp* now, ProgramPayload* told,
) noexcept nogil:
    cdef int32_t k
    cdef uint32_t i
    cdef bint renewed = False
    for i in range(new.program.tag_count):
        renewed |= new.tag_from[i] < 0
    for i in range(new.program.interlock_count):
        k = new.interlock_from[i]
        if k < 0:
            _fresh_interlock(new, i, now)
            told.changed += 1
            continue
        new.interlocks[i] = old.interlocks[k]
        new.interlocks[i].dirty = 1
        if renewed:
            new.interlocks[i].grace = 1
        if new.program.interlocks[i].fingerprint == old.program.interlocks[k].fingerprint:
            told.kept += 1
        else:
            told.changed += 1
            new.interlocks[i].last_known = _T_UNKNOWN
            _define_interlock(new, i)
    for i in range(new.program.output_count):
        k = new.output_from[i]
        if k < 0:
            _fresh_output(new, i, now, True)
        else:
            new.outputs[i] = old.outputs[k]
            new.outputs[i].dirty = 1
            new.outputs[i].in_flight = 0


cdef void _swap_image(Parts* parts, Runtime* old, Runtime* new) noexcept nogil:
    cdef Shm* shm = parts.shm
    cdef Slot empty
    cdef const Slot* was
    cdef int32_t k
    cdef uint32_t i
    memset(&empty, 0, sizeof(empty))
    memcpy(parts.spare_image, shm.image, old.program.tag_count * sizeof(Slot))
    memcpy(parts.spare_nodes, shm.nodes, old.program.node_count * sizeof(NodeState))
    # Under each slot's lock: others read while the tags move.
    for i in range(max(old.program.tag_count, new.program.tag_count)):
        was = &empty
        if i < new.program.tag_count and new.tag_from[i] >= 0:
            was = &parts.spare_image[new.tag_from[i]]
            new.tags[i] = old.tags[new.tag_from[i]]
        slot_write(
            &shm.image[i], was.value, was.quality, was.reason, was.mono_ns, was.utc_ns,
            was.source_utc_ns)
        shm.image[i].owner = new.program.tags[i].owner if i < new.program.tag_count else 0
    for i in range(new.program.node_count):
        k = new.node_from[i]
        if k >= 0:
            shm.nodes[i] = parts.spare_nodes[k]
        else:
            node_begin(&shm.nodes[i], new.program.nodes[i].key)
    memcpy(parts.spare_windows, shm.windows, old.program.window_count * sizeof(WindowState))
    for i in range(new.program.window_count):
        k = new.window_from[i]
        if k >= 0:
            shm.windows[i] = parts.spare_windows[k]
        else:
            window_begin(&shm.windows[i], &new.program.windows[i])


cdef void _swap_devices(Parts* parts, Runtime* old, Runtime* new, const Stamp* now) noexcept nogil:
    """Equal devices keep their connections, the others' are closed."""
    cdef Shm* shm = parts.shm
    cdef uint8_t kept[_DEVICES_MAX]
    cdef int32_t k
    cdef uint32_t i
    memset(kept, 0, sizeof(kept))
    memcpy(parts.spare_devices, shm.devices, _DEVICES_MAX * sizeof(DeviceStats))
    memset(shm.devices, 0, _DEVICES_MAX * sizeof(DeviceStats))
    for i in range(new.program.device_count):
        k = new.device_from[i]
        if k >= 0:
            kept[k] = 1
            new.pollers[i] = old.pollers[k]
            new.writers[i] = old.writers[k]
            new.writers[i].active = 0  # its reply is dropped, the bank wishes anew
            new.writers[i].again = 0
            if old.pollers[k].outstanding >= 0:
                # Its reply is waited for like a late one, and dropped.
                new.pollers[i].late = 1
                new.pollers[i].deadline_ns = (
                    now.mono_ns + 2 * new.program.devices[i].timeout_ns)
            new.device_up[i] = old.device_up[k]
            shm.devices[i] = parts.spare_devices[k]
        shm.devices[i].key = new.program.devices[i].key
        if k < 0:
            shm.devices[i].state = _LINK_CONNECTING
    for i in range(old.program.device_count):
        if not kept[i]:
            link_close(&old.pollers[i].link, 0, now.mono_ns, 1, &parts.polls.random)
            link_close(&old.writers[i].link, 0, now.mono_ns, 1, &parts.polls.random)


cdef void swap_merge(
    Parts* parts, Runtime* old, Runtime* new, const uint8_t* command_id, const Stamp* now,
) noexcept nogil:
    """Carry the old runtime's state into the new one and run that from this scan on."""
    cdef Shm* shm = parts.shm
    cdef ProgramPayload told
    cdef uint32_t i
    memset(&told, 0, sizeof(told))
    memcpy(told.old, old.program.hash, 16)
    memcpy(told.new, new.program.hash, 16)
    memcpy(told.command_id, command_id, 16)
    _swap_logic(parts, old, new, now, &told)
    _swap_image(parts, old, new)
    _swap_devices(parts, old, new, now)
    runtime_bind(parts, new)
    runtime_watch(parts, new)
    for i in range(new.program.interlock_count):
        interlock_store(&shm.interlocks[i], &new.interlocks[i].latch)
    for i in range(new.program.output_count):
        output_store(&shm.outputs[i], &new.outputs[i].latch)
    memset(shm.interlocks + new.program.interlock_count, 0,
           (_INTERLOCKS_MAX - new.program.interlock_count) * sizeof(shm.interlocks[0]))
    memset(shm.outputs + new.program.output_count, 0,
           (_OUTPUTS_MAX - new.program.output_count) * sizeof(shm.outputs[0]))
    interlocks_regroup(&parts.logic)
    pollers_plan(&parts.polls, now.mono_ns)
    outputs_plan(&parts.bank)
    writers_plan(&parts.writers)
    buses_swap(&parts.buses, old.buses, old.units, new.device_from, now)
    buses_plan(&parts.buses)
    new.program.started_ns = now.mono_ns
    for i in range(new.program.device_count):
        if new.device_from[i] < 0:
            outputs_link_down(&parts.bank, i, now)
    _name_program(shm, &new.program)
    told.swap_ns = mono_ns() - now.mono_ns
    journal_write(shm, now, _EV_PROGRAM, 0, _NONE_U32, 0, &told, sizeof(told))
    if parts.lost_program:
        parts.lost_program = False
        _distrust(parts, new, now)


cdef void _distrust(Parts* parts, Runtime* new, const Stamp* now) noexcept nogil:
    """Nobody knows what was tripped under the program that is lost: everything armed."""
    cdef uint32_t i, k
    for k in range(new.program.interlock_count):
        i = new.order[k]
        if (
            new.interlock_from[i] < 0 and new.program.interlocks[i].flags & _IL_ARMED
            and new.program.interlocks[i].flags & _IL_LATCH
        ):
            interlock_trip(&parts.logic, i, _TRIP_RESTORED, now)
    for i in range(new.program.output_count):
        if new.output_from[i] < 0:
            new.outputs[i].first_hold = 0
