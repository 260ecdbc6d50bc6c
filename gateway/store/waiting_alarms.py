"""Alarms on their way to the ledger: stored in the order in which they came, once it takes them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gateway.store.alert import AlertDraft
from gateway.store.undivided import undivided

ALARMS_MAX: Final = 100_000  # that wait
BATCH_MAX: Final = 500


class AlarmStore(Protocol):
    """What the alarms go to: the ledger."""

    async def append(
        self, drafts: Sequence[AlertDraft], *, samples: tuple[int, int] | None = None
    ) -> Sequence[int]:
        """Store alerts with the position in one transaction. Raises StoreError."""


class WaitingAlarms:
    """Bounded: the newest are dropped and counted. ``wake`` is called when some have come."""

    def __init__(self, ledger: AlarmStore, wake: Callable[[], None]) -> None:
        self.dropped = 0
        self._ledger = ledger
        self._wake = wake
        self._waiting: deque[tuple[AlertDraft, tuple[int, int] | None]] = deque()
        self._storing = asyncio.Lock()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def put(self, drafts: Sequence[AlertDraft], position: tuple[int, int] | None = None) -> None:
        """Queue alarms made of the samples before a position of the guard's ring.

        It goes with the last of them, so that none is left behind.
        """
        for i, draft in enumerate(drafts):
            if len(self._waiting) >= ALARMS_MAX:
                self.dropped += 1
                continue
            self._waiting.append((draft, position if i == len(drafts) - 1 else None))
        if drafts:
            self._wake()

    async def store(self) -> bool:
        """Bring them into the ledger; True where some were stored. Raises StoreError."""
        stored = False
        while self._waiting:
            await undivided(self._storing, self._store_oldest)
            stored = True
        return stored

    async def _store_oldest(self) -> None:
        batch = [self._waiting[i] for i in range(min(len(self._waiting), BATCH_MAX))]
        positions = [position for _, position in batch if position]
        await self._ledger.append(
            [draft for draft, _ in batch], samples=positions[-1] if positions else None
        )
        for _ in batch:
            self._waiting.popleft()
