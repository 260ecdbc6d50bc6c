"""Shedding: what goes first when the history is full or old, and what it costs whom.

Windows of chunks go whole, pieces that are not packed in small groups. What an uplink was owed is
counted, and leaves a gap in the numbers of its lane: messages that have none yet are given theirs
for that alone.
"""

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from aiosqlite import Connection

from gateway.store import packing
from gateway.store.lanes import BACKFILL, MessageRange
from gateway.store.sqlite_file import value_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.store.history_state import HistoryState

ROOM_PIECES: Final = 256  # that go at once where there is no chunk


class Shed(NamedTuple):
    """What was deleted to stay within the bounds; ``unsent``: messages still owed to an uplink."""

    pieces: int = 0
    samples: int = 0
    unsent: int = 0

    def plus(self, other: "Shed") -> "Shed":
        """Both together."""
        return Shed(*(mine + its for mine, its in zip(self, other, strict=True)))


class Oldest(NamedTuple):
    """What goes first: a window of chunks, or the first pieces of the tail."""

    first_piece: int
    last_piece: int
    samples: int
    t_last: int
    first_message: int
    last_message: int
    packed: bool


class Deleted(NamedTuple):
    """One transaction's shedding."""

    shed: Shed
    oldest: Oldest
    unsent: "Mapping[tuple[str, str], int]"
    ranges: list[MessageRange]
    bytes: int  # of pieces that were not packed


async def oldest(connection: Connection, state: "HistoryState") -> Oldest | None:
    """What goes first, None where nothing is stored."""
    for first, last, samples, t_last, low, high in await connection.execute_fetchall(
        "SELECT min(first_piece), last_piece, sum(n), max(t_last), "
        "ifnull(min(first_message) FILTER (WHERE messages > 0), 0), "
        "ifnull(max(first_message + messages - 1) FILTER (WHERE messages > 0), -1) "
        "FROM chunk WHERE last_piece = (SELECT min(last_piece) FROM chunk) HAVING count(*) > 0"
    ):
        return Oldest(first, last, samples, t_last, low, high, packed=True)
    lanes = state.lanes
    for first, last, samples, t_last in await connection.execute_fetchall(
        "SELECT min(piece), max(piece), sum(n), max(t_last) FROM (SELECT piece, n, t_last FROM "
        "tail WHERE piece BETWEEN ? AND ? ORDER BY piece LIMIT ?) HAVING count(*) > 0",
        (lanes.packed_to + 1, lanes.border(), ROOM_PIECES),
    ):
        return Oldest(first, last, samples, t_last, 0, -1, packed=False)
    return None


def unsent(state: "HistoryState", oldest: Oldest) -> dict[tuple[str, str], int]:
    """Its messages that are still owed, by uplink and lane."""
    found = state.lanes.unsent(
        (oldest.first_piece, oldest.last_piece),
        (oldest.first_message, oldest.last_message),
        state.cursors,
    )
    if not oldest.packed:
        count = oldest.last_piece - oldest.first_piece + 1
        found |= {(uplink, BACKFILL): count for uplink in state.lanes.owed(oldest.last_piece)}
    return found


async def delete(connection: Connection, state: "HistoryState", oldest: Oldest) -> Deleted:
    """Delete it and count it."""
    pieces = oldest.last_piece - oldest.first_piece + 1
    owed = unsent(state, oldest)
    ranges: list[MessageRange] = []
    size = 0
    if oldest.packed:
        await connection.execute_fetchall(
            "DELETE FROM chunk WHERE last_piece = ?", (oldest.last_piece,)
        )
    else:  # their messages get numbers, so that what is missing can be told
        span = (oldest.first_piece, oldest.last_piece)
        sql = "SELECT sum(length(body)) FROM tail WHERE piece BETWEEN ? AND ?"
        size = await value_of(connection, sql, span) or 0
        ranges = state.lanes.number(oldest.last_piece, pieces)
        next_message = state.lanes.next_message + (pieces if ranges else 0)
        await packing.store_numbers(connection, oldest.last_piece, next_message, ranges)
    await connection.execute_fetchall("DELETE FROM tail WHERE piece <= ?", (oldest.last_piece,))
    await connection.execute_fetchall(
        "UPDATE progress SET shed_pieces = shed_pieces + ?, shed_samples = shed_samples + ?",
        (pieces, oldest.samples),
    )
    await connection.executemany(
        "INSERT INTO shed VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET messages = messages + excluded.messages",
        [(uplink, lane, count) for (uplink, lane), count in owed.items()],
    )
    shed = Shed(pieces, oldest.samples, sum(owed.values()))
    return Deleted(shed, oldest, owed, ranges, size)


def take(state: "HistoryState", deleted: Deleted | None) -> None:
    """Adopt what was deleted."""
    if deleted is None:
        return
    shed, oldest = deleted.shed, deleted.oldest
    state.shed = state.shed.plus(shed)
    state.shed_unsent += Counter(deleted.unsent)
    state.shed_untold += shed.unsent
    if oldest.packed:
        return
    state.unpacked.less(shed.pieces, shed.samples, deleted.bytes, state.monotonic_ns())
    messages = shed.pieces if deleted.ranges else 0
    state.lanes.packed(oldest.last_piece, messages, deleted.ranges)
