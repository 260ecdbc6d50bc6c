"""TagImage: the newest value, quality and times of each tag, in slots of one cache line.

The guard lays the same slots into guard.shm (``image.pxd`` has the writer's and reader's rules);
this class is an image of the process's own: the gateway's, and the tests'.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from fastpath.types cimport _Q_BAD, _REASON_UNREADABLE, SampleRecord, Slot

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** memptr, size_t alignment, size_t size)


cdef class TagImage:
    """``count`` slots, all never read at first."""

    def __cinit__(self, uint32_t count):
        cdef void* memory = NULL
        cdef size_t size = <size_t>count * sizeof(Slot)
        if posix_memalign(&memory, 64, size if size else 64) != 0:
            raise MemoryError
        memset(memory, 0, size)
        self.slots = <Slot*>memory
        self.count = count

    def __dealloc__(self):
        free(self.slots)

    def apply(self, const uint8_t[::1] samples not None) -> int:
        """Store messages.SAMPLE records; returns how many were stored.

        Left out: a slot outside the image, and what is older than what stands there.
        Raises ValueError when the length is not a whole number of records.
        """
        cdef Py_ssize_t i, n = samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord)
        cdef const SampleRecord* record
        cdef uint32_t stored = 0
        cdef Slot* s
        if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
            raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
        if n == 0:
            return 0
        record = <const SampleRecord*>&samples[0]
        for i in range(n):
            if record[i].slot >= self.count:
                continue
            s = &self.slots[record[i].slot]
            if record[i].mono_ns < s.mono_ns:
                continue
            slot_write(
                s, record[i].value, record[i].quality, record[i].reason,
                record[i].mono_ns, record[i].utc_ns, 0,
            )
            stored += 1
        return stored

    def put(
        self, uint32_t i, double value, uint8_t quality, uint8_t reason,
        int64_t mono_ns, int64_t utc_ns, int64_t source_utc_ns,
    ) -> None:
        """Store one value. Raises IndexError."""
        if i >= self.count:
            raise IndexError(i)
        slot_write(&self.slots[i], value, quality, reason, mono_ns, utc_ns, source_utc_ns)

    def get(self, uint32_t i) -> tuple:
        """(value, quality, reason, mono_ns, utc_ns, source_utc_ns). Raises IndexError."""
        cdef Slot copy
        if i >= self.count:
            raise IndexError(i)
        if not slot_read(&self.slots[i], &copy):
            return float("nan"), _Q_BAD, _REASON_UNREADABLE, 0, 0, 0
        return (
            copy.value, copy.quality, copy.reason,
            copy.mono_ns, copy.utc_ns, copy.source_utc_ns,
        )
