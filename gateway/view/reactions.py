"""Trip reactions as a histogram: from the deciding sample's arrival to the first write of the trip.

The recorder shows every event of the journal; those that say "confirmed" carry both stamps. An
event that is read again after a restart of the gateway counts again in the new process alone.
"""

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from fastpath.codes import EventType
from fastpath.records import payload_of

if TYPE_CHECKING:
    from fastpath.records import Event

# Upper bounds, nanoseconds: 50 us to 1 s.
BOUNDS_NS: Final = (
    50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000,
    50_000_000, 100_000_000, 200_000_000, 500_000_000, 1_000_000_000,
)  # fmt: skip


class ReactionCounts(NamedTuple):
    """Counts per bucket (the last one is beyond all bounds) and their sum."""

    counts: tuple[int, ...]
    sum_ns: int

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound in seconds as text, count up to it), the last one "+Inf"."""
        rows, total = [], 0
        for bound_ns, count in zip(BOUNDS_NS, self.counts, strict=False):
            total += count
            rows.append((f"{bound_ns / 1e9:.10g}", total))
        return [*rows, ("+Inf", total + self.counts[-1])]


class Reactions:
    """Fed with every journal event, in order; plain integers."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0

    def observe(self, event: "Event") -> None:
        """Count one reaction, if the event is the confirmation of a trip with both stamps."""
        if event.type != EventType.OUT_CONFIRMED:
            return
        payload = payload_of(event)
        demand_ns, wire_ns = payload["demand_ns"], payload["wire_ns"]
        if demand_ns <= 0 or wire_ns < demand_ns:
            return  # a trip by hand, or one restored: there was no deciding sample
        took_ns = wire_ns - demand_ns
        self._counts[bisect_left(BOUNDS_NS, took_ns)] += 1
        self._sum_ns += took_ns

    def counts(self) -> ReactionCounts:
        """A copy of the counts."""
        return ReactionCounts(tuple(self._counts), self._sum_ns)
