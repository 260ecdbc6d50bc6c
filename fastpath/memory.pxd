"""Address space taken at a limit, of which only what a program needs becomes memory."""

from libc.stdint cimport uint8_t

# Zeroed, page-aligned address space that takes no memory yet; NULL: there is none.
cdef uint8_t* space_reserve(size_t size) noexcept

# Give all its memory back: zero again.
cdef void space_empty(uint8_t* at, size_t size) noexcept

# Have these bytes present from now on, what stands there kept; False: they could not be locked.
cdef bint range_ready(const void* at, size_t size) noexcept

# The next ``size`` bytes of a space that is laid out from ``at`` on, which moves past them.
cdef void* space_carve(uint8_t** at, size_t size) noexcept
