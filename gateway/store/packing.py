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
WINDOW_NS: Final = 3_600 * 1_000_000_000  # from the commit of its first piece, or the start


class Window(NamedTuple):
    """The pieces ``after`` + 1 .. ``last`` of the tail; those that are missing were damaged."""

    after: int
    last: int
    pieces: Sequence[Piece]


class Packed(NamedTuple):
    """What one transaction packed."""

    window: Window
    messages: int
    ranges: list[MessageRange]


async def next_window(connection: Connection, state: "HistoryState") -> Window | None:
    """What to pack now; None where the window is neither long enough nor asked for."""
    after, border = state.lanes.packed_to, state.lanes.border()
    if state.lanes.hungry(state.cursors) <= after and not _full(state):
        return None
    last = await _last_of_window(connection, after + 1, border)
    sql = (
        "SELECT piece, group_id, members, t_first, t_last, n, codec, crc32, body FROM tail "
        "WHERE piece > ? AND piece <= ? ORDER BY piece"
    )
    found = await connection.execute_fetchall(sql, (after, last))
    return Window(after, last, [Piece(*row) for row in found])


def chunks_of(window: Window, state: "HistoryState") -> list[Chunk]:
    """The window packed. It takes a while: for a thread."""
    return merged((window.after + 1, window.last), window.pieces, state.group_tags)


async def replace(
    connection: Connection, state: "HistoryState", window: Window, chunks: Sequence[Chunk]
) -> Packed | None:
    """Put the chunks in the window's place; None where that is not the next one any more."""
    lanes = state.lanes
    if window.after != lanes.packed_to:
        return None
    messages = sum(chunk.messages for chunk in chunks) if lanes.owed(window.last) else 0
    packed = Packed(
        window=window,
        messages=messages,
        ranges=lanes.number(window.last, messages),
    )
    await connection.executemany(
        "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_numbered(chunk, lanes.next_message if messages else 0) for chunk in chunks],
    )
    await store_numbers(connection, window.last, lanes.next_message + messages, packed.ranges)
    await drop_unwanted(connection, window.last, lanes.wanted(state.cursors))
    return packed


def take(state: "HistoryState", packed: Packed | None) -> None:
    """Adopt what was packed."""
    if packed is None:
        return
    pieces = packed.window.pieces
    state.unpacked.less(
        len(pieces),
        sum(piece.n for piece in pieces),
        sum(len(piece.body) for piece in pieces),
        state.monotonic_ns(),
    )
    state.lanes.packed(packed.window.last, packed.messages, packed.ranges)


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
    last, samples, size = border, 0, 0
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
        or state.monotonic_ns() - unpacked.since_ns >= WINDOW_NS
    )


def _numbered(chunk: Chunk, first_message: int) -> Chunk:
    if not first_message:
        return chunk._replace(first_message=0, messages=0)
    return chunk._replace(first_message=first_message + chunk.first_message)
