"""How a life begins: states by key from the shared file, its journal, or a clean stop."""

from libc.stdint cimport int64_t, uint32_t

from fastpath.journal cimport Stamp
from fastpath.runtime cimport Parts, Runtime

cdef uint32_t runtime_recover(
    Parts* parts, Runtime* rt, dict interlocks, dict outputs, bint power_loss,
    const Stamp* now) except? 0xFFFFFFFF
cdef tuple runtime_latches(const Runtime* rt, int64_t boot_ns)
# After the bypasses were recovered: the end of those that the journal began and nobody knows.
cdef void runtime_tell_bypasses(Parts* parts, Runtime* rt, const Stamp* now) except *
