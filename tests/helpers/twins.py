"""One site's guard twice: the compiled one and the reference, through one history, scan by scan."""

from dataclasses import dataclass
from typing import Any

from fastpath import blob as blobs
from fastpath import codes
from fastpath.codes import DeviceStatsFlag, EventType, ResultCode
from fastpath.records import Event
from fastpath.reference_interlocks import Now
from gateway.logic.compile import compile_site
from gateway.site import model
from tests.helpers import comparisons
from tests.helpers.comparisons import IDS, same
from tests.helpers.histories import Step
from tests.helpers.pairs import Pair, plan_of
from tests.helpers.people import People
from tests.helpers.plants import Plant

OTHERS = (EventType.GUARD_START, EventType.OVERRUN)
PAIR_BYTES = {"interlock": 256, "output": 256, "tag": 128}


@dataclass
class Trace:
    """What one scan came to."""

    now: Now
    life: int  # of the guard: another number, another process
    running: model.Config
    events: list[Event]
    interlocks: dict[str, Any]
    outputs: dict[str, Any]
    results: dict[bytes, Any]
    wishes: dict[str, int]
    withheld: set[str]  # devices whose heartbeat is


class Twins:
    """The two guards, the plant and the people around them."""

    def __init__(self, stepper_type: Any, config: model.Config, edited: list[model.Config]) -> None:
        self.pair = Pair(stepper_type)
        self.plant = Plant(self.pair)
        self.people = People(self.pair, [config, *edited])
        self.ops = self.plant.ops() | self.people.ops()
        self.ops |= {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("op_")}
        self.seen = 0
        self.life = 0
        self.trace: list[Trace] = []
        self.offered: model.Config | None = None
        self.kept: dict[tuple[str, str], bytes] = {}  # latches as they stood a scan ago
        self.offer(config)

    def close(self) -> None:
        self.pair.stepper.close()

    def offer(self, config: model.Config) -> None:
        """A program for the border of the next scan."""
        self.offered = config
        self.pair.stepper.offer(compile_site(config))

    # ---- one step

    def step(self, step: Step) -> None:
        """What happens, then a scan, then the wire."""
        for name, *rest in step.ops:
            self.ops[name](*rest)
        self._remember()
        self.pair.stepper.advance(step.after_ns)
        self.plant.poll()
        self.people.answer_load()
        self._swap()
        self.pair.stepper.step()
        self.pair.reference.scan(self.pair.now)
        self._compare()
        self.plant.write()
        if self._stopped():
            self.op_restart()

    def _swap(self) -> None:
        """What was asked for in the scan before is swapped in at this one's border."""
        people, pair = self.people, self.pair
        if people.load is not None and pair.stepper.asked() is not None:
            self.offer(people.load[1])
        if self.offered is None:
            return
        config, self.offered = self.offered, None
        done = pair.reference.swap(plan_of(config), pair.now)
        if people.load is not None:
            people.load_code = ResultCode.DONE if done else ResultCode.WOULD_REMOVE_TRIP
        if done:
            pair.running = config
            pair.name(compile_site(config))

    def _stopped(self) -> bool:
        """A STOP is over, in both alike."""
        pair, outputs = self.pair, self.pair.reference.outputs
        same("STOP", pair.stepper.stop_by_ns, outputs.stop_by_ns or 0)
        if outputs.stop_by_ns is not None:
            same("STOP's wait", pair.stepper.confirmed, outputs.confirmed)
        return outputs.stopped(pair.now)

    # ---- lives

    def op_utc(self, by_ns: int) -> None:
        self.pair.stepper.utc_ns += by_ns

    def op_suspend(self, ns: int) -> None:
        self.pair.stepper.boot_ns += ns
        self.pair.stepper.utc_ns += ns

    def op_restart(self) -> None:
        self._forget()
        self.pair.stepper.restart(self.pair.blob)
        self.pair.reference.restart(self.pair.now)

    def op_torn(self, of: str, which: int, copy: str, byte: int) -> None:
        """A kill between the two copies of a latch, or memory that lost a bit."""
        names = {
            "interlock": sorted(self.pair.interlocks), "output": sorted(self.pair.outputs),
            "tag": sorted(self.pair.reference.bypasses.tags),
        }[of]  # fmt: skip
        if not names:
            return
        name = names[which % len(names)]
        self._forget()
        self._tear(of, name, copy, byte)
        self.pair.stepper.restart(self.pair.blob)
        self.pair.reference.restart(self.pair.now, **{f"{of}s": frozenset({name})})

    def op_power(self) -> None:
        self._forget()
        self.pair.stepper.lose_power(self.pair.blob)
        self.seen = 0
        self.pair.reference.lose_power(self.pair.now)

    def op_reboot(self) -> None:
        self._forget()
        before = self.pair.now
        self.pair.stepper.reboot(self.pair.blob)
        self.seen = 0
        self.pair.reference.reboot(before, self.pair.now)

    def _forget(self) -> None:
        """What ends with the process: a program that was offered, commands under way."""
        self._compare_events()
        self.life += 1
        self.offered = None
        self.people.forget()

    # ---- damage

    def _latch(self, of: str, name: str) -> memoryview:
        stepper = self.pair.stepper
        if of == "interlock":
            at = stepper.interlock_at(self.pair.interlocks[name])
        elif of == "output":
            at = stepper.output_at(self.pair.outputs[name])
        else:
            key = blobs.key_of("tag", name).to_bytes(8, "little")
            places = (stepper.tag_bypass_at(n) for n in range(codes.TAG_BYPASSES_MAX))
            at = next(each for each in places if stepper.memory_at(each, 8) == key)
        found: memoryview = stepper.memory_at(at, PAIR_BYTES[of])
        return found

    def _remember(self) -> None:
        self.kept = {
            (of, name): bytes(self._latch(of, name))
            for of, places in (
                ("interlock", self.pair.interlocks), ("output", self.pair.outputs),
            )
            for name in places
        }  # fmt: skip

    def _tear(self, of: str, name: str, copy: str, byte: int) -> None:
        """Copy B is still what it was a scan ago; where that is no other, a bit of one flips."""
        pair = self._latch(of, name)
        half = len(pair) // 2
        before = self.kept.get((of, name), b"")[half:]
        if copy == "old" and before not in (b"", bytes(pair[half:])) and any(before):
            pair[half:] = before
            return
        pair[byte % half + (0 if copy == "a" else half)] ^= 4

    # ---- comparison

    def _compare(self) -> None:
        pair = self.pair
        stepper, reference = pair.stepper, pair.reference
        events = self._compare_events()
        results = stepper.results()
        same("results", comparisons.results_seen(results), self.people.results())
        interlocks, outputs, wishes = {}, {}, {}
        for one in reference.interlocks.items:
            view = interlocks[one.id] = stepper.view.interlock(pair.interlocks[one.id])
            seen = comparisons.interlock_seen(view, len(one.leg_nodes))
            same(one.id, seen, comparisons.interlock_told(one))
        found = {IDS[each.key]: each.until_ns for each in stepper.view.tag_bypasses()}
        told = {tag: each.until_ns for tag, each in reference.bypasses.tags.items()}
        same("bypassed tags", found, told)
        for name, output in reference.outputs.items.items():
            view = outputs[name] = stepper.view.output(pair.outputs[name])
            wishes[name] = stepper.wish(pair.outputs[name])
            seen = comparisons.output_seen(view, wishes[name], by_gateway=output.by_gateway)
            same(name, seen, comparisons.output_told(output))
        withheld = {
            name
            for name, place in pair.devices.items()
            if stepper.view.device(place).flags & DeviceStatsFlag.HEARTBEAT_WITHHELD
        }
        same("heartbeats", withheld, reference.outputs.heartbeats.withheld)
        self.trace.append(
            Trace(
                pair.now,
                self.life,
                pair.running,
                events,
                interlocks,
                outputs,
                results,
                wishes,
                withheld,
            )
        )
        self.people.waiting.clear()

    def _compare_events(self) -> list[Event]:
        reference = self.pair.reference
        raw = self.pair.stepper.events(self.seen)
        if raw:
            self.seen = raw[-1].seq + 1
        found = [each for each in raw if each.type not in OTHERS]
        legs = {each.id: len(each.leg_nodes) for each in reference.interlocks.items}
        same(
            "journal",
            comparisons.by_owner([comparisons.record_seen(each, legs) for each in found]),
            comparisons.by_owner([(each.type, each.id, each.fields) for each in reference.events]),
        )
        reference.events.clear()
        return found


def run(
    stepper_type: Any, config: model.Config, edited: list[model.Config], history: list[Step]
) -> Twins:
    """Both guards through a history. Raises Difference."""
    twins = Twins(stepper_type, config, edited)
    try:
        for step in [Step((), 10_000_000), *history]:
            twins.step(step)
    finally:
        twins.close()
    return twins
