"""The check of a program before it runs. Main thread only: it walks the whole blob."""

from libc.stdint cimport uint8_t

# 0: every rule but the hash holds; else the number of the first rule (1 to 14) that does not.
# ``program.verify`` checks the hash too.
cdef int program_verify(const uint8_t* blob, size_t size) noexcept nogil
