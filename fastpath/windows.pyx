# cython: boundscheck=False, wraparound=False, cdivision=True
"""Windows over a tag's samples: 64 buckets of a 64th of the span, in fixed memory.

A good value counts from its sample to the next one, or until it is stale. What is past stands in
the buckets, each of them changed when a sample arrives; what the newest value holds is added when
a scan looks. So nothing depends on when scans came. Sums run from the oldest bucket to the newest,
then what is held: nothing is ever subtracted, and a value too large to add leaves no trace once its
bucket has left the window.

The guard's windows live in guard.shm. A lock that is odd there means that its writer was killed in
between: that window begins empty.
"""

from libc.math cimport INFINITY, NAN, isfinite, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.types cimport *

cdef extern from "atomics.h" nogil:
    void sw_store_relaxed(uint64_t* at, uint64_t value)
    void sw_store_release(uint64_t* at, uint64_t value)
    void sw_fence_release()

cdef enum:
    _BUCKETS = 64

cdef int64_t _NO_BUCKET = -(<int64_t>1 << 62)  # before every number there is
cdef int64_t _SECOND_NS = 1_000_000_000


cdef inline int64_t _number(int64_t at_ns, int64_t width_ns) noexcept nogil:
    """The bucket that a time falls into; times before the boot are negative."""
    cdef int64_t number = at_ns // width_ns
    return number - 1 if at_ns % width_ns < 0 else number


cdef inline int64_t _width(const WindowDef* d) noexcept nogil:
    return max(d.span_ns // _BUCKETS, <int64_t>1)


cdef inline void _clear(WindowBucket* b, uint32_t kind) noexcept nogil:
    b.value = 0.0
    if kind == _WINDOW_LOWEST:
        b.value = INFINITY
    elif kind == _WINDOW_HIGHEST:
        b.value = -INFINITY
    b.first = NAN
    b.covered_ns = 0


cdef void window_begin(WindowState* w, const WindowDef* d) noexcept nogil:
    cdef int i
    memset(w, 0, sizeof(WindowState))
    w.key = d.key
    w.span_ns = d.span_ns
    w.head = <uint64_t>_NO_BUCKET
    for i in range(_BUCKETS):
        _clear(&w.bucket[i], d.kind)


cdef void windows_list(WindowBank* bank) noexcept nogil:
    cdef uint32_t i, slot
    memset(bank.first, 0xFF, bank.program.tag_count * sizeof(uint32_t))
    for i in range(bank.program.window_count):
        slot = bank.program.windows[i].slot
        bank.runs[i].summed = 0
        bank.runs[i].next = bank.first[slot]
        bank.first[slot] = i


cdef uint32_t windows_recover(WindowBank* bank, int64_t now_ns) noexcept nogil:
    cdef WindowState* w
    cdef const WindowDef* d
    cdef uint32_t i, lost = 0
    for i in range(bank.program.window_count):
        w = &bank.states[i]
        d = &bank.program.windows[i]
        if (
            not w.lock & 1 and w.key == d.key and w.span_ns == d.span_ns
            and w.last_ns <= now_ns and w.key != 0
        ):
            # Nobody read the tag since: the value was held until its last sample.
            w.flags &= ~<uint32_t>WINDOW_HELD
            continue
        if w.key != 0 or w.lock != 0:
            lost += 1
        window_begin(w, d)
    return lost


# ---- samples ---------------------------------------------------------------------------------


cdef inline WindowBucket* _bucket(WindowState* w, uint32_t kind, int64_t number) noexcept nogil:
    """The bucket of this number, made the newest; those that were passed over are empty."""
    cdef int64_t head = <int64_t>w.head
    cdef int64_t k
    if number > head:
        for k in range(max(head + 1, number - _BUCKETS + 1), number + 1):
            _clear(&w.bucket[k & (_BUCKETS - 1)], kind)
        w.head = <uint64_t>number
    return &w.bucket[number & (_BUCKETS - 1)]


cdef inline void _count(WindowBucket* b, uint32_t kind, double value) noexcept nogil:
    """A value that stood somewhere in this bucket."""
    if kind == _WINDOW_LOWEST:
        b.value = min(b.value, value)
    elif kind == _WINDOW_HIGHEST:
        b.value = max(b.value, value)
    elif isnan(b.first):
        b.first = value


cdef inline int64_t _held_until(
    const WindowState* w, int64_t stale_after_ns, int64_t until_ns,
) noexcept nogil:
    if stale_after_ns > 0 and until_ns - w.last_ns > stale_after_ns:
        return w.last_ns + stale_after_ns
    return until_ns


cdef void _cover(
    WindowState* w, const WindowDef* d, int64_t stale_after_ns, int64_t until_ns,
) noexcept nogil:
    """Put what the last value held until ``until_ns`` into the buckets."""
    cdef int64_t width = _width(d)
    cdef int64_t end = _held_until(w, stale_after_ns, until_ns)
    cdef int64_t at = max(w.last_ns, (_number(until_ns, width) - _BUCKETS + 1) * width)
    cdef int64_t number, edge
    cdef WindowBucket* b
    cdef int _turn
    for _turn in range(_BUCKETS):
        if at >= end:
            return
        number = _number(at, width)
        edge = min((number + 1) * width, end)
        b = _bucket(w, d.kind, number)
        b.covered_ns += <uint64_t>(edge - at)
        if d.kind == _WINDOW_MEAN:
            b.value += w.last_value * <double>(edge - at)
        else:
            _count(b, d.kind, w.last_value)
        at = edge


cdef double _increment(const TagDef* tag, double before, double after) noexcept nogil:
    """What a counter counted from one sample to the next; never negative.

    A step back is a wrap where the tag has a range and the step goes from its upper quarter to its
    lower one; else the counter began anew.
    """
    cdef double low = 0.0
    cdef double quarter
    if after >= before:
        return after - before
    if tag.flags & _TAG_HAS_RANGE:
        low = tag.low
        quarter = tag.high / 4.0 - tag.low / 4.0
        if before >= tag.high - quarter and after <= tag.low + quarter:
            return max((tag.high - before) + (after - tag.low), 0.0)
    return max(after - low, 0.0)


cdef void _take(
    WindowState* w, const WindowDef* d, const TagDef* tag, double value, bint good, int64_t at_ns,
) noexcept nogil:
    cdef WindowBucket* b
    if w.flags & WINDOW_KNOWN:
        at_ns = max(at_ns, w.last_ns)
    if w.flags & WINDOW_HELD:
        _cover(w, d, tag.stale_after_ns, at_ns)
    w.last_ns = at_ns
    if not good:
        w.flags &= ~<uint32_t>WINDOW_HELD
        return
    b = _bucket(w, d.kind, _number(at_ns, _width(d)))
    if d.kind == _WINDOW_DELTA:
        if w.flags & WINDOW_KNOWN:
            b.value += _increment(tag, w.last_value, value)
    elif d.kind == _WINDOW_TOTAL:
        b.value += value
    elif d.kind != _WINDOW_MEAN:
        _count(b, d.kind, value)
    w.last_value = value
    w.flags = WINDOW_KNOWN | WINDOW_HELD


cdef void window_take(
    WindowBank* bank, uint32_t index, double value, uint8_t quality, int64_t mono_ns,
) noexcept nogil:
    cdef WindowState* w = &bank.states[index]
    cdef const WindowDef* d = &bank.program.windows[index]
    cdef const TagDef* tag = &bank.program.tags[d.slot]
    cdef uint64_t lock = w.lock | 1
    cdef bint good = isfinite(value) and (
        quality == _Q_GOOD or (quality == _Q_UNCERTAIN and tag.flags & _TAG_UNCERTAIN_USE != 0))
    sw_store_relaxed(&w.lock, lock)
    sw_fence_release()
    _take(w, d, tag, value, good, mono_ns)
    sw_store_release(&w.lock, lock + 1)


cdef void windows_take(
    WindowBank* bank, uint32_t slot, double value, uint8_t quality, int64_t mono_ns,
) noexcept nogil:
    cdef uint32_t index = bank.first[slot]
    while index < bank.program.window_count:
        window_take(bank, index, value, quality, mono_ns)
        index = bank.runs[index].next


cdef void windows_touch(WindowBank* bank, uint32_t slot, int64_t mono_ns) noexcept nogil:
    cdef uint32_t index = bank.first[slot]
    cdef WindowState* w
    cdef uint64_t lock
    while index < bank.program.window_count:
        w = &bank.states[index]
        if w.flags & WINDOW_HELD and mono_ns > w.last_ns:
            lock = w.lock | 1
            sw_store_relaxed(&w.lock, lock)
            sw_fence_release()
            _cover(w, &bank.program.windows[index], bank.program.tags[slot].stale_after_ns, mono_ns)
            w.last_ns = mono_ns
            sw_store_release(&w.lock, lock + 1)
        index = bank.runs[index].next


# ---- what it tells ---------------------------------------------------------------------------


cdef inline void _add(WindowRun* sums, uint32_t kind, const WindowBucket* b) noexcept nogil:
    sums.covered_ns += <int64_t>b.covered_ns
    if kind == _WINDOW_LOWEST:
        sums.sum = min(sums.sum, b.value)
    elif kind == _WINDOW_HIGHEST:
        sums.sum = max(sums.sum, b.value)
    elif kind == _WINDOW_RATE:
        if isnan(sums.first):
            sums.first = b.first
    else:
        sums.sum += b.value


cdef void _sum(WindowRun* run, const WindowState* w, uint32_t kind, int64_t oldest) noexcept nogil:
    """All complete buckets, from the oldest; once per bucket that passes."""
    cdef WindowBucket empty
    cdef int64_t k
    _clear(&empty, kind)
    run.oldest = oldest
    run.head = <int64_t>w.head
    run.sum = empty.value
    run.first = NAN
    run.covered_ns = 0
    run.summed = 1
    for k in range(max(oldest, run.head - _BUCKETS + 1), run.head):
        _add(run, kind, &w.bucket[k & (_BUCKETS - 1)])


cdef void _add_held(
    WindowRun* sums, const WindowState* w, const WindowDef* d, int64_t stale_after_ns,
    int64_t now_ns,
) noexcept nogil:
    cdef int64_t end = _held_until(w, stale_after_ns, now_ns)
    cdef int64_t at = max(w.last_ns, sums.oldest * _width(d))
    if at >= end:
        return
    sums.covered_ns += end - at
    if d.kind == _WINDOW_MEAN:
        sums.sum += w.last_value * <double>(end - at)
    elif d.kind == _WINDOW_LOWEST:
        sums.sum = min(sums.sum, w.last_value)
    elif d.kind == _WINDOW_HIGHEST:
        sums.sum = max(sums.sum, w.last_value)
    elif isnan(sums.first):
        sums.first = w.last_value


cdef bint window_number(
    WindowBank* bank, uint32_t index, int64_t now_ns, double* out,
) noexcept nogil:
    cdef const WindowDef* d = &bank.program.windows[index]
    cdef const WindowState* w = &bank.states[index]
    cdef WindowRun* run = &bank.runs[index]
    cdef WindowRun sums
    # A sample may be ahead of this scan by a little.
    cdef int64_t newest = max(_number(now_ns, _width(d)), <int64_t>w.head)
    cdef int64_t oldest = newest - _BUCKETS + 1
    if not run.summed or run.oldest != oldest or run.head != <int64_t>w.head:
        _sum(run, w, d.kind, oldest)
    sums = run[0]
    if <int64_t>w.head >= oldest:
        _add(&sums, d.kind, &w.bucket[w.head & (_BUCKETS - 1)])
    if w.flags & WINDOW_HELD:
        _add_held(&sums, w, d, bank.program.tags[d.slot].stale_after_ns, now_ns)
    if sums.covered_ns < d.span_ns - d.span_ns // 5:
        return False
    out[0] = sums.sum
    if d.kind == _WINDOW_MEAN:
        out[0] = sums.sum / <double>sums.covered_ns
    elif d.kind == _WINDOW_RATE:
        out[0] = (w.last_value - sums.first) / (<double>sums.covered_ns / <double>_SECOND_NS)
    return True
