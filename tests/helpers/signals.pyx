# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A plant's signals, and who knows afterwards whether all of them arrived.

Half of the tags walk at random with three decimals, 30 % stand still for minutes, 20 % switch. A
tag's samples are a sequence of its own (one number generator each), so that whoever knows the seed
knows the n-th sample of every tag to the bit: nothing has to be kept to compare 311 million.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport llround
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.types cimport _Q_GOOD, SampleRecord

cdef enum:
    _WALK
    _STILL
    _SWITCH

cdef enum:
    _NS_PER_MS = 1000000
    _WALK_MAX = 100000  # thousandths
    _STILL_FOR = 512  # seconds, on average
    _SWITCH_FOR = 50
    _LANES = 2

LANES = ("live", "backfill")


cdef struct Signal:
    uint64_t state
    int64_t next  # number of its next sample
    int64_t level  # thousandths; of a switch 0 or 1
    int64_t toggles
    int64_t t_ms  # of the sample made last
    double value


cdef inline uint64_t _random(uint64_t* state) noexcept nogil:
    # splitmix64
    cdef uint64_t z
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline int _kind_of(uint32_t tag) noexcept nogil:
    return _WALK if tag % 10 < 5 else (_STILL if tag % 10 < 8 else _SWITCH)


cdef class Signals:
    """``tags`` signals, ``per_group`` of which are read together, once a second.

    ``jitter_ms``: how far each sample may be off its second, either way. ``base_ms``: UTC of
    second 0. Groups are read one after the other, evenly over the second.
    """

    cdef Signal* own
    cdef Signal* checked[_LANES]
    cdef int64_t* first[_LANES]  # of the stretch under way
    cdef readonly uint32_t tags, per_group
    cdef uint64_t seed
    cdef int64_t base_ms, jitter_ms
    cdef readonly dict names
    cdef readonly int64_t samples, wrong, backwards, bad
    cdef readonly list faults, stretches

    def __cinit__(self, uint32_t tags, uint32_t per_group, int64_t base_ms, *,
                  int64_t jitter_ms=3, uint64_t seed=1):
        cdef int lane
        self.tags, self.per_group, self.seed = tags, per_group, seed
        self.base_ms, self.jitter_ms = base_ms, jitter_ms
        self.names = {f"t{i}": i for i in range(tags)}
        self.faults, self.stretches = [], []
        self.own = self._begin()
        for lane in range(_LANES):
            self.checked[lane] = self._begin()
            self.first[lane] = <int64_t*>calloc(tags, sizeof(int64_t))

    cdef Signal* _begin(self) except NULL:
        cdef Signal* all = <Signal*>calloc(self.tags, sizeof(Signal))
        cdef uint32_t i
        if all == NULL:
            raise MemoryError
        for i in range(self.tags):
            all[i].state = self.seed * <uint64_t>0xD1342543DE82EF95 + i * <uint64_t>0x2545F4914F6CDD1D
            if _kind_of(i) != _SWITCH:
                all[i].level = <int64_t>(_random(&all[i].state) % _WALK_MAX)
        return all

    def __dealloc__(self):
        cdef int lane
        free(self.own)
        for lane in range(_LANES):
            free(self.checked[lane])
            free(self.first[lane])

    @property
    def groups(self):
        """How many are read together."""
        return (self.tags + self.per_group - 1) // self.per_group

    def phase_ms(self, uint32_t group):
        """When within a second a group is read."""
        return self._phase_ms(group * self.per_group)

    cdef inline int64_t _phase_ms(self, uint32_t tag) noexcept nogil:
        return tag // self.per_group * 1000 // ((self.tags + self.per_group - 1) // self.per_group)

    cdef int64_t _make(self, Signal* s, uint32_t tag) noexcept nogil:
        """The next sample; gives the nanoseconds behind its millisecond."""
        cdef uint64_t r = _random(&s.state)
        cdef int64_t jitter = 0, step
        cdef int kind = _kind_of(tag)
        if self.jitter_ms:
            jitter = <int64_t>((r & 0xFF) % (2 * self.jitter_ms + 1)) - self.jitter_ms
        if kind == _WALK:
            step = ((r >> 28) & 0xFF) + ((r >> 36) & 0xFF) + ((r >> 44) & 0xFF) + ((r >> 52) & 0xFF)
            s.level += (step - 510) // 3
            if s.level < 0:
                s.level = -s.level
            elif s.level > _WALK_MAX:
                s.level = 2 * _WALK_MAX - s.level
        elif kind == _STILL:
            if (r >> 32) % _STILL_FOR == 0:
                s.level = <int64_t>((r >> 41) % _WALK_MAX)
        elif (r >> 32) % _SWITCH_FOR == 0:
            s.level ^= 1
            s.toggles += 1
        s.value = <double>s.level if kind == _SWITCH else <double>s.level / 1000.0
        s.t_ms = self.base_ms + 1000 * s.next + self._phase_ms(tag) + jitter
        s.next += 1
        return <int64_t>((r >> 8) & 0xFFFFF) % _NS_PER_MS if self.jitter_ms else 0

    def poll(self, uint32_t group, int64_t mono_ns):
        """messages.SAMPLE records of the next second of a group."""
        cdef uint32_t tag = group * self.per_group, count = min(self.per_group, self.tags - tag), i
        cdef bytes out = PyBytes_FromStringAndSize(NULL, count * <Py_ssize_t>sizeof(SampleRecord))
        cdef SampleRecord* to = <SampleRecord*>PyBytes_AS_STRING(out)
        cdef int64_t rest_ns
        memset(to, 0, count * sizeof(SampleRecord))
        for i in range(count):
            rest_ns = self._make(&self.own[tag + i], tag + i)
            to[i].slot = tag + i
            to[i].quality = _Q_GOOD
            to[i].value = self.own[tag + i].value
            to[i].mono_ns = mono_ns
            to[i].utc_ns = self.own[tag + i].t_ms * _NS_PER_MS + rest_ns
        return out

    def toggles(self, tags):
        """How often these switches have changed so far."""
        return sum(self.own[<uint32_t>tag].toggles for tag in tags)

    def second_of(self, str name, int64_t t_ns):
        """Which second a sample is of."""
        cdef uint32_t tag = self.names[name]
        return (t_ns // _NS_PER_MS - self.base_ms - self._phase_ms(tag) + 500) // 1000

    def take(self, int lane, int64_t t0_ns, list dt_ms, list tags, list v, list q=None):
        """Compare one message with what was made; ``lane`` 0 live, 1 backfill.

        Values: float or None; ``q``: int or None, every one that is not GOOD counts as bad. A tag
        may leave seconds out (another lane has them); it may never go back.
        """
        cdef Py_ssize_t i, j, n = len(dt_ms)
        cdef list row, quality = None
        cdef uint32_t tag
        cdef object value
        if len(v) != len(tags):
            raise ValueError(f"{len(v)} rows of {len(tags)} tags")
        for i in range(len(tags)):
            row, tag = v[i], self.names[tags[i]]
            if len(row) != n:
                raise ValueError(f"{len(row)} values at {n} times")
            if q is not None:
                quality = q[i]
            for j in range(n):
                value = row[j]
                if value is None:
                    self.bad += quality is not None and quality[j] is not None
                    continue
                if quality is not None and quality[j] != _Q_GOOD:
                    self.bad += 1
                self._compare(lane, tag, t0_ns + llround(<double>dt_ms[j] * _NS_PER_MS), value)

    cdef int _compare(self, int lane, uint32_t tag, int64_t t_ns, double value) except -1:
        cdef Signal* s = &self.checked[lane][tag]
        cdef int64_t t_ms = t_ns // _NS_PER_MS
        cdef int64_t second = (t_ms - self.base_ms - self._phase_ms(tag) + 500) // 1000
        self.samples += 1
        if second < s.next:
            self.backwards += 1
            self._fault(f"{LANES[lane]}: t{tag} has second {second} after {s.next - 1}")
            return 0
        if second > s.next:
            self._stretch(lane, tag)
            while s.next < second:
                self._make(s, tag)
            self.first[lane][tag] = second
        self._make(s, tag)
        if s.value != value or s.t_ms != t_ms:
            self.wrong += 1
            self._fault(f"{LANES[lane]}: t{tag} at second {second} is {value} at {t_ms} ms, "
                        f"not {s.value} at {s.t_ms} ms")
        return 0

    cdef int _stretch(self, int lane, uint32_t tag) except -1:
        cdef int64_t last = self.checked[lane][tag].next - 1
        if last >= self.first[lane][tag]:
            self.stretches.append((tag, self.first[lane][tag], last))
        return 0

    cdef int _fault(self, str text) except -1:
        if len(self.faults) < 20:
            self.faults.append(text)
        return 0

    def missing(self, int64_t seconds):
        """What keeps seconds 0 .. ``seconds`` - 1 of each tag from having come once, in words."""
        cdef int lane
        cdef uint32_t tag
        cdef int64_t expected
        cdef list before = list(self.stretches), stretches
        for tag in range(self.tags):
            for lane in range(_LANES):
                self._stretch(lane, tag)
        stretches, self.stretches, by_tag = self.stretches, before, {}
        for tag, first, last in stretches:
            by_tag.setdefault(tag, []).append((first, last))
        found = []
        for tag in range(self.tags):
            expected = 0
            for first, last in sorted(by_tag.get(tag, [])):
                if first != expected:
                    word = "missing" if first > expected else "twice"
                    found.append(f"t{tag}: {word} from {min(first, expected)} to {max(first, expected) - 1}")
                expected = last + 1
            if expected != seconds:
                found.append(f"t{tag}: ends at {expected}, not {seconds}")
        return found
