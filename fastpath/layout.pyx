# cython: boundscheck=False, wraparound=False, cdivision=True
"""Where everything in a program blob lies: typed pointers into it, and rules 1 and 2.

A blob is one flat run of sections; ``blob.py`` lays it out, this reads it back for C.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.types cimport *

cdef enum:
    _HEADER_BYTES = 256
    _FORMAT = 1
    _SECTIONS = 14
    _SECTIONS_AT = 76
    _ALIGNMENT = 64

cdef struct Header:  # the first 76 bytes
    uint8_t magic[8]
    uint32_t format
    uint32_t total_bytes
    uint8_t hash[32]
    uint64_t site_key
    int64_t tick_ns
    int64_t start_within_ns
    uint8_t on_overrun
    uint8_t on_stop
    uint8_t on_output_failure
    uint8_t section_count

cdef uint32_t[_SECTIONS] _record_bytes
cdef uint32_t[_SECTIONS] _count_max
_record_bytes[:] = [
    sizeof(TagDef), sizeof(InstructionDef), sizeof(NodeDef), sizeof(WindowDef),
    sizeof(InterlockDef), sizeof(EffectDef), sizeof(LegDef), sizeof(OutputDef),
    sizeof(FallbackDef), sizeof(GroupDef), sizeof(DeviceDef), sizeof(RequestDef),
    sizeof(DecodeDef), 1,
]
_count_max[:] = [
    _TAGS_MAX, _CODE_MAX, _NODES_MAX, _WINDOWS_MAX, _INTERLOCKS_MAX, _EFFECTS_MAX, _LEGS_MAX,
    _OUTPUTS_MAX, _FALLBACKS_MAX, _GROUPS_MAX, _DEVICES_MAX, _REQUESTS_MAX, _DECODE_MAX,
    _BLOB_BYTES_MAX,
]

RECORD_BYTES = tuple(_record_bytes)


cdef inline void _section(const uint8_t* blob, int number, SectionEntry* out) noexcept nogil:
    memcpy(out, blob + _SECTIONS_AT + number * sizeof(SectionEntry), sizeof(SectionEntry))


cdef int program_open(const uint8_t* blob, size_t size, ProgramView* view) noexcept nogil:
    cdef int rule = layout_rule(blob, size)
    memset(view, 0, sizeof(ProgramView))
    if rule != 0:
        return 0
    _open_header(blob, view)
    _open_sections(blob, view)
    return 1


cdef int layout_rule(const uint8_t* blob, size_t size) noexcept nogil:
    if _rule_1_size(blob, size):
        return 1
    return 2 if _rule_2_sections(blob, size) else 0


cdef void _open_header(const uint8_t* blob, ProgramView* view) noexcept nogil:
    cdef const Header* header = <const Header*>blob
    memcpy(view.hash, header.hash, 32)
    view.site_key = header.site_key
    view.tick_ns = header.tick_ns
    view.start_within_ns = header.start_within_ns
    view.on_overrun = header.on_overrun
    view.on_stop = header.on_stop
    view.on_output_failure = header.on_output_failure


cdef void _open_sections(const uint8_t* blob, ProgramView* view) noexcept nogil:
    cdef const uint8_t* at[_SECTIONS]
    cdef uint32_t count[_SECTIONS]
    cdef SectionEntry entry
    cdef int i
    for i in range(_SECTIONS):
        _section(blob, i, &entry)
        at[i] = blob + entry.offset
        count[i] = entry.count
    view.tags, view.tag_count = <const TagDef*>at[0], count[0]
    view.code, view.code_count = <const InstructionDef*>at[1], count[1]
    view.nodes, view.node_count = <const NodeDef*>at[2], count[2]
    view.windows, view.window_count = <const WindowDef*>at[3], count[3]
    view.interlocks, view.interlock_count = <const InterlockDef*>at[4], count[4]
    view.effects, view.effect_count = <const EffectDef*>at[5], count[5]
    view.legs, view.leg_count = <const LegDef*>at[6], count[6]
    view.outputs, view.output_count = <const OutputDef*>at[7], count[7]
    view.fallbacks, view.fallback_count = <const FallbackDef*>at[8], count[8]
    view.groups, view.group_count = <const GroupDef*>at[9], count[9]
    view.devices, view.device_count = <const DeviceDef*>at[10], count[10]
    view.requests, view.request_count = <const RequestDef*>at[11], count[11]
    view.decode, view.decode_count = <const DecodeDef*>at[12], count[12]
    view.names, view.names_bytes = at[13], count[13]


cdef bint _zero(const uint8_t* at, size_t count) noexcept nogil:
    cdef size_t i
    for i in range(count):
        if at[i]:
            return False
    return True


cdef bint _rule_1_size(const uint8_t* blob, size_t size) noexcept nogil:
    """Size, magic, format and the header's choices. (The hash: ``program.verify``.)"""
    cdef const Header* header = <const Header*>blob
    if blob == NULL or <size_t>blob & 7:
        return True
    if size < _HEADER_BYTES or size > _BLOB_BYTES_MAX or size & (_ALIGNMENT - 1):
        return True
    if memcmp(header.magic, b"SWPROG01", 8) != 0 or header.format != _FORMAT:
        return True
    if header.total_bytes != size or header.section_count != _SECTIONS:
        return True
    return not (
        1 <= header.on_overrun <= 2 and 1 <= header.on_stop <= 2
        and 1 <= header.on_output_failure <= 2
    )


cdef bint _rule_2_sections(const uint8_t* blob, size_t size) noexcept nogil:
    """Sections in order, gap-free, aligned, within their limits, padding zero."""
    cdef size_t table_end = _SECTIONS_AT + _SECTIONS * sizeof(SectionEntry)
    cdef size_t at = _HEADER_BYTES
    cdef size_t end
    cdef SectionEntry entry
    cdef int i
    if not _zero(blob + table_end, _HEADER_BYTES - table_end):
        return True
    for i in range(_SECTIONS):
        _section(blob, i, &entry)
        if entry.id != i + 1 or entry.record_bytes != _record_bytes[i]:
            return True
        if entry.offset != at or entry.count > _count_max[i]:
            return True
        end = at + <size_t>entry.count * _record_bytes[i]
        at = (end + _ALIGNMENT - 1) & ~<size_t>(_ALIGNMENT - 1)
        if at > size or not _zero(blob + end, at - end):
            return True
    return at != size


cdef bint records_padded(const ProgramView* p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.tag_count):
        if not _zero(p.tags[i].pad, sizeof(p.tags[i].pad)):
            return False
    for i in range(p.node_count):
        if not _zero(p.nodes[i].pad, sizeof(p.nodes[i].pad)):
            return False
    for i in range(p.window_count):
        if p.windows[i].pad0:
            return False
    for i in range(p.interlock_count):
        if not _zero(p.interlocks[i].pad, sizeof(p.interlocks[i].pad)):
            return False
    for i in range(p.leg_count):
        if p.legs[i].pad0 or not _zero(p.legs[i].pad, sizeof(p.legs[i].pad)):
            return False
    for i in range(p.output_count):
        if not _zero(p.outputs[i].pad, sizeof(p.outputs[i].pad)):
            return False
    for i in range(p.group_count):
        if p.groups[i].pad:
            return False
    for i in range(p.device_count):
        if not _zero(p.devices[i].pad0, sizeof(p.devices[i].pad0)):
            return False
        if not _zero(p.devices[i].pad, sizeof(p.devices[i].pad)):
            return False
    for i in range(p.request_count):
        if p.requests[i].pad0 or not _zero(p.requests[i].pad, sizeof(p.requests[i].pad)):
            return False
    for i in range(p.decode_count):
        if not _zero(p.decode[i].pad, sizeof(p.decode[i].pad)):
            return False
    return True


cdef int op_result(int op) noexcept nogil:
    if _OP_CONST <= op <= _OP_WINDOW:
        return _REG_NUMBER
    if _OP_FALSE <= op <= _OP_IS_GOOD:
        return _REG_TRUTH
    return _REG_COUNT if op == _OP_VOTE or op == _OP_VOTE_TRIP else 0
