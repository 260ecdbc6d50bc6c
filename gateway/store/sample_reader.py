"""Reading samples back: messages of a lane, and the series of one tag.

Backfill reads a chunk message by message, so the last few are kept decoded. What is damaged is left
out and counted; the others are not held up by it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

from aiosqlite import Connection

from gateway.store import tiers
from gateway.store.chunks import (
    CHUNK_SAMPLES,
    Chunk,
    Columns,
    Piece,
    block_of,
    item_of,
    tags_of,
    whole,
)
from gateway.store.database import Database
from gateway.store.history_state import HistoryState
from gateway.store.items import SampleItem
from gateway.store.lanes import BACKFILL, LIVE, Run

_T = TypeVar("_T")

_BLOCKS_MAX: Final = 4
_BLOCK_SAMPLES_MAX: Final = (
    2 * CHUNK_SAMPLES
)  # decoded at a time, where there is more than one block
_LONG_SAMPLES: Final = 20_000  # from here on decoding is done in a thread
_PIECES: Final = 256  # read at a time
_DAMAGE: Final = (ValueError, LookupError, TypeError)
_CHUNK: Final = (
    "id, first_piece, last_piece, group_id, members, t_first, t_last, n, first_message, messages, "
    "codec, crc32, body"
)
_PIECE: Final = "piece, group_id, members, t_first, t_last, n, codec, crc32, body"

Series = list[tuple[int, float, int]]


class _Opened(NamedTuple):
    """A chunk with its body decoded; ``message`` None: it is damaged."""

    first_message: int
    end_message: int
    samples: int
    message: Callable[[int], Columns] | None
    tags: list[str]


class SampleReader:
    """Reads inside the database's task; decodes outside of it."""

    def __init__(self, db: Database, state: HistoryState) -> None:
        self.damaged = 0  # samples that could not be read
        self._db = db
        self._state = state
        self._opened: OrderedDict[int, _Opened] = OrderedDict()  # by first message
        self._epoch = 0

    def forget(self) -> None:
        """Chunks may be gone."""
        self._opened.clear()

    # ---- lanes ---------------------------------------------------------------------------------

    async def live(self, uplink: str, after: int, limit: int) -> list[SampleItem]:
        """The oldest stored pieces of the live lane above ``after``. Raises StoreError."""
        items: list[SampleItem] = []
        while len(items) < limit:
            run = self._state.lanes.run(uplink, LIVE, after, 0)
            if run is None:
                break
            pieces = await self._db.query(partial(_pieces, run, min(_PIECES, limit - len(items))))
            for piece in pieces:
                seq = run.seq + piece.piece - run.number
                try:
                    tags = self._state.group_tags[piece.group_id]
                    found = whole(piece, tags)
                    items.append(item_of(seq, found, tags_of(piece.members, tags)))
                except _DAMAGE:
                    self.damaged += piece.n
            last = pieces[-1].piece if pieces else run.number + run.size - 1
            after = run.seq + last - run.number
        return items

    async def backfill(self, uplink: str, after: int, limit: int) -> list[SampleItem]:
        """The oldest stored messages of the backfill lane above ``after``. Raises StoreError."""
        if self._epoch != self._state.epoch:  # another file: the same numbers, other samples
            self._epoch = self._state.epoch
            self.forget()
        items: list[SampleItem] = []
        from_message = 0
        while len(items) < limit:
            run = self._state.lanes.run(uplink, BACKFILL, after, from_message)
            if run is None:
                break
            opened = await self._open(run.number)
            if opened is None:
                break
            if opened.first_message > run.number:
                from_message = opened.first_message
                continue
            size = min(run.size, limit - len(items), opened.end_message - run.number)
            items += self._messages(opened, run._replace(size=size))
            after = run.seq + size - 1
            del opened  # the next one may need its memory
        return items

    def _messages(self, opened: _Opened, run: Run) -> list[SampleItem]:
        message, first = opened.message, run.number - opened.first_message
        if message is None:
            return []
        return [item_of(run.seq + i, message(first + i), opened.tags) for i in range(run.size)]

    async def _open(self, message: int) -> _Opened | None:
        """The chunk that has this message, or the next above it."""
        for opened in self._opened.values():
            if opened.first_message <= message < opened.end_message:
                self._opened.move_to_end(opened.first_message)
                return opened
        chunk = await self._db.query(partial(_chunk_at, message))
        if chunk is None:
            return None
        self._make_room(chunk.n)
        found, tags = await self._decode(chunk)
        end_message = chunk.first_message + chunk.messages
        opened = _Opened(chunk.first_message, end_message, chunk.n, found, tags)
        self._opened[opened.first_message] = opened
        return opened

    async def _decode(self, chunk: Chunk) -> tuple[Callable[[int], Columns] | None, list[str]]:
        """What gives its messages, None where it is damaged, and its tags."""
        try:
            group_tags = self._state.group_tags[chunk.group_id]
            tags = tags_of(chunk.members, group_tags)
            if chunk.messages > 1:
                block = await _aside(chunk.n, partial(block_of, chunk, group_tags))
                return block.message, tags
            found = whole(chunk, group_tags)
        except _DAMAGE:
            self.damaged += chunk.n
            return None, []
        return lambda _: found, tags

    def _make_room(self, samples: int) -> None:
        """For a block of so many samples; the one used longest ago goes first."""
        kept = sum(item.samples for item in self._opened.values())
        while self._opened and (
            len(self._opened) >= _BLOCKS_MAX or kept + samples > _BLOCK_SAMPLES_MAX
        ):
            kept -= self._opened.popitem(last=False)[1].samples

    # ---- one tag -------------------------------------------------------------------------------

    async def series(self, tag: str, t0_ns: int, t1_ns: int, limit: int) -> Series:
        """The first ``limit`` samples of a tag in t0 .. t1, by time. Raises StoreError.

        One chunk is decoded at a time; those behind the last sample wanted are not read at all.
        """
        found: Series = []
        for group_id, tags in self._state.group_tags.items():
            if tag in tags:
                found += await self._group_series(group_id, tag, (t0_ns, t1_ns), limit)
        return _first(found, limit)

    async def _group_series(
        self, group_id: int, tag: str, span: tuple[int, int], limit: int
    ) -> Series:
        found, packed_to = await self._tail_series(group_id, tag, span, limit)
        for ident, t_first in await self._db.query(partial(_chunks_in, group_id, span, packed_to)):
            found = _first(found, limit)
            if len(found) == limit and t_first > found[-1][0]:
                break
            chunk = await self._db.query(partial(_chunk, ident))
            if chunk is not None:  # it may be shed meanwhile
                found += await self._series_of(chunk, tag, span)
        return found

    async def _tail_series(
        self, group_id: int, tag: str, span: tuple[int, int], limit: int
    ) -> tuple[Series, int]:
        """What is not packed, and the piece after which it begins."""
        lanes = self._state.lanes
        while True:
            found: Series = []
            after = packed_to = lanes.packed_to
            while pieces := await self._db.query(partial(_pieces_in, group_id, span, after)):
                for piece in pieces:
                    found += await self._series_of(piece, tag, span)
                found = _first(found, limit)
                after = pieces[-1].piece
            if lanes.packed_to == packed_to:  # nothing has moved meanwhile
                return found, packed_to

    async def _series_of(self, stored: Piece | Chunk, tag: str, span: tuple[int, int]) -> Series:
        group_tags = self._state.group_tags[stored.group_id]
        try:
            tags = tags_of(stored.members, group_tags)
            if tag not in tags:
                return []
            block = await _aside(stored.n, partial(block_of, stored, group_tags))
            return block.series(tags.index(tag), *span)
        except _DAMAGE:
            self.damaged += stored.n
            return []

    # ---- buckets -------------------------------------------------------------------------------

    async def buckets(self, tag: str, t0_ns: int, t1_ns: int, limit: int) -> list[tiers.Bucket]:
        """The first ``limit`` five-minute buckets of a tag in t0 .. t1. Raises StoreError."""
        span = (t0_ns // tiers.SPAN_NS * tiers.SPAN_NS, t1_ns // tiers.SPAN_NS * tiers.SPAN_NS)
        span = (span[0], span[1] + tiers.SPAN_NS - 1)
        lanes = self._state.lanes
        while True:
            found = tiers.Buckets(tag, span)
            packed_to = lanes.packed_to
            for group_id, tags in self._state.group_tags.items():
                if tag in tags:
                    await self._group_buckets(found, group_id, span, packed_to)
            if lanes.packed_to == packed_to:  # nothing has moved meanwhile
                return found.first(limit)

    async def _group_buckets(
        self, found: "tiers.Buckets", group_id: int, span: tuple[int, int], packed_to: int
    ) -> None:
        tags = self._state.group_tags[group_id]
        after = 0
        while lines := await self._db.query(partial(tiers.lines_in, group_id, span, after)):
            for line in lines:
                after = line.id
                try:
                    found.add_line(line, tags)
                except _DAMAGE:
                    self.damaged += line.n
        while pieces := await self._db.query(partial(_pieces_in, group_id, span, packed_to)):
            for piece in pieces:
                packed_to = piece.piece
                try:
                    found.add_samples(piece, tags)
                except _DAMAGE:
                    self.damaged += piece.n


def _first(series: Series, limit: int) -> Series:
    series.sort(key=lambda item: item[0])
    return series[:limit]


async def _aside(samples: int, work: "partial[_T]") -> _T:
    """In a thread where it takes long."""
    return await asyncio.to_thread(work) if samples > _LONG_SAMPLES else work()


async def _pieces(run: Run, limit: int, connection: Connection) -> list[Piece]:
    sql = f"SELECT {_PIECE} FROM tail WHERE piece BETWEEN ? AND ? ORDER BY piece LIMIT ?"  # noqa: S608
    span = (run.number, run.number + run.size - 1, limit)
    return [Piece(*row) for row in await connection.execute_fetchall(sql, span)]


async def _pieces_in(
    group_id: int, span: tuple[int, int], after: int, connection: Connection
) -> list[Piece]:
    sql = (
        f"SELECT {_PIECE} FROM tail WHERE piece > ? AND group_id = ? AND t_last >= ? "  # noqa: S608
        "AND t_first <= ? ORDER BY piece LIMIT ?"
    )
    found = await connection.execute_fetchall(sql, (after, group_id, *span, _PIECES))
    return [Piece(*row) for row in found]


async def _chunk_at(message: int, connection: Connection) -> Chunk | None:
    for where in (
        "first_message <= ?1 AND messages > 0 ORDER BY first_message DESC",
        "first_message > ?1 AND messages > 0 ORDER BY first_message",
    ):
        sql = f"SELECT {_CHUNK} FROM chunk WHERE {where} LIMIT 1"  # noqa: S608
        for row in await connection.execute_fetchall(sql, (message,)):
            chunk = Chunk(*row)
            if chunk.first_message + chunk.messages > message:
                return chunk
    return None


async def _chunk(ident: int, connection: Connection) -> Chunk | None:
    sql = f"SELECT {_CHUNK} FROM chunk WHERE id = ?"  # noqa: S608
    for row in await connection.execute_fetchall(sql, (ident,)):
        return Chunk(*row)
    return None


async def _chunks_in(
    group_id: int, span: tuple[int, int], packed_to: int, connection: Connection
) -> Sequence[tuple[int, int]]:
    """(id, first time) of the chunks that have something of the span, by time."""
    sql = (
        "SELECT id, t_first FROM chunk WHERE group_id = ? AND t_last >= ? AND t_first <= ? "
        "AND last_piece <= ? ORDER BY t_first"
    )
    found = await connection.execute_fetchall(sql, (group_id, *span, packed_to))
    return [(ident, t_first) for ident, t_first in found]
