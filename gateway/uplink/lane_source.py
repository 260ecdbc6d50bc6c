"""Where the items of a lane come from: the ledger's alerts, the history's live or backlog rows."""

from collections.abc import Sequence
from typing import Protocol

from gateway.store.alert import AlertItem
from gateway.store.items import SampleItem
from gateway.uplink.base import ALERT, AlertSource, SampleSource


class LaneSource(Protocol):
    """One lane of a store."""

    def epoch(self) -> int:
        """Of the store; 0 while it is not open."""

    def head(self) -> int:
        """The last sequence."""

    def unnumbered(self) -> int:
        """Items that have no sequence yet."""

    async def fetch(self, after: int, limit: int) -> Sequence[AlertItem] | Sequence[SampleItem]:
        """The oldest items above ``after``."""

    async def load(self) -> int:
        """The stored cursor."""

    async def save(self, seq: int, epoch: int) -> None:
        """Store the cursor, of this epoch. Raises StoreError, also where that is over."""

    async def weigh(self, after: int, oldest_utc_ns: int) -> tuple[int, int]:
        """Stored bytes that are as new as the oldest item above ``after``, and how many may be so.

        ``oldest_utc_ns``: that item's stamp. Raises StoreError.
        """


class AlertLane:
    """The alert lane of the ledger."""

    def __init__(self, ledger: AlertSource, uplink: str) -> None:
        self._ledger = ledger
        self._uplink = uplink

    def epoch(self) -> int:
        """Of the ledger."""
        return self._ledger.epoch

    def head(self) -> int:
        """The last alert."""
        return self._ledger.head

    def unnumbered(self) -> int:
        """None: an alert is numbered as it is stored."""
        return 0

    async def fetch(self, after: int, limit: int) -> Sequence[AlertItem]:
        """The oldest alerts above ``after``."""
        return await self._ledger.alerts(after, limit)

    async def load(self) -> int:
        """The stored cursor."""
        return await self._ledger.cursor(self._uplink, ALERT)

    async def save(self, seq: int, epoch: int) -> None:
        """Store the cursor, of this epoch. Raises StoreError, also where that is over."""
        await self._ledger.move_cursor(self._uplink, ALERT, seq, epoch=epoch)

    async def weigh(self, after: int, oldest_utc_ns: int) -> tuple[int, int]:
        """The alerts above ``after``, the ledger's room."""
        del oldest_utc_ns
        return await self._ledger.bytes_after(after), self._ledger.bound_bytes


class SampleLane:
    """The live or the backfill lane of the history."""

    def __init__(self, history: SampleSource, uplink: str, lane: str) -> None:
        self._history = history
        self._uplink = uplink
        self._lane = lane

    def epoch(self) -> int:
        """Of the history."""
        return self._history.epoch

    def head(self) -> int:
        """The last row of the lane."""
        return self._history.lane_head(self._uplink, self._lane)

    def unnumbered(self) -> int:
        """Samples that are not packed yet."""
        return self._history.unnumbered(self._uplink, self._lane)

    async def fetch(self, after: int, limit: int) -> Sequence[SampleItem]:
        """The oldest rows above ``after``."""
        return await self._history.items(self._uplink, self._lane, after, limit)

    async def load(self) -> int:
        """The stored cursor."""
        return await self._history.cursor(self._uplink, self._lane)

    async def save(self, seq: int, epoch: int) -> None:
        """Store the cursor, of this epoch. Raises StoreError, also where that is over."""
        await self._history.move_cursor(self._uplink, self._lane, seq, epoch=epoch)

    async def weigh(self, after: int, oldest_utc_ns: int) -> tuple[int, int]:
        """Everything from the oldest on, whose ever it is; the history's bound."""
        del after
        return await self._history.bytes_since(oldest_utc_ns), self._history.bound_bytes
