# cython: cdivision=True
"""How a life begins: states by key from the shared file, its journal, or a clean stop.

Main thread, before the first scan. Copies that disagree, and trips in the journal that a latch
does not know, mean TRIPPED; after a power loss every armed, latching interlock trips.
"""

from libc.string cimport memcpy, memset

from fastpath.bank cimport DEMANDED, OutputRun
from fastpath.bypass cimport bypass_over, bypass_slot
from fastpath.interlock cimport interlock_trip, interlocks_demand, interlocks_regroup
from fastpath.journal cimport (
    Shm, event_valid, interlock_load, interlock_salvage, interlock_store, latches_settled,
    latches_spill, output_load, output_salvage, output_store,
)
from fastpath.interlock cimport InterlockRun
from fastpath.outputs cimport output_restore_trip
from fastpath.runtime cimport define_interlock, fresh_interlock, fresh_output, runtime_bind
from fastpath.transition cimport output_record
from fastpath.types cimport *


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


cdef dict _bypass_words(const Shm* shm):
    """The journal's last word on each bypass: (kind, key) -> whether it is its begin."""
    cdef uint64_t head = shm.live.event_head
    cdef uint64_t first = head - min(head - 1, <uint64_t>_EVENTS_MAX)
    cdef uint64_t seq
    cdef uint32_t kind
    cdef const Event* e
    begun = {}
    for seq in range(first, head):
        e = &shm.events[seq % _EVENTS_MAX]
        if e.type not in (_EV_BYPASS, _EV_BYPASS_END) or not event_valid(e, seq):
            continue
        memcpy(&kind, e.payload, sizeof(kind))
        begun[(kind, e.key)] = e.type == _EV_BYPASS
    return begun


cdef void runtime_tell_bypasses(Parts* parts, Runtime* rt, const Stamp* now) except *:
    """The end of every bypass whose begin is the journal's last word of it, and that is no more:
    a kill came between its record and its memory, or the memory is damaged.
    """
    cdef uint32_t i
    index = {rt.program.interlocks[i].key: i for i in range(rt.program.interlock_count)}
    for (kind, key), on in _bypass_words(parts.shm).items():
        if on:
            at = bypass_slot(&parts.logic, key) if kind == _BYPASS_TAG else index.get(key, -1)
            bypass_over(&parts.logic, kind, key, at if at >= 0 else _NONE_U32, now)


cdef dict _latches(const Shm* shm):
    """Every interlock's pair in the file: key -> (good, latch bytes)."""
    cdef InterlockLatch latch
    cdef uint32_t i
    out = {}
    for i in range(<uint32_t>_INTERLOCKS_MAX):
        good = interlock_load(&shm.spare.interlocks[i], &latch)
        if not good:
            interlock_salvage(&shm.spare.interlocks[i], &latch)
        for key in {shm.spare.interlocks[i].a.key, shm.spare.interlocks[i].b.key}:
            if key != 0 and (key not in out or not good):
                out[key] = (good, (<char*>&latch)[:sizeof(InterlockLatch)])
    return out


cdef dict _output_latches(const Shm* shm):
    cdef OutputLatch latch
    cdef uint32_t i
    out = {}
    for i in range(<uint32_t>_OUTPUTS_MAX):
        good = output_load(&shm.spare.outputs[i], &latch)
        if not good:
            output_salvage(&shm.spare.outputs[i], &latch)
        for key in {shm.spare.outputs[i].a.key, shm.spare.outputs[i].b.key}:
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
    if not shm.live.moving:
        latches_spill(shm, _INTERLOCKS_MAX, _OUTPUTS_MAX)
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
        fresh_interlock(rt, i, now)
        entry = found.get(d.key)
        if entry is not None and entry[0]:
            raw = entry[1]
            memcpy(&run.latch, raw, sizeof(InterlockLatch))
            define_interlock(rt, i)
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
    if power_loss:
        _tell_held(parts, rt, now)
    latches_settled(shm)
    # Nodes stay as they stand. What is not sealed under its own key, as all is after a power
    # loss, is lost memory: unknown.
    return restored


cdef void _tell_held(Parts* parts, Runtime* rt, const Stamp* now) noexcept nogil:
    """After a power loss: what nothing demands is held, and nobody has written it since."""
    cdef uint32_t i
    interlocks_demand(&parts.logic, now, rt.demand, rt.cause, rt.demand_ns)
    for i in range(rt.program.output_count):
        if rt.outputs[i].latch.state == _OUTS_HELD and rt.demand[i] != DEMANDED:
            output_record(&parts.bank, i, now, _EV_OUT_HELD, 0, _OUTC_NOTHING)


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
    """TRIPPED(restored): a damaged pair goes on with the numbers of a copy that is whole."""
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
    if entry is None or not latch.flags & _LATCH_BYPASSED:
        return
    # One that a clean stop brought from another boot: this journal says nothing of it.
    key = parts.logic.program.interlocks[i].key
    if (_BYPASS_INTERLOCK, key) not in _bypass_words(parts.shm):
        bypass_over(&parts.logic, _BYPASS_INTERLOCK, key, i, now)


cdef void _recover_output(
    Runtime* rt, uint32_t i, entry, bint power_loss, const Stamp* now,
) except *:
    """RELEASED and HELD stay, what was tripped is written again, a release ends in HELD."""
    cdef OutputRun* run = &rt.outputs[i]
    cdef OutputLatch latch
    cdef const char* raw
    fresh_output(rt, i, now, entry is None and not power_loss)
    if entry is None:
        return
    raw = entry[1]
    memcpy(&latch, raw, sizeof(OutputLatch))
    if not entry[0]:
        # A silence that may be none is none; that it failed goes on until it is confirmed.
        latch.state = _OUTS_TRIPPING
        latch.key = rt.program.outputs[i].key
        latch.demand &= _DEMAND_FAILED | _DEMAND_BEAT_STOPPED
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
