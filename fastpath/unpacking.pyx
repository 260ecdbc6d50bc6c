# cython: boundscheck=False, wraparound=False, cdivision=True
"""A body of codec 1 -> samples. packing.pxd has the format.

The body may be anything: it is read within its bounds and within bounds of memory, and is refused
where one byte does not fit.
"""

import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.numbers cimport _FORM_NONE, get_values
from fastpath.packing cimport (
    _MARK,
    _ODD_QUALITIES,
    _OWN_TIMES,
    _RAW_DEFLATE,
    _SHARED,
    packed_first_ms,
)
from fastpath.streams cimport (
    _CALM,
    _HEAD,
    _SEQUENCE_MAX,
    _STREAMS,
    Reader,
    get_byte,
    get_room,
    get_sequence,
    get_varint,
)
from fastpath.table cimport (
    _ABSENT,
    _MS_NS,
    _TABLE_SAMPLES_MAX,
    Table,
    table_make,
    table_make_steps,
)
from fastpath.types cimport _Q_GOOD

cdef enum:
    _STREAM_BYTES_MAX = 33554432  # of all streams of a body, inflated


cdef bint _get_qualities(Reader* source, uint8_t* qualities, size_t n) noexcept nogil:
    cdef uint64_t runs = get_varint(&source[_HEAD]), length
    cdef const uint8_t* room
    cdef size_t at = 0
    cdef uint8_t quality
    if runs == 0:
        room = get_room(&source[_CALM], n)
        if room == NULL:
            return False
        memcpy(qualities, room, n)
        for at in range(n):
            if qualities[at] == _ABSENT:
                return False
        return True
    while runs and not source[_HEAD].failed:
        runs -= 1
        length = get_varint(&source[_HEAD])
        quality = get_byte(&source[_HEAD])
        if length == 0 or length > n - at or quality == _ABSENT:
            return False
        memset(qualities + at, quality, length)
        at += length
    return at == n


cdef bint _get_steps(Reader* source, Table* table, int64_t first_ms) noexcept nogil:
    """The steps that all tags share; later their places are read."""
    cdef uint64_t steps = get_varint(&source[_HEAD])
    if steps == 0 or steps > table.samples or not table_make_steps(table, <uint32_t>steps):
        return False
    if not get_sequence(source, <uint64_t*>table.step_ns, steps):
        return False
    return _absolute(table.step_ns, steps, first_ms)


cdef bint _absolute(int64_t* times, size_t n, int64_t first_ms) noexcept nogil:
    """Milliseconds from the first -> UTC ns."""
    cdef size_t i
    if times[n - 1] > packed_first_ms() - first_ms:  # they do not decrease
        return False
    for i in range(n):
        times[i] = (first_ms + times[i]) * _MS_NS
    return True


cdef bint _place(Table* table, uint32_t first, size_t n) noexcept nogil:
    """Places of steps -> UTC ns; each step at most once."""
    cdef size_t i
    cdef int64_t* places = table.times_ns + first
    if places[n - 1] >= table.steps:
        return False
    for i in range(n):
        if i and table.step_of[first + i - 1] == <uint32_t>places[i]:
            return False
        table.step_of[first + i] = <uint32_t>places[i]
        places[i] = table.step_ns[places[i]]
    return True


cdef uint64_t _get_times(
    Reader* source, Table* table, uint32_t first, uint32_t before, bint own, int64_t first_ms,
) noexcept nogil:
    """How many there are; 0: nonsense. ``before``: where those of the tag before begin."""
    cdef uint64_t n, i
    cdef bint shared = table.steps > 0
    if own:
        n = get_varint(&source[_HEAD])
    else:
        n = table.steps if shared else first - before
    if n == 0 or n > table.samples - first:
        return 0
    if not own and not shared:
        memcpy(table.times_ns + first, table.times_ns + before, n * sizeof(int64_t))
        return n
    if not own:
        memcpy(table.times_ns + first, table.step_ns, n * sizeof(int64_t))
        for i in range(n):
            table.step_of[first + i] = <uint32_t>i
        return n
    if not get_sequence(source, <uint64_t*>table.times_ns + first, n):
        return 0
    if shared:
        return n if _place(table, first, n) else 0
    return n if _absolute(table.times_ns + first, n, first_ms) else 0


cdef bint _get_table(Reader* source, Table* table, bint shared, int64_t first_ms) noexcept nogil:
    cdef uint32_t tag, first = 0, before = 0
    cdef uint64_t n
    cdef uint8_t said
    cdef int i
    if shared and not _get_steps(source, table, first_ms):
        return False
    for tag in range(table.tags):
        table.starts[tag] = first
        said = get_byte(&source[_HEAD])
        if said >> 2 == _FORM_NONE:
            if said or source[_HEAD].failed:
                return False
            continue
        n = _get_times(source, table, first, before, said & _OWN_TIMES, first_ms)
        if n == 0:
            return False
        memset(table.qualities + first, _Q_GOOD, n)
        if said & _ODD_QUALITIES and not _get_qualities(source, table.qualities + first, n):
            return False
        if not get_values(source, said >> 2, table.values + first, n):
            return False
        before = first
        first += <uint32_t>n
    table.starts[table.tags] = first
    for i in range(_STREAMS):
        if source[i].failed or source[i].left:
            return False
    return first == table.samples


cdef bytes _inflated(const uint8_t* at, Py_ssize_t size, Py_ssize_t length):
    """Exactly ``length`` bytes. Raises ValueError."""
    cdef bytes raw
    unpacker = zlib.decompressobj(_RAW_DEFLATE)
    try:
        raw = unpacker.decompress(
            PyBytes_FromStringAndSize(<const char*>at, size), length + 1)
    except zlib.error as error:
        raise ValueError(f"a stream is damaged: {error}") from None
    if len(raw) != length or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"a stream of {length} bytes is damaged")
    return raw


cdef list _streams(Reader* line, int present, Reader* streams):
    """Point ``streams`` at their bytes, which the list that is returned keeps alive."""
    cdef uint64_t[_STREAMS] lengths
    cdef uint64_t[_STREAMS] packed
    cdef uint64_t total = 0
    cdef const uint8_t* at
    cdef bytes raw
    cdef list kept = []
    cdef int i
    memset(lengths, 0, sizeof(lengths))
    memset(packed, 0, sizeof(packed))
    for i in range(_STREAMS):
        if present >> i & 1:
            lengths[i] = get_varint(line)
            packed[i] = get_varint(line) if lengths[i] & 1 else lengths[i] >> 1
            if lengths[i] >> 1 > _STREAM_BYTES_MAX - total:
                raise ValueError("streams too large")
            total += lengths[i] >> 1
    for i in range(_STREAMS):
        at = get_room(line, packed[i])
        if at == NULL:
            raise ValueError("too short")
        streams[i].left = lengths[i] >> 1
        streams[i].at = at
        if lengths[i] & 1:
            raw = _inflated(at, <Py_ssize_t>packed[i], <Py_ssize_t>streams[i].left)
            kept.append(raw)
            streams[i].at = <const uint8_t*>PyBytes_AS_STRING(raw)
    if line.left:
        raise ValueError("bytes beyond the end")
    return kept


cdef int unpack_table(Table* table, bytes body, uint32_t tags) except -1:
    cdef Reader line
    cdef Reader[_STREAMS] streams
    cdef uint64_t samples, own_tags, first_ms, present
    cdef uint8_t mark
    cdef bint done
    cdef list kept
    line.at = <const uint8_t*>PyBytes_AS_STRING(body)
    line.left = len(body)
    line.failed = False
    mark = get_byte(&line)
    samples = get_varint(&line)
    own_tags = get_varint(&line)
    if line.failed or mark & ~_SHARED != _MARK or own_tags != tags:
        raise ValueError(f"{len(body)} bytes are no packed columns of {tags} tags")
    if samples > _TABLE_SAMPLES_MAX:
        raise ValueError(f"{samples} samples are too many for a body")
    if samples == 0:
        if line.left or mark != _MARK | _SHARED:
            raise ValueError("bytes beyond the end")
        if not table_make(table, tags, 0):
            raise MemoryError
        return 0
    first_ms = get_varint(&line)
    present = get_varint(&line)
    if line.failed or first_ms > <uint64_t>_SEQUENCE_MAX or present >> _STREAMS:
        raise ValueError("no packed columns")
    memset(streams, 0, sizeof(streams))
    kept = _streams(&line, <int>present, streams)
    if not table_make(table, tags, <uint32_t>samples):
        raise MemoryError
    with nogil:
        done = _get_table(
            streams, table, mark & _SHARED, <int64_t>first_ms - packed_first_ms())
    del kept
    if not done:
        raise ValueError(f"{len(body)} bytes are not {samples} samples of {tags} tags")
    return 0
