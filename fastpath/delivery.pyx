# cython: cdivision=True
"""What is to be written of an output now, and what became of it on the way.

Whoever carries it (a trip connection, a serial line) asks for the wishes and tells what was sent,
answered, refused or lost. An output via the gateway is carried by the gateway: its wish is its
latch, its answer OUTPUT_RESULT, and a gateway that is not heard is a link that is down.
"""

from libc.stdint cimport int64_t

from fastpath.bank cimport WISH_NONE, WISH_NORMAL, WISH_TRIP, OutputRun
from fastpath.transition cimport output_unverified, output_value, state_trips
from fastpath.types cimport *

cdef int64_t WRITE_TIMEOUT_NS = 200_000_000
cdef int64_t RETRY_NS_MAX = 1_000_000_000
cdef uint8_t RELEASE_TRIES_MAX = 3


cdef void output_wish(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """What is to be written now, if anything."""
    cdef OutputRun* run = &bank.runs[index]
    cdef const OutputDef* d = &bank.program.outputs[index]
    run.wish = WISH_NONE
    if d.path == _PATH_GATEWAY:
        _publish(bank, index, now)
        return
    if run.in_flight or now.mono_ns < run.next_write_ns:
        return
    if state_trips(run.latch.state):
        run.wish = WISH_TRIP
    elif (
        run.latch.state == _OUTS_RELEASING and run.tries < RELEASE_TRIES_MAX
        and not bank.unwatched[d.device]
    ):
        run.wish = WISH_NORMAL


cdef void _publish(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """The gateway's order: what its latch says is commanded."""
    cdef OutputRun* run = &bank.runs[index]
    if not state_trips(run.latch.state) and run.latch.state != _OUTS_RELEASING:
        return
    if run.latch.commanded != output_value(bank, index):
        run.latch.commanded = output_value(bank, index)
        run.dirty = 1
    if state_trips(run.latch.state) and run.latch.wire_ns == 0:
        run.latch.wire_ns = now.mono_ns
        run.dirty = 1


cdef void output_sent(
    Bank* bank, uint32_t index, uint32_t slot, const Stamp* now,
) noexcept nogil:
    """A whole write of it is on the wire (``now`` was taken after the send)."""
    cdef OutputRun* run = &bank.runs[index]
    run.in_flight = <uint8_t>(slot + 1)
    run.wish = WISH_NONE
    run.latch.commanded = output_value(bank, index)
    run.dirty = 1
    if run.latch.state == _OUTS_RELEASING:
        run.tries += 1
        run.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS
        return
    if run.latch.wire_ns == 0:
        run.latch.wire_ns = now.mono_ns
    if run.latch.state == _OUTS_TRIPPED and not run.unverified:
        run.next_write_ns = now.mono_ns + bank.program.outputs[index].reassert_ns
    elif run.latch.state == _OUTS_TRIP_FAILED:
        run.next_write_ns = now.mono_ns + run.retry_ns
        run.retry_ns = min(2 * run.retry_ns, RETRY_NS_MAX)
    else:
        run.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS


cdef void _answered(OutputRun* run, bint refused, const Stamp* now) noexcept nogil:
    run.dirty = 1
    if refused:
        run.refused = 1
        run.latch.fails += 1
        return
    run.refused = 0
    run.replied = 1
    run.latch.last_reply_ns = now.mono_ns


cdef void output_replied(
    Bank* bank, uint32_t index, bint refused, const Stamp* now,
) noexcept nogil:
    """The device's own reply to the outstanding write: an echo, or a refusal."""
    cdef OutputRun* run = &bank.runs[index]
    if not run.in_flight:
        return
    run.in_flight = 0
    _answered(run, refused, now)


cdef void output_expired(Bank* bank, uint32_t index) noexcept nogil:
    """No reply to the outstanding write in its time: it may be written again."""
    bank.runs[index].in_flight = 0
    bank.runs[index].latch.fails += 1


cdef void output_parted(Bank* bank, uint32_t index, const Stamp* now) noexcept nogil:
    """The write that it shared with others was refused: written again, alone, at once."""
    cdef OutputRun* run = &bank.runs[index]
    if not run.in_flight:
        return
    run.in_flight = 0
    run.next_write_ns = now.mono_ns
    if run.tries > 0:
        run.tries -= 1


cdef void outputs_link_down(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """The connection that carries this device's outputs ended."""
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        if bank.program.outputs[i].device != device:
            continue
        run.in_flight = 0
        if run.latch.state == _OUTS_TRIPPED and not run.unverified:
            run.replied = 0
            output_unverified(bank, i, now)
        elif run.latch.state == _OUTS_TRIPPED:
            run.confirm_by_ns = 0
        elif run.latch.state in (_OUTS_TRIPPING, _OUTS_TRIP_FAILED):
            run.replied = 0


cdef void outputs_link_up(Bank* bank, uint32_t device, const Stamp* now) noexcept nogil:
    """A new connection: every pending trip value is the first thing on it."""
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        if bank.program.outputs[i].device != device:
            continue
        if state_trips(run.latch.state):
            run.replied = 0
            run.next_write_ns = now.mono_ns
            if run.latch.state == _OUTS_TRIPPED:
                run.unverified = 1
                run.confirm_by_ns = now.mono_ns + bank.program.outputs[i].confirm_ns
            output_wish(bank, i, now)


cdef void outputs_gateway(Bank* bank, bint up, const Stamp* now) noexcept nogil:
    """The gateway is heard, or not: the link of the outputs that it writes.

    What makes it heard may be the very result of such a write: that counts.
    """
    cdef OutputRun* run
    cdef uint32_t i
    if up == bank.gateway_up:
        return
    bank.gateway_up = up
    if not up:
        outputs_link_down(bank, _NONE_U32, now)
        return
    for i in range(bank.program.output_count):
        run = &bank.runs[i]
        if bank.program.outputs[i].path == _PATH_GATEWAY and run.unverified:
            run.confirm_by_ns = now.mono_ns + bank.program.outputs[i].confirm_ns


cdef bint output_result(
    Bank* bank, uint64_t key, uint32_t generation, uint32_t code, const Stamp* now,
) noexcept nogil:
    """OUTPUT_RESULT of the gateway; False where it answers nothing that is commanded."""
    cdef const OutputDef* d
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(bank.program.output_count):
        d = &bank.program.outputs[i]
        run = &bank.runs[i]
        if d.key != key:
            continue
        if d.path != _PATH_GATEWAY or generation != run.latch.generation or code == 0:
            return False
        if not state_trips(run.latch.state) and run.latch.state != _OUTS_RELEASING:
            return False
        if code != 1 and run.latch.state == _OUTS_RELEASING:
            run.tries += 1
        _answered(run, code != 1, now)
        return True
    return False
