"""What can still be read of a damaged history: chunks, pieces, lines, and who is owed what.

The file that was put aside is read, and not written, the newest first, bounded in time and bytes;
whatever cannot be read, or is not what its checksum says, is left out. Blocking: to be called in a
thread, a step at a time.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec

from gateway.store.chunks import Chunk, Piece
from gateway.store.lanes import BACKFILL, LIVE, MessageRange, Range
from gateway.store.sqlite_errors import is_damage, is_wrong
from gateway.store.tiers import Line

SALVAGE_S_MAX: Final = 3.0
SALVAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_STEP: Final = 16  # chunks or lines per read; around a damaged page they are read one by one
_PIECES: Final = 512


class Progress(NamedTuple):
    """How far the damaged history had come."""

    next_piece: int
    next_message: int
    packed_to: int
    samples: int  # that it held
    position: tuple[int, int] | None  # as it is stored


class OldHistory:
    """A history that was set aside. Nothing raises.

    ``passing``: something could not be read, and not for damage: another time it may be.
    """

    def __init__(self, path: Path) -> None:
        self.pieces_whole = True  # no piece was left out so far
        self.passing = False
        self._deadline_s = time.monotonic() + SALVAGE_S_MAX
        self._bytes_left = SALVAGE_BYTES_MAX
        try:
            self._connection: sqlite3.Connection | None = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
        except sqlite3.Error:
            self.passing = True
            self._connection = None

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()

    def limit(self, size_bytes: int) -> None:
        """Take over no more than this."""
        self._bytes_left = min(self._bytes_left, size_bytes)

    def progress(self) -> Progress | None:
        """Its counters, None where they cannot be read or make no sense."""
        rows = self._rows(
            "SELECT next_piece, next_message, packed_to, samples - shed_samples, "
            "journal_id, next_sample FROM progress"
        )
        if not rows or not all(isinstance(number, int) and number >= 0 for number in rows[0][:4]):
            return None
        next_piece, next_message, packed_to, samples, journal_id, next_sample = rows[0]
        known = isinstance(journal_id, int) and isinstance(next_sample, int)
        position = (journal_id, next_sample) if known else None
        return Progress(next_piece, next_message, packed_to, samples, position)

    def groups(self) -> list[tuple[int, str, str]]:
        """(id, key, tags) of its poll groups."""
        return [
            (ident, key, tags)
            for ident, key, tags in self._rows("SELECT id, group_key, tags FROM poll_group") or []
            if isinstance(ident, int) and isinstance(key, str) and _are_tags(tags)
        ]

    def ranges(self) -> tuple[list[Range], list[MessageRange]] | None:
        """What each uplink is owed, numbered from 1 in each lane; None where that is not known."""
        pieces = self._rows(
            "SELECT uplink, lane, first_piece, ifnull(last_piece, next_piece - 1), first_seq "
            "FROM lane_range, progress ORDER BY first_piece"
        )
        messages = self._rows("SELECT * FROM message_range ORDER BY first_message")
        cursors = self._rows("SELECT uplink, lane, cursor.seq FROM cursor")
        if pieces is None or messages is None or cursors is None:
            return None
        try:
            sent = {(uplink, lane): int(seq) for uplink, lane, seq in cursors}
            live = [Range(*row) for row in pieces]
            return (
                [item for item in live if item.lane == BACKFILL]
                + _owed_pieces([item for item in live if item.lane == LIVE], sent),
                _owed_messages([MessageRange(*row) for row in messages], sent),
            )
        except (TypeError, ValueError):
            return None

    def pieces(self) -> Iterator[list[Piece]]:
        """Its tail, the oldest first."""
        after: int | None = -1
        while after is not None and self.may_go_on():
            rows = self._rows(
                "SELECT piece, group_id, members, t_first, t_last, n, codec, crc32, body FROM tail "
                "WHERE piece > ? ORDER BY piece LIMIT ?",
                after,
                _PIECES,
            )
            if rows is None:
                self.pieces_whole = False
                return
            found = [Piece(*row) for row in rows if _is_sound(row)]
            self.pieces_whole = self.pieces_whole and len(found) == len(rows)
            self._bytes_left -= sum(len(piece.body) for piece in found)
            yield found
            after = rows[-1][0] if rows else None

    def chunks(self) -> Iterator[list[Chunk]]:
        """Its chunks, the newest first."""
        (last,) = (self._rows("SELECT max(id) FROM chunk") or [(None,)])[0]
        while isinstance(last, int) and last > 0 and self.may_go_on():
            first = max(1, last - _STEP + 1)
            rows = self._chunk_rows(first, last)
            if rows is None:
                rows = [
                    row
                    for ident in range(last, first - 1, -1)
                    for row in self._chunk_rows(ident, ident) or []
                ]
            found = [Chunk(*row) for row in rows if _is_sound(row)]
            self._bytes_left -= sum(len(chunk.body) for chunk in found)
            yield found
            last = first - 1

    def note(self, key: str) -> str:
        """What it notes under this key, "" where that is nothing or not known."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key) or [("",)]
        return rows[0][0] if isinstance(rows[0][0], str) else ""

    def buckets(self) -> int | None:
        """How many five-minute buckets it had, None where that is not known."""
        rows = self._rows("SELECT buckets FROM tier")
        numbers = [number for (number,) in rows or () if isinstance(number, int)]
        return None if rows is None or len(numbers) < len(rows) else sum(numbers)

    def lines(self, below: int) -> tuple[list[Line], int]:
        """Some lines of five-minute values with smaller ids, the newest first, and where to go on.

        0: that was all.
        """
        rows = self._line_rows(below, _STEP)
        if rows is None:
            rows = self._line_rows(below, 1)
        if rows is None:
            return [], self._readable_below(below)
        found, after = [], 0
        for row in rows:
            if isinstance(row[0], int) and 0 < row[0] < (after or below):
                after = row[0]
                if _is_sound(row):
                    found.append(Line(*row))
        self._bytes_left -= sum(len(line.body) for line in found)
        return found, after

    def may_go_on(self) -> bool:
        """Whether there is time, and bytes may still be taken over."""
        return self._bytes_left > 0 and time.monotonic() < self._deadline_s

    def _line_rows(self, below: int, limit: int) -> list[Any] | None:
        return self._rows(
            "SELECT id, group_id, t_first, t_last, n, crc32, body FROM summary "
            "WHERE id < ? ORDER BY id DESC LIMIT ?",
            below,
            limit,
        )

    def _readable_below(self, below: int) -> int:
        """The highest id under which a line can be read, near this one; 0: there is none."""
        step = 1
        while step < below and self._line_rows(below - step, 1) is None:
            step *= 2
        good, bad = max(0, below - step), below - step // 2
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._line_rows(middle, 1) is None:
                bad = middle
            else:
                good = middle
        return good

    def _chunk_rows(self, first: int, last: int) -> list[Any] | None:
        return self._rows(
            "SELECT id, first_piece, last_piece, group_id, members, t_first, t_last, n, "
            "first_message, messages, codec, crc32, body FROM chunk "
            "WHERE id BETWEEN ? AND ? ORDER BY id DESC",
            first,
            last,
        )

    def _rows(self, sql: str, *parameters: Any) -> list[Any] | None:
        if self._connection is None:
            return None
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            self.passing = self.passing or not (is_damage(error) or is_wrong(error))
        except (UnicodeDecodeError, OverflowError):
            pass
        return None


def _is_sound(row: tuple[Any, ...]) -> bool:
    """Numbers where numbers are, and a body that is what its checksum says."""
    *numbers, crc32, body = row
    return (
        isinstance(body, bytes)
        and all(isinstance(item, int | bytes) for item in numbers)
        and zlib.crc32(body) == crc32
    )


def _are_tags(text: Any) -> bool:
    try:
        msgspec.json.decode(text, type=list[str])
    except (TypeError, ValueError):
        return False
    return isinstance(text, str)


def _owed_pieces(ranges: list[Range], sent: dict[tuple[str, str], int]) -> list[Range]:
    heads: dict[str, int] = {}
    found = []
    for item in ranges:
        skipped = max(0, sent.get((item.uplink, LIVE), 0) + 1 - item.first_seq)
        first, last = item.first_piece + skipped, item.last_piece or 0
        if first <= last:
            seq = heads.get(item.uplink, 0) + 1
            found.append(Range(item.uplink, LIVE, first, last, seq))
            heads[item.uplink] = seq + last - first
    return found


def _owed_messages(
    ranges: list[MessageRange], sent: dict[tuple[str, str], int]
) -> list[MessageRange]:
    heads: dict[str, int] = {}
    found = []
    for item in ranges:
        skipped = max(0, sent.get((item.uplink, BACKFILL), 0) + 1 - item.first_seq)
        first, last = item.first_message + skipped, item.last_message
        if first <= last:
            seq = heads.get(item.uplink, 0) + 1
            found.append(MessageRange(item.uplink, first, last, seq))
            heads[item.uplink] = seq + last - first
    return found
