# cython: cdivision=True
"""The guard's own reading of its fast devices: one connection, one request at a time.

Due times advance by the period; what was missed is counted and skipped. A request that the device
refuses for its address is halved until the guilty points stand alone. Whatever is odd in a reply
ends the connection; a reply that comes late is dropped.
"""

from libc.errno cimport ETIMEDOUT
from libc.stdint cimport INT64_MAX
from libc.string cimport memset

from fastpath.decode cimport decode_point, decode_width
from fastpath.intake cimport intake_store
from fastpath.journal cimport journal_write
from fastpath.link cimport (
    LINK_CLOSED, LINK_CONNECTING, LINK_OPEN, link_close, link_connect, link_consume, link_finish,
    link_receive, link_send,
)
from fastpath.modbus cimport check_reply, encode_read, frame_length
from fastpath.types cimport *

cdef extern from "<poll.h>" nogil:
    short POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL

cdef enum:
    REPLY_GOOD = 1
    REPLY_REFUSED = 100
    FRAMES_PER_WAKE_MAX = 8
    BUSY_RETRIES_MAX = 2
    EXPIRED_TIDS = 64

cdef int64_t BACKOFF_NS_MAX = 5_000_000_000
cdef int64_t GUILTY_PERIOD_NS = 10_000_000_000
cdef int64_t YIELD_NS = 2_000_000_000
cdef int64_t YIELD_PERIOD_NS = 30_000_000_000

cdef struct DevicePayload:  # records.PAYLOADS[DEVICE_*]
    uint32_t reason
    uint32_t error
    int64_t down_ns
    uint64_t requests
    uint16_t refused[12]


cdef void pollers_plan(PollBank* bank, int64_t now_ns) noexcept nogil:
    """Lay out the requests of the program, one list a device, all due now."""
    cdef const RequestDef* r
    cdef RunRequest* run
    cdef Poller* poller
    cdef uint32_t i
    for i in range(bank.program.device_count):
        bank.pollers[i].first = -1
        bank.pollers[i].outstanding = -1
    bank.request_count = bank.program.request_count
    # Backwards, so that each list is in the program's order.
    for i in range(bank.request_count):
        r = &bank.program.requests[bank.request_count - 1 - i]
        run = &bank.requests[bank.request_count - 1 - i]
        poller = &bank.pollers[r.device]
        memset(run, 0, sizeof(RunRequest))
        run.request = bank.request_count - 1 - i
        run.decode_first = r.decode_first
        run.decode_count = r.decode_count
        run.address = r.address
        run.count = r.count
        run.due_ns = now_ns
        run.next = poller.first
        poller.first = <int32_t>(bank.request_count - 1 - i)


cdef void _tell(
    PollBank* bank, uint32_t device, uint16_t type, uint32_t reason, const Stamp* now,
) noexcept nogil:
    cdef DeviceStats* stats = &bank.shm.devices[device]
    cdef Poller* poller = &bank.pollers[device]
    cdef DevicePayload payload
    cdef int i
    memset(&payload, 0, sizeof(payload))
    payload.reason = reason
    payload.error = <uint32_t>poller.link.error
    if type == _EV_DEVICE_UP and poller.told == 2:
        payload.down_ns = now.mono_ns - poller.down_since_ns
    payload.requests = stats.requests
    for i in range(12):
        payload.refused[i] = <uint16_t>min(stats.refused[i], <uint32_t>0xFFFF)
    journal_write(
        bank.shm, now, type, 0, device, bank.program.devices[device].key,
        &payload, sizeof(payload))


cdef void _state(PollBank* bank, uint32_t device, uint32_t state, const Stamp* now) noexcept nogil:
    cdef DeviceStats* stats = &bank.shm.devices[device]
    if stats.state != state:
        stats.state = state
        stats.since_ns = now.boot_ns
    bank.device_up[device] = 1 if state == _LINK_UP else 0


cdef void _down(
    PollBank* bank, uint32_t device, uint32_t reason, int error, const Stamp* now,
) noexcept nogil:
    """End the connection; told once until the device is up again."""
    link_close(&bank.pollers[device].link, error, now.mono_ns, BACKOFF_NS_MAX, &bank.random)
    _ended(bank, device, reason, now)


cdef void _ended(
    PollBank* bank, uint32_t device, uint32_t reason, const Stamp* now,
) noexcept nogil:
    cdef Poller* poller = &bank.pollers[device]
    poller.outstanding = -1
    poller.late = 0
    bank.shm.devices[device].errno_last = <uint32_t>poller.link.error
    _state(bank, device, _LINK_DOWN, now)
    if poller.told != 2:
        poller.down_since_ns = now.mono_ns
        _tell(bank, device, _EV_DEVICE_DOWN, reason, now)
        poller.told = 2


cdef void _opened(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """A fresh connection: readings are discarded for ``settle``."""
    cdef Poller* poller = &bank.pollers[device]
    cdef int32_t at = poller.first
    poller.settle_until_ns = now.mono_ns + bank.program.devices[device].settle_ns
    poller.not_before_ns = now.mono_ns
    _state(bank, device, _LINK_SETTLING, now)
    while at >= 0:
        bank.requests[at].due_ns = now.mono_ns
        at = bank.requests[at].next


cdef int64_t _period(const PollBank* bank, const RunRequest* run) noexcept nogil:
    if run.guilty:
        return GUILTY_PERIOD_NS
    return bank.program.requests[run.request].period_ns


cdef int32_t _earliest(const PollBank* bank, uint32_t device) noexcept nogil:
    cdef int32_t at = bank.pollers[device].first
    cdef int32_t best = at
    while at >= 0:
        if bank.requests[at].due_ns < bank.requests[best].due_ns:
            best = at
        at = bank.requests[at].next
    return best


cdef void _send(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Send the request that is due first, where one is due."""
    cdef Poller* poller = &bank.pollers[device]
    cdef int32_t at = _earliest(bank, device)
    cdef RunRequest* run
    cdef const RequestDef* r
    cdef int64_t missed, period_ns
    if at < 0 or bank.requests[at].due_ns > now.mono_ns:
        return
    run = &bank.requests[at]
    r = &bank.program.requests[run.request]
    period_ns = _period(bank, run)
    missed = (now.mono_ns - run.due_ns) // period_ns
    if missed > 0:
        bank.shm.devices[device].polls_missed += <uint64_t>missed
        bank.shm.live.counters[_COUNT_POLLS_MISSED] += <uint64_t>missed
    run.due_ns += (missed + 1) * period_ns
    poller.tid += 1
    if poller.tid == 0:
        poller.tid = 1
    poller.frame_length = encode_read(
        poller.frame, poller.tid, r.unit, r.function, run.address, run.count)
    bank.shm.devices[device].requests += 1
    if not link_send(&poller.link, poller.frame, poller.frame_length):
        _down(bank, device, _DOWN_CLOSED, poller.link.error, now)
        return
    bank.sent += 1
    poller.outstanding = at
    poller.sent_ns = now.mono_ns
    poller.deadline_ns = now.mono_ns + bank.program.devices[device].timeout_ns


cdef void poller_turn(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Whatever is due by the clock: connect, give up, time out, send."""
    cdef Poller* poller = &bank.pollers[device]
    cdef const DeviceDef* d = &bank.program.devices[device]
    if poller.first < 0:
        return
    if poller.link.state == LINK_CLOSED and now.mono_ns >= poller.link.next_try_ns:
        link_connect(&poller.link, d.address, d.port, d.connect_timeout_ns, now.mono_ns)
        if poller.link.state == LINK_CLOSED:
            bank.shm.devices[device].refused[_REFUSED_CONNECT] += 1
            _down(bank, device, _DOWN_CONNECT, poller.link.error, now)
        elif poller.link.state == LINK_OPEN:
            _opened(bank, device, now)
        elif bank.shm.devices[device].state != _LINK_DOWN:
            _state(bank, device, _LINK_CONNECTING, now)
    elif poller.link.state == LINK_CONNECTING and now.mono_ns >= poller.link.deadline_ns:
        bank.shm.devices[device].refused[_REFUSED_CONNECT] += 1
        _down(bank, device, _DOWN_CONNECT, ETIMEDOUT, now)
    if poller.link.state != LINK_OPEN:
        return
    if poller.outstanding >= 0 and now.mono_ns >= poller.deadline_ns:
        # A failed poll changes nothing by itself; the late reply is waited for, then dropped.
        bank.shm.devices[device].timeouts += 1
        poller.outstanding = -1
        poller.late = 1
        poller.deadline_ns = now.mono_ns + 2 * d.timeout_ns
    elif poller.late and now.mono_ns >= poller.deadline_ns:
        _down(bank, device, _DOWN_TIMEOUT, ETIMEDOUT, now)
        return
    if poller.outstanding < 0 and not poller.late and now.mono_ns >= poller.not_before_ns:
        _send(bank, device, now)


cdef void poller_yield(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Make room for a trip value that waits: the device may take one connection alone.

    Seldom, because where the trip connection fails for another reason it costs readings.
    """
    cdef Poller* poller = &bank.pollers[device]
    if poller.link.state != LINK_OPEN:
        return
    if poller.yielded_ns != 0 and now.mono_ns - poller.yielded_ns < YIELD_PERIOD_NS:
        return
    poller.yielded_ns = now.mono_ns
    _down(bank, device, _DOWN_CLOSED, 0, now)
    poller.link.next_try_ns = now.mono_ns + YIELD_NS


cdef bint _store(
    PollBank* bank, const RunRequest* run, const uint8_t* data, int data_bytes,
    uint8_t failure, const Stamp* now,
) noexcept nogil:
    """All points of one reply into the image; with ``failure`` they are BAD(device_failure)."""
    cdef const RequestDef* r = &bank.program.requests[run.request]
    cdef DecodeDef d
    cdef double value = 0.0
    cdef uint8_t quality, reason
    cdef uint32_t i
    for i in range(run.decode_first, run.decode_first + run.decode_count):
        d = bank.program.decode[i]
        d.at -= <uint16_t>(run.address - r.address)
        quality = _Q_BAD
        reason = _REASON_DEVICE_FAILURE
        if failure:
            value = bank.shm.image[d.slot].value
        else:
            decode_point(
                &d, &bank.program.tags[d.slot], data, data_bytes, &value, &quality, &reason)
        intake_store(
            bank.intake, d.slot, value, quality, reason, now.mono_ns, now.utc_ns, now)
    return run.decode_count > 0


cdef void _fit(PollBank* bank, RunRequest* run) noexcept nogil:
    """Address and count of a part: from its first point to the end of its last."""
    cdef const RequestDef* r = &bank.program.requests[run.request]
    cdef uint32_t i, end, last = 0
    cdef uint32_t first = 0xFFFF
    for i in range(run.decode_first, run.decode_first + run.decode_count):
        first = min(first, <uint32_t>bank.program.decode[i].at)
        end = bank.program.decode[i].at + <uint32_t>decode_width(bank.program.decode[i].type)
        last = max(last, end)
    run.address = <uint16_t>(r.address + first)
    run.count = <uint16_t>(last - first)


cdef bint _bisect(PollBank* bank, int32_t at, const Stamp* now) noexcept nogil:
    """Halve a refused request; a single point that is refused is guilty and BAD."""
    cdef RunRequest* run = &bank.requests[at]
    cdef RunRequest* other
    if run.decode_count <= 1 or bank.request_count >= bank.request_max:
        run.guilty = 1
        run.due_ns = now.mono_ns + GUILTY_PERIOD_NS
        return _store(bank, run, NULL, 0, 1, now)
    other = &bank.requests[bank.request_count]
    other[0] = run[0]
    other.decode_first = run.decode_first + run.decode_count // 2
    other.decode_count = run.decode_count - run.decode_count // 2
    run.decode_count = run.decode_count // 2
    run.next = <int32_t>bank.request_count
    bank.request_count += 1
    _fit(bank, run)
    _fit(bank, other)
    run.due_ns = now.mono_ns
    other.due_ns = now.mono_ns
    return False


cdef bint _refused(
    PollBank* bank, uint32_t device, int32_t at, int kind, const Stamp* now,
) noexcept nogil:
    """The device answered an exception to request ``at``."""
    cdef RunRequest* run = &bank.requests[at]
    if kind == _REFUSED_EXCEPTION_ADDRESS:
        if now.mono_ns < bank.pollers[device].settle_until_ns:
            return False
        return _bisect(bank, at, now)
    if kind == _REFUSED_EXCEPTION_BUSY:
        if run.busy < BUSY_RETRIES_MAX:
            run.busy += 1
            run.due_ns = now.mono_ns
        else:
            run.busy = 0
        return False
    if kind == _REFUSED_EXCEPTION_GATEWAY or now.mono_ns < bank.pollers[device].settle_until_ns:
        return False
    return _store(bank, run, NULL, 0, 1, now)


cdef bint _frame(
    PollBank* bank, uint32_t device, const uint8_t* adu, int length, const Stamp* now,
) noexcept nogil:
    """One whole frame; True where values were stored."""
    cdef Poller* poller = &bank.pollers[device]
    cdef DeviceStats* stats = &bank.shm.devices[device]
    cdef uint16_t tid = <uint16_t>((adu[0] << 8) | adu[1])
    cdef int32_t at = poller.outstanding
    cdef RunRequest* run
    cdef const RequestDef* r
    cdef uint8_t exception = 0
    cdef int verdict
    if at < 0 or tid != poller.tid:
        if tid != 0 and <uint16_t>(poller.tid - tid) < EXPIRED_TIDS:
            if tid == poller.tid:
                poller.late = 0
            return False
        stats.refused[_REFUSED_TRANSACTION] += 1
        _down(bank, device, _DOWN_PROTOCOL, 0, now)
        return False
    run = &bank.requests[at]
    r = &bank.program.requests[run.request]
    verdict = check_reply(
        adu, length, poller.tid, r.unit, r.function, run.address, run.count,
        poller.frame, poller.frame_length, &exception)
    poller.outstanding = -1
    poller.not_before_ns = now.mono_ns + bank.program.devices[device].request_delay_ns
    if verdict != REPLY_GOOD:
        verdict -= REPLY_REFUSED
        if verdict < 1 or verdict > 11:
            verdict = _REFUSED_PROTOCOL
        stats.refused[verdict] += 1
        if verdict < _REFUSED_EXCEPTION_ADDRESS:
            _down(bank, device, _DOWN_PROTOCOL, 0, now)
            return False
    stats.rtt_ns_last = now.mono_ns - poller.sent_ns
    stats.rtt_ns_max = max(stats.rtt_ns_max, stats.rtt_ns_last)
    if verdict == _REFUSED_EXCEPTION_GATEWAY:
        return False
    stats.good_ns = now.mono_ns
    if now.mono_ns >= poller.settle_until_ns and poller.told != 1:
        _tell(bank, device, _EV_DEVICE_UP, 0, now)
        poller.told = 1
    if now.mono_ns >= poller.settle_until_ns:
        _state(bank, device, _LINK_UP, now)
    if verdict != REPLY_GOOD:
        return _refused(bank, device, at, verdict, now)
    run.guilty = 0
    run.busy = 0
    if now.mono_ns < poller.settle_until_ns:
        return False
    return _store(bank, run, adu + 9, length - 9, 0, now)


cdef bint poller_event(
    PollBank* bank, uint32_t device, short revents, const Stamp* now,
) noexcept nogil:
    """The connection's descriptor is ready; True where values were stored."""
    cdef Poller* poller = &bank.pollers[device]
    cdef bint stored = False
    cdef int got, length, _i
    if poller.link.state == LINK_CONNECTING:
        if link_finish(&poller.link, now.mono_ns):
            _opened(bank, device, now)
        else:
            bank.shm.devices[device].refused[_REFUSED_CONNECT] += 1
            _down(bank, device, _DOWN_CONNECT, poller.link.error, now)
        return False
    got = link_receive(&poller.link) if poller.link.state == LINK_OPEN else -1
    for _i in range(FRAMES_PER_WAKE_MAX):
        if poller.link.state != LINK_OPEN or poller.link.rx_have == 0:
            break
        length = frame_length(poller.link.rx, poller.link.rx_have)
        if length == 0:
            break
        if length < 0:
            bank.shm.devices[device].refused[
                _REFUSED_PROTOCOL if length == -_REFUSED_PROTOCOL else _REFUSED_LENGTH] += 1
            _down(bank, device, _DOWN_PROTOCOL, 0, now)
            return stored
        if _frame(bank, device, poller.link.rx, length, now):
            stored = True
        link_consume(&poller.link, length)
    if poller.link.state == LINK_OPEN and (
        got < 0 or revents & (POLLERR | POLLHUP | POLLNVAL)
    ):
        _down(bank, device, _DOWN_CLOSED, poller.link.error, now)
    return stored


cdef int64_t poller_due(const PollBank* bank, uint32_t device) noexcept nogil:
    """Monotonic ns of the next thing to do by the clock."""
    cdef const Poller* poller = &bank.pollers[device]
    cdef int32_t at
    if poller.first < 0 or poller.link.state > LINK_OPEN:
        return INT64_MAX
    if poller.link.state == LINK_CLOSED:
        return poller.link.next_try_ns
    if poller.link.state == LINK_CONNECTING:
        return poller.link.deadline_ns
    if poller.outstanding >= 0 or poller.late:
        return poller.deadline_ns
    at = _earliest(bank, device)
    return max(bank.requests[at].due_ns, poller.not_before_ns)


# ---- on a serial line ----------------------------------------------------------------------------

cdef bint poller_ask(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Send the request that is due first; True where one went out."""
    _send(bank, device, now)
    return bank.pollers[device].outstanding >= 0


cdef bint poller_answered(
    PollBank* bank, uint32_t device, const uint8_t* adu, int length, const Stamp* now,
) noexcept nogil:
    """The reply to that request; True where values were stored."""
    return _frame(bank, device, adu, length, now)


cdef void poller_failed(PollBank* bank, uint32_t device) noexcept nogil:
    """No good reply to that request in its time: a failed poll changes nothing by itself."""
    bank.pollers[device].outstanding = -1


cdef int64_t poller_next_ns(const PollBank* bank, uint32_t device) noexcept nogil:
    """Monotonic ns from which the next request may be sent."""
    cdef int32_t at = _earliest(bank, device)
    if at < 0:
        return INT64_MAX
    return max(bank.requests[at].due_ns, bank.pollers[device].not_before_ns)


cdef void poller_begin(PollBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """The device answers (again): its readings are discarded for ``settle``."""
    if bank.pollers[device].first >= 0:
        _opened(bank, device, now)
        return
    _state(bank, device, _LINK_UP, now)
    if bank.pollers[device].told != 1:
        _tell(bank, device, _EV_DEVICE_UP, 0, now)
        bank.pollers[device].told = 1


cdef void poller_end(
    PollBank* bank, uint32_t device, uint32_t reason, int error, const Stamp* now,
) noexcept nogil:
    """The device does not answer any more, or its line is gone."""
    bank.pollers[device].link.error = error
    _ended(bank, device, reason, now)
