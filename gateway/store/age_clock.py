"""The time by which samples are judged old: a clock that leaps makes nothing old at once.

Somebody sets the wrong year, a receiver's week rolls over: what was kept for a month would be gone
in minutes, and the clock right again. A leap, ahead or back, is followed once it has lasted for a
day; until then the earlier time counts, by which less is old. Time in which nothing runs is a leap
as well. What is believed is to be kept: else a restart would follow a leap at once.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

LEAP_NS: Final = 3_600 * 1_000_000_000  # beside what has passed since; less is believed
LASTS_NS: Final = 86_400 * 1_000_000_000


class Belief(NamedTuple):
    """UTC ns, and for how many ns of running the clock has said another one; None: it does not."""

    utc_ns: int
    lasted_ns: int | None = None


class AgeClock:
    """UTC ns, but for leaps. Before ``begin`` it is UTC."""

    def __init__(self, utc_ns: Callable[[], int], monotonic_ns: Callable[[], int]) -> None:
        self.belief: Belief | None = None  # when it was asked last
        self._utc_ns = utc_ns
        self._monotonic_ns = monotonic_ns
        self._asked_ns = 0

    def begin(self, belief: Belief) -> None:
        """Go on from a time that was believed before."""
        self.belief, self._asked_ns = belief, self._monotonic_ns()

    def now_ns(self) -> int:
        """To be asked now and then, so that what is slewed is no leap."""
        utc_ns, monotonic_ns = self._utc_ns(), self._monotonic_ns()
        if self.belief is None:
            return utc_ns
        step_ns, self._asked_ns = monotonic_ns - self._asked_ns, monotonic_ns
        passed_ns, lasted_ns = self.belief.utc_ns + step_ns, self.belief.lasted_ns
        if abs(utc_ns - passed_ns) < LEAP_NS:
            self.belief = Belief(utc_ns)
        elif lasted_ns is None:
            self.belief = Belief(passed_ns, 0)
        elif lasted_ns + step_ns < LASTS_NS:
            self.belief = Belief(passed_ns, lasted_ns + step_ns)
        else:
            self.belief = Belief(utc_ns)
        return min(utc_ns, self.belief.utc_ns)
