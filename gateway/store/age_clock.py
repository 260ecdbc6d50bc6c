"""The time by which samples are judged old: a clock that leaps ahead makes nothing old at once.

Somebody sets the wrong year, a receiver's week rolls over: what was kept for a month would be gone
in minutes, and the clock right again. What a leap makes old goes once it has lasted for a day.
"""

from collections.abc import Callable
from typing import Final

LEAP_NS: Final = 3_600 * 1_000_000_000  # ahead of what has passed since; less is believed
LASTS_NS: Final = 86_400 * 1_000_000_000


class AgeClock:
    """UTC ns, but for leaps ahead, which it follows a day late. Before ``begin`` it is UTC."""

    def __init__(self, utc_ns: Callable[[], int], monotonic_ns: Callable[[], int]) -> None:
        self._utc_ns = utc_ns
        self._monotonic_ns = monotonic_ns
        self._believed: tuple[int, int] | None = None  # UTC, at a monotonic time
        self._leapt_ns: int | None = None  # monotonic

    @property
    def begun(self) -> bool:
        """Whether it has a time to start from."""
        return self._believed is not None

    def begin(self, utc_ns: int) -> None:
        """It was this late at least when the newest sample was stored."""
        self._believed = utc_ns, self._monotonic_ns()

    def now_ns(self) -> int:
        """To be asked now and then, so that what is slewed is no leap."""
        utc_ns, monotonic_ns = self._utc_ns(), self._monotonic_ns()
        if self._believed is None:
            return utc_ns
        passed_ns = self._believed[0] + monotonic_ns - self._believed[1]
        if utc_ns - passed_ns >= LEAP_NS:
            if self._leapt_ns is None:
                self._leapt_ns = monotonic_ns
            if monotonic_ns - self._leapt_ns < LASTS_NS:
                return passed_ns
        self._leapt_ns = None
        self._believed = utc_ns, monotonic_ns
        return utc_ns
