# cython: cdivision=True
"""One scan: strengthening commands, evaluation, transitions, weakening commands, outputs, wire.

Also what happens at its border, the swap to another program, and how a new life begins. Time is an
argument throughout, so that a test can run years of it.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.bus cimport bus_turn
from fastpath.clock cimport mono_ns
from fastpath.bypass cimport bypasses_rebind, bypasses_recover, bypasses_scan
from fastpath.commands cimport command_answer, commands_run
from fastpath.delivery cimport outputs_gateway
from fastpath.image cimport slot_write
from fastpath.intake cimport intake_age
from fastpath.interlock cimport (
    InterlockRun, interlock_holds, interlock_trip, interlocks_demand, interlocks_marks, interlocks_scan, interlocks_store,
)
from fastpath.journal cimport Stamp, journal_write, shm_map
from fastpath.mailbox cimport SESSIONS_MAX
from fastpath.outputs cimport outputs_scan
from fastpath.program cimport program_evaluate
from fastpath.recover cimport runtime_recover, runtime_tell_bypasses
from fastpath.runtime cimport (
    Runtime, parts_alloc, parts_ready, runtime_alloc, runtime_begin, runtime_load,
)
from fastpath.scanner cimport LOAD_ANSWERED, LOAD_IDLE, LOAD_READY, LOAD_SWAPPED, Scanner
from fastpath.swap cimport swap_allowed, swap_merge
from fastpath.types cimport *
from fastpath.watchdog cimport watchdogs_scan
from fastpath.writer cimport writer_flush

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* p)
    void sw_store_release(uint64_t* p, uint64_t value)

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* data, size_t n)

cdef int64_t PAUSE_NS_MIN = 1_000_000_000
cdef int64_t GATEWAY_SILENT_NS = 3_000_000_000

cdef struct OverrunPayload:
    int64_t took_ns
    int64_t budget_ns

cdef struct FaultPayload:
    uint32_t code
    uint32_t place
    int64_t value


cdef bint _gateway_alive(const Scanner* scanner, const Stamp* now) noexcept nogil:
    return scanner.shm.live.gateway_connected and (
        now.mono_ns - scanner.shm.live.last_message_mono_ns <= GATEWAY_SILENT_NS)


cdef void _system_tag(Scanner* scanner, uint32_t slot, const Stamp* now) noexcept nogil:
    """sys.gateway.alive and sys.<device>.connected; unknown while starting and never heard."""
    cdef const TagDef* tag = &scanner.current.program.tags[slot]
    cdef Slot* at = &scanner.shm.image[slot]
    cdef bint starting = (
        now.mono_ns - scanner.current.program.started_ns < scanner.current.program.start_within_ns)
    cdef int64_t heard_ns
    cdef bint on
    if tag.system == _SYSTEM_GATEWAY_ALIVE:
        heard_ns = scanner.shm.live.last_message_mono_ns
        on = _gateway_alive(scanner, now)
    elif tag.device != _NONE_U16:
        heard_ns = scanner.shm.devices[tag.device].good_ns
        on = heard_ns != 0 and now.mono_ns - heard_ns <= (
            scanner.current.program.devices[tag.device].connected_within_ns)
    else:
        return
    if starting and heard_ns == 0:
        return
    if at.quality != _Q_GOOD or (at.value != 0.0) != on:
        slot_write(at, 1.0 if on else 0.0, _Q_GOOD, 0, now.mono_ns, now.utc_ns, 0)


cdef inline void _needs_reset(InterlockRun* run) noexcept nogil:
    """What is tripped by its cause, and by more than that now, waits for a person."""
    run.latch.flags |= _LATCH_NEEDS_RESET
    run.dirty = 1


cdef void _fault(Scanner* scanner, uint32_t place, const Stamp* now) noexcept nogil:
    """A broken internal check trips everything that is not tripped; told where it does."""
    cdef FaultPayload payload
    cdef const InterlockLatch* latch
    cdef uint32_t i, k
    cdef bint told = scanner.fault_told
    if scanner.parts.logic.faulted:
        return
    scanner.parts.logic.faulted = True
    for i in range(scanner.current.program.interlock_count):
        latch = &scanner.current.interlocks[i].latch
        told &= latch.state == _ILS_TRIPPED and not latch.flags & _LATCH_WITHHELD
        if interlock_holds(latch):
            _needs_reset(&scanner.current.interlocks[i])
    if told:
        return
    scanner.fault_told = True
    memset(&payload, 0, sizeof(payload))
    payload.code = 1
    payload.place = place
    journal_write(&scanner.shm, now, _EV_FAULT, 0, _NONE_U32, 0, &payload, sizeof(payload))
    for k in range(scanner.current.program.interlock_count):
        i = scanner.current.order[k]
        latch = &scanner.current.interlocks[i].latch
        if latch.state != _ILS_TRIPPED or latch.flags & _LATCH_WITHHELD:
            interlock_trip(&scanner.parts.logic, i, _TRIP_FAULT, now)


cdef bint _pause(Scanner* scanner, const Stamp* now) noexcept nogil:
    """After a suspend or a stop of this process every input is stale first, then decided."""
    cdef OverrunPayload payload
    cdef int64_t gap_ns = now.boot_ns - scanner.last_scan_boot_ns
    if scanner.last_scan_boot_ns == 0 or gap_ns < PAUSE_NS_MIN + scanner.current.program.tick_ns:
        return False
    payload.took_ns = gap_ns
    payload.budget_ns = scanner.current.program.tick_ns
    scanner.shm.live.counters[_COUNT_PAUSES] += 1
    journal_write(&scanner.shm, now, _EV_PAUSE, 0, _NONE_U32, 0, &payload, sizeof(payload))
    intake_age(&scanner.parts.intake, now, True)
    scanner.aged_ns = now.mono_ns
    return True


cdef void _late(Scanner* scanner, const Stamp* now) noexcept nogil:
    """A scan that begins later than due by more than its tick; a pause has its own rule.

    Told from half an armed interlock's response on; twice its response trips it.
    """
    cdef const Runtime* rt = scanner.current
    cdef int64_t late_ns = now.mono_ns - scanner.last_scan_ns - rt.program.tick_ns
    cdef int64_t budget_ns = INT64_MAX
    cdef uint32_t i
    if scanner.last_scan_ns == 0 or late_ns <= rt.program.tick_ns:
        return
    scanner.shm.live.counters[_COUNT_SCANS_LATE] += 1
    for i in range(rt.program.interlock_count):
        if rt.program.interlocks[i].flags & _IL_ARMED:
            budget_ns = min(budget_ns, rt.program.interlocks[i].response_ns // 2)
    if late_ns > budget_ns:
        _tell_overrun(scanner, late_ns, budget_ns, _EVF_LATE, now)
        _trip_overrun(scanner, late_ns, now)


cdef void _overrun(Scanner* scanner, int64_t took_ns, const Stamp* now) noexcept nogil:
    """A scan that took longer than its tick; twice an interlock's response trips it."""
    scanner.shm.live.overruns += 1
    _tell_overrun(scanner, took_ns, scanner.current.program.tick_ns, 0, now)
    _trip_overrun(scanner, took_ns, now)


cdef void _tell_overrun(
    Scanner* scanner, int64_t took_ns, int64_t budget_ns, uint16_t flags, const Stamp* now,
) noexcept nogil:
    """At most one record a second; flag LATE: it began late, else it took long."""
    cdef OverrunPayload payload
    if scanner.overrun_told_ns and now.mono_ns - scanner.overrun_told_ns < 1_000_000_000:
        return
    scanner.overrun_told_ns = now.mono_ns
    payload.took_ns = took_ns
    payload.budget_ns = budget_ns
    journal_write(&scanner.shm, now, _EV_OVERRUN, flags, _NONE_U32, 0, &payload, sizeof(payload))


cdef void _trip_overrun(Scanner* scanner, int64_t took_ns, const Stamp* now) noexcept nogil:
    cdef const InterlockDef* d
    cdef uint32_t i, k
    if scanner.current.program.on_overrun != 1:
        return
    for k in range(scanner.current.program.interlock_count):
        i = scanner.current.order[k]
        d = &scanner.current.program.interlocks[i]
        if took_ns <= 2 * d.response_ns:
            continue
        if interlock_holds(&scanner.current.interlocks[i].latch):
            _needs_reset(&scanner.current.interlocks[i])
        else:
            interlock_trip(&scanner.parts.logic, i, _TRIP_OVERRUN, now)


cdef void scan_once(Scanner* scanner, const Stamp* now) noexcept nogil:
    cdef Runtime* rt = scanner.current
    cdef int64_t took_ns
    cdef uint32_t i
    scanner.shm.live.scan += 1
    scanner.shm.live.scan_mono_ns = now.mono_ns
    if not _pause(scanner, now):
        _late(scanner, now)
    if now.mono_ns - scanner.aged_ns >= rt.program.tick_ns:
        scanner.aged_ns = now.mono_ns
        intake_age(&scanner.parts.intake, now, False)
    for i in range(rt.system_count):
        _system_tag(scanner, rt.system_slots[i], now)
    bypasses_scan(&scanner.parts.logic, now)
    watchdogs_scan(&scanner.parts.bank, now)
    if scanner.box.command_count:
        commands_run(scanner, True, now)
    if not program_evaluate(
        &rt.program, scanner.shm.image, scanner.shm.nodes, &scanner.parts.windows,
        scanner.parts.registers, now.mono_ns,
    ):
        _fault(scanner, 1, now)
    else:
        scanner.parts.logic.faulted = False
    interlocks_scan(&scanner.parts.logic, now)
    if scanner.box.command_count:
        commands_run(scanner, False, now)
        scanner.box.command_count = 0
    interlocks_demand(&scanner.parts.logic, now, rt.demand, rt.cause, rt.demand_ns)
    if scanner.parts.bank.silenced:
        interlocks_marks(&scanner.parts.logic, INT64_MAX, scanner.parts.bank.marks)
    outputs_gateway(&scanner.parts.bank, _gateway_alive(scanner, now), now)
    outputs_scan(&scanner.parts.bank, now)
    scanner.parts.writers.scanned = True
    for i in range(rt.program.device_count):
        writer_flush(&scanner.parts.writers, i, now)
    for i in range(scanner.parts.buses.bus_count):
        bus_turn(&scanner.parts.buses, i, now)
    interlocks_store(&scanner.parts.logic)
    took_ns = mono_ns() - now.mono_ns
    scanner.shm.live.scan_ns_max = max(scanner.shm.live.scan_ns_max, <uint64_t>took_ns)
    if took_ns > rt.program.tick_ns:
        _overrun(scanner, took_ns, now)
    scanner.last_scan_ns = now.mono_ns
    scanner.last_scan_boot_ns = now.boot_ns
    scanner.parts.logic.last_scan_ns = now.mono_ns


# ---- at a scan's border --------------------------------------------------------------------------

cdef void scan_swap(Scanner* scanner, const Stamp* now) noexcept nogil:
    """At a scan's border: the program that the main thread made ready, under the swap rules."""
    cdef Runtime* old = scanner.current
    cdef uint64_t one = 1
    if sw_load_acquire(&scanner.load.state) != LOAD_READY:
        return
    if not swap_allowed(&scanner.parts, old, scanner.spare, now):
        scanner.load.code = _RESULT_WOULD_REMOVE_TRIP
        sw_store_release(&scanner.load.state, LOAD_ANSWERED)
        return
    swap_merge(&scanner.parts, old, scanner.spare, scanner.load.command.id, now)
    scanner.current = scanner.spare
    scanner.spare = old
    scanner.box.program = &scanner.current.program
    bypasses_rebind(&scanner.parts.logic, now)
    scanner.fault_told = False
    scanner.parts.logic.faulted = False  # of the old program; the new one is evaluated now
    sw_store_release(&scanner.load.state, LOAD_SWAPPED)
    write(scanner.main_fd, &one, sizeof(one))


cdef void scan_answer_load(Scanner* scanner, const Stamp* now) noexcept nogil:
    if sw_load_acquire(&scanner.load.state) != LOAD_ANSWERED:
        return
    if scanner.load.code not in (_RESULT_DONE, _RESULT_ALREADY):
        scanner.shm.live.counters[_COUNT_LOADS_REFUSED] += 1
    command_answer(scanner, &scanner.load.command, scanner.load.code, 0, scanner.load.detail, now)
    sw_store_release(&scanner.load.state, LOAD_IDLE)

# ---- a new life (main thread) --------------------------------------------------------------------

cdef uint32_t scanner_begin(
    Scanner* scanner, uint8_t* shared, Runtime* runtimes, bytes blob, bint power_loss,
    bint lost_program, dict interlocks, dict outputs, const Stamp* now,
) except? 0xFFFFFFFF:
    """Allocate, load, recover; how many interlocks were restored as tripped.

    ``runtimes`` are two; ``interlocks`` and ``outputs`` map keys to latch bytes of a clean stop.
    Raises MemoryError, ValueError.
    """
    cdef uint32_t i, restored
    memset(scanner, 0, sizeof(Scanner))
    if not (
        runtime_alloc(&runtimes[0]) and runtime_alloc(&runtimes[1])
        and parts_alloc(&scanner.parts)
    ):
        raise MemoryError("the guard's tables")
    shm_map(&scanner.shm, shared)
    scanner.parts.shm = &scanner.shm
    scanner.parts.lost_program = lost_program
    scanner.current = &runtimes[0]
    scanner.spare = &runtimes[1]
    scanner.main_fd = -1
    scanner.box.shm = &scanner.shm
    scanner.box.program = &scanner.current.program
    scanner.box.intake = &scanner.parts.intake
    scanner.box.bank = &scanner.parts.bank
    scanner.box.listen_fd = -1
    scanner.box.poll_fd = -1
    for i in range(<uint32_t>SESSIONS_MAX):
        scanner.box.sessions[i].fd = -1
    scanner.parts.polls.random = <uint64_t>now.utc_ns | 1
    scanner.parts.buses.random = (<uint64_t>now.utc_ns ^ 0xBF58476D1CE4E5B9u) | 1
    scanner.parts.writers.random = (<uint64_t>now.utc_ns ^ 0x9E3779B97F4A7C15u) | 1
    if not runtime_load(scanner.current, <const uint8_t*><char*>blob, len(blob)):
        raise ValueError("not a program")
    parts_ready(&scanner.parts, &scanner.current.program)
    restored = runtime_recover(
        &scanner.parts, scanner.current, interlocks, outputs, power_loss, now)
    runtime_begin(&scanner.parts, scanner.current, now)
    bypasses_recover(&scanner.parts.logic, power_loss, now)
    runtime_tell_bypasses(&scanner.parts, scanner.current, now)
    return restored
