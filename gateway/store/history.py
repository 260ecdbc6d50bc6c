"""The history: every sample in rows, durable once a second, packed later, bounded by size and age.

Constraints:
- a row is one upstream message: its number, its lane and its content never change;
- a commit is one transaction: rows, lanes, and how far the guard's sample ring is stored;
- what does not fit goes oldest first, and is counted.
"""

import asyncio
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from aiosqlite import Connection
from msgspec import Struct

from fastpath.accumulator import Accumulator
from gateway.store.chunks import CODEC, Row, members_of
from gateway.store.database import PINCH_BYTES, Database
from gateway.store.history_state import Commit, HistoryState, Shed
from gateway.store.items import PollGroup, SampleItem
from gateway.store.row_reader import RowReader

MAX_BYTES: Final = 2_000_000_000
MAX_AGE_NS: Final = 30 * 86_400 * 1_000_000_000
RESERVE_BYTES: Final = PINCH_BYTES  # enough to delete and to checkpoint
SAMPLES_PER_ROW_MAX: Final = 1_000
WINDOW_BYTES: Final = 1024 * 1024  # of rows that are packed together
WAITING_BYTES_MAX: Final = 32 * 1024 * 1024  # rows that wait for a disk that does not take them
COMMIT_BYTES_MAX: Final = 1024 * 1024
WINDOWS_PER_CALL_MAX: Final = 16
FILL_PERCENT: Final = 95  # of max_bytes: where shedding begins
KEEP_FREE_BYTES_MAX: Final = 64 * 1024 * 1024  # of the disk, left to the ledger
KEEP_FREE_PERCENT: Final = 5


class HistoryStats(Struct, frozen=True, kw_only=True):
    """Counters and sizes. ``bytes_written``: of the rows themselves, since the start."""

    ok: bool
    trouble: str
    epoch: int
    rows: int
    samples: int
    waiting_rows: int
    bytes: int
    bytes_used: int
    bytes_written: int
    shed_rows: int
    shed_samples: int
    shed_unsent_rows: int
    dropped: dict[str, int]


class History:
    """``history.db``. Every coroutine may raise StoreError; then nothing of the call is done."""

    def __init__(
        self,
        path: Path,
        groups: Sequence[PollGroup],
        state: HistoryState,
        bounds: tuple[int, int],
        reserve_bytes: int,
    ) -> None:
        self._state = state
        self._max_bytes, self._max_age_ns = bounds
        self._db = Database(path, state, max_bytes=self._max_bytes, reserve_bytes=reserve_bytes)
        self._accumulator = Accumulator([list(g.indices) for g in groups], SAMPLES_PER_ROW_MAX)
        self._places = [{tag: i for i, tag in enumerate(g.indices)} for g in groups]
        self._waiting: deque[tuple[int, Row]] = deque()  # (place of the group, row)
        self._waiting_bytes = 0
        self._position: tuple[int, int] | None = None
        self._lock = asyncio.Lock()
        self._reader = RowReader(state)
        self._bytes_written = 0
        self._dropped = {"store": 0, "no_group": 0}
        self._pinched = False  # the disk is short: the file does not grow

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        groups: Sequence[PollGroup],
        uplinks: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        max_age_ns: int = MAX_AGE_NS,
        reserve_bytes: int = RESERVE_BYTES,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Open or begin the history.

        A disk that does not take it now is no error here: calls raise StoreError until it does.
        Raises StoreError for a file of a newer version.
        """
        state = HistoryState(groups, uplinks, utc_ns)
        history = cls(path, groups, state, (max_bytes, max_age_ns), reserve_bytes)
        await history._db.start()
        return history

    async def close(self) -> None:
        """Finish what is queued and close the file; commit before, or what waits is lost."""
        await self._db.close()

    @property
    def ok(self) -> bool:
        """False while the file cannot be used."""
        return self._db.ok

    @property
    def epoch(self) -> int:
        """UTC ns of the file's creation; 0 while it was never open."""
        return self._state.epoch

    # ---- storing -------------------------------------------------------------------------------

    def add(self, samples: bytes) -> int:
        """Take messages.SAMPLE records by tag index; gives how many belong to a group."""
        taken = self._accumulator.add(samples)
        self._dropped["no_group"] += len(samples) // 32 - taken
        return taken

    async def commit(self, position: tuple[int, int] | None = None) -> int:
        """Store everything that was added; gives the number of rows.

        ``position`` = (journal id, next sample): the guard's ring up to there has been added.
        Where it raises StoreError the rows wait in memory (bounded, counted) for the next call.
        """
        async with self._lock:
            self._collect()
            self._position = position or self._position
            stored = 0
            while self._waiting:
                rows = self._slice()
                last = len(rows) == len(self._waiting)
                body = partial(self._write, rows, self._position if last else None)
                await self._db.transact(body, self._take)
                for _ in rows:
                    self._waiting_bytes -= len(self._waiting.popleft()[1].body)
                stored += len(rows)
            return stored

    async def sample_position(self, journal_id: int) -> int | None:
        """The first sample of this journal's ring that is not stored; None: none is."""
        await self._ready()
        position = self._state.position
        return position[1] if position and position[0] == journal_id else None

    # ---- uplinks -------------------------------------------------------------------------------

    def set_lane(self, uplink: str, lane: str) -> None:
        """Rows committed from now on belong to this lane of the uplink."""
        self._state.lanes.wish(uplink, lane)

    def lane_head(self, uplink: str, lane: str) -> int:
        """The last sequence of a lane, 0 where it has none."""
        return self._state.lanes.head(uplink, lane)

    @property
    def bound_bytes(self) -> int:
        """Stored bytes beyond which the oldest samples go."""
        return self._max_bytes * FILL_PERCENT // 100

    async def bytes_since(self, utc_ns: int) -> int:
        """Stored bytes of samples from ``utc_ns`` on."""
        sql = "SELECT ifnull(sum(length(body)), 0) FROM {} WHERE t_last >= ?"
        found = 0
        for table in ("chunk", "tail"):
            rows = await self._db.query(partial(_rows, sql.format(table), (utc_ns,)))
            found += rows[0][0]
        return found

    async def items(self, uplink: str, lane: str, after: int, limit: int) -> list[SampleItem]:
        """The oldest stored rows of a lane above ``after``, at most ``limit``.

        Sequences that were shed, or cannot be read any more, are left out.
        """
        while True:
            read = partial(self._reader.lane, uplink, lane, after, limit)
            found = await self._db.query(read)
            items = self._reader.items(found)
            if items or len(found.wanted) < limit:
                return items
            after = found.wanted[-1][0]

    async def cursor(self, uplink: str, lane: str) -> int:
        """The highest contiguous sequence that the uplink has acknowledged, 0 at first."""
        await self._ready()
        return self._state.cursors.get((uplink, lane), 0)

    async def move_cursor(self, uplink: str, lane: str, seq: int) -> None:
        """Move it forward, durably. Raises ValueError for a step back or beyond the last row."""
        await self._ready()
        state = self._state
        before, head = state.cursors.get((uplink, lane), 0), state.lanes.head(uplink, lane)
        if not before <= seq <= head:
            msg = f"cursor of {uplink}/{lane} from {before} to {seq}, last row {head}"
            raise ValueError(msg)
        if seq == before:
            return
        done = state.lanes.done(uplink, lane, seq)

        async def body(connection: Connection) -> None:
            await connection.execute_fetchall(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)",
                (uplink, lane, state.epoch, seq),
            )
            if done:
                await connection.executemany(
                    "DELETE FROM lane_range WHERE uplink = ? AND lane = ? AND first_row = ?",
                    [item[:3] for item in done],
                )

        def then(_: None) -> None:
            state.cursors[uplink, lane] = seq
            state.lanes.drop(done)

        await self._db.transact(body, then)

    # ---- looking after it ----------------------------------------------------------------------

    async def pack(self) -> int:
        """Pack the tail where it is long enough; gives the number of rows packed."""
        packed = 0
        for _ in range(WINDOWS_PER_CALL_MAX):
            if self._state.tail_bytes < 2 * WINDOW_BYTES:
                break
            rows, _size = await self._db.transact(self._pack, self._packed)
            if not rows:
                break
            packed += rows
        return packed

    async def shed(self) -> Shed:
        """Bring the file within its bounds, oldest rows first; gives what was deleted."""
        await self._leave_room()
        await self._db.look()
        total = Shed()
        for _ in range(WINDOWS_PER_CALL_MAX):
            shed = await self._db.transact(self._shed_oldest, self._state.take_shed)
            if not shed.rows:
                break
            total = total.plus(shed)
            await self._db.look()
        self._reader.forget()
        if self._db.file_bytes > self._max_bytes:
            await self._db.query(_shrink)
        return total

    async def read(
        self, tag: str, t0_ns: int, t1_ns: int, limit: int = 1_000_000
    ) -> list[tuple[int, float, int]]:
        """(UTC ns, value, quality byte) of a tag in t0 .. t1, by time, at most ``limit``."""
        groups = [ident for ident, tags in self._state.group_tags.items() if tag in tags]
        rows = await self._db.query(partial(self._reader.span, groups, t0_ns, t1_ns))
        series = self._reader.series(rows, tag)
        return [item for item in series if t0_ns <= item[0] <= t1_ns][:limit]

    async def newest(self) -> int:
        """UTC ns of the newest sample that is stored, 0 where none is."""
        return await self._db.query(self._state.newest)

    def stats(self) -> HistoryStats:
        """Counters and sizes."""
        state = self._state
        return HistoryStats(
            ok=self._db.ok,
            trouble=self._db.trouble,
            epoch=state.epoch,
            rows=state.lanes.next_row - 1,
            samples=state.samples,
            waiting_rows=len(self._waiting),
            bytes=self._db.file_bytes,
            bytes_used=self._db.used_bytes,
            bytes_written=self._bytes_written,
            shed_rows=state.shed.rows,
            shed_samples=state.shed.samples,
            shed_unsent_rows=state.shed.unsent,
            dropped={
                **self._dropped,
                "damaged": self._reader.damaged,
                "memory": self._accumulator.refused,
                "shed": state.shed.samples,
            },
        )

    # ---- inside --------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Rows of what was added; the oldest go where the disk has not taken any for too long."""
        for place, tags, t_first, t_last, n, body in self._accumulator.take():
            members = members_of(tags, self._places[place])
            crc32 = zlib.crc32(body)
            row = Row(0, 0, members, t_first, t_last, n, CODEC, crc32, body)
            self._waiting.append((place, row))
            self._waiting_bytes += len(body)
        while self._waiting_bytes > WAITING_BYTES_MAX:
            _, row = self._waiting.popleft()
            self._waiting_bytes -= len(row.body)
            self._dropped["store"] += row.n

    def _slice(self) -> list[tuple[int, Row]]:
        """The oldest waiting rows that one transaction takes: the -wal stays small."""
        size = 0
        rows: list[tuple[int, Row]] = []
        for place, row in self._waiting:
            size += len(row.body)
            if rows and size > COMMIT_BYTES_MAX:
                break
            rows.append((place, row))
        return rows

    async def _write(
        self,
        waiting: list[tuple[int, Row]],
        position: tuple[int, int] | None,
        connection: Connection,
    ) -> Commit:
        ids = self._state.group_ids
        rows = [row._replace(group_id=ids[place]) for place, row in waiting]
        return await self._state.write(connection, rows, position)

    def _take(self, commit: Commit) -> None:
        self._state.take(commit)
        self._bytes_written += commit.body_bytes

    async def _pack(self, connection: Connection) -> tuple[int, int]:
        return await self._state.pack(connection, WINDOW_BYTES)

    def _packed(self, packed: tuple[int, int]) -> None:
        self._state.tail_bytes -= packed[1]
        self._bytes_written += packed[1]

    async def _shed_oldest(self, connection: Connection) -> Shed:
        oldest = await self._state.oldest(connection)
        if oldest is None:
            return Shed()
        full = self._db.used_bytes * 100 > self._max_bytes * FILL_PERCENT
        old = oldest.t_last < self._state.utc_ns() - self._max_age_ns
        # A clock that leaps ahead makes everything old: what is owed goes by size alone.
        if not full and not (old and self._state.unsent(oldest) == 0):
            return Shed()
        return await self._state.delete(connection, oldest)

    async def _leave_room(self) -> None:
        """On a disk that is short the file stays as large as it is: oldest rows make the room."""
        disk = os.statvfs(self._db.path.parent)
        free_bytes = disk.f_bavail * disk.f_frsize
        keep_bytes = min(
            KEEP_FREE_BYTES_MAX, disk.f_blocks * disk.f_frsize * KEEP_FREE_PERCENT // 100
        )
        if free_bytes < keep_bytes and not self._pinched:
            self._pinched = True
            await self._db.limit(min(self._max_bytes, max(self._db.file_bytes, 1)))
        elif free_bytes > 2 * keep_bytes and self._pinched:
            self._pinched = False
            await self._db.limit(self._max_bytes)

    async def _ready(self) -> None:
        """What is known in memory is only known while the file is open."""
        if not self._db.ok:
            await self._db.look()


async def _shrink(connection: Connection) -> None:
    """Give free pages back to the disk, a bounded number at a time."""
    await connection.executescript("PRAGMA incremental_vacuum(4096)")


async def _rows(sql: str, parameters: tuple[int, ...], connection: Connection) -> list[Any]:
    return list(await connection.execute_fetchall(sql, parameters))
