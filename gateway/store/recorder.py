"""The recorder: brings what the guard journals, and what the drivers read, to disk.

Three loops that do not wait for each other: journal records to the ledger, samples to the image,
the alarms and the history (a commit every 0.75 s), and the history's housekeeping. A disk that
takes nothing costs none of them anything: the records stay in the guard's ring, alarms and pieces
wait in memory (bounded, counted).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from gateway.errors import StoreError
from gateway.life.child import start_child
from gateway.life.memory import give_back
from gateway.store.alert import AlertDraft, Source
from gateway.store.comparison import differences
from gateway.store.event_drain import DraftsOf, EventDrain
from gateway.store.sample_drain import Made, SampleDrain
from gateway.store.waiting_alarms import WaitingAlarms

if TYPE_CHECKING:
    from array import array

    from fastpath.image import TagImage
    from fastpath.journal import GuardView
    from fastpath.recording import Recording
    from fastpath.records import Event
    from gateway.store.history import History
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

DRAIN_S: Final = 0.1
# A power cut costs a second of samples at most, the commit's own time included; and a live sample
# is at the platform within a second.
COMMIT_S: Final = 0.75
KEEP_S: Final = 10.0
RETRY_S_MAX: Final = 1.0
STOP_S: Final = 1.0
ALARMS_FIRST_S: Final = 0.25
TELL_NS: Final = 60_000_000_000  # how often lost samples are told
TELL_SHED_NS: Final = 3_600_000_000_000


class Alarms(Protocol):
    """What makes alarms of samples: ``alarms.Limits``."""

    def restore(self, subjects: Sequence[str]) -> None:
        """Begin with what is raised."""

    def orphans(self) -> list[AlertDraft]:
        """The ends of alarms that no longer exist."""

    def feed(self, samples: bytes) -> list[AlertDraft]:
        """Evaluate samples; what began and what ended."""

    def advance(self, mono_ns: int, utc_ns: int) -> list[AlertDraft]:
        """Evaluate at a time without samples."""


class Computing(Protocol):
    """What makes computed tags of samples: ``gateway.plant.computed.ComputedValues``."""

    @property
    def dropped(self) -> int:
        """Samples that came too early and found no room."""

    async def begin(self, history: "History", journal_id: int) -> Made:
        """Read the past, once. Raises StoreError while that is not possible."""

    def run(self, samples: bytes) -> Made:
        """Samples with what was made of them."""

    def tick(self, now_ns: int) -> Made:
        """What changes while no sample comes."""


class Programs(Protocol):
    """What knows the guard's programs: ``alarms.KnownPrograms``."""

    def table(self, number: int) -> "array[int] | None":
        """Guard slot to tag index."""


class Words(Protocol):
    """What makes alerts of journal records: ``alarms.EventWords``."""

    def draft_of(self, event: "Event") -> AlertDraft | None:
        """The alert that a record is, or None."""

    def ends_of(self, event: "Event", raised: Iterable[str]) -> list[AlertDraft]:
        """The ends, besides, of what is raised (subjects) and is over by this record."""

    def standing(self, view: "GuardView", before: int) -> list[AlertDraft]:
        """What is known to stand, or not, without the journal's records below ``before``."""


class RecorderStats(Struct, frozen=True, kw_only=True):
    """Counters since the start."""

    running: bool
    events: int
    samples: int
    alarms_waiting: int
    store_failures: int
    last_drain_mono_ns: int
    dropped: dict[str, int]


class Recorder:
    """Runs for the gateway's life. ``view`` gives the mapped guard.shm or None.

    ``ack`` tells the guard how far its journal is recorded, ``on_stored`` that there is something
    new to send.
    """

    def __init__(
        self,
        view: "Callable[[], GuardView | None]",
        ledger: "Ledger",
        history: "History",
        *,
        image: "TagImage",
        limits: Alarms,
        computed: Computing,
        recording: "Recording",
        words: Words,
        programs: Programs,
        ack: Callable[[int, int], None],
        on_stored: Callable[[], None],
        observers: "Sequence[Callable[[Event], None]]" = (),
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.rounds = 0  # of the loop that must never stand still
        self._view = view
        self._ledger = ledger
        self._history = history
        self._image = image
        self._limits = limits
        self._computed = computed
        self._on_stored = on_stored
        self._utc_ns = utc_ns
        self._words = words
        self._events = EventDrain(view, ledger, self._drafts_of, self._differences, ack, observers)
        self._recording = recording
        self._samples = SampleDrain(image, limits, computed, recording, history, programs.table)
        self._event_nudge = asyncio.Event()
        self._alarms = WaitingAlarms(ledger, self._event_nudge.set)
        self._sample_nudge = asyncio.Event()
        self._known = False  # the limits have begun with what is raised
        self._running = False
        self._failures = 0
        self._last_drain_ns = 0
        self._lost_told = 0
        self._lost_told_ns = -TELL_NS
        self._shed_untold = 0
        self._shed_told_ns = -TELL_SHED_NS

    def nudge(self) -> None:
        """There is something new in guard.shm."""
        self._event_nudge.set()
        self._sample_nudge.set()

    def take(self, samples: bytes, recorded: bytes) -> None:
        """Samples of the gateway's own drivers, by tag index; ``recorded`` are those to keep."""
        made = self._computed.run(samples)
        self._image.apply(made.samples)
        self._alarms.put(self._limits.feed(made.samples))
        self._history.add(recorded + self._recording.keep(made.kept))

    async def run(self) -> None:
        """Record until cancelled; then what is there is stored, for a second at most."""
        self._events.detach()
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                start_child(group, self._run_events, "recorder events")
                start_child(group, self._run_samples, "recorder samples")
                start_child(group, self._run_commits, "recorder commits")
                start_child(group, self._run_keeping, "recorder keeping")
        finally:
            self._running = False
            await self._finish()

    async def commit(self) -> None:
        """Store what was taken; ``run`` does it every COMMIT_S. Raises StoreError.

        The alarms first: samples that are in the history are not read again after a crash.
        """
        if damage := self._history.take_damage():
            self._tell_gap(damage)
        with contextlib.suppress(StoreError, TimeoutError):  # samples wait for no ledger for long
            async with asyncio.timeout(ALARMS_FIRST_S):
                if await self._alarms.store():
                    self._on_stored()
        journal_id = self._samples.journal_id
        position = (journal_id, self._samples.position) if journal_id else None
        if await self._history.commit(position):
            self._on_stored()

    async def keep(self) -> None:
        """Pack and shed what is due; ``run`` does it every KEEP_S. Raises StoreError."""
        self._tell_lost()
        try:
            await self._history.pack()
            await self._history.shed()
            await self._history.take_over()
        finally:
            give_back()
            self._tell_shed()

    def stats(self) -> RecorderStats:
        """Counters."""
        return RecorderStats(
            running=self._running,
            events=self._events.events,
            samples=self._samples.samples,
            alarms_waiting=len(self._alarms),
            store_failures=self._failures,
            last_drain_mono_ns=self._last_drain_ns,
            dropped={
                "events_lost": self._events.lost,
                "samples_lost": self._samples.lost,
                "unknown_program": self._samples.unknown,
                "alarms_full": self._alarms.dropped,
                "not_computed": self._computed.dropped,
            },
        )

    def _drafts_of(self, event: "Event") -> list[AlertDraft]:
        raised = (item.subject for item in self._ledger.active())
        draft = self._words.draft_of(event)
        return [*([draft] if draft else []), *self._words.ends_of(event, raised)]

    async def _differences(
        self, view: "GuardView", before: int, words: DraftsOf
    ) -> list[AlertDraft]:
        def raised() -> set[str]:
            return {item.subject for item in self._ledger.active()}

        return await differences(view, before, words, self._words.standing, raised)

    # ---- the loops -----------------------------------------------------------------------------

    async def _run_events(self) -> None:
        pause_s = 0.0
        while True:
            await _wait(self._event_nudge, DRAIN_S)
            try:
                stored = await self._events.drain()
                stored = await self._alarms.store() or stored
            except StoreError:
                self._failures += 1
                pause_s = min(RETRY_S_MAX, pause_s + DRAIN_S)
                await asyncio.sleep(pause_s)
            except OSError as error:  # the map was closed under our hands
                _LOGGER.debug("guard.shm: %s", error)
                self._events.detach()
            else:
                pause_s = 0.0
                if stored:
                    self._on_stored()
            self.rounds += 1

    async def _run_samples(self) -> None:
        while True:
            await _wait(self._sample_nudge, DRAIN_S)
            try:
                await self._drain_samples()
            except StoreError:
                await asyncio.sleep(RETRY_S_MAX)  # it does not know where to begin
            except OSError as error:
                _LOGGER.debug("guard.shm: %s", error)

    async def _run_commits(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + COMMIT_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            try:
                await self.commit()
            except StoreError:
                self._failures += 1

    async def _run_keeping(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            with contextlib.suppress(StoreError):
                await self.keep()

    # ---- their steps ---------------------------------------------------------------------------

    async def _drain_samples(self) -> None:
        now_ns = time.monotonic_ns()
        await self._begin_limits()
        await self._begin_computed()
        while (view := self._view()) is not None:
            header = view.header()
            if header.journal_id != self._samples.journal_id:
                await self._attach_samples(header.journal_id)
                continue
            drained = self._samples.drain(view, header)
            self._alarms.put(drained.drafts, (header.journal_id, drained.position))
            if not drained.more:
                break
            await asyncio.sleep(0)  # a long ring is no reason to stop everything else
        self._take_made(self._computed.tick(now_ns))
        self._alarms.put(self._limits.advance(now_ns, self._utc_ns()))
        self._last_drain_ns = now_ns

    async def _begin_limits(self) -> None:
        if self._known:
            return
        await self._ledger.knows_journals()  # raises while the ledger was never open
        self._limits.restore([item.subject for item in self._ledger.active()])
        self._known = True
        self._alarms.put(self._limits.orphans())

    async def _begin_computed(self) -> None:
        view = self._view()
        journal_id = view.header().journal_id if view is not None else 0
        self._take_made(await self._computed.begin(self._history, journal_id))

    def _take_made(self, made: Made) -> None:
        """Computed tags that changed by themselves."""
        if made.samples:
            self._image.apply(made.samples)
            self._alarms.put(self._limits.feed(made.samples))
        if made.kept:
            self._history.add(self._recording.keep(made.kept))

    async def _attach_samples(self, journal_id: int) -> None:
        position = await self._history.sample_position(journal_id)
        told = await self._ledger.sample_position(journal_id)
        view = self._view()
        if view is not None and view.header().journal_id == journal_id:  # still, after the wait
            self._samples.attach(view, view.header(), position or 0, told or 0)

    def _tell_lost(self) -> None:
        now_ns = time.monotonic_ns()
        lost = self._samples.lost - self._lost_told
        if lost and now_ns - self._lost_told_ns >= TELL_NS:
            self._lost_told, self._lost_told_ns = self._samples.lost, now_ns
            self._tell_gap(f"{lost} samples of the guard were overwritten before they were stored")

    def _tell_shed(self) -> None:
        self._shed_untold += self._history.take_shed()
        now_ns = time.monotonic_ns()
        if self._shed_untold and now_ns - self._shed_told_ns >= TELL_SHED_NS:
            text = f"the history is full: {self._shed_untold} messages of samples went unsent"
            self._shed_untold, self._shed_told_ns = 0, now_ns
            self._tell_gap(text)

    def _tell_gap(self, cause: str) -> None:
        draft = AlertDraft(
            kind="gap",
            state="event",
            source=Source("gateway", "history"),
            priority="high",
            cause=cause,
        )
        self._alarms.put([draft])

    async def _finish(self) -> None:
        """The last of everything, on a disk that takes it."""
        with contextlib.suppress(StoreError, OSError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                if self._samples.journal_id:
                    await self._drain_samples()
                await self.commit()
                await self._events.drain(all_of_it=True)
                await self._alarms.store()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()
