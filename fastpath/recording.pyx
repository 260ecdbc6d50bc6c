# cython: boundscheck=False, wraparound=False, cdivision=True
"""Which samples of each tag the history keeps: report by exception, with a maximum interval.

Whoever reads what was kept and holds each value until the next one is never further off than the
tag's deadband, and never holds a value for longer than the tag's interval while samples come.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport fabs, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastpath.types cimport _RECORD_ALL, _RECORD_ONE_SECOND, SampleRecord

cdef enum:
    _NOTHING = 0  # of a text: beside RecordMode's
    _NS_PER_S = 1000000000

NOTHING = _NOTHING


cdef struct Kept:
    double value
    double deadband
    int64_t within_ns  # 0: no interval
    int64_t mono_ns
    uint8_t mode
    uint8_t known
    uint8_t quality
    uint8_t reason


cdef class Recording:
    """``rules`` by tag index: (RecordMode or NOTHING, deadband, longest interval in ns; 0: none)."""

    cdef Kept* kept
    cdef readonly uint32_t count

    def __cinit__(self, list rules):
        cdef uint32_t i
        cdef Kept* k
        self.count = len(rules)
        self.kept = <Kept*>calloc(self.count + 1, sizeof(Kept))
        if self.kept == NULL:
            raise MemoryError
        for i in range(self.count):
            k = &self.kept[i]
            k.mode, k.deadband, k.within_ns = rules[i]
            if not _NOTHING <= k.mode <= _RECORD_ONE_SECOND:
                raise ValueError(f"rule {i} has mode {k.mode}")
            if not k.deadband >= 0 or k.within_ns < 0:
                raise ValueError(f"rule {i}: deadband {k.deadband}, interval {k.within_ns} ns")

    def __dealloc__(self):
        free(self.kept)

    def keep(self, const uint8_t[::1] samples not None) -> bytes:
        """Those messages.SAMPLE records, by tag index, that are to be kept, in their order.

        Left out: a slot without a rule. Raises ValueError when the length is not a whole number
        of records.
        """
        cdef Py_ssize_t i, n = samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord), taken = 0
        cdef const SampleRecord* record
        cdef SampleRecord* to
        cdef bytes out
        if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
            raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
        if n == 0:
            return b""
        record = <const SampleRecord*>&samples[0]
        out = PyBytes_FromStringAndSize(NULL, samples.shape[0])
        to = <SampleRecord*>PyBytes_AS_STRING(out)
        for i in range(n):
            if record[i].slot < self.count and _wants(&self.kept[record[i].slot], &record[i]):
                to[taken] = record[i]
                taken += 1
        return out if taken == n else out[:taken * <Py_ssize_t>sizeof(SampleRecord)]


cdef bint _wants(Kept* k, const SampleRecord* sample) noexcept nogil:
    if k.mode == _RECORD_ALL:
        return True
    if k.mode == _NOTHING:
        return False
    if k.known and k.quality == sample.quality and k.reason == sample.reason:
        if k.mode == _RECORD_ONE_SECOND:
            if sample.mono_ns - k.mono_ns < _NS_PER_S:
                return False
        elif not (k.within_ns and sample.mono_ns - k.mono_ns >= k.within_ns):
            # What is no number differs from everything but itself.
            if isnan(sample.value) and isnan(k.value):
                return False
            if k.value == sample.value or fabs(sample.value - k.value) <= k.deadband:
                return False
    k.known = True
    k.value, k.mono_ns = sample.value, sample.mono_ns
    k.quality, k.reason = sample.quality, sample.reason
    return True
