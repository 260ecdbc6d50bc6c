"""Outputs in plain Python: the state table, and what confirms a trip.

Part of the reference (``reference``): written for reading, never run on site. Who demands an output
is in ``reference_demands``, what is written of it in ``reference_wire``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastpath import reference_wire as wire
from fastpath.codes import OutputCode, OutputState, Quality, ResultCode, ResultDetail
from fastpath.reference_conditions import Reading
from fastpath.reference_demands import Demands
from fastpath.reference_heartbeats import Heartbeats
from fastpath.reference_interlocks import Now, Wanted
from fastpath.reference_output import RETRY_NS, Output, Silence

RELEASE_NS: Final = 10_000_000_000
STOP_MARGIN_NS: Final = 100_000_000  # what fails last has its fallbacks written


@dataclass(slots=True)
class Outputs:
    """All of a site."""

    items: dict[str, Output]
    record: Callable[..., None]
    tags: Mapping[str, Reading]
    demands: Demands = field(init=False)
    heartbeats: Heartbeats = field(init=False)
    gateway: bool = False  # whoever writes the outputs via it is heard
    stop_by_ns: int | None = None  # STOP waits until then at most

    def __post_init__(self) -> None:
        self.demands = Demands(self.items)
        self.heartbeats = Heartbeats(self.items, self.record)

    def scan(self, wanted: Wanted, now: Now, *, gateway: bool) -> None:
        """Every output: demand, one row of the state table, the wish."""
        self._gateway(now, up=gateway)
        self.demands.scan(wanted, now)
        for one in self.items.values():
            if one.held or one.awaited:
                wanted.releasable.discard(one.id)
            if one.trips:
                if not one.held and one.id in wanted.releasable:
                    wanted.releasable.discard(one.id)
                    self._begin_release(one, now)
            elif one.held and one.silence is None:
                self._begin_trip(one, now)
            self._row(one, now)
            wire.wish(one, now)
        for one in self.demands.follow(lambda each: self._begin_trip(each, now)):
            wire.wish(one, now)
        self.heartbeats.scan(now)

    # ---- the read-back

    def _seen(self, one: Output) -> bool | None:
        """On or off as the read-back has it, None where it says nothing."""
        if one.readback is None:
            return None
        tag, inverted = one.readback
        reading = self.tags[tag]
        if reading.quality != Quality.GOOD:
            return None
        return (reading.value != 0) != inverted

    def _agrees(self, one: Output) -> bool:
        """The read-back shows the trip by a reading that is not older than the write."""
        if one.readback is None:
            return True
        if one.wire_ns is None or self._seen(one) != bool(one.definition.trip):
            return False
        return self.tags[one.readback[0]].mono_ns >= one.wire_ns

    # ---- rows

    def _enter(self, one: Output, state: int, now: Now) -> None:
        one.state = state
        one.entered_ns = now.mono_ns
        one.differs_since_ns = None
        one.uncommanded = False

    def _fresh_command(self, one: Output, now: Now) -> None:
        """Another value is to be written: what was answered before means nothing any more."""
        one.in_flight = one.replied = one.refused = False
        one.unverified = one.first_hold = one.confirmed = False
        one.next_write_ns = now.mono_ns

    def _begin_trip(self, one: Output, now: Now) -> None:
        self._enter(one, OutputState.TRIPPING, now)
        self._fresh_command(one, now)
        one.generation += 1
        one.wire_ns = None
        one.restored = False
        one.retry_ns = RETRY_NS[0]
        one.confirm_by_ns = now.mono_ns + int(one.definition.confirm_within)
        code = OutputCode.NOTHING
        if one.sounds_again:
            code = OutputCode.SOUNDS_AGAIN
        elif one.stands_in and not one.demanded:
            code = OutputCode.FALLBACK
        one.sounds_again = False
        self._record(one, "OUT_TRIP", code)

    def _begin_release(self, one: Output, now: Now, code: int = OutputCode.NOTHING) -> None:
        self._fresh_command(one, now)
        one.tries = 0
        one.beat_stopped = False
        if one.definition.normal is None:
            self._enter(one, OutputState.HELD, now)
            self._record(one, "OUT_HELD", code)
            return
        one.generation += one.by_gateway  # a late result of the trip is none of the release
        self._enter(one, OutputState.RELEASING, now)
        self._record(one, "OUT_RELEASE", code)

    def _row(self, one: Output, now: Now) -> None:
        match one.state:
            case OutputState.TRIPPING:
                self._tripping(one, now)
            case OutputState.TRIPPED:
                self._tripped(one, now)
            case OutputState.TRIP_FAILED:
                if one.replied and self._agrees(one):
                    self._confirm(one, now, late=True)
            case OutputState.RELEASING:
                self._releasing(one, now)
            case OutputState.HELD:
                self._held(one, now)
            case OutputState.RELEASED:
                self._idle(one, one.definition.normal, now)

    def _tripping(self, one: Output, now: Now) -> None:
        if one.replied and self._agrees(one):
            self._confirm(one, now, late=one.restored)
        elif one.refused:
            self._fail(one, now, "OUT_FAILED", OutputCode.REFUSED)
        elif one.confirm_by_ns is None or now.mono_ns >= one.confirm_by_ns:
            self._fail(one, now, "OUT_FAILED", OutputCode.TIMEOUT)

    def _tripped(self, one: Output, now: Now) -> None:
        """Watch the read-back; after a lost link confirm anew."""
        seen = self._seen(one)
        agrees = one.readback is None or seen == bool(one.definition.trip)
        if one.unverified and one.replied and agrees:
            self._confirm(one, now, late=True)
        elif one.unverified and one.confirm_by_ns is not None and now.mono_ns >= one.confirm_by_ns:
            self._fail(one, now, "OUT_FAILED", OutputCode.TIMEOUT)
        elif agrees:
            one.differs_since_ns = None
        elif seen is None:
            one.differs_since_ns = None
            if not one.unverified:
                self._unverify(one)
        elif one.differs_since_ns is None:
            one.differs_since_ns = now.mono_ns
        elif now.mono_ns - one.differs_since_ns >= one.definition.confirm_within:
            self._fail(one, now, "OUT_MISMATCH", OutputCode.MISMATCH)

    def _releasing(self, one: Output, now: Now) -> None:
        """The device's own reply confirms it; three tries within ten seconds, then HELD."""
        tried = one.tries >= wire.RELEASE_TRIES and not one.in_flight
        if one.replied:
            one.confirmed = True
            self._enter(one, OutputState.RELEASED, now)
            self._record(one, "OUT_RELEASED")
        elif now.mono_ns - one.entered_ns >= RELEASE_NS or tried:
            self._enter(one, OutputState.HELD, now)
            code = OutputCode.REFUSED if one.refused else OutputCode.TIMEOUT
            self._record(one, "OUT_HELD", code)

    def _held(self, one: Output, now: Now) -> None:
        """After a first start alone: the plant already is as ``normal`` says."""
        normal = one.definition.normal
        if not one.first_hold:
            self._idle(one, one.definition.trip, now)
        elif normal is not None and self._seen(one) == bool(normal):
            one.first_hold = False
            self._enter(one, OutputState.RELEASED, now)
            self._record(one, "OUT_RELEASED")

    def _idle(self, one: Output, value: float, now: Now) -> None:
        """A read-back that contradicts for long is told once, and its end; it moves nothing."""
        d = one.definition
        if d.normal is not None and bool(d.trip) == bool(d.normal):
            return  # two values that read back alike are not told apart
        seen = self._seen(one)
        if seen is None:
            one.differs_since_ns = None
        elif seen == bool(value):
            one.differs_since_ns = None
            if one.uncommanded:
                one.uncommanded = False
                self._record(one, "OUT_MISMATCH")
        elif one.differs_since_ns is None:
            one.differs_since_ns = now.mono_ns
        elif not one.uncommanded and now.mono_ns - one.differs_since_ns >= d.confirm_within:
            one.uncommanded = True
            self._record(one, "OUT_MISMATCH", OutputCode.UNCOMMANDED)

    def _confirm(self, one: Output, now: Now, *, late: bool) -> None:
        one.confirmed = True
        one.unverified = one.restored = one.beat_stopped = False
        one.confirm_by_ns = None
        if one.state != OutputState.TRIPPED:
            self._enter(one, OutputState.TRIPPED, now)
        one.next_write_ns = now.mono_ns + int(one.definition.reassert)
        self._record(one, "OUT_CONFIRMED", late=late)

    def _fail(self, one: Output, now: Now, record: str, code: int) -> None:
        """-> TRIP_FAILED: tried again for ever, 100 ms doubling to 1 s; its fallbacks trip."""
        self._enter(one, OutputState.TRIP_FAILED, now)
        one.failed = True
        one.confirmed = one.replied = one.refused = False
        one.confirm_by_ns = None
        one.retry_ns = RETRY_NS[0]
        one.next_write_ns = now.mono_ns
        self._record(one, record, code)

    def _unverify(self, one: Output) -> None:
        one.unverified = True
        one.confirmed = False
        one.confirm_by_ns = None
        self._record(one, "OUT_UNVERIFIED")

    def _record(self, one: Output, kind: str, code: int = 0, *, late: bool = False) -> None:
        self.record(kind, one.id, generation=one.generation, code=int(code), late=late)

    # ---- links

    def link_down(self, device: str) -> None:
        """The connection that carries this device's outputs ended."""
        for one in self._on(device):
            self._part(one)

    def link_up(self, device: str, now: Now) -> None:
        """A new connection."""
        for one in self._on(device):
            wire.link_up(one, now)

    def _gateway(self, now: Now, *, up: bool) -> None:
        """The gateway is heard, or not."""
        changed, self.gateway = up != self.gateway, up
        for one in self.items.values():
            if one.by_gateway and changed:
                if up:
                    wire.gateway_up(one, now)
                else:
                    self._part(one)

    def _part(self, one: Output) -> None:
        """Nobody hears from it: a tripped one is unverified."""
        one.in_flight = False
        if not one.trips:
            return
        if one.state != OutputState.TRIPPED:
            one.replied = False
        elif one.unverified:
            one.confirm_by_ns = None
        else:
            one.replied = False
            self._unverify(one)

    def _on(self, device: str) -> list[Output]:
        own = [each for each in self.items.values() if not each.by_gateway]
        return [each for each in own if each.definition.device == device]

    # ---- commands

    def command_release(
        self, one: Output, forbidden: int, heard: dict[str, int], now: Now
    ) -> tuple[int, int]:
        """HELD, or tripped with nothing that demands it -> RELEASING; a siren falls silent.

        ``heard``: the trips that whoever silences it knows of. (Result, detail.)
        """
        if one.state in (OutputState.RELEASED, OutputState.RELEASING):
            return ResultCode.ALREADY, 0
        code, silences = self.demands.may_release(one, forbidden)
        if code != ResultCode.DONE:
            return code, 0
        if not silences:
            self._begin_release(one, now)
            return code, 0
        one.silence = Silence(now.boot_ns + int(one.definition.silence), heard)
        self._begin_release(one, now, OutputCode.SILENCED)
        return code, int(ResultDetail.SILENCED)

    def command_stop(self, now: Now, *, trips: bool) -> bool:
        """STOP: trip values first where the site says so. False: it is under way already."""
        if self.stop_by_ns is not None:
            return False
        self.stop_by_ns = now.mono_ns
        self.demands.stopping = trips
        if trips:
            within_ns = (int(each.definition.confirm_within) for each in self.items.values())
            self.stop_by_ns += max(within_ns, default=0) + STOP_MARGIN_NS
        return True

    def stopped(self, now: Now) -> bool:
        """STOP has its confirmations, or its time is over."""
        if self.stop_by_ns is None:
            return False
        waits = self.demands.stopping and not self.confirmed
        return not waits or now.mono_ns >= self.stop_by_ns

    @property
    def confirmed(self) -> bool:
        """Every output is tripped and confirmed."""
        return all(
            each.state == OutputState.TRIPPED and each.confirmed for each in self.items.values()
        )

    # ---- programs and lives

    def install(self, definitions: dict[str, Any], readbacks: dict[str, Any], now: Now) -> None:
        """Of another program: what is new is HELD, what is written elsewhere is written anew."""
        before = dict(self.items)
        self.items.clear()
        for name, definition in definitions.items():
            one = before.get(name)
            if one is None:
                one = Output(definition, None, first_hold=True, entered_ns=now.mono_ns)
            old, one.definition, one.readback = one.definition, definition, readbacks[name]
            one.in_flight = one.awaited = False
            self.items[name] = one
            if _place(old) == _place(definition):
                continue
            if one.trips:
                self._write_anew(one, now)
            else:
                one.forget(now.mono_ns)  # nothing is known of what stands there now
                one.first_hold = True

    def _write_anew(self, one: Output, now: Now) -> None:
        self._enter(one, OutputState.TRIPPING, now)
        one.confirmed = one.replied = one.refused = one.unverified = False
        one.wire_ns = None
        one.next_write_ns = now.mono_ns
        one.confirm_by_ns = now.mono_ns + int(one.definition.confirm_within)

    def begin(self) -> None:
        """A new process."""
        self.gateway = False
        self.stop_by_ns = None
        self.demands.stopping = False
        self.heartbeats.withheld = set()

    def restart(self, one: Output, now: Now) -> None:
        """What was tripped is written again, a release under way ends in HELD."""
        was = Output(**{name: getattr(one, name) for name in Output.__slots__})
        one.forget(now.mono_ns)
        for name in ("demanded", "stands_in", "failed", "silence", "beat_stopped", "first_hold"):
            setattr(one, name, getattr(was, name))
        if was.trips:
            self._write_anew(one, now)
            one.restored = True
        elif was.state == OutputState.RELEASING:
            one.first_hold = False
        else:
            one.state, one.confirmed = was.state, was.confirmed

    def restore(self, one: Output, now: Now) -> None:
        """Its two copies disagree: the trip value, whatever was demanded.

        A silence that may be none is none; that it failed goes on until it is confirmed.
        """
        failed, beat_stopped = one.failed, one.beat_stopped
        one.forget(now.mono_ns)
        one.failed, one.beat_stopped = failed, beat_stopped
        self._begin_trip(one, now)
        one.restored = True

    def lose(self, one: Output, now: Now) -> None:
        """Nothing is known of it, not even by a first start's rule."""
        one.forget(now.mono_ns)
        one.generation = 0

    def tell_held(self, wanted: Wanted) -> None:
        """After a power loss: what nothing demands is held."""
        for one in self.items.values():
            if one.state == OutputState.HELD and one.id not in wanted.demanded:
                self._record(one, "OUT_HELD")


def _place(definition: Any) -> tuple[Any, ...]:
    """Where it is written, and which values. Of one via the gateway its values alone are known."""
    d = definition
    values = (d.via, int(d.trip), int(d.normal or 0))
    return values if d.via == "gateway" else (*values, d.device, d.unit, d.address)
