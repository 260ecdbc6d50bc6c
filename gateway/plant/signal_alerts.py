"""Alerts about the signals of one device's tags: loops that failed, jumps, resets, still values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.life.problems import Problems

KIND: Final = "signal"
WELL_NS: Final = 10_000_000_000  # without trouble until it is over: no alert for each flicker


class SignalAlerts:
    """Told of every reading of a conditioned tag; ``ids`` are the tags by point."""

    def __init__(self, ids: Sequence[str], problems: "Problems") -> None:
        self._ids = ids
        self._problems = problems
        self._newest_ns: dict[int, int] = {}  # of those in trouble: their newest
        self._unseen = set(range(len(ids)))  # an earlier life may have raised something

    def look(self, point: int, trouble: str, mono_ns: int) -> None:
        """What the newest reading of a point says; "" for nothing."""
        if trouble:
            self._unseen.discard(point)
            self._newest_ns[point] = mono_ns
            self._problems.raised(KIND, self._ids[point], trouble)
            return
        since_ns = self._newest_ns.get(point)
        if since_ns is not None and mono_ns - since_ns >= WELL_NS:
            del self._newest_ns[point]
            self._well(point)
        elif since_ns is None and point in self._unseen:
            self._unseen.discard(point)
            self._well(point)

    def _well(self, point: int) -> None:
        self._problems.cleared(KIND, self._ids[point], "the signal is well")
