# cython: boundscheck=False, wraparound=False, cdivision=True
"""Samples <-> columns of one poll group: a body of codec 0 or 1, its messages, its series.

Way of a sample: guard.shm or a driver -> ``remap`` to the gateway's tags -> ``Accumulator`` ->
pieces of the history's tail -> ``merge`` -> chunks -> ``Block`` -> upstream. No Python object per
sample on it before the last step.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastpath.buckets cimport _FIELDS, count_buckets, table_summarize
from fastpath.packing cimport pack_table
from fastpath.table cimport (
    _ABSENT,
    _TABLE_SAMPLES_MAX,
    Table,
    table_align,
    table_free,
    table_make,
    table_sort,
    whole_ms,
)
from fastpath.types cimport _NONE_U32, _Q_GOOD, SampleRecord
from fastpath.unpacking cimport unpack_table

cdef enum:
    _CODEC_PLAIN = 0
    _CODEC_PACKED = 1
    _HEADER_BYTES = 8  # of codec 0: number of times, number of tags
    _CELL_BYTES = 9  # a float64 and a quality
    _REASON_MAX = 63
    _TAGS_MAX = 1048576
    _MESSAGE_SAMPLES_MAX = 1000
    _SPAN_NS_MIN = 1000000
    _CELLS_PER_SAMPLE_MAX = 16  # how thin a matrix may get

CODEC_PLAIN = _CODEC_PLAIN
CODEC_PACKED = _CODEC_PACKED
ABSENT = _ABSENT
SAMPLES_MAX = _TABLE_SAMPLES_MAX
FIELDS = _FIELDS


def quality_byte(uint8_t quality, uint8_t reason) -> int:
    """quality | reason << 2, the one-byte form kept in columns. Raises ValueError."""
    if quality > _Q_GOOD or reason > _REASON_MAX:
        raise ValueError(f"quality {quality}, reason {reason}")
    return quality | reason << 2


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


# ---- bodies of either codec ----------------------------------------------------------------------


cdef int _fill_plain(Table* table, const char* at, uint32_t n, uint32_t m) noexcept nogil:
    """What is present in a codec 0 body of n times and m tags."""
    cdef const char* values = at + 8 * <size_t>n
    cdef const uint8_t* qualities = <const uint8_t*>values + 8 * <size_t>n * m
    cdef uint32_t i, j, to = 0
    cdef size_t cell
    for i in range(m):
        table.starts[i] = to
        for j in range(n):
            cell = <size_t>i * n + j
            if qualities[cell] == _ABSENT:
                continue
            memcpy(&table.times_ns[to], at + 8 * <size_t>j, 8)
            memcpy(&table.values[to], values + 8 * cell, 8)
            table.qualities[to] = qualities[cell]
            to += 1
    table.starts[m] = to
    return 0


cdef int _unpack_plain(Table* table, bytes body, uint32_t tags) except -1:
    cdef const char* at = PyBytes_AS_STRING(body)
    cdef uint32_t n = 0, m = 0
    cdef size_t cell, cells, present = 0
    if len(body) >= _HEADER_BYTES:
        memcpy(&n, at, 4)
        memcpy(&m, at + 4, 4)
    if len(body) < _HEADER_BYTES or m != tags or <size_t>len(body) != _body_bytes(n, m):
        raise ValueError(f"{len(body)} bytes are no columns of {tags} tags")
    cells = <size_t>n * m
    for cell in range(cells):
        present += <uint8_t>at[_HEADER_BYTES + 8 * <size_t>n + 8 * cells + cell] != _ABSENT
    if present > _TABLE_SAMPLES_MAX:
        raise ValueError(f"{present} samples are too many for a body")
    if not table_make(table, m, <uint32_t>present):
        raise MemoryError
    _fill_plain(table, at + _HEADER_BYTES, n, m)
    if not table_sort(table):
        raise MemoryError
    return 0


cdef int _unpack_any(Table* table, int codec, bytes body, uint32_t tags) except -1:
    """Into a table that is all zero. Raises ValueError."""
    if tags > _TAGS_MAX:
        raise ValueError(f"{tags} tags")
    if codec == _CODEC_PACKED:
        return unpack_table(table, body, tags)
    if codec == _CODEC_PLAIN:
        return _unpack_plain(table, body, tags)
    raise ValueError(f"codec {codec}")


# ---- merging -------------------------------------------------------------------------------------


cdef void _append(Table* to, const Table* table, const uint32_t* places) noexcept nogil:
    """``to.starts`` are where each tag's next sample goes."""
    cdef uint32_t tag, i, at
    for tag in range(table.tags):
        at = to.starts[places[tag]]
        for i in range(table.starts[tag], table.starts[tag + 1]):
            to.times_ns[at] = whole_ms(table.times_ns[i])
            to.values[at] = table.values[i]
            to.qualities[at] = table.qualities[i]
            at += 1
        to.starts[places[tag]] = at


cdef class _Merging:
    """Pieces into one table: once to count, once to fill."""

    cdef Table piece
    cdef Table whole
    cdef uint32_t* places
    cdef uint64_t* counts
    cdef uint32_t tags

    def __cinit__(self, uint32_t tags):
        if tags > _TAGS_MAX:
            raise ValueError(f"{tags} tags")
        self.tags = tags
        self.places = <uint32_t*>malloc((<size_t>tags + 1) * sizeof(uint32_t))
        self.counts = <uint64_t*>calloc(<size_t>tags + 1, sizeof(uint64_t))
        if self.places == NULL or self.counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        table_free(&self.piece)
        table_free(&self.whole)
        free(self.places)
        free(self.counts)

    cdef int load(self, tuple piece) except -1:
        cdef uint32_t i, place, count
        places, codec, body = piece
        count = len(places)
        if count > self.tags:
            raise ValueError(f"a piece of {count} tags in a group of {self.tags}")
        for i in range(count):
            place = places[i]
            if place >= self.tags:
                raise ValueError(f"place {place} in a group of {self.tags}")
            self.places[i] = place
        table_free(&self.piece)
        return _unpack_any(&self.piece, codec, body, count)

    cdef int count(self) except -1:
        cdef uint32_t i
        for i in range(self.piece.tags):
            self.counts[self.places[i]] += self.piece.starts[i + 1] - self.piece.starts[i]
        return 0

    cdef int make(self) except -1:
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.tags):
            total += self.counts[i]
        if total > _TABLE_SAMPLES_MAX:
            raise ValueError(f"{total} samples are too many for a body")
        if not table_make(&self.whole, self.tags, <uint32_t>total):
            raise MemoryError
        total = 0
        for i in range(self.tags):
            self.whole.starts[i] = <uint32_t>total
            total += self.counts[i]
        self.whole.starts[self.tags] = <uint32_t>total
        return 0

    cdef bytes finish(self):
        cdef uint32_t i
        for i in range(self.tags, 0, -1):  # where each tag ends -> where it begins
            self.whole.starts[i] = self.whole.starts[i - 1]
        self.whole.starts[0] = 0
        if not table_sort(&self.whole):
            raise MemoryError
        return pack_table(&self.whole)


def merge(pieces, uint32_t tags) -> bytes:
    """One codec 1 body over a group's ``tags`` places, of pieces (places, codec, body)."""
    cdef _Merging merging = _Merging(tags)
    pieces = list(pieces)
    for piece in pieces:
        merging.load(tuple(piece))
        merging.count()
    merging.make()
    for piece in pieces:
        merging.load(tuple(piece))
        _append(&merging.whole, &merging.piece, merging.places)
    return merging.finish()


# ---- reading -------------------------------------------------------------------------------------


cdef struct Part:  # messages of the same tags
    uint32_t first  # in the tags that are present
    uint32_t end
    uint32_t before  # messages of the parts before
    uint32_t span  # steps, or samples of the one tag, per message
    uint32_t count  # of them
    size_t used  # where its steps begin


cdef class Block:
    """A decoded body. Raises ValueError for anything that is not one."""

    cdef Table table
    cdef uint32_t* present  # tags that have samples
    cdef uint32_t present_count
    cdef Part* parts  # NULL: not cut yet
    cdef uint32_t part_count
    cdef uint32_t* used  # steps of each part, where the tags share them
    cdef uint32_t message_count
    cdef bint may_share
    cdef readonly uint32_t samples
    cdef readonly int64_t t_first_ns
    cdef readonly int64_t t_last_ns

    def __cinit__(self, int codec, bytes body not None, uint32_t tags):
        cdef uint32_t tag, end
        _unpack_any(&self.table, codec, body, tags)
        self.may_share = codec == _CODEC_PLAIN or self.table.steps
        self.samples = self.table.samples
        self.present = <uint32_t*>malloc((<size_t>tags + 1) * sizeof(uint32_t))
        if self.present == NULL:
            raise MemoryError
        for tag in range(tags):
            end = self.table.starts[tag + 1]
            if end == self.table.starts[tag]:
                continue
            if not self.present_count:
                self.t_first_ns = self.t_last_ns = self.table.times_ns[end - 1]
            self.t_first_ns = min(self.t_first_ns, self.table.times_ns[self.table.starts[tag]])
            self.t_last_ns = max(self.t_last_ns, self.table.times_ns[end - 1])
            self.present[self.present_count] = tag
            self.present_count += 1

    def __dealloc__(self):
        table_free(&self.table)
        free(self.present)
        free(self.parts)
        free(self.used)

    def messages(self) -> int:
        """How many messages of at most 1,000 samples it is cut into."""
        self._cut()
        return self.message_count

    def message(self, uint32_t index) -> tuple:
        """(times_ns, places, values, quality bytes) of one of them. Raises IndexError."""
        cdef uint32_t low = 0, high, middle, at
        cdef Part* part
        self._cut()
        if index >= self.message_count:
            raise IndexError(f"message {index} of {self.message_count}")
        high = self.part_count
        while high - low > 1:
            middle = (low + high) // 2
            if self.parts[middle].before <= index:
                low = middle
            else:
                high = middle
        part = &self.parts[low]
        at = (index - part.before) * part.span
        if self.used == NULL:
            return self._of_tag(self.present[part.first], at, min(part.span, part.count - at))
        return self._matrix(
            part.first, part.end, self.used + part.used + at, min(part.span, part.count - at))

    def whole(self) -> tuple:
        """All of it as one message, however large. Raises ValueError where that were too thin."""
        cdef uint32_t i
        cdef uint32_t* steps
        if not table_align(&self.table):
            raise MemoryError
        if (
            <size_t>self.table.steps * self.present_count
            > <size_t>_CELLS_PER_SAMPLE_MAX * max(self.samples, <uint32_t>_MESSAGE_SAMPLES_MAX)
        ):
            raise ValueError(
                f"{self.samples} samples of {self.table.steps} times, {self.present_count} tags")
        steps = <uint32_t*>malloc((<size_t>self.table.steps + 1) * sizeof(uint32_t))
        if steps == NULL:
            raise MemoryError
        try:
            for i in range(self.table.steps):
                steps[i] = i
            return self._matrix(0, self.present_count, steps, self.table.steps)
        finally:
            free(steps)

    def series(self, uint32_t place, int64_t t0_ns, int64_t t1_ns) -> list:
        """(UTC ns, value, quality byte) of the tag at ``place`` in t0 .. t1, by time."""
        cdef uint32_t i
        cdef list found = []
        if place >= self.table.tags:
            raise IndexError(f"place {place} of {self.table.tags}")
        i = self._first(place, t0_ns)
        while i < self.table.starts[place + 1] and self.table.times_ns[i] <= t1_ns:
            found.append((self.table.times_ns[i], self.table.values[i], self.table.qualities[i]))
            i += 1
        return found

    def summary(self, int64_t span_ns) -> bytes:
        """A codec 1 body of the buckets of its samples. Raises ValueError."""
        cdef Table found
        cdef bint done
        if span_ns < _SPAN_NS_MIN or span_ns % _SPAN_NS_MIN or self.table.tags > _TAGS_MAX // _FIELDS:
            raise ValueError(f"buckets of {span_ns} ns, {self.table.tags} tags")
        if count_buckets(&self.table, span_ns) > _TABLE_SAMPLES_MAX // _FIELDS:
            raise ValueError(f"{self.samples} samples have too many buckets for a body")
        memset(&found, 0, sizeof(found))
        try:
            with nogil:
                done = table_summarize(&self.table, span_ns, &found)
            if not done:
                raise MemoryError
            return pack_table(&found)
        finally:
            table_free(&found)

    cdef uint32_t _first(self, uint32_t tag, int64_t t0_ns) noexcept:
        """The tag's first sample from t0."""
        cdef uint32_t low = self.table.starts[tag], high = self.table.starts[tag + 1], middle
        while low < high:
            middle = low + (high - low) // 2
            if self.table.times_ns[middle] < t0_ns:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int _cut(self) except -1:
        """Where tags share their times: all tags, so many steps; else one tag, so many samples."""
        cdef bint shared
        if self.parts != NULL:
            return 0
        if self.may_share and not table_align(&self.table):
            raise MemoryError
        shared = self.may_share and (
            2 * <size_t>self.samples >= <size_t>self.table.steps * self.present_count)
        self.parts = <Part*>calloc(<size_t>self.present_count + 1, sizeof(Part))
        if self.parts == NULL:
            raise MemoryError
        if shared and self.samples:
            return self._cut_steps()
        return self._cut_tags()

    cdef int _cut_tags(self) except -1:
        cdef uint32_t i, tag
        cdef Part* part
        for i in range(self.present_count):
            tag = self.present[i]
            part = &self.parts[i]
            part.first = i
            part.end = i + 1
            part.before = self.message_count
            part.span = _MESSAGE_SAMPLES_MAX
            part.count = self.table.starts[tag + 1] - self.table.starts[tag]
            self.message_count += (part.count + part.span - 1) // part.span
        self.part_count = self.present_count
        return 0

    cdef int _cut_steps(self) except -1:
        """At most 1,000 tags in a message; of each so many the steps that they have."""
        cdef uint32_t first = 0, end
        cdef size_t used = 0
        cdef Part* part
        cdef uint32_t slices = (
            (self.present_count + _MESSAGE_SAMPLES_MAX - 1) // _MESSAGE_SAMPLES_MAX)
        self.used = <uint32_t*>malloc(
            (<size_t>slices * self.table.steps + 1) * sizeof(uint32_t))
        if self.used == NULL:
            raise MemoryError
        while first < self.present_count:
            end = min(first + _MESSAGE_SAMPLES_MAX, self.present_count)
            part = &self.parts[self.part_count]
            part.first = first
            part.end = end
            part.before = self.message_count
            part.span = _MESSAGE_SAMPLES_MAX // (end - first)
            part.used = used
            part.count = self._use_steps(first, end, self.used + used)
            self.message_count += (part.count + part.span - 1) // part.span
            self.part_count += 1
            used += part.count
            first = end
        return 0

    cdef uint32_t _use_steps(self, uint32_t first, uint32_t end, uint32_t* used) except? 0:
        """The steps that these tags have, in order; gives how many."""
        cdef uint8_t* marks = <uint8_t*>calloc(<size_t>self.table.steps + 1, 1)
        cdef uint32_t i, k, tag, count = 0
        if marks == NULL:
            raise MemoryError
        for i in range(first, end):
            tag = self.present[i]
            for k in range(self.table.starts[tag], self.table.starts[tag + 1]):
                marks[self.table.step_of[k]] = 1
        for k in range(self.table.steps):
            if marks[k]:
                used[count] = k
                count += 1
        free(marks)
        return count

    cdef tuple _of_tag(self, uint32_t tag, uint32_t at, uint32_t count):
        cdef uint32_t i, first = self.table.starts[tag] + at
        cdef list times = [self.table.times_ns[i] for i in range(first, first + count)]
        cdef list values = [self.table.values[i] for i in range(first, first + count)]
        cdef bytes qualities = PyBytes_FromStringAndSize(
            <char*>self.table.qualities + first, <Py_ssize_t>count)
        return times, [tag], [values], [qualities]

    cdef tuple _matrix(self, uint32_t first, uint32_t end, const uint32_t* steps, uint32_t count):
        """The tags ``present[first:end]`` that have one of these steps, a column each."""
        cdef list places = [], values = [], qualities = [], column
        cdef uint32_t i, k, tag, begin, last
        cdef bytes odd
        cdef uint8_t* of_column
        cdef double value
        for i in range(first, end):
            tag = self.present[i]
            begin = self._first_step(tag, steps[0])
            last = self.table.starts[tag + 1]
            if begin == last or self.table.step_of[begin] > steps[count - 1]:
                continue
            odd = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>count)
            of_column = <uint8_t*>PyBytes_AS_STRING(odd)
            column = []
            for k in range(count):
                if begin < last and self.table.step_of[begin] == steps[k]:
                    value = self.table.values[begin]
                    of_column[k] = self.table.qualities[begin]
                    begin += 1
                else:
                    value = NAN
                    of_column[k] = _ABSENT
                column.append(value)
            places.append(tag)
            values.append(column)
            qualities.append(odd)
        return [self.table.step_ns[steps[k]] for k in range(count)], places, values, qualities

    cdef uint32_t _first_step(self, uint32_t tag, uint32_t step) noexcept:
        """The tag's first sample from this step."""
        cdef uint32_t low = self.table.starts[tag], high = self.table.starts[tag + 1], middle
        while low < high:
            middle = low + (high - low) // 2
            if self.table.step_of[middle] < step:
                low = middle + 1
            else:
                high = middle
        return low
