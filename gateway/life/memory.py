"""Memory that was freed goes back to the machine: packing and sending take it in waves.

glibc keeps what it may need again, per thread; on a small box that is what others lack. Where the
C library is another one there is nothing to do.
"""

import ctypes
from typing import Final

_TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """A few milliseconds at most; the interpreter's lock is free meanwhile."""
    if _TRIM is not None:
        _TRIM(0)
