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
    _LEASE_REGISTERS = 3
    _UNIT_MAX = 247  # of a serial line; 0 is a broadcast, which nobody answers

cdef uint32_t[10] _BAUDS
_BAUDS[:] = [1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800]

# Rule 6: every index in range, every code known; each node and each window used once.


cdef inline bint _index(uint32_t value, uint32_t count) noexcept nogil:
    return value < count or value == <uint32_t>_NONE_U32


cdef inline bint _truth_register(const ProgramView* p, uint32_t reg) noexcept nogil:
    return reg < p.code_count and op_result(p.code[reg].op) == _REG_TRUTH


cdef bint indices_rule_6(const ProgramView* p) noexcept nogil:
    return (
        _tags(p) or _code(p) or _windows(p) or _interlocks(p) or _legs(p)
        or _outputs(p) or _devices(p) or _requests(p)
    )


cdef bint _tags(const ProgramView* p) noexcept nogil:
    cdef const TagDef* t
    cdef int watchdogs = 0
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
            _TAG_BOOLEAN | _TAG_UNCERTAIN_USE | _TAG_HAS_RANGE | _TAG_IN_INTERLOCK | _TAG_WATCHDOG
        ):
            return True
        # The register of a watchdog is read by the guard and has values that it may have.
        if t.flags & _TAG_WATCHDOG:
            watchdogs += 1
            if watchdogs > _WATCHDOGS_MAX:
                return True
            if t.owner != _OWNER_GUARD or not t.flags & _TAG_HAS_RANGE:
                return True
    return False


cdef inline int _kind_of_node(int op) noexcept nogil:
    """What an operation remembers, 0: nothing."""
    if op == _OP_UNTIL:
        return _NODE_UNTIL
    if op == _OP_FOR:
        return _NODE_FOR
    return _NODE_HOLD if op == _OP_HOLD else 0


cdef bint _code(const ProgramView* p) noexcept nogil:
    cdef uint8_t used[_NODES_MAX]
    cdef const InstructionDef* ins
    cdef uint32_t i, node, kind, used_count = 0
    memset(used, 0, sizeof(used))
    for i in range(p.code_count):
        ins = &p.code[i]
        if ins.op == _OP_TAG and ins.a >= p.tag_count:
            return True
        kind = _kind_of_node(ins.op)
        if kind == 0:
            continue
        if not 0.0 <= ins.imm < <double>p.node_count or ins.imm != floor(ins.imm):
            return True
        node = <uint32_t>ins.imm
        if used[node] or p.nodes[node].kind != kind:
            return True
        used[node] = 1
        used_count += 1
        if not _index(p.nodes[node].interlock, p.interlock_count):
            return True
    return used_count != p.node_count


cdef bint _windows(const ProgramView* p) noexcept nogil:
    cdef uint8_t used[_WINDOWS_MAX]
    cdef const WindowDef* window
    cdef uint32_t i, used_count = 0
    memset(used, 0, sizeof(used))
    for i in range(p.code_count):
        if p.code[i].op != _OP_WINDOW:
            continue
        if p.code[i].a >= p.window_count or used[p.code[i].a]:
            return True
        used[p.code[i].a] = 1
        used_count += 1
    for i in range(p.window_count):
        window = &p.windows[i]
        if not _WINDOW_MEAN <= window.kind <= _WINDOW_TOTAL or window.slot >= p.tag_count:
            return True
        if not _index(window.interlock, p.interlock_count):
            return True
    return used_count != p.window_count


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
        if output.path == _PATH_GATEWAY:
            if output.device != <uint32_t>_NONE_U32:
                return True
        elif output.path != _PATH_MODBUS or not unit_answers(p, output.device, output.unit):
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
        if device.flags & ~(_DEVICE_HAS_HEARTBEAT | _DEVICE_HAS_LEASE | _DEVICE_RS485):
            return True
        if device.flags & _DEVICE_HAS_LEASE:  # refreshed with the heartbeat, over TCP alone
            if not device.flags & _DEVICE_HAS_HEARTBEAT or device.kind != _DEVICE_MODBUS_TCP:
                return True
        elif device.lease_address or device.lease_ns:
            return True
        if device.kind == _DEVICE_MODBUS_TCP:
            if device.port == 0 or _has_line(device):
                return True
        elif device.kind != _DEVICE_MODBUS_RTU or _bad_line(p, i):
            return True
    return False


cdef inline bint _has_line(const DeviceDef* device) noexcept nogil:
    """Whether anything of a serial line is set."""
    return (
        device.tty != <uint32_t>_NONE_U32 or device.baud != 0 or device.data_bits != 0
        or device.parity != 0 or device.stop_bits != 0 or device.flags & _DEVICE_RS485 != 0
    )


cdef bint _bad_line(const ProgramView* p, uint32_t index) noexcept nogil:
    """A serial line as Modbus RTU wants it, and one setting for all devices of one bus."""
    cdef const DeviceDef* device = &p.devices[index]
    cdef const DeviceDef* other
    cdef uint32_t i
    # As many ttys as devices at most; that the names have this one is checked with them.
    if device.tty >= p.device_count or device.port != 0 or not unit_answers(p, index, device.unit):
        return True
    for i in range(16):
        if device.address[i] != 0:
            return True
    if device.data_bits != 8 or device.parity > _PARITY_ODD or not 1 <= device.stop_bits <= 2:
        return True
    for i in range(index):
        other = &p.devices[i]
        if other.kind == _DEVICE_MODBUS_RTU and other.tty == device.tty and (
            other.baud != device.baud or other.parity != device.parity
            or other.stop_bits != device.stop_bits
            or (other.flags ^ device.flags) & _DEVICE_RS485
        ):
            return True
    for i in range(10):
        if _BAUDS[i] == device.baud:
            return False
    return True


cdef bint unit_answers(const ProgramView* p, uint32_t device, uint8_t unit) noexcept nogil:
    if device >= p.device_count:
        return False
    return p.devices[device].kind != _DEVICE_MODBUS_RTU or 1 <= unit <= _UNIT_MAX


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


# Rule 10: what one guard writes it writes from one place: outputs, heartbeats and leases meet nowhere.


cdef struct Owned:
    uint32_t device
    uint32_t first
    uint32_t count
    uint8_t unit
    uint8_t kind  # OutputKind


cdef bint _same_unit(
    const ProgramView* p, uint32_t a, uint8_t unit_a, uint32_t b, uint8_t unit_b,
) noexcept nogil:
    """Two ways to one unit of one server or bus, also where it is listed as two devices."""
    cdef const DeviceDef* x = &p.devices[a]
    cdef const DeviceDef* y = &p.devices[b]
    if unit_a != unit_b or x.kind != y.kind:
        return False
    if x.kind == _DEVICE_MODBUS_RTU:
        return x.tty == y.tty
    return a == b or (x.port == y.port and memcmp(x.address, y.address, 16) == 0)


cdef bint _meets(
    const ProgramView* p, const Owned* owned, uint32_t count, const Owned* new,
) noexcept nogil:
    cdef uint32_t i
    if new.first + new.count > _ADDRESSES:
        return True
    for i in range(count):
        if owned[i].first >= new.first + new.count or new.first >= owned[i].first + owned[i].count:
            continue
        if owned[i].kind != new.kind:
            continue
        if _same_unit(p, owned[i].device, owned[i].unit, new.device, new.unit):
            return True
    return False


cdef bint indices_rule_10(const ProgramView* p) noexcept nogil:
    cdef Owned owned[_OUTPUTS_MAX + 2 * _DEVICES_MAX]
    cdef const OutputDef* output
    cdef const DeviceDef* device
    cdef uint32_t i, count = 0
    for i in range(p.output_count):
        output = &p.outputs[i]
        if output.path != _PATH_MODBUS:
            continue
        owned[count] = Owned(output.device, output.address, 1, output.unit, output.kind)
        if _meets(p, owned, count, &owned[count]):
            return True
        count += 1
    for i in range(p.device_count):
        device = &p.devices[i]
        if device.flags & _DEVICE_HAS_HEARTBEAT:
            owned[count] = Owned(
                i, device.heartbeat_address, _HEARTBEAT_REGISTERS, device.unit, _KIND_REGISTER
            )
            if _meets(p, owned, count, &owned[count]):
                return True
            count += 1
        if device.flags & _DEVICE_HAS_LEASE:
            owned[count] = Owned(
                i, device.lease_address, _LEASE_REGISTERS, device.unit, _KIND_REGISTER
            )
            if _meets(p, owned, count, &owned[count]):
                return True
            count += 1
    return False
