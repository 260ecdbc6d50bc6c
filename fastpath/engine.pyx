# cython: cdivision=True
"""The loop: wait, read, evaluate, act, record. The one nogil block of the guard.

The scan thread sleeps in one ppoll over all sockets and scans when something came in, and at the
latest every tick. Within a scan: strengthening commands, evaluation, transitions, weakening
commands, outputs (each with its record and latch), then the wire.
"""

import os
import threading

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport timespec

from fastpath.clock cimport boot_ns, mono_ns, utc_ns
from fastpath.image cimport slot_write
from fastpath.intake cimport intake_age
from fastpath.interlock cimport (
    interlock_command_reset, interlock_command_trip, interlock_forbids, interlock_trip,
    interlocks_demand, interlocks_scan, interlocks_store,
)
from fastpath.journal cimport SharedFile, Shm, Stamp, journal_write, shm_map
from fastpath.link cimport LINK_CONNECTING, Link
from fastpath.mailbox cimport (
    SESSIONS_MAX, Command, Mailbox, mailbox_accept, mailbox_close_all, mailbox_event,
    mailbox_known, mailbox_nudge, mailbox_result,
)
from fastpath.outputs cimport output_command_release, outputs_confirmed, outputs_scan
from fastpath.poller cimport poller_due, poller_event, poller_turn
from fastpath.program cimport program_evaluate
from fastpath.runtime cimport (
    Parts, Runtime, parts_alloc, runtime_alloc, runtime_begin, runtime_load, runtime_locked,
    runtime_map, runtime_recover, swap_allowed, swap_merge,
)
from fastpath.types cimport *
from fastpath.writer cimport writer_due, writer_event, writer_flush, writer_turn

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* p)
    void sw_store_release(uint64_t* p, uint64_t value)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sched.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/socket.h>
    #include <sys/timex.h>
    #include <unistd.h>
    /* The scheduling class: inherited from the unit, or asked for. 1: SCHED_FIFO. */
    static int sw_realtime(int priority) {
        struct sched_param p = { .sched_priority = priority };
        if ((sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_FIFO) return 1;
        return sched_setscheduler(0, SCHED_FIFO, &p) == 0;
    }
    static int sw_lock_stack(void) {
        pthread_attr_t attr;
        void *base;
        size_t size;
        if (pthread_getattr_np(pthread_self(), &attr) != 0) return 0;
        int bad = pthread_attr_getstack(&attr, &base, &size);
        pthread_attr_destroy(&attr);
        return bad == 0 && mlock(base, size) == 0;
    }
    static void sw_exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1UL); }
    static int sw_clock_synced(void) {
        struct timex t = { .modes = 0 };
        int state = adjtimex(&t);
        return state >= 0 && state != TIME_ERROR && !(t.status & STA_UNSYNC);
    }
    static ssize_t sw_notify(int fd, const char *text, size_t n) {
        return send(fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    """
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN, POLLOUT
    int ppoll(pollfd* fds, unsigned long n, const timespec* timeout, const void* mask) nogil
    int sw_realtime(int priority) nogil
    int sw_lock_stack() nogil
    void sw_exact_timers() nogil
    int sw_clock_synced() nogil
    ssize_t sw_notify(int fd, const char* text, size_t n) nogil
    ssize_t read(int fd, void* data, size_t n) nogil
    ssize_t write(int fd, const void* data, size_t n) nogil

cdef enum:
    FIXED_FDS = 2 + SESSIONS_MAX
    POLL_FDS_MAX = FIXED_FDS + 2 * _DEVICES_MAX
    REALTIME_PRIORITY = 40

cdef int64_t PAUSE_NS_MIN = 1_000_000_000
cdef int64_t GATEWAY_SILENT_NS = 3_000_000_000
cdef int64_t STOP_MARGIN_NS = 100_000_000

STOP_SIGNAL = 1  # GUARD_STOP's reason: SIGTERM or SIGINT
STOP_COMMAND = 2  # the STOP command

cdef enum LoadState:
    LOAD_IDLE = 0
    LOAD_ASKED = 1  # the scan thread asked the main thread
    LOAD_ANSWERED = 2  # refused or verified: to be told
    LOAD_READY = 3  # a runtime is ready to be swapped in
    LOAD_SWAPPED = 4  # it runs; the main thread makes it the last good one

cdef struct Load:
    uint64_t state  # LoadState; released by whoever hands over
    Command command
    uint32_t code
    uint32_t detail

cdef struct OverrunPayload:
    int64_t took_ns
    int64_t budget_ns

cdef struct StartPayload:
    uint64_t starts
    uint32_t clean
    uint32_t restored
    uint32_t fifo
    uint32_t locked
    int64_t gap_ns
    uint64_t journal_id

cdef struct StopPayload:
    uint32_t reason
    uint32_t signal

cdef struct RefusedPayload:  # records.PAYLOADS[COMMAND]
    uint32_t type
    uint32_t code
    uint64_t detail
    uint8_t command_id[16]
    uint8_t who[32]

cdef struct FaultPayload:
    uint32_t code
    uint32_t place
    int64_t value

cdef struct Loop:  # the scan thread's own
    Parts parts
    Runtime* current
    Runtime* spare
    Shm shm
    Mailbox box
    Load load
    int wake_fd  # others -> scan thread
    int main_fd  # scan thread -> main thread
    int notify_fd  # -1: none
    int64_t notify_ns  # interval of WATCHDOG=1
    int64_t notified_ns
    int64_t last_scan_ns
    int64_t last_scan_boot_ns
    int64_t aged_ns
    int64_t synced_ns
    int64_t overrun_told_ns
    uint64_t stop  # reason << 8 | signal, 0: run
    int64_t stop_by_ns  # STOP: give up waiting for confirmation
    Command stop_command
    uint32_t restored
    uint32_t clean
    int64_t gap_ns
    bint faulted
    pollfd fds[POLL_FDS_MAX]
    uint32_t device_of[POLL_FDS_MAX]
    uint32_t fd_count


# ---- clocks --------------------------------------------------------------------------------------

cdef Stamp _stamp() noexcept nogil:
    cdef Stamp now
    now.mono_ns = mono_ns()
    now.boot_ns = boot_ns()
    now.utc_ns = utc_ns()
    return now


# ---- waiting -------------------------------------------------------------------------------------

cdef void _add_fd(Loop* loop, int fd, short events, uint32_t device) noexcept nogil:
    loop.fds[loop.fd_count].fd = fd
    loop.fds[loop.fd_count].events = events
    loop.fds[loop.fd_count].revents = 0
    loop.device_of[loop.fd_count] = device
    loop.fd_count += 1


cdef void _add_link(Loop* loop, const Link* link, uint32_t device) noexcept nogil:
    """A closed link has fd -1, which ppoll passes over."""
    _add_fd(loop, link.fd, POLLOUT if link.state == LINK_CONNECTING else POLLIN, device)


cdef void _wait(Loop* loop, int64_t now_ns) noexcept nogil:
    """Sleep until a descriptor is ready, something is due, or the tick has passed."""
    cdef Runtime* rt = loop.current
    cdef int64_t due = loop.last_scan_ns + rt.program.tick_ns
    cdef timespec timeout
    cdef uint32_t i
    loop.fd_count = 0
    _add_fd(loop, loop.wake_fd, POLLIN, 0)
    _add_fd(loop, loop.box.listen_fd, POLLIN, 0)
    for i in range(<uint32_t>SESSIONS_MAX):
        _add_fd(loop, loop.box.sessions[i].fd, POLLIN, i)
    for i in range(rt.program.device_count):
        _add_link(loop, &rt.pollers[i].link, i)
        _add_link(loop, &rt.writers[i].link, i)
        due = min(due, poller_due(&loop.parts.polls, i))
        due = min(due, writer_due(&loop.parts.writers, i))
    due = max(due - now_ns, 0)
    timeout.tv_sec = due // 1_000_000_000
    timeout.tv_nsec = due % 1_000_000_000
    if ppoll(loop.fds, loop.fd_count, &timeout, NULL) < 0:
        for i in range(loop.fd_count):
            loop.fds[i].revents = 0


cdef bint _receive(Loop* loop, const Stamp* now) noexcept nogil:
    """Everything that is ready, each bounded; True where a scan has reason to run at once."""
    cdef uint64_t counter
    cdef bint any = False
    cdef uint32_t i
    if loop.fds[0].revents:
        read(loop.wake_fd, &counter, sizeof(counter))
        any = True
    for i in range(FIXED_FDS, loop.fd_count):
        if not loop.fds[i].revents:
            continue
        if (i - FIXED_FDS) % 2 == 0:
            if poller_event(
                &loop.parts.polls, loop.device_of[i], loop.fds[i].revents, now
            ):
                any = True
        elif writer_event(&loop.parts.writers, loop.device_of[i], loop.fds[i].revents, now):
            any = True
    for i in range(2, <uint32_t>FIXED_FDS):
        if loop.fds[i].revents and mailbox_event(
            &loop.box, loop.device_of[i], loop.fds[i].revents, now
        ):
            any = True
    if loop.fds[1].revents:
        mailbox_accept(&loop.box, now)
    return any


# ---- commands ------------------------------------------------------------------------------------

cdef int64_t _find_interlock(const Loop* loop, uint64_t key) noexcept nogil:
    """Index by binary search over the ascending keys, -1: none."""
    cdef int64_t low = 0
    cdef int64_t high = <int64_t>loop.current.program.interlock_count - 1
    cdef int64_t middle
    while low <= high:
        middle = (low + high) // 2
        if loop.current.program.interlocks[middle].key == key:
            return middle
        if loop.current.program.interlocks[middle].key < key:
            low = middle + 1
        else:
            high = middle - 1
    return -1


cdef int64_t _find_output(const Loop* loop, uint64_t key) noexcept nogil:
    cdef int64_t low = 0
    cdef int64_t high = <int64_t>loop.current.program.output_count - 1
    cdef int64_t middle
    while low <= high:
        middle = (low + high) // 2
        if loop.current.program.outputs[middle].key == key:
            return middle
        if loop.current.program.outputs[middle].key < key:
            low = middle + 1
        else:
            high = middle - 1
    return -1


cdef void _answer(
    Loop* loop, const Command* command, uint32_t code, uint32_t generation, uint32_t detail,
    const Stamp* now,
) noexcept nogil:
    """RESULT to the sender; what was refused or already so is a record besides."""
    cdef RefusedPayload payload
    if code != _RESULT_DONE:
        memset(&payload, 0, sizeof(payload))
        payload.type = command.type
        payload.code = code
        payload.detail = detail
        memcpy(payload.command_id, command.id, 16)
        memcpy(payload.who, command.who, 32)
        journal_write(
            &loop.shm, now, _EV_COMMAND, 0, _NONE_U32, command.key, &payload, sizeof(payload))
    mailbox_result(&loop.box, command, code, generation, detail)


cdef bint _other_program(const Loop* loop, const Command* command) noexcept nogil:
    return command.program != 0 and memcmp(
        &command.program, loop.current.program.hash, 8) != 0


cdef void _command_trip(Loop* loop, const Command* command, const Stamp* now) noexcept nogil:
    cdef int64_t index = _find_interlock(loop, command.key)
    cdef uint32_t detail = 0
    cdef uint32_t code
    if index < 0:
        _answer(loop, command, _RESULT_UNKNOWN_KEY, 0, 0, now)
        return
    code = interlock_command_trip(&loop.parts.logic, <uint32_t>index, now, &detail)
    _answer(
        loop, command, code, loop.current.interlocks[index].latch.generation, detail, now)


cdef void _command_reset(Loop* loop, const Command* command, const Stamp* now) noexcept nogil:
    cdef int64_t index = _find_interlock(loop, command.key)
    cdef uint32_t detail = 0
    cdef uint32_t code
    if index < 0:
        _answer(loop, command, _RESULT_UNKNOWN_KEY, 0, 0, now)
        return
    code = interlock_command_reset(
        &loop.parts.logic, <uint32_t>index, command.generation, command.ledger_seq,
        command.id, now, &detail)
    _answer(
        loop, command, code, loop.current.interlocks[index].latch.generation, detail, now)


cdef void _command_release(Loop* loop, const Command* command, const Stamp* now) noexcept nogil:
    cdef int64_t index = _find_output(loop, command.key)
    cdef uint32_t code
    if index < 0:
        _answer(loop, command, _RESULT_UNKNOWN_KEY, 0, 0, now)
        return
    code = output_command_release(
        &loop.parts.bank, <uint32_t>index,
        interlock_forbids(&loop.parts.logic, <uint32_t>index), now)
    _answer(loop, command, code, loop.current.outputs[index].latch.generation, 0, now)


cdef void _command_stop(Loop* loop, const Command* command, const Stamp* now) noexcept nogil:
    """The deliberate end of protection: trip values first, where the site file says so."""
    cdef int64_t longest = 0
    cdef uint32_t i
    if loop.stop_by_ns != 0:
        # It is under way, and is not put off. The same id is answered with it.
        if memcmp(loop.stop_command.id, command.id, 16) != 0:
            _answer(loop, command, _RESULT_ALREADY, 0, 0, now)
        return
    loop.stop_command = command[0]
    if loop.current.program.on_stop != 1:
        loop.stop_by_ns = now.mono_ns
        return
    for i in range(loop.current.program.output_count):
        longest = max(longest, loop.current.program.outputs[i].confirm_ns)
    loop.parts.bank.stopping = True
    loop.stop_by_ns = now.mono_ns + longest + STOP_MARGIN_NS


cdef void _command_load(Loop* loop, const Command* command, const Stamp* now) noexcept nogil:
    """Hand it to the main thread; one at a time."""
    cdef uint64_t one = 1
    if sw_load_acquire(&loop.load.state) != LOAD_IDLE:
        if memcmp(loop.load.command.id, command.id, 16) != 0:
            _answer(loop, command, _RESULT_LIMIT, 0, 0, now)
        return
    loop.load.command = command[0]
    sw_store_release(&loop.load.state, LOAD_ASKED)
    write(loop.main_fd, &one, sizeof(one))


cdef bint _weakens_properly(
    Loop* loop, const Command* command, const Stamp* now,
) noexcept nogil:
    """Durable in the ledger first, not too old, for this program."""
    if command.ledger_seq == 0:
        _answer(loop, command, _RESULT_NOT_ALLOWED, 0, 0, now)
    elif command.not_after_ns != 0 and now.boot_ns > command.not_after_ns:
        _answer(loop, command, _RESULT_EXPIRED, 0, 0, now)
    elif _other_program(loop, command):
        _answer(loop, command, _RESULT_WRONG_PROGRAM, 0, 0, now)
    else:
        return True
    return False


cdef void _commands(Loop* loop, bint strengthening, const Stamp* now) noexcept nogil:
    cdef Command* command
    cdef uint32_t i
    for i in range(loop.box.command_count):
        command = &loop.box.commands[i]
        if (command.type == _MSG_TRIP) != strengthening:
            continue
        if mailbox_known(&loop.box, command):
            continue
        if strengthening:
            _command_trip(loop, command, now)
        elif not _weakens_properly(loop, command, now):
            continue
        elif command.type == _MSG_RESET:
            _command_reset(loop, command, now)
        elif command.type == _MSG_RELEASE:
            _command_release(loop, command, now)
        elif command.type == _MSG_STOP:
            _command_stop(loop, command, now)
        elif command.type == _MSG_LOAD:
            _command_load(loop, command, now)


# ---- the scan ------------------------------------------------------------------------------------

cdef void _system_tag(Loop* loop, uint32_t slot, const Stamp* now) noexcept nogil:
    """sys.gateway.alive and sys.<device>.connected; unknown while starting and never heard."""
    cdef const TagDef* tag = &loop.current.program.tags[slot]
    cdef Slot* at = &loop.shm.image[slot]
    cdef bint starting = (
        now.mono_ns - loop.current.program.started_ns < loop.current.program.start_within_ns)
    cdef int64_t heard_ns
    cdef bint on
    if tag.system == _SYSTEM_GATEWAY_ALIVE:
        heard_ns = loop.shm.live.last_message_mono_ns
        on = loop.shm.live.gateway_connected and now.mono_ns - heard_ns <= GATEWAY_SILENT_NS
    elif tag.device != _NONE_U16:
        heard_ns = loop.shm.devices[tag.device].good_ns
        on = heard_ns != 0 and now.mono_ns - heard_ns <= (
            loop.current.program.devices[tag.device].connected_within_ns)
    else:
        return
    if starting and heard_ns == 0:
        return
    if at.quality != _Q_GOOD or (at.value != 0.0) != on:
        slot_write(at, 1.0 if on else 0.0, _Q_GOOD, 0, now.mono_ns, now.utc_ns, 0)


cdef void _fault(Loop* loop, uint32_t place, const Stamp* now) noexcept nogil:
    """A broken internal check trips everything that is armed, once."""
    cdef FaultPayload payload
    cdef uint32_t i, k
    if loop.faulted:
        return
    loop.faulted = True
    memset(&payload, 0, sizeof(payload))
    payload.code = 1
    payload.place = place
    journal_write(&loop.shm, now, _EV_FAULT, 0, _NONE_U32, 0, &payload, sizeof(payload))
    for k in range(loop.current.program.interlock_count):
        i = loop.current.order[k]
        if loop.current.interlocks[i].latch.state != _ILS_TRIPPED:
            interlock_trip(&loop.parts.logic, i, _TRIP_FAULT, now)


cdef void _pause(Loop* loop, const Stamp* now) noexcept nogil:
    """After a suspend or a stop of this process every input is stale first, then decided."""
    cdef OverrunPayload payload
    cdef int64_t gap_ns = now.boot_ns - loop.last_scan_boot_ns
    if loop.last_scan_boot_ns == 0 or gap_ns < PAUSE_NS_MIN + loop.current.program.tick_ns:
        return
    payload.took_ns = gap_ns
    payload.budget_ns = loop.current.program.tick_ns
    loop.shm.live.counters[_COUNT_PAUSES] += 1
    journal_write(&loop.shm, now, _EV_PAUSE, 0, _NONE_U32, 0, &payload, sizeof(payload))
    intake_age(&loop.parts.intake, now, True)
    loop.aged_ns = now.mono_ns


cdef void _overrun(Loop* loop, int64_t took_ns, const Stamp* now) noexcept nogil:
    """A scan that took longer than its tick; twice an interlock's response trips it."""
    cdef OverrunPayload payload
    cdef const InterlockDef* d
    cdef uint32_t i, k
    loop.shm.live.overruns += 1
    if now.mono_ns - loop.overrun_told_ns >= 1_000_000_000:
        loop.overrun_told_ns = now.mono_ns
        payload.took_ns = took_ns
        payload.budget_ns = loop.current.program.tick_ns
        journal_write(&loop.shm, now, _EV_OVERRUN, 0, _NONE_U32, 0, &payload, sizeof(payload))
    if loop.current.program.on_overrun != 1:
        return
    for k in range(loop.current.program.interlock_count):
        i = loop.current.order[k]
        d = &loop.current.program.interlocks[i]
        if took_ns > 2 * d.response_ns and loop.current.interlocks[i].latch.state < _ILS_TRIPPED:
            interlock_trip(&loop.parts.logic, i, _TRIP_OVERRUN, now)


cdef void _scan(Loop* loop, const Stamp* now) noexcept nogil:
    cdef Runtime* rt = loop.current
    cdef int64_t took_ns
    cdef uint32_t i
    loop.shm.live.scan += 1
    loop.shm.live.scan_mono_ns = now.mono_ns
    _pause(loop, now)
    if now.mono_ns - loop.aged_ns >= rt.program.tick_ns:
        loop.aged_ns = now.mono_ns
        intake_age(&loop.parts.intake, now, False)
    for i in range(rt.system_count):
        _system_tag(loop, rt.system_slots[i], now)
    if loop.box.command_count:
        _commands(loop, True, now)
    if not program_evaluate(
        &rt.program, loop.shm.image, loop.shm.nodes, loop.parts.registers, now.mono_ns
    ):
        _fault(loop, 1, now)
    interlocks_scan(&loop.parts.logic, now)
    if loop.box.command_count:
        _commands(loop, False, now)
        loop.box.command_count = 0
    interlocks_demand(&loop.parts.logic, now, rt.demand, rt.cause, rt.demand_ns)
    outputs_scan(&loop.parts.bank, now)
    loop.parts.writers.scanned = True
    for i in range(rt.program.device_count):
        writer_flush(&loop.parts.writers, i, now)
    interlocks_store(&loop.parts.logic)
    took_ns = mono_ns() - now.mono_ns
    loop.shm.live.scan_ns_max = max(loop.shm.live.scan_ns_max, <uint64_t>took_ns)
    if took_ns > rt.program.tick_ns:
        _overrun(loop, took_ns, now)
    loop.last_scan_ns = now.mono_ns
    loop.last_scan_boot_ns = now.boot_ns
    loop.parts.logic.last_scan_ns = now.mono_ns


# ---- life ----------------------------------------------------------------------------------------

cdef void _swap(Loop* loop, const Stamp* now) noexcept nogil:
    """At a scan's border: the program that the main thread made ready, under the swap rules."""
    cdef Runtime* old = loop.current
    cdef uint64_t one = 1
    if sw_load_acquire(&loop.load.state) != LOAD_READY:
        return
    if not swap_allowed(&loop.parts, old, loop.spare):
        loop.load.code = _RESULT_WOULD_REMOVE_TRIP
        sw_store_release(&loop.load.state, LOAD_ANSWERED)
        return
    swap_merge(&loop.parts, old, loop.spare, loop.load.command.id, now)
    loop.current = loop.spare
    loop.spare = old
    loop.box.program = &loop.current.program
    loop.faulted = False
    sw_store_release(&loop.load.state, LOAD_SWAPPED)
    write(loop.main_fd, &one, sizeof(one))


cdef void _answer_load(Loop* loop, const Stamp* now) noexcept nogil:
    if sw_load_acquire(&loop.load.state) != LOAD_ANSWERED:
        return
    _answer(loop, &loop.load.command, loop.load.code, 0, loop.load.detail, now)
    sw_store_release(&loop.load.state, LOAD_IDLE)


cdef void _notify(Loop* loop, const Stamp* now) noexcept nogil:
    """WATCHDOG=1 by the end of a scan, never by a timer of its own."""
    if loop.notify_fd < 0 or now.mono_ns - loop.notified_ns < loop.notify_ns:
        return
    loop.notified_ns = now.mono_ns
    if sw_notify(loop.notify_fd, b"WATCHDOG=1", 10) < 0:
        loop.shm.live.counters[_COUNT_NOTIFY_FAILED] += 1


cdef bint _ended(Loop* loop, const Stamp* now) noexcept nogil:
    """Told to stop, or STOP has its confirmations or its time is over."""
    cdef bint confirmed
    if sw_load_acquire(&loop.stop) != 0:
        return True
    if loop.stop_by_ns == 0:
        return False
    confirmed = not loop.parts.bank.stopping or outputs_confirmed(&loop.parts.bank)
    if not confirmed and now.mono_ns < loop.stop_by_ns:
        return False
    _answer(loop, &loop.stop_command, _RESULT_DONE, 0, 0 if confirmed else 1, now)
    sw_store_release(&loop.stop, 2 << 8)
    return True


cdef void _look_at_clock(Loop* loop, const Stamp* now) noexcept nogil:
    """Once a second: is the wall clock disciplined? Stamped on every record."""
    if now.mono_ns - loop.synced_ns >= 1_000_000_000:
        loop.synced_ns = now.mono_ns
        loop.shm.clock_flags = _EVF_CLOCK_SYNCED if sw_clock_synced() else 0


cdef void _begin(Loop* loop) noexcept nogil:
    """On the scan thread, before the first scan."""
    cdef StartPayload payload
    cdef Stamp now = _stamp()
    cdef uint64_t fifo = sw_realtime(REALTIME_PRIORITY)
    sw_exact_timers()
    _look_at_clock(loop, &now)
    if not sw_lock_stack():
        loop.shm.live.counters[_COUNT_LOCKED] = 0
    loop.shm.live.counters[_COUNT_REALTIME] = fifo
    memset(&payload, 0, sizeof(payload))
    payload.starts = loop.shm.live.guard_starts
    payload.clean = loop.clean
    payload.restored = loop.restored
    payload.fifo = <uint32_t>fifo
    payload.locked = <uint32_t>loop.shm.live.counters[_COUNT_LOCKED]
    payload.gap_ns = loop.gap_ns
    payload.journal_id = loop.shm.fixed.journal_id
    journal_write(&loop.shm, &now, _EV_GUARD_START, 0, _NONE_U32, 0, &payload, sizeof(payload))
    loop.shm.live.clean_stop = 0


cdef void _end(Loop* loop) noexcept nogil:
    cdef StopPayload payload
    cdef Stamp now = _stamp()
    payload.reason = <uint32_t>(loop.stop >> 8)
    payload.signal = <uint32_t>(loop.stop & 0xFF)
    journal_write(&loop.shm, &now, _EV_GUARD_STOP, 0, _NONE_U32, 0, &payload, sizeof(payload))
    loop.shm.live.clean_stop = 1
    loop.shm.live.gateway_connected = 0
    mailbox_close_all(&loop.box)


cdef void _run(Loop* loop) noexcept nogil:
    cdef Stamp now = _stamp()
    cdef bint scan
    cdef uint32_t i
    while not _ended(loop, &now):
        _wait(loop, now.mono_ns)
        now = _stamp()
        scan = _receive(loop, &now)
        for i in range(loop.current.program.device_count):
            poller_turn(&loop.parts.polls, i, &now)
            writer_turn(&loop.parts.writers, i, &now)
        _answer_load(loop, &now)
        _swap(loop, &now)
        if scan or now.mono_ns - loop.last_scan_ns >= loop.current.program.tick_ns:
            _scan(loop, &now)
            mailbox_nudge(&loop.box)
            _notify(loop, &now)
            _look_at_clock(loop, &now)


cdef class Engine:
    """The guard's state and its scan thread.

    Made by the main thread from a verified blob; ``run`` is the scan thread's body and returns
    after ``stop`` or a STOP command. ``interlocks`` and ``outputs`` map keys to latch bytes of a
    clean stop. Raises MemoryError.
    """

    cdef Loop loop
    cdef Runtime runtimes[2]
    cdef SharedFile file
    cdef readonly object running

    def __init__(
        self, SharedFile file, bytes blob, *, int listen_fd, int wake_fd, int main_fd,
        uint32_t own_uid, uint32_t gateway_uid, uint32_t operators_gid, int notify_fd,
        int64_t notify_ns, bint power_loss, bint lost_program, bint clean, dict interlocks,
        dict outputs,
    ):
        cdef Loop* loop = &self.loop
        cdef Stamp now = _stamp()
        cdef uint32_t i
        self.file = file
        self.running = threading.Event()
        memset(loop, 0, sizeof(Loop))
        if not (
            runtime_alloc(&self.runtimes[0]) and runtime_alloc(&self.runtimes[1])
            and parts_alloc(&loop.parts)
        ):
            raise MemoryError("the guard's tables")
        shm_map(&loop.shm, file.base)
        loop.parts.shm = &loop.shm
        loop.parts.lost_program = lost_program
        loop.current = &self.runtimes[0]
        loop.spare = &self.runtimes[1]
        loop.wake_fd = wake_fd
        loop.main_fd = main_fd
        loop.notify_fd = notify_fd
        loop.notify_ns = notify_ns
        loop.box.shm = &loop.shm
        loop.box.program = &loop.current.program
        loop.box.intake = &loop.parts.intake
        loop.box.listen_fd = listen_fd
        loop.box.own_uid = own_uid
        loop.box.gateway_uid = gateway_uid
        loop.box.operators_gid = operators_gid
        for i in range(<uint32_t>SESSIONS_MAX):
            loop.box.sessions[i].fd = -1
        loop.parts.polls.random = <uint64_t>now.utc_ns | 1
        loop.parts.writers.random = (<uint64_t>now.utc_ns ^ 0x9E3779B97F4A7C15u) | 1
        if not runtime_load(loop.current, <const uint8_t*><char*>blob, len(blob)):
            raise ValueError("not a program")
        self._count(power_loss)
        loop.clean = clean
        if loop.shm.live.scan_mono_ns != 0:
            loop.gap_ns = max(now.mono_ns - loop.shm.live.scan_mono_ns, 0)
        loop.restored = runtime_recover(
            &loop.parts, loop.current, interlocks, outputs, power_loss, &now)
        runtime_begin(&loop.parts, loop.current, &now)

    cdef void _count(self, bint power_loss) noexcept:
        """Header fields of a new life."""
        cdef Shm* shm = &self.loop.shm
        cdef bint locked = (
            self.file.locked and runtime_locked(&self.runtimes[0], &self.loop.parts)
            and runtime_locked(&self.runtimes[1], &self.loop.parts))
        shm.live.guard_starts += 1
        shm.live.pid = <uint32_t>os.getpid()
        shm.live.gateway_connected = 0
        shm.live.last_message_mono_ns = 0
        shm.live.scan_ns_max = 0
        shm.live.counters[_COUNT_LOCKED] = 1 if locked else 0

    @property
    def locked(self) -> bool:
        """Everything that the scan touches is locked in memory."""
        return self.loop.shm.live.counters[_COUNT_LOCKED] == 1

    @property
    def realtime(self) -> bool:
        """The scan thread runs under SCHED_FIFO."""
        return self.loop.shm.live.counters[_COUNT_REALTIME] == 1

    def run(self) -> None:
        """The scan thread's whole life; never touches the GIL between start and stop."""
        cdef Loop* loop = &self.loop
        with nogil:
            _begin(loop)
        self.running.set()
        with nogil:
            _run(loop)
            _end(loop)

    def stop(self, int signal) -> None:
        """Ask the scan thread to end after its present scan."""
        cdef uint64_t one = 1
        sw_store_release(&self.loop.stop, (1 << 8) | <uint64_t>signal)
        write(self.loop.wake_fd, &one, sizeof(one))

    @property
    def stopped_by(self) -> int:
        """STOP_SIGNAL or STOP_COMMAND after ``run`` returned, 0 before."""
        return self.loop.stop >> 8

    def asked(self) -> tuple | None:
        """(hash, expected hash, step) of a LOAD that waits for the main thread."""
        cdef Load* load = &self.loop.load
        if sw_load_acquire(&load.state) != LOAD_ASKED:
            return None
        return (
            <bytes>load.command.hash[:32], <bytes>load.command.expected[:32], load.command.step)

    def refuse(self, uint32_t code, uint32_t detail) -> None:
        """Answer a LOAD without a swap (also RESULT_DONE of a mere verification)."""
        cdef uint64_t one = 1
        self.loop.load.code = code
        self.loop.load.detail = detail
        sw_store_release(&self.loop.load.state, LOAD_ANSWERED)
        write(self.loop.wake_fd, &one, sizeof(one))

    def offer(self, bytes blob) -> None:
        """Hand a verified blob to the scan thread, to be swapped in at its next border."""
        cdef uint64_t one = 1
        if not runtime_load(self.loop.spare, <const uint8_t*><char*>blob, len(blob)):
            self.refuse(_RESULT_REFUSED_BLOB, 2)
            return
        runtime_map(self.loop.spare, self.loop.current)
        sw_store_release(&self.loop.load.state, LOAD_READY)
        write(self.loop.wake_fd, &one, sizeof(one))

    def swapped(self) -> bool:
        """The offered program runs; the main thread makes it the last good one, then refuses
        nothing: ``refuse(RESULT_DONE, 0)`` answers the LOAD."""
        return sw_load_acquire(&self.loop.load.state) == LOAD_SWAPPED

    def program_hash(self) -> bytes:
        """Hash of the running program (main thread, between loads)."""
        return <bytes>self.loop.current.program.hash[:32]

    def latches(self) -> tuple:
        """(interlocks, outputs): key -> latch bytes, after the scan thread has ended.

        Another boot has another clock: the times of the interlocks are relative to now.
        """
        cdef Runtime* rt = self.loop.current
        cdef int64_t now_ns = boot_ns()
        cdef InterlockLatch latch
        cdef uint32_t i
        interlocks = {}
        outputs = {}
        for i in range(rt.program.interlock_count):
            latch = rt.interlocks[i].latch
            latch.since_ns -= now_ns
            latch.trip_boot_ns -= now_ns
            interlocks[rt.program.interlocks[i].key] = (<char*>&latch)[:sizeof(latch)]
        for i in range(rt.program.output_count):
            outputs[rt.program.outputs[i].key] = (
                <char*>&rt.outputs[i].latch)[:sizeof(rt.outputs[i].latch)]
        return interlocks, outputs
