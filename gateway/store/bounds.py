"""The bounds of a history: its size, its age, and what it leaves to others on a disk that is short.

What does not fit goes oldest first. What an uplink is owed goes by size alone, whatever its age.
"""

import asyncio
import os
from functools import partial
from typing import Final, NamedTuple

from aiosqlite import Connection

from gateway.store import shedding, tiers
from gateway.store.age_clock import AgeClock, Belief
from gateway.store.database import Database
from gateway.store.history_state import HistoryState
from gateway.store.shedding import Shed
from gateway.store.sqlite_file import value_of

FILL_PERCENT: Final = 95  # of max_bytes: where shedding begins
STEPS_PER_CALL: Final = 16
KEEP_FREE_BYTES_MAX: Final = 64 * 1024 * 1024  # of the disk, left to the ledger
KEEP_FREE_PERCENT: Final = 5
BELIEF_NS: Final = 600_000_000_000  # how often what is believed of the time is kept
_BELIEVED: Final = "believed utc_ns"  # of meta
_LASTED: Final = "leap lasted ns"


class Limits(NamedTuple):
    """Of the file, of raw samples, of five-minute values."""

    max_bytes: int
    max_age_ns: int
    five_minute_max_age_ns: int


class Bounds:
    """Keeps a history to its limits. ``pinched``: the disk is short, the file does not grow."""

    def __init__(self, db: Database, state: HistoryState, limits: Limits) -> None:
        self.limits = limits
        self.pinched = False
        self._db = db
        self._state = state
        self._clock = AgeClock(lambda: state.utc_ns(), lambda: state.monotonic_ns())
        self._belief_due_ns = 0

    @property
    def bytes(self) -> int:
        """What shedding keeps the file to."""
        return self.limits.max_bytes * FILL_PERCENT // 100

    @property
    def tier_bytes(self) -> int:
        """The part of it that five-minute values may take."""
        return self.limits.max_bytes // tiers.PART_OF_BYTES

    async def keep(self) -> Shed:
        """Bring the file within its limits; gives what was deleted. Raises StoreError."""
        await self._leave_room()
        await self._db.look()
        total, now_ns = Shed(), await self._now_ns()
        for _ in range(STEPS_PER_CALL):
            deleted = await self._db.transact(
                partial(self._shed_oldest, now_ns), partial(shedding.take, self._state)
            )
            if deleted is None:
                break
            total = total.plus(deleted.shed)
            await self._db.look()
        await self._db.transact(partial(self._shed_tier, now_ns), self._state.take_tier)
        if self._db.file_bytes > self.limits.max_bytes:
            await self._db.query(_shrink)
        return total

    async def _now_ns(self) -> int:
        """The time by which samples are old."""
        if self._clock.belief is None and (belief := await self._db.query(self._believed)):
            self._clock.begin(belief)
        now_ns, monotonic_ns = self._clock.now_ns(), self._state.monotonic_ns()
        if self._clock.belief and monotonic_ns >= self._belief_due_ns:
            await self._db.transact(partial(_keep_belief, self._clock.belief))
            self._belief_due_ns = monotonic_ns + BELIEF_NS
        return now_ns

    async def _believed(self, connection: Connection) -> Belief | None:
        """What was believed last, at first the newest sample's time; None where there is none."""
        sql = "SELECT value FROM meta WHERE key = ?"
        utc_ns = await value_of(connection, sql, (_BELIEVED,))
        lasted_ns = await value_of(connection, sql, (_LASTED,))
        if isinstance(utc_ns, int) and isinstance(lasted_ns, int | None):  # else it is damaged
            return Belief(utc_ns, lasted_ns)
        newest_ns = await self._state.newest(connection)
        return Belief(newest_ns) if newest_ns else None

    async def _shed_oldest(self, now_ns: int, connection: Connection) -> shedding.Deleted | None:
        oldest = await shedding.oldest(connection, self._state)
        if oldest is None:
            return None
        full = self._db.used_bytes * 100 > self.limits.max_bytes * FILL_PERCENT
        old = oldest.t_last < now_ns - self.limits.max_age_ns
        if not full and not (old and not shedding.unsent(self._state, oldest)):
            return None
        return await shedding.delete(connection, self._state, oldest)

    async def _shed_tier(self, now_ns: int, connection: Connection) -> tiers.Shed | None:
        before_ns = now_ns - self.limits.five_minute_max_age_ns
        return await tiers.shed(connection, before_ns, self.tier_bytes)

    async def _leave_room(self) -> None:
        """On a disk that is short the file stays as large as it is: the oldest make the room."""
        try:
            disk = await asyncio.to_thread(os.statvfs, self._db.path.parent)
        except OSError:
            return  # it does not even say
        free_bytes = disk.f_bavail * disk.f_frsize
        keep_bytes = min(
            KEEP_FREE_BYTES_MAX, disk.f_blocks * disk.f_frsize * KEEP_FREE_PERCENT // 100
        )
        max_bytes = self.limits.max_bytes
        if free_bytes < keep_bytes and not self.pinched:
            await self._db.limit(min(max_bytes, max(self._db.file_bytes, 1)))
            self.pinched = True  # only now: where that has failed it is tried again
        elif free_bytes > 2 * keep_bytes and self.pinched:
            await self._db.limit(max_bytes)
            self.pinched = False


async def _keep_belief(belief: Belief, connection: Connection) -> None:
    await connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)",
        [(_BELIEVED, belief.utc_ns), (_LASTED, belief.lasted_ns)],
    )


async def _shrink(connection: Connection) -> None:
    """Give free pages back to the disk, a bounded number at a time."""
    await connection.executescript("PRAGMA incremental_vacuum(4096)")
