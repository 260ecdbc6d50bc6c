"""The guard's sample ring: into the image, the alarms and the history. No object per sample.

Samples carry the slots of the program that ran when they were taken. A swap in the middle of the
ring is known by the journal's records, so each sample gets the table of its own program.
"""

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fastpath.codes import EventType
from fastpath.columns import remap
from fastpath.messages import SAMPLE
from fastpath.records import Event, payload_of

if TYPE_CHECKING:
    from fastpath.image import TagImage
    from fastpath.journal import GuardView, Header
    from fastpath.recording import Recording
    from gateway.store.alert import AlertDraft

BATCH_MAX: Final = 16_384  # between two turns of the loop
EVENTS_LOOKED_AT: Final = 8_192  # newest records that are searched for swaps at the start
SWAP_WAIT_ROUNDS: Final = 10  # drains that wait for the record of a swap already seen


class Evaluator(Protocol):
    """What makes alarms of samples: the limits."""

    def feed(self, samples: bytes) -> "list[AlertDraft]":
        """Evaluate; what began and what ended."""


class Made(Protocol):
    """Samples with those of computed tags among them, and of the latter those to keep."""

    @property
    def samples(self) -> bytes:
        """In the order in which they came and were made."""

    @property
    def kept(self) -> bytes:
        """For the history, beside what it keeps anyway."""


class Computing(Protocol):
    """What makes computed tags of samples."""

    def run(self, samples: bytes) -> Made:
        """Samples with what was made of them."""


class SampleStore(Protocol):
    """What keeps samples: the history."""

    def add(self, samples: bytes) -> int:
        """Take samples by tag index."""


class Drained(NamedTuple):
    """Alarms that began and ended, the ring position after them, and whether there is more."""

    drafts: "list[AlertDraft]"
    position: int
    more: bool


class SampleDrain:
    """Reads the ring from ``attach`` on. ``table`` gives slot to tag index by program number."""

    def __init__(
        self,
        image: "TagImage",
        limits: Evaluator,
        computed: Computing,
        recording: "Recording",
        history: SampleStore,
        table: "Callable[[int], array[int] | None]",
    ) -> None:
        self.journal_id = 0  # 0: not attached
        self.position = 0  # next sample
        self.samples = 0
        self.lost = 0  # overwritten before they were read
        self.unknown = 0  # of a program that is not on disk
        self._image = image
        self._limits = limits
        self._computed = computed
        self._recording = recording
        self._history = history
        self._table = table
        self._told = 0  # samples before this position have made their alarms
        self._program = b""
        self._swaps: list[tuple[int, int]] = []  # (from monotonic ns, program number)
        self._events_seen = 0
        self._waited = 0
        self._seeded = False

    def attach(self, view: "GuardView", header: "Header", position: int, told: int) -> None:
        """Begin at ``position``; alarms of samples before ``told`` are in the ledger already."""
        self.journal_id = header.journal_id
        self.position = position
        self._told = told
        self._program = header.program
        first = max(1, header.event_head - EVENTS_LOOKED_AT)
        events = view.events(first, EVENTS_LOOKED_AT)
        self._events_seen = header.event_head
        self._swaps = [(0, _old_program(events, header.program))]
        self._note_swaps(events)
        self._end_with(header, events)
        self._waited = 0
        self._seeded = False

    def drain(self, view: "GuardView", header: "Header") -> Drained:
        """Take what is new up to the header, at most one batch."""
        if not self._follow_program(view, header):
            return Drained([], self.position, more=False)
        if self.position < header.sample_head:
            limit = min(BATCH_MAX, header.sample_head - self.position)
            if self.position < self._told:
                limit = min(limit, self._told - self.position)
            self.position, lost, raw = view.samples(self.position, limit)
            self.lost += lost
            drafts = self._take(raw)
            if self.position <= self._told:
                drafts = []
            return Drained(drafts, self.position, more=self.position < header.sample_head)
        if self._seeded:
            return Drained([], self.position, more=False)
        self._seeded = True
        made = self._computed.run(self._standing(view))
        self._image.apply(made.samples)
        self._history.add(self._recording.keep(made.kept))
        return Drained(self._limits.feed(made.samples), self.position, more=False)

    def _take(self, raw: bytes) -> "list[AlertDraft]":
        drafts: list[AlertDraft] = []
        for number, piece in self._pieces(raw):
            table = self._table(number)
            if table is None:
                self.unknown += len(piece) // SAMPLE.size
                continue
            samples = remap(piece, table)
            self.samples += len(samples) // SAMPLE.size
            made = self._computed.run(samples)
            self._image.apply(made.samples)
            drafts += self._limits.feed(made.samples)
            self._history.add(self._recording.keep(samples + made.kept))
        return drafts

    def _pieces(self, raw: bytes) -> Iterator[tuple[int, bytes]]:
        """The samples of each program; nearly always one piece."""
        if not raw:
            return
        if len(self._swaps) == 1 or SAMPLE.unpack_from(raw)[5] >= self._swaps[-1][0]:
            self._swaps = self._swaps[-1:]
            yield self._swaps[0][1], raw
            return
        times = [record[5] for record in SAMPLE.iter_unpack(raw)]
        starts = [bisect_left(times, since_ns) for since_ns, _ in self._swaps[1:]]
        ends = [*starts, len(times)]
        first = 0
        for (_, number), end in zip(self._swaps, ends, strict=True):
            if end > first:
                yield number, raw[first * SAMPLE.size : end * SAMPLE.size]
                first = end

    def _follow_program(self, view: "GuardView", header: "Header") -> bool:
        """Note a swap; False while its record is not there yet."""
        if header.program == self._program:
            self._events_seen = header.event_head
            return True
        events = view.events(self._events_seen, EVENTS_LOOKED_AT)
        self._waited += 1
        if not self._note_swaps(events) and self._waited < SWAP_WAIT_ROUNDS:
            return False
        self._end_with(header, events)
        self._program = header.program
        self._events_seen = header.event_head
        self._waited = 0
        return True

    def _end_with(self, header: "Header", events: Sequence[Event]) -> None:
        """The guard was started with another program, or the record of the swap is lost."""
        if self._swaps[-1][1] != _number(header.program):
            starts = [event.mono_ns for event in events if event.type == EventType.GUARD_START]
            since_ns = starts[-1] if starts else time.monotonic_ns()
            self._swaps.append((since_ns, _number(header.program)))

    def _note_swaps(self, events: Sequence[Event]) -> bool:
        found = False
        for event in events:
            if event.type == EventType.PROGRAM:
                self._swaps.append((event.mono_ns, _number(payload_of(event)["new"])))
                found = True
        return found

    def _standing(self, view: "GuardView") -> bytes:
        """The values that stand in the guard's image, as samples by tag index.

        Tags are journalled on change: what stands still would be unknown until it moves.
        """
        number = self._swaps[-1][1]
        table = self._table(number) or array("I")
        samples = b"".join(
            SAMPLE.pack(slot, seen.quality, seen.reason, 0, seen.value, seen.mono_ns, seen.utc_ns)
            for slot, seen in enumerate(view.slots(len(table)))
            if seen.mono_ns
        )
        return remap(samples, table)


def _old_program(events: Sequence[Event], running: bytes) -> int:
    """The program before the first swap among these records."""
    for event in events:
        if event.type == EventType.PROGRAM:
            return _number(payload_of(event)["old"])
    return _number(running)


def _number(program_hash: bytes) -> int:
    return int.from_bytes(program_hash[:8], "little")
