# cython: cdivision=True
"""The trip connection of a device: writes what the bank wishes, and the heartbeat.

A trip goes out at once, also with another reply outstanding, and once more when that reply has
come or expired and its own has not: with two requests in one segment some servers answer only the
first, and writing a trip value twice is harmless. A normal value waits until nothing is
outstanding. What is confirmed is the device's own reply, never that a send succeeded.
"""

from libc.errno cimport ETIMEDOUT
from libc.stdint cimport INT64_MAX
from libc.string cimport memset

from fastpath.clock cimport mono_ns
from fastpath.lease cimport (
    LEASE_CLAIM, LEASE_COUNT, LEASE_NOTHING, LEASE_OWNER, LEASE_PASSIVE, LEASE_READ,
    LEASE_REGISTERS, lease_ask, lease_asked, lease_look, lease_opened, lease_sure, lease_values,
    lease_wish,
)
from fastpath.link cimport (
    LINK_CLOSED, LINK_CONNECTING, LINK_OPEN, link_close, link_connect, link_consume, link_finish,
    link_receive, link_send,
)
from fastpath.modbus cimport (
    _WRITE_REGISTERS_MAX, check_reply, encode_read, encode_write_coil, encode_write_coils, encode_write_register,
    encode_write_registers, frame_length,
)
from fastpath.bank cimport WISH_NORMAL, WISH_TRIP
from fastpath.delivery cimport (
    output_expired, output_parted, output_replied, output_sent, outputs_link_down, outputs_link_up,
)
from fastpath.rtu cimport ECHO_UNKNOWN
from fastpath.transition cimport output_value
from fastpath.types cimport *

cdef extern from "<poll.h>" nogil:
    short POLLERR, POLLHUP, POLLNVAL

cdef enum:
    REPLY_GOOD = 1
    REPLY_REFUSED = 100
    FRAMES_PER_WAKE_MAX = 8
    SILENT_MAX = 3
    EXPIRED_TIDS = 64

cdef int64_t WRITE_TIMEOUT_NS = 200_000_000
cdef uint8_t LOST_UNTIL_STARVING = 2
cdef int64_t BACKOFF_NS_MAX = 1_000_000_000


cdef void writers_plan(WriterBank* bank) noexcept nogil:
    """Which devices carry outputs or a heartbeat."""
    cdef uint32_t i
    for i in range(bank.program.device_count):
        bank.writers[i].needed = (
            1 if bank.program.devices[i].flags & _DEVICE_HAS_HEARTBEAT else 0)
    for i in range(bank.program.output_count):
        if bank.program.outputs[i].path == _PATH_MODBUS:
            bank.writers[bank.program.outputs[i].device].needed = 1


cdef uint16_t _next_tid(Writer* writer) noexcept nogil:
    writer.tid += 1
    if writer.tid == 0:
        writer.tid = 1
    return writer.tid


cdef void _down(WriterBank* bank, uint32_t device, int error, const Stamp* now) noexcept nogil:
    cdef Writer* writer = &bank.writers[device]
    cdef bint was_open = writer.link.state == LINK_OPEN
    link_close(&writer.link, error, now.mono_ns, BACKOFF_NS_MAX, &bank.random)
    writer.active = 0
    writer.again = 0
    writer.beat_active = 0
    writer.silent = 0
    writer.lost = min(writer.lost + 1, 255)
    if was_open:
        outputs_link_down(bank.outputs, device, now)


cdef void _opened(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """A pending trip value is the first thing on every connection, before the heartbeat."""
    bank.writers[device].beat_sent_ns = 0
    bank.writers[device].singly = 0
    lease_opened(&bank.writers[device].lease)
    outputs_link_up(bank.outputs, device, now)
    writer_flush(bank, device, now)


cdef void _expire(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Requests without an answer in their time; a connection that stays silent is ended."""
    cdef Writer* writer = &bank.writers[device]
    cdef uint32_t i
    if writer.again and now.mono_ns >= writer.again_by_ns:
        _send_again(bank, device, now)
    if writer.beat_active and now.mono_ns >= writer.beat_deadline_ns:
        writer.beat_active = 0
        writer.silent += 1
        bank.shm.devices[device].timeouts += 1
    if writer.active and now.mono_ns >= writer.deadline_ns:
        writer.active = 0
        writer.again = 0
        writer.silent += 1
        bank.shm.devices[device].timeouts += 1
        for i in range(writer.group_count):
            output_expired(bank.outputs, writer.group[i])
    if writer.silent >= SILENT_MAX:
        _down(bank, device, ETIMEDOUT, now)


cdef void writer_turn(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Whatever is due by the clock: connect, give up, expire."""
    cdef Writer* writer = &bank.writers[device]
    cdef const DeviceDef* d = &bank.program.devices[device]
    if not writer.needed:
        return
    if writer.link.state == LINK_CLOSED and now.mono_ns >= writer.link.next_try_ns:
        link_connect(&writer.link, d.address, d.port, d.connect_timeout_ns, now.mono_ns)
        if writer.link.state == LINK_CLOSED:
            _down(bank, device, writer.link.error, now)
        elif writer.link.state == LINK_OPEN:
            _opened(bank, device, now)
    elif writer.link.state == LINK_CONNECTING and now.mono_ns >= writer.link.deadline_ns:
        _down(bank, device, ETIMEDOUT, now)
    if writer.link.state == LINK_OPEN:
        _expire(bank, device, now)


cdef bint _joins(
    const WriterBank* bank, uint32_t output, uint32_t head, uint8_t wish,
) noexcept nogil:
    """This output may be written in one request with that one, but for its address."""
    cdef const OutputDef* d = &bank.program.outputs[output]
    cdef const OutputDef* h = &bank.program.outputs[head]
    return (
        bank.outputs.runs[output].wish == wish and d.device == h.device and d.kind == h.kind
        and d.unit == h.unit
    )


cdef uint32_t _group(WriterBank* bank, uint32_t device, uint8_t wish) noexcept nogil:
    """Outputs of one device with this wish at adjacent addresses: the fewest requests.

    Fills the writer's group in ascending addresses and gives its size.
    """
    cdef Writer* writer = &bank.writers[device]
    cdef uint32_t there[2 * GROUP_MAX + 1]  # by distance from the head: index + 1, 0 none
    cdef uint32_t i, head = _NONE_U32, most = 1
    cdef int64_t apart, high, low = GROUP_MAX
    for i in range(bank.program.output_count):
        if bank.program.outputs[i].device == device and bank.outputs.runs[i].wish == wish:
            head = i
            break
    if head == _NONE_U32:
        return 0
    if not writer.singly:
        most = GROUP_MAX
        if bank.program.outputs[head].kind == _KIND_REGISTER:
            most = _WRITE_REGISTERS_MAX
    memset(there, 0, sizeof(there))
    for i in range(bank.program.output_count):
        apart = <int64_t>bank.program.outputs[i].address - bank.program.outputs[head].address
        if -GROUP_MAX <= apart <= GROUP_MAX and _joins(bank, i, head, wish):
            there[apart + GROUP_MAX] = i + 1
    # From the lowest of its neighbours on, so that none is left over on both sides.
    while low > 0 and there[low - 1]:
        low -= 1
    high = low
    while high - low + 1 < most and high < 2 * GROUP_MAX and there[high + 1]:
        high += 1
    writer.group_count = <uint32_t>(high - low + 1)
    for i in range(writer.group_count):
        writer.group[i] = there[low + i] - 1
    writer.address = bank.program.outputs[writer.group[0]].address
    writer.count = <uint16_t>writer.group_count
    writer.unit = bank.program.outputs[head].unit
    return writer.group_count


cdef void _encode(WriterBank* bank, uint32_t device) noexcept nogil:
    """The group's values as one FC5, FC6, FC15 or FC16."""
    cdef Writer* writer = &bank.writers[device]
    cdef uint8_t kind = bank.program.outputs[writer.group[0]].kind
    cdef uint8_t coils[GROUP_MAX]
    cdef uint16_t registers[GROUP_MAX]
    cdef bint alone = writer.group_count == 1 and not writer.multiple
    cdef uint32_t i
    for i in range(writer.group_count):
        registers[i] = output_value(bank.outputs, writer.group[i])
        coils[i] = 1 if registers[i] else 0
    if kind == _KIND_COIL:
        writer.function = 5 if alone else 15
        if alone:
            writer.frame_length = encode_write_coil(
                writer.frame, writer.command_tid, writer.unit, writer.address, coils[0])
        else:
            writer.frame_length = encode_write_coils(
                writer.frame, writer.command_tid, writer.unit, writer.address, writer.count,
                coils)
        return
    writer.function = 6 if alone else 16
    if alone:
        writer.frame_length = encode_write_register(
            writer.frame, writer.command_tid, writer.unit, writer.address, registers[0])
    else:
        writer.frame_length = encode_write_registers(
            writer.frame, writer.command_tid, writer.unit, writer.address, writer.count,
            registers)


cdef void _write(WriterBank* bank, uint32_t device, uint8_t wish, const Stamp* now) noexcept nogil:
    """Send one group and remember it as outstanding."""
    cdef Writer* writer = &bank.writers[device]
    cdef Stamp after = now[0]
    cdef uint32_t i
    if _group(bank, device, wish) == 0:
        return
    writer.command_tid = _next_tid(writer)
    _encode(bank, device)
    if not link_send(&writer.link, writer.frame, writer.frame_length):
        _down(bank, device, writer.link.error, now)
        return
    after.mono_ns = mono_ns()  # what the trip's reaction time is measured to
    bank.shm.devices[device].requests += 1
    writer.active = 1
    writer.normal = 1 if wish == WISH_NORMAL else 0
    writer.deadline_ns = after.mono_ns + WRITE_TIMEOUT_NS
    for i in range(writer.group_count):
        output_sent(bank.outputs, writer.group[i], 0, &after)


cdef void _send_again(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """The same frame once more: the server may have dropped it behind an earlier one."""
    cdef Writer* writer = &bank.writers[device]
    writer.again = 0
    if not writer.active or writer.normal:
        return
    if not link_send(&writer.link, writer.frame, writer.frame_length):
        _down(bank, device, writer.link.error, now)


cdef void _abandon(WriterBank* bank, uint32_t device) noexcept nogil:
    """Drop an outstanding normal value; outputs beside the one that trips may be written again."""
    cdef Writer* writer = &bank.writers[device]
    cdef uint32_t i
    writer.active = 0
    for i in range(writer.group_count):
        if bank.outputs.runs[writer.group[i]].in_flight:
            output_expired(bank.outputs, writer.group[i])


cdef bint _wished(const WriterBank* bank, uint32_t device, uint8_t wish) noexcept nogil:
    cdef uint32_t i
    for i in range(bank.program.output_count):
        if bank.program.outputs[i].device == device and bank.outputs.runs[i].wish == wish:
            return True
    return False


cdef void _heartbeat(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Counter and program hash into the PLC's two registers, at most once per ``every``."""
    cdef Writer* writer = &bank.writers[device]
    cdef const DeviceDef* d = &bank.program.devices[device]
    cdef uint16_t values[2]
    if not d.flags & _DEVICE_HAS_HEARTBEAT or writer.beat_active or writer.active:
        return
    if not bank.scanned:
        return
    if d.flags & _DEVICE_HAS_LEASE:
        _lease(bank, device, now)
        if writer.beat_active or not lease_sure(&writer.lease, now.mono_ns):
            return
    if writer.beat_sent_ns != 0 and now.mono_ns - writer.beat_sent_ns < d.every_ns:
        return
    if bank.outputs.withheld[device]:
        bank.shm.live.counters[_COUNT_HEARTBEATS_WITHHELD] += 1
        writer.beat_sent_ns = now.mono_ns
        return
    writer.beat_count += 1
    values[0] = writer.beat_count
    values[1] = <uint16_t>(bank.program.hash[0] | (bank.program.hash[1] << 8))
    if _beat(bank, device, 16, d.heartbeat_address, 2, values, LEASE_NOTHING, now):
        writer.beat_sent_ns = now.mono_ns


cdef bint _beat(
    WriterBank* bank, uint32_t device, uint8_t function, uint16_t address, uint16_t registers,
    const uint16_t* values, uint8_t lease, const Stamp* now,
) noexcept nogil:
    """Send a request of the heartbeat's place: one at a time, beside the commands."""
    cdef Writer* writer = &bank.writers[device]
    cdef uint8_t unit = bank.program.devices[device].unit
    writer.beat_tid = _next_tid(writer)
    writer.beat_function = function
    writer.beat_address = address
    writer.beat_registers = registers
    writer.beat_lease = lease
    if function == 3:
        writer.beat_length = encode_read(
            writer.beat, writer.beat_tid, unit, 3, address, registers)
    else:
        writer.beat_length = encode_write_registers(
            writer.beat, writer.beat_tid, unit, address, registers, values)
    if not link_send(&writer.link, writer.beat, writer.beat_length):
        _down(bank, device, writer.link.error, now)
        return False
    bank.shm.devices[device].requests += 1
    writer.beat_active = 1
    writer.beat_deadline_ns = now.mono_ns + WRITE_TIMEOUT_NS
    return True


cdef void _lease(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Look at who owns the device, or say that we do."""
    cdef Writer* writer = &bank.writers[device]
    cdef const DeviceDef* d = &bank.program.devices[device]
    cdef uint8_t wish = lease_wish(&writer.lease, now.mono_ns)
    cdef uint16_t values[LEASE_REGISTERS]
    if wish == LEASE_READ:
        lease_asked(&writer.lease, now.mono_ns)
        _beat(bank, device, 3, d.lease_address, LEASE_REGISTERS, NULL, wish, now)
    elif wish == LEASE_CLAIM:
        lease_values(&writer.lease, bank.instance, values)
        _beat(bank, device, 16, d.lease_address, LEASE_REGISTERS, values, wish, now)
    elif wish == LEASE_COUNT:
        lease_values(&writer.lease, bank.instance, values)
        _beat(
            bank, device, 16, <uint16_t>(d.lease_address + LEASE_REGISTERS - 1), 1,
            &values[LEASE_REGISTERS - 1], wish, now)


cdef bint _passive(const WriterBank* bank, uint32_t device) noexcept nogil:
    """Another guard owns the device: nothing is written there."""
    return (
        bank.program.devices[device].flags & _DEVICE_HAS_LEASE
        and bank.writers[device].lease.state == LEASE_PASSIVE)


cdef bint _permitted(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """A normal value may be written; where that is not sure yet, it is asked for."""
    cdef Writer* writer = &bank.writers[device]
    if not bank.program.devices[device].flags & _DEVICE_HAS_LEASE:
        return True
    if lease_sure(&writer.lease, now.mono_ns):
        return True
    if writer.lease.state == LEASE_OWNER and _wished(bank, device, WISH_NORMAL):
        lease_ask(&writer.lease)
    return False


cdef void writer_flush(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """At the end of a scan: trips first, then normal values, then the heartbeat."""
    cdef Writer* writer = &bank.writers[device]
    if not writer.needed or writer.link.state != LINK_OPEN:
        return
    if _wished(bank, device, WISH_TRIP) and not _passive(bank, device):
        if writer.active and writer.normal:
            # The normal value's reply is of no interest any more; it is dropped when it comes.
            _abandon(bank, device)
            writer.again = 1
            writer.again_by_ns = writer.deadline_ns
        if not writer.active:
            _write(bank, device, WISH_TRIP, now)
            if writer.active and writer.beat_active:
                writer.again = 1
                writer.again_by_ns = writer.beat_deadline_ns
    elif not writer.active and not writer.beat_active and _permitted(bank, device, now):
        _write(bank, device, WISH_NORMAL, now)
    if writer.link.state == LINK_OPEN:
        _heartbeat(bank, device, now)


cdef bint _frame(
    WriterBank* bank, uint32_t device, const uint8_t* adu, int length, const Stamp* now,
) noexcept nogil:
    """One whole reply; True where it answered a command."""
    cdef Writer* writer = &bank.writers[device]
    cdef uint16_t tid = <uint16_t>((adu[0] << 8) | adu[1])
    cdef uint8_t exception = 0
    cdef bint parted
    cdef int verdict
    cdef uint32_t i
    if writer.active and tid == writer.command_tid:
        verdict = check_reply(
            adu, length, tid, writer.unit, writer.function, writer.address, writer.count,
            writer.frame, writer.frame_length, &exception)
        if _odd(bank, device, verdict, now):
            return False
        writer.active = 0
        writer.again = 0
        writer.silent = 0
        writer.lost = 0
        bank.shm.devices[device].good_ns = now.mono_ns
        parted = verdict != REPLY_GOOD and (writer.group_count > 1 or writer.multiple)
        writer.singly |= parted
        for i in range(writer.group_count):
            if parted:
                output_parted(bank.outputs, writer.group[i], now)
            else:
                output_replied(bank.outputs, writer.group[i], verdict != REPLY_GOOD, now)
        return True
    if writer.beat_active and tid == writer.beat_tid:
        verdict = check_reply(
            adu, length, tid, bank.program.devices[device].unit, writer.beat_function,
            writer.beat_address, writer.beat_registers,
            writer.beat, writer.beat_length, &exception)
        if _odd(bank, device, verdict, now):
            return False
        writer.beat_active = 0
        writer.silent = 0
        writer.lost = 0
        bank.shm.devices[device].good_ns = now.mono_ns
        if writer.beat_lease == LEASE_READ and verdict == REPLY_GOOD:
            lease_look(
                &writer.lease, bank.shm, device, &bank.program.devices[device], bank.instance,
                adu + 9, now)
        elif writer.beat_lease == LEASE_READ:
            writer.lease.due_ns = now.mono_ns + bank.program.devices[device].every_ns
        if writer.again:
            _send_again(bank, device, now)
        return writer.beat_lease != LEASE_NOTHING
    if tid == 0 or <uint16_t>(writer.tid - tid) >= EXPIRED_TIDS:
        bank.shm.devices[device].refused[_REFUSED_TRANSACTION] += 1
        _down(bank, device, 0, now)
    elif writer.again:
        _send_again(bank, device, now)
    return False


cdef bint _odd(WriterBank* bank, uint32_t device, int verdict, const Stamp* now) noexcept nogil:
    """Anything but an echo or an exception ends the connection."""
    if verdict == REPLY_GOOD:
        return False
    verdict -= REPLY_REFUSED
    if verdict < 1 or verdict > 11:
        verdict = _REFUSED_PROTOCOL
    bank.shm.devices[device].refused[verdict] += 1
    if verdict >= _REFUSED_EXCEPTION_ADDRESS:
        return False
    _down(bank, device, 0, now)
    return True


cdef bint writer_event(
    WriterBank* bank, uint32_t device, short revents, const Stamp* now,
) noexcept nogil:
    """The connection's descriptor is ready; True where a command was answered."""
    cdef Writer* writer = &bank.writers[device]
    cdef bint answered = False
    cdef int got, length, _i
    if writer.link.state == LINK_CONNECTING:
        if link_finish(&writer.link, now.mono_ns):
            _opened(bank, device, now)
        else:
            _down(bank, device, writer.link.error, now)
        return True
    got = link_receive(&writer.link) if writer.link.state == LINK_OPEN else -1
    for _i in range(FRAMES_PER_WAKE_MAX):
        if writer.link.state != LINK_OPEN or writer.link.rx_have == 0:
            break
        length = frame_length(writer.link.rx, writer.link.rx_have)
        if length == 0:
            break
        if length < 0:
            bank.shm.devices[device].refused[
                _REFUSED_PROTOCOL if length == -_REFUSED_PROTOCOL else _REFUSED_LENGTH] += 1
            _down(bank, device, 0, now)
            return True
        if _frame(bank, device, writer.link.rx, length, now):
            answered = True
        link_consume(&writer.link, length)
    if writer.link.state == LINK_OPEN and (
        got < 0 or revents & (POLLERR | POLLHUP | POLLNVAL)
    ):
        _down(bank, device, writer.link.error, now)
        return True
    return answered


cdef bint writer_starves(const WriterBank* bank, uint32_t device) noexcept nogil:
    """A trip value waits and no connection takes it: the device may have no room for a second."""
    cdef const Writer* writer = &bank.writers[device]
    return (
        writer.lost >= LOST_UNTIL_STARVING and writer.link.state == LINK_CLOSED
        and _wished(bank, device, WISH_TRIP)
    )


cdef int64_t writer_due(const WriterBank* bank, uint32_t device) noexcept nogil:
    """Monotonic ns of the next thing to do by the clock."""
    cdef const Writer* writer = &bank.writers[device]
    cdef int64_t due = INT64_MAX
    if not writer.needed or writer.link.state > LINK_OPEN:
        return due
    if writer.link.state == LINK_CLOSED:
        return writer.link.next_try_ns
    if writer.link.state == LINK_CONNECTING:
        return writer.link.deadline_ns
    if writer.active:
        due = min(due, writer.deadline_ns)
    if writer.beat_active:
        due = min(due, writer.beat_deadline_ns)
    if writer.again:
        due = min(due, writer.again_by_ns)
    return due


# ---- on a serial line ----------------------------------------------------------------------------

cdef bint writer_wishes(const WriterBank* bank, uint32_t device, uint8_t wish) noexcept nogil:
    """The bank wishes such a value into an output of this device now."""
    return bank.writers[device].needed and _wished(bank, device, wish)


cdef bint writer_fresh(const WriterBank* bank, uint32_t device) noexcept nogil:
    """A trip value that was never on the wire: it is tried also where nobody answers."""
    cdef uint32_t i
    for i in range(bank.program.output_count):
        if (
            bank.program.outputs[i].device == device and bank.outputs.runs[i].wish == WISH_TRIP
            and bank.outputs.runs[i].latch.wire_ns == 0
        ):
            return True
    return False


cdef int64_t writer_beat_ns(const WriterBank* bank, uint32_t device) noexcept nogil:
    """Monotonic ns from which the next heartbeat may be sent."""
    cdef const Writer* writer = &bank.writers[device]
    if not bank.program.devices[device].flags & _DEVICE_HAS_HEARTBEAT or not bank.scanned:
        return INT64_MAX
    if writer.beat_sent_ns == 0:
        return 0
    return writer.beat_sent_ns + bank.program.devices[device].every_ns


cdef bint writer_ask(
    WriterBank* bank, uint32_t device, uint8_t wish, const Stamp* now,
) noexcept nogil:
    """Send one group of such values; True where it went out."""
    cdef Writer* writer = &bank.writers[device]
    # As long as the line may echo, a reply to FC5 or FC6 could be our own request.
    writer.multiple = 1 if writer.link.line.echo == ECHO_UNKNOWN and not writer.singly else 0
    _write(bank, device, wish, now)
    return writer.active


cdef bint writer_beat(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """Send the heartbeat; True where it went out."""
    _heartbeat(bank, device, now)
    return bank.writers[device].beat_active


cdef bint writer_answered(
    WriterBank* bank, uint32_t device, const uint8_t* adu, int length, const Stamp* now,
) noexcept nogil:
    """The reply to what was sent; True where it answered a command."""
    return _frame(bank, device, adu, length, now)


cdef void writer_failed(
    WriterBank* bank, uint32_t device, bint again, const Stamp* now,
) noexcept nogil:
    """No good reply in its time; with ``again`` the bank may wish for the same at once."""
    cdef Writer* writer = &bank.writers[device]
    cdef uint32_t i
    writer.beat_active = 0
    if not writer.active:
        return
    writer.active = 0
    # The reply to a joint write has no values: a late one must not confirm others.
    writer.singly |= writer.normal
    for i in range(writer.group_count):
        if again:
            output_parted(bank.outputs, writer.group[i], now)
        elif bank.outputs.runs[writer.group[i]].in_flight:
            output_expired(bank.outputs, writer.group[i])


cdef void writer_begin(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """The device answers (again): a pending trip value is the first thing that it gets."""
    bank.writers[device].beat_sent_ns = 0
    bank.writers[device].singly = 0
    if bank.writers[device].needed:
        outputs_link_up(bank.outputs, device, now)


cdef void writer_end(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """The device does not answer any more, or its line is gone."""
    bank.writers[device].active = 0
    bank.writers[device].beat_active = 0
    if bank.writers[device].needed:
        outputs_link_down(bank.outputs, device, now)
