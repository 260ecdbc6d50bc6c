"""Devices, the guard itself, its program and refused commands, in words."""

import os
from typing import Any, Final

from fastpath.codes import (
    DownReason,
    EventFlag,
    MessageType,
    Quality,
    Reason,
    ResultCode,
)
from fastpath.records import Event
from gateway.alarms.names import Names, after, draft_of, name_of, seconds, tag_of
from gateway.guard.weakening import additions, told, weakenings
from gateway.store.alert import AlertDraft, Priority, Source

_DOWN: Final = {
    DownReason.CONNECT: "cannot be connected",
    DownReason.CLOSED: "closed the connection",
    DownReason.TIMEOUT: "does not answer in time",
    DownReason.PROTOCOL: "answers what it must not",
    DownReason.WATCHDOG: "a register of its watchdog is not as the site file says: nothing is "
    "released through it",
    DownReason.LEASE: "ANOTHER GUARD OWNS ITS OUTPUTS: this one writes nothing there",
    DownReason.TTY: "its serial port cannot be opened",
}
_GUIDE_DOWN: Final = {
    DownReason.WATCHDOG: "Set the register as the site file says, or correct the site file.",
    DownReason.LEASE: "Two guards are set to the same outputs: end the one that must not own them.",
    DownReason.TTY: "Look at the cable and the adapter, and at who else has the port open.",
}
_GUIDE_LATE: Final = (
    "See whether the guard runs in real time (status), what else runs on this computer, and "
    "whether it was suspended. At twice an interlock's response it trips."
)
_OF_ITS_OWN: Final = frozenset({DownReason.WATCHDOG, DownReason.LEASE})  # the link itself is up
_REFUSED: Final[dict[int, str]] = {
    ResultCode.ALREADY: "it was so already",
    ResultCode.WRONG_GENERATION: "it has tripped again since it was looked at",
    ResultCode.CAUSE_PRESENT: "its cause is still present",
    ResultCode.CAUSE_UNKNOWN: "its cause is not known",
    ResultCode.PERMISSIVE: "its permissive is not known to be true",
    ResultCode.EXPIRED: "it came too late",
    ResultCode.NOT_ALLOWED: "not allowed",
    ResultCode.LIMIT: "a limit is reached",
    ResultCode.UNKNOWN_KEY: "the running program does not have it",
    ResultCode.WRONG_PROGRAM: "another program runs by now",
    ResultCode.REFUSED_BLOB: "the program breaks a rule",
    ResultCode.WOULD_REMOVE_TRIP: "it would remove a trip or a bypass",
    ResultCode.MINIMUM_TRIP_TIME: "its minimum trip time is not over",
}
_LEG_CODES: Final = frozenset({ResultCode.CAUSE_PRESENT, ResultCode.CAUSE_UNKNOWN})
_ERRNO_MAX: Final = 4095


class GuardWords:
    """Records of devices and of the guard to alert drafts."""

    def __init__(self, names: Names) -> None:
        self._names = names

    # ---- devices -------------------------------------------------------------------------------

    def device_down(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """DEVICE_DOWN, for whatever reason."""
        reason = payload["reason"]
        cause = _DOWN.get(reason, "is not reached")
        if 0 < payload["errno"] <= _ERRNO_MAX:
            cause += f" ({os.strerror(payload['errno'])})"
        priority: Priority = "critical" if reason == DownReason.LEASE else "high"
        return self._device(
            event, reason, state="raised", priority=priority, cause=cause,
            guidance=_GUIDE_DOWN.get(reason, ""),
        )  # fmt: skip

    def device_up(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """DEVICE_UP; with a reason of its own: that is over."""
        reason = payload["reason"]
        cause = {
            DownReason.WATCHDOG: "the registers of its watchdog are as the site file says",
            DownReason.LEASE: "this guard owns its outputs again",
        }.get(reason, "answers again")
        cause += after(payload["down_ns"])
        return self._device(event, reason, state="cleared", priority="low", cause=cause)

    def _device(self, event: Event, reason: int, **fields: Any) -> AlertDraft:
        ident = self._names.named(event, lambda text: text.devices, "device")
        own = f":{name_of(DownReason, reason)}" if reason in _OF_ITS_OWN else ""
        return draft_of(
            event,
            kind="device",
            source=Source("device", ident),
            subject=f"device:{ident}{own}",
            **fields,
        )

    def tag_quality(self, event: Event, payload: dict[str, Any]) -> AlertDraft | None:
        """TAG_QUALITY, where the tag is a register of a device's watchdog."""
        text = next(iter(self._names.texts(event)), None)
        slot = payload["slot"]
        if text is None or slot not in text.watchdogs:
            return None
        good = payload["quality"] == Quality.GOOD
        device = text.tag_devices[slot] or tag_of(text, slot)
        why = name_of(Reason, payload["reason"])
        cause = (
            "a register of its watchdog is as the site file says"
            if good
            else f"a register of its watchdog reads {payload['value']:g} ({why}), which is not "
            "what the site file says: nothing is released through it"
        )
        return draft_of(
            event,
            kind="device",
            state="cleared" if good else "raised",
            source=Source("device", device),
            priority="low" if good else "high",
            cause=cause,
            guidance="" if good else _GUIDE_DOWN[DownReason.WATCHDOG],
            subject=f"watchdog:{tag_of(text, slot)}",
        )

    # ---- the guard -----------------------------------------------------------------------------

    def start(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """GUARD_START."""
        first = payload["starts"] == 1
        clean = first or bool(payload["clean"])
        parts = [] if first else ["after an orderly stop" if clean else "after no orderly stop"]
        if payload["gap_ns"] > 0:
            parts.append(f"{seconds(payload['gap_ns'])} without a scan")
        if payload["restored"]:
            parts.append(f"{payload['restored']} damaged states count as tripped")
        if not payload["fifo"]:
            parts.append("without real-time scheduling")
        started = "the guard started" + ("" if first else f" (start {payload['starts']})")
        cause = ": ".join([started, *([", ".join(parts)] if parts else [])])
        return self._guard(event, "low" if clean else "high", cause)

    def stop(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """GUARD_STOP."""
        how = f"signal {payload['signal']}" if payload["signal"] else "by command"
        return self._guard(event, "medium", f"the guard stops: {how}")

    def overrun(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """OVERRUN: a scan that took too long, or that began too late."""
        took, budget = seconds(payload["took_ns"]), seconds(payload["budget_ns"])
        late = event.flags & EventFlag.LATE
        cause = f"a scan took {took}, its budget is {budget}: this computer is too busy or too slow"
        if late:
            cause = (
                f"the guard looked at nothing for {took} beyond its tick, more than {budget}, half "
                "of the shortest response that an interlock promises: this computer was too busy "
                "to let it run"
            )
        return self._guard(event, "high", cause, guidance=_GUIDE_LATE if late else "")

    def pause(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """PAUSE."""
        cause = f"the guard stood still for {seconds(payload['took_ns'])}: all inputs are stale"
        return self._guard(event, "high", cause)

    def fault(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """FAULT."""
        cause = (
            f"a broken internal check tripped everything: code {payload['code']}, "
            f"place {payload['place']}, value {payload['value']}"
        )
        return self._guard(
            event, "critical", cause, guidance="Keep the log and the journal; report it."
        )

    def lost(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """LOST."""
        cause = (
            f"the journal was full: {payload['count']} records after number "
            f"{payload['first'] - 1} were not written; trips and latches are complete"
        )
        return self._guard(event, "high", cause)

    def _guard(self, event: Event, priority: Priority, cause: str, **fields: Any) -> AlertDraft:
        return draft_of(
            event,
            kind="guard",
            state="event",
            source=Source("guard", "guard"),
            program=self._names.hash(event),
            priority=priority,
            cause=cause,
            **fields,
        )

    # ---- program and commands ------------------------------------------------------------------

    def program(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """PROGRAM: swapped, with what became weaker."""
        old, new = payload["old"][:8].hex(), payload["new"][:8].hex()
        weakened = payload.get("weakened", 0)
        before, now = (self._names.text_of(payload[key]) for key in ("old", "new"))
        words = ""
        if before and now:
            weaker = weakenings(before.data, now.data)
            changes = [change for each in weaker for change in each.changes]
            words = told([*changes, *additions(before.data, now.data)])
        cause = (
            f"program {new} replaced {old}: {payload['kept']} interlocks kept, "
            f"{payload['changed']} changed"
        )
        if weakened:
            cause += f"; PROTECTION IS WEAKER in {weakened}"
        if words:
            cause += f": {words}"
        return draft_of(
            event,
            kind="program",
            state="event",
            source=Source("program", new),
            program=self._names.hash(event),
            priority="high" if weakened else "medium",
            cause=cause,
        )

    def command(self, event: Event, payload: dict[str, Any]) -> AlertDraft:
        """COMMAND: refused, or already so."""
        what = self._target(event)
        who = payload["who"].rstrip(b"\0").decode("utf-8", "replace")
        code = payload["code"]
        why = _REFUSED.get(code, f"code {code}")
        leg = self._leg(event, payload) if code in _LEG_CODES else ""
        verb = name_of(MessageType, payload["type"])
        became = "changed nothing" if code == ResultCode.ALREADY else "was refused"
        return draft_of(
            event,
            kind="command",
            state="event",
            source=what,
            program=self._names.hash(event),
            priority="low",
            cause=f"{verb} of {what.id}{f' by {who}' if who else ''} {became}: {why}{leg}",
        )

    def _target(self, event: Event) -> Source:
        _, interlock = self._names.interlock(event)
        if interlock is not None:
            return Source("interlock", interlock.id)
        output = self._names.named(event, lambda text: text.outputs, "")
        if output:
            return Source("output", output)
        text, tag = self._names.tag(event)
        return Source("tag", tag) if text else Source("guard", "guard")

    def _leg(self, event: Event, payload: dict[str, Any]) -> str:
        _, interlock = self._names.interlock(event)
        number = payload["detail"]
        if interlock is None or number >= len(interlock.legs):
            return ""
        return f": '{interlock.legs[number].text}'"

    def gateway_up(self, event: Event, payload: dict[str, Any]) -> AlertDraft | None:
        """GATEWAY_UP, where it was away."""
        if payload["down_ns"] <= 0:
            return None
        return draft_of(
            event,
            kind="gateway",
            state="event",
            source=Source("gateway", "gateway"),
            priority="medium",
            cause=f"the gateway is connected to the guard again{after(payload['down_ns'])}",
        )
