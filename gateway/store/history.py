"""The history: every sample durable within a second, packed later, bounded by size and age.

Constraints:
- a commit is one transaction: pieces, lanes, and how far the guard's sample ring is stored;
- packing is one transaction: pieces out, chunks in, their messages numbered;
- what does not fit goes oldest first, and is counted.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self

from aiosqlite import Connection
from msgspec import Struct

from gateway.errors import StoreError
from gateway.store import packing, tier_salvage, tiers
from gateway.store.bounds import Bounds, Limits
from gateway.store.chunks import Chunk
from gateway.store.commits import Commits
from gateway.store.cursors import of_another_epoch
from gateway.store.database import Database
from gateway.store.history_state import HistoryState
from gateway.store.items import PollGroup, SampleItem
from gateway.store.lanes import BACKFILL, LIVE
from gateway.store.room import PINCH_BYTES
from gateway.store.sample_reader import SampleReader, Series
from gateway.store.shedding import Shed

MAX_BYTES: Final = 2_000_000_000
MAX_AGE_NS: Final = 30 * 86_400 * 1_000_000_000
RESERVE_BYTES: Final = PINCH_BYTES  # enough to delete and to checkpoint
WINDOWS_PER_CALL_MAX: Final = 16


class HistoryStats(Struct, frozen=True, kw_only=True):
    """Counters and sizes. ``bytes_written``: to the disk, since the start."""

    ok: bool
    trouble: str
    epoch: int
    pieces: int  # ever stored
    samples: int  # ever stored
    waiting_pieces: int
    unpacked_samples: int
    bytes: int
    bytes_used: int
    bytes_written: int
    shed_pieces: int
    shed_samples: int
    shed_unsent: dict[tuple[str, str], int]  # messages, by uplink and lane
    dropped: dict[str, int]


class History:
    """``history.db``. Every coroutine may raise StoreError; then nothing of the call is done."""

    def __init__(
        self,
        path: Path,
        groups: Sequence[PollGroup],
        state: HistoryState,
        limits: Limits,
        reserve_bytes: int,
    ) -> None:
        self._state = state
        self._db = Database(path, state, max_bytes=limits.max_bytes, reserve_bytes=reserve_bytes)
        self._bounds = Bounds(self._db, state, limits)
        self._commits = Commits(self._db, state, groups)
        self._packing = asyncio.Lock()
        self._reader = SampleReader(self._db, state)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        groups: Sequence[PollGroup],
        uplinks: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        max_age_ns: int = MAX_AGE_NS,
        five_minute_max_age_ns: int = tiers.MAX_AGE_NS,
        reserve_bytes: int = RESERVE_BYTES,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Open or begin the history.

        A disk that does not take it now is no error here: calls raise StoreError until it does.
        Raises StoreError for a file of a newer version.
        """
        state = HistoryState(groups, uplinks, utc_ns)
        limits = Limits(max_bytes, max_age_ns, five_minute_max_age_ns)
        history = cls(path, groups, state, limits, reserve_bytes)
        await history._db.start()
        return history

    async def close(self) -> None:
        """Finish what is queued and close the file; commit before, or what waits is lost."""
        await self._db.close()

    @property
    def mishaps(self) -> tuple[int, str]:
        """How often the file or its task was mended and went on, and how the last time."""
        return self._db.mishaps

    @property
    def ok(self) -> bool:
        """False while the file cannot be used."""
        return self._db.ok

    @property
    def begun_anew(self) -> str:
        """How the last damage was met, for people; "" where there was none."""
        return self._db.begun_anew

    @property
    def epoch(self) -> int:
        """UTC ns of the file's creation; 0 while it was never open."""
        return self._state.epoch

    # ---- storing -------------------------------------------------------------------------------

    def add(self, samples: bytes) -> int:
        """Take messages.SAMPLE records by tag index; gives how many belong to a group."""
        return self._commits.waiting.add(samples)

    async def commit(self, position: tuple[int, int] | None = None) -> int:
        """Store everything that was added; gives the number of pieces.

        ``position`` = (journal id, next sample): the guard's ring up to there has been added.
        Where it raises StoreError the pieces wait in memory (bounded, counted) for the next call.
        """
        stored = await self._commits.commit(position)
        if self._state.lanes.missed():  # what an uplink that is back has missed leaves now
            with contextlib.suppress(StoreError):  # else the housekeeping packs it
                await self.pack()
        return stored

    async def sample_position(self, journal_id: int) -> int | None:
        """The first sample of this journal's ring that is not stored; None: none is."""
        await self._ready()
        position = self._state.position
        return position[1] if position and position[0] == journal_id else None

    # ---- uplinks -------------------------------------------------------------------------------

    def set_lane(self, uplink: str, lane: str) -> None:
        """Pieces committed from now on belong to this lane of the uplink.

        Where it has changed very often it becomes live again some commits later.
        """
        self._state.lanes.wish(uplink, lane)

    def lane_head(self, uplink: str, lane: str) -> int:
        """The last sequence of a lane, 0 where it has none."""
        return self._state.lanes.head(uplink, lane)

    def unnumbered(self, uplink: str, lane: str) -> int:
        """Pieces of a lane that have no sequence yet: backfill that is not packed."""
        return self._state.lanes.unnumbered(uplink) if lane == BACKFILL else 0

    async def items(self, uplink: str, lane: str, after: int, limit: int) -> list[SampleItem]:
        """The oldest stored messages of a lane above ``after``, at most ``limit``.

        Sequences that were shed, or cannot be read any more, are left out.
        """
        read = self._reader.backfill if lane == BACKFILL else self._reader.live
        return await read(uplink, after, limit)

    async def cursor(self, uplink: str, lane: str) -> int:
        """The highest contiguous sequence that the uplink has acknowledged, 0 at first."""
        await self._ready()
        return self._state.cursors.get((uplink, lane), 0)

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        """Move it forward, durably. Raises ValueError for a step back or beyond the last one.

        ``epoch`` is that of the sequence (0: the present one); where it is over StoreError.
        """
        await self._ready()
        state = self._state
        epoch = epoch or state.epoch
        if epoch != state.epoch:
            raise of_another_epoch(uplink, lane, epoch)
        if seq == state.check_cursor(uplink, lane, seq):
            return

        async def body(connection: Connection) -> list[int]:
            if epoch != state.epoch or seq > state.lanes.head(uplink, lane):
                raise of_another_epoch(uplink, lane, epoch)
            return await state.move_cursor(connection, uplink, lane, seq)

        def then(done: list[int]) -> None:
            state.cursors[uplink, lane] = seq
            state.lanes.drop(uplink, lane, done)
            if lane == BACKFILL and seq == state.lanes.head(uplink, lane):
                self._reader.forget()  # it is drained: what is decoded needs much memory

        await self._db.transact(body, then)

    def owed(self) -> dict[tuple[str, str], int]:
        """Messages that an uplink does not have yet, by uplink and lane; the site's and others."""
        return self._state.lanes.waiting(self._state.cursors)

    async def forget(self, uplink: str, lanes: Sequence[str] = (LIVE, BACKFILL)) -> None:
        """The site has this uplink, or these lanes of it, no more: nothing is owed there."""

        def then(_: None) -> None:
            self._state.take_forgotten(uplink, lanes)

        await self._db.transact(partial(self._state.write_forgotten, uplink, lanes), then)

    # ---- looking after it ----------------------------------------------------------------------

    async def pack(self) -> int:
        """Pack the windows whose time has come; gives the number of pieces packed.

        Those that are full or an hour old, and what an uplink waits for.
        """
        state, packed = self._state, 0
        async with self._packing:
            for _ in range(WINDOWS_PER_CALL_MAX):
                window = await self._db.query(partial(packing.next_window, state=state))
                if window is None:
                    break
                chunks = await asyncio.to_thread(packing.chunks_of, window, state)
                lines = await asyncio.to_thread(tiers.lines_of, chunks, state.group_tags)
                body = partial(self._replace, window, chunks, lines)
                if await self._db.transact(body, partial(packing.take, state)) is None:
                    break
                packed += len(window.pieces)
        return packed

    async def shed(self) -> Shed:
        """Bring the file within its bounds, oldest first; gives what was deleted."""
        total = await self._bounds.keep()
        if total.pieces:
            self._reader.forget()
        return total

    async def read(self, tag: str, t0_ns: int, t1_ns: int, limit: int = 1_000_000) -> Series:
        """(UTC ns, value, quality byte) of a tag in t0 .. t1, by time, at most ``limit``."""
        return await self._reader.series(tag, t0_ns, t1_ns, limit)

    async def take_over(self) -> bool:
        """Some more of the five-minute values of a damaged file; False where nothing is left."""
        if self._bounds.pinched:
            return False
        more, lost = await tier_salvage.take_over(self._db, self._bounds.tier_bytes)
        self._state.damage = "; ".join(filter(None, (self._state.damage, lost)))
        return more

    def take_damage(self) -> str:
        """What was lost with a file that was set aside, once; "" otherwise."""
        damage, self._state.damage = self._state.damage, ""
        return damage

    def take_shed(self) -> int:
        """Messages that were deleted unsent since the last call, for want of any room included."""
        messages, self._state.shed_untold = self._state.shed_untold, 0
        return messages

    async def buckets(
        self, tag: str, t0_ns: int, t1_ns: int, limit: int = 100_000
    ) -> list[tiers.Bucket]:
        """The five-minute buckets of a tag that have something of t0 .. t1, at most ``limit``.

        By time, the newest samples included; those of a bucket that is older than the raw samples
        remain. Buckets begin with the packing of a history of this version.
        """
        return await self._reader.buckets(tag, t0_ns, t1_ns, limit)

    async def newest(self) -> int:
        """UTC ns of the newest sample that is stored, 0 where none is."""
        return await self._db.query(self._state.newest)

    async def bytes_since(self, utc_ns: int) -> int:
        """Bytes of the pieces and chunks that have something of this time or later."""
        return await self._db.query(partial(self._state.bytes_since, utc_ns))

    @property
    def bound_bytes(self) -> int:
        """What shedding keeps the file to."""
        return self._bounds.bytes

    def stats(self) -> HistoryStats:
        """Counters and sizes."""
        state = self._state
        return HistoryStats(
            ok=self._db.ok,
            trouble=self._db.trouble,
            epoch=state.epoch,
            pieces=state.lanes.next_piece - 1,
            samples=state.samples,
            waiting_pieces=len(self._commits.waiting),
            unpacked_samples=state.unpacked.samples,
            bytes=self._db.file_bytes,
            bytes_used=self._db.used_bytes,
            bytes_written=self._db.bytes_written,
            shed_pieces=state.shed.pieces,
            shed_samples=state.shed.samples,
            shed_unsent=dict(state.shed_unsent),
            dropped={
                **self._commits.waiting.dropped,
                "damaged": self._reader.damaged,
                "memory": self._commits.waiting.refused,
                "shed": state.shed.samples,
                "shed_five_minute": state.shed_buckets,
            },
        )

    # ---- inside --------------------------------------------------------------------------------

    async def _replace(
        self,
        window: packing.Window,
        chunks: Sequence[Chunk],
        lines: Sequence[tiers.Line],
        connection: Connection,
    ) -> packing.Packed | None:
        packed = await packing.replace(connection, self._state, window, chunks)
        if packed is not None:
            await tiers.store(connection, lines)
        return packed

    async def _ready(self) -> None:
        """What is known in memory is only known while the file is open."""
        if not self._db.ok:
            await self._db.look()
