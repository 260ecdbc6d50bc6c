"""Memory of the scan thread: reserved at its limits, present and locked as far as it is used.

Main thread only. The scan thread itself never allocates; what it touches was made ready before it
was told of it.
"""

from posix.mman cimport MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mlock, mmap, munlock

cdef extern from "<sys/mman.h>" nogil:
    int MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED
    int madvise(void* at, size_t size, int advice)

cdef enum:
    PAGE_BYTES = 4096
    ALIGNMENT = 64
    POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, since Linux 5.14; not in every libc's header


cdef uint8_t* space_reserve(size_t size) noexcept:
    cdef void* at = mmap(
        NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if at == MAP_FAILED else <uint8_t*>at


cdef void space_empty(uint8_t* at, size_t size) noexcept:
    munlock(at, size)
    madvise(at, size, MADV_DONTNEED)


cdef bint range_ready(const void* at, size_t size) noexcept:
    cdef size_t first = <size_t>at & ~<size_t>(PAGE_BYTES - 1)
    cdef size_t length = <size_t>at + size - first
    if size == 0 or mlock(<void*>first, length) == 0:
        return True
    madvise(<void*>first, length, POPULATE_WRITE)  # at least no first touch on the scan thread
    return False


cdef void* space_carve(uint8_t** at, size_t size) noexcept:
    cdef uint8_t* here = at[0]
    at[0] = here + ((size + ALIGNMENT - 1) & ~<size_t>(ALIGNMENT - 1))
    return here
