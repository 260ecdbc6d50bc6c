"""A history of schema 1 brought to schema 2: a step of ``migration``.

There a row was a message in every lane and kept its boundaries when it was packed. What an uplink
is still owed keeps its number and its content: a row of backfill becomes a chunk of one message
with the row's number, a row owed live stays in the tail. The rest is merged.

All of it is written once more before the old tables can go. Where the disk has no room for that,
the oldest windows are left behind, counted as shed: a history that never opens would lose them all.
"""

import asyncio
import logging
import shutil
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiosqlite import Connection

from gateway.store import migration
from gateway.store.chunks import Chunk, Piece, merged, single
from gateway.store.lanes import BACKFILL, LIVE
from gateway.store.migration import statements
from gateway.store.sqlite_file import value_of

_LOGGER = logging.getLogger(__name__)

_ROWS: Final = 1_000  # of the tail, in one window
LEFT_BEHIND: Final = "left behind"  # of meta: what is to be told
_UNSENT: Final = (  # ?2: the next row
    "SELECT uplink, lane, max(first_row, first_row + ifnull(seq, 0) + 1 - first_seq) AS first, "
    "ifnull(last_row, ?2 - 1) AS last FROM old_lane_range LEFT JOIN cursor USING (uplink, lane)"
)
_DROPPED_PART: Final = 3  # of the old file, at most: the rest is not written when it is freed
_RENAMED: Final = ("progress", "tail", "chunk", "lane_range")


class _Place(msgspec.Struct, array_like=True, frozen=True):
    """Where one row stands in a chunk's body."""

    row: int
    members: bytes
    t_first: int
    t_last: int
    n: int
    length: int


class _Owed(NamedTuple):
    """(first, last) of the rows that some uplink has not acknowledged, by lane."""

    live: list[tuple[int, int]]
    backfill: list[tuple[int, int]]


_PLACES: Final = msgspec.msgpack.Decoder(list[_Place])


async def forward(connection: Connection) -> None:
    """Schema 1 to 2; inside a transaction. Raises sqlite3.Error or ValueError."""
    await _rename(connection)
    ((next_row, *counts),) = await connection.execute_fetchall(
        "SELECT next_row, samples, shed_rows, shed_samples, journal_id, next_sample "
        "FROM old_progress"
    )
    await connection.execute_fetchall(
        "INSERT INTO progress VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
        (next_row, next_row, next_row - 1, *counts),
    )
    owed = await _owed(connection, next_row)
    begin = await _first_that_fits(connection)
    if begin:
        await _leave_behind(connection, begin, next_row)
    await _move_ranges(connection, next_row)
    groups = {
        ident: msgspec.json.decode(tags, type=list[str])
        for ident, tags in await connection.execute_fetchall("SELECT id, tags FROM poll_group")
    }
    async for rows in _windows(connection, begin):
        chunks = await asyncio.to_thread(_chunks, rows, owed, groups)
        await connection.executemany(
            "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", chunks
        )
        await connection.executemany(
            "INSERT INTO tail VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [row for row in rows if _within(row.piece, owed.live)],
        )
    for table in _RENAMED:
        await connection.execute_fetchall(f"DROP TABLE old_{table}")


async def _rename(connection: Connection) -> None:
    for table in _RENAMED:
        await connection.execute_fetchall(f"ALTER TABLE {table} RENAME TO old_{table}")
    await connection.execute_fetchall("DROP INDEX chunk_window")
    await connection.execute_fetchall("DROP INDEX chunk_time")
    await connection.execute_fetchall("CREATE INDEX old_window ON old_chunk (first_row)")
    there = {
        name
        for (name,) in await connection.execute_fetchall(
            "SELECT name FROM sqlite_schema WHERE type = 'table'"
        )
    }
    for statement in statements(Path(__file__).with_name("history_v2.sql").read_text("utf-8")):
        words = statement[statement.index("CREATE ") :].split()
        if words[1] != "TABLE" or words[2] not in there:
            await connection.execute_fetchall(statement)


async def _owed(connection: Connection, next_row: int) -> _Owed:
    found = _Owed([], [])
    for _, lane, first, last in await connection.execute_fetchall(_UNSENT, (0, next_row)):
        if first <= last:
            (found.live if lane == LIVE else found.backfill).append((first, last))
    return found


async def _move_ranges(connection: Connection, next_row: int) -> None:
    await connection.execute_fetchall(
        "INSERT INTO message_range SELECT uplink, first_row, ifnull(last_row, ? - 1), first_seq "
        "FROM old_lane_range WHERE lane = ? AND first_row < ?",
        (next_row, BACKFILL, next_row),
    )
    await connection.execute_fetchall(
        "INSERT INTO lane_range SELECT uplink, lane, first_row, last_row, first_seq "
        "FROM old_lane_range WHERE lane = ?",
        (LIVE,),
    )
    await connection.execute_fetchall(
        "INSERT INTO lane_range SELECT uplink, lane, ?, NULL, 0 "
        "FROM old_lane_range WHERE lane = ? AND last_row IS NULL",
        (next_row, BACKFILL),
    )


async def _first_that_fits(connection: Connection) -> int:
    """The first row of the oldest window for which the disk has room; 0: it has for all.

    What is written stands in the -wal first and makes the file longer when it is brought there; the
    old tables' own pages are written once more when they go.
    """
    name = await value_of(connection, "SELECT file FROM pragma_database_list WHERE name = 'main'")
    free_bytes = shutil.disk_usage(Path(name).parent).free - migration.SPARE_BYTES
    left_bytes = (free_bytes - Path(name).stat().st_size // _DROPPED_PART) // 2
    left_bytes -= await value_of(connection, "SELECT ifnull(sum(length(body)), 0) FROM old_tail")
    begin = None
    for first, size in await connection.execute_fetchall(
        "SELECT first_row, sum(length(body)) FROM old_chunk GROUP BY first_row "
        "ORDER BY first_row DESC"
    ):
        left_bytes -= size + size // 8  # with what SQLite adds to it
        if left_bytes < 0:
            if begin is None:
                begin = await value_of(connection, "SELECT max(last_row) + 1 FROM old_chunk")
            return int(begin)
        begin = first
    return 0


async def _leave_behind(connection: Connection, begin: int, next_row: int) -> None:
    """Count the packed rows before this one as shed, and note it for people."""
    ((rows, samples),) = await connection.execute_fetchall(
        "SELECT count(*), ifnull(sum(n), 0) FROM old_chunk WHERE first_row < ?", (begin,)
    )
    if not rows:
        return
    first = await value_of(connection, "SELECT min(first_row) FROM old_chunk")
    await connection.execute_fetchall(
        "UPDATE progress SET shed_pieces = shed_pieces + ?, shed_samples = shed_samples + ?",
        (begin - first, samples),
    )
    await connection.execute_fetchall(
        "INSERT INTO shed SELECT uplink, lane, sum(min(last, ?1 - 1) - first + 1) FROM "  # noqa: S608
        f"({_UNSENT}) WHERE first < ?1 AND first <= last GROUP BY uplink, lane",
        (begin, next_row),
    )
    await connection.execute_fetchall(
        "INSERT INTO meta VALUES (?, ?)",
        (
            LEFT_BEHIND,
            "the disk had no room to bring all of the history to the schema of this version: "
            f"its oldest {samples} samples were left out",
        ),
    )


async def _windows(connection: Connection, begin: int) -> AsyncIterator[list[Piece]]:
    """The rows from one on, the oldest first, by the windows in which they were packed."""
    found = await connection.execute_fetchall(
        "SELECT DISTINCT first_row FROM old_chunk WHERE first_row >= ? ORDER BY first_row", (begin,)
    )
    for (first,) in found:
        rows: list[Piece] = []
        for group_id, codec, crc32, table, body in await connection.execute_fetchall(
            "SELECT group_id, codec, crc32, rows, body FROM old_chunk WHERE first_row = ?",
            (first,),
        ):
            if zlib.crc32(body, zlib.crc32(table)) != crc32:
                _LOGGER.warning("a damaged chunk of rows from %d on is left behind", first)
                continue
            rows += _rows_of(group_id, codec, table, body)
        yield sorted(rows)
    after = 0
    while rows := [
        Piece(*row)
        for row in await connection.execute_fetchall(
            "SELECT * FROM old_tail WHERE row > ? ORDER BY row LIMIT ?", (after, _ROWS)
        )
    ]:
        after = rows[-1].piece
        yield rows


def _rows_of(group_id: int, codec: int, table: bytes, body: bytes) -> list[Piece]:
    rows, at = [], 0
    for place in _PLACES.decode(table):
        part = body[at : at + place.length]
        at += place.length
        rows.append(
            Piece(place.row, group_id, place.members, place.t_first, place.t_last, place.n,
                  codec, zlib.crc32(part), part)
        )  # fmt: skip
    return rows


def _chunks(rows: Sequence[Piece], owed: _Owed, groups: dict[int, list[str]]) -> list[Chunk]:
    if not rows:
        return []
    first, last = rows[0].piece, rows[-1].piece
    kept = [row for row in rows if _within(row.piece, owed.backfill)]
    rest = [row for row in rows if not _within(row.piece, owed.backfill)]
    singles = [single(row, first, last)._replace(first_message=row.piece) for row in kept]
    return singles + [
        chunk._replace(first_message=0, messages=0) for chunk in merged((first, last), rest, groups)
    ]


def _within(row: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= row <= last for first, last in ranges)
