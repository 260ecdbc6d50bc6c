"""Alarms from limits: the gateway's own conditions over its samples, every one of them evaluated.

An alarm that is raised stays raised over a restart (the ledger has it). Its condition starts anew
then, with nothing known; inside the deadband the alarm stands until the value has left it.
"""

from array import array
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from fastpath.codes import NONE_U32, Quality, Truth
from fastpath.messages import SAMPLE
from fastpath.program import Conditions
from gateway.store.alert import AlertDraft, Priority, Source

if TYPE_CHECKING:
    from fastpath.image import TagImage
    from gateway.logic.alarms import AlarmDef, AlarmProgram

_HIGH: Final = frozenset({"high", "high_high"})
_SUBJECT: Final = "alarm:"
_PRIORITIES: Final[dict[str, Priority]] = {
    "critical": "critical",
    "high": "high",
    "medium": "medium",
    "low": "low",
}


class Limits:
    """The alarms of a site. ``tags`` are its tag ids by index, ``image`` has the newest values."""

    def __init__(
        self, program: "AlarmProgram", tags: Sequence[str], image: "TagImage | None" = None
    ) -> None:
        self._conditions = Conditions(program.blob)
        self._alarms = program.alarms
        self._by_register: dict[int, list[AlarmDef]] = {}
        for alarm in program.alarms:
            self._by_register.setdefault(alarm.register, []).append(alarm)
        self._tag_of = {alarm.id: alarm.tag for alarm in program.alarms}
        self._index = {tag: i for i, tag in enumerate(tags)}
        self._image = image
        self._raised: set[str] = set()
        self._held: dict[int, list[AlarmDef]] = {}  # by tag: raised in an earlier life
        slots = array("I", [program.slots.get(tag, NONE_U32) for tag in tags])
        self._conditions.watch(list(self._by_register), slots)

    def restore(self, subjects: Iterable[str]) -> None:
        """Go on from what the ledger says is raised."""
        alarms = {s.removeprefix(_SUBJECT) for s in subjects if s.startswith(_SUBJECT)}
        earlier = alarms - self._raised
        self._raised |= earlier
        for alarm in self._alarms:
            if alarm.id in earlier:
                self._held.setdefault(self._index[alarm.tag], []).append(alarm)

    def raised_tags(self) -> frozenset[str]:
        """The tags with an alarm that is raised."""
        return frozenset(self._tag_of[i] for i in self._raised if i in self._tag_of)

    def orphans(self) -> list[AlertDraft]:
        """The ends of alarms that are raised but are no longer in the site file."""
        known = {alarm.id for alarm in self._alarms}
        gone = sorted(self._raised - known)
        self._raised &= known
        return [
            AlertDraft(
                kind="alarm_end",
                state="cleared",
                source=Source("alarm", ident),
                priority="low",
                cause="the alarm is no longer in the site file",
                subject=f"{_SUBJECT}{ident}",
            )
            for ident in gone
        ]

    def feed(self, samples: bytes) -> list[AlertDraft]:
        """Evaluate after each run of samples of one time; what began and what ended."""
        changes = self._conditions.feed(samples)
        drafts = self._drafts(changes, samples)
        return drafts + self._leave_deadband(samples) if self._held else drafts

    def advance(self, mono_ns: int, utc_ns: int) -> list[AlertDraft]:
        """Evaluate at a time without samples: delays end while a value stands still."""
        return self._drafts(self._conditions.advance(mono_ns, utc_ns), b"")

    def _drafts(
        self, changes: Sequence[tuple[int, int, int, int]], samples: bytes
    ) -> list[AlertDraft]:
        if not changes:
            return []
        drafts: list[AlertDraft] = []
        values = self._values(changes, samples)
        for mono_ns, utc_ns, register, truth in changes:
            for alarm in self._by_register[register]:
                value = values.get((self._index[alarm.tag], mono_ns))
                if value is None:
                    value = self._newest(alarm)
                drafts += self._turn(alarm, truth, utc_ns, value)
        return drafts

    def _turn(
        self, alarm: "AlarmDef", truth: int, utc_ns: int, value: float | None
    ) -> list[AlertDraft]:
        """What a change of an alarm's condition is; unknown changes nothing."""
        if truth == Truth.TRUE:
            self._let_go(alarm)
            if alarm.id not in self._raised:
                self._raised.add(alarm.id)
                return [_raise(alarm, utc_ns, value)]
        elif truth == Truth.FALSE and alarm.id in self._raised and not self._is_held(alarm):
            self._raised.remove(alarm.id)
            return [_end(alarm, utc_ns, value)]
        return []

    def _values(
        self, changes: Sequence[tuple[int, int, int, int]], samples: bytes
    ) -> dict[tuple[int, int], float]:
        """The values that the changes came with, by (tag, time)."""
        wanted = {
            (self._index[alarm.tag], mono_ns)
            for mono_ns, _, register, _ in changes
            for alarm in self._by_register[register]
        }
        found = {}
        for slot, _quality, _reason, _flags, value, mono_ns, _utc_ns in SAMPLE.iter_unpack(samples):
            if (slot, mono_ns) in wanted:
                found[slot, mono_ns] = value
        return found

    def _newest(self, alarm: "AlarmDef") -> float | None:
        value = self._image.get(self._index[alarm.tag])[0] if self._image else None
        return value if value is not None and isfinite(value) else None

    def _is_held(self, alarm: "AlarmDef") -> bool:
        return alarm in self._held.get(self._index[alarm.tag], ())

    def _let_go(self, alarm: "AlarmDef") -> None:
        """From here on its own condition decides."""
        tag = self._index[alarm.tag]
        left = [item for item in self._held.get(tag, ()) if item is not alarm]
        if left:
            self._held[tag] = left
        else:
            self._held.pop(tag, None)

    def _leave_deadband(self, samples: bytes) -> list[AlertDraft]:
        """End alarms of an earlier life whose value is past the deadband now."""
        drafts = []
        for slot, quality, _reason, _flags, value, _mono_ns, utc_ns in SAMPLE.iter_unpack(samples):
            if slot not in self._held or quality == Quality.BAD:
                continue
            for alarm in [item for item in self._held[slot] if _is_past(item, value)]:
                self._let_go(alarm)
                self._raised.discard(alarm.id)
                drafts.append(_end(alarm, utc_ns, value))
        return drafts


def _is_past(alarm: "AlarmDef", value: float) -> bool:
    if alarm.kind in _HIGH:
        return value < alarm.limit - alarm.deadband
    return value > alarm.limit + alarm.deadband


def _raise(alarm: "AlarmDef", utc_ns: int, value: float | None) -> AlertDraft:
    return _draft(
        alarm,
        utc_ns,
        value,
        kind="alarm",
        state="raised",
        priority=_PRIORITIES.get(alarm.priority, "medium"),
        guidance=alarm.guidance,
        cause=f"{_seen(alarm, value)}: {_limit(alarm)}",
    )


def _end(alarm: "AlarmDef", utc_ns: int, value: float | None) -> AlertDraft:
    return _draft(
        alarm,
        utc_ns,
        value,
        kind="alarm_end",
        state="cleared",
        priority="low",
        cause=f"{_seen(alarm, value)}: back within the {_limit(alarm)}",
    )


def _seen(alarm: "AlarmDef", value: float | None) -> str:
    return alarm.tag if value is None else f"{alarm.tag} {value:g} {alarm.unit}".rstrip()


def _limit(alarm: "AlarmDef") -> str:
    """After a delay the value may stand in the deadband: so no sign."""
    return f"{alarm.kind.replace('_', ' ')} limit {alarm.limit:g} {alarm.unit}".rstrip()


def _draft(alarm: "AlarmDef", utc_ns: int, value: float | None, **fields: Any) -> AlertDraft:
    return AlertDraft(
        source=Source("alarm", alarm.id),
        utc_ns=utc_ns,
        level=alarm.level,
        value=value,
        limit=alarm.limit,
        unit=alarm.unit or None,
        subject=f"{_SUBJECT}{alarm.id}",
        **fields,
    )
