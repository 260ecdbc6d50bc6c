# cython: cdivision=True
"""What a change of program changes: which record became which, and what is weaker than before.

Main thread, before the scan thread is offered the new program; nothing here touches its state.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp

from fastpath.bus cimport BUSES_MAX
from fastpath.bypass cimport op_has_b
from fastpath.layout cimport ProgramView
from fastpath.types cimport *


cdef void _merge(
    const void* new, uint32_t new_count, const void* old, uint32_t old_count, size_t record_bytes,
    int32_t* came_from, int32_t* goes_to,
) noexcept:
    """One pass over two runs of records that begin with ascending keys. NULL: not wanted."""
    cdef const uint8_t* a = <const uint8_t*>new
    cdef const uint8_t* b = <const uint8_t*>old
    cdef uint32_t i, k = 0
    cdef uint64_t key
    if goes_to != NULL:
        for i in range(old_count):
            goes_to[i] = -1
    for i in range(new_count):
        key = (<const uint64_t*>(a + i * record_bytes))[0]
        while k < old_count and (<const uint64_t*>(b + k * record_bytes))[0] < key:
            k += 1
        came_from[i] = -1
        if k < old_count and (<const uint64_t*>(b + k * record_bytes))[0] == key:
            came_from[i] = <int32_t>k
            if goes_to != NULL:
                goes_to[k] = <int32_t>i


cdef void difference_of(Runtime* new, const Runtime* old) except *:
    """Where each record of the new program stood in the old one, and back; what weakens."""
    cdef const ProgramView* p = &new.program
    cdef const ProgramView* was = &old.program
    cdef uint32_t i
    _merge(
        p.interlocks, p.interlock_count, was.interlocks, was.interlock_count,
        sizeof(InterlockDef), new.interlock_from, new.interlock_to)
    _merge(
        p.outputs, p.output_count, was.outputs, was.output_count, sizeof(OutputDef),
        new.output_from, new.output_to)
    _merge(
        p.devices, p.device_count, was.devices, was.device_count, sizeof(DeviceDef),
        new.device_from, NULL)
    _merge(
        p.tags, p.tag_count, was.tags, was.tag_count, sizeof(TagDef), new.tag_from, NULL)
    for i in range(p.device_count):
        if new.device_from[i] >= 0 and not _same_definition(
            new, i, old, <uint32_t>new.device_from[i]
        ):
            new.device_from[i] = -1
    for i in range(p.tag_count):
        if new.tag_from[i] >= 0 and not _same_tag(new, i, old, <uint32_t>new.tag_from[i]):
            new.tag_from[i] = -1
    for i in range(p.output_count):
        new.output_same[i] = new.output_from[i] >= 0 and _same_wire(
            new, i, old, <uint32_t>new.output_from[i])
    _prepare_memory(new, old)
    _mark_renewed(new)
    new.weakened = _weakened(new, old)


cdef void _prepare_memory(Runtime* new, const Runtime* old) except *:
    """Their keys are in no order."""
    cdef uint32_t i
    nodes = {old.program.nodes[i].key: i for i in range(old.program.node_count)}
    for i in range(new.program.node_count):
        new.node_from[i] = nodes.get(new.program.nodes[i].key, -1)
        if new.node_from[i] >= 0 and not _same_node(new, i, old, <uint32_t>new.node_from[i]):
            new.node_from[i] = -1
    windows = {old.program.windows[i].key: i for i in range(old.program.window_count)}
    for i in range(new.program.window_count):
        new.window_from[i] = windows.get(new.program.windows[i].key, -1)
        if new.window_from[i] >= 0 and not _same_window(
            new, i, old, <uint32_t>new.window_from[i]
        ):
            new.window_from[i] = -1


cdef void _mark_renewed(Runtime* new) except *:
    """A start grace for the interlocks that read what begins anew, and for no others: whose inputs
    are carried over is not starting, and what rides through there goes on counting.
    """
    cdef const ProgramView* p = &new.program
    cdef const InstructionDef* ins
    cdef const InterlockDef* d
    cdef uint32_t i
    reads = bytearray(p.code_count)
    for i in range(p.code_count):
        ins = &p.code[i]
        if ins.op == _OP_TAG:
            reads[i] = 1 if new.tag_from[ins.a] < 0 else 0
        elif ins.op == _OP_WINDOW:
            reads[i] = 1 if (
                new.window_from[ins.a] < 0 or new.tag_from[p.windows[ins.a].slot] < 0
            ) else 0
        elif ins.op not in (_OP_CONST, _OP_FALSE, _OP_TRUE):
            reads[i] = (ins.a < i and reads[ins.a]) or (
                op_has_b(ins.op) and ins.b < i and reads[ins.b])
    for i in range(p.interlock_count):
        d = &p.interlocks[i]
        new.interlocks[i].grace = reads[d.cause] or (
            d.permissive != _NONE_U32 and reads[d.permissive])


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


cdef bint _same_definition(
    const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k,
) noexcept:
    """A device in every respect; a serial line may stand elsewhere among the ttys."""
    cdef DeviceDef a = rt.program.devices[i]
    cdef DeviceDef b = old.program.devices[k]
    if a.kind == _DEVICE_MODBUS_RTU and b.kind == a.kind:
        if a.tty >= <uint32_t>BUSES_MAX or b.tty >= <uint32_t>BUSES_MAX:
            return False
        if rt.buses[a.tty].door != old.buses[b.tty].door:
            return False
        a.tty = b.tty
    return memcmp(&a, &b, sizeof(DeviceDef)) == 0


cdef bint _same_device(const Runtime* rt, uint16_t i, uint16_t k) noexcept:
    """Index ``i`` of the new program means what ``k`` meant in the old one, or both mean none."""
    if i == _NONE_U16 or k == _NONE_U16:
        return i == k
    return rt.device_from[i] == <int32_t>k


cdef bint _same_tag(const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k) noexcept:
    """The same tag in every respect; its device may have moved to another index."""
    cdef TagDef a = rt.program.tags[i]
    cdef TagDef b = old.program.tags[k]
    if not _same_device(rt, a.device, b.device):
        return False
    a.device = b.device
    # Who reads it is no matter of the tag.
    a.flags = <uint16_t>((a.flags & ~_TAG_IN_INTERLOCK) | (b.flags & _TAG_IN_INTERLOCK))
    return memcmp(&a, &b, sizeof(TagDef)) == 0


cdef bint _same_wire(const Runtime* rt, uint32_t i, const Runtime* old, uint32_t k) noexcept:
    """The same values are written to the same place."""
    cdef const OutputDef* a = &rt.program.outputs[i]
    cdef const OutputDef* b = &old.program.outputs[k]
    return (
        _same_device(
            rt, _NONE_U16 if a.device == _NONE_U32 else <uint16_t>a.device,
            _NONE_U16 if b.device == _NONE_U32 else <uint16_t>b.device)
        and a.unit == b.unit and a.path == b.path and a.kind == b.kind
        and a.address == b.address and a.trip == b.trip and a.normal == b.normal
    )


# ---- weakening -----------------------------------------------------------------------------------

cdef uint32_t _weakened(const Runtime* new, const Runtime* old) noexcept:
    """How many armed interlocks are gone, disarmed, or not what they were but for more effects."""
    cdef bint all = (
        new.program.tick_ns > old.program.tick_ns
        or new.program.start_within_ns > old.program.start_within_ns
        or new.program.on_overrun > old.program.on_overrun
        or new.program.on_stop > old.program.on_stop
        or new.program.on_output_failure > old.program.on_output_failure)
    cdef uint32_t i, count = 0
    for i in range(old.program.interlock_count):
        if old.program.interlocks[i].flags & _IL_ARMED and (
            all or _interlock_weaker(new, old, i)
        ):
            count += 1
    return count


cdef bint _interlock_weaker(const Runtime* new, const Runtime* old, uint32_t k) noexcept:
    cdef const InterlockDef* was = &old.program.interlocks[k]
    cdef const InterlockDef* d
    cdef const EffectDef* effect
    cdef uint32_t i
    if new.interlock_to[k] < 0:
        return True
    d = &new.program.interlocks[new.interlock_to[k]]
    if d.fingerprint != was.fingerprint or not d.flags & _IL_ARMED:
        return True
    if _group_weaker(new, d.group, old, was.group):
        return True
    for i in range(was.effects_count):
        effect = &old.program.effects[was.effects_first + i]
        if not has_effect(new, d, new.output_to[effect.output], effect.delay_ns, True):
            return True
        if _output_weaker(new, old, effect.output):
            return True
    return False


cdef bint _group_weaker(
    const Runtime* new, uint32_t i, const Runtime* old, uint32_t k,
) noexcept:
    """More of it may be bypassed at once; an interlock without a group counts alone, one."""
    cdef uint32_t now_max = 1 if i == _NONE_U32 else new.program.groups[i].max_bypassed
    cdef uint32_t was_max = 1 if k == _NONE_U32 else old.program.groups[k].max_bypassed
    return now_max > was_max


cdef bint has_effect(
    const Runtime* rt, const InterlockDef* d, int32_t output, int64_t delay_ns, bint exactly,
) noexcept nogil:
    """It trips that output after ``delay_ns``, or no later."""
    cdef const EffectDef* effect
    cdef uint32_t i
    for i in range(d.effects_count):
        effect = &rt.program.effects[d.effects_first + i]
        if <int32_t>effect.output == output and (
            effect.delay_ns == delay_ns or (not exactly and effect.delay_ns < delay_ns)
        ):
            return True
    return False


cdef bint _output_weaker(const Runtime* new, const Runtime* old, uint32_t k) noexcept:
    """Defined otherwise in any respect, on another device, or with a fallback less."""
    cdef int32_t i = new.output_to[k]
    cdef OutputDef a
    cdef OutputDef b = old.program.outputs[k]
    if i < 0 or not new.output_same[i]:
        return True
    a = new.program.outputs[i]
    if (a.readback == _NONE_U32) != (b.readback == _NONE_U32):
        return True
    if a.readback != _NONE_U32 and new.tag_from[a.readback] != <int32_t>b.readback:
        return True
    a.device, a.readback = b.device, b.readback
    return memcmp(&a, &b, sizeof(OutputDef)) != 0 or not keeps_fallbacks(new, old, k)


cdef bint keeps_fallbacks(const Runtime* new, const Runtime* old, uint32_t k) noexcept nogil:
    """Every fallback of the old program's output ``k`` is one of it still."""
    cdef uint32_t i, n
    cdef bint found
    for i in range(old.program.fallback_count):
        if old.program.fallbacks[i].output != k:
            continue
        found = False
        for n in range(new.program.fallback_count):
            if (
                <int32_t>new.program.fallbacks[n].output == new.output_to[k]
                and <int32_t>new.program.fallbacks[n].fallback
                == new.output_to[old.program.fallbacks[i].fallback]
            ):
                found = True
        if not found:
            return False
    return True
