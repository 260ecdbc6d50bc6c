# cython: boundscheck=False, wraparound=False, cdivision=True
"""Samples that wait for the history, by poll group, and the pieces that are made of them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memset

from fastpath.packing cimport pack_table
from fastpath.table cimport Table, table_free, table_make, whole_ms
from fastpath.types cimport _NONE_U32, _Q_BAD, _Q_GOOD, SampleRecord

cdef enum:
    _REASON_MAX = 63
    _TAGS_MAX = 1048576
    _CELLS_PER_SAMPLE_MAX = 16  # how thin a piece's matrix may get
    _PENDING_MAX = 4194304

PENDING_MAX = _PENDING_MAX


cdef inline uint8_t _quality_byte(uint8_t quality, uint8_t reason) noexcept nogil:
    # A quality that is none counts as BAD; so no sample can look absent.
    if quality > _Q_GOOD:
        quality = _Q_BAD
    return <uint8_t>(quality | ((reason & _REASON_MAX) << 2))


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
    """Samples of poll groups until they are stored: pieces of at most ``max_samples`` samples."""

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
        self.piece_of = <uint64_t*>calloc(widest + 1, sizeof(uint64_t))
        self.step_of = <uint64_t*>calloc(widest + 1, sizeof(uint64_t))
        self.place_of = <uint32_t*>calloc(widest + 1, sizeof(uint32_t))
        if self.piece_of == NULL or self.step_of == NULL or self.place_of == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t g
        if self.groups != NULL:
            for g in range(self.group_count):
                free(self.groups[g].entries)
        free(self.groups)
        free(self.group_of)
        free(self.column_of)
        free(self.piece_of)
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
        cdef const SampleRecord* record
        cdef uint32_t before = self.waiting
        if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
            raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
        n = samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord)
        if n == 0:
            return 0
        record = <const SampleRecord*>&samples[0]
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
        entry.utc_ns = whole_ms(record.utc_ns)
        entry.value = record.value
        entry.column = self.column_of[record.slot]
        entry.quality = _quality_byte(record.quality, record.reason)
        group.count += 1
        self.waiting += 1
        return 0

    def take(self) -> list:
        """All that waits, as pieces (group, tags, t_first, t_last, n_samples, body), oldest first.

        A piece has at most max_samples samples; ``tags`` are those that have one in it, ``body``
        is theirs. Samples of one group and ms share a time, unless one tag has two of them.
        """
        cdef uint32_t g
        cdef list pieces = []
        for g in range(self.group_count):
            if self.groups[g].count:
                _sort(self.groups[g].entries, self.groups[g].count)
                self._take_group(g, pieces)
        for g in range(self.group_count):
            self.groups[g].count = 0
        self.waiting = 0
        return pieces

    cdef int _take_group(self, uint32_t g, list pieces) except -1:
        """Cut the sorted entries into pieces: by time, and one time that is too wide by tags."""
        cdef Group* group = &self.groups[g]
        cdef uint32_t first = 0, at = 0, end, steps = 0, columns = 0, fresh = 0
        self.piece_id += 1
        while at < group.count:
            end = self._step(group, at, &fresh)
            if steps and (
                end - first > self.max_samples
                or <size_t>(steps + 1) * (columns + fresh)
                > <size_t>_CELLS_PER_SAMPLE_MAX * self.max_samples
            ):
                pieces.append(self._piece(g, first, at, columns))
                self.piece_id += 1
                first, steps, columns = at, 0, 0
                continue
            while at < end:
                self.piece_of[group.entries[at].column] = self.piece_id
                at += 1
            columns += fresh
            steps += 1
        pieces.append(self._piece(g, first, at, columns))
        return 0

    cdef uint32_t _step(self, Group* group, uint32_t at, uint32_t* fresh) noexcept nogil:
        """End of the samples from ``at`` that share a time; ``fresh``: tags new to the piece.

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
            fresh[0] += self.piece_of[e[end].column] != self.piece_id
            end += 1
        return end

    cdef tuple _piece(self, uint32_t g, uint32_t first, uint32_t end, uint32_t columns):
        """The piece of the entries [first, end), which have ``columns`` tags."""
        cdef const Entry* e = self.groups[g].entries
        cdef list group_tags = self.tags[g], tags = []
        cdef uint32_t c, k = 0
        cdef bytes body
        for c in range(self.groups[g].columns):
            if self.piece_of[c] == self.piece_id:
                self.place_of[c] = k
                k += 1
                tags.append(group_tags[c])
        body = self._body(e + first, end - first, columns)
        return g, tags, e[first].utc_ns, e[end - 1].utc_ns, end - first, body

    cdef bytes _body(self, const Entry* entries, uint32_t count, uint32_t columns):
        """By tag: how many each has, then each at its place."""
        cdef Table table
        cdef uint32_t i, place, at
        memset(&table, 0, sizeof(table))
        try:
            if not table_make(&table, columns, count):
                raise MemoryError
            for i in range(count):
                place = self.place_of[entries[i].column]
                if place + 2 <= columns:
                    table.starts[place + 2] += 1
            for i in range(2, columns + 1):
                table.starts[i] += table.starts[i - 1]
            for i in range(count):  # starts[place + 1]: where its next one goes; last, its end
                place = self.place_of[entries[i].column]
                at = table.starts[place + 1]
                table.times_ns[at] = entries[i].utc_ns
                table.values[at] = entries[i].value
                table.qualities[at] = entries[i].quality
                table.starts[place + 1] += 1
            return pack_table(&table)
        finally:
            table_free(&table)
