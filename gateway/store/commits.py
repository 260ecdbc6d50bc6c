"""Commits of the history: what waits becomes pieces in the file, each once.

A commit that failed may be in the file all the same. It is known again by the numbers that it was
to get; so the same pieces wait for it until that is known, whatever comes after them.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from aiosqlite import Connection

from gateway.store.chunks import Piece
from gateway.store.database import Database
from gateway.store.history_state import Commit, HistoryState
from gateway.store.items import PollGroup
from gateway.store.undivided import undivided
from gateway.store.waiting import Waiting


class _Tried(NamedTuple):
    """The oldest pieces that wait, and the number that follows theirs where they are stored."""

    epoch: int
    next_piece: int
    pieces: int

    def without(self, gone: int) -> "_Tried | None":
        """When so many of the oldest wait no more."""
        return self._replace(pieces=self.pieces - gone) if gone < self.pieces else None


class Commits:
    """Of one history. ``waiting`` is what is not stored yet."""

    def __init__(self, db: Database, state: HistoryState, groups: Sequence[PollGroup]) -> None:
        self.waiting = Waiting(groups)
        self._db = db
        self._state = state
        self._position: tuple[int, int] | None = None
        self._tried: _Tried | None = None  # a commit that failed, or is under way
        self._committing = asyncio.Lock()

    async def commit(self, position: tuple[int, int] | None) -> int:
        """Store everything that waits; gives the number of pieces. Raises StoreError.

        ``position``: of the guard's ring, up to which all is among that.
        """
        self.waiting.collect()  # at once: what is added from here on is beyond the position
        self._position = position or self._position
        return await undivided(self._committing, self._store)

    async def _store(self) -> int:
        """Pieces that are stored wait no more, whoever was cancelled."""
        gone = self.waiting.trim()
        self._tried = self._tried and self._tried.without(gone)
        stored = 0
        while self.waiting:
            pieces = self.waiting.oldest()
            if self._tried is not None:
                pieces = pieces[: self._tried.pieces]
            last = len(pieces) == len(self.waiting)
            body = partial(self._write, pieces, self._position if last else None)
            await self._db.transact(body, self._state.take)
            self._tried = None
            self.waiting.stored(len(pieces))
            stored += len(pieces)
        return stored

    async def _write(
        self,
        waiting: Sequence[Piece],
        position: tuple[int, int] | None,
        connection: Connection,
    ) -> Commit:
        """Its numbers are those of the file as it is now: this job may have opened it."""
        state, tried = self._state, self._tried
        first = state.lanes.next_piece
        if tried is not None and (state.epoch, first) == (tried.epoch, tried.next_piece):
            waiting = ()  # a commit whose sync failed was there all the same, as it was reopened
        else:
            self._tried = _Tried(state.epoch, first + len(waiting), len(waiting))
        ids = state.group_ids
        pieces = [piece._replace(group_id=ids[piece.group_id]) for piece in waiting]
        return await state.write(connection, pieces, position)
