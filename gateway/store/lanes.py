"""Which rows of the history an uplink gets in which lane, and their numbers there.

Every row is given to one lane of every uplink when it is committed, and never changes it: so a
message (lane, sequence) is the same content whenever it is sent. Only changes are stored: a range
stands open until the lane changes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

LIVE: Final = "live"
BACKFILL: Final = "backfill"


class Range(NamedTuple):
    """Rows ``first_row``.. of one lane; ``last_row`` None: up to the newest."""

    uplink: str
    lane: str
    first_row: int
    last_row: int | None
    first_seq: int


class Lanes:
    """The ranges of all uplinks, as they are committed, and the lane that each wishes next."""

    def __init__(self, uplinks: Sequence[str]) -> None:
        self._uplinks = tuple(uplinks)
        self._wish = dict.fromkeys(uplinks, BACKFILL)
        self._ranges: dict[tuple[str, str], list[Range]] = {}
        self.next_row = 1

    def load(self, ranges: Iterable[Range], next_row: int) -> None:
        """Begin with what the database has."""
        self._ranges = {}
        self.next_row = next_row
        for item in sorted(ranges, key=lambda r: r.first_row):
            self._ranges.setdefault((item.uplink, item.lane), []).append(item)

    def wish(self, uplink: str, lane: str) -> None:
        """Rows committed from now on belong to this lane."""
        if uplink in self._wish:
            self._wish[uplink] = lane

    def changes(self) -> list[Range]:
        """Ranges to store before the next rows: closed ones (last_row set), then new open ones."""
        changed = []
        for uplink in self._uplinks:
            lane = self._wish[uplink]
            opened = self._open(uplink)
            if opened and opened.lane == lane:
                continue
            if opened:
                changed.append(opened._replace(last_row=self.next_row - 1))
            changed.append(Range(uplink, lane, self.next_row, None, self.head(uplink, lane) + 1))
        return changed

    def take(self, changed: Iterable[Range], rows: int) -> None:
        """Adopt what was committed: changes and the number of new rows."""
        for item in changed:
            own = self._ranges.setdefault((item.uplink, item.lane), [])
            if own and own[-1].first_row == item.first_row:
                own[-1] = item
            else:
                own.append(item)
        self.next_row += rows

    def head(self, uplink: str, lane: str) -> int:
        """The last sequence of a lane, 0 where it has none."""
        own = self._ranges.get((uplink, lane))
        return self._last_seq(own[-1]) if own else 0

    def rows(
        self, uplink: str, lane: str, after: int, limit: int, from_row: int
    ) -> Iterator[tuple[int, int]]:
        """(seq, row) of the sequences above ``after`` and rows from ``from_row``, oldest first."""
        own = self._ranges.get((uplink, lane), [])
        first = max(0, bisect_right(own, after + 1, key=lambda r: r.first_seq) - 1)
        for item in own[first:]:
            start = max(after + 1, item.first_seq + max(0, from_row - item.first_row))
            for seq in range(start, self._last_seq(item) + 1):
                if limit <= 0:
                    return
                limit -= 1
                yield seq, item.first_row + seq - item.first_seq

    def count(self, first_row: int, last_row: int, cursors: dict[tuple[str, str], int]) -> int:
        """Rows in first_row .. last_row that some uplink has not acknowledged."""
        unsent: set[int] = set()
        for (uplink, lane), own in self._ranges.items():
            if uplink not in self._wish:
                continue
            cursor = cursors.get((uplink, lane), 0)
            for item in own:
                low = max(first_row, item.first_row + max(0, cursor + 1 - item.first_seq))
                high = min(last_row, self._last_row(item))
                unsent.update(range(low, high + 1))
        return len(unsent)

    def done(self, uplink: str, lane: str, cursor: int) -> list[Range]:
        """Closed ranges that are acknowledged whole; the newest of a lane keeps its numbers."""
        own = self._ranges.get((uplink, lane), [])
        return [item for item in own[:-1] if self._last_seq(item) <= cursor]

    def drop(self, ranges: Iterable[Range]) -> None:
        """Forget ranges that were deleted."""
        for item in ranges:
            self._ranges[item.uplink, item.lane].remove(item)

    def _open(self, uplink: str) -> Range | None:
        for (owner, _), own in self._ranges.items():
            if owner == uplink and own and own[-1].last_row is None:
                return own[-1]
        return None

    def _last_row(self, item: Range) -> int:
        return self.next_row - 1 if item.last_row is None else item.last_row

    def _last_seq(self, item: Range) -> int:
        return item.first_seq + self._last_row(item) - item.first_row
