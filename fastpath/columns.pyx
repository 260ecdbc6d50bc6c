# cython: boundscheck=False, wraparound=False, cdivision=True
"""Samples <-> packed columns of one poll group: one time column, a value and a quality per tag.

Way of a sample: guard.shm or a driver -> ``remap`` to the gateway's tags -> ``Accumulator`` ->
rows of the history's tail -> upstream. No Python object per sample on it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcpy, memset

from fastpath.types cimport _NONE_U32, _Q_BAD, _Q_GOOD, SampleRecord

cdef enum:
    _ABSENT = 0xFF
    _HEADER_BYTES = 8  # number of times, number of tags
    _CELL_BYTES = 9  # a float64 and a quality
    _REASON_MAX = 63
    _TAGS_MAX = 1048576
    _CELLS_PER_SAMPLE_MAX = 16  # how thin a row's matrix may get
    _PENDING_MAX = 4194304

CODEC_PLAIN = 0
ABSENT = _ABSENT
PENDING_MAX = _PENDING_MAX


cdef inline uint8_t _quality_byte(uint8_t quality, uint8_t reason) noexcept nogil:
    # A quality that is none counts as BAD; so no sample can look absent.
    if quality > _Q_GOOD:
        quality = _Q_BAD
    return <uint8_t>(quality | ((reason & _REASON_MAX) << 2))


def quality_byte(uint8_t quality, uint8_t reason) -> int:
    """quality | reason << 2, the one-byte form kept in columns. Raises ValueError."""
    if quality > _Q_GOOD or reason > _REASON_MAX:
        raise ValueError(f"quality {quality}, reason {reason}")
    return _quality_byte(quality, reason)


def split_quality(uint8_t byte) -> tuple:
    """(quality, reason) of a quality byte."""
    return byte & 3, byte >> 2


cdef inline size_t _body_bytes(size_t times, size_t tags) noexcept nogil:
    return _HEADER_BYTES + 8 * times + _CELL_BYTES * times * tags


cdef bytes _body(uint32_t times, uint32_t tags):
    """A body with its header, everything else still to be filled in."""
    cdef bytes body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>_body_bytes(times, tags))
    cdef char* at = PyBytes_AS_STRING(body)
    memcpy(at, &times, 4)
    memcpy(at + 4, &tags, 4)
    return body


def pack(times_ns: list, values: list, qualities: list) -> bytes:
    """Codec 0 body of n times x m tags. Raises ValueError when columns differ in length."""
    cdef Py_ssize_t i, j, n = len(times_ns), m = len(values)
    cdef bytes body
    cdef char* at
    cdef int64_t t
    cdef double v
    if m > _TAGS_MAX or len(qualities) != m:
        raise ValueError(f"{m} value columns, {len(qualities)} quality columns")
    for i in range(m):
        if len(values[i]) != n or len(qualities[i]) != n:
            raise ValueError(f"column {i} is not of {n} times")
    body = _body(n, m)
    at = PyBytes_AS_STRING(body) + _HEADER_BYTES
    for j in range(n):
        t = times_ns[j]
        memcpy(at + 8 * j, &t, 8)
    at += 8 * n
    for i in range(m):
        for j in range(n):
            v = values[i][j]
            memcpy(at + 8 * (i * n + j), &v, 8)
    at += 8 * n * m
    for i in range(m):
        memcpy(at + i * n, PyBytes_AS_STRING(bytes(qualities[i])), n)
    return body


def unpack(bytes body not None) -> tuple:
    """The inverse of :func:`pack`. Raises ValueError for a body that is not one."""
    cdef const char* at = PyBytes_AS_STRING(body)
    cdef uint32_t n, m
    cdef Py_ssize_t i, j
    cdef int64_t t
    cdef double v
    cdef list times = [], values = [], qualities = [], column
    if len(body) < _HEADER_BYTES:
        raise ValueError(f"{len(body)} bytes are no columns")
    memcpy(&n, at, 4)
    memcpy(&m, at + 4, 4)
    if m > _TAGS_MAX or <size_t>len(body) != _body_bytes(n, m):
        raise ValueError(f"{len(body)} bytes are not {n} times of {m} tags")
    at += _HEADER_BYTES
    for j in range(n):
        memcpy(&t, at + 8 * j, 8)
        times.append(t)
    at += 8 * <Py_ssize_t>n
    for i in range(m):
        column = []
        for j in range(n):
            memcpy(&v, at + 8 * (i * n + j), 8)
            column.append(v)
        values.append(column)
    at += 8 * <Py_ssize_t>n * m
    for i in range(m):
        qualities.append((at + i * n)[:n])
    return times, values, qualities


cdef const SampleRecord* _samples(const uint8_t[::1] samples, Py_ssize_t* count) except? NULL:
    """The records in ``samples``; NULL when there are none. Raises ValueError."""
    if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
        raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
    count[0] = samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord)
    return <const SampleRecord*>&samples[0] if count[0] else NULL


def remap(const uint8_t[::1] samples not None, const uint32_t[::1] table not None) -> bytes:
    """Samples with ``slot := table[slot]``; left out where that is NONE_U32 or outside the table.

    Raises ValueError when the length is not a whole number of records.
    """
    cdef Py_ssize_t i, n = 0, kept = 0
    cdef const SampleRecord* record = _samples(samples, &n)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n * <Py_ssize_t>sizeof(SampleRecord))
    cdef SampleRecord* to = <SampleRecord*>PyBytes_AS_STRING(out)
    cdef uint32_t slot
    for i in range(n):
        if record[i].slot >= <size_t>table.shape[0]:
            continue
        slot = table[record[i].slot]
        if slot == <uint32_t>_NONE_U32:
            continue
        to[kept] = record[i]
        to[kept].slot = slot
        kept += 1
    return out if kept == n else out[:kept * <Py_ssize_t>sizeof(SampleRecord)]


cdef int _earlier(const void* a, const void* b) noexcept nogil:
    cdef const Entry* x = <const Entry*>a
    cdef const Entry* y = <const Entry*>b
    if x.utc_ns != y.utc_ns:
        return -1 if x.utc_ns < y.utc_ns else 1
    return -1 if x.order < y.order else 1


cdef void _sort(Entry* entries, uint32_t count) noexcept nogil:
    """By time, then by arrival. Mostly it is sorted: only a clock that was set back disorders."""
    cdef bint sorted_already = True
    cdef uint32_t i
    for i in range(count):
        entries[i].order = i
        if i and entries[i].utc_ns < entries[i - 1].utc_ns:
            sorted_already = False
    if not sorted_already:
        qsort(entries, count, sizeof(Entry), _earlier)


cdef class Accumulator:
    """Samples of poll groups until they are stored: rows of at most ``max_samples`` samples."""

    def __cinit__(self, groups: list, uint32_t max_samples=1000):
        cdef uint32_t g, c, widest = 0
        if max_samples < 1:
            raise ValueError("max_samples must be at least 1")
        self.tags = [list(group) for group in groups]
        self.max_samples = max_samples
        self.group_count = len(groups)
        self.tag_count = max((tag + 1 for group in groups for tag in group), default=0)
        if self.tag_count > _TAGS_MAX:
            raise ValueError(f"tag {self.tag_count - 1} is beyond {_TAGS_MAX}")
        self.groups = <Group*>calloc(self.group_count + 1, sizeof(Group))
        self.group_of = <uint32_t*>calloc(self.tag_count + 1, sizeof(uint32_t))
        self.column_of = <uint32_t*>calloc(self.tag_count + 1, sizeof(uint32_t))
        if self.groups == NULL or self.group_of == NULL or self.column_of == NULL:
            raise MemoryError
        memset(self.group_of, 0xFF, self.tag_count * sizeof(uint32_t))
        for g in range(self.group_count):
            self.groups[g].columns = len(self.tags[g])
            widest = max(widest, self.groups[g].columns)
            for c, tag in enumerate(self.tags[g]):
                if self.group_of[<uint32_t>tag] != <uint32_t>_NONE_U32:
                    raise ValueError(f"tag {tag} is in two poll groups")
                self.group_of[<uint32_t>tag] = g
                self.column_of[<uint32_t>tag] = c
        self.row_of = <uint64_t*>calloc(widest + 1, sizeof(uint64_t))
        self.step_of = <uint64_t*>calloc(widest + 1, sizeof(uint64_t))
        self.place_of = <uint32_t*>calloc(widest + 1, sizeof(uint32_t))
        if self.row_of == NULL or self.step_of == NULL or self.place_of == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t g
        if self.groups != NULL:
            for g in range(self.group_count):
                free(self.groups[g].entries)
        free(self.groups)
        free(self.group_of)
        free(self.column_of)
        free(self.row_of)
        free(self.step_of)
        free(self.place_of)

    def pending(self) -> int:
        """Samples that were added and not yet taken."""
        return self.waiting

    def add(self, const uint8_t[::1] samples not None) -> int:
        """Keep messages.SAMPLE records whose slot is a tag of a group; returns how many.

        Raises ValueError when the length is not a whole number of records.
        """
        cdef Py_ssize_t i, n = 0
        cdef const SampleRecord* record = _samples(samples, &n)
        cdef uint32_t before = self.waiting
        for i in range(n):
            if record[i].slot >= self.tag_count:
                continue
            if self.group_of[record[i].slot] == <uint32_t>_NONE_U32:
                continue
            if self.waiting >= _PENDING_MAX:
                self.refused += 1
                continue
            self._keep(&record[i])
        return self.waiting - before

    cdef int _keep(self, const SampleRecord* record) except -1:
        cdef Group* group = &self.groups[self.group_of[record.slot]]
        cdef uint32_t capacity
        cdef Entry* grown
        cdef Entry* entry
        if group.count == group.capacity:
            capacity = 2 * group.capacity if group.capacity else 64
            grown = <Entry*>realloc(group.entries, capacity * sizeof(Entry))
            if grown == NULL:
                raise MemoryError
            group.entries = grown
            group.capacity = capacity
        entry = &group.entries[group.count]
        entry.utc_ns = record.utc_ns
        entry.value = record.value
        entry.column = self.column_of[record.slot]
        entry.quality = _quality_byte(record.quality, record.reason)
        group.count += 1
        self.waiting += 1
        return 0

    def take(self) -> list:
        """All that waits, as rows (group, tags, t_first, t_last, n_samples, body), oldest first.

        A row has at most max_samples samples; ``tags`` are those that have one in it, ``body`` is
        their :func:`pack` form. Samples of one group and utc_ns share a time, unless one tag has
        two of them.
        """
        cdef uint32_t g
        cdef list rows = []
        for g in range(self.group_count):
            if self.groups[g].count:
                _sort(self.groups[g].entries, self.groups[g].count)
                self._take_group(g, rows)
        for g in range(self.group_count):
            self.groups[g].count = 0
        self.waiting = 0
        return rows

    cdef int _take_group(self, uint32_t g, list rows) except -1:
        """Cut the sorted entries into rows: by time, and one time that is too wide by tags."""
        cdef Group* group = &self.groups[g]
        cdef uint32_t first = 0, at = 0, end, steps = 0, columns = 0, fresh = 0
        self.row_id += 1
        while at < group.count:
            end = self._step(group, at, &fresh)
            if steps and (
                end - first > self.max_samples
                or <size_t>(steps + 1) * (columns + fresh)
                > <size_t>_CELLS_PER_SAMPLE_MAX * self.max_samples
            ):
                rows.append(self._row(g, first, at, steps, columns))
                self.row_id += 1
                first, steps, columns = at, 0, 0
                continue
            while at < end:
                group.entries[at].step = steps
                self.row_of[group.entries[at].column] = self.row_id
                at += 1
            columns += fresh
            steps += 1
        rows.append(self._row(g, first, at, steps, columns))
        return 0

    cdef uint32_t _step(self, Group* group, uint32_t at, uint32_t* fresh) noexcept nogil:
        """End of the samples from ``at`` that share a time; ``fresh``: tags new to the row.

        At most max_samples; a tag that comes again opens a time of its own.
        """
        cdef const Entry* e = group.entries
        cdef uint32_t end = at
        self.step_id += 1
        fresh[0] = 0
        while end < group.count and end - at < self.max_samples:
            if e[end].utc_ns != e[at].utc_ns or self.step_of[e[end].column] == self.step_id:
                break
            self.step_of[e[end].column] = self.step_id
            fresh[0] += self.row_of[e[end].column] != self.row_id
            end += 1
        return end

    cdef tuple _row(
        self, uint32_t g, uint32_t first, uint32_t end, uint32_t steps, uint32_t columns,
    ):
        """The row of the entries [first, end), which have ``steps`` times and ``columns`` tags."""
        cdef const Entry* e = self.groups[g].entries
        cdef bytes body = _body(steps, columns)
        cdef char* times = PyBytes_AS_STRING(body) + _HEADER_BYTES
        cdef char* values = times + 8 * <size_t>steps
        cdef uint8_t* qualities = <uint8_t*>(values + 8 * <size_t>steps * columns)
        cdef list group_tags = self.tags[g], tags = []
        cdef uint32_t i, c, k = 0
        cdef size_t cell
        cdef double absent = NAN
        for c in range(self.groups[g].columns):
            if self.row_of[c] == self.row_id:
                self.place_of[c] = k
                k += 1
                tags.append(group_tags[c])
        for cell in range(<size_t>steps * columns):
            memcpy(values + 8 * cell, &absent, 8)
        memset(qualities, _ABSENT, <size_t>steps * columns)
        for i in range(first, end):
            cell = <size_t>self.place_of[e[i].column] * steps + e[i].step
            memcpy(times + 8 * <size_t>e[i].step, &e[i].utc_ns, 8)
            memcpy(values + 8 * cell, &e[i].value, 8)
            qualities[cell] = e[i].quality
        return g, tags, e[first].utc_ns, e[end - 1].utc_ns, end - first, body
