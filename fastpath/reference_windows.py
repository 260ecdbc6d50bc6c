"""Windows in plain Python: what a tag did in the time just past, told by the list of its samples.

Part of the reference (``reference``): written for reading, never run on site. A good value counts
from its sample to the next one, or until it is stale. Time is cut into 64ths of the span; each part
is summed for itself, sample after sample, then the parts from the oldest to the newest, then what
the newest value holds: in this order, so that sums of doubles are the same everywhere.
"""

from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = 64
SECOND_NS: Final = 1_000_000_000
NOT_COVERED: Final = 5  # at most one fifth of the span may lie uncovered


@dataclass(frozen=True, slots=True)
class Scale:
    """Of a window's tag: how long a value counts, and between which ends a counter runs."""

    stale_after_ns: int = 0  # 0: for ever
    ends: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """``value`` None: from here on nothing is held."""

    at_ns: int
    value: float | None


@dataclass(slots=True)
class Part:
    """One 64th of the span."""

    total: float = 0.0  # of mean, delta, total
    covered_ns: int = 0
    stood: list[float] = field(default_factory=list)  # values that it saw, in their order


@dataclass(slots=True)
class Window:
    """One window from its begin on."""

    kind: str  # mean rate delta lowest highest total
    span_ns: int
    samples: list[Sample] = field(default_factory=list)

    def take(self, at_ns: int, value: float | None) -> None:
        """A sample; one that is older than the newest counts as if it came with that."""
        if self._newest_good() is not None:
            at_ns = max(at_ns, self.samples[-1].at_ns)
        self.samples.append(Sample(at_ns, value))

    def restart(self) -> None:
        """Nobody read the tag for a while: the value was held until its last sample."""
        if self.samples:
            self.samples.append(Sample(self.samples[-1].at_ns, None))

    def number(self, scale: Scale, now_ns: int) -> float | None:
        """What it tells, None while it is not covered."""
        width_ns = max(self.span_ns // BUCKETS, 1)
        good = [each.at_ns for each in self.samples if each.value is not None]
        newest = max(now_ns // width_ns, *(at_ns // width_ns for at_ns in good[-1:]), 0)
        parts = {number: Part() for number in range(newest - BUCKETS + 1, newest + 1)}
        self._fill(parts, width_ns, scale)
        held_ns, held = self._held(min(parts) * width_ns, scale, now_ns)
        covered_ns = sum(each.covered_ns for each in parts.values()) + held_ns
        if covered_ns < self.span_ns - self.span_ns // NOT_COVERED:
            return None
        return self._told(list(parts.values()), covered_ns, held_ns, held)

    def _told(self, parts: list[Part], covered_ns: int, held_ns: int, held: float) -> float:
        stood = [value for each in parts for value in each.stood]
        if held_ns:
            stood.append(held)
        total = 0.0
        for each in parts:
            total += each.total
        match self.kind:
            case "mean":
                if held_ns:
                    total += held * float(held_ns)
                return total / float(covered_ns)
            case "lowest":
                return min(stood)
            case "highest":
                return max(stood)
            case "rate":
                last = self._newest_good() or 0.0
                return (last - stood[0]) / (float(covered_ns) / float(SECOND_NS))
        return total

    def _newest_good(self) -> float | None:
        values = [each.value for each in self.samples if each.value is not None]
        return values[-1] if values else None

    def _fill(self, parts: dict[int, Part], width_ns: int, scale: Scale) -> None:
        """Every sample in its order: what was held up to it, then itself."""
        first_ns = min(parts) * width_ns
        before: Sample | None = None
        counted: float | None = None  # the last good value, over gaps
        for sample in self.samples:
            if before is not None and before.value is not None:
                end_ns = _held_until(before, scale, sample.at_ns)
                self._hold(parts, width_ns, (max(before.at_ns, first_ns), end_ns), before.value)
            part = parts.get(sample.at_ns // width_ns, Part())
            if sample.value is not None:
                if self.kind == "total":
                    part.total += sample.value
                elif self.kind == "delta" and counted is not None:
                    part.total += _increment(counted, sample.value, scale.ends)
                part.stood.append(sample.value)
                counted = sample.value
            before = sample

    def _hold(
        self, parts: dict[int, Part], width_ns: int, during: tuple[int, int], value: float
    ) -> None:
        at_ns, end_ns = during
        while at_ns < end_ns:
            number = at_ns // width_ns
            edge_ns = min((number + 1) * width_ns, end_ns)
            parts[number].covered_ns += edge_ns - at_ns
            parts[number].stood.append(value)
            if self.kind == "mean":
                parts[number].total += value * float(edge_ns - at_ns)
            at_ns = edge_ns

    def _held(self, first_ns: int, scale: Scale, now_ns: int) -> tuple[int, float]:
        """(for how long the newest value has counted since its sample, that value)."""
        if not self.samples or self.samples[-1].value is None:
            return 0, 0.0
        newest = self.samples[-1]
        end_ns = _held_until(newest, scale, now_ns)
        return max(end_ns - max(newest.at_ns, first_ns), 0), float(newest.value or 0.0)


def _held_until(sample: Sample, scale: Scale, until_ns: int) -> int:
    if scale.stale_after_ns:
        return min(until_ns, sample.at_ns + scale.stale_after_ns)
    return until_ns


def _increment(before: float, after: float, ends: tuple[float, float] | None) -> float:
    """What a counter counted: a step back is a wrap, end to begin, or it began anew."""
    if after >= before:
        return after - before
    if ends is None:
        return max(after, 0.0)
    low, high = ends
    quarter = high / 4.0 - low / 4.0
    if before >= high - quarter and after <= low + quarter:
        return max((high - before) + (after - low), 0.0)
    return max(after - low, 0.0)
