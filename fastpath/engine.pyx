# cython: cdivision=True
"""The loop: wait, read, scan. The one nogil block of the guard.

The scan thread sleeps in one epoll set of all sockets and scans when something came in, and at the
latest every tick. What a scan is: ``scan``.
"""

import os
import threading

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, itimerspec

from fastpath.bus cimport (
    BUSES_MAX, DOOR_EMPTY, DOOR_FAILED, DOOR_OFFERED, DOOR_RETURNED, Door, bus_event, bus_turn,
)
from fastpath.clock cimport boot_ns, mono_ns, utc_ns
from fastpath.commands cimport command_answer
from fastpath.difference cimport difference_of
from fastpath.journal cimport SharedFile, Shm, Stamp, journal_write
from fastpath.layout cimport ProgramView, program_open
from fastpath.mailbox cimport (
    mailbox_accept, mailbox_close_all, mailbox_event, mailbox_nudge,
)
from fastpath.outputs cimport outputs_confirmed
from fastpath.poller cimport poller_due, poller_event, poller_turn, poller_yield
from fastpath.recover cimport runtime_latches
from fastpath.rehearsal cimport Rehearsal, rehearse
from fastpath.runtime cimport (
    Runtime, parts_ready, runtime_load, runtime_watch,
)
from fastpath.scan cimport scan_answer_load, scan_once, scan_swap, scanner_begin
from fastpath.scanner cimport (
    LOAD_ANSWERED, LOAD_ASKED, LOAD_READY, LOAD_SWAPPED, Load, Scanner,
)
from fastpath.types cimport *
from fastpath.watch cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLERR, EPOLLHUP, WATCH_LISTEN, WATCH_READ, WATCH_SESSION,
    WATCH_TIMER, WATCH_TRIP, WATCH_TTY, WATCH_WAKE, epoll_create1, epoll_event, epoll_wait, watch,
    watch_token,
)
from fastpath.writer cimport writer_due, writer_event, writer_starves, writer_turn

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* p)
    void sw_store_release(uint64_t* p, uint64_t value)
    bint sw_failpoints_wanted()

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
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
    /* 1 + the only CPU that this thread may run on, 0 where there are several. */
    static int sw_bound_cpu(void) {
        cpu_set_t set;
        if (sched_getaffinity(0, sizeof(set), &set) != 0 || CPU_COUNT(&set) != 1) return 0;
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &set)) return cpu + 1;
        return 0;
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
    int sw_realtime(int priority) nogil
    int sw_bound_cpu() nogil
    int sw_lock_stack() nogil
    void sw_exact_timers() nogil
    int sw_clock_synced() nogil
    ssize_t sw_notify(int fd, const char* text, size_t n) nogil
    ssize_t read(int fd, void* data, size_t n) nogil
    ssize_t write(int fd, const void* data, size_t n) nogil

cdef extern from "<sys/timerfd.h>" nogil:
    int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)

cdef enum:
    READY_MAX = 64  # descriptors per wake
    REALTIME_PRIORITY = 40

STOP_SIGNAL = 1  # GUARD_STOP's reason: SIGTERM or SIGINT
STOP_COMMAND = 2  # the STOP command

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

cdef struct Loop:  # the scan thread's own
    Scanner scanner
    int wake_fd  # others -> scan thread
    int notify_fd  # -1: none
    int64_t notify_ns  # interval of WATCHDOG=1
    int64_t notified_ns
    int64_t synced_ns
    uint64_t stop  # reason << 8 | signal, 0: run
    uint32_t restored
    uint32_t clean
    int64_t gap_ns
    int poll_fd
    int timer_fd
    int64_t armed_ns  # monotonic: when the timer rings, 0: it does not
    Rehearsal rehearsal
    epoll_event ready[READY_MAX]


# ---- clocks --------------------------------------------------------------------------------------

cdef Stamp _stamp() noexcept nogil:
    cdef Stamp now
    now.mono_ns = mono_ns()
    now.boot_ns = boot_ns()
    now.utc_ns = utc_ns()
    return now


# ---- waiting -------------------------------------------------------------------------------------

cdef void _arm(Loop* loop, int64_t due_ns, int64_t now_ns) noexcept nogil:
    """Have the timer ring by then. One that rings earlier is left alone: setting it costs more.

    A timeout of the wait itself would be cancelled in every wake, on the way of a trip.
    """
    cdef itimerspec when
    if now_ns < loop.armed_ns <= due_ns:
        return
    loop.armed_ns = due_ns
    memset(&when, 0, sizeof(when))
    due_ns = max(due_ns, 1)  # zero would disarm it
    when.it_value.tv_sec = due_ns // 1_000_000_000
    when.it_value.tv_nsec = due_ns % 1_000_000_000
    timerfd_settime(loop.timer_fd, TFD_TIMER_ABSTIME, &when, NULL)


cdef int _wait(Loop* loop, int64_t now_ns) noexcept nogil:
    """Sleep until a descriptor is ready, something is due, or the tick has passed."""
    cdef Runtime* rt = loop.scanner.current
    cdef int64_t due = loop.scanner.last_scan_ns + rt.program.tick_ns
    cdef uint32_t i
    for i in range(rt.program.device_count):
        due = min(due, poller_due(&loop.scanner.parts.polls, i))
        due = min(due, writer_due(&loop.scanner.parts.writers, i))
    for i in range(loop.scanner.parts.buses.bus_count):
        due = min(due, loop.scanner.parts.buses.buses[i].due_ns)
    _arm(loop, due, now_ns)
    return epoll_wait(loop.poll_fd, loop.ready, READY_MAX, -1)


cdef bint _receive(Loop* loop, int count, const Stamp* now) noexcept nogil:
    """Everything that is ready, each bounded; True where a scan has reason to run at once."""
    cdef uint64_t counter
    cdef bint any = False
    cdef bint knocked = False
    cdef uint32_t kind, index
    cdef short revents
    cdef int i
    for i in range(count):
        kind = <uint32_t>(loop.ready[i].data.u64 >> 32)
        index = <uint32_t>loop.ready[i].data.u64
        revents = <short>loop.ready[i].events
        if kind == WATCH_READ:
            any |= poller_event(&loop.scanner.parts.polls, index, revents, now)
        elif kind == WATCH_TRIP:
            any |= writer_event(&loop.scanner.parts.writers, index, revents, now)
        elif kind == WATCH_TTY:
            any |= bus_event(
                &loop.scanner.parts.buses, index,
                (loop.ready[i].events & (EPOLLERR | EPOLLHUP)) != 0, now)
        elif kind == WATCH_SESSION:
            any |= mailbox_event(&loop.scanner.box, index, revents, now)
        elif kind == WATCH_TIMER:
            read(loop.timer_fd, &counter, sizeof(counter))
            loop.armed_ns = 0
        elif kind == WATCH_WAKE:
            read(loop.wake_fd, &counter, sizeof(counter))
            any = True
        elif kind == WATCH_LISTEN:
            knocked = True
    if knocked:
        mailbox_accept(&loop.scanner.box, now)  # last: it may take the place of one that ended
    return any


# ---- life ----------------------------------------------------------------------------------------

cdef void _notify(Loop* loop, const Stamp* now) noexcept nogil:
    """WATCHDOG=1 by the end of a scan, never by a timer of its own."""
    if loop.notify_fd < 0 or now.mono_ns - loop.notified_ns < loop.notify_ns:
        return
    loop.notified_ns = now.mono_ns
    if sw_notify(loop.notify_fd, b"WATCHDOG=1", 10) < 0:
        loop.scanner.shm.live.counters[_COUNT_NOTIFY_FAILED] += 1


cdef bint _ended(Loop* loop, const Stamp* now) noexcept nogil:
    """Told to stop, or STOP has its confirmations or its time is over."""
    cdef bint confirmed
    if sw_load_acquire(&loop.stop) != 0:
        return True
    if loop.scanner.stop_by_ns == 0:
        return False
    confirmed = not loop.scanner.parts.bank.stopping or outputs_confirmed(&loop.scanner.parts.bank)
    if not confirmed and now.mono_ns < loop.scanner.stop_by_ns:
        return False
    command_answer(
        &loop.scanner, &loop.scanner.stop_command, _RESULT_DONE, 0, 0 if confirmed else 1, now)
    sw_store_release(&loop.stop, 2 << 8)
    return True


cdef void _look_at_clock(Loop* loop, const Stamp* now) noexcept nogil:
    """Once a second: is the wall clock disciplined? Stamped on every record."""
    if now.mono_ns - loop.synced_ns >= 1_000_000_000:
        loop.synced_ns = now.mono_ns
        loop.scanner.shm.clock_flags = _EVF_CLOCK_SYNCED if sw_clock_synced() else 0


cdef void _begin(Loop* loop) noexcept nogil:
    """On the scan thread, before the first scan."""
    cdef StartPayload payload
    cdef Stamp now = _stamp()
    cdef uint64_t fifo = sw_realtime(REALTIME_PRIORITY)
    sw_exact_timers()
    _look_at_clock(loop, &now)
    if not sw_lock_stack():
        loop.scanner.shm.live.counters[_COUNT_LOCKED] = 0
    loop.scanner.shm.live.counters[_COUNT_REALTIME] = fifo
    loop.scanner.shm.live.counters[_COUNT_CPU] = <uint64_t>sw_bound_cpu()
    memset(&payload, 0, sizeof(payload))
    payload.starts = loop.scanner.shm.live.guard_starts
    payload.clean = loop.clean
    payload.restored = loop.restored
    payload.fifo = <uint32_t>fifo
    payload.locked = <uint32_t>loop.scanner.shm.live.counters[_COUNT_LOCKED]
    payload.gap_ns = loop.gap_ns
    payload.journal_id = loop.scanner.shm.fixed.journal_id
    journal_write(&loop.scanner.shm, &now, _EV_GUARD_START, 0, _NONE_U32, 0, &payload, sizeof(payload))
    loop.scanner.shm.live.clean_stop = 0


cdef void _end(Loop* loop) noexcept nogil:
    cdef StopPayload payload
    cdef Stamp now = _stamp()
    payload.reason = <uint32_t>(loop.stop >> 8)
    payload.signal = <uint32_t>(loop.stop & 0xFF)
    journal_write(&loop.scanner.shm, &now, _EV_GUARD_STOP, 0, _NONE_U32, 0, &payload, sizeof(payload))
    loop.scanner.shm.live.clean_stop = 1
    loop.scanner.shm.live.gateway_connected = 0
    mailbox_close_all(&loop.scanner.box)


cdef void _run(Loop* loop) noexcept nogil:
    cdef Stamp now = _stamp()
    cdef bint scan
    cdef uint64_t sent = 0
    cdef uint32_t i
    cdef int count
    while not _ended(loop, &now):
        count = _wait(loop, now.mono_ns)
        now = _stamp()
        scan = _receive(loop, count, &now)
        for i in range(loop.scanner.current.program.device_count):
            poller_turn(&loop.scanner.parts.polls, i, &now)
            writer_turn(&loop.scanner.parts.writers, i, &now)
            if writer_starves(&loop.scanner.parts.writers, i):
                poller_yield(&loop.scanner.parts.polls, i, &now)
        for i in range(loop.scanner.parts.buses.bus_count):
            bus_turn(&loop.scanner.parts.buses, i, &now)
        scan_answer_load(&loop.scanner, &now)
        scan_swap(&loop.scanner, &now)
        if scan or now.mono_ns - loop.scanner.last_scan_ns >= loop.scanner.current.program.tick_ns:
            scan_once(&loop.scanner, &now)
            mailbox_nudge(&loop.scanner.box)
            _notify(loop, &now)
            _look_at_clock(loop, &now)
        # A rehearsed trip has boundaries between stores, too; what is counted is the real one.
        if loop.scanner.parts.polls.sent != sent and not sw_failpoints_wanted():
            sent = loop.scanner.parts.polls.sent
            rehearse(&loop.rehearsal, &loop.scanner.parts, &now)


cdef void _set_doors(Runtime* rt, list doors) except *:
    """The doors of the program's ttys, before its first wake."""
    cdef uint32_t i
    for i in range(min(len(doors), BUSES_MAX)):
        rt.buses[i].door = doors[i]


cdef class Engine:
    """The guard's state and its scan thread.

    Made by the main thread from a verified blob; ``run`` is the scan thread's body and returns
    after ``stop`` or a STOP command. ``interlocks`` and ``outputs`` map keys to latch bytes of a
    clean stop; ``doors`` is that of ``offer``. Raises MemoryError.
    """

    cdef Loop loop
    cdef Runtime runtimes[2]
    cdef SharedFile file
    cdef readonly object running

    def __init__(
        self, SharedFile file, bytes blob, *, int listen_fd, int wake_fd, int main_fd,
        uint32_t own_uid, uint32_t gateway_uid, uint32_t operators_gid, int notify_fd,
        int64_t notify_ns, bint power_loss, bint lost_program, bint clean, dict interlocks,
        dict outputs, list doors, uint32_t instance,
    ):
        cdef Loop* loop = &self.loop
        cdef Stamp now = _stamp()
        cdef ProgramView program
        if not program_open(<const uint8_t*><char*>blob, len(blob), &program):
            raise ValueError("not a program")
        file.fit(&program)
        self.file = file
        self.running = threading.Event()
        memset(loop, 0, sizeof(Loop))
        loop.restored = scanner_begin(
            &loop.scanner, file.base, self.runtimes, blob, power_loss, lost_program,
            interlocks, outputs, &now)
        loop.scanner.parts.writers.instance = instance
        _set_doors(loop.scanner.current, doors)
        loop.wake_fd = wake_fd
        loop.notify_fd = notify_fd
        loop.notify_ns = notify_ns
        loop.clean = clean
        loop.scanner.main_fd = main_fd
        loop.scanner.parts.buses.main_fd = main_fd
        loop.scanner.box.listen_fd = listen_fd
        self._watch()
        loop.scanner.box.own_uid = own_uid
        loop.scanner.box.gateway_uid = gateway_uid
        loop.scanner.box.operators_gid = operators_gid
        if loop.scanner.shm.live.scan_mono_ns != 0:
            loop.gap_ns = max(now.mono_ns - loop.scanner.shm.live.scan_mono_ns, 0)
        self._count()

    cdef int _watch(self) except -1:
        """The one epoll set; raises OSError."""
        cdef Loop* loop = &self.loop
        cdef int poll_fd = epoll_create1(EPOLL_CLOEXEC)
        if not (
            watch(poll_fd, EPOLL_CTL_ADD, loop.wake_fd, False, watch_token(WATCH_WAKE, 0))
            and watch(
                poll_fd, EPOLL_CTL_ADD, loop.scanner.box.listen_fd, False,
                watch_token(WATCH_LISTEN, 0))
        ):
            raise OSError("the guard's descriptors cannot be watched")
        loop.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if not watch(
            poll_fd, EPOLL_CTL_ADD, loop.timer_fd, False, watch_token(WATCH_TIMER, 0)
        ):
            raise OSError("the guard has no timer")
        loop.poll_fd = poll_fd
        loop.scanner.box.poll_fd = poll_fd
        loop.scanner.parts.poll_fd = poll_fd
        loop.scanner.parts.buses.poll_fd = poll_fd
        runtime_watch(&loop.scanner.parts, loop.scanner.current)
        return 0

    cdef void _count(self) noexcept:
        """Header fields of a new life."""
        cdef Shm* shm = &self.loop.scanner.shm
        cdef bint locked = (
            self.file.locked and self.loop.scanner.current.locked
            and self.loop.scanner.parts.locked)
        shm.live.guard_starts += 1
        shm.live.pid = <uint32_t>os.getpid()
        shm.live.gateway_connected = 0
        shm.live.last_message_mono_ns = 0
        shm.live.scan_ns_max = 0
        shm.live.counters[_COUNT_LOCKED] = 1 if locked else 0

    @property
    def locked(self) -> bool:
        """Everything that the scan touches is locked in memory."""
        return self.loop.scanner.shm.live.counters[_COUNT_LOCKED] == 1

    @property
    def realtime(self) -> bool:
        """The scan thread runs under SCHED_FIFO."""
        return self.loop.scanner.shm.live.counters[_COUNT_REALTIME] == 1

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
        """(hash, expected hash, step, flags) of a LOAD that waits for the main thread."""
        cdef Load* load = &self.loop.scanner.load
        if sw_load_acquire(&load.state) != LOAD_ASKED:
            return None
        return (
            <bytes>load.command.hash[:32], <bytes>load.command.expected[:32], load.command.step,
            load.command.flags)

    def refuse(self, uint32_t code, uint32_t detail) -> None:
        """Answer a LOAD without a swap (also RESULT_DONE of a mere verification)."""
        cdef uint64_t one = 1
        self.loop.scanner.load.code = code
        self.loop.scanner.load.detail = detail
        sw_store_release(&self.loop.scanner.load.state, LOAD_ANSWERED)
        write(self.loop.wake_fd, &one, sizeof(one))

    def prepare(self, bytes blob, list doors) -> int:
        """Make a verified blob ready beside the running program; how many changes weaken.

        ``doors``: for each of its ttys the number under which it will be handed over. Raises
        ValueError when it is no program, OSError where there is no room for it in guard.shm.
        """
        cdef Runtime* spare = self.loop.scanner.spare
        if not runtime_load(spare, <const uint8_t*><char*>blob, len(blob)):
            raise ValueError("not a program")
        self.file.fit(&spare.program)
        parts_ready(&self.loop.scanner.parts, &spare.program)
        if not (self.file.locked and spare.locked and self.loop.scanner.parts.locked):
            self.loop.scanner.shm.live.counters[_COUNT_LOCKED] = 0
        _set_doors(spare, doors)
        difference_of(spare, self.loop.scanner.current)
        return spare.weakened

    def offer(self) -> None:
        """Hand what was prepared to the scan thread, to be swapped in at its next border."""
        cdef uint64_t one = 1
        sw_store_release(&self.loop.scanner.load.state, LOAD_READY)
        write(self.loop.wake_fd, &one, sizeof(one))

    def tty_offer(self, uint32_t door, int fd) -> bool:
        """An open tty for the scan thread, which uses it until ``tty_taken_back``.

        False: the scan thread has yet to see what was put there before.
        """
        return self._knock(door, DOOR_OFFERED, fd, 0)

    def tty_failed(self, uint32_t door, int error) -> bool:
        """It cannot be opened; ``error`` is the errno. False as in ``tty_offer``."""
        return self._knock(door, DOOR_FAILED, -1, error)

    cdef bint _knock(self, uint32_t door, uint64_t state, int fd, int error) noexcept:
        cdef Door* at = &self.loop.scanner.parts.doors[door]
        cdef uint64_t one = 1
        if sw_load_acquire(&at.state) != DOOR_EMPTY:
            return False
        at.fd = fd
        at.error = error
        sw_store_release(&at.state, state)
        write(self.loop.wake_fd, &one, sizeof(one))
        return True

    def tty_taken_back(self, uint32_t door) -> int | None:
        """The errno (0: none) with which the scan thread gave this tty up; None: it did not."""
        cdef Door* at = &self.loop.scanner.parts.doors[door]
        if sw_load_acquire(&at.state) != DOOR_RETURNED:
            return None
        sw_store_release(&at.state, DOOR_EMPTY)
        return at.error

    def tty_forget(self, uint32_t door) -> None:
        """Take back what the scan thread has not taken, and now has no program for."""
        cdef Door* at = &self.loop.scanner.parts.doors[door]
        if sw_load_acquire(&at.state) in (DOOR_OFFERED, DOOR_FAILED):
            sw_store_release(&at.state, DOOR_EMPTY)

    def swapped(self) -> bool:
        """The offered program runs; the main thread makes it the last good one, then refuses
        nothing: ``refuse(RESULT_DONE, 0)`` answers the LOAD."""
        return sw_load_acquire(&self.loop.scanner.load.state) == LOAD_SWAPPED

    def program_hash(self) -> bytes:
        """Hash of the running program (main thread, between loads)."""
        return <bytes>self.loop.scanner.current.program.hash[:32]

    def latches(self) -> tuple:
        """(interlocks, outputs): key -> latch bytes, after the scan thread has ended."""
        return runtime_latches(self.loop.scanner.current, boot_ns())
