"""Packing: the oldest pieces of the tail become chunks, in one transaction.

A window ends where a lane of an uplink changes, so all of it is backfill for an uplink or none of
it. Pieces that an uplink is still owed live stay in the tail beside their chunk.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from aiosqlite import Connection

from gateway.store.chunks import Chunk, Piece, merged
from gateway.store.lanes import MessageRange

if TYPE_CHECKING:
    from gateway.store.history_state import HistoryState

WINDOW_SAMPLES: Final = 500_000
WINDOW_BYTES: Final = 4 * 1024 * 1024
WINDOW_PIECES: Final = 32_768
WINDOW_NS: Final = 3_600 * 1_000_000_000
_PIECE: Final = "piece, group_id, members, t_first, t_last, n, codec, crc32, body"


class Packed(NamedTuple):
    """What one transaction packed."""

    pieces: Sequence[Piece]
    messages: int
    ranges: list[MessageRange]
    bytes: int
    t_first: int  # of what is next


async def next_window(connection: Connection, state: "HistoryState") -> list[Piece]:
    """The pieces to pack now; none where the window is neither long enough nor asked for."""
    first, border = state.lanes.packed_to + 1, state.lanes.border()
    asked_for = first <= state.lanes.hungry(state.cursors)
    if not asked_for and not _full(state):
        return []
    last = await _last_of_window(connection, first, border)
    return await pieces_between(connection, first, last)


async def pieces_between(connection: Connection, first: int, last: int) -> list[Piece]:
    """Pieces first .. last of the tail."""
    sql = f"SELECT {_PIECE} FROM tail WHERE piece BETWEEN ? AND ? ORDER BY piece"  # noqa: S608
    return [Piece(*row) for row in await connection.execute_fetchall(sql, (first, last))]


def chunks_of(window: Sequence[Piece], state: "HistoryState") -> list[Chunk]:
    """The window packed. It takes a while: for a thread."""
    return merged(window, state.group_tags)


async def replace(
    connection: Connection,
    state: "HistoryState",
    window: Sequence[Piece],
    chunks: Sequence[Chunk],
) -> Packed | None:
    """Put the chunks in the window's place; None where that is not the next one any more."""
    first, last = window[0].piece, window[-1].piece
    lanes = state.lanes
    if first != lanes.packed_to + 1:
        return None
    messages = sum(chunk.messages for chunk in chunks) if lanes.owed(last) else 0
    packed = Packed(
        pieces=window,
        messages=messages,
        ranges=lanes.number(last, messages),
        bytes=sum(len(chunk.body) for chunk in chunks),
        t_first=await state.t_first_after(connection, last),
    )
    await connection.executemany(
        "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_numbered(chunk, lanes.next_message if messages else 0) for chunk in chunks],
    )
    await store_numbers(connection, last, lanes.next_message + messages, packed.ranges)
    await drop_unwanted(connection, last, lanes.wanted(state.cursors))
    return packed


def take(state: "HistoryState", packed: Packed | None) -> None:
    """Adopt what was packed."""
    if packed is None:
        return
    state.unpacked.less(
        len(packed.pieces),
        sum(piece.n for piece in packed.pieces),
        sum(len(piece.body) for piece in packed.pieces),
        packed.t_first,
    )
    state.lanes.packed(packed.pieces[-1].piece, packed.messages, packed.ranges)


async def store_numbers(
    connection: Connection, packed_to: int, next_message: int, ranges: Sequence[MessageRange]
) -> None:
    """How far is packed, and the messages that are numbered with it."""
    await connection.execute_fetchall(
        "UPDATE progress SET packed_to = ?, next_message = ?", (packed_to, next_message)
    )
    await connection.executemany("INSERT OR REPLACE INTO message_range VALUES (?, ?, ?, ?)", ranges)
    await connection.execute_fetchall(
        "DELETE FROM lane_range WHERE lane = 'backfill' AND last_piece <= ?", (packed_to,)
    )


async def drop_unwanted(
    connection: Connection, packed_to: int, wanted: Sequence[tuple[int, int]]
) -> None:
    """Delete the packed pieces that no uplink gets live any more."""
    gaps, first = [], 0
    for low, high in wanted:
        if low > first:
            gaps.append((first, min(low - 1, packed_to)))
        first = max(first, high + 1)
    if first <= packed_to:
        gaps.append((first, packed_to))
    await connection.executemany("DELETE FROM tail WHERE piece BETWEEN ? AND ?", gaps)


async def _last_of_window(connection: Connection, first: int, border: int) -> int:
    sql = (
        "SELECT piece, n, length(body) FROM tail WHERE piece BETWEEN ? AND ? ORDER BY piece LIMIT ?"
    )
    last, samples, size = first, 0, 0
    for piece, n, length in await connection.execute_fetchall(sql, (first, border, WINDOW_PIECES)):
        last, samples, size = piece, samples + n, size + length
        if samples >= WINDOW_SAMPLES or size >= WINDOW_BYTES:
            break
    return last


def _full(state: "HistoryState") -> bool:
    unpacked = state.unpacked
    return unpacked.pieces > 0 and (
        unpacked.samples >= WINDOW_SAMPLES
        or unpacked.bytes >= WINDOW_BYTES
        or unpacked.pieces >= WINDOW_PIECES
        or state.utc_ns() - unpacked.t_first >= WINDOW_NS
    )


def _numbered(chunk: Chunk, first_message: int) -> Chunk:
    if not first_message:
        return chunk._replace(first_message=0, messages=0)
    return chunk._replace(first_message=first_message + chunk.first_message)
