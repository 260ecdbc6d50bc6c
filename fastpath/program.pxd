"""The program, whole: what other modules of the scan thread cimport of it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastpath.evaluate cimport Register, program_evaluate, truth_of
from fastpath.image cimport TagImage
from fastpath.layout cimport (
    _REG_COUNT,
    _REG_NUMBER,
    _REG_TRUTH,
    ProgramView,
    program_open,
)
from fastpath.nodes cimport node_begin, node_check, node_lose, node_seal
from fastpath.types cimport NodeState, SampleRecord, WindowState
from fastpath.verify cimport program_verify
from fastpath.windows cimport WindowBank, WindowRun


cdef class Conditions:
    cdef bytes blob  # what the view's pointers point into
    cdef ProgramView view
    cdef TagImage image
    cdef NodeState* nodes
    cdef uint32_t* seals
    cdef WindowBank windows
    cdef Register* regs
    cdef int64_t now_ns
    cdef uint32_t* watched
    cdef uint8_t* told
    cdef uint32_t watched_count
    cdef uint32_t* slots
    cdef uint32_t slot_count

    cdef void _scan(self, int64_t now_ns) noexcept nogil
    cdef Register* _register(self, uint32_t register, int kind) except NULL
    cdef void _take(self, const SampleRecord* record) noexcept nogil
    cdef int _tell(self, int64_t mono_ns, int64_t utc_ns, list changes) except -1
