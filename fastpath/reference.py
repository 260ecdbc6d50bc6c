"""The guard in plain Python: its definition for readers, and the oracle of its tests.

Never run on site. It evaluates the parsed conditions and the site's own tables, scan by scan, and
imports no compiled module. Conditions, interlocks and outputs are in ``reference_*``; here are the
tags, the order of a scan, commands, programs and lives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastpath.codes import BypassEnd, OutputState, Quality, Reason, ResultCode, TripReason
from fastpath.reference_bypasses import Bypasses
from fastpath.reference_conditions import Condition, Node, Reading, Start, shape_of, tags_of
from fastpath.reference_interlocks import Interlock, Interlocks, Now
from fastpath.reference_outputs import Output, Outputs

PAUSE_NS: Final = 1_000_000_000
GATEWAY_SILENT_NS: Final = 3_000_000_000
FUTURE_NS: Final = 1_000_000
COMMANDS_KEPT: Final = 64
ALIVE: Final = "sys.gateway.alive"
STRENGTHENING: Final = ("TRIP", "BYPASS_END")


@dataclass(frozen=True, slots=True)
class Plan:
    """A site: its tables (``gateway.site.model.Config``) and its conditions, parsed."""

    config: Any
    causes: Mapping[str, Node]
    permissives: Mapping[str, Node | None]
    legs: Mapping[str, tuple[Node, ...]]


@dataclass(frozen=True, slots=True)
class Command:
    """What the mailbox brings."""

    kind: str  # TRIP RESET RELEASE STOP BYPASS_START BYPASS_END
    ident: bytes
    target: str = ""
    generation: int = 0
    ledger_seq: int = 1
    not_after_ns: int = 0  # boottime, 0: never
    other_program: bool = False
    duration_ns: int = 0
    of_tag: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a command."""

    code: int
    generation: int = 0
    detail: int = 0


@dataclass(slots=True)
class Device:
    """What is known of a device's read connection."""

    up: bool = False
    heard_ns: int | None = None


@dataclass(slots=True)
class Event:
    """One journal record: its type, whose it is, and its fields."""

    type: str
    id: str
    fields: dict[str, Any]


class Reference:
    """One guard over its lives; ``events`` and ``results`` are emptied by whoever reads them."""

    def __init__(self, plan: Plan, now: Now) -> None:
        self.plan = plan
        self.events: list[Event] = []
        self.results: dict[bytes, Result] = {}
        self.readings: dict[str, Reading] = {}
        self.devices: dict[str, Device] = {}
        self.interlocks = Interlocks([], self._record)
        self.outputs = Outputs({}, self._record, self.readings)
        self.bypasses = Bypasses(self.interlocks, self._record, self.readings)
        self.scans = 0
        self._known: dict[bytes, Result] = {}
        self._queue: list[Command] = []
        self._told: dict[str, tuple[int, int]] = {}
        self._gateway = False
        self._gateway_heard_ns = 0
        self._started_ns = now.mono_ns
        self._aged_ns = 0
        self._last_boot_ns = 0
        self._install(plan, now)
        self._begin_process(now)

    def _record(self, kind: str, ident: str, /, **fields: Any) -> None:
        self.events.append(Event(kind, ident, fields))

    # ---- what comes in

    def poll(self, tag: str, value: float, quality: int, reason: int, now: Now) -> None:
        """A reading of the guard's own."""
        self._store(tag, value, quality, reason, now.mono_ns)

    def sample(
        self, tag: str, value: float, quality: int, reason: int, mono_ns: int, now: Now
    ) -> None:
        """A value of the gateway: its own tags alone, not of the future, newer than the last."""
        self._gateway_heard_ns = now.mono_ns
        if self._is_fast(tag) or not 0 < mono_ns <= now.mono_ns + FUTURE_NS:
            return
        if mono_ns > self.readings[tag].mono_ns:
            self._store(tag, value, quality, reason, mono_ns)

    def gateway(self, *, present: bool) -> None:
        """The gateway's session begins or ends."""
        if present != self._gateway:
            self._record("GATEWAY_UP" if present else "GATEWAY_DOWN", "")
        self._gateway = present

    def device(self, ident: str, *, up: bool) -> None:
        """A device's read connection begins or ends."""
        self.devices[ident].up = up

    def heard(self, ident: str, now: Now) -> None:
        """A good exchange with a device."""
        self.devices[ident].heard_ns = now.mono_ns

    def command(self, command: Command) -> None:
        """For the next scan."""
        self._queue.append(command)

    def _store(self, tag: str, value: float, quality: int, reason: int, mono_ns: int) -> None:
        reading = self.readings[tag]
        reading.value, reading.quality, reading.reason = value, quality, reason
        reading.mono_ns = mono_ns
        self.interlocks.take(tag, mono_ns, value if reading.good() else None)
        self._tell(tag)

    def _tell(self, tag: str) -> None:
        """A record where the quality of an interlock's tag changed."""
        reading = self.readings[tag]
        present = (int(reading.quality), int(reading.reason))
        if present != self._told.get(tag, (Quality.BAD, Reason.NEVER_READ)):
            if tag in self._in_interlocks():
                self._record("TAG_QUALITY", tag, quality=present[0], reason=present[1])
            self._told[tag] = present

    def _in_interlocks(self) -> set[str]:
        return {tag for tree in _trees(self.plan) for tag in tags_of(tree)}

    def _is_fast(self, tag: str) -> bool:
        device = self._tag_device(tag)
        return device is not None and bool(device.fast)

    def _tag_device(self, tag: str) -> Any | None:
        definition = next((each for each in self.plan.config.tag if each.id == tag), None)
        if definition is None:
            return None
        return next(each for each in self.plan.config.device if each.id == definition.device)

    # ---- one scan

    def scan(self, now: Now) -> None:
        """Strengthening commands, evaluation, transitions, weakening commands, outputs."""
        self.scans += 1
        self._pause(now)
        if now.mono_ns - self._aged_ns >= self.plan.config.site.tick:
            self._aged_ns = now.mono_ns
            self._age(now, everything=False)
        self._system_tags(now)
        self.bypasses.scan(now)
        self._run_commands(now, strengthening=True)
        start = Start(now.mono_ns - self._started_ns, self._within_ns())
        self.interlocks.evaluate(self.readings, now, start)
        self.interlocks.scan(now, self.scans)
        self._run_commands(now, strengthening=False)
        self._queue.clear()
        self.outputs.scan(self.interlocks.demands(now), self.interlocks.releasable, now)
        self._last_boot_ns = now.boot_ns

    def _pause(self, now: Now) -> None:
        """After a suspend every input is stale first, then decided."""
        gap_ns = now.boot_ns - self._last_boot_ns
        if self._last_boot_ns and gap_ns >= PAUSE_NS + self.plan.config.site.tick:
            self._record("PAUSE", "", gap_ns=gap_ns)
            self._age(now, everything=True)
            self._aged_ns = now.mono_ns

    def _age(self, now: Now, *, everything: bool) -> None:
        """What is too old becomes BAD; its age stays, so that a late reading is still newer."""
        for tag, reading in self.readings.items():
            if tag.startswith("sys.") or reading.mono_ns == 0:
                continue
            old = reading.stale_after_ns and now.mono_ns - reading.mono_ns > reading.stale_after_ns
            if not everything and not old:
                continue
            device = self._tag_device(tag)
            up = device is not None and device.fast and self.devices[device.id].up
            bad = reading.quality == Quality.BAD
            if bad and reading.reason in (Reason.STALE, Reason.COMM_FAILURE):
                continue
            if bad and reading.reason == Reason.DEVICE_FAILURE and up:
                continue  # a refused register is asked for rarely: its reason says more
            if everything:  # a pause ends what windows hold
                self.interlocks.take(tag, now.mono_ns, None)
            away = device is not None and device.fast and not up
            reading.quality = Quality.BAD
            reading.reason = Reason.COMM_FAILURE if away else Reason.STALE
            self._tell(tag)

    def _system_tags(self, now: Now) -> None:
        starting = now.mono_ns - self._started_ns < self.plan.config.site.start_within
        for tag, reading in self.readings.items():
            if not tag.startswith("sys."):
                continue
            heard_ns, within_ns, there = self._heard(tag)
            if starting and heard_ns is None:
                continue
            on = there and heard_ns is not None and now.mono_ns - heard_ns <= within_ns
            if reading.quality != Quality.GOOD or (reading.value != 0) != on:
                reading.value, reading.quality, reading.reason = float(on), Quality.GOOD, 0
                reading.mono_ns = now.mono_ns

    def _heard(self, tag: str) -> tuple[int | None, int, bool]:
        """(when it was heard of last, for how long that counts, may it count at all)."""
        if tag == ALIVE:
            return self._gateway_heard_ns or None, GATEWAY_SILENT_NS, self._gateway
        ident = tag.removeprefix("sys.").removesuffix(".connected")
        device = next(each for each in self.plan.config.device if each.id == ident)
        within_ns = 3 * int(device.poll) + int(device.timeout)
        return self.devices[ident].heard_ns, within_ns, True

    # ---- commands

    def _run_commands(self, now: Now, *, strengthening: bool) -> None:
        for command in self._queue:
            if (command.kind in STRENGTHENING) != strengthening:
                continue
            if command.ident in self._known:  # the same id again: the same result, no action
                self.results[command.ident] = self._known[command.ident]
                continue
            if command.kind == "TRIP":
                result: Result | None = self._trip(command, now)
            elif command.kind == "BYPASS_END":
                result = self._bypass(command, now)
            else:
                result = self._weaken(command, now)
            if result is not None:
                self._answer(command, result)

    def answer(self, command: Command, code: int) -> None:
        """What came of a LOAD."""
        self._answer(command, Result(code))

    def _answer(self, command: Command, result: Result) -> None:
        self.results[command.ident] = self._known[command.ident] = result
        if len(self._known) > COMMANDS_KEPT:
            del self._known[next(iter(self._known))]
        if result.code != ResultCode.DONE:
            target = command.target
            self._record(
                "COMMAND", target, kind=command.kind, code=int(result.code), detail=result.detail
            )

    def _trip(self, command: Command, now: Now) -> Result:
        one = self.interlocks.find(command.target)
        if one is None:
            return Result(ResultCode.UNKNOWN_KEY)
        code = self.interlocks.command_trip(one, TripReason.MANUAL, now, self.scans)
        return Result(code, one.generation, 0 if one.armed else 65536)

    def _weaken(self, command: Command, now: Now) -> Result | None:
        """Durable in the ledger, not too old, for this program."""
        if command.ledger_seq == 0:
            return Result(ResultCode.NOT_ALLOWED)
        if command.not_after_ns and now.boot_ns > command.not_after_ns:
            return Result(ResultCode.EXPIRED)
        if command.other_program:
            return Result(ResultCode.WRONG_PROGRAM)
        if command.kind == "STOP":
            self.outputs.stopping = self.plan.config.site.on_stop == "trip"
            return None
        if command.kind == "LOAD":
            return None  # answered when it is done
        if command.kind == "BYPASS_START":
            return self._bypass(command, now)
        if command.kind == "RESET":
            one = self.interlocks.find(command.target)
            if one is None:
                return Result(ResultCode.UNKNOWN_KEY)
            code, detail = self.interlocks.command_reset(
                one, command.generation, command.ledger_seq, now
            )
            return Result(code, one.generation, detail)
        output = self.outputs.items.get(command.target)
        if output is None:
            return Result(ResultCode.UNKNOWN_KEY)
        code = self.outputs.command_release(output, self.interlocks.forbids(output.id), now)
        return Result(code, output.generation)

    def _bypass(self, command: Command, now: Now) -> Result:
        """Begin or end of a bypass."""
        target, seq, start = command.target, command.ledger_seq, command.kind == "BYPASS_START"
        if command.of_tag:
            if target not in self.readings:
                return Result(ResultCode.UNKNOWN_KEY)
            if start:
                return Result(self.bypasses.start_tag(target, command.duration_ns, seq, now))
            return Result(self.bypasses.end_tag(target, BypassEnd.COMMAND, now, seq))
        one = self.interlocks.find(target)
        if one is None:
            return Result(ResultCode.UNKNOWN_KEY)
        if start:
            code = self.bypasses.start(one, command.duration_ns, seq, now)
        else:
            code = self.interlocks.end_bypass(one, BypassEnd.COMMAND, now, seq)
        return Result(code, one.generation)

    # ---- programs

    def swap(self, plan: Plan, now: Now) -> bool:
        """Another program at a scan's border; False where it would make a trip vanish."""
        if not self._may_swap(plan, now):
            return False
        before = {each.id: each for each in self.interlocks.items}
        outputs = dict(self.outputs.items)
        read_before = dict(self.readings)
        self._install(plan, now)
        renewed = any(read_before.get(tag) is not self.readings[tag] for tag in self.readings)
        kept = 0
        for place, one in enumerate(self.interlocks.items):
            old = before.get(one.id)
            if old is not None:
                kept += old.fingerprint == one.fingerprint
                kept_one = _carried(old, one)
                # What is new is waited for, and what was not read yet is waited for anew.
                kept_one.graced = renewed or kept_one.graced
                self.interlocks.items[place] = kept_one
        for name in self.outputs.items:
            if name in outputs:
                outputs[name].definition = self.outputs.items[name].definition
                outputs[name].readback = self.outputs.items[name].readback
                outputs[name].in_flight = False
                self.outputs.items[name] = outputs[name]
        self.interlocks.regroup()
        changed = len(self.interlocks.items) - kept
        self._record("PROGRAM", "", kept=kept, changed=changed)
        self.bypasses.rebind(now)
        return True

    def _may_swap(self, plan: Plan, now: Now) -> bool:
        """Nothing that is tripped, to be reset or demanded would be gone with the old program."""
        stay = {each.id for each in plan.config.output}
        quiet = (OutputState.RELEASED, OutputState.HELD)
        if not set(self.bypasses.tags) <= set(_held_tags(plan)):
            return False
        return all(_stays(each, plan, now) for each in self.interlocks.items) and not any(
            each.demanded or each.state not in quiet
            for each in self.outputs.items.values()
            if each.id not in stay
        )

    def _install(self, plan: Plan, now: Now) -> None:
        """The tables of a program, everything as at a first start; equal tags keep their values."""
        before, told = dict(self.readings), dict(self._told)
        old = {tag: self._definition_of(tag) for tag in before}
        self.plan = plan
        self.readings.clear()
        self._told.clear()
        for tag in _held_tags(plan):
            self.readings[tag] = self._fresh_reading(tag)
            if tag in before and old.get(tag) == self._definition_of(tag):
                self.readings[tag] = before[tag]
                self._told[tag] = told.get(tag, (Quality.BAD, Reason.NEVER_READ))
        self.devices = {each.id: self.devices.get(each.id, Device()) for each in plan.config.device}
        self._started_ns = now.mono_ns
        self.bypasses.groups = {each.id: each for each in plan.config.group}
        self.interlocks.items = [self._fresh(each, now) for each in plan.config.interlock]
        self.outputs.items = {
            each.id: Output(each, _readback(each), first_hold=True, entered_ns=now.mono_ns)
            for each in plan.config.output
        }

    def _definition_of(self, tag: str) -> tuple[Any, Any]:
        definition = next((each for each in self.plan.config.tag if each.id == tag), None)
        return definition, self._tag_device(tag)

    def _fresh_reading(self, tag: str) -> Reading:
        definition, _device = self._definition_of(tag)
        if definition is None:
            return Reading()
        return Reading(
            stale_after_ns=int(definition.stale_after or 0),
            uncertain_use=definition.uncertain == "use",
            ends=definition.range,
        )

    def _fresh(self, definition: Any, now: Now) -> Interlock:
        cause = self.plan.causes[definition.id]
        permissive = self.plan.permissives[definition.id]
        trips = definition.bypass_votes == "trip"
        one = Interlock(
            definition,
            Condition(cause, trips),
            None if permissive is None else Condition(permissive),  # a bypass permits nothing
            self.plan.legs[definition.id],
            self._fingerprint(definition),
            since_boot_ns=now.boot_ns,
        )
        one.legs = (0,) * len(one.leg_nodes)
        return one

    def _fingerprint(self, definition: Any) -> object:
        """Condition, parameters but for the effects, and the definitions of the tags."""
        cause, permissive = self.plan.causes[definition.id], self.plan.permissives[definition.id]
        trees = [cause] if permissive is None else [cause, permissive]
        tags = sorted(set().union(*map(tags_of, trees)))
        d = definition
        numbers = (d.delay, d.bad_for, d.min_trip, d.hold_max, d.bypass_max, d.response)
        words = (d.armed, d.group, d.latch, d.on_bad, d.no_bypass, d.bypass_votes)
        return (
            [shape_of(each) for each in trees],
            [None if each is None else int(each) for each in numbers],
            words,
            [self._definition_of(tag) for tag in tags],
        )

    def _within_ns(self) -> int:
        return int(self.plan.config.site.start_within)

    # ---- lives

    def restart(self, now: Now) -> None:
        """After a kill -9: latches and node memory stay, everything else begins anew. No record."""
        self._begin_process(now)
        self.bypasses.rebind(now)
        for one in self.interlocks.items:
            one.forget()
        for output in self.outputs.items.values():
            self.outputs.restart(output, now, power_loss=False)
        self.interlocks.regroup()

    def lose_power(self, now: Now) -> None:
        """Another boot, nothing kept: every armed, latching interlock starts TRIPPED."""
        self.bypasses.tags.clear()
        self._install(self.plan, now)
        self._begin_process(now)
        self._known.clear()
        for output in self.outputs.items.values():
            output.first_hold = False
        self.interlocks.regroup()
        for one in self.interlocks.items:
            self._lose_memory(one)
            if one.armed and one.definition.latch:
                self.interlocks.trip(one, TripReason.POWER_LOSS, now, self.scans)
        self.outputs.tell_held(self.interlocks.demands(now))

    def reboot(self, before: Now, now: Now) -> None:
        """A clean stop and another boot: latches are kept, node memory and tags' bypasses not."""
        self.bypasses.tags.clear()
        self._begin_process(now)
        self._known.clear()
        for one in self.interlocks.items:
            one.since_boot_ns = now.boot_ns + min(one.since_boot_ns - before.boot_ns, 0)
            one.trip_boot_ns = now.boot_ns + min(one.trip_boot_ns - before.boot_ns, 0)
            one.effects_from_ns = now.boot_ns + min(one.effects_from_ns - before.boot_ns, 0)
            if one.bypass is not None:  # what was left of it is left
                one.bypass.from_ns = now.boot_ns + min(one.bypass.from_ns - before.boot_ns, 0)
                one.bypass.until_ns = now.boot_ns + max(one.bypass.until_ns - before.boot_ns, 0)
            one.forget()
            self._lose_memory(one)
        for output in self.outputs.items.values():
            self.outputs.restart(output, now, power_loss=False)
        self.interlocks.regroup()

    def _lose_memory(self, one: Interlock) -> None:
        for condition in one.conditions:
            condition.lose()
            condition.empty()

    def _begin_process(self, now: Now) -> None:
        """What every new process begins with."""
        for tag in self.readings:
            self.readings[tag] = self._fresh_reading(tag)
        self._told.clear()
        self.devices = {each.id: Device() for each in self.plan.config.device}
        self._queue.clear()
        self._gateway = False
        self._gateway_heard_ns = 0
        self._started_ns = now.mono_ns
        self._aged_ns = 0
        self._last_boot_ns = 0
        self.interlocks.releasable.clear()
        self.outputs.stopping = False
        self.outputs.demands = {}
        for one in self.interlocks.items:
            for condition in one.conditions:
                condition.truths.clear()
                condition.restart()


def _trees(plan: Plan) -> list[Node]:
    found = [*plan.causes.values(), *plan.permissives.values()]
    return [each for each in found if each is not None]


def _held_tags(plan: Plan) -> list[str]:
    """The tags of the guard's own devices, and those that it is fed because it reads them."""
    fast = {each.id for each in plan.config.device if each.fast}
    read = {tag for each in _trees(plan) for tag in tags_of(each)}
    read |= {found[0] for each in plan.config.output if (found := _readback(each)) is not None}
    known = [each.id for each in plan.config.tag if each.device in fast or each.id in read]
    return known + sorted(tag for tag in read if tag.startswith("sys."))


def _stays(one: Interlock, plan: Plan, now: Now) -> bool:
    """An interlock that holds is in the new program, armed as before, with what it has tripped."""
    if not one.latched and one.bypass is None:
        return True
    new = next((each for each in plan.config.interlock if each.id == one.id), None)
    if new is None:
        return False
    if not one.armed:
        return True
    passed_ns = now.boot_ns - one.effects_from_ns
    wanted = {name for name, delay_ns in one.outputs if one.holds and passed_ns >= delay_ns}
    return bool(new.armed) and wanted <= {
        each.output for each in new.effects if passed_ns >= each.delay
    }


def _carried(old: Interlock, new: Interlock) -> Interlock:
    """The same key in another program: the state stays; memory only where nothing changed."""
    keep = ["state", "generation", "reason", "since_boot_ns", "trip_boot_ns", "first_out"]
    keep += ["same_scan", "starting", "demands", "legs", "effects_from_ns", "needs_reset"]
    keep += ["bypass", "withheld", "withheld_demands"]
    if old.fingerprint == new.fingerprint:
        old.definition = new.definition
        for condition in old.conditions:
            condition.truths.clear()  # known again at the next evaluation
        return old
    for name in keep:
        setattr(new, name, getattr(old, name))
    count = len(new.leg_nodes)  # as they were shown, until they are evaluated
    new.legs = (*old.legs, *(0,) * count)[:count]
    if old.latched:
        for condition in new.conditions:
            condition.lose()
    new.forget()
    return new


def _readback(output: Any) -> tuple[str, bool] | None:
    if output.readback is None:
        return None
    text = str(output.readback)
    return text.removeprefix("not ").strip(), text.startswith("not ")
