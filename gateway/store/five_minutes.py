"""Samples to one line per tag and five minutes: what most people look at of a week or a year.

Made of the raw samples, and where these have gone of the five-minute values that stay. What has no
number, or is BAD, is counted apart while the raw samples are there.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from fastpath.codes import Quality
from fastpath.columns import split_quality
from gateway.store.history_file import Group, HistoryFile, Sample, Stored
from gateway.store.tiers import SPAN_NS, Line, Part, whole_spans


class Summary(NamedTuple):
    """``time_ns``: UTC, where the five minutes begin. The numbers are None where ``n`` is 0."""

    time_ns: int
    tag: str
    n: int  # samples with a number, good or uncertain
    bad: int | None  # samples without; None: not known any more
    lowest: float | None
    mean: float | None  # of the samples, each counting the same
    highest: float | None
    last: float | None


class _Open:
    """One tag's five minutes as far as they are known."""

    __slots__ = ("bad", "highest", "last", "last_ns", "lowest", "n", "total")

    def __init__(self) -> None:
        self.n = 0
        self.bad: int | None = 0
        self.total = self.last = 0.0
        self.last_ns = 0
        self.lowest = float("inf")
        self.highest = float("-inf")

    def add(self, at_ns: int, value: float, quality: int) -> None:
        if split_quality(quality)[0] == Quality.BAD or not isfinite(value):
            self.bad = None if self.bad is None else self.bad + 1
            return
        self.n += 1
        self.total += value
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        if at_ns >= self.last_ns:
            self.last_ns, self.last = at_ns, value

    def keep(self, part: Part) -> None:
        bucket = part.bucket
        self.bad = None
        if not bucket.samples:
            return
        self.n += bucket.samples
        self.total += bucket.mean * bucket.samples
        self.lowest = min(self.lowest, bucket.minimum)
        self.highest = max(self.highest, bucket.maximum)
        if part.last_ns >= self.last_ns:
            self.last_ns, self.last = part.last_ns, bucket.last

    def summary(self, time_ns: int, tag: str) -> Summary:
        if not self.n:
            return Summary(time_ns, tag, 0, self.bad, None, None, None, None)
        mean = self.total / self.n
        return Summary(time_ns, tag, self.n, self.bad, self.lowest, mean, self.highest, self.last)


class FiveMinutes:
    """Takes blocks by their first times; holds the spans that a later one may still touch."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, _Open]] = {}

    def add(self, samples: Sequence[Sample]) -> None:
        """Samples of a block."""
        for at_ns, tag, value, quality in samples:
            self._span(tag, at_ns - at_ns % SPAN_NS).add(at_ns, value, quality)

    def keep(self, tag: str, parts: Sequence[Part]) -> None:
        """The same with what is left of samples that have gone."""
        for part in parts:
            self._span(tag, part.bucket.t_ns).keep(part)

    def before(self, end_ns: int) -> list[Summary]:
        """What begins before that, tag by tag: nothing more comes of it."""
        return [
            spans.pop(begin).summary(begin, tag)
            for tag, spans in self._open.items()
            for begin in sorted(spans)
            if begin < end_ns
        ]

    def _span(self, tag: str, begin: int) -> _Open:
        spans = self._open.setdefault(tag, {})
        span = spans.get(begin)
        if span is None:
            span = spans[begin] = _Open()
        return span


def together(groups: Iterable[Group], wanted: frozenset[str]) -> list[list[Group]]:
    """Groups that have a wanted tag in common: a reload that changes a group makes another one."""
    found: list[tuple[set[str], list[Group]]] = []
    for group in groups:
        tags, own = set(wanted.intersection(group.tags)), [group]
        for other in [each for each in found if not each[0].isdisjoint(tags)]:
            found.remove(other)
            tags |= other[0]
            own = other[1] + own
        if tags:
            found.append((tags, own))
    return [own for _, own in found]


def summaries(
    history: HistoryFile, groups: Sequence[Group], wanted: frozenset[str], t0_ns: int, t1_ns: int
) -> Iterator[tuple[list[Summary], int]]:
    """The wanted tags' five minutes that touch t0 .. t1, and how many samples were read for them.

    In parts; those of one tag rise in time, also where a clock was set back. Raises StoreError.
    """
    low, high = whole_spans(t0_ns, t1_ns)
    whole = False
    while not whole:  # else it was packed meanwhile: again from what is not given yet
        five, whole = FiveMinutes(), True
        places = [
            (place, group)
            for group in groups
            for place in history.five_minutes_places(group, low, high)
        ]
        places.sort(key=lambda found: found[0].t_first)
        for place, group in places:
            cut = place.t_first // SPAN_NS * SPAN_NS
            if cut > low:
                yield five.before(cut), 0
                low = cut
            blocks = history.five_minutes_at(place, group, low, high)
            if blocks is None:
                whole = False
                break
            for stored in blocks:
                yield [], _take(five, history, stored, group, wanted, (low, high))
        else:
            yield five.before(high + 1), 0


def first_of(
    history: HistoryFile, tag: str, t0_ns: int, t1_ns: int, *, limit: int, within_s: float
) -> tuple[list[Summary], int | None]:
    """The first five minutes of a tag that touch t0 .. t1, at most ``limit``, and where to go on.

    None: that was all. Something comes of every call, or the time goes on. Raises StoreError.
    """
    end = time.monotonic() + within_s
    while True:
        found = _first_of(history, tag, whole_spans(t0_ns, t1_ns), limit, end)
        if found is not None:
            return found


def _first_of(
    history: HistoryFile, tag: str, span: tuple[int, int], limit: int, end: float
) -> tuple[list[Summary], int | None] | None:
    """None: something was packed meanwhile.

    By first times, which are not in the order of storing where a clock was set back: what begins
    before the time that is given as the next has been read.
    """
    low, high = span
    groups = [group for group in history.groups() if tag in group.tags]
    begins = [at for group in groups if (at := history.begins(group, low)) is not None]
    if not begins or min(begins) > high:
        return [], None
    low = whole_spans(min(begins), high)[0]
    last = min(high, low + limit * SPAN_NS - 1)
    five = FiveMinutes()
    for group in groups:
        for place in history.five_minutes_places(group, low, last):
            cut = place.t_first // SPAN_NS * SPAN_NS
            if low < cut <= last and time.monotonic() > end:
                last = cut - 1  # what is before it is whole
                break
            blocks = history.five_minutes_at(place, group, low, last)
            if blocks is None:
                return None
            for stored in blocks:
                _take(five, history, stored, group, frozenset((tag,)), (low, last))
    return five.before(last + 1), None if last >= high else last + 1


def _take(
    five: FiveMinutes,
    history: HistoryFile,
    stored: Line | Stored,
    group: Group,
    wanted: frozenset[str],
    span: tuple[int, int],
) -> int:
    """What a line or a block has of the wanted tags; gives how many samples that were."""
    if isinstance(stored, Line):
        for tag, parts in history.parts_in(stored, group, wanted, *span):
            five.keep(tag, parts)
        return 0
    count = 0
    for samples in history.samples_in(stored, group, wanted, *span):
        five.add(samples)
        count += len(samples)
    return count
