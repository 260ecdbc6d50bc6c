# cython: boundscheck=False, wraparound=False, cdivision=True
"""Samples -> a body of codec 1. packing.pxd has the format."""

import zlib

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from fastpath.numbers cimport Values, choose_form, put_values
from fastpath.streams cimport (
    _CALM,
    _HEAD,
    _STREAMS,
    Writer,
    put_byte,
    put_bytes,
    put_sequence,
    put_varint,
    sequence_bits,
)
from fastpath.table cimport _MS_NS, Table, table_find_steps
from fastpath.types cimport _Q_GOOD

cdef enum:
    _DEFLATE_BYTES_MIN = 4096  # of a body: below it is not worth the time
    _TRIAL_BYTES = 4096
    _THIN = 16  # times of all tags for each of a tag, beyond which they share none

cdef int _LEVEL = 6
cdef int _MEMORY = 8


cdef struct Plan:  # how a table will be written
    bint shared
    int64_t* step_ns  # where shared
    size_t steps
    int64_t first_ms
    uint64_t* numbers  # room for the longest sequence, twice
    uint64_t* scratch


cdef void _relative(
    const int64_t* times_ns, size_t n, int64_t first_ms, uint64_t* numbers,
) noexcept nogil:
    cdef size_t i
    for i in range(n):
        numbers[i] = <uint64_t>(times_ns[i] // _MS_NS - first_ms)


cdef void _places(
    const int64_t* steps, const int64_t* times, size_t n, uint64_t* numbers,
) noexcept nogil:
    """Which step each time is; all of them are there."""
    cdef size_t i, k = 0
    for i in range(n):
        while steps[k] < times[i]:
            k += 1
        numbers[i] = k
        k += 1


cdef bint _times_of_before(const Table* table, uint32_t tag, uint32_t before) noexcept nogil:
    cdef uint32_t first = table.starts[tag], n = table.starts[tag + 1] - table.starts[tag]
    if n != table.starts[before + 1] - table.starts[before]:
        return False
    return not memcmp(
        table.times_ns + first, table.times_ns + table.starts[before], n * sizeof(int64_t))


cdef bint _sharing_is_less(const Table* table, const Plan* plan) noexcept nogil:
    """Of times that most tags have only some of."""
    cdef size_t shared, own = 0, n
    cdef uint32_t tag, first
    _relative(plan.step_ns, plan.steps, plan.first_ms, plan.numbers)
    shared = sequence_bits(plan.numbers, plan.steps)
    for tag in range(table.tags):
        first = table.starts[tag]
        n = table.starts[tag + 1] - first
        if not n:
            continue
        if n != plan.steps:
            _places(plan.step_ns, table.times_ns + first, n, plan.numbers)
            shared += sequence_bits(plan.numbers, n)
        if tag and _times_of_before(table, tag, tag - 1):
            continue
        _relative(table.times_ns + first, n, plan.first_ms, plan.numbers)
        own += sequence_bits(plan.numbers, n)
    return shared < own


cdef bint _make_plan(const Table* table, Plan* plan) noexcept nogil:
    cdef uint32_t tag, n, longest = 0, present = 0
    cdef int64_t first_ns = INT64_MIN
    cdef int found
    memset(plan, 0, sizeof(Plan))
    for tag in range(table.tags):
        n = table.starts[tag + 1] - table.starts[tag]
        if not n:
            continue
        if not present or table.times_ns[table.starts[tag]] < first_ns:
            first_ns = table.times_ns[table.starts[tag]]
        present += 1
        longest = max(longest, n)
    plan.first_ms = first_ns // _MS_NS
    found = table_find_steps(
        table, <size_t>_THIN * table.samples // max(present, 1), &plan.step_ns, &plan.steps)
    if found < 0:
        return False
    plan.numbers = <uint64_t*>malloc((max(longest, plan.steps) + 1) * sizeof(uint64_t))
    plan.scratch = <uint64_t*>malloc((max(longest, plan.steps) + 1) * sizeof(uint64_t))
    if plan.numbers == NULL or plan.scratch == NULL:
        return False
    if found:
        plan.shared = (
            <size_t>2 * table.samples >= plan.steps * present or _sharing_is_less(table, plan)
        )
    return True


cdef void _free_plan(Plan* plan) noexcept nogil:
    free(plan.step_ns)
    free(plan.numbers)
    free(plan.scratch)


cdef void _put_qualities(Writer* to, const uint8_t* qualities, size_t n) noexcept nogil:
    """Runs of equal ones: length and quality; 0 runs: one by one in the calm stream."""
    cdef size_t i, runs = 1, begin = 0
    for i in range(1, n):
        runs += qualities[i] != qualities[i - 1]
    if 4 * runs > n + 4:
        put_varint(&to[_HEAD], 0)
        put_bytes(&to[_CALM], qualities, n)
        return
    put_varint(&to[_HEAD], runs)
    for i in range(1, n + 1):
        if i == n or qualities[i] != qualities[begin]:
            put_varint(&to[_HEAD], i - begin)
            put_byte(&to[_HEAD], qualities[begin])
            begin = i


cdef bint _are_good(const uint8_t* qualities, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if qualities[i] != _Q_GOOD:
            return False
    return True


cdef bint _put_tag(Writer* to, const Table* table, const Plan* plan, uint32_t tag) noexcept nogil:
    cdef uint32_t first = table.starts[tag]
    cdef size_t n = table.starts[tag + 1] - first
    cdef const int64_t* times = table.times_ns + first
    cdef Values chosen
    cdef bint odd, own
    if not n:
        put_byte(&to[_HEAD], 0)
        return True
    chosen = choose_form(table.values + first, n)
    odd = not _are_good(table.qualities + first, n)
    own = n != plan.steps if plan.shared else not (tag and _times_of_before(table, tag, tag - 1))
    put_byte(&to[_HEAD], <uint8_t>(<int>chosen.form << 2 | <int>odd << 1 | <int>own))
    if own:
        put_varint(&to[_HEAD], n)
        if plan.shared:
            _places(plan.step_ns, times, n, plan.numbers)
        else:
            _relative(times, n, plan.first_ms, plan.numbers)
        if not put_sequence(to, plan.numbers, n, plan.scratch):
            return False
    if odd:
        _put_qualities(to, table.qualities + first, n)
    return put_values(to, &chosen, table.values + first, n, plan.scratch)


cdef bint _put_table(Writer* to, const Table* table, const Plan* plan) noexcept nogil:
    cdef uint32_t tag
    cdef int i
    if plan.shared:
        put_varint(&to[_HEAD], plan.steps)
        _relative(plan.step_ns, plan.steps, plan.first_ms, plan.numbers)
        if not put_sequence(to, plan.numbers, plan.steps, plan.scratch):
            return False
    for tag in range(table.tags):
        if not _put_tag(to, table, plan, tag):
            return False
    for i in range(_STREAMS):
        if to[i].failed:
            return False
    return True


cdef bytes _deflated(bytes raw, int level, int strategy):
    packer = zlib.compressobj(level, zlib.DEFLATED, _RAW_DEFLATE, _MEMORY, strategy)
    return packer.compress(raw) + packer.flush()


cdef bytes _deflate(bytes raw, int stream):
    """Runs alone where nothing else comes again: looking for more in noise takes long."""
    cdef bytes runs, more
    if stream != _HEAD:
        runs = _deflated(raw[:_TRIAL_BYTES], _LEVEL, zlib.Z_RLE)
        more = _deflated(raw[:_TRIAL_BYTES], 1, zlib.Z_DEFAULT_STRATEGY)
        if 8 * len(more) >= 7 * len(runs):
            return runs if len(raw) <= _TRIAL_BYTES else _deflated(raw, _LEVEL, zlib.Z_RLE)
    return _deflated(raw, _LEVEL, zlib.Z_DEFAULT_STRATEGY)


cdef bytes _varint(uint64_t number):
    cdef list found = []
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


cdef bytes _assemble(Writer* streams, const Table* table, const Plan* plan):
    cdef size_t total = 0
    cdef int i, present = 0
    cdef bytes raw, packed
    cdef list line = [b"", b""], data = []
    for i in range(_STREAMS):
        total += streams[i].length
        present |= <int>(streams[i].length > 0) << i
    line[0] = bytes([_MARK | <int>plan.shared]) + _varint(table.samples) + _varint(table.tags)
    line[1] = _varint(<uint64_t>(plan.first_ms + packed_first_ms())) + _varint(present)
    for i in range(_STREAMS):
        if not streams[i].length:
            continue
        raw = PyBytes_FromStringAndSize(<char*>streams[i].at, <Py_ssize_t>streams[i].length)
        packed = _deflate(raw, i) if total >= _DEFLATE_BYTES_MIN else raw
        if len(packed) < len(raw):
            line.append(_varint(len(raw) << 1 | 1) + _varint(len(packed)))
            data.append(packed)
        else:
            line.append(_varint(len(raw) << 1))
            data.append(raw)
    return b"".join(line + data)


cdef bytes pack_table(const Table* table):
    cdef Writer[_STREAMS] streams
    cdef Plan plan
    cdef bint done
    cdef int i
    if table.samples == 0:
        return bytes([_MARK | _SHARED]) + _varint(0) + _varint(table.tags)
    memset(streams, 0, sizeof(streams))
    try:
        with nogil:
            done = _make_plan(table, &plan) and _put_table(streams, table, &plan)
        if not done:
            raise MemoryError
        return _assemble(streams, table, &plan)
    finally:
        _free_plan(&plan)
        for i in range(_STREAMS):
            free(streams[i].at)
