"""Whether the wall clock is synchronised, by the kernel's own word (NTP, PTP or a GPS daemon)."""

import ctypes
from functools import cache
from typing import Any, Final

_TIME_ERROR: Final = 5  # the kernel: the clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has; modes = 0 only reads


def synchronised() -> bool:
    """True while something keeps the clock; False where that cannot be known."""
    state: int = _adjtimex()(ctypes.create_string_buffer(_TIMEX_BYTES))
    return 0 <= state < _TIME_ERROR


@cache
def _adjtimex() -> Any:
    function = getattr(ctypes.CDLL(None), "adjtimex", None)
    return function or (lambda _buffer: -1)
