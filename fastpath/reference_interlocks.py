"""Interlocks in plain Python: the state table and the bypass overlay, one row after the other.

Part of the reference (``reference``): written for reading, never run on site. A definition is a
``gateway.site.model.Interlock``. Delays, minimum times and bypasses run by boottime, the
ride-through of bad inputs by the monotonic clock.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastpath.codes import (
    BypassEnd,
    BypassKind,
    InterlockState,
    ResultCode,
    TripReason,
    Truth,
)
from fastpath.reference_conditions import Condition, Node, Reading, Start, code_of, tags_of

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
class Bypass:
    """Of an interlock or a tag, by boottime."""

    from_ns: int
    until_ns: int
    told: bool = False  # its end was announced


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
    withheld_demands: int = 0
    bypass: Bypass | None = None
    withheld: bool = False  # a bypass keeps its effects back
    legs: tuple[int, ...] = ()
    # Lost with the process.
    unknown_since_ns: int | None = None
    known_since_ns: int | None = None
    graced: bool = True
    last_known: int = Truth.UNKNOWN
    truth: int = Truth.UNKNOWN
    permitted: bool = False
    ended: str = ""  # its bypass in this scan: "quiet", or "lasted" where it withheld a demand
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
    def latched(self) -> bool:
        """TRIPPED or READY_TO_RESET, or shown so under a bypass."""
        return self.state in HELD

    @property
    def holds(self) -> bool:
        """TRIPPED or READY_TO_RESET, and not withheld."""
        return self.latched and not self.withheld

    @property
    def outputs(self) -> list[tuple[str, int]]:
        """(output, delay ns) of each effect."""
        return [(str(each.output), int(each.delay)) for each in self.definition.effects]

    def legs_now(self) -> tuple[int, ...]:
        """Truth of each leg at the newest evaluation."""
        return tuple(self.cause.leg(node) for node in self.leg_nodes)

    @property
    def conditions(self) -> list[Condition]:
        """Its cause, and its permissive where there is one."""
        return [self.cause] if self.permissive is None else [self.cause, self.permissive]

    @property
    def inputs(self) -> set[str]:
        """The tags that they read."""
        return set().union(*(tags_of(each.tree) for each in self.conditions))

    def lose(self, now: Now) -> None:
        """Its latch is damaged: nothing is left of it but how often it tripped."""
        fresh = Interlock(
            self.definition, self.cause, self.permissive, self.leg_nodes, self.fingerprint,
            generation=self.generation, demands=self.demands, since_boot_ns=now.boot_ns,
        )  # fmt: skip
        for name in Interlock.__slots__:
            setattr(self, name, getattr(fresh, name))

    def forget(self) -> None:
        """A new process, or a new definition: nothing is known yet, and grace is given."""
        self.unknown_since_ns = None
        self.known_since_ns = None
        self.last_known = Truth.UNKNOWN
        self.truth = Truth.UNKNOWN
        self.permitted = False
        self.blind = False
        self.ended = ""
        self.graced = True


@dataclass(slots=True)
class Wanted:
    """What the interlocks ask of the outputs, in one scan."""

    demanded: set[str] = field(default_factory=set)
    awaited: set[str] = field(default_factory=set)  # an effect's delay still runs
    releasable: set[str] = field(default_factory=set)  # let go by a reset or a return
    trips: Callable[[str], dict[str, int]] = lambda _output: {}  # generations of what names it


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

    def take(self, tag: str, at_ns: int, value: float | None) -> None:
        """A sample of a tag, None where it is bad."""
        for each in self.items:
            for condition in each.conditions:
                condition.take(tag, at_ns, value)

    def evaluate(self, tags: Mapping[str, Reading], now: Now, start: Start) -> None:
        """All conditions, before any transition."""
        for each in self.items:
            for condition in each.conditions:
                condition.evaluate(tags, now.mono_ns, start)

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
        held_back = self._graced(one) and one.truth == Truth.UNKNOWN
        if held_back:
            # A PENDING that was running goes on counting; nothing else comes of what is unread.
            if one.state == InterlockState.PENDING and now.boot_ns - one.since_boot_ns >= d.delay:
                self._demanded(one, now, number)
            if one.ended != "lasted":  # that acts as soon as anything is known
                one.ended = ""
            return
        acts = self._acts(one, now)
        if one.state == InterlockState.NORMAL:
            if acts and (d.delay == 0 or one.ended == "lasted"):
                self._demanded(one, now, number)
            elif acts:
                self._move(one, InterlockState.PENDING, "PENDING", now)
        elif one.state == InterlockState.PENDING:
            if not acts:
                self._move(one, InterlockState.NORMAL, "PENDING_END", now)
            elif now.boot_ns - one.since_boot_ns >= d.delay:
                self._demanded(one, now, number)
        elif one.withheld:
            if not acts:
                self._withheld_over(one, now)
        else:
            self._tripped(one, now, number, acts=acts)
        one.ended = ""
        if d.on_bad == "ignore":
            self._blind(one, now)
        one.legs = one.legs_now()

    def _tripped(self, one: Interlock, now: Now, number: int, *, acts: bool) -> None:
        """TRIPPED or READY_TO_RESET, and not withheld."""
        d = one.definition
        clear = one.truth == Truth.FALSE and one.permitted
        ready = one.state == InterlockState.READY_TO_RESET
        if acts and (ready or one.ended):
            self._demanded(one, now, number)
        elif ready and not clear:
            self._move(one, InterlockState.TRIPPED, "NOT_READY", now)
        elif not ready and clear and now.boot_ns - one.trip_boot_ns >= d.min_trip:
            if not one.armed or not (d.latch or one.needs_reset):
                self._release(one, "RETURN", now)
            else:
                self._move(one, InterlockState.READY_TO_RESET, "READY", now)

    def _demanded(self, one: Interlock, now: Now, number: int) -> None:
        """C, for as long as it must be: a trip, or under a bypass what would have been one."""
        if not one.withheld:
            reason = TripReason.BYPASS_END if one.ended else TripReason.CAUSE
            self.trip(one, reason, now, number)
            return
        one.state = InterlockState.TRIPPED
        one.reason = TripReason.CAUSE
        one.since_boot_ns = now.boot_ns
        one.withheld_demands += 1
        one.legs = one.legs_now()
        self._record_trip(one, first_out=False, retrip=False, same_scan=False)

    def _withheld_over(self, one: Interlock, now: Now) -> None:
        """What would have been a trip is over: under a bypass there is no latch."""
        one.state = InterlockState.NORMAL
        one.reason = 0
        one.since_boot_ns = now.boot_ns
        self._record_release(one, "RETURN", 0, under_bypass=True)

    def _blind(self, one: Interlock, now: Now) -> None:
        """A condition that stays unknown where that does not trip is told of once."""
        if one.truth != Truth.UNKNOWN:
            one.blind = False
        elif not one.blind and now.mono_ns - (one.unknown_since_ns or now.mono_ns) >= BLIND_NS:
            one.blind = True
            self.record("CONDITION_BLIND", one.id)

    def _graced(self, one: Interlock) -> bool:
        """The start grace runs until every input was read once, and to its end at most."""
        one.graced = one.graced and one.cause.starting
        one.starting = one.graced
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
        retrip = one.holds
        one.withheld = False
        if not retrip:
            one.effects_from_ns = now.boot_ns  # what is commanded already stays so
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
        one.ended = ""
        self._record_trip(one, first_out=one.first_out, retrip=retrip, same_scan=one.same_scan)

    def _record_trip(
        self, one: Interlock, *, first_out: bool, retrip: bool, same_scan: bool
    ) -> None:
        self.record(
            "TRIP",
            one.id,
            generation=one.generation,
            reason=int(one.reason),
            first_out=int(first_out),
            legs=one.legs,
            retrip=retrip,
            same_scan=same_scan,
            unarmed=not one.armed,
            withheld=one.withheld,
        )

    def _record_release(
        self, one: Interlock, record: str, ledger_seq: int, *, under_bypass: bool
    ) -> None:
        self.record(
            record,
            one.id,
            generation=one.generation,
            ledger_seq=ledger_seq,
            under_bypass=int(under_bypass),
            unarmed=not one.armed,
            withheld=one.withheld,
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
            withheld=one.withheld,
        )

    def _release(self, one: Interlock, record: str, now: Now, ledger_seq: int = 0) -> None:
        """-> NORMAL by RESET or RETURN."""
        one.state = InterlockState.NORMAL
        one.needs_reset = False
        one.reason = 0
        one.since_boot_ns = now.boot_ns
        self._record_release(one, record, ledger_seq, under_bypass=one.bypass is not None)
        one.withheld = one.bypass is not None
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
        if one.state == InterlockState.TRIPPED and not one.withheld:
            one.needs_reset = True
            return ResultCode.ALREADY
        self.end_bypass(one, BypassEnd.TRIP, now)
        self.trip(one, reason, now, number)
        return ResultCode.DONE

    def command_reset(
        self, one: Interlock, generation: int, ledger_seq: int, now: Now
    ) -> tuple[int, int]:
        """(result, detail: number of the leg that is true or unknown)."""
        pending = one.state == InterlockState.PENDING
        if one.state == InterlockState.NORMAL or (one.withheld and not pending):
            return ResultCode.ALREADY, 0
        if generation != one.generation:
            return ResultCode.WRONG_GENERATION, 0
        if pending:
            return ResultCode.CAUSE_PRESENT, 0
        if one.bypass is not None:  # begun on a trip: its outputs go free, its cause may be there
            if not one.permitted:
                return ResultCode.PERMISSIVE, 0
            self._release(one, "RESET", now, ledger_seq)
            return ResultCode.DONE, 0
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

    def end_bypass(self, one: Interlock, cause: int, now: Now, ledger_seq: int = 0) -> int:
        """Off; what it withheld acts in the evaluation that follows."""
        bypass = one.bypass
        if bypass is None:
            return ResultCode.ALREADY
        one.ended = "quiet"
        if one.withheld and one.state == InterlockState.TRIPPED:
            one.ended = "lasted"
            one.state = InterlockState.NORMAL
            one.reason = 0
            one.since_boot_ns = now.boot_ns
        one.bypass = None
        one.withheld = False
        self.record_bypass("BYPASS_END", one, bypass, now, cause=cause, ledger_seq=ledger_seq)
        return ResultCode.DONE

    def record_bypass(
        self,
        kind: str,
        one: Interlock,
        bypass: Bypass,
        now: Now,
        *,
        cause: int = 0,
        ledger_seq: int = 0,
    ) -> None:
        """BYPASS, BYPASS_ENDING or BYPASS_END of an interlock."""
        self.record(
            kind,
            one.id,
            kind=int(BypassKind.INTERLOCK),
            cause=int(cause),
            until_ns=bypass.until_ns,
            left_ns=bypass.until_ns - now.boot_ns,
            ledger_seq=ledger_seq,
            withheld=one.withheld,
            unarmed=not one.armed,
        )

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
            if (
                one.armed
                and not one.withheld
                and any(name == output for name, _delay in one.outputs)
            ):
                yield one

    def wanted(self, now: Now) -> Wanted:
        """What is asked of the outputs.

        One whose effect's delay still runs is not commanded, and not let go either.
        """
        found = Wanted(releasable=self.releasable, trips=self.generations)
        for one in self.items:
            if one.armed and one.holds:
                for name, delay_ns in one.outputs:
                    runs = now.boot_ns - one.effects_from_ns < delay_ns
                    (found.awaited if runs else found.demanded).add(name)
        return found

    def generations(self, output: str, *, before: Now | None = None) -> dict[str, int]:
        """How often each armed interlock that names an output has tripped; before this scan."""
        return {
            one.id: one.generation
            - bool(before is not None and one.generation and one.trip_boot_ns >= before.boot_ns)
            for one in self.items
            if one.armed and any(name == output for name, _delay in one.outputs)
        }


def _leg_that_is(legs: tuple[int, ...], truth: int) -> int:
    return next((number for number, leg in enumerate(legs) if leg == truth), 0)
