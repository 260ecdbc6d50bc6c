# cython: cdivision=True
"""The change from one program to another at a scan's border, with all state that they share.

Scan thread. ``difference`` has mapped the two programs onto each other; here what would take a trip
or a bypass away is refused (``swap_allowed``) and the states are carried over (``swap_merge``).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.bank cimport OutputRun
from fastpath.bus cimport buses_plan, buses_swap
from fastpath.clock cimport mono_ns
from fastpath.delivery cimport outputs_link_down
from fastpath.demand cimport demand_holds
from fastpath.difference cimport has_effect, keeps_fallbacks
from fastpath.image cimport slot_write
from fastpath.interlock cimport interlock_trip, interlocks_regroup
from fastpath.journal cimport (
    Shm, interlock_store, journal_write, latches_settled, latches_spill, output_store,
    samples_grow, samples_wanted,
)
from fastpath.layout cimport ProgramView
from fastpath.link cimport link_close
from fastpath.outputs cimport outputs_plan
from fastpath.poller cimport pollers_plan
from fastpath.program cimport node_begin, node_lose
from fastpath.runtime cimport (
    define_interlock, fresh_interlock, fresh_output, runtime_bind, runtime_name, runtime_watch,
)
from fastpath.types cimport *
from fastpath.windows cimport window_begin
from fastpath.writer cimport writers_plan

cdef struct ProgramPayload:  # records.PAYLOADS[PROGRAM]
    uint8_t old[16]
    uint8_t new[16]
    uint32_t kept
    uint32_t changed
    uint32_t swap_ns
    uint32_t weakened
    uint8_t command_id[16]


# ---- what must not vanish (scan thread) ----------------------------------------------------------

cdef bint swap_allowed(
    const Parts* parts, const Runtime* old, const Runtime* new, const Stamp* now,
) noexcept nogil:
    """Nothing that is tripped, to be reset, bypassed or demanded would be gone with the old one."""
    cdef uint32_t i, state
    for i in range(old.program.interlock_count):
        if not _interlock_stays(old, new, i, now):
            return False
    for i in range(old.program.output_count):
        state = old.outputs[i].latch.state
        if new.output_to[i] >= 0:
            if old.outputs[i].latch.demand & _DEMAND_FAILED and not keeps_fallbacks(new, old, i):
                return False
        elif demand_holds(old.outputs[i].latch.demand) or (
            state != _OUTS_RELEASED and state != _OUTS_HELD
        ):
            return False
    for i in range(<uint32_t>_TAG_BYPASSES_MAX):
        if parts.shm.tag_bypasses[i].a.until_ns != 0 and not _has_tag(
            &new.program, parts.shm.tag_bypasses[i].a.key
        ):
            return False
    return True


cdef bint _interlock_stays(
    const Runtime* old, const Runtime* new, uint32_t k, const Stamp* now,
) noexcept nogil:
    cdef const InterlockLatch* latch = &old.interlocks[k].latch
    cdef const InterlockDef* was = &old.program.interlocks[k]
    cdef const InterlockDef* d
    cdef const EffectDef* effect
    cdef bint holds = latch.state != _ILS_NORMAL and latch.state != _ILS_PENDING
    cdef bint demands = holds and not latch.flags & _LATCH_WITHHELD
    cdef uint32_t i
    if not holds and not latch.flags & _LATCH_BYPASSED:
        return True
    if new.interlock_to[k] < 0:
        return False
    d = &new.program.interlocks[new.interlock_to[k]]
    if not was.flags & _IL_ARMED:
        return True
    if not d.flags & _IL_ARMED:
        return False
    for i in range(was.effects_count if demands else 0):
        effect = &old.program.effects[was.effects_first + i]
        # What it has tripped by now stays tripped.
        if now.boot_ns - latch.effects_from_ns >= effect.delay_ns and not has_effect(
            new, d, new.output_to[effect.output], now.boot_ns - latch.effects_from_ns, False
        ):
            return False
    return True


cdef bint _has_tag(const ProgramView* program, uint64_t key) noexcept nogil:
    """By binary search over the ascending keys."""
    cdef int32_t low = 0
    cdef int32_t high = <int32_t>program.tag_count - 1
    cdef int32_t middle
    while low <= high:
        middle = (low + high) // 2
        if program.tags[middle].key == key:
            return True
        if program.tags[middle].key < key:
            low = middle + 1
        else:
            high = middle - 1
    return False


# ---- the merge (scan thread) ---------------------------------------------------------------------

cdef void _swap_interlocks(
    Parts* parts, const Runtime* old, Runtime* new, const Stamp* now, ProgramPayload* told,
) noexcept nogil:
    """Equal ones whole; others with state, generation, bypass and the time of their delay."""
    cdef int32_t k
    cdef uint32_t i
    cdef uint8_t renewed
    for i in range(new.program.interlock_count):
        k = new.interlock_from[i]
        if k < 0:
            fresh_interlock(new, i, now)
            told.changed += 1
            continue
        renewed = new.interlocks[i].grace  # by ``difference``
        new.interlocks[i] = old.interlocks[k]
        new.interlocks[i].grace |= renewed
        if new.program.interlocks[i].fingerprint == old.program.interlocks[k].fingerprint:
            told.kept += 1
            continue
        told.changed += 1
        new.interlocks[i].unknown_since_ns = 0
        new.interlocks[i].known_since_ns = 0
        new.interlocks[i].last_known = _T_UNKNOWN
        define_interlock(new, i)


cdef void _swap_outputs(const Runtime* old, Runtime* new, const Stamp* now) noexcept nogil:
    """A tripped one that is written elsewhere, or otherwise, is written anew."""
    cdef OutputRun* run
    cdef uint32_t i
    for i in range(new.program.output_count):
        run = &new.outputs[i]
        if new.output_from[i] < 0:
            fresh_output(new, i, now, True)
            continue
        run[0] = old.outputs[new.output_from[i]]
        new.demand_ns[i] = old.demand_ns[new.output_from[i]]
        new.releasable[i] = old.releasable[new.output_from[i]]
        run.in_flight = 0
        if new.output_same[i]:
            continue
        if run.latch.state in (_OUTS_TRIPPING, _OUTS_TRIPPED, _OUTS_TRIP_FAILED):
            _write_anew(run, new.program.outputs[i].confirm_ns, now)
        else:
            # Nothing is known of what stands there now.
            fresh_output(new, i, now, True)
            run.latch.generation = old.outputs[new.output_from[i]].latch.generation


cdef void _write_anew(OutputRun* run, int64_t confirm_ns, const Stamp* now) noexcept nogil:
    run.latch.state = _OUTS_TRIPPING
    run.latch.since_ns = now.boot_ns
    run.latch.confirmed = 0
    run.latch.wire_ns = 0
    run.latch.confirm_ns = 0
    run.replied = 0
    run.refused = 0
    run.unverified = 0
    run.entered_ns = now.mono_ns
    run.next_write_ns = now.mono_ns
    run.confirm_by_ns = now.mono_ns + confirm_ns
    run.differs_since_ns = 0
    run.dirty = 1


cdef void _store_latches(Parts* parts, Runtime* new) noexcept nogil:
    """Every pair to its new place; what was not touched is not sealed again."""
    cdef Shm* shm = parts.shm
    cdef uint32_t i
    for i in range(new.program.interlock_count):
        if new.interlock_from[i] >= 0 and not new.interlocks[i].dirty:
            shm.interlocks[i] = shm.spare.interlocks[new.interlock_from[i]]
        else:
            interlock_store(&shm.interlocks[i], &new.interlocks[i].latch)
            new.interlocks[i].dirty = 0
    for i in range(new.program.output_count):
        if new.output_from[i] >= 0 and not new.outputs[i].dirty:
            shm.outputs[i] = shm.spare.outputs[new.output_from[i]]
        else:
            output_store(&shm.outputs[i], &new.outputs[i].latch)
            new.outputs[i].dirty = 0
    memset(shm.interlocks + new.program.interlock_count, 0,
           (_INTERLOCKS_MAX - new.program.interlock_count) * sizeof(shm.interlocks[0]))
    memset(shm.outputs + new.program.output_count, 0,
           (_OUTPUTS_MAX - new.program.output_count) * sizeof(shm.outputs[0]))


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
        shm.image[i].flags = 0
    for i in range(new.program.node_count):
        k = new.node_from[i]
        if k >= 0:
            shm.nodes[i] = parts.spare_nodes[k]
        elif _holds(new, new.program.nodes[i].interlock):
            node_lose(&shm.nodes[i], new.program.nodes[i].key)
        else:
            node_begin(&shm.nodes[i], new.program.nodes[i].key)
    memcpy(parts.spare_windows, shm.windows, old.program.window_count * sizeof(WindowState))
    for i in range(new.program.window_count):
        k = new.window_from[i]
        if k >= 0:
            shm.windows[i] = parts.spare_windows[k]
        else:
            window_begin(&shm.windows[i], &new.program.windows[i])


cdef bint _holds(const Runtime* rt, uint32_t interlock) noexcept nogil:
    """TRIPPED or READY: what it does not remember is unknown, not innocent."""
    return interlock < rt.program.interlock_count and (
        rt.interlocks[interlock].latch.state >= _ILS_TRIPPED)


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
    cdef int64_t begun_ns = mono_ns()
    cdef uint32_t i
    memset(&told, 0, sizeof(told))
    memcpy(told.old, old.program.hash, 16)
    memcpy(told.new, new.program.hash, 16)
    memcpy(told.command_id, command_id, 16)
    told.weakened = new.weakened
    latches_spill(shm, old.program.interlock_count, old.program.output_count)
    _swap_interlocks(parts, old, new, now, &told)
    _swap_outputs(old, new, now)
    _swap_image(parts, old, new)
    _swap_devices(parts, old, new, now)
    samples_grow(shm, samples_wanted(&new.program))
    runtime_bind(parts, new)
    runtime_watch(parts, new)
    _store_latches(parts, new)
    latches_settled(shm)
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
    runtime_name(shm, &new.program)
    told.swap_ns = <uint32_t>min(mono_ns() - begun_ns, <int64_t>0xFFFFFFFF)
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
