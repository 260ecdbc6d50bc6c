"""The guard's journal records in words: which of them people hear of, and what they hear.

One TRIP record is one alert. Names come from the program that ran when the record was written, by
key, so records of an older program keep their meaning.
"""

import os
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from fastpath.codes import (
    NONE_U32,
    DownReason,
    EventFlag,
    EventType,
    MessageType,
    ResultCode,
    TripReason,
    Truth,
)
from fastpath.records import Event, legs_of, payload_of
from gateway.alarms.programs import KnownPrograms
from gateway.program_text import DeviceText, InterlockText, OutputText, ProgramText
from gateway.site.model import Config, Interlock, by_id
from gateway.store.alert import AlertDraft, LegNote, OutputNote, Priority, Result, Source

__all__ = ["AlertDraft", "EventWords", "LegNote", "OutputNote", "Source"]

_RESULTS: Final[dict[int, Result]] = {
    Truth.UNKNOWN: "unknown",
    Truth.FALSE: "false",
    Truth.TRUE: "true",
    Truth.ABSTAIN: "abstains",
}
_REASONS: Final = {
    TripReason.MANUAL: "tripped by hand",
    TripReason.POWER_LOSS: "power loss: nothing of the state before was left",
    TripReason.RESTORED: "the stored state was damaged, which counts as tripped",
    TripReason.OVERRUN: "scans took longer than the response time",
    TripReason.FAULT: "a broken internal check of the guard",
    TripReason.BYPASS_END: "the bypass ended with the cause present",
    TripReason.EXERCISE: "tripped by hand as a proof test",
}
_DOWN: Final = {
    DownReason.CONNECT: "cannot be connected",
    DownReason.CLOSED: "closed the connection",
    DownReason.TIMEOUT: "does not answer in time",
    DownReason.PROTOCOL: "answers what it must not",
}
_ERRNO_MAX: Final = 4095
_PRIORITIES: Final[dict[str, Priority]] = {
    "critical": "critical",
    "high": "high",
    "medium": "medium",
    "low": "low",
}


class EventWords:
    """Journal records to alert drafts, in the words of a site."""

    def __init__(self, config: Config, programs: KnownPrograms) -> None:
        self._programs = programs
        self._interlocks: dict[str, Interlock] = by_id(config.interlock)
        self._makers: dict[int, Callable[[Event, dict[str, Any]], AlertDraft | None]] = {
            EventType.TRIP: self._trip,
            EventType.RESET: self._trip_end,
            EventType.RETURN: self._trip_end,
            EventType.OUT_CONFIRMED: self._confirmed,
            EventType.OUT_FAILED: self._failed,
            EventType.OUT_MISMATCH: self._mismatch,
            EventType.OUT_HELD: self._held,
            EventType.OUT_RELEASED: self._released,
            EventType.DEVICE_DOWN: self._device_down,
            EventType.DEVICE_UP: self._device_up,
            EventType.GUARD_START: self._guard_start,
            EventType.GUARD_STOP: self._guard_stop,
            EventType.OVERRUN: self._overrun,
            EventType.PAUSE: self._pause,
            EventType.FAULT: self._fault,
            EventType.LOST: self._lost,
            EventType.CONDITION_BLIND: self._blind,
            EventType.PROGRAM: self._program,
            EventType.COMMAND: self._command,
            EventType.GATEWAY_UP: self._gateway_up,
        }

    def draft_of(self, event: Event) -> AlertDraft | None:
        """The alert that a record is, None where people need not hear of it."""
        make = self._makers.get(event.type)
        return make(event, payload_of(event)) if make else None

    # ---- interlocks ----------------------------------------------------------------------------

    def _trip(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        text, interlock = self._interlock(event)
        ident = interlock.id if interlock else _unknown("interlock", event.key)
        site = self._interlocks.get(ident)
        legs = _legs(interlock, payload)
        deciding = _deciding(text, interlock, payload)
        armed = not event.flags & EventFlag.UNARMED
        return _draft(
            event,
            kind="trip",
            state="raised",
            source=Source("interlock", ident),
            program=self._hash(event),
            priority=_PRIORITIES.get(site.priority if site else "", "critical"),
            level=site.level if site else None,
            guidance=site.guidance if site else "",
            cause=_cause(interlock, payload),
            legs=legs,
            first_out=bool(payload["first_out"]),
            outputs=_demanded(text, interlock) if armed else (),
            armed=armed,
            subject=f"interlock:{ident}",
            repeat=True,
            **deciding,
        )

    def _trip_end(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        _, interlock = self._interlock(event)
        ident = interlock.id if interlock else _unknown("interlock", event.key)
        if event.type == EventType.RESET:
            cause = f"reset (audit entry {payload['ledger_seq']})"
        else:
            cause = "returned to normal by itself"
        return _draft(
            event,
            kind="trip_end",
            state="cleared",
            source=Source("interlock", ident),
            program=self._hash(event),
            priority="low",
            cause=cause,
            armed=not event.flags & EventFlag.UNARMED,
            subject=f"interlock:{ident}",
            unmatched="cleared",
        )

    def _blind(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        text, interlock = self._interlock(event)
        ident = interlock.id if interlock else _unknown("interlock", event.key)
        tag = _tag(text, payload["slot"])
        return _draft(
            event,
            kind="guard",
            state="event",
            source=Source("interlock", ident),
            program=self._hash(event),
            priority="high",
            cause=f"the condition cannot be evaluated{f': {tag} is BAD' if tag else ''}",
        )

    # ---- outputs -------------------------------------------------------------------------------

    def _confirmed(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        demand_ns, wire_ns, confirm_ns = (
            payload["demand_ns"],
            payload["wire_ns"],
            payload["confirm_ns"],
        )
        late = ", late" if event.flags & EventFlag.LATE else ""
        return self._output(
            event,
            state="cleared",
            word="TRIPPED",
            cause=f"the trip is confirmed{late}{self._demanded_by(event, payload)}",
            reaction_ns=wire_ns - demand_ns if demand_ns and wire_ns >= demand_ns else None,
            confirm_ns=confirm_ns - wire_ns if wire_ns and confirm_ns >= wire_ns else None,
            unmatched="event",
        )

    def _failed(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = (
            f"the trip is not confirmed after {payload['tries']} writes: wanted "
            f"{payload['wanted']}, seen {payload['seen']}{self._demanded_by(event, payload)}"
        )
        return self._output(
            event, state="raised", word="TRIP_FAILED", cause=cause, priority="critical"
        )

    def _mismatch(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = (
            f"the read-back differs from what was written: wanted {payload['wanted']}, "
            f"seen {payload['seen']}"
        )
        return self._output(
            event, state="raised", word="TRIP_FAILED", cause=cause, priority="critical"
        )

    def _held(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = "held: nothing is written until a release or a trip"
        if payload["tries"]:
            cause = f"the release is not confirmed after {payload['tries']} writes: {cause}"
        return self._output(event, state="raised", word="HELD", cause=cause, priority="high")

    def _released(self, event: Event, _payload: dict[str, Any]) -> AlertDraft:
        return self._output(event, state="cleared", word="RELEASED", cause="released")

    def _output(
        self,
        event: Event,
        *,
        word: str,
        confirm_ns: int | None = None,
        priority: Priority = "low",
        **fields: Any,
    ) -> AlertDraft:
        ident = self._named(event, lambda text: text.outputs, "output")
        return _draft(
            event,
            kind="output",
            source=Source("output", ident),
            program=self._hash(event),
            priority=priority,
            outputs=(OutputNote(ident, word, confirm_ns),),
            subject=f"output:{ident}",
            repeat=True,
            **fields,
        )

    def _demanded_by(self, event: Event, payload: dict[str, Any]) -> str:
        _, interlock = self._interlock(event, payload["cause_key"])
        return f", demanded by {interlock.id}" if interlock else ""

    # ---- devices, guard, gateway ---------------------------------------------------------------

    def _device_down(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = _DOWN.get(payload["reason"], "is not reached")
        if 0 < payload["errno"] <= _ERRNO_MAX:
            cause += f" ({os.strerror(payload['errno'])})"
        return self._device(event, "raised", "high", cause)

    def _device_up(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        return self._device(event, "cleared", "low", f"answers again{_after(payload['down_ns'])}")

    def _device(self, event: Event, state: Any, priority: Priority, cause: str) -> AlertDraft:
        ident = self._named(event, lambda text: text.devices, "device")
        return _draft(
            event,
            kind="device",
            state=state,
            source=Source("device", ident),
            priority=priority,
            cause=cause,
            subject=f"device:{ident}",
        )

    def _guard_start(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        first = payload["starts"] == 1
        clean = first or bool(payload["clean"])
        parts = [] if first else ["after an orderly stop" if clean else "after no orderly stop"]
        if payload["gap_ns"] > 0:
            parts.append(f"{_seconds(payload['gap_ns'])} without a scan")
        if payload["restored"]:
            parts.append(f"{payload['restored']} damaged states count as tripped")
        if not payload["fifo"]:
            parts.append("without real-time scheduling")
        started = "the guard started" + ("" if first else f" (start {payload['starts']})")
        cause = ": ".join([started, *([", ".join(parts)] if parts else [])])
        return self._guard(event, "low" if clean else "high", cause)

    def _guard_stop(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        how = f"signal {payload['signal']}" if payload["signal"] else "by command"
        return self._guard(event, "medium", f"the guard stops: {how}")

    def _overrun(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        took, budget = _seconds(payload["took_ns"]), _seconds(payload["budget_ns"])
        return self._guard(event, "high", f"a scan took {took}, its budget is {budget}")

    def _pause(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = f"the guard stood still for {_seconds(payload['took_ns'])}: all inputs are stale"
        return self._guard(event, "high", cause)

    def _fault(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = (
            f"a broken internal check tripped everything: code {payload['code']}, "
            f"place {payload['place']}, value {payload['value']}"
        )
        return self._guard(event, "critical", cause)

    def _lost(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        cause = (
            f"the journal was full: {payload['count']} records after number "
            f"{payload['first'] - 1} were not written"
        )
        return self._guard(event, "high", cause)

    def _guard(self, event: Event, priority: Priority, cause: str) -> AlertDraft:
        return _draft(
            event,
            kind="guard",
            state="event",
            source=Source("guard", "guard"),
            program=self._hash(event),
            priority=priority,
            cause=cause,
        )

    def _program(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        old, new = payload["old"][:8].hex(), payload["new"][:8].hex()
        return _draft(
            event,
            kind="program",
            state="event",
            source=Source("program", new),
            program=self._hash(event),
            priority="medium",
            cause=f"program {new} replaced {old}: {payload['kept']} interlocks kept, "
            f"{payload['changed']} changed",
        )

    def _command(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        _, interlock = self._interlock(event)
        output = self._named(event, lambda text: text.outputs, "")
        what = Source("interlock", interlock.id) if interlock else Source("output", output)
        if not what.id:
            what = Source("guard", "guard")
        who = payload["who"].rstrip(b"\0").decode("utf-8", "replace")
        code = _name(ResultCode, payload["code"])
        return _draft(
            event,
            kind="command",
            state="event",
            source=what,
            program=self._hash(event),
            priority="low",
            cause=f"{_name(MessageType, payload['type'])} of {what.id}"
            f"{f' by {who}' if who else ''}: {code}",
        )

    def _gateway_up(self, event: Event, payload: dict[str, Any]) -> AlertDraft | None:
        if payload["down_ns"] <= 0:
            return None
        return _draft(
            event,
            kind="gateway",
            state="event",
            source=Source("gateway", "gateway"),
            priority="medium",
            cause=f"the gateway is connected to the guard again{_after(payload['down_ns'])}",
        )

    # ---- names ---------------------------------------------------------------------------------

    def _interlock(
        self, event: Event, key: int | None = None
    ) -> tuple[ProgramText | None, InterlockText | None]:
        wanted = event.key if key is None else key
        for text in self._texts(event):
            for interlock in text.interlocks:
                if interlock.key == wanted:
                    return text, interlock
        return None, None

    def _named(
        self,
        event: Event,
        items: Callable[[ProgramText], tuple[OutputText, ...] | tuple[DeviceText, ...]],
        kind: str,
    ) -> str:
        """The id of an output or a device; for ``kind`` "" nothing where it is unknown."""
        for text in self._texts(event):
            for item in items(text):
                if item.key == event.key:
                    return item.id
        return _unknown(kind, event.key) if kind else ""

    def _texts(self, event: Event) -> list[ProgramText]:
        """The program that ran then first, the others that are known after it."""
        own = self._programs.text(event.program)
        others = self._programs.texts()
        return [own, *others] if own else others

    def _hash(self, event: Event) -> str:
        text = self._programs.text(event.program)
        return text.hash.hex() if text else event.program.to_bytes(8, "little").hex()


def _draft(event: Event, **fields: Any) -> AlertDraft:
    return AlertDraft(
        utc_ns=event.utc_ns,
        clock_synced=bool(event.flags & EventFlag.CLOCK_SYNCED),
        journal_seq=event.seq,
        **fields,
    )


def _cause(interlock: InterlockText | None, payload: dict[str, Any]) -> str:
    condition = interlock.cause if interlock else ""
    if payload["reason"] == TripReason.CAUSE:
        return condition or "the condition is true"
    return _REASONS.get(payload["reason"], f"reason {payload['reason']}")


def _legs(interlock: InterlockText | None, payload: dict[str, Any]) -> tuple[LegNote, ...]:
    if interlock is None or payload["reason"] != TripReason.CAUSE:
        return ()
    values = _values(payload)
    truths = legs_of(payload["legs"], len(interlock.legs))
    return tuple(
        LegNote(leg.text, _RESULTS[truth], values.get(leg.slot))
        for leg, truth in zip(interlock.legs, truths, strict=True)
    )


def _deciding(
    text: ProgramText | None, interlock: InterlockText | None, payload: dict[str, Any]
) -> dict[str, Any]:
    """Value, limit and unit of the first leg that decided."""
    if text is None or interlock is None or payload["reason"] != TripReason.CAUSE:
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
    return tuple(OutputNote(text.outputs[i].id, "TRIPPING") for i in interlock.outputs)


def _tag(text: ProgramText | None, slot: int) -> str:
    return text.tags[slot] if text and slot < len(text.tags) else ""


def _unknown(kind: str, key: int) -> str:
    return f"{kind}-{key:016x}"


def _name(kind: Any, code: int) -> str:
    try:
        return str(kind(code).name).lower().replace("_", " ")
    except ValueError:
        return f"code {code}"


def _after(ns: int) -> str:
    return f" after {_seconds(ns)}" if ns > 0 else ""


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.1f} s" if ns >= 10_000_000_000 else f"{ns / 1e9:.3f} s"
