"""Trips, their ends and bypasses in words: what tripped, by what, and what it moved or did not."""

from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

from fastpath.codes import (
    NONE_U32,
    BypassEnd,
    BypassKind,
    EventFlag,
    EventType,
    InterlockLatchFlag,
    TripReason,
    Truth,
)
from fastpath.journal import InterlockView
from fastpath.records import Event, legs_of, payload_of
from gateway.alarms.names import (
    Names,
    People,
    draft_of,
    moment,
    tag_of,
    unknown,
    who_and_why,
)
from gateway.guard.board import LATCHED
from gateway.guard.program_text import InterlockText, ProgramText
from gateway.site.model import Config, Interlock, by_id
from gateway.store.alert import AlertDraft, LegNote, OutputNote, Priority, Result, Source
from gateway.times import span_words

_RESULTS: Final[dict[int, Result]] = {
    Truth.UNKNOWN: "unknown",
    Truth.FALSE: "false",
    Truth.TRUE: "true",
    Truth.ABSTAIN: "abstains",
}
_REASONS: Final = {
    TripReason.MANUAL: "tripped by hand",
    TripReason.EXERCISE: "proof test: tripped by hand, as an exercise",
    TripReason.POWER_LOSS: "power loss: nothing of the state before was left",
    TripReason.RESTORED: "the stored state was damaged, which counts as tripped",
    TripReason.OVERRUN: "scans took longer, or came later, than twice its response time",
    TripReason.FAULT: "a broken internal check of the guard",
    TripReason.BYPASS_END: "the bypass ended with the cause present",
}
_BY_HAND: Final = frozenset({TripReason.MANUAL, TripReason.EXERCISE})
_SHOWN: Final = frozenset({TripReason.CAUSE, TripReason.BYPASS_END})  # their legs say why
_PRIORITIES: Final[dict[str, Priority]] = {
    "critical": "critical",
    "high": "high",
    "medium": "medium",
    "low": "low",
}
_ENDS: Final = {
    1: "its time is over",
    2: "ended by command",
    3: "ended by a trip by hand",
    4: "ended: the new program forbids it",
    5: "ended by a start without the state before",
}
_GUIDE_BYPASS: Final = (
    "While it is bypassed nobody is protected by it: watch the process, and end the bypass as "
    "soon as the work is done."
)
_GUIDE_BLIND: Final = (
    "Nothing is decided from this condition meanwhile. Mend the instrument, or have it bypassed."
)


class InterlockWords:
    """Records of interlocks to alert drafts."""

    def __init__(self, config: Config, names: Names, people: People) -> None:
        self._site: dict[str, Interlock] = by_id(config.interlock)
        self._names = names
        self._people = people
        self._exercises: set[int] = set()  # keys: their newest trip was an exercise

    def exercised(self, key: int) -> bool:
        """Whether the newest trip of the interlock with this key was a proof test."""
        return key in self._exercises

    def trip(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """TRIP: acted, or would have."""
        text, interlock = self._names.interlock(event)
        ident = interlock.id if interlock else unknown("interlock", event.key)
        site = self._site.get(ident)
        armed = not event.flags & EventFlag.UNARMED
        moves = armed and not event.flags & EventFlag.WITHHELD
        exercise = payload["reason"] == TripReason.EXERCISE
        (self._exercises.add if exercise else self._exercises.discard)(event.key)
        return draft_of(
            event,
            kind="trip",
            state="raised",
            source=Source("interlock", ident),
            program=self._names.hash(event),
            priority=_priority(site, moves=moves, exercise=exercise),
            level=site.level if site and not exercise else None,
            guidance=site.guidance if site else "",
            cause=self._cause(event, text, interlock, payload),
            legs=_legs(interlock, payload),
            first_out=bool(payload["first_out"]),
            outputs=_demanded(text, interlock) if moves else (),
            armed=armed,
            exercise=exercise,
            subject=f"interlock:{ident}",
            repeat=True,
            **_deciding(text, interlock, payload),
        )

    def trip_end(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """RESET or RETURN."""
        _, interlock = self._names.interlock(event)
        ident = interlock.id if interlock else unknown("interlock", event.key)
        exercise = event.key in self._exercises
        if event.type == EventType.RESET:
            who = who_and_why(self._people.order_at(payload["ledger_seq"]))
            cause = f"reset{who} (audit entry {payload['ledger_seq']})"
            if payload["under_bypass"]:
                cause += "; its bypass goes on and withholds it"
        elif event.flags & EventFlag.WITHHELD:
            cause = "its cause has gone; it stays bypassed"
        else:
            cause = "returned to normal by itself"
        return draft_of(
            event,
            kind="trip_end",
            state="cleared",
            source=Source("interlock", ident),
            program=self._names.hash(event),
            priority="low",
            cause=cause,
            armed=not event.flags & EventFlag.UNARMED,
            exercise=exercise,
            subject=f"interlock:{ident}",
            unmatched="cleared",
        )

    def standing(
        self, interlock: InterlockText, latch: InterlockView, program: ProgramText
    ) -> AlertDraft:
        """Its state alone, where no record tells of it any more."""
        site = self._site.get(interlock.id)
        tripped = latch.state in LATCHED
        armed = bool(latch.flags & InterlockLatchFlag.ARMED)
        moves = armed and not latch.flags & InterlockLatchFlag.WITHHELD
        return AlertDraft(
            kind="trip" if tripped else "trip_end",
            state="raised" if tripped else "cleared",
            source=Source("interlock", interlock.id),
            program=program.hash.hex(),
            utc_ns=latch.tripped_utc_ns if tripped else 0,
            priority=_priority(site, moves=moves, exercise=False) if tripped else "low",
            level=site.level if site and tripped else None,
            guidance=site.guidance if site and tripped else "",
            cause="it stands tripped" if tripped else "it is not tripped any more",
            armed=armed,
            subject=f"interlock:{interlock.id}",
        )

    def blind(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """CONDITION_BLIND: unknown for long."""
        text, interlock = self._names.interlock(event)
        ident = interlock.id if interlock else unknown("interlock", event.key)
        tag = tag_of(text, payload["slot"])
        since_ns = payload["since_ns"]
        known = 0 < since_ns < event.mono_ns
        lasting = f" for {span_words(event.mono_ns - since_ns)}" if known else ""
        return draft_of(
            event,
            kind="guard",
            state="event",
            source=Source("interlock", ident),
            program=self._names.hash(event),
            priority="high",
            cause=f"the condition cannot be evaluated{lasting}{f': {tag} is BAD' if tag else ''}",
            guidance=_GUIDE_BLIND,
        )

    # ---- bypasses ------------------------------------------------------------------------------

    def bypass(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """BYPASS: begun."""
        until = moment(event.utc_ns + payload["left_ns"])
        who = who_and_why(self._people.order(payload["command_id"]))
        head = f"bypassed until {until} ({span_words(payload['left_ns'])}){who}"
        return self._bypass(
            event,
            payload,
            state="raised",
            priority="high",
            cause=f"{head}; {self._stake(event, payload)}",
            guidance=_GUIDE_BYPASS,
        )

    def bypass_ending(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """BYPASS_ENDING: 80 % of its time are over."""
        left = span_words(payload["left_ns"])
        until = moment(event.utc_ns + payload["left_ns"])
        cause = f"the bypass ends in {left}, at {until}; it acts at once if its cause is there then"
        return self._bypass(
            event,
            payload,
            state="event",
            priority="high",
            cause=cause,
            guidance="Finish the work, or end it and begin another bypass with its own reason.",
        )

    def bypass_end(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """BYPASS_END, for whatever reason."""
        how = _ENDS.get(payload["cause"], "ended")
        return self._bypass(
            event,
            payload,
            state="cleared",
            priority="medium",
            cause=f"the bypass is over: {how}",
            unmatched="cleared",
        )

    def bypasses_lost(self, event: Event, raised: Iterable[str]) -> list[AlertDraft]:
        """GUARD_START of a new shared file: the bypasses among ``raised`` that it knows no more.

        A clean stop hands on those of interlocks. Of the others no record will tell.
        """
        payload = payload_of(event)
        if payload["starts"] != 1:
            return []
        gone = ("bypass:tag:",) if payload["clean"] else ("bypass:tag:", "bypass:interlock:")
        found = []
        for subject in raised:
            if subject.startswith(gone):
                _, kind, ident = subject.split(":", 2)
                found.append(
                    draft_of(
                        event,
                        kind="bypass",
                        state="cleared",
                        source=Source(kind, ident),
                        program=self._names.hash(event),
                        priority="medium",
                        cause=f"the bypass is over: {_ENDS[BypassEnd.BOOT]}",
                        subject=subject,
                    )
                )
        return found

    def _bypass(self, event: Event, payload: dict[str, Any], **fields: Any) -> AlertDraft:
        if payload["kind"] == BypassKind.TAG:
            source = Source("tag", self._names.tag(event)[1])
        else:
            _, interlock = self._names.interlock(event)
            ident = interlock.id if interlock else unknown("interlock", event.key)
            source = Source("interlock", ident)
        return draft_of(
            event,
            kind="bypass",
            source=source,
            program=self._names.hash(event),
            subject=f"bypass:{source.kind}:{source.id}",
            **fields,
        )

    def _stake(self, event: Event, payload: dict[str, Any]) -> str:
        """What does not happen meanwhile."""
        if payload["kind"] == BypassKind.TAG:
            text, ident = self._names.tag(event)
            slot = text.tag_index.get(ident, NONE_U32) if text else NONE_U32
            readers = text.readers.get(slot, ()) if text else ()
            named = ", ".join(text.interlocks[i].id for i in readers) if text else ""
            return f"every comparison on it abstains{f' in {named}' if named else ''}"
        text, interlock = self._names.interlock(event)
        if text is None or interlock is None:
            return "its effects are withheld"
        named = ", ".join(text.outputs[i].id for i in interlock.outputs)
        if not event.flags & EventFlag.WITHHELD:
            return f"it is tripped: {named} stay tripped until a reset"
        return f"{named or 'nothing'} will not be tripped by it"

    # ---- the cause of a trip -------------------------------------------------------------------

    def _cause(
        self,
        event: Event,
        text: ProgramText | None,
        interlock: InterlockText | None,
        payload: dict[str, Any],
    ) -> str:
        reason = payload["reason"]
        words = _REASONS.get(reason, f"reason {reason}")
        if reason in _SHOWN:
            legs = _legs_words(text, interlock, payload)
            condition = interlock.cause if interlock else ""
            parts = [legs, f"condition: {condition}" if condition and legs != condition else ""]
            told = "; ".join(part for part in parts if part) or "the condition is true"
            words = told if reason == TripReason.CAUSE else f"{words}: {told}"
        elif reason in _BY_HAND:
            words += who_and_why(self._people.hand(event.key, event.mono_ns))
        return f"{self._prefix(event)}{words}{_place(event, payload)}"

    def _prefix(self, event: Event) -> str:
        if event.flags & EventFlag.WITHHELD:
            return "WOULD HAVE TRIPPED, but is bypassed: "
        if event.flags & EventFlag.UNARMED:
            return "WOULD HAVE TRIPPED, but is not armed: "
        return "tripped again: " if event.flags & EventFlag.RETRIP else ""


def _priority(site: Interlock | None, *, moves: bool, exercise: bool) -> Priority:
    if exercise:
        return "medium"
    stated = _PRIORITIES.get(site.priority if site else "", "critical")
    return stated if moves or stated != "critical" else "high"


def _place(event: Event, payload: dict[str, Any]) -> str:
    """Where it stands among the trips of its group."""
    if payload["first_out"]:
        return ""
    return "; in the same scan as the first out" if event.flags & EventFlag.SAME_SCAN else ""


def _legs(interlock: InterlockText | None, payload: dict[str, Any]) -> tuple[LegNote, ...]:
    if interlock is None or payload["reason"] not in _SHOWN:
        return ()
    values = _values(payload)
    truths = legs_of(payload["legs"], len(interlock.legs))
    return tuple(
        LegNote(leg.text, _RESULTS[truth], values.get(leg.slot))
        for leg, truth in zip(interlock.legs, truths, strict=True)
    )


def _legs_words(
    text: ProgramText | None, interlock: InterlockText | None, payload: dict[str, Any]
) -> str:
    """The legs that decided with their values; those that are missing by why."""
    if interlock is None or text is None:
        return ""
    values = _values(payload)
    truths = legs_of(payload["legs"], len(interlock.legs))
    told: dict[int, list[str]] = {Truth.TRUE: [], Truth.UNKNOWN: [], Truth.ABSTAIN: []}
    for leg, truth in zip(interlock.legs, truths, strict=True):
        if truth in told:
            value = values.get(leg.slot)
            unit = text.units[leg.slot] if leg.slot < len(text.units) else ""
            seen = f" ({value:.6g} {unit}".rstrip() + ")" if value is not None else ""
            told[truth].append(f"{leg.text}{seen}")
    words = [", ".join(told[Truth.TRUE])]
    if told[Truth.UNKNOWN]:
        words.append(f"not known: {', '.join(told[Truth.UNKNOWN])}")
    if told[Truth.ABSTAIN]:
        words.append(f"bypassed: {', '.join(told[Truth.ABSTAIN])}")
    return "; ".join(part for part in words if part)


def _deciding(
    text: ProgramText | None, interlock: InterlockText | None, payload: dict[str, Any]
) -> dict[str, Any]:
    """Value, limit and unit of the first leg that decided."""
    if text is None or interlock is None or payload["reason"] not in _SHOWN:
        return {}
    slot = payload["slot0"]
    for leg, truth in zip(
        interlock.legs, legs_of(payload["legs"], len(interlock.legs)), strict=True
    ):
        if leg.slot == slot and truth in {Truth.TRUE, Truth.UNKNOWN}:
            return {
                "value": _values(payload).get(slot),
                "limit": leg.limit,
                "unit": text.units[slot] if slot < len(text.units) else None,
                "quality": "GOOD" if truth == Truth.TRUE else "BAD",
            }
    return {}


def _values(payload: dict[str, Any]) -> dict[int, float]:
    """The values of the legs that decided, by slot."""
    found = {payload[f"slot{i}"]: payload[f"value{i}"] for i in (2, 1, 0)}
    return {slot: v for slot, v in found.items() if slot != NONE_U32 and isfinite(v)}


def _demanded(text: ProgramText | None, interlock: InterlockText | None) -> tuple[OutputNote, ...]:
    if text is None or interlock is None:
        return ()
    return tuple(
        OutputNote(text.outputs[i].id, "PENDING" if delay_ns else "TRIPPING")
        for i, delay_ns in zip(interlock.outputs, interlock.delays_ns, strict=True)
    )
