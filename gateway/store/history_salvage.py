"""A new history begins with what a damaged one still holds.

Chunks and messages keep their numbers. Pieces that were not packed become chunks of one message
each. What an uplink is still owed is numbered from 1 in the new epoch; where that cannot be read
any more, all that was backfill is owed again: a sample twice is better than none. The five-minute
values follow after the start (``tier_salvage``).
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiosqlite import Connection

from gateway.store import tier_salvage
from gateway.store.chunks import Chunk, Piece, single
from gateway.store.lanes import BACKFILL, LIVE, MessageRange, Range
from gateway.store.old_history import OldHistory, Progress
from gateway.store.sqlite_file import value_of

_FREE_PART: Final = 4  # of the disk's free bytes, the part that may be used


class Salvaged(NamedTuple):
    """Samples that were taken over, of so many; ``had`` None: that is not known."""

    samples: int
    had: int | None

    def __str__(self) -> str:
        """For people."""
        had = "an unknown number" if self.had is None else str(self.had)
        return f"{self.samples} of {had} samples were taken over"


class _Found(NamedTuple):
    """What stands in the new file; ``had`` None: how far the old one had come is not known."""

    had: Progress | None
    samples: int
    packed_to: int
    next_piece: int
    first_message: int
    next_message: int  # that of the first piece that was not packed
    position: tuple[int, int] | None


async def take_over(connection: Connection, aside: Path, uplinks: Sequence[str]) -> Salvaged:
    """Fill a history that has nothing yet; inside the transaction that begins it."""
    with await asyncio.to_thread(OldHistory, aside) as old:
        disk = os.statvfs(aside.parent)
        old.limit(disk.f_bavail * disk.f_frsize // _FREE_PART)
        ranges = await asyncio.to_thread(old.ranges)
        live = [item for item in ranges[0] if item.lane == LIVE] if ranges else []
        found = await _take_samples(connection, old, live)
        await tier_salvage.begin(connection, old, aside.name, found.packed_to)
    if ranges:
        owed = ranges[1] + _numbered([i for i in ranges[0] if i.lane == BACKFILL], found, ranges[1])
    else:
        first, last = found.first_message, _message_of(found, found.next_piece - 1)
        owed = [MessageRange(uplink, first, last, 1) for uplink in uplinks if first <= last]
    await connection.executemany("INSERT INTO lane_range VALUES (?, ?, ?, ?, ?)", live)
    await connection.executemany("INSERT INTO message_range VALUES (?, ?, ?, ?)", owed)
    await connection.execute_fetchall(
        "UPDATE progress SET next_piece = ?, next_message = ?, packed_to = ?, samples = ?, "
        "journal_id = ?, next_sample = ?",
        (
            found.next_piece,
            _message_of(found, found.next_piece),
            found.next_piece - 1,
            found.samples,
            *(found.position or (None, None)),
        ),
    )
    return Salvaged(found.samples, found.had.samples if found.had else None)


async def _take_samples(connection: Connection, old: OldHistory, live: Sequence[Range]) -> _Found:
    groups = await _take_groups(connection, await asyncio.to_thread(old.groups))
    had = await asyncio.to_thread(old.progress)
    pieces = await _take_pieces(connection, old, groups, live)
    await _take_chunks(connection, old, groups)
    ((samples, last_piece, first_message, last_message),) = await connection.execute_fetchall(
        "SELECT ifnull(sum(n), 0), ifnull(max(last_piece), 0), "
        "min(first_message) FILTER (WHERE messages > 0), "
        "ifnull(max(first_message + messages - 1), 0) FROM chunk"
    )
    packed_to = had.packed_to if had else last_piece
    unpacked = [piece for piece in pieces if piece.piece > packed_to]
    last = max([packed_to, *(piece.piece for piece in unpacked)])
    next_piece = max(last + 1, had.next_piece if had else 0)
    next_message = max(last_message + 1, had.next_message if had else 0)
    whole = old.pieces_whole and len(unpacked) == next_piece - packed_to - 1
    found = _Found(
        had=had,
        samples=samples + sum(piece.n for piece in unpacked),
        packed_to=packed_to,
        next_piece=next_piece,
        first_message=first_message or next_message,
        next_message=next_message,
        position=had.position if had and whole else None,
    )
    singles = [
        single(item, item.piece, item.piece)._replace(first_message=_message_of(found, item.piece))
        for item in unpacked
    ]
    await _insert(connection, singles)
    await tier_salvage.make(connection, unpacked, await _tags_of(connection))
    return found


async def _take_groups(
    connection: Connection, groups: Sequence[tuple[int, str, str]]
) -> dict[int, int]:
    """New ids by old ones."""
    found = {}
    for ident, key, tags in groups:
        await connection.execute_fetchall(
            "INSERT OR IGNORE INTO poll_group (group_key, tags) VALUES (?, ?)", (key, tags)
        )
        sql = "SELECT id FROM poll_group WHERE group_key = ? AND tags = ?"
        found[ident] = await value_of(connection, sql, (key, tags))
    return found


async def _tags_of(connection: Connection) -> dict[int, list[str]]:
    sql = "SELECT id, tags FROM poll_group"
    return {
        ident: msgspec.json.decode(tags, type=list[str])
        for ident, tags in await connection.execute_fetchall(sql)
    }


async def _take_pieces(
    connection: Connection, old: OldHistory, groups: dict[int, int], live: Sequence[Range]
) -> list[Piece]:
    """The pieces; those that are owed live go into the tail."""
    pieces: list[Piece] = []
    batches = old.pieces()
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        pieces += [
            piece._replace(group_id=groups[piece.group_id])
            for piece in batch
            if piece.group_id in groups
        ]
    await connection.executemany(
        "INSERT INTO tail VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            piece
            for piece in pieces
            if any(item.first_piece <= piece.piece <= (item.last_piece or 0) for item in live)
        ],
    )
    return pieces


async def _take_chunks(connection: Connection, old: OldHistory, groups: dict[int, int]) -> None:
    batches = old.chunks()
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        known = [
            chunk._replace(group_id=groups[chunk.group_id])
            for chunk in batch
            if chunk.group_id in groups
        ]
        await _insert(connection, known)


async def _insert(connection: Connection, chunks: Sequence[Chunk]) -> None:
    await connection.executemany(
        "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", chunks
    )


def _message_of(found: _Found, piece: int) -> int:
    """The number of the message that a piece has become, which was not packed."""
    return found.next_message + piece - found.packed_to - 1


def _numbered(
    ranges: Sequence[Range], found: _Found, owed: Sequence[MessageRange]
) -> list[MessageRange]:
    """Ranges of pieces that were not packed, as messages after those that are owed."""
    heads = {item.uplink: item.first_seq + item.last_message - item.first_message for item in owed}
    numbered = []
    for item in ranges:
        first = max(item.first_piece, found.packed_to + 1)
        last = min(item.last_piece or 0, found.next_piece - 1)
        if first <= last:
            seq = heads.get(item.uplink, 0) + 1
            numbered.append(
                MessageRange(item.uplink, _message_of(found, first), _message_of(found, last), seq)
            )
            heads[item.uplink] = seq + last - first
    return numbered
