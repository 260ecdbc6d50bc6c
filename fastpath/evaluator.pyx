# cython: boundscheck=False, wraparound=False, cdivision=True
"""Computed tags: the gateway's conditions and numbers, as samples among samples.

The same evaluator as the guard's, over the gateway's own image. A computed tag is GOOD while it
can be computed of good inputs, UNCERTAIN while an input is, else BAD with the reason of the first
input that is BAD.
"""

from collections import namedtuple

from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.evaluate cimport _UNUSABLE, truth_of
from fastpath.image cimport slot_read
from fastpath.layout cimport _REG_TRUTH, op_result
from fastpath.program cimport Conditions
from fastpath.types cimport (
    _Q_BAD,
    _Q_GOOD,
    _Q_UNCERTAIN,
    _REASON_NEVER_READ,
    _REASON_NOT_A_NUMBER,
    _REASON_SUBSTITUTED,
    _RECORD_ALL,
    _RECORD_ONE_SECOND,
    _T_TRUE,
    _T_UNKNOWN,
    SampleRecord,
    Slot,
)

cdef enum:
    _NS_PER_S = 1_000_000_000

Output = namedtuple("Output", ("register", "tag", "record", "inputs"))


cdef class Evaluator(Conditions):
    """Computes tags of the samples that they are made of."""

    def __init__(self, bytes blob not None):
        self.merged = bytearray()
        self.kept = bytearray()

    def __dealloc__(self):
        free(self.results)
        free(self.inputs)

    def compute(self, list outputs not None, const uint32_t[::1] slots not None) -> None:
        """What to compute; ``slots`` maps a sample's slot to this program's."""
        cdef uint32_t i, k = 0, count = <uint32_t>len(outputs)
        cdef uint32_t input_count = sum(len(output.inputs) for output in outputs)
        cdef Result* result
        self.watch([], slots)
        free(self.results)
        free(self.inputs)
        self.result_count = 0
        self.results = <Result*>calloc(count + 1, sizeof(Result))
        self.inputs = <uint32_t*>calloc(input_count + 1, sizeof(uint32_t))
        if self.results == NULL or self.inputs == NULL:
            raise MemoryError
        for i in range(count):
            result = &self.results[i]
            result.register = outputs[i].register
            self._register(result.register, 0)
            result.truth = op_result(self.view.code[result.register].op) == _REG_TRUTH
            result.tag = outputs[i].tag
            result.record = outputs[i].record
            result.value = result.kept_value = NAN
            result.first_input = k
            result.input_count = <uint32_t>len(outputs[i].inputs)
            for slot in outputs[i].inputs:
                if not 0 <= slot < self.image.count:
                    raise IndexError(slot)
                self.inputs[k] = slot
                k += 1
        self.result_count = count

    def run(self, const uint8_t[::1] samples not None) -> tuple:
        """Evaluate after each run of equal mono_ns; (samples and changes, changes to keep)."""
        cdef const SampleRecord* record
        cdef Py_ssize_t i, first = 0, n = _count(samples)
        cdef bint touched = False
        self.merged = bytearray()
        self.kept = bytearray()
        if n == 0:
            return b"", b""
        record = <const SampleRecord*>&samples[0]
        for i in range(n):
            touched = self._feed(&record[i]) or touched
            if i + 1 < n and record[i + 1].mono_ns == record[i].mono_ns:
                continue
            self.merged += samples[first * sizeof(SampleRecord):(i + 1) * sizeof(SampleRecord)]
            first = i + 1
            if touched:
                self._at(record[i].mono_ns, record[i].utc_ns)
                self._report()
            touched = False
        return bytes(self.merged), bytes(self.kept)

    def tick(self, int64_t mono_ns, int64_t utc_ns) -> tuple:
        """Evaluate at a time without samples."""
        self.merged = bytearray()
        self.kept = bytearray()
        self._at(mono_ns, utc_ns)
        self._report()
        return bytes(self.merged), bytes(self.kept)

    def standing(self, int64_t mono_ns, int64_t utc_ns) -> bytes:
        """Every computed tag as it stands, stamped with this time."""
        cdef SampleRecord out
        cdef uint32_t i
        found = bytearray()
        for i in range(self.result_count):
            memset(&out, 0, sizeof(out))
            self._judge(&self.results[i], &out)
            out.mono_ns = mono_ns
            out.utc_ns = utc_ns
            found += (<const uint8_t*>&out)[:sizeof(out)]
        return bytes(found)

    cdef int _at(self, int64_t mono_ns, int64_t utc_ns) except -1:
        """One evaluation; the time of day goes with the newest monotonic time."""
        if mono_ns >= self.now_ns or self.utc_ns == 0:
            self.utc_ns = utc_ns
        self._scan(mono_ns)
        return 0

    cdef bint _feed(self, const SampleRecord* record):
        """Store a sample; False: no computed tag is made of it."""
        if record.slot >= self.slot_count or self.slots[record.slot] >= self.image.count:
            return False
        self._take(record)
        return True

    cdef int _report(self) except -1:
        """The computed tags that changed, and what of them is kept."""
        cdef SampleRecord out
        cdef Result* result
        cdef uint32_t i
        cdef bint changed
        for i in range(self.result_count):
            result = &self.results[i]
            memset(&out, 0, sizeof(out))
            self._judge(result, &out)
            out.mono_ns = self.now_ns
            out.utc_ns = self.utc_ns
            changed = (
                out.quality != result.quality or out.reason != result.reason
                or (out.value != result.value and (out.quality != _Q_BAD))
            )
            result.value = out.value
            result.quality = out.quality
            result.reason = out.reason
            record = (<const uint8_t*>&out)[:sizeof(out)]
            if changed or result.record == _RECORD_ALL:
                self.merged += record
            if self._is_kept(result, &out):
                self.kept += record
        return 0

    cdef void _judge(self, Result* result, SampleRecord* out) noexcept nogil:
        """Value, quality and reason of a computed tag after the last evaluation."""
        cdef uint8_t known, bad_reason = _REASON_NOT_A_NUMBER, doubt = 0
        cdef bint bad = False, doubtful = False
        cdef uint32_t i
        cdef Slot slot
        for i in range(result.first_input, result.first_input + result.input_count):
            if not slot_read(&self.image.slots[self.inputs[i]], &slot):
                continue
            if slot.quality == _Q_BAD and not bad:
                bad, bad_reason = True, slot.reason
            if slot.quality == _Q_UNCERTAIN and (
                not doubtful or slot.reason == _REASON_SUBSTITUTED
            ):
                doubtful, doubt = True, slot.reason  # a value by hand is never hidden
        if result.truth:
            known = truth_of(&self.regs[result.register])
            out.value = 1.0 if known == _T_TRUE else 0.0
            known = known != _T_UNKNOWN
        else:
            known = not self.regs[result.register].state & _UNUSABLE
            out.value = self.regs[result.register].value.number
        out.slot = result.tag
        out.quality = _Q_UNCERTAIN if doubtful else _Q_GOOD
        out.reason = doubt
        if not known:
            out.value = NAN
            out.quality = _Q_BAD
            out.reason = bad_reason

    cdef bint _is_kept(self, Result* result, const SampleRecord* out) noexcept nogil:
        """Whether the history keeps this: all, changes, or one a second; a new quality always."""
        cdef bint worse = (
            result.kept_ns == 0 or out.quality != result.kept_quality
            or out.reason != result.kept_reason
        )
        if out.quality == _Q_BAD and out.reason == _REASON_NEVER_READ and result.kept_ns == 0:
            return False
        if not worse and result.record != _RECORD_ALL:
            if result.record == _RECORD_ONE_SECOND:
                if out.mono_ns - result.kept_ns < _NS_PER_S:
                    return False
            elif out.value == result.kept_value or out.quality == _Q_BAD:
                return False
        result.kept_ns = out.mono_ns
        result.kept_value = out.value
        result.kept_quality = out.quality
        result.kept_reason = out.reason
        return True


cdef Py_ssize_t _count(const uint8_t[::1] samples) except -1:
    if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
        raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
    return samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord)
