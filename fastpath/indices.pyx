# cython: boundscheck=False, wraparound=False, cdivision=True
"""What points at what in a program: rules 6, 7 and 10 of the guard's contract.

Legs, effects and points stand in the order of what owns them, so that each range begins where the
one before it ends, and none can be forgotten or used twice.
"""

from libc.math cimport floor
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

from fastpath.layout cimport _REG_TRUTH, ProgramView, op_result
from fastpath.types cimport *

cdef enum:
    _ADDRESSES = 65536
    _HEARTBEAT_REGISTERS = 2

# Rule 6: every index in range, every code known; each node used once.


cdef inline bint _index(uint32_t value, uint32_t count) noexcept nogil:
    return value < count or value == <uint32_t>_NONE_U32


cdef inline bint _truth_register(const ProgramView* p, uint32_t reg) noexcept nogil:
    return reg < p.code_count and op_result(p.code[reg].op) == _REG_TRUTH


cdef bint indices_rule_6(const ProgramView* p) noexcept nogil:
    return (
        _tags(p) or _code(p) or _interlocks(p) or _legs(p)
        or _outputs(p) or _devices(p) or _requests(p)
    )


cdef bint _tags(const ProgramView* p) noexcept nogil:
    cdef const TagDef* t
    cdef uint32_t i
    for i in range(p.tag_count):
        t = &p.tags[i]
        if not _OWNER_GUARD <= t.owner <= _OWNER_SYSTEM or t.record > _RECORD_ONE_SECOND:
            return True
        if t.device != _NONE_U16 and t.device >= p.device_count:
            return True
        if t.owner == _OWNER_GUARD and t.device == _NONE_U16:
            return True
        if t.owner == _OWNER_SYSTEM:
            if t.system != _SYSTEM_GATEWAY_ALIVE and t.system != _SYSTEM_DEVICE_CONNECTED:
                return True
            if t.system == _SYSTEM_DEVICE_CONNECTED and t.device == _NONE_U16:
                return True
        if t.flags & ~(
            _TAG_BOOLEAN | _TAG_UNCERTAIN_USE | _TAG_HAS_RANGE | _TAG_IN_INTERLOCK
        ):
            return True
    return False


cdef bint _code(const ProgramView* p) noexcept nogil:
    cdef uint8_t used[_NODES_MAX]
    cdef const InstructionDef* ins
    cdef uint32_t i, node, used_count = 0
    cdef uint32_t kind
    memset(used, 0, sizeof(used))
    for i in range(p.code_count):
        ins = &p.code[i]
        if ins.op == _OP_TAG and ins.a >= p.tag_count:
            return True
        if ins.op != _OP_UNTIL and ins.op != _OP_FOR:
            continue
        if not 0.0 <= ins.imm < <double>p.node_count or ins.imm != floor(ins.imm):
            return True
        node = <uint32_t>ins.imm
        kind = _NODE_UNTIL if ins.op == _OP_UNTIL else _NODE_FOR
        if used[node] or p.nodes[node].kind != kind:
            return True
        used[node] = 1
        used_count += 1
        if not _index(p.nodes[node].interlock, p.interlock_count):
            return True
    return used_count != p.node_count


cdef bint _interlocks(const ProgramView* p) noexcept nogil:
    cdef const InterlockDef* lock
    cdef uint32_t i, next_leg = 0, next_effect = 0
    for i in range(p.interlock_count):
        lock = &p.interlocks[i]
        if not _truth_register(p, lock.cause):
            return True
        if lock.permissive != <uint32_t>_NONE_U32 and not _truth_register(p, lock.permissive):
            return True
        if not _index(lock.group, p.group_count):
            return True
        if not _ON_BAD_TRIP <= lock.on_bad <= _ON_BAD_IGNORE:
            return True
        if lock.flags & ~<uint32_t>(
            _IL_LATCH | _IL_ARMED | _IL_NO_BYPASS | _IL_BYPASS_VOTES_TRIP
        ):
            return True
        # Legs and effects stand in the order of their interlocks, each range behind the other.
        if lock.legs_first != next_leg or lock.legs_count > _LEGS_PER_INTERLOCK_MAX:
            return True
        if lock.effects_first != next_effect or lock.effects_count > p.effect_count - next_effect:
            return True
        next_leg += lock.legs_count
        next_effect += lock.effects_count
    return next_leg != p.leg_count or next_effect != p.effect_count


cdef bint _legs(const ProgramView* p) noexcept nogil:
    cdef const InterlockDef* lock
    cdef uint32_t i, k
    for i in range(p.interlock_count):
        lock = &p.interlocks[i]
        for k in range(lock.legs_first, lock.legs_first + lock.legs_count):
            if p.legs[k].interlock != i or not _truth_register(p, p.legs[k].reg):
                return True
            if not _index(p.legs[k].slot, p.tag_count):
                return True
        for k in range(lock.effects_first, lock.effects_first + lock.effects_count):
            if p.effects[k].interlock != i or p.effects[k].output >= p.output_count:
                return True
    return False


cdef bint _outputs(const ProgramView* p) noexcept nogil:
    cdef const OutputDef* output
    cdef uint32_t i
    for i in range(p.output_count):
        output = &p.outputs[i]
        if output.path != _PATH_MODBUS or output.device >= p.device_count:
            return True
        if output.kind != _KIND_COIL and output.kind != _KIND_REGISTER:
            return True
        if not _index(output.readback, p.tag_count):
            return True
        if output.flags & ~(_OUT_HAS_NORMAL | _OUT_READBACK_INVERTED):
            return True
        if output.kind == _KIND_COIL and (output.trip > 1 or output.normal > 1):
            return True
    return False


cdef bint _devices(const ProgramView* p) noexcept nogil:
    cdef const DeviceDef* device
    cdef uint32_t i
    for i in range(p.device_count):
        device = &p.devices[i]
        if device.kind != _DEVICE_MODBUS_TCP or device.port == 0:
            return True
        if device.flags & ~_DEVICE_HAS_HEARTBEAT or device.tty != <uint32_t>_NONE_U32:
            return True
    return False


cdef bint _requests(const ProgramView* p) noexcept nogil:
    cdef const RequestDef* request
    cdef uint32_t i, k, next_decode = 0
    for i in range(p.request_count):
        request = &p.requests[i]
        if request.device >= p.device_count or request.decode_first != next_decode:
            return True
        if request.decode_count > p.decode_count - next_decode:
            return True
        for k in range(next_decode, next_decode + request.decode_count):
            if p.decode[k].request != i or p.decode[k].slot >= p.tag_count:
                return True
            if not _ORDER_ABCD <= p.decode[k].order <= _ORDER_DCBA or p.decode[k].bit > 15:
                return True
        next_decode += request.decode_count
    return next_decode != p.decode_count


# Rule 7: each tag of the guard decoded exactly once, from its own device; no other tag decoded.


cdef bint indices_rule_7(const ProgramView* p) noexcept nogil:
    cdef uint8_t times[_TAGS_MAX]
    cdef const DecodeDef* d
    cdef const TagDef* t
    cdef uint32_t i
    memset(times, 0, sizeof(times))
    for i in range(p.decode_count):
        d = &p.decode[i]
        t = &p.tags[d.slot]
        if times[d.slot] or t.owner != _OWNER_GUARD or t.device != p.requests[d.request].device:
            return True
        times[d.slot] = 1
    for i in range(p.tag_count):
        if p.tags[i].owner == _OWNER_GUARD and not times[i]:
            return True
    return False


# Rule 10: no two outputs, no output and heartbeat, no two heartbeats on one address.


cdef bint _same_unit(
    const ProgramView* p, uint32_t a, uint8_t unit_a, uint32_t b, uint8_t unit_b,
) noexcept nogil:
    """Two ways to one unit of one server, also where it is listed as two devices."""
    if unit_a != unit_b:
        return False
    return a == b or (
        p.devices[a].port == p.devices[b].port
        and memcmp(p.devices[a].address, p.devices[b].address, 16) == 0
    )


cdef bint indices_rule_10(const ProgramView* p) noexcept nogil:
    cdef const OutputDef* x
    cdef const OutputDef* y
    cdef uint32_t i, k
    for i in range(p.output_count):
        x = &p.outputs[i]
        for k in range(i):
            y = &p.outputs[k]
            if x.address == y.address and x.kind == y.kind:
                if _same_unit(p, x.device, x.unit, y.device, y.unit):
                    return True
    for i in range(p.device_count):
        if p.devices[i].flags & _DEVICE_HAS_HEARTBEAT and _heartbeat_meets(p, i):
            return True
    return False


cdef bint _heartbeat_meets(const ProgramView* p, uint32_t index) noexcept nogil:
    cdef const DeviceDef* device = &p.devices[index]
    cdef const DeviceDef* other
    cdef const OutputDef* output
    cdef int first = device.heartbeat_address
    cdef uint32_t i
    if first + _HEARTBEAT_REGISTERS > _ADDRESSES:
        return True
    for i in range(p.output_count):
        output = &p.outputs[i]
        if output.kind == _KIND_REGISTER and first <= output.address <= first + 1:
            if _same_unit(p, index, device.unit, output.device, output.unit):
                return True
    for i in range(index):
        other = &p.devices[i]
        if other.flags & _DEVICE_HAS_HEARTBEAT and -1 <= first - other.heartbeat_address <= 1:
            if _same_unit(p, index, device.unit, i, other.unit):
                return True
    return False
