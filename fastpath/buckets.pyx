# cython: boundscheck=False, wraparound=False, cdivision=True
"""What remains of a tag's samples in each bucket of time: the tier behind the raw samples.

Of samples that are not BAD and have a finite value: least, mean, greatest, last and how many; of
all samples the worst quality. Everything stands at the begin of its bucket, but the last at its own
time, so that buckets that were made in parts can be joined.
"""

from libc.math cimport NAN, isfinite
from libc.stdint cimport INT64_MIN, uint8_t, uint32_t

from fastpath.table cimport Table, table_make, whole_ms
from fastpath.types cimport _Q_BAD

cdef enum:
    _QUALITY_BITS = 3


cdef struct Bucket:
    int64_t begin_ns
    int64_t last_ns
    double least
    double greatest
    double last
    double total
    uint32_t count
    uint8_t quality


cdef inline int64_t _begin(int64_t utc_ns, int64_t span_ns) noexcept nogil:
    cdef int64_t begin = utc_ns // span_ns * span_ns
    if begin > utc_ns and begin >= INT64_MIN + span_ns:
        begin -= span_ns
    return begin


cdef uint32_t _gather(
    const Table* raw, uint32_t first, uint32_t end, int64_t span_ns, Bucket* bucket,
) noexcept nogil:
    """The bucket of the sample ``first``; gives the first sample behind it."""
    cdef uint32_t i = first
    cdef double value
    bucket.begin_ns = bucket.last_ns = _begin(raw.times_ns[first], span_ns)
    bucket.least = bucket.greatest = bucket.last = NAN
    bucket.total = 0.0
    bucket.count = 0
    bucket.quality = raw.qualities[first]
    while i < end and _begin(raw.times_ns[i], span_ns) == bucket.begin_ns:
        if raw.qualities[i] & _QUALITY_BITS < bucket.quality & _QUALITY_BITS:
            bucket.quality = raw.qualities[i]
        value = raw.values[i]
        if raw.qualities[i] & _QUALITY_BITS != _Q_BAD and isfinite(value):
            if bucket.count == 0 or value < bucket.least:
                bucket.least = value
            if bucket.count == 0 or value > bucket.greatest:
                bucket.greatest = value
            bucket.last = value
            bucket.last_ns = whole_ms(raw.times_ns[i])
            bucket.total += value
            bucket.count += 1
        i += 1
    return i


cdef inline double _mean(const Bucket* bucket) noexcept nogil:
    """To the seven digits of a float32: more would cost as much as all the rest."""
    cdef double mean
    if bucket.count == 0:
        return NAN
    if bucket.least == bucket.greatest:
        return bucket.least
    mean = bucket.total / bucket.count
    return <double><float>mean if isfinite(<double><float>mean) else mean


cdef inline void _put(
    Table* found, uint32_t at, int64_t utc_ns, double value, uint8_t quality,
) noexcept nogil:
    found.times_ns[at] = utc_ns
    found.values[at] = value
    found.qualities[at] = quality


cdef uint32_t count_buckets(const Table* raw, int64_t span_ns) noexcept nogil:
    cdef uint32_t tag, i, total = 0
    for tag in range(raw.tags):
        for i in range(raw.starts[tag], raw.starts[tag + 1]):
            total += i == raw.starts[tag] or (
                _begin(raw.times_ns[i], span_ns) != _begin(raw.times_ns[i - 1], span_ns))
    return total


cdef bint table_summarize(const Table* raw, int64_t span_ns, Table* found) noexcept nogil:
    cdef uint32_t tag, i, count, total, at = 0
    cdef Bucket bucket
    if not table_make(found, _FIELDS * raw.tags, _FIELDS * count_buckets(raw, span_ns)):
        return False
    for tag in range(raw.tags):
        count = 0
        i = raw.starts[tag]
        while i < raw.starts[tag + 1]:
            i = _gather(raw, i, raw.starts[tag + 1], span_ns, &bucket)
            count += 1
        i = raw.starts[tag]
        total = 0
        while i < raw.starts[tag + 1]:
            i = _gather(raw, i, raw.starts[tag + 1], span_ns, &bucket)
            _put(found, at + _FIELD_MINIMUM * count + total, bucket.begin_ns, bucket.least,
                 bucket.quality)
            _put(found, at + _FIELD_MEAN * count + total, bucket.begin_ns, _mean(&bucket),
                 bucket.quality)
            _put(found, at + _FIELD_MAXIMUM * count + total, bucket.begin_ns, bucket.greatest,
                 bucket.quality)
            _put(found, at + _FIELD_LAST * count + total, bucket.last_ns, bucket.last,
                 bucket.quality)
            _put(found, at + _FIELD_COUNT * count + total, bucket.begin_ns, bucket.count,
                 bucket.quality)
            total += 1
        for i in range(<uint32_t>_FIELDS):
            found.starts[_FIELDS * tag + i] = at + i * count
        at += _FIELDS * count
    found.starts[_FIELDS * raw.tags] = at
    return True
