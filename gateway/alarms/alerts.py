"""The guard's journal records in words: which of them people hear of, and what they hear.

One TRIP record is one alert. Records that say nothing to people on their own (READY, PENDING, a
write that follows from a trip) make none.
"""

from collections.abc import Callable, Iterable
from typing import Any

from fastpath.codes import EventType
from fastpath.journal import GuardView
from fastpath.records import Event, payload_of
from gateway.alarms.guard_words import GuardWords
from gateway.alarms.interlock_words import InterlockWords
from gateway.alarms.names import Names, Nobody, People
from gateway.alarms.output_words import OutputWords
from gateway.alarms.programs import KnownPrograms, number_of
from gateway.site.model import Config
from gateway.store.alert import AlertDraft, LegNote, OutputNote, Source

__all__ = ["AlertDraft", "EventWords", "LegNote", "OutputNote", "Source"]

Maker = Callable[[Event, dict[str, Any]], AlertDraft | None]


class EventWords:
    """Journal records to alert drafts, in the words of a site. ``people``: who is behind them."""

    def __init__(
        self, config: Config, programs: KnownPrograms, people: People | None = None
    ) -> None:
        names = Names(programs)
        interlocks = InterlockWords(config, names, people or Nobody())
        outputs = OutputWords(names, interlocks)
        guard = GuardWords(names)
        self._programs = programs
        self._interlocks = interlocks
        self._makers: dict[int, Maker] = {
            EventType.TRIP: interlocks.trip,
            EventType.RESET: interlocks.trip_end,
            EventType.RETURN: interlocks.trip_end,
            EventType.BYPASS: interlocks.bypass,
            EventType.BYPASS_ENDING: interlocks.bypass_ending,
            EventType.BYPASS_END: interlocks.bypass_end,
            EventType.CONDITION_BLIND: interlocks.blind,
            EventType.OUT_TRIP: outputs.trip,
            EventType.OUT_RELEASE: outputs.release,
            EventType.OUT_CONFIRMED: outputs.confirmed,
            EventType.OUT_FAILED: outputs.failed,
            EventType.OUT_MISMATCH: outputs.mismatch,
            EventType.OUT_UNVERIFIED: outputs.unverified,
            EventType.OUT_HELD: outputs.held,
            EventType.OUT_RELEASED: outputs.released,
            EventType.HEARTBEAT_STOP: outputs.heartbeat,
            EventType.HEARTBEAT_START: outputs.heartbeat,
            EventType.DEVICE_DOWN: guard.device_down,
            EventType.DEVICE_UP: guard.device_up,
            EventType.TAG_QUALITY: guard.tag_quality,
            EventType.GUARD_START: guard.start,
            EventType.GUARD_STOP: guard.stop,
            EventType.OVERRUN: guard.overrun,
            EventType.PAUSE: guard.pause,
            EventType.FAULT: guard.fault,
            EventType.LOST: guard.lost,
            EventType.PROGRAM: guard.program,
            EventType.COMMAND: guard.command,
            EventType.GATEWAY_UP: guard.gateway_up,
        }

    def draft_of(self, event: Event) -> AlertDraft | None:
        """The alert that a record is, None where people need not hear of it."""
        make = self._makers.get(event.type)
        return make(event, payload_of(event)) if make else None

    def ends_of(self, event: Event, raised: Iterable[str]) -> list[AlertDraft]:
        """The ends, besides, of what is raised (subjects) and is over by this record."""
        if event.type != EventType.GUARD_START:
            return []
        return self._interlocks.bypasses_lost(event, raised)

    def standing(self, view: GuardView, before: int) -> list[AlertDraft]:
        """Of each interlock whether it stands tripped, or does not.

        Those of which the journal has a record from ``before`` on are left out.
        """
        program = self._programs.text(number_of(view.header().program))
        if program is None:
            return []
        latches = [(each, view.interlock(i)) for i, each in enumerate(program.interlocks)]
        return [
            self._interlocks.standing(interlock, latch, program)
            for interlock, latch in latches
            if latch.key == interlock.key and latch.last_seq < before
        ]
