"""The guard's journal into the ledger: every record exactly once, in order.

Constraints: the position in the journal moves in the transaction of the alerts made of the records
before it, and the guard is told (ACK) only after that. A record that makes no sense becomes an
alert that says so; it never stops the others.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from gateway.errors import StoreError
from gateway.store.alert import AlertDraft, Source
from gateway.store.undivided import undivided

if TYPE_CHECKING:
    from fastpath.journal import GuardView
    from fastpath.records import Event

_LOGGER = logging.getLogger(__name__)

BATCH_MAX: Final = 512
QUIET_NS: Final = 1_000_000_000  # how long records that are no alert wait for a commit of their own
_POISON: Final = (LookupError, ValueError, TypeError, ArithmeticError, struct.error)


DraftsOf = Callable[["Event"], list[AlertDraft]]  # what a record says


class AlertStore(Protocol):
    """What the records go to: the ledger."""

    async def append(
        self,
        drafts: Sequence[AlertDraft],
        *,
        journal: tuple[int, int] | None = None,
        epoch: int = 0,
    ) -> Sequence[int]:
        """Store alerts with the position in one transaction. Raises StoreError."""

    @property
    def epoch(self) -> int:
        """Another one: the file was begun anew."""

    async def journal_position(self, journal_id: int) -> int | None:
        """The first record that is not recorded. Raises StoreError."""

    async def knows_journals(self) -> bool:
        """False where nothing of any guard was ever recorded. Raises StoreError."""

    @property
    def uncompared(self) -> bool:
        """Whether it began from a damaged one, and what the guard has was not looked at since."""

    async def compared(self, drafts: Sequence[AlertDraft]) -> None:
        """Store what differs; it is compared then. Raises StoreError."""


class EventDrain:
    """Reads events from where the ledger stands.

    ``words`` makes alerts of a record, mostly one or none, ``differences`` those that a ledger
    lacks which began from a damaged one, of what is before a record, given ``words`` that never
    raise; ``ack`` tells the guard, ``observers`` see every record once it is durable.
    """

    def __init__(
        self,
        view: "Callable[[], GuardView | None]",
        ledger: AlertStore,
        words: DraftsOf,
        differences: "Callable[[GuardView, int, DraftsOf], Awaitable[list[AlertDraft]]]",
        ack: Callable[[int, int], None],
        observers: "Sequence[Callable[[Event], None]]" = (),
    ) -> None:
        self.events = 0  # recorded
        self.lost = 0  # records that were overwritten or unreadable
        self._view = view
        self._ledger = ledger
        self._words = words
        self._differences = differences
        self._ack = ack
        self._observers = tuple(observers)
        self._draining = asyncio.Lock()
        self._journal_id = 0  # 0: not attached
        self._epoch = 0  # of the ledger that gave the position
        self._next = 0
        self._unsaved: list[Event] = []  # read, no alert, position not yet committed
        self._saved_ns = 0

    async def drain(self, *, all_of_it: bool = False) -> bool:
        """Record what is new; True where alerts were stored.

        ``all_of_it``: commit the position also of records that are no alert. Raises StoreError:
        then it begins again from what the ledger has.
        """
        stored = False
        more = True
        while more:
            told, more = await undivided(self._draining, partial(self._step, all_of_it=all_of_it))
            stored = stored or told
        return stored

    def detach(self) -> None:
        """Ask the ledger for the position again before the next record."""
        self._journal_id = 0
        self._unsaved = []

    async def _step(self, *, all_of_it: bool) -> tuple[bool, bool]:
        """One batch: whether alerts were stored, and whether there is more.

        Not to be divided: records that are stored and not yet passed are observed twice.
        """
        try:
            return await self._drain(all_of_it=all_of_it)
        except StoreError:
            self.detach()
            raise

    async def _drain(self, *, all_of_it: bool) -> tuple[bool, bool]:
        if (view := self._view()) is None:
            return False, False
        header = view.header()
        if (header.journal_id, self._ledger.epoch) != (self._journal_id, self._epoch):
            stored = await self._attach(header.journal_id, header.event_tail)
            return stored, True  # it may be another file after a wait
        if self._ledger.uncompared:
            return await self._compare(view), True
        events = view.events(self._next, BATCH_MAX)
        whole = len(events) < BATCH_MAX
        drafts, end = self._read(events, header.event_head if whole else 0)
        due = all_of_it or time.monotonic_ns() - self._saved_ns >= QUIET_NS
        if drafts or (due and self._unsaved) or len(self._unsaved) >= BATCH_MAX:
            position = (self._journal_id, end)
            await self._ledger.append(drafts, journal=position, epoch=self._epoch)
            self._saved(end)
        self._next = end
        if whole and header.event_tail < self._committed(end):
            self._ack(self._journal_id, self._committed(end))
        return bool(drafts), not whole

    async def _attach(self, journal_id: int, tail: int) -> bool:
        """Find the place in a journal; one that is new to the ledger begins at its tail."""
        position = await self._ledger.journal_position(journal_id)
        epoch = self._ledger.epoch
        told = False
        if position is None:
            position = tail
            told = await self._ledger.knows_journals()
            drafts = [_new_journal()] if told else []
            await self._ledger.append(drafts, journal=(journal_id, tail), epoch=epoch)
        self._journal_id, self._epoch = journal_id, epoch
        self._next = position
        self._unsaved = []
        self._saved_ns = time.monotonic_ns()
        return told

    async def _compare(self, view: "GuardView") -> bool:
        """Tell what a damaged ledger has lost, once; True where alerts were stored.

        A comparison that fails would fail again: it is told, and the records go on.
        """
        try:
            drafts = await self._differences(view, self._next, self._drafts)
        except _POISON:
            _LOGGER.exception("what the guard says stands cannot be compared with the ledger")
            drafts = [_not_compared()]
        await self._ledger.compared(drafts)
        return bool(drafts)

    def _read(self, events: "Sequence[Event]", head: int) -> tuple[list[AlertDraft], int]:
        """Drafts of the records, and the place after them; ``head``: nothing is left before it."""
        drafts = []
        expected = self._next
        for event in events:
            if event.seq > expected:
                drafts.append(self._missing(expected, event.seq - 1))
            expected = event.seq + 1
            drafts += self._drafts(event)
        if head > expected:
            drafts.append(self._missing(expected, head - 1))
            expected = head
        self._unsaved += events
        return drafts, expected

    def _drafts(self, event: "Event") -> list[AlertDraft]:
        try:
            return self._words(event)
        except _POISON:
            _LOGGER.exception("journal record %d of type %d", event.seq, event.type)
            gap = AlertDraft(
                kind="gap",
                state="event",
                source=Source("guard", "journal"),
                utc_ns=event.utc_ns,
                priority="high",
                cause=f"journal record {event.seq} of type {event.type} cannot be understood",
                journal_seq=event.seq,
            )
            return [gap]

    def _missing(self, first: int, last: int) -> AlertDraft:
        self.lost += last - first + 1
        return AlertDraft(
            kind="gap",
            state="event",
            source=Source("guard", "journal"),
            priority="high",
            cause=f"journal records {first} to {last} were overwritten or are damaged",
            journal_seq=last,
        )

    def _saved(self, end: int) -> None:
        for event in self._unsaved:
            for observe in self._observers:
                observe(event)
        self.events += len(self._unsaved)
        self._unsaved = []
        self._saved_ns = time.monotonic_ns()
        self._ack(self._journal_id, end)

    def _committed(self, end: int) -> int:
        return self._unsaved[0].seq if self._unsaved else end


def _new_journal() -> AlertDraft:
    return AlertDraft(
        kind="gap",
        state="event",
        source=Source("guard", "journal"),
        priority="low",
        cause="the guard has a new journal (the machine was restarted, or its file was replaced): "
        "what was in the old one and not yet recorded is lost",
    )


def _not_compared() -> AlertDraft:
    return AlertDraft(
        kind="gap",
        state="event",
        source=Source("guard", "journal"),
        priority="high",
        cause="what the guard says stands cannot be compared with the ledger, which was damaged: "
        "what it has lost of it is not told anew",
    )
