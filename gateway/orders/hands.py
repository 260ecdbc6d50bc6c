"""Who trips what by hand: noted before the guard acts, so that the alert of its record can say so.

The guard's record of a trip has no name. A trip straight at the guard, or one whose record is read
by a later gateway, is told without it; the audit and the guard's journal have it.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

KEPT_NS: Final = 60_000_000_000
KEPT_MAX: Final = 64


class Hand(NamedTuple):
    """One trip by hand."""

    who: str
    reason: str
    mono_ns: int


class Hands:
    """The newest by interlock key."""

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._newest: dict[int, Hand] = {}

    def note(self, key: int, who: str, reason: str) -> None:
        """Somebody is about to trip the interlock with this key."""
        self._newest.pop(key, None)
        self._newest[key] = Hand(who, reason, self._monotonic_ns())
        while len(self._newest) > KEPT_MAX:
            del self._newest[next(iter(self._newest))]

    def of(self, key: int, mono_ns: int) -> Hand | None:
        """Who tripped it at this monotonic time, None where nobody of ours did."""
        hand = self._newest.get(key)
        if hand is None or not hand.mono_ns <= mono_ns <= hand.mono_ns + KEPT_NS:
            return None
        return hand
