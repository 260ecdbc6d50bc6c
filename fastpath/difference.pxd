"""What a change of program changes: which record became which, and what is weaker than before."""

from libc.stdint cimport int32_t, int64_t, uint32_t

from fastpath.runtime cimport Runtime
from fastpath.types cimport InterlockDef

cdef void difference_of(Runtime* new, const Runtime* old) except *
cdef bint has_effect(
    const Runtime* rt, const InterlockDef* d, int32_t output, int64_t delay_ns, bint exactly,
) noexcept nogil
cdef bint keeps_fallbacks(const Runtime* new, const Runtime* old, uint32_t k) noexcept nogil
