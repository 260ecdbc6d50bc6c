# cython: boundscheck=False, wraparound=False, cdivision=True
"""Samples by tag and time in memory: what is packed, and what comes out of a body."""

from libc.stdint cimport INT64_MIN
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset


# ---- making ---------------------------------------------------------------------------------------


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


cdef bint table_make_steps(Table* table, uint32_t steps) noexcept nogil:
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
    if ms * _MS_NS > utc_ns and ms > INT64_MIN // _MS_NS:
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


cdef int table_find_steps(const Table* table, size_t most, int64_t** found, size_t* count) noexcept nogil:
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
    if not table_make_steps(table, <uint32_t>_sort_moments(table, moments)):
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
