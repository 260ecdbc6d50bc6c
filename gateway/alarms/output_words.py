"""What became of outputs, in words: confirmed, failed, contradicted, silent; heartbeats too."""

from typing import Any, Final

from fastpath.codes import EventFlag, EventType, OutputCode
from fastpath.records import Event
from gateway.alarms.interlock_words import InterlockWords
from gateway.alarms.names import Names, draft_of
from gateway.guard.program_text import OutputText
from gateway.store.alert import AlertDraft, OutputNote, Priority, Source
from gateway.times import span_words

_GUIDE_FAILED: Final = (
    "Take the final element for NOT tripped: isolate it by hand, then look for the reason in its "
    "device, wiring and contact. The guard goes on trying."
)
_GUIDE_MISMATCH: Final = (
    "The device took the command, the contact says otherwise: a welded contact, an override by "
    "hand or another master. Isolate by hand."
)
_GUIDE_UNCOMMANDED: Final = (
    "Nothing of ours commands it: look for an override by hand, another master, a blown fuse or a "
    "broken contact."
)
_GUIDE_HELD_ON: Final = (
    "Take the final element for NOT tripped. Trip its interlock by hand where that is right, which "
    "writes the trip value; then look for an override by hand, another master or a welded contact."
)
_GUIDE_UNVERIFIED: Final = (
    "It was confirmed before and is commanded still, but nobody hears of it: look at the device "
    "and its network. The trip value is written first when it is back."
)
_GUIDE_HELD: Final = "Look at the device, then release it by command."
_GUIDE_HEARTBEAT: Final = (
    "The PLC's own watchdog trips next. Isolate by hand where it does not; the heartbeat comes "
    "back by itself when the output is confirmed."
)
_WHY_HELD: Final[dict[int, str]] = {
    OutputCode.REFUSED: "the device refuses the normal value",
    OutputCode.TIMEOUT: "the device does not answer the release",
    OutputCode.WATCHDOG: "a register of its device's watchdog is not as the site file says",
}


class OutputWords:
    """Records of outputs to alert drafts."""

    def __init__(self, names: Names, interlocks: InterlockWords) -> None:
        self._names = names
        self._interlocks = interlocks

    def trip(self, event: Event, payload: dict[str, Any]) -> AlertDraft | None:
        """OUT_TRIP: told where it is not a trip's own consequence."""
        if payload["code"] == OutputCode.FALLBACK:
            failed = self._names.named(event, lambda t: t.outputs, "output", payload["cause_key"])
            cause = f"commanded to trip as the fallback of {failed}, which is not confirmed"
            return self._output(
                event, payload, state="event", word="TRIPPING", cause=cause, priority="critical"
            )
        if payload["code"] == OutputCode.SOUNDS_AGAIN:
            by = self._demanded_by(event, payload)
            cause = f"sounds again: a new trip, or its silence is over{by}"
            return self._output(
                event, payload, state="event", word="TRIPPING", cause=cause, priority="high"
            )
        return None

    def release(self, event: Event, payload: dict[str, Any]) -> AlertDraft | None:
        """OUT_RELEASE: told where it is a silence."""
        if payload["code"] != OutputCode.SILENCED:
            return None
        _, output = self._names.output(event)
        lasting = f" for {span_words(output.silence_ns)}" if output else ""
        cause = f"silenced{lasting}: the trip stands, a new one sounds it again"
        return self._output(
            event, payload, state="event", word="RELEASING", cause=cause, priority="medium"
        )

    def confirmed(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OUT_CONFIRMED, in time or late."""
        demand_ns, wire_ns = payload["demand_ns"], payload["wire_ns"]
        confirm_ns = payload["confirm_ns"]
        late = ", late" if event.flags & EventFlag.LATE else ""
        return self._output(
            event,
            payload,
            state="cleared",
            word="TRIPPED",
            cause=f"the trip is confirmed{late}{self._demanded_by(event, payload)}",
            reaction_ns=wire_ns - demand_ns if demand_ns and wire_ns >= demand_ns else None,
            confirm_ns=confirm_ns - wire_ns if wire_ns and confirm_ns >= wire_ns else None,
            unmatched="event",
        )

    def failed(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OUT_FAILED."""
        how = "the device refuses it" if payload["code"] == OutputCode.REFUSED else "no proof came"
        cause = (
            f"THE TRIP IS NOT CONFIRMED after {payload['tries']} writes ({how}): wanted "
            f"{self._value(event, payload['wanted'])}, seen {self._seen(event, payload['seen'])}"
            f"{self._demanded_by(event, payload)}{self._fallbacks(event)}"
        )
        return self._output(
            event, payload, state="raised", word="TRIP_FAILED", cause=cause, priority="critical",
            guidance=_GUIDE_FAILED,
        )  # fmt: skip

    def mismatch(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OUT_MISMATCH: commanded and not so, not commanded and so, or the end of the latter."""
        wanted = self._value(event, payload["wanted"])
        seen = self._seen(event, payload["seen"])
        if payload["code"] == OutputCode.UNCOMMANDED:
            return self._uncommanded(event, payload, wanted, seen)
        if payload["code"] == OutputCode.NOTHING:
            return self._output(
                event, payload, state="cleared", word="RELEASED", subject="uncommanded",
                cause="its read-back agrees with what is commanded again",
            )  # fmt: skip
        cause = (
            f"THE TRIP HAS COME UNDONE: its read-back says {seen}, commanded is {wanted}; it is "
            f"written again{self._demanded_by(event, payload)}"
        )
        return self._output(
            event, payload, state="raised", word="TRIP_FAILED", cause=cause, priority="critical",
            guidance=_GUIDE_MISMATCH,
        )  # fmt: skip

    def _uncommanded(
        self, event: Event, payload: dict[str, Any], wanted: str, seen: str
    ) -> AlertDraft:
        """A released one that reads tripped is a nuisance; a held one that reads on permits."""
        _, output = self._names.output(event)
        held = output is None or payload["wanted"] == output.trip
        cause = f"its read-back says {seen} although nothing commands it (it is at {wanted})"
        if held:
            cause = (
                f"IT PERMITS ALTHOUGH IT IS HELD: its read-back says {seen}, and nothing of ours "
                "released it"
            )
        return self._output(
            event, payload, state="raised", word="HELD" if held else "RELEASED", cause=cause,
            priority="critical" if held else "low",
            guidance=_GUIDE_HELD_ON if held else _GUIDE_UNCOMMANDED, subject="uncommanded",
        )  # fmt: skip

    def unverified(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OUT_UNVERIFIED."""
        cause = (
            "whether it is still tripped is not known: its link or its read-back is away"
            f"{self._demanded_by(event, payload)}"
        )
        return self._output(
            event, payload, state="raised", word="TRIPPED", cause=cause, priority="high",
            guidance=_GUIDE_UNVERIFIED,
        )  # fmt: skip

    def held(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OUT_HELD."""
        cause = "held: nothing is written until a release or a trip"
        why = _WHY_HELD.get(payload["code"], "the release is not confirmed")
        if payload["tries"]:
            cause = f"{why} after {payload['tries']} writes: {cause}"
        elif payload["code"] in _WHY_HELD:
            cause = f"{why}: {cause}"
        return self._output(
            event, payload, state="raised", word="HELD", cause=cause, priority="high",
            guidance=_GUIDE_HELD,
        )  # fmt: skip

    def released(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OUT_RELEASED."""
        return self._output(event, payload, state="cleared", word="RELEASED", cause="released")

    def heartbeat(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """HEARTBEAT_STOP and HEARTBEAT_START."""
        device = self._names.named(event, lambda text: text.devices, "device")
        output = self._names.named(event, lambda t: t.outputs, "output", payload["output_key"])
        stopped = event.type == EventType.HEARTBEAT_STOP
        cause = (
            f"THE HEARTBEAT IS WITHHELD: {output} is not confirmed and no fallback is left; the "
            "PLC's own watchdog trips when its time is over"
            if stopped
            else f"the heartbeat goes on: {output} is confirmed, or no longer commanded"
        )
        return draft_of(
            event,
            kind="guard",
            state="raised" if stopped else "cleared",
            source=Source("device", device),
            program=self._names.hash(event),
            priority="critical" if stopped else "medium",
            cause=cause,
            guidance=_GUIDE_HEARTBEAT if stopped else "",
            subject=f"heartbeat:{device}",
        )

    def _output(
        self,
        event: Event,
        payload: dict[str, Any],
        *,
        word: str,
        confirm_ns: int | None = None,
        priority: Priority = "low",
        subject: str = "output",
        **fields: Any,
    ) -> AlertDraft:
        ident = self._names.named(event, lambda text: text.outputs, "output")
        return draft_of(
            event,
            kind="output",
            source=Source("output", ident),
            program=self._names.hash(event),
            priority=priority,
            outputs=(OutputNote(ident, word, confirm_ns),),
            exercise=self._interlocks.exercised(payload["cause_key"]),
            subject=f"{subject}:{ident}",
            repeat=True,
            **fields,
        )

    def _demanded_by(self, event: Event, payload: dict[str, Any]) -> str:
        _, interlock = self._names.interlock(event, payload["cause_key"])
        return f", demanded by {interlock.id}" if interlock else ""

    def _fallbacks(self, event: Event) -> str:
        text, output = self._names.output(event)
        if text is None or output is None or not output.fallbacks:
            return "; it has no fallback"
        named = ", ".join(text.outputs[i].id for i in output.fallbacks)
        return f"; its fallback trips: {named}"

    def _value(self, event: Event, value: int) -> str:
        _, output = self._names.output(event)
        return _value_words(output, value)

    def _seen(self, event: Event, seen: int) -> str:
        """A read-back is one bit; anything else says nothing."""
        _, output = self._names.output(event)
        if seen not in (0, 1):
            return "nothing that can be used"
        word = "on" if seen else "off"
        if output is None:
            return word
        return f"{word} ({'tripped' if bool(seen) is bool(output.trip) else 'not tripped'})"


def _value_words(output: OutputText | None, value: int) -> str:
    """On and off for a coil, with what that means; the number of a register."""
    if output is None:
        return "on" if value else "off"
    word = ("on" if value else "off") if output.coil else str(value)
    if value == output.trip:
        return f"{word} (tripped)"
    return f"{word} (normal)" if value == output.normal else word
