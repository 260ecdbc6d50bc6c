"""Interlocks in plain Python: the state table and the bypass overlay, one row after the other.

Part of the reference (``reference``): written for reading, never run on site. A definition is a
``gateway.site.model.Interlock``. Delays, minimum times and bypasses run by boottime, the
ride-through of bad inputs by the monotonic clock.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastpath.codes import InterlockState, ResultCode, TripReason, Truth
from fastpath.reference_conditions import Condition, Node, Reading, code_of

Definition = Any  # gateway.site.model.Interlock
Record = Callable[..., None]  # (type, id, **fields)
BLIND_NS: Final = 10_000_000_000
HELD: Final = (InterlockState.TRIPPED, InterlockState.READY_TO_RESET)


@dataclass(frozen=True, slots=True)
class Now:
    """The clocks of one scan, ns."""

    mono_ns: int
    boot_ns: int
    utc_ns: int


@dataclass(slots=True)
class Interlock:
    """One interlock: what the latch keeps over a restart, and what it does not."""

    definition: Definition
    cause: Condition
    permissive: Condition | None
    leg_nodes: tuple[Node, ...]
    fingerprint: object
    # The latch.
    state: int = InterlockState.NORMAL
    generation: int = 0
    reason: int = 0
    since_boot_ns: int = 0
    trip_boot_ns: int = 0
    effects_from_ns: int = 0  # boottime: the delays of its effects run from here
    needs_reset: bool = False  # a cause besides its condition tripped it
    first_out: bool = False
    same_scan: bool = False
    starting: bool = False
    demands: int = 0
    legs: tuple[int, ...] = ()
    # Lost with the process.
    unknown_since_ns: int | None = None
    known_since_ns: int | None = None
    grace_until_ns: int | None = None
    last_known: int = Truth.UNKNOWN
    truth: int = Truth.UNKNOWN
    permitted: bool = False
    blind: bool = False  # told that an unknown which does not trip lasts

    @property
    def id(self) -> str:
        """As in the site file."""
        return str(self.definition.id)

    @property
    def armed(self) -> bool:
        """Only an armed one moves outputs."""
        return bool(self.definition.armed)

    @property
    def holds(self) -> bool:
        """TRIPPED or READY_TO_RESET."""
        return self.state in HELD

    @property
    def outputs(self) -> list[tuple[str, int]]:
        """(output, delay ns) of each effect."""
        return [(str(each.output), int(each.delay)) for each in self.definition.effects]

    def legs_now(self) -> tuple[int, ...]:
        """Truth of each leg at the newest evaluation."""
        return tuple(self.cause.leg(node) for node in self.leg_nodes)

    def forget(self, now: Now, start_within_ns: int) -> None:
        """A new process, or a new definition: nothing is known yet, and grace is given."""
        self.unknown_since_ns = None
        self.known_since_ns = None
        self.last_known = Truth.UNKNOWN
        self.truth = Truth.UNKNOWN
        self.permitted = False
        self.blind = False
        self.grace_until_ns = now.mono_ns + start_within_ns


@dataclass(slots=True)
class Interlocks:
    """All of a site, in the site file's order."""

    items: list[Interlock]
    record: Record
    groups: Mapping[str, Any] = field(default_factory=dict)
    first_taken: dict[str, int] = field(default_factory=dict)  # group -> scan of its first-out
    releasable: set[str] = field(default_factory=set)  # outputs that a reset or return lets go

    def find(self, ident: str) -> Interlock | None:
        """By id."""
        return next((each for each in self.items if each.id == ident), None)

    def regroup(self) -> None:
        """After a start or a swap: a group of which something holds has its first-out."""
        self.first_taken = {
            each.definition.group: 0
            for each in self.items
            if each.holds and each.definition.group is not None
        }

    def evaluate(self, tags: Mapping[str, Reading], now: Now, *, grace: bool) -> None:
        """All conditions, before any transition."""
        for each in self.items:
            each.cause.evaluate(tags, now.mono_ns, grace=grace)
            if each.permissive is not None:
                each.permissive.evaluate(tags, now.mono_ns, grace=grace)

    def scan(self, now: Now, number: int) -> None:
        """Every interlock: one row of the state table each."""
        for each in self.items:
            self._step(each, now, number)

    # ---- one interlock

    def _step(self, one: Interlock, now: Now, number: int) -> None:
        d = one.definition
        one.truth = code_of(one.cause.result)
        if one.truth == Truth.ABSTAIN:
            one.truth = Truth.UNKNOWN
        one.permitted = one.permissive is None or code_of(one.permissive.result) == Truth.TRUE
        held_back = self._graced(one, now) and one.truth == Truth.UNKNOWN
        if held_back:
            # A PENDING that was running goes on counting; nothing else comes of what is unread.
            if one.state == InterlockState.PENDING and now.boot_ns - one.since_boot_ns >= d.delay:
                self.trip(one, TripReason.CAUSE, now, number)
            return
        acts = self._acts(one, now)
        clear = one.truth == Truth.FALSE and one.permitted
        match one.state:
            case InterlockState.NORMAL:
                if acts and d.delay == 0:
                    self.trip(one, TripReason.CAUSE, now, number)
                elif acts:
                    self._move(one, InterlockState.PENDING, "PENDING", now)
            case InterlockState.PENDING:
                if not acts:
                    self._move(one, InterlockState.NORMAL, "PENDING_END", now)
                elif now.boot_ns - one.since_boot_ns >= d.delay:
                    self.trip(one, TripReason.CAUSE, now, number)
            case InterlockState.READY_TO_RESET:
                if acts:
                    self.trip(one, TripReason.CAUSE, now, number)
                elif not clear:
                    self._move(one, InterlockState.TRIPPED, "NOT_READY", now)
            case _:
                if clear and now.boot_ns - one.trip_boot_ns >= d.min_trip:
                    if not one.armed or not (d.latch or one.needs_reset):
                        self._release(one, "RETURN", now)
                    else:
                        self._move(one, InterlockState.READY_TO_RESET, "READY", now)
        if d.on_bad == "ignore":
            self._blind(one, now)
        one.legs = one.legs_now()

    def _blind(self, one: Interlock, now: Now) -> None:
        """A condition that stays unknown where that does not trip is told of once."""
        if one.truth != Truth.UNKNOWN:
            one.blind = False
        elif not one.blind and now.mono_ns - (one.unknown_since_ns or now.mono_ns) >= BLIND_NS:
            one.blind = True
            self.record("CONDITION_BLIND", one.id)

    def _graced(self, one: Interlock, now: Now) -> bool:
        """The start grace runs until every input was read once, and to its end at most."""
        until = one.grace_until_ns
        if until is not None and (not one.cause.starting or now.mono_ns >= until):
            one.grace_until_ns = None
        one.starting = one.grace_until_ns is not None
        return one.starting

    def _acts(self, one: Interlock, now: Now) -> bool:
        """C: K after ``bad_for`` (the last known result), then ``on_bad``."""
        d = one.definition
        hold_ns = int(d.hold_max or 0) if d.on_bad == "hold" else 0
        ride_ns = int(d.bad_for) + hold_ns
        if one.truth != Truth.UNKNOWN:
            one.last_known = one.truth
            if one.unknown_since_ns is not None:
                if one.known_since_ns is None:
                    one.known_since_ns = now.mono_ns
                # A sensor that flickers does not extend its excuse for ever.
                if now.mono_ns - one.known_since_ns >= ride_ns:
                    one.unknown_since_ns = None
            return one.truth == Truth.TRUE
        one.known_since_ns = None
        if one.unknown_since_ns is None:
            one.unknown_since_ns = now.mono_ns
        unknown_ns = now.mono_ns - one.unknown_since_ns
        if one.last_known != Truth.UNKNOWN and unknown_ns < ride_ns:
            return one.last_known == Truth.TRUE
        return bool(d.on_bad != "ignore")

    # ---- transitions

    def trip(self, one: Interlock, reason: int, now: Now, number: int) -> None:
        """Any state -> TRIPPED under a new generation."""
        retrip = one.state == InterlockState.READY_TO_RESET
        if not one.holds:
            one.effects_from_ns = now.boot_ns  # what is commanded already stays so
        if not retrip:
            first, same = self._first_out(one, number)
            # What was first stays so, also through a second trip of its own.
            if first or not one.first_out:
                one.first_out, one.same_scan = first, same
        one.state = InterlockState.TRIPPED
        one.generation += 1
        one.reason = reason
        one.needs_reset |= reason != TripReason.CAUSE
        one.since_boot_ns = now.boot_ns
        one.trip_boot_ns = now.boot_ns
        one.demands += 1
        one.legs = one.legs_now()
        self.record(
            "TRIP",
            one.id,
            generation=one.generation,
            reason=int(reason),
            first_out=int(one.first_out),
            legs=one.legs,
            retrip=retrip,
            same_scan=one.same_scan,
            unarmed=not one.armed,
        )

    def _first_out(self, one: Interlock, number: int) -> tuple[bool, bool]:
        """(is the first of its group, tripped in the same scan as the first)."""
        group = one.definition.group
        if group is None:
            return True, False
        if group not in self.first_taken:
            self.first_taken[group] = number
            return True, False
        return False, self.first_taken[group] == number

    def _move(self, one: Interlock, state: int, record: str, now: Now) -> None:
        one.state = state
        one.since_boot_ns = now.boot_ns
        one.legs = one.legs_now()
        self.record(
            record,
            one.id,
            generation=one.generation,
            permissive=int(one.permitted),
            legs=one.legs,
            unarmed=not one.armed,
        )

    def _release(self, one: Interlock, record: str, now: Now, ledger_seq: int = 0) -> None:
        """-> NORMAL by RESET or RETURN."""
        one.state = InterlockState.NORMAL
        one.needs_reset = False
        one.reason = 0
        one.since_boot_ns = now.boot_ns
        self.record(
            record,
            one.id,
            generation=one.generation,
            ledger_seq=ledger_seq,
            under_bypass=0,
            unarmed=not one.armed,
        )
        if one.armed:
            self.releasable |= {name for name, _delay in one.outputs}
        self._clear_first_out(one)

    def _clear_first_out(self, one: Interlock) -> None:
        group = one.definition.group
        members = [one] if group is None else self._group(group)
        if any(each.holds for each in members):
            return
        self.first_taken.pop(group, None)
        for each in members:
            each.first_out = each.same_scan = False

    def _group(self, group: str) -> list[Interlock]:
        return [each for each in self.items if each.definition.group == group]

    # ---- commands

    def command_trip(self, one: Interlock, reason: int, now: Now, number: int) -> int:
        """TRIP by hand: acts in this scan."""
        if one.state == InterlockState.TRIPPED:
            return ResultCode.ALREADY
        self.trip(one, reason, now, number)
        return ResultCode.DONE

    def command_reset(
        self, one: Interlock, generation: int, ledger_seq: int, now: Now
    ) -> tuple[int, int]:
        """(result, detail: number of the leg that is true or unknown)."""
        if one.state == InterlockState.NORMAL:
            return ResultCode.ALREADY, 0
        if generation != one.generation:
            return ResultCode.WRONG_GENERATION, 0
        if one.state == InterlockState.PENDING:
            return ResultCode.CAUSE_PRESENT, 0
        clear = one.truth == Truth.FALSE and one.permitted
        if one.state == InterlockState.READY_TO_RESET and clear:
            self._release(one, "RESET", now, ledger_seq)
            return ResultCode.DONE, 0
        if one.truth == Truth.TRUE:
            return ResultCode.CAUSE_PRESENT, _leg_that_is(one.legs, Truth.TRUE)
        if one.truth == Truth.UNKNOWN or one.starting:
            return ResultCode.CAUSE_UNKNOWN, _leg_that_is(one.legs, Truth.UNKNOWN)
        if not one.permitted:
            return ResultCode.PERMISSIVE, 0
        return ResultCode.MINIMUM_TRIP_TIME, 0

    def forbids(self, output: str) -> int:
        """Why a RELEASE must wait: its causes are not all known false. 0: nothing."""
        why = 0
        for one in self._armed_on(output):
            if one.holds or one.truth == Truth.TRUE:
                return ResultCode.CAUSE_PRESENT
            ignored = one.definition.on_bad == "ignore" and not one.starting
            if one.truth == Truth.UNKNOWN and not ignored:
                why = ResultCode.CAUSE_UNKNOWN
        return why

    def _armed_on(self, output: str) -> Iterable[Interlock]:
        for one in self.items:
            if one.armed and any(name == output for name, _delay in one.outputs):
                yield one

    def demands(self, now: Now) -> dict[str, str]:
        """Outputs that an armed interlock holds, each with the first interlock that does."""
        found: dict[str, str] = {}
        for one in self.items:
            if not one.armed or not one.holds:
                continue
            for name, delay_ns in one.outputs:
                if now.boot_ns - one.effects_from_ns >= delay_ns:
                    found.setdefault(name, one.id)
        return found


def _leg_that_is(legs: tuple[int, ...], truth: int) -> int:
    return next((number for number, leg in enumerate(legs) if leg == truth), 0)
