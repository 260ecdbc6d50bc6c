"""The guard in plain Python: its definition for readers, and the oracle of its tests.

Never run on site. It evaluates the parsed conditions and the site's own tables, scan by scan, and
imports no compiled module. Tags, conditions, interlocks, bypasses, outputs and commands are in
``reference_*``; here are the order of a scan, programs and lives.
"""

from dataclasses import dataclass
from typing import Any, Final

from fastpath import reference_wire as wire
from fastpath.codes import BypassKind, TripReason
from fastpath.reference_bypasses import Bypasses
from fastpath.reference_commands import Command, Commands, Result
from fastpath.reference_conditions import Condition, Start
from fastpath.reference_interlocks import Interlock, Interlocks, Now
from fastpath.reference_outputs import Outputs
from fastpath.reference_plan import Plan, readback_of
from fastpath.reference_programs import carried, interlock_stays, outputs_stay
from fastpath.reference_tags import Tags

PAUSE_NS: Final = 1_000_000_000


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
        self.interlocks = Interlocks([], self._record)
        self.tags = Tags(plan, self._record, self.interlocks.take)
        self.outputs = Outputs({}, self._record, self.tags.readings)
        self.bypasses = Bypasses(self.interlocks, self._record, self.tags.readings)
        self.commands = Commands(
            self.interlocks, self.outputs, self.bypasses, self.tags.readings, self._record
        )
        self.scans = 0
        self._last_boot_ns = 0
        self._install(plan, now)
        self._begin_process(now)

    def _record(self, kind: str, ident: str, /, **fields: Any) -> None:
        self.events.append(Event(kind, ident, fields))

    # ---- what comes in

    def poll(self, tag: str, value: float, quality: int, reason: int, now: Now) -> None:
        """A reading of the guard's own."""
        self.tags.store(tag, value, quality, reason, now.mono_ns)

    def gateway(self, *, present: bool) -> None:
        """The gateway's session begins or ends."""
        if present != self.tags.gateway:
            self._record("GATEWAY_UP" if present else "GATEWAY_DOWN", "")
        self.tags.gateway = present

    def device(self, ident: str, *, up: bool) -> None:
        """A device's read connection begins or ends."""
        self.tags.devices[ident].up = up

    def heard(self, ident: str, now: Now) -> None:
        """A good exchange with a device."""
        self.tags.devices[ident].heard_ns = now.mono_ns

    def sample(
        self, tag: str, value: float, quality: int, reason: int, mono_ns: int, now: Now
    ) -> None:
        """A value of the gateway."""
        self.tags.sample(tag, value, quality, reason, mono_ns, now)

    def sent(self, output: str, now: Now) -> None:
        """What is wished for is on the wire."""
        wire.sent(self.outputs.items[output], now)

    def replied(self, output: str, *, refused: bool) -> None:
        """The device's own reply to an outstanding write."""
        wire.replied(self.outputs.items[output], refused=refused)

    def expired(self, output: str) -> None:
        """No reply to it in its time."""
        wire.expired(self.outputs.items[output])

    def output_result(self, output: str, generation: int, code: int, now: Now) -> None:
        """The gateway's word of a write of its own."""
        self.tags.gateway_heard_ns = now.mono_ns
        if output in self.outputs.items:
            wire.result(self.outputs.items[output], generation, code)

    def command(self, command: Command) -> None:
        """For the next scan."""
        self.commands.queue.append(command)

    def answer(self, command: Command, code: int) -> None:
        """What came of a LOAD."""
        self.commands.answer(command, Result(code))

    @property
    def results(self) -> dict[bytes, Result]:
        """What came of commands, by their ids."""
        return self.commands.results

    # ---- one scan

    def scan(self, now: Now) -> None:
        """Strengthening commands, evaluation, transitions, weakening commands, outputs."""
        site = self.plan.config.site
        self.scans += 1
        self.tags.scan(now, site.tick, site.start_within, paused=self._pause(now))
        self.bypasses.scan(now)
        self.commands.run(now, self.scans, strengthening=True)
        start = Start(now.mono_ns - self.tags.started_ns, int(site.start_within))
        self.interlocks.evaluate(self.tags.readings, now, start)
        self.interlocks.scan(now, self.scans)
        self.commands.run(now, self.scans, strengthening=False)
        self.commands.queue.clear()
        alive = self.tags.gateway_alive(now)
        self.outputs.scan(self.interlocks.wanted(now), now, gateway=alive)
        self._last_boot_ns = now.boot_ns

    def _pause(self, now: Now) -> bool:
        """The guard did not run for long: a suspend, or this process was stopped."""
        gap_ns = now.boot_ns - self._last_boot_ns
        if not self._last_boot_ns or gap_ns < PAUSE_NS + self.plan.config.site.tick:
            return False
        self._record("PAUSE", "", gap_ns=gap_ns)
        return True

    # ---- programs

    def swap(self, plan: Plan, now: Now) -> bool:
        """Another program at a scan's border; False where it would make a trip vanish."""
        if not self._may_swap(plan, now):
            return False
        before = {each.id: each for each in self.interlocks.items}
        read_before = dict(self.tags.readings)
        self._install(plan, now)
        readings = self.tags.readings
        renewed = {tag for tag in readings if read_before.get(tag) is not readings[tag]}
        kept = 0
        for place, one in enumerate(self.interlocks.items):
            old = before.get(one.id)
            if old is not None:
                kept += old.fingerprint == one.fingerprint
                kept_one = carried(old, one)
                # What is new is waited for by those that read it.
                kept_one.graced |= not renewed.isdisjoint(kept_one.inputs)
                self.interlocks.items[place] = kept_one
        self.interlocks.regroup()
        changed = len(self.interlocks.items) - kept
        self._record("PROGRAM", "", kept=kept, changed=changed)
        self.bypasses.rebind(now)
        return True

    def _may_swap(self, plan: Plan, now: Now) -> bool:
        """Nothing that is tripped, to be reset, bypassed or demanded would be gone."""
        return (
            set(self.bypasses.tags) <= set(plan.held)
            and all(interlock_stays(each, plan, now) for each in self.interlocks.items)
            and outputs_stay(self.outputs.items.values(), plan)
        )

    def _install(self, plan: Plan, now: Now) -> None:
        """The tables of a program; interlocks and what is new as at a first start."""
        site = plan.config.site
        self.plan = plan
        self.tags.install(plan, now)
        self.bypasses.groups = {each.id: each for each in plan.config.group}
        self.interlocks.items = [self._fresh(each, now) for each in plan.config.interlock]
        definitions = {each.id: each for each in plan.config.output}
        readbacks = {each.id: readback_of(each) for each in plan.config.output}
        self.outputs.install(definitions, readbacks, now)
        self.outputs.heartbeats.stops = site.on_output_failure == "stop_heartbeat"
        self.outputs.heartbeats.watchdogs = {
            each.id: int(each.heartbeat.watchdog)
            for each in plan.config.device
            if each.heartbeat is not None
        }
        self.commands.stop_trips = site.on_stop == "trip"

    def _fresh(self, definition: Any, now: Now) -> Interlock:
        cause = self.plan.causes[definition.id]
        permissive = self.plan.permissives[definition.id]
        one = Interlock(
            definition,
            Condition(cause, definition.bypass_votes == "trip"),
            None if permissive is None else Condition(permissive),  # a bypass permits nothing
            self.plan.legs[definition.id],
            self.plan.fingerprint_of(definition),
            since_boot_ns=now.boot_ns,
        )
        one.legs = (0,) * len(one.leg_nodes)
        return one

    # ---- lives

    def restart(
        self, now: Now, *, interlocks: frozenset[str] = frozenset(),
        outputs: frozenset[str] = frozenset(), tags: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """After a kill -9: latches and node memory stay, everything else begins anew. No record.

        The named ones have two copies that disagree: TRIPPED(restored), TRIPPING, no bypass.
        """
        self._begin_process(now)
        lost = [("TAG", tag) for tag in tags if self.bypasses.tags.pop(tag, None) is not None]
        for one in self.interlocks.items:
            one.forget()
            if one.id in interlocks:
                lost += [("INTERLOCK", one.id)] if one.bypass is not None else []
                one.lose(now)
        self.bypasses.rebind(now)
        for output in self.outputs.items.values():
            self.outputs.restart(output, now)
        self.interlocks.regroup()
        for one in self.interlocks.items:
            if one.id in interlocks:
                self.interlocks.trip(one, TripReason.RESTORED, now, self.scans)
        for name in outputs:
            self.outputs.restore(self.outputs.items[name], now)
        for kind, ident in lost:
            self.bypasses.record_lost(BypassKind[kind], ident, now)

    def lose_power(self, now: Now) -> None:
        """Another boot, nothing kept: every armed, latching interlock starts TRIPPED."""
        self.bypasses.tags.clear()
        self._install(self.plan, now)
        self._begin_process(now)
        self.commands.known.clear()
        for output in self.outputs.items.values():
            self.outputs.lose(output, now)
        self.interlocks.regroup()
        for one in self.interlocks.items:
            self._lose_memory(one)
            if one.armed and one.definition.latch:
                self.interlocks.trip(one, TripReason.POWER_LOSS, now, self.scans)
        self.outputs.tell_held(self.interlocks.wanted(now))

    def reboot(self, before: Now, now: Now) -> None:
        """A clean stop and another boot: latches are kept.

        Node memory, the bypasses of tags and the silence of sirens are not.
        """
        self.bypasses.tags.clear()
        self._begin_process(now)
        self.commands.known.clear()
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
            output.silence = None
            self.outputs.restart(output, now)
        self.interlocks.regroup()

    def _lose_memory(self, one: Interlock) -> None:
        for condition in one.conditions:
            condition.lose()
            condition.empty()

    def _begin_process(self, now: Now) -> None:
        """What every new process begins with."""
        self.tags.begin(now)
        self.outputs.begin()
        self.commands.queue.clear()
        self._last_boot_ns = 0
        self.interlocks.releasable.clear()
        for one in self.interlocks.items:
            for condition in one.conditions:
                condition.truths.clear()
                condition.restart()
