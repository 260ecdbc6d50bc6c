"""The change from one program to another at a scan's border, with all state that they share."""

from libc.stdint cimport uint8_t

from fastpath.journal cimport Stamp
from fastpath.runtime cimport Parts, Runtime

cdef bint swap_allowed(
    const Parts* parts, const Runtime* old, const Runtime* new, const Stamp* now) noexcept nogil
cdef void swap_merge(
    Parts* parts, Runtime* old, Runtime* new, const uint8_t* command_id, const Stamp* now,
) noexcept nogil
