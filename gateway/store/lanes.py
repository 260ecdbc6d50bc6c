"""Which samples an uplink gets in which lane, and their numbers there.

Every piece is given to one lane of every uplink when it is committed, and never changes it. In the
live lane a piece is a message. In backfill its samples leave once they are packed, as messages of
chunks: those are numbered then. So a message (lane, sequence) has the same content whenever it is
sent. Only changes are stored: a range of pieces stands open until the lane changes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

LIVE: Final = "live"
BACKFILL: Final = "backfill"
CHANGES_MAX: Final = 8  # of an uplink's lane, one after another
COMMITS_PER_CHANGE: Final = 10  # until it may change once more: a window ends with each change


class Range(NamedTuple):
    """Pieces ``first_piece``.. of one lane; ``last_piece`` None: up to the newest."""

    uplink: str
    lane: str
    first_piece: int
    last_piece: int | None
    first_seq: int  # 0 in backfill


class MessageRange(NamedTuple):
    """Messages of chunks that an uplink gets as backfill."""

    uplink: str
    first_message: int
    last_message: int
    first_seq: int


class Run(NamedTuple):
    """Sequences ``seq``.. of a lane, with the numbers ``number``.. of their pieces or messages."""

    seq: int
    number: int
    size: int

    def above(self, after: int, number_min: int) -> "Run":
        """What of it is above a sequence and from a number on; ``size`` may be 0."""
        skipped = max(0, after + 1 - self.seq, number_min - self.number)
        return Run(self.seq + skipped, self.number + skipped, max(0, self.size - skipped))


class Lanes:
    """The ranges of all uplinks, as they are committed, and the lane that each wishes next."""

    def __init__(self, uplinks: Sequence[str]) -> None:
        self.uplinks = tuple(uplinks)
        self._wish = dict.fromkeys(uplinks, BACKFILL)
        self._credit = dict.fromkeys(uplinks, float(CHANGES_MAX))
        self._pieces: dict[tuple[str, str], list[Range]] = {}
        self._messages: dict[str, list[MessageRange]] = {}
        self._ended: dict[tuple[str, str], int] = {}  # last sequences of lanes without a range
        self.next_piece = 1
        self.next_message = 1
        self.packed_to = 0

    def load(
        self,
        numbers: tuple[int, int, int],
        pieces: Iterable[Range],
        messages: Iterable[MessageRange],
        cursors: Mapping[tuple[str, str], int],
    ) -> None:
        """Begin with what the database has; ``numbers``: next piece, next message, packed to.

        A lane that has a cursor and no range was forgotten with its cursor at its last message.
        """
        self.next_piece, self.next_message, self.packed_to = numbers
        self._ended = dict(cursors)
        self._pieces = {}
        self._messages = {}
        for item in sorted(pieces, key=lambda r: r.first_piece):
            self._pieces.setdefault((item.uplink, item.lane), []).append(item)
        for sent in sorted(messages, key=lambda r: r.first_message):
            self._messages.setdefault(sent.uplink, []).append(sent)

    # ---- the lane of what is committed ---------------------------------------------------------

    def wish(self, uplink: str, lane: str) -> None:
        """Pieces committed from now on belong to this lane.

        After many changes in a row the way back to live takes a few more commits.
        """
        if uplink in self._wish:
            self._wish[uplink] = lane

    def changes(self) -> list[Range]:
        """Ranges to store before the next pieces: closed ones (last_piece set), then open ones."""
        changed = []
        for uplink in self.uplinks:
            lane, opened = self._wish[uplink], self._open(uplink)
            if opened and (opened.lane == lane or not self._may_change(uplink)):
                continue
            if opened:
                changed.append(opened._replace(last_piece=self.next_piece - 1))
            first_seq = self.head(uplink, LIVE) + 1 if lane == LIVE else 0
            changed.append(Range(uplink, lane, self.next_piece, None, first_seq))
        return changed

    def take(self, changed: Iterable[Range], pieces: int) -> None:
        """Adopt what was committed: changes and the number of new pieces."""
        for uplink, credit in self._credit.items():
            self._credit[uplink] = min(float(CHANGES_MAX), credit + 1 / COMMITS_PER_CHANGE)
        for item in changed:
            own = self._pieces.setdefault((item.uplink, item.lane), [])
            if own and own[-1].first_piece == item.first_piece:
                own[-1] = item
            else:
                own.append(item)
                self._credit[item.uplink] = self._credit.get(item.uplink, 1.0) - 1
        self.next_piece += pieces

    def orphans(self) -> list[Range]:
        """Open ranges of uplinks that the site no longer has, closed: they get nothing more."""
        return [
            own[-1]._replace(last_piece=self.next_piece - 1)
            for (uplink, _), own in self._pieces.items()
            if uplink not in self._wish and own and own[-1].last_piece is None
        ]

    # ---- sequences -----------------------------------------------------------------------------

    def head(self, uplink: str, lane: str) -> int:
        """The last sequence of a lane, 0 where it has none."""
        runs = self._runs(uplink, lane)
        if not runs:
            return self._ended.get((uplink, lane), 0)
        return runs[-1].seq + runs[-1].size - 1

    def run(self, uplink: str, lane: str, after: int, number_min: int) -> Run | None:
        """The first unbroken run of a lane above ``after``, of numbers from ``number_min`` on."""
        runs = self._runs(uplink, lane)
        first = max(0, bisect_right(runs, after + 1, key=lambda r: r.seq) - 1)
        rest = (run.above(after, number_min) for run in runs[first:])
        return next((run for run in rest if run.size), None)

    def done(self, uplink: str, lane: str, cursor: int) -> list[int]:
        """First numbers of ranges that are acknowledged whole; a lane's newest keeps its count."""
        return [
            run.number for run in self._runs(uplink, lane)[:-1] if run.seq + run.size - 1 <= cursor
        ]

    def drop(self, uplink: str, lane: str, numbers: Sequence[int]) -> None:
        """Forget ranges that were deleted."""
        gone = set(numbers)
        if lane == BACKFILL:
            sent = self._messages.get(uplink, [])
            self._messages[uplink] = [item for item in sent if item.first_message not in gone]
        else:
            own = self._pieces.get((uplink, lane), [])
            self._pieces[uplink, lane] = [item for item in own if item.first_piece not in gone]

    def waiting(self, cursors: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """Messages that each uplink does not have yet, by uplink and lane.

        Those that the site has no more are included; a piece that is not packed yet counts as one.
        """
        found: dict[tuple[str, str], int] = {}
        for uplink in {uplink for uplink, _ in self._pieces} | self._messages.keys():
            for lane in (LIVE, BACKFILL):
                runs = self._runs(uplink, lane)
                after = cursors.get((uplink, lane), 0)
                found[uplink, lane] = max(0, self.head(uplink, lane) - after) if runs else 0
            found[uplink, BACKFILL] += self.unnumbered(uplink)
        return found

    def unnumbered(self, uplink: str) -> int:
        """Pieces that an uplink gets as backfill once they are packed."""
        return sum(
            max(0, self._last_piece(item) - max(item.first_piece - 1, self.packed_to))
            for item in self._pieces.get((uplink, BACKFILL), [])
        )

    def forget(self, uplink: str, lanes: Sequence[str] = (LIVE, BACKFILL)) -> None:
        """Nothing of these is owed any more; one that comes back goes on behind its numbers."""
        for lane in lanes:
            self._ended[uplink, lane] = self.head(uplink, lane)
            self._pieces.pop((uplink, lane), None)
        if BACKFILL in lanes:
            self._messages.pop(uplink, None)

    # ---- packing -------------------------------------------------------------------------------

    def border(self) -> int:
        """The last piece up to which what is not packed is of one lane for every uplink."""
        first = self.packed_to + 1
        ends = [self.next_piece - 1]
        for (_, lane), own in self._pieces.items():
            if lane == BACKFILL:
                ends += [item.first_piece - 1 for item in own]
                ends += [self._last_piece(item) for item in own]
        return min((end for end in ends if end >= first), default=self.packed_to)

    def owed(self, piece: int) -> list[str]:
        """The uplinks that get a piece as backfill, once it is packed."""
        return [
            uplink
            for (uplink, lane), own in self._pieces.items()
            if lane == BACKFILL
            and any(item.first_piece <= piece <= self._last_piece(item) for item in own)
        ]

    def missed(self) -> int:
        """The last unpacked piece that an uplink has missed which is live again; 0: none."""
        return max(
            (
                self._last_piece(own[-1])
                for uplink, own in self._unpacked()
                if own[-1].last_piece is not None
                or (self._wish[uplink] == LIVE and self._may_change(uplink))
            ),
            default=0,
        )

    def hungry(self, cursors: dict[tuple[str, str], int]) -> int:
        """The last piece that should be packed now, whatever its window; 0: none.

        Those that were missed, and those of an uplink that has no other backfill to send.
        """
        idle = (
            self._last_piece(own[-1])
            for uplink, own in self._unpacked()
            if self.head(uplink, BACKFILL) <= cursors.get((uplink, BACKFILL), 0)
        )
        return max(self.missed(), *idle, 0)

    def number(self, piece: int, messages: int) -> list[MessageRange]:
        """Ranges to store for the next messages, those of a window that ends with ``piece``."""
        first, last = self.next_message, self.next_message + messages - 1
        found = []
        for uplink in self.owed(piece) if messages else []:
            own = self._messages.get(uplink, [])
            if own and own[-1].last_message == first - 1:
                found.append(own[-1]._replace(last_message=last))
            else:
                found.append(MessageRange(uplink, first, last, self.head(uplink, BACKFILL) + 1))
        return found

    def packed(self, piece: int, messages: int, ranges: Iterable[MessageRange]) -> None:
        """Adopt what was packed up to a piece."""
        for item in ranges:
            own = self._messages.setdefault(item.uplink, [])
            if own and own[-1].first_message == item.first_message:
                own[-1] = item
            else:
                own.append(item)
        self.packed_to = piece
        self.next_message += messages
        for (_, lane), pieces in self._pieces.items():
            if lane == BACKFILL:
                pieces[:] = [item for item in pieces if (item.last_piece or piece + 1) > piece]

    def wanted(self, cursors: dict[tuple[str, str], int]) -> list[tuple[int, int]]:
        """(first, last) of the pieces that some uplink still gets live; they may overlap."""
        found = []
        for uplink in self.uplinks:
            after = cursors.get((uplink, LIVE), 0)
            rest = (run.above(after, 0) for run in self._runs(uplink, LIVE))
            found += [(run.number, run.number + run.size - 1) for run in rest if run.size]
        return sorted(found)

    def unsent(
        self,
        pieces: tuple[int, int],
        messages: tuple[int, int],
        cursors: dict[tuple[str, str], int],
    ) -> dict[tuple[str, str], int]:
        """By uplink and lane, how many of these (first, last) are not acknowledged."""
        found = {}
        for uplink in self.uplinks:
            for lane, (low, high) in ((LIVE, pieces), (BACKFILL, messages)):
                rest = (
                    run.above(cursors.get((uplink, lane), 0), low)
                    for run in self._runs(uplink, lane)
                )
                count = sum(max(0, min(r.number + r.size - 1, high) - r.number + 1) for r in rest)
                if count:
                    found[uplink, lane] = count
        return found

    # ---- inside --------------------------------------------------------------------------------

    def _runs(self, uplink: str, lane: str) -> list[Run]:
        if lane == BACKFILL:
            return [
                Run(item.first_seq, item.first_message, item.last_message - item.first_message + 1)
                for item in self._messages.get(uplink, [])
            ]
        return [
            Run(item.first_seq, item.first_piece, self._last_piece(item) - item.first_piece + 1)
            for item in self._pieces.get((uplink, lane), [])
        ]

    def _may_change(self, uplink: str) -> bool:
        return self._wish[uplink] != LIVE or self._credit[uplink] >= 1

    def _unpacked(self) -> list[tuple[str, list[Range]]]:
        """The ranges of backfill of the site's uplinks that have something unpacked."""
        found = ((uplink, self._pieces.get((uplink, BACKFILL))) for uplink in self.uplinks)
        return [
            (uplink, own)
            for uplink, own in found
            if own and self._last_piece(own[-1]) > self.packed_to
        ]

    def _open(self, uplink: str) -> Range | None:
        for lane in (LIVE, BACKFILL):
            own = self._pieces.get((uplink, lane))
            if own and own[-1].last_piece is None:
                return own[-1]
        return None

    def _last_piece(self, item: Range) -> int:
        return self.next_piece - 1 if item.last_piece is None else item.last_piece
