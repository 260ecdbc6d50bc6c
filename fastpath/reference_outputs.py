"""Outputs in plain Python: the state table, what is to be written and when, and what confirms it.

Part of the reference (``reference``): written for reading, never run on site. A definition is a
``gateway.site.model.Output``. All times but ``since`` are of the monotonic clock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastpath.codes import OutputCode, OutputState, Quality, ResultCode
from fastpath.reference_conditions import Reading
from fastpath.reference_interlocks import Now

Definition = Any  # gateway.site.model.Output
WRITE_TIMEOUT_NS: Final = 200_000_000
RETRY_NS: Final = (100_000_000, 1_000_000_000)  # first, longest
RELEASE_NS: Final = 10_000_000_000
RELEASE_TRIES: Final = 3
TRIP_STATES: Final = (OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED)
NOTHING, TRIP, NORMAL = 0, 1, 2  # wishes


@dataclass(slots=True)
class Output:
    """One output: what its latch keeps, what is on the wire, what the device has said."""

    definition: Definition
    readback: tuple[str, bool] | None  # (tag, inverted)
    # The latch.
    state: int = OutputState.HELD
    generation: int = 0
    demanded: bool = False
    first_hold: bool = False  # HELD by a first start: an agreeing read-back releases it
    confirmed: bool = False
    # Lost with the process.
    wish: int = NOTHING
    in_flight: bool = False
    replied: bool = False
    refused: bool = False
    tries: int = 0
    unverified: bool = False
    restored: bool = False  # tripped before a restart: its confirmation is late
    wire_ns: int | None = None  # first write of this trip
    entered_ns: int = 0
    next_write_ns: int = 0
    confirm_by_ns: int | None = None
    retry_ns: int = RETRY_NS[0]
    differs_since_ns: int | None = None
    uncommanded: bool = False  # the read-back contradicts though nothing was commanded

    @property
    def id(self) -> str:
        """As in the site file."""
        return str(self.definition.id)


@dataclass(slots=True)
class Outputs:
    """All of a site."""

    items: dict[str, Output]
    record: Callable[..., None]
    tags: Mapping[str, Reading]
    stopping: bool = False  # STOP with on_stop = trip: everything is demanded
    demands: dict[str, str] = field(default_factory=dict)  # output -> interlock that holds it

    def scan(self, demands: dict[str, str], releasable: set[str], now: Now) -> None:
        """Every output: demand, one row of the state table, the wish."""
        self.demands = demands
        for one in self.items.values():
            one.demanded = one.id in demands or self.stopping
            if one.demanded:
                releasable.discard(one.id)
            if one.state in TRIP_STATES:
                if not one.demanded and one.id in releasable:
                    releasable.discard(one.id)
                    self._begin_release(one, now)
            elif one.demanded:
                self._begin_trip(one, now)
            self._row(one, now)
            self._wish(one, now)

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
        self._record(one, "OUT_TRIP")

    def _begin_release(self, one: Output, now: Now) -> None:
        self._fresh_command(one, now)
        one.tries = 0
        if one.definition.normal is None:
            self._enter(one, OutputState.HELD, now)
            self._record(one, "OUT_HELD")
            return
        self._enter(one, OutputState.RELEASING, now)
        self._record(one, "OUT_RELEASE")

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
        tried = one.tries >= RELEASE_TRIES and not one.in_flight
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
        one.unverified = one.restored = False
        one.confirm_by_ns = None
        if one.state != OutputState.TRIPPED:
            self._enter(one, OutputState.TRIPPED, now)
        one.next_write_ns = now.mono_ns + int(one.definition.reassert)
        self._record(one, "OUT_CONFIRMED", late=late)

    def _fail(self, one: Output, now: Now, record: str, code: int) -> None:
        """-> TRIP_FAILED: tried again for ever, 100 ms doubling to 1 s."""
        self._enter(one, OutputState.TRIP_FAILED, now)
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

    def tell_held(self, demands: dict[str, str]) -> None:
        """After a power loss: what nothing demands is held."""
        for one in self.items.values():
            if one.state == OutputState.HELD and one.id not in demands:
                self._record(one, "OUT_HELD")

    def _record(self, one: Output, kind: str, code: int = 0, *, late: bool = False) -> None:
        self.record(kind, one.id, generation=one.generation, code=int(code), late=late)

    # ---- the wire

    def _wish(self, one: Output, now: Now) -> None:
        one.wish = NOTHING
        if one.in_flight or now.mono_ns < one.next_write_ns:
            return
        if one.state in TRIP_STATES:
            one.wish = TRIP
        elif one.state == OutputState.RELEASING and one.tries < RELEASE_TRIES:
            one.wish = NORMAL

    def sent(self, one: Output, now: Now) -> None:
        """The wish is on the wire."""
        one.in_flight = True
        one.wish = NOTHING
        if one.state == OutputState.RELEASING:
            one.tries += 1
            one.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS
            return
        if one.wire_ns is None:
            one.wire_ns = now.mono_ns
        if one.state == OutputState.TRIPPED and not one.unverified:
            one.next_write_ns = now.mono_ns + int(one.definition.reassert)
        elif one.state == OutputState.TRIP_FAILED:
            one.next_write_ns = now.mono_ns + one.retry_ns
            one.retry_ns = min(2 * one.retry_ns, RETRY_NS[1])
        else:
            one.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS

    def replied(self, one: Output, *, refused: bool) -> None:
        """The device's own reply to the outstanding write."""
        if not one.in_flight:
            return
        one.in_flight = False
        one.refused = refused
        one.replied = one.replied or not refused

    def expired(self, one: Output) -> None:
        """No reply in its time."""
        one.in_flight = False

    def link_down(self, device: str) -> None:
        """The connection that carries this device's outputs ended."""
        for one in self._on(device):
            one.in_flight = False
            if one.state == OutputState.TRIPPED and not one.unverified:
                one.replied = False
                self._unverify(one)
            elif one.state == OutputState.TRIPPED:
                one.confirm_by_ns = None
            elif one.state in TRIP_STATES:
                one.replied = False

    def link_up(self, device: str, now: Now) -> None:
        """A new connection: a pending trip value is the first thing on it."""
        for one in self._on(device):
            if one.state not in TRIP_STATES:
                continue
            one.replied = False
            one.next_write_ns = now.mono_ns
            if one.state == OutputState.TRIPPED:
                one.unverified = True
                one.confirm_by_ns = now.mono_ns + int(one.definition.confirm_within)
            self._wish(one, now)

    def _on(self, device: str) -> list[Output]:
        return [each for each in self.items.values() if each.definition.device == device]

    # ---- commands and lives

    def command_release(self, one: Output, forbidden: int, now: Now) -> int:
        """HELD, or tripped with nothing that demands it -> RELEASING."""
        if one.state in (OutputState.RELEASED, OutputState.RELEASING):
            return ResultCode.ALREADY
        if one.id in self.demands or self.stopping:
            return ResultCode.CAUSE_PRESENT
        if forbidden:
            return forbidden
        if one.definition.normal is None:
            return ResultCode.NOT_ALLOWED
        self._begin_release(one, now)
        return ResultCode.DONE

    def restart(self, one: Output, now: Now, *, power_loss: bool) -> None:
        """A new process: what was tripped is written again, a release under way ends in HELD."""
        state, hold, generation = one.state, one.first_hold, one.generation
        demanded, confirmed = one.demanded, one.confirmed
        self.forget(one, now)
        one.generation, one.demanded, one.first_hold = generation, demanded, hold
        if state in TRIP_STATES:
            one.state = OutputState.TRIPPING
            one.restored = True
            one.next_write_ns = now.mono_ns
            one.confirm_by_ns = now.mono_ns + int(one.definition.confirm_within)
        elif state == OutputState.RELEASING or power_loss:
            one.state = OutputState.HELD
            one.first_hold = False
        else:
            one.state, one.confirmed = state, confirmed

    def forget(self, one: Output, now: Now) -> None:
        """HELD, and nothing known of it."""
        fresh = Output(one.definition, one.readback, entered_ns=now.mono_ns)
        for name in Output.__slots__:
            setattr(one, name, getattr(fresh, name))
