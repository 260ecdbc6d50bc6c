"""A guard's life in front of a small plant, and the trace that it leaves: scan by scan, what the
latches were before and after, what was recorded, what was ordered and how that was answered.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import NONE_U32, EventType, MessageType, OutputKind, Quality, Truth
from fastpath.journal import InterlockView, OutputView
from fastpath.records import Event, payload_of
from tests.helpers.blobs import MS

WHO = "uid:test"
GAS_SLOTS = (0, 1, 2)
CONTACT_SLOT = 3


@dataclass(frozen=True)
class Order:
    """A command and its answer; ``code`` None: none came in the scan."""

    kind: MessageType
    key: int
    code: int | None


@dataclass(frozen=True)
class State:
    """What the shared file says between two scans."""

    mono_ns: int
    boot_ns: int
    program: bytes
    interlocks: dict[int, InterlockView]
    outputs: dict[int, OutputView]
    wishes: dict[int, int]
    tag_bypasses: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Scan:
    """One scan, or (``begun``) how a new life found things before its first."""

    begun: str  # "": a scan; else "restart", "power" or "reboot"
    running: blobs.Program
    before: State
    after: State
    events: list[Event]
    orders: list[Order]
    causes: dict[int, Truth]
    permits: dict[int, bool]


def of(scan: Scan, key: int, *types: EventType) -> list[Event]:
    """The scan's records of one interlock or output."""
    return [each for each in scan.events if each.key == key and each.type in types]


def fields(scan: Scan, key: int, kind: EventType) -> dict[str, Any]:
    """The payload of the only such record; empty: there is not one."""
    found = of(scan, key, kind)
    return payload_of(found[0]) if len(found) == 1 else {}


def definition(scan: Scan, key: int) -> Any:
    return next(each for each in scan.running.interlocks if each.key == key)


def effects_of(scan: Scan, key: int) -> list[int]:
    """Keys of the outputs that an interlock trips."""
    one = definition(scan, key)
    found = scan.running.effects[one.effects_first : one.effects_first + one.effects_count]
    return [scan.running.outputs[each.output].key for each in found]


def output(scan: Scan, key: int) -> Any:
    return next(each for each in scan.running.outputs if each.key == key)


def fallbacks(scan: Scan, key: int) -> list[int]:
    keys = [each.key for each in scan.running.outputs]
    return [keys[f.fallback] for f in scan.running.fallbacks if keys[f.output] == key]


@dataclass
class Plant:
    """What the devices say: gas, a contact, and how writes are answered, per output's index."""

    gas: list[float] = field(default_factory=lambda: [0.4] * 3)
    bad: set[int] = field(default_factory=set)  # slots that read BAD
    mute: set[int] = field(default_factory=set)  # slots that are not read
    contact: float = 1.0
    follows: bool = True
    answers: dict[int, str] = field(default_factory=dict)  # good, refused, silent, lost


class Life:
    """Drives a Stepper; ``trace`` has every scan."""

    def __init__(self, stepper_type: Any, program: blobs.Program, **begin: Any) -> None:
        self.program = program
        self.guard = stepper_type(blobs.build(program), **begin)
        self.plant = Plant()
        self.trace: list[Scan] = []
        self.seen = 0
        self.waiting: list[tuple[bytes, MessageType, int]] = []
        self.numbers = itertools.count(1)
        self.state = self._look()

    def close(self) -> None:
        self.guard.close()

    # ---- time

    def scan(self, after_ns: int = 10 * MS, times: int = 1) -> Scan:
        """Readings, a scan, and the answers to what it wrote."""
        for _ in range(times):
            self.guard.advance(after_ns)
            self._read()
            self.guard.step()
            done = self._note("")
            self._write()
        return done

    def until(self, ns: int, every_ns: int = 50 * MS) -> None:
        """So much time, in scans."""
        self.scan(every_ns, -(-ns // every_ns))

    def gas(self, *values: float) -> Scan:
        """Other readings (one for all three, or each), and a scan."""
        self.plant.gas = list(values) * (3 if len(values) == 1 else 1)
        return self.scan()

    def _read(self) -> None:
        for slot in (*GAS_SLOTS, CONTACT_SLOT):
            if slot in self.plant.mute:
                continue
            value = self.plant.contact if slot == CONTACT_SLOT else self.plant.gas[slot]
            quality = Quality.BAD if slot in self.plant.bad else Quality.GOOD
            self.guard.poll(slot, value, quality, 1 if quality == Quality.BAD else 0)

    def _write(self) -> None:
        for index, output in enumerate(self.program.outputs):
            wish = self.guard.wish(index)
            how = self.plant.answers.get(index, "good")
            if not wish or how == "lost":
                continue
            self.guard.sent(index)
            if how == "silent":
                self.guard.expired(index)
                continue
            self.guard.replied(index, how == "refused")
            moved = output.readback == CONTACT_SLOT and output.kind == OutputKind.COIL
            if how == "good" and moved and self.plant.follows:
                self.plant.contact = float(output.trip if wish == 1 else output.normal)

    # ---- orders

    def send(self, kind: MessageType, body: bytes, key: int = 0) -> None:
        """A command for the next scan."""
        ident = next(self.numbers).to_bytes(16, "little")
        self.guard.send(kind, body, ident)
        self.waiting.append((ident, kind, key))

    def order(self, what: MessageType, key: int, **fields: Any) -> int | None:
        """A command, a scan, its result."""
        self.send(what, messages.command(key, who=WHO, **fields), key)
        return self.scan().orders[-1].code

    def reset(self, key: int = 7, off: int = 0) -> int | None:
        """RESET of the generation that stands."""
        generation = self.state.interlocks[key].generation + off
        return self.order(MessageType.RESET, key, generation=generation, ledger_seq=1)

    # ---- lives

    def swap(self, program: blobs.Program) -> int:
        """Another program at the border of the next scan; the result's code."""
        self.guard.offer(blobs.build(program))
        before, self.program = self.program, program
        self.scan()
        if self.state.program != blobs.build(program)[blobs.HASH_AT : blobs.HASH_AT + 32]:
            self.program = before
        return int(self.guard.load_code)

    def restart(self) -> None:
        self.waiting.clear()
        self.guard.restart(blobs.build(self.program))
        self._note("restart")

    def lose_power(self) -> None:
        self.waiting.clear()
        self.guard.lose_power(blobs.build(self.program))
        self.seen = 0
        self._note("power")

    def reboot(self) -> None:
        self.waiting.clear()
        self.guard.reboot(blobs.build(self.program))
        self.seen = 0
        self._note("reboot")

    # ---- the trace

    def _note(self, begun: str) -> Scan:
        events = self.guard.events(self.seen)
        if events:
            self.seen = events[-1].seq + 1
        results = self.guard.results()
        orders = [
            Order(kind, key, results[ident].code if ident in results else None)
            for ident, kind, key in self.waiting
        ]
        self.waiting.clear()
        before, self.state = self.state, self._look()
        causes, permits = {}, {}
        if not begun:
            for each in self.program.interlocks:
                causes[each.key] = Truth(self.guard.truth(each.cause))
                open_ = each.permissive == NONE_U32
                permits[each.key] = open_ or self.guard.truth(each.permissive) == Truth.TRUE
        done = Scan(begun, self.program, before, self.state, events, orders, causes, permits)
        self.trace.append(done)
        return done

    def _look(self) -> State:
        view, guard = self.guard.view, self.guard
        interlocks = {each.key: view.interlock(n) for n, each in enumerate(self.program.interlocks)}
        outputs = {each.key: view.output(n) for n, each in enumerate(self.program.outputs)}
        wishes = {each.key: guard.wish(n) for n, each in enumerate(self.program.outputs)}
        bypassed = frozenset((each.key, each.until_ns) for each in view.tag_bypasses())
        return State(
            guard.mono_ns, guard.boot_ns, view.header().program, interlocks, outputs, wishes,
            bypassed,
        )  # fmt: skip
