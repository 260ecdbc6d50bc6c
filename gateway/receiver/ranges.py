"""Numbers that have come, as ranges: a backlog of 72 hours is one range, not millions of numbers.

Memory grows with the holes, not with the numbers; in order there are none.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence


class Ranges:
    """A set of whole numbers. ``touched`` has the first number of each range that came or went."""

    def __init__(self, ranges: Sequence[tuple[int, int]] = ()) -> None:
        self._firsts = [first for first, _ in ranges]
        self._lasts = [last for _, last in ranges]
        self.touched: set[int] = set()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    @property
    def first(self) -> int:
        """The lowest number, 0 where there is none."""
        return self._firsts[0] if self._firsts else 0

    @property
    def last(self) -> int:
        """The highest number, 0 where there is none."""
        return self._lasts[-1] if self._lasts else 0

    def last_of(self, first: int) -> int | None:
        """Where the range that begins there ends, None where none does."""
        at = bisect_left(self._firsts, first)
        return self._lasts[at] if self._firsts[at : at + 1] == [first] else None

    def add(self, first: int, last: int) -> None:
        """Put ``first..last`` in; ranges that meet become one."""
        if self._lasts and first == self._lasts[-1] + 1:  # in order, as nearly everything comes
            self._lasts[-1] = last
            self.touched.add(self._firsts[-1])
            return
        low = bisect_left(self._lasts, first - 1)  # the first range that meets it
        high = bisect_right(self._firsts, last + 1)  # behind the last one
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self.touched.update(self._firsts[low:high], (first,))
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def missing(self, first: int, last: int) -> "Ranges":
        """What of ``first..last`` is not in the set."""
        found: list[tuple[int, int]] = []
        at = first
        for own_first, own_last in self:
            if own_last < at:
                continue
            if own_first > last:
                break
            if own_first > at:
                found.append((at, own_first - 1))
            at = own_last + 1
        if at <= last:
            found.append((at, last))
        return Ranges(found)

    def count(self) -> int:
        """How many numbers."""
        return sum(last - first + 1 for first, last in self)
