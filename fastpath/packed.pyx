# cython: boundscheck=False, wraparound=False, cdivision=True
"""Codec 1: the samples of one poll group in a body, and back.

A body is a head line (plain), then streams, each deflated where that makes it smaller:

    0x10 | shared   samples   tags   first ms   streams present (a bit each)
    of each present: length << 1 | deflated, and if so its length in the body

    stream 0 says of the times, where they are shared: how many, their sequence; then of each tag
    form << 2 | odd qualities << 1 | times of its own, where those bits are set the times
    (shared: how many, and the sequence of their places) and the qualities, then the values.

Shared times suit polls: one time column, of which every tag has all or some. Where each tag has
times of its own they stand with the tag. All numbers are varints.
"""

import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset

from fastpath.numbers cimport _FORM_NONE, Values, choose_form, get_values, put_values
from fastpath.streams cimport (
    _CALM,
    _HEAD,
    _SEQUENCE_MAX,
    _STREAMS,
    Reader,
    Writer,
    get_byte,
    get_room,
    get_sequence,
    get_varint,
    put_byte,
    put_bytes,
    put_sequence,
    put_varint,
    sequence_bits,
)
from fastpath.types cimport _Q_GOOD

cdef enum:
    _MARK = 0x10
    _SHARED = 0x01
    _STREAM_BYTES_MAX = 16777216
    _DEFLATE_BYTES_MIN = 4096  # of a body: below it is not worth the time
    _TRIAL_BYTES = 4096
    _THIN = 16  # times of all tags for each of a tag, beyond which they share none

cdef enum:  # what the byte of a tag says beside its form
    _OWN_TIMES = 1
    _ODD_QUALITIES = 2

cdef int64_t _FIRST_MS = 9223372036854  # added to a time in ms, that it is not negative
cdef int _LEVEL = 6
cdef int _RAW_DEFLATE = -15


# ---- tables --------------------------------------------------------------------------------------


cdef bint table_make(Table* table, uint32_t tags, uint32_t samples) noexcept nogil:
    memset(table, 0, sizeof(Table))
    table.tags = tags
    table.samples = samples
    table.starts = <uint32_t*>calloc(<size_t>tags + 1, sizeof(uint32_t))
    table.times_ns = <int64_t*>malloc((<size_t>samples + 1) * sizeof(int64_t))
    table.values = <double*>malloc((<size_t>samples + 1) * sizeof(double))
    table.qualities = <uint8_t*>malloc(<size_t>samples + 1)
    return not (
        table.starts == NULL or table.times_ns == NULL
        or table.values == NULL or table.qualities == NULL
    )


cdef bint _make_steps(Table* table, uint32_t steps) noexcept nogil:
    table.steps = steps
    table.step_ns = <int64_t*>malloc((<size_t>steps + 1) * sizeof(int64_t))
    table.step_of = <uint32_t*>malloc((<size_t>table.samples + 1) * sizeof(uint32_t))
    return table.step_ns != NULL and table.step_of != NULL


cdef void table_free(Table* table) noexcept nogil:
    free(table.starts)
    free(table.times_ns)
    free(table.values)
    free(table.qualities)
    free(table.step_ns)
    free(table.step_of)
    memset(table, 0, sizeof(Table))


cdef int64_t whole_ms(int64_t utc_ns) noexcept nogil:
    cdef int64_t ms = utc_ns // _MS_NS
    if ms * _MS_NS > utc_ns and ms > -_FIRST_MS:
        ms -= 1
    return ms * _MS_NS


cdef struct Sample:
    int64_t utc_ns
    double value
    uint32_t order
    uint8_t quality


cdef int _earlier(const void* a, const void* b) noexcept nogil:
    cdef const Sample* x = <const Sample*>a
    cdef const Sample* y = <const Sample*>b
    if x.utc_ns != y.utc_ns:
        return -1 if x.utc_ns < y.utc_ns else 1
    return -1 if x.order < y.order else 1


cdef bint _sort_tag(Table* table, uint32_t first, uint32_t end) noexcept nogil:
    cdef Sample* samples = <Sample*>malloc((<size_t>end - first) * sizeof(Sample))
    cdef uint32_t i
    if samples == NULL:
        return False
    for i in range(first, end):
        samples[i - first].utc_ns = table.times_ns[i]
        samples[i - first].value = table.values[i]
        samples[i - first].quality = table.qualities[i]
        samples[i - first].order = i
    qsort(samples, end - first, sizeof(Sample), _earlier)
    for i in range(first, end):
        table.times_ns[i] = samples[i - first].utc_ns
        table.values[i] = samples[i - first].value
        table.qualities[i] = samples[i - first].quality
    free(samples)
    return True


cdef bint table_sort(Table* table) noexcept nogil:
    cdef uint32_t tag, i
    for tag in range(table.tags):
        for i in range(table.starts[tag] + 1, table.starts[tag + 1]):
            if table.times_ns[i] < table.times_ns[i - 1]:
                if not _sort_tag(table, table.starts[tag], table.starts[tag + 1]):
                    return False
                break
    return True


# ---- steps ---------------------------------------------------------------------------------------


cdef size_t _missing(
    const int64_t* steps, size_t count, const int64_t* times, size_t n,
) noexcept nogil:
    """How many of a tag's times the steps do not have."""
    cdef size_t i = 0, k = 0, missing = 0
    while i < n:
        while k < count and steps[k] < times[i]:
            k += 1
        if k < count and steps[k] == times[i]:
            k += 1
        else:
            missing += 1
        i += 1
    return missing


cdef void _join(
    const int64_t* steps, size_t count, const int64_t* times, size_t n, int64_t* joined,
) noexcept nogil:
    """Both in one, a time that both have once for each."""
    cdef size_t i = 0, k = 0, to = 0
    while i < n or k < count:
        if i < n and k < count and steps[k] == times[i]:
            i += 1
            k += 1
            joined[to] = steps[k - 1]
        elif k < count and (i >= n or steps[k] < times[i]):
            k += 1
            joined[to] = steps[k - 1]
        else:
            i += 1
            joined[to] = times[i - 1]
        to += 1


cdef int _find_steps(const Table* table, size_t most, int64_t** found, size_t* count) noexcept nogil:
    """1: found, to be freed; 0: they are more than ``most``; -1: no memory."""
    cdef int64_t* steps = NULL
    cdef int64_t* joined
    cdef size_t have = 0, missing, n
    cdef uint32_t tag
    for tag in range(table.tags):
        n = table.starts[tag + 1] - table.starts[tag]
        missing = _missing(steps, have, table.times_ns + table.starts[tag], n)
        if not missing:
            continue
        if have + missing > most:
            free(steps)
            return 0
        joined = <int64_t*>malloc((have + missing) * sizeof(int64_t))
        if joined == NULL:
            free(steps)
            return -1
        _join(steps, have, table.times_ns + table.starts[tag], n, joined)
        free(steps)
        steps = joined
        have += missing
    found[0] = steps
    count[0] = have
    return 1


cdef void _place_steps(
    const int64_t* steps, const int64_t* times, size_t n, uint32_t* step_of,
) noexcept nogil:
    """Which step each time is; all of them are there."""
    cdef size_t i
    cdef uint32_t k = 0
    for i in range(n):
        while steps[k] < times[i]:
            k += 1
        step_of[i] = k
        k += 1


cdef struct Moment:  # a time of a tag; ``again``: how often it had that time before
    int64_t utc_ns
    uint32_t again


cdef int _sooner(const void* a, const void* b) noexcept nogil:
    cdef const Moment* x = <const Moment*>a
    cdef const Moment* y = <const Moment*>b
    if x.utc_ns != y.utc_ns:
        return -1 if x.utc_ns < y.utc_ns else 1
    return (x.again > y.again) - (x.again < y.again)


cdef size_t _sort_moments(const Table* table, Moment* moments) noexcept nogil:
    """Of all samples, each moment once; gives how many."""
    cdef uint32_t tag, i
    cdef size_t kept = 0
    for tag in range(table.tags):
        for i in range(table.starts[tag], table.starts[tag + 1]):
            moments[i].utc_ns = table.times_ns[i]
            moments[i].again = 0
            if i > table.starts[tag] and table.times_ns[i] == table.times_ns[i - 1]:
                moments[i].again = moments[i - 1].again + 1
    qsort(moments, table.samples, sizeof(Moment), _sooner)
    for i in range(table.samples):
        if not kept or _sooner(&moments[i], &moments[kept - 1]):
            moments[kept] = moments[i]
            kept += 1
    return kept


cdef bint table_align(Table* table) noexcept nogil:
    cdef Moment* moments
    cdef uint32_t tag, i, first
    if table.steps or not table.samples:
        return True
    moments = <Moment*>malloc(table.samples * sizeof(Moment))
    if moments == NULL:
        return False
    if not _make_steps(table, <uint32_t>_sort_moments(table, moments)):
        table.steps = 0
        free(moments)
        return False
    for i in range(table.steps):
        table.step_ns[i] = moments[i].utc_ns
    free(moments)
    for tag in range(table.tags):
        first = table.starts[tag]
        _place_steps(
            table.step_ns, table.times_ns + first, table.starts[tag + 1] - first,
            table.step_of + first)
    return True


# ---- writing -------------------------------------------------------------------------------------


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
    found = _find_steps(
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


cdef bytes _deflated(bytes raw, int strategy):
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, 8, strategy)
    return packer.compress(raw) + packer.flush()


cdef bytes _deflate(bytes raw, int stream):
    """Noise has nothing that comes again, and looking for it takes long; mostly."""
    cdef bytes begin
    cdef int strategy = zlib.Z_DEFAULT_STRATEGY
    if stream > _CALM:
        begin = raw[:_TRIAL_BYTES]
        if 8 * len(_deflated(begin, strategy)) > 7 * len(_deflated(begin, zlib.Z_HUFFMAN_ONLY)):
            strategy = zlib.Z_HUFFMAN_ONLY
    return _deflated(raw, strategy)


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
    line[1] = _varint(<uint64_t>(plan.first_ms + _FIRST_MS)) + _varint(present)
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


# ---- reading -------------------------------------------------------------------------------------


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
    if steps == 0 or steps > table.samples or not _make_steps(table, <uint32_t>steps):
        return False
    if not get_sequence(source, <uint64_t*>table.step_ns, steps):
        return False
    return _absolute(table.step_ns, steps, first_ms)


cdef bint _absolute(int64_t* times, size_t n, int64_t first_ms) noexcept nogil:
    """Milliseconds from the first -> UTC ns."""
    cdef size_t i
    if times[n - 1] > _FIRST_MS - first_ms:  # they do not decrease
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
            streams, table, mark & _SHARED, <int64_t>first_ms - _FIRST_MS)
    del kept
    if not done:
        raise ValueError(f"{len(body)} bytes are not {samples} samples of {tags} tags")
    return 0
