# cython: cdivision=True
"""Devices that share a serial line: who sends next, and what becomes of each exchange.

One exchange at a time: trip values of all devices first, then normal values, heartbeats, and polls
by the time that they are due. A running exchange ends first, with its reply or its timeout.

A serial reply carries no transaction. So whatever goes wrong, a timeout or a byte that has no
place in the reply, is followed by silence for twice the device's timeout, in which everything
that comes is dropped: a late or doubled reply must never be taken for another's. A trip value
waits for the line to be quiet alone: a late reply to a read cannot look like its echo, and where
the two collide it is written again.
"""

from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy, memset

from fastpath.clock cimport mono_ns
from fastpath.line cimport (
    line_discard, line_end, line_expect, line_init, line_look, line_open, line_receive,
    line_reply, line_set,
)
from fastpath.link cimport LINK_LINE, LINK_LINE_DOWN
from fastpath.outputs cimport WISH_NORMAL, WISH_TRIP
from fastpath.poller cimport (
    poller_answered, poller_ask, poller_begin, poller_end, poller_failed, poller_next_ns,
)
from fastpath.types cimport *
from fastpath.watch cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, WATCH_TTY, epoll_ctl, epoll_event, watch,
    watch_token,
)
from fastpath.writer cimport (
    writer_answered, writer_ask, writer_beat, writer_beat_ns, writer_begin, writer_end,
    writer_failed, writer_fresh, writer_wishes,
)

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* p)
    void sw_store_release(uint64_t* p, uint64_t value)

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* data, size_t n)

cdef enum Kind:  # in the order of their rank
    TRIP = 0
    NORMAL = 1
    BEAT = 2
    POLL = 3
    KINDS = 4

cdef enum:
    FAILS_MAX = 3

cdef int64_t BACKOFF_NS_MIN = 50_000_000
cdef int64_t BACKOFF_NS_MAX = 5_000_000_000
cdef int64_t WRITE_AGAIN_NS = 100_000_000  # to a device that was heard of late
cdef int64_t WRITE_AGAIN_NS_DOWN = 1_000_000_000
cdef int64_t WITHHELD_NS = 5_000_000  # asked, and nothing was sent: not at once again


# ---- plan and swap -------------------------------------------------------------------------------

cdef void buses_init(Bus* buses, Unit* units) noexcept nogil:
    """No tty, no door, nobody heard of."""
    cdef uint32_t i
    memset(buses, 0, BUSES_MAX * sizeof(Bus))
    memset(units, 0, _DEVICES_MAX * sizeof(Unit))
    for i in range(<uint32_t>BUSES_MAX):
        line_init(&buses[i].line)
        buses[i].door = DOORS_MAX


cdef void buses_plan(BusBank* bank) noexcept nogil:
    """Lay the serial devices of the program on their lines; doors and descriptors stay."""
    cdef const DeviceDef* d
    cdef Bus* bus
    cdef int state
    cdef uint32_t i
    bank.bus_count = 0
    for i in range(<uint32_t>BUSES_MAX):
        bank.buses[i].device_count = 0
        bank.buses[i].due_ns = 0
    for i in range(bank.program.device_count):
        d = &bank.program.devices[i]
        if d.kind != _DEVICE_MODBUS_RTU or d.tty >= <uint32_t>BUSES_MAX:
            continue
        bus = &bank.buses[d.tty]
        bus.devices[bus.device_count] = <uint8_t>i
        bus.device_count += 1
        bank.bus_count = max(bank.bus_count, d.tty + 1)
        line_set(&bus.line, d)
        state = LINK_LINE if bus.line.fd >= 0 else LINK_LINE_DOWN
        bank.polls.pollers[i].link.line = &bus.line
        bank.polls.pollers[i].link.state = state
        bank.writers.writers[i].link.line = &bus.line
        bank.writers.writers[i].link.state = state
        bank.writers.writers[i].beat_active = 0
        bank.writers.writers[i].active = 0


cdef void _return(BusBank* bank, Bus* bus, int error) noexcept nogil:
    """Hand the descriptor back: the main thread closes it, and opens the tty again."""
    cdef Door* door = &bank.doors[bus.door]
    cdef uint64_t one = 1
    cdef epoll_event unused
    memset(&unused, 0, sizeof(unused))
    epoll_ctl(bank.poll_fd, EPOLL_CTL_DEL, bus.line.fd, &unused)
    bus.line.fd = -1
    bus.line.busy = 0
    door.error = error
    sw_store_release(&door.state, DOOR_RETURNED)
    if bank.main_fd >= 0:
        write(bank.main_fd, &one, sizeof(one))


cdef void buses_swap(
    BusBank* bank, const Bus* old, const Unit* old_units, const int32_t* device_from,
    const Stamp* now,
) noexcept nogil:
    """The bank points at the new program: lines with the same door go on, the others go back.

    An exchange that was running is dropped, and its reply like a late one.
    """
    cdef Bus gone
    cdef Bus* bus
    cdef bint kept
    cdef uint32_t i, k
    for i in range(bank.program.device_count):
        if device_from[i] >= 0:
            bank.units[i] = old_units[device_from[i]]
    for k in range(<uint32_t>BUSES_MAX):
        if old[k].line.fd < 0:
            continue
        kept = False
        for i in range(<uint32_t>BUSES_MAX):
            bus = &bank.buses[i]
            if bus.door != old[k].door or kept:
                continue
            kept = True
            memcpy(&bus.line, &old[k].line, sizeof(bus.line))
            watch(bank.poll_fd, EPOLL_CTL_MOD, bus.line.fd, False, watch_token(WATCH_TTY, i))
            if bus.line.busy:
                line_end(&bus.line, 2 * (bus.line.deadline_ns - bus.line.sent_ns), now.mono_ns)
        if not kept:
            gone = old[k]
            _return(bank, &gone, 0)


# ---- the tty comes and goes ----------------------------------------------------------------------

cdef void _links(BusBank* bank, const Bus* bus, int state) noexcept nogil:
    cdef uint32_t i
    for i in range(bus.device_count):
        bank.polls.pollers[bus.devices[i]].link.state = state
        bank.writers.writers[bus.devices[i]].link.state = state


cdef void _gone(BusBank* bank, Bus* bus, int error, const Stamp* now) noexcept nogil:
    """No tty: every device on it is down."""
    cdef uint32_t i, device
    _links(bank, bus, LINK_LINE_DOWN)
    for i in range(bus.device_count):
        device = bus.devices[i]
        memset(&bank.units[device], 0, sizeof(Unit))
        writer_end(bank.writers, device, now)
        poller_end(bank.polls, device, _DOWN_TTY, error, now)


cdef void _lost(BusBank* bank, Bus* bus, const Stamp* now) noexcept nogil:
    """Unplugged: the descriptor is of no more use to this thread."""
    cdef int error = bus.line.error
    _gone(bank, bus, error, now)
    _return(bank, bus, error)


cdef void _door(BusBank* bank, Bus* bus, const Stamp* now) noexcept nogil:
    """Whatever the main thread put there."""
    cdef Door* door = &bank.doors[bus.door]
    cdef uint64_t state = DOOR_EMPTY
    cdef int64_t silence_ns = 0
    cdef uint32_t i
    if bus.door < <uint32_t>DOORS_MAX:
        state = sw_load_acquire(&door.state)
    if state == DOOR_FAILED:
        _gone(bank, bus, door.error, now)
        sw_store_release(&door.state, DOOR_EMPTY)
    elif state == DOOR_OFFERED and bus.line.fd < 0:
        line_open(&bus.line, door.fd, now.mono_ns)
        _links(bank, bus, LINK_LINE)
        # What was asked through this tty before may still be answered. A pending trip value does
        # not wait for that: it is the first thing on every connection.
        for i in range(bus.device_count):
            writer_begin(bank.writers, bus.devices[i], now)
            silence_ns = max(silence_ns, 2 * bank.program.devices[bus.devices[i]].timeout_ns)
        bus.line.silent_ns = now.mono_ns + silence_ns
        bus.line.late = 1
        sw_store_release(&door.state, DOOR_TAKEN)
        if not watch(
            bank.poll_fd, EPOLL_CTL_ADD, bus.line.fd, False,
            watch_token(WATCH_TTY, <uint32_t>(bus - bank.buses))
        ):
            bus.line.broken = 1


# ---- the end of an exchange ----------------------------------------------------------------------

cdef int64_t _jitter(BusBank* bank, int64_t span_ns) noexcept nogil:
    """0 to a quarter of the span."""
    cdef uint64_t x = bank.random
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    bank.random = x
    return <int64_t>(x % <uint64_t>(span_ns // 4 + 1))


cdef void _unit_failed(
    BusBank* bank, uint32_t device, bint odd, const Stamp* now,
) noexcept nogil:
    """Three in a row and nothing good for longer than ``connected`` allows: it is down."""
    cdef Unit* unit = &bank.units[device]
    cdef int64_t good_ns = bank.shm.devices[device].good_ns
    unit.fails = min(unit.fails + 1, 255)
    if unit.fails < FAILS_MAX:
        return
    unit.write_ns = now.mono_ns + (WRITE_AGAIN_NS if unit.up else WRITE_AGAIN_NS_DOWN)
    if unit.up and now.mono_ns - good_ns < bank.program.devices[device].connected_within_ns:
        return
    if unit.up or unit.backoff_ns == 0:
        unit.up = 0
        unit.backoff_ns = 0
        writer_end(bank.writers, device, now)
        poller_end(
            bank.polls, device, _DOWN_PROTOCOL if odd else _DOWN_TIMEOUT, 0, now)
    unit.backoff_ns = min(max(2 * unit.backoff_ns, BACKOFF_NS_MIN), BACKOFF_NS_MAX)
    unit.next_try_ns = now.mono_ns + unit.backoff_ns - _jitter(bank, unit.backoff_ns)


cdef void _failed(BusBank* bank, Bus* bus, bint odd, const Stamp* now) noexcept nogil:
    cdef int64_t silence_ns = 2 * bank.program.devices[bus.device].timeout_ns
    line_end(&bus.line, silence_ns, now.mono_ns)
    bus.line.late = 0 if odd else 1
    if bus.kind == POLL:
        poller_failed(bank.polls, bus.device)
    else:
        writer_failed(
            bank.writers, bus.device,
            bus.kind == TRIP and bank.units[bus.device].fails < FAILS_MAX, now)
    _unit_failed(bank, bus.device, odd, now)


cdef bint _good(BusBank* bank, Bus* bus, int length, const Stamp* now) noexcept nogil:
    """A whole reply with the right CRC from the right unit; True where a scan has reason to run."""
    cdef Unit* unit = &bank.units[bus.device]
    cdef int trailing = bus.line.rx_have - bus.line.skip - length
    cdef uint8_t adu[264]
    cdef bint any
    length = line_reply(&bus.line, length, adu)
    line_end(&bus.line, 0, now.mono_ns)
    if trailing > 0:
        # The same once more, or another sender: nothing is asked until that is over.
        bank.shm.live.counters[_COUNT_RTU_NOISE] += <uint64_t>trailing
        line_end(&bus.line, 2 * bank.program.devices[bus.device].timeout_ns, now.mono_ns)
    unit.fails = 0
    if not unit.up:
        unit.up = 1
        unit.backoff_ns = 0
        unit.next_try_ns = 0
        poller_begin(bank.polls, bus.device, now)
        writer_begin(bank.writers, bus.device, now)
    if bus.kind == POLL:
        any = poller_answered(bank.polls, bus.device, adu, length, now)
    else:
        any = writer_answered(bank.writers, bus.device, adu, length, now)
    # They found something odd that this module did not: begin anew, with a fresh tty.
    if (
        bank.polls.pollers[bus.device].link.state != LINK_LINE
        or bank.writers.writers[bus.device].link.state != LINK_LINE
    ):
        bus.line.broken = 1
    return any


cdef bint _look(BusBank* bank, Bus* bus, const Stamp* now) noexcept nogil:
    cdef int verdict = line_look(&bus.line)
    if verdict == 0:
        return False
    if verdict > 0:
        return _good(bank, bus, verdict, now)
    bank.shm.devices[bus.device].refused[-verdict] += 1
    bank.shm.live.counters[_COUNT_RTU_NOISE] += <uint64_t>bus.line.rx_have
    _failed(bank, bus, True, now)
    return bus.kind != POLL


cdef int _unasked(BusBank* bank, Bus* bus, const Stamp* now) noexcept nogil:
    """Bytes that nobody asked for: a late reply, once an exchange, or noise."""
    cdef int64_t timeout_ns = bank.program.devices[bus.devices[0]].timeout_ns
    cdef int got = line_discard(&bus.line, timeout_ns, now.mono_ns)
    if got <= 0:
        return got
    if now.mono_ns >= bus.line.silent_ns:
        bank.shm.live.counters[_COUNT_RTU_NOISE] += <uint64_t>got
        if now.mono_ns - bus.line.sent_ns <= timeout_ns:
            # Soon after a reply: most likely the same once more, and perhaps not the last time.
            bus.line.silent_ns = now.mono_ns + 2 * timeout_ns
    elif bus.line.late:
        bus.line.late = 0
        bank.shm.live.counters[_COUNT_RTU_LATE] += 1
    return got


cdef bint bus_event(
    BusBank* bank, uint32_t index, bint hung_up, const Stamp* now,
) noexcept nogil:
    """The line's descriptor is ready; True where a scan has reason to run at once."""
    cdef Bus* bus = &bank.buses[index]
    cdef bint any = False
    if bus.line.fd < 0:
        return False
    if bus.line.busy:
        if line_receive(&bus.line, now.mono_ns) > 0:
            any = _look(bank, bus, now)
    else:
        _unasked(bank, bus, now)
    if hung_up:
        bus.line.broken = 1
    if bus.line.broken:
        _lost(bank, bus, now)
        return True
    return any


# ---- who is next ---------------------------------------------------------------------------------

cdef int64_t _wanted_ns(const BusBank* bank, uint32_t kind, uint32_t device) noexcept nogil:
    """From when this device wants this, were the line free; INT64_MAX: not at all."""
    cdef const Unit* unit = &bank.units[device]
    cdef int64_t at = INT64_MAX
    if kind == TRIP:
        if not writer_wishes(bank.writers, device, WISH_TRIP):
            return INT64_MAX
        if unit.fails >= FAILS_MAX and not writer_fresh(bank.writers, device):
            return unit.write_ns
        return 0
    if kind == NORMAL:
        return 0 if unit.up and writer_wishes(bank.writers, device, WISH_NORMAL) else INT64_MAX
    if kind == BEAT:
        at = writer_beat_ns(bank.writers, device)
    elif kind == POLL:
        at = poller_next_ns(bank.polls, device)
    return max(at, unit.next_try_ns)


cdef int32_t _first(
    BusBank* bank, Bus* bus, uint32_t kind, const Stamp* now,
) noexcept nogil:
    """The device that has waited longest for this kind of exchange, -1: none may go now."""
    cdef int64_t wanted_ns, best_ns = INT64_MAX
    cdef int32_t best = -1
    cdef uint32_t i
    for i in range(bus.device_count):
        wanted_ns = _wanted_ns(bank, kind, bus.devices[i])
        bus.due_ns = min(bus.due_ns, wanted_ns)
        if wanted_ns <= now.mono_ns and wanted_ns < best_ns:
            best_ns = wanted_ns
            best = bus.devices[i]
    return best


cdef bint _start(
    BusBank* bank, Bus* bus, uint32_t kind, uint32_t device, const Stamp* now,
) noexcept nogil:
    """True where a request went out."""
    cdef bint sent = False
    if kind == TRIP:
        sent = writer_ask(bank.writers, device, WISH_TRIP, now)
    elif kind == NORMAL:
        sent = writer_ask(bank.writers, device, WISH_NORMAL, now)
    elif kind == BEAT:
        sent = writer_beat(bank.writers, device, now)
    else:
        sent = poller_ask(bank.polls, device, now)
    if not sent:
        return False
    bus.kind = kind
    bus.device = device
    line_expect(&bus.line, bank.program.devices[device].timeout_ns, mono_ns())
    bus.due_ns = bus.line.deadline_ns
    return True


cdef void _next(BusBank* bank, Bus* bus, const Stamp* now) noexcept nogil:
    """Begin the exchange that is first in rank, where the line may be used."""
    cdef int64_t quiet_ns = min(bus.line.free_ns, max(bus.line.noisy_ns, now.mono_ns))
    cdef int32_t device
    cdef uint32_t kind
    if now.mono_ns < quiet_ns:
        bus.due_ns = quiet_ns
        return
    for kind in range(<uint32_t>KINDS):
        if kind != TRIP and now.mono_ns < bus.line.silent_ns:
            bus.due_ns = min(bus.due_ns, bus.line.silent_ns)
            return
        device = _first(bank, bus, kind, now)
        if device < 0:
            continue
        # What came since the last wake belongs to no request that is still to be sent.
        if _unasked(bank, bus, now) > 0 and now.mono_ns < bus.line.noisy_ns:
            bus.due_ns = bus.line.free_ns
            return
        if bus.line.broken or _start(bank, bus, kind, <uint32_t>device, now):
            return
        bus.due_ns = now.mono_ns + WITHHELD_NS


cdef void bus_turn(BusBank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """Whatever is due by the clock: take a tty, time out, send. Leaves ``due_ns``."""
    cdef Bus* bus = &bank.buses[index]
    bus.due_ns = INT64_MAX
    if bus.device_count == 0:
        return
    _door(bank, bus, now)
    if bus.line.fd < 0:
        return
    if bus.line.busy and now.mono_ns >= bus.line.deadline_ns:
        bank.shm.devices[bus.device].timeouts += 1
        _failed(bank, bus, False, now)
    if bus.line.busy:
        bus.due_ns = bus.line.deadline_ns
    else:
        _next(bank, bus, now)
    if bus.line.broken:
        _lost(bank, bus, now)
