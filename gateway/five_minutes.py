"""Samples to one line per tag and five minutes: what most people look at of a week or a year.

Made of the raw samples that are there. What has no number, or is BAD, is counted apart.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Final, NamedTuple

from fastpath.codes import Quality
from fastpath.columns import split_quality
from gateway.store.history_file import Sample

SPAN_NS: Final = 300 * 1_000_000_000
_OPEN_MAX: Final = 2  # spans of a tag: those of neighbouring blocks may overlap a little


class Summary(NamedTuple):
    """``time_ns``: UTC, where the five minutes begin. The numbers are None where ``n`` is 0."""

    time_ns: int
    tag: str
    n: int  # samples with a number, good or uncertain
    bad: int  # samples without
    lowest: float | None
    mean: float | None  # of the samples, each counting the same
    highest: float | None
    last: float | None


class _Open:
    """One tag's five minutes as far as they are known."""

    __slots__ = ("bad", "highest", "last", "last_ns", "lowest", "n", "total")

    def __init__(self) -> None:
        self.n = self.bad = 0
        self.total = self.last = 0.0
        self.last_ns = 0
        self.lowest = float("inf")
        self.highest = float("-inf")

    def add(self, at_ns: int, value: float, quality: int) -> None:
        if split_quality(quality)[0] == Quality.BAD or not isfinite(value):
            self.bad += 1
            return
        self.n += 1
        self.total += value
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        if at_ns >= self.last_ns:
            self.last_ns, self.last = at_ns, value

    def summary(self, time_ns: int, tag: str) -> Summary:
        if not self.n:
            return Summary(time_ns, tag, 0, self.bad, None, None, None, None)
        mean = self.total / self.n
        return Summary(time_ns, tag, self.n, self.bad, self.lowest, mean, self.highest, self.last)


class FiveMinutes:
    """Takes samples tag by tag as time goes on; holds two spans of each tag."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, _Open]] = {}

    def add(self, samples: Sequence[Sample]) -> list[Summary]:
        """What is finished with these."""
        done: list[Summary] = []
        for at_ns, tag, value, quality in samples:
            spans = self._open.setdefault(tag, {})
            begin = at_ns - at_ns % SPAN_NS
            span = spans.get(begin)
            if span is None:
                if len(spans) == _OPEN_MAX:
                    oldest = min(spans)
                    done.append(spans.pop(oldest).summary(oldest, tag))
                span = spans[begin] = _Open()
            span.add(at_ns, value, quality)
        return done

    def end(self) -> Iterator[Summary]:
        """What is open still, tag by tag."""
        for tag, spans in self._open.items():
            for begin in sorted(spans):
                yield spans[begin].summary(begin, tag)
        self._open.clear()
