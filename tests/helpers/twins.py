"""One site's guard twice: the compiled one and the reference, through one history, scan by scan."""

from dataclasses import dataclass, field
from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    EventFlag,
    EventType,
    InterlockLatchFlag,
    MessageType,
    OutputState,
    Quality,
    ResultCode,
)
from fastpath.records import Event, legs_of, payload_of
from fastpath.reference import Command, Plan, Reference
from fastpath.reference import Event as Told
from fastpath.reference_interlocks import Now
from gateway.logic.compile import compile_site
from gateway.logic.emit import legs_of as legs_below
from gateway.logic.parse import parse
from gateway.site import model
from tests.helpers.histories import CONTACTS, INTERLOCKS, OUTPUTS, POLLED, SLOW, SYSTEM, Step

IDS = {
    blobs.key_of(kind, name): name
    for kind, found in (
        ("interlock", INTERLOCKS), ("output", OUTPUTS), ("tag", (*POLLED, SLOW, *SYSTEM)),
    )
    for name in found
}  # fmt: skip
OTHERS = (EventType.GUARD_START, EventType.OVERRUN)
ANSWERED = {"good": False, "refused": True}


class Difference(AssertionError):
    """The two guards disagree."""


def plan_of(config: model.Config) -> Plan:
    causes = {each.id: parse(each.cause) for each in config.interlock}
    permissives = {
        each.id: None if each.permissive is None else parse(each.permissive)
        for each in config.interlock
    }
    legs = {name: tuple(legs_below(cause)) for name, cause in causes.items()}
    return Plan(config, causes, permissives, legs)


EMPTY = model.Config(site=model.Site(id="empty"))


@dataclass
class Plant:
    """What the devices would say now."""

    values: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    polling: bool = True
    replies: str = "good"
    contacts: bool = True  # read-backs follow what is written


@dataclass
class Trace:
    """What one scan came to."""

    now: Now
    events: list[Event]
    interlocks: dict[str, Any]
    outputs: dict[str, Any]
    results: dict[bytes, Any]
    wishes: dict[str, int]


class Twins:
    """The two guards and the plant around them."""

    def __init__(self, stepper_type: Any, config: model.Config, edited: list[model.Config]) -> None:
        self.configs = [config, *edited]
        self.stepper = stepper_type(blobs.EMPTY)
        self.reference = Reference(plan_of(EMPTY), self.now)
        self.plant = Plant({tag: (0.0, int(Quality.GOOD), 0) for tag in POLLED})
        self.seen = 0
        self.number = 0
        self.sessions = 0
        self.last: Command | None = None
        self.pending: dict[bytes, Command] = {}
        self.trace: list[Trace] = []
        self.offered: model.Config | None = None
        self.load: tuple[Command, model.Config, int] | None = None  # its session
        self.load_code: ResultCode | None = None
        self.running = EMPTY
        self.written: dict[str, int] = {}
        self.blob = blobs.EMPTY
        self.offer(config)

    @property
    def now(self) -> Now:
        return Now(self.stepper.mono_ns, self.stepper.boot_ns, self.stepper.utc_ns)

    def close(self) -> None:
        self.stepper.close()

    def offer(self, config: model.Config) -> None:
        """A program for the border of the next scan."""
        self.offered = config
        self.stepper.offer(compile_site(config))

    def _names(self) -> None:
        names = blobs.names(self.blob)
        self.slots = {name: n for n, name in enumerate(names.get("tags", []))}
        self.interlocks = {name: n for n, name in enumerate(names.get("interlocks", []))}
        self.outputs = {name: n for n, name in enumerate(names.get("outputs", []))}
        self.device_places = {name: n for n, name in enumerate(names.get("devices", []))}

    # ---- one step

    def step(self, step: Step) -> None:
        for op in step.ops:
            getattr(self, f"op_{op[0]}")(*op[1:])
        self.stepper.advance(step.after_ns)
        self._poll()
        self._answer_load()
        self._swap()
        self.stepper.step()
        self.reference.scan(self.now)
        self._compare()
        self._write()

    def _answer_load(self) -> None:
        """The scan after the swap tells what came of it."""
        if self.load_code is not None and self.load is not None:
            self.reference.answer(self.load[0], self.load_code)
            if self.load[2] == self.sessions:
                self.pending[self.load[0].ident] = self.load[0]
            self.load = self.load_code = None

    def _swap(self) -> None:
        """What was asked for in the scan before is swapped in at this one's border."""
        if self.load is not None and self.stepper.asked() is not None:
            self.offer(self.load[1])
        if self.offered is None:
            return
        config, self.offered = self.offered, None
        done = self.reference.swap(plan_of(config), self.now)
        if self.load is not None:
            self.load_code = ResultCode.DONE if done else ResultCode.WOULD_REMOVE_TRIP
        if done:
            self.running = config
            self.blob = compile_site(config)
        self._names()

    def _poll(self) -> None:
        if not self.plant.polling or self.running is EMPTY:
            return
        for tag, (value, quality, reason) in self.plant.values.items():
            if tag in self.slots:
                self.stepper.poll(self.slots[tag], value, quality, reason)
                self.reference.poll(tag, value, quality, reason, self.now)
        if "plc" in self.device_places:
            self.op_device("plc", True)
            self.stepper.heard(self.device_places["plc"])
            self.reference.heard("plc", self.now)

    def _write(self) -> None:
        """The wishes go out, and the plant answers as it does now."""
        replies = self.plant.replies
        for name, place in self.outputs.items():
            wish = self.stepper.wish(place)
            one = self.reference.outputs.items[name]
            if not wish or replies == "lost":
                continue
            self.stepper.sent(place)
            self.reference.outputs.sent(one, self.now)
            if replies in ANSWERED:
                self.stepper.replied(place, ANSWERED[replies])
                self.reference.outputs.replied(one, refused=ANSWERED[replies])
            else:
                self.stepper.expired(place)
                self.reference.outputs.expired(one)
            if replies == "good" and self.plant.contacts and one.readback is not None:
                value = one.definition.trip if wish == 1 else one.definition.normal
                tag, inverted = one.readback
                self.plant.values[tag] = (float(bool(value) != inverted), int(Quality.GOOD), 0)

    # ---- events of a history

    def op_plant(self, tag: str, reading: tuple[float, int, int]) -> None:
        self.plant.values[tag] = (reading[0], int(reading[1]), int(reading[2]))

    def op_calm(self, value: float, on: bool) -> None:
        for tag in POLLED:
            if tag not in CONTACTS:
                known = value if tag.startswith("n") else float(on)
                self.plant.values[tag] = (known, int(Quality.GOOD), 0)
        self.plant.polling = True
        self.op_sample((value, int(Quality.GOOD), 0), 0)

    def op_sample(self, reading: tuple[float, int, int], ahead_ns: int) -> None:
        if SLOW not in getattr(self, "slots", {}):
            return
        value, quality, reason = reading
        mono_ns = self.now.mono_ns + ahead_ns
        self.op_gateway(True)
        body = messages.SAMPLE.pack(
            self.slots[SLOW], quality, reason, 0, value, mono_ns, self.now.utc_ns
        )
        self.stepper.send(MessageType.SAMPLES, body)
        self.reference.sample(SLOW, value, int(quality), int(reason), mono_ns, self.now)

    def op_polling(self, on: bool) -> None:
        self.plant.polling = on

    def op_replies(self, how: str) -> None:
        self.plant.replies = how

    def op_contacts(self, follow: bool) -> None:
        self.plant.contacts = follow

    def op_gateway(self, present: bool) -> None:
        if present and self.stepper.connected:
            return
        if present:
            self.stepper.connect()
        else:
            self.stepper.disconnect()
            self.sessions += 1
            self.pending.clear()  # nobody is there to hear their results
        self.reference.gateway(present=present)

    def op_device(self, ident: str, up: bool) -> None:
        if ident in getattr(self, "device_places", {}):
            self.stepper.device(self.device_places[ident], up)
            self.reference.device(ident, up=up)

    def op_link(self, ident: str, up: bool) -> None:
        if ident not in getattr(self, "device_places", {}):
            return
        place = self.device_places[ident]
        if up:
            self.stepper.link_up(place)
            self.reference.outputs.link_up(ident, self.now)
        else:
            self.stepper.link_down(place)
            self.reference.outputs.link_down(ident)

    def op_utc(self, by_ns: int) -> None:
        self.stepper.utc_ns += by_ns

    def op_suspend(self, ns: int) -> None:
        self.stepper.boot_ns += ns
        self.stepper.utc_ns += ns

    def op_restart(self) -> None:
        self._forget()
        self.stepper.restart(self.blob)
        self.reference.restart(self.now)

    def op_power(self) -> None:
        self._forget()
        self.stepper.lose_power(self.blob)
        self.seen = 0
        self.reference.lose_power(self.now)

    def op_reboot(self) -> None:
        self._forget()
        before = self.now
        self.stepper.reboot(self.blob)
        self.seen = 0
        self.reference.reboot(before, self.now)

    def _forget(self) -> None:
        """What ends with the process: a program that was offered, commands under way."""
        self._compare_events()
        self.offered = self.load = self.load_code = None
        self.pending.clear()

    def op_swap(self, which: int) -> None:
        """A LOAD of another program, one at a time."""
        if self.running is EMPTY or self.load is not None:
            return
        config = self.configs[which % len(self.configs)]
        self._command("LOAD", MessageType.LOAD, "", "")
        if self.last is not None and self.last.kind == "LOAD":
            self.load = (self.last, config, self.sessions)

    # ---- commands

    def op_trip(self, ident: str) -> None:
        self._command("TRIP", MessageType.TRIP, "interlock", ident)

    def op_reset(self, ident: str, off_by: int, seq: int) -> None:
        for one in list(self.reference.interlocks.items):
            if ident in ("all", one.id):
                wanted = one.generation + off_by
                self._command(
                    "RESET", MessageType.RESET, "interlock", one.id,
                    generation=wanted, ledger_seq=seq,
                )  # fmt: skip

    def op_bypass(self, of: str, ident: str, duration_ns: int, seq: int) -> None:
        self._command(
            "BYPASS_START", MessageType.BYPASS_START, of, ident,
            duration_ns=duration_ns, ledger_seq=seq, of_tag=of == "tag",
        )  # fmt: skip

    def op_bypass_end(self, of: str, ident: str) -> None:
        self._command(
            "BYPASS_END", MessageType.BYPASS_END, of, ident, ledger_seq=0, of_tag=of == "tag"
        )

    def op_release(self, ident: str, seq: int, late: int) -> None:
        not_after_ns = self.now.boot_ns + late if late else 0
        for name in list(self.reference.outputs.items):
            if ident in ("all", name):
                self._command(
                    "RELEASE", MessageType.RELEASE, "output", name,
                    ledger_seq=seq, not_after_ns=not_after_ns,
                )  # fmt: skip

    def op_again(self) -> None:
        """The newest command once more, under its own id."""
        if self.last is not None and self.last.kind != "LOAD" and len(self.pending) < 12:
            self._send(self.last)

    def _command(self, kind: str, message: MessageType, of: str, ident: str, **fields: Any) -> None:
        if len(self.pending) >= 12:
            return
        self.number += 1
        command = Command(kind, self.number.to_bytes(16, "little"), ident, **fields)
        self.kinds = getattr(self, "kinds", {})
        self.kinds[command.ident] = (message, of)
        self._send(command)
        self.last = command

    def _send(self, command: Command) -> None:
        self.op_gateway(True)
        message, of = self.kinds[command.ident]
        if command.kind == "LOAD":
            self.stepper.send(
                message, messages.LOAD.pack(bytes(32), bytes(32), 1, 2, 0), command.ident
            )
            return
        body = messages.command(
            blobs.key_of(of, command.target), who="uid:test", generation=command.generation,
            not_after_ns=command.not_after_ns, ledger_seq=command.ledger_seq,
            duration_ns=command.duration_ns, kind=1 + command.of_tag,
        )  # fmt: skip
        self.stepper.send(message, body, command.ident)
        self.reference.command(command)
        self.pending[command.ident] = command

    # ---- comparison

    def _compare(self) -> None:
        events = self._compare_events()
        results = self.stepper.results()
        self._same("results", _results(results), self._expected_results())
        interlocks, outputs, wishes = {}, {}, {}
        for one in self.reference.interlocks.items:
            view = self.stepper.view.interlock(self.interlocks[one.id])
            interlocks[one.id] = view
            self._same(one.id, _interlock(view, len(one.leg_nodes)), _interlock_of(one))
        found_tags = {IDS[each.key]: each.until_ns for each in self.stepper.view.tag_bypasses()}
        wanted_tags = {tag: each.until_ns for tag, each in self.reference.bypasses.tags.items()}
        self._same("bypassed tags", found_tags, wanted_tags)
        for name, output in self.reference.outputs.items.items():
            view = self.stepper.view.output(self.outputs[name])
            wishes[name] = self.stepper.wish(self.outputs[name])
            outputs[name] = view
            found = (_state(view.state), view.demand, view.generation, view.confirmed)
            wanted = (
                _state(output.state), int(output.demanded), output.generation,
                int(output.confirmed),
            )  # fmt: skip
            self._same(name, (*found, wishes[name]), (*wanted, output.wish))
        self.trace.append(Trace(self.now, events, interlocks, outputs, results, wishes))
        self.pending.clear()

    def _expected_results(self) -> dict[bytes, tuple[int, int, int]]:
        found = {
            ident: (int(r.code), r.generation, r.detail)
            for ident, r in self.reference.results.items()
            if ident in self.pending
        }
        self.reference.results.clear()
        return found

    def _compare_events(self) -> list[Event]:
        raw = self.stepper.events(self.seen)
        if raw:
            self.seen = raw[-1].seq + 1
        found = [each for each in raw if each.type not in OTHERS]
        self._same(
            "journal",
            _by_owner([self._told(each) for each in found]),
            _by_owner([_plain(each) for each in self.reference.events]),
        )
        self.reference.events.clear()
        return found

    def _told(self, event: Event) -> tuple[str, str, dict[str, Any]]:
        kind = EventType(event.type).name
        name = IDS.get(event.key, "")
        return kind, name, _fields(kind, event, self._legs(name))

    def _legs(self, name: str) -> int:
        one = self.reference.interlocks.find(name)
        return len(one.leg_nodes) if one is not None else 0

    def _same(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            if isinstance(found, dict):
                odd = {k for k in {*found, *wanted} if found.get(k) != wanted.get(k)}
                found = {k: found.get(k) for k in odd}
                wanted = {k: wanted.get(k) for k in odd}
            message = f"{what}: the guard {found}\nthe reference {wanted}"
            raise Difference(message)


def _state(state: int) -> str:
    return OutputState(state).name


def _interlock(view: Any, legs: int) -> tuple[Any, ...]:
    flags = InterlockLatchFlag(view.flags)
    return (
        view.state, view.generation, view.reason, view.demands, view.since_ns,
        bool(flags & InterlockLatchFlag.ARMED), bool(flags & InterlockLatchFlag.FIRST_OUT),
        bool(flags & InterlockLatchFlag.SAME_SCAN), bool(flags & InterlockLatchFlag.STARTING),
        tuple(legs_of(view.legs, legs)), bool(flags & InterlockLatchFlag.WITHHELD),
        view.bypass_until_ns if flags & InterlockLatchFlag.BYPASSED else None,
        view.withheld_demands,
    )  # fmt: skip


def _interlock_of(one: Any) -> tuple[Any, ...]:
    return (
        one.state, one.generation, one.reason, one.demands, one.since_boot_ns,
        one.armed, one.first_out, one.same_scan, one.starting, one.legs,
        one.withheld, None if one.bypass is None else one.bypass.until_ns, one.withheld_demands,
    )  # fmt: skip


def _results(results: dict[bytes, Any]) -> dict[bytes, tuple[int, int, int]]:
    return {ident: (r.code, r.generation, r.detail) for ident, r in results.items()}


def _fields(kind: str, event: Event, legs: int) -> dict[str, Any]:
    """Of a record what the reference tells too."""
    p, flags = payload_of(event), EventFlag(event.flags)
    unarmed, late = bool(flags & EventFlag.UNARMED), bool(flags & EventFlag.LATE)
    withheld = bool(flags & EventFlag.WITHHELD)
    if kind == "TRIP":
        return {
            "withheld": withheld,
            "generation": p["generation"], "reason": p["reason"], "first_out": p["first_out"],
            "legs": tuple(legs_of(p["legs"], legs)), "retrip": bool(flags & EventFlag.RETRIP),
            "same_scan": bool(flags & EventFlag.SAME_SCAN), "unarmed": unarmed,
        }  # fmt: skip
    if kind in ("READY", "NOT_READY", "PENDING", "PENDING_END"):
        found = tuple(legs_of(p["legs"], legs))
        return {
            "generation": p["generation"], "permissive": p["permissive"], "legs": found,
            "unarmed": unarmed, "withheld": withheld,
        }  # fmt: skip
    if kind in ("RESET", "RETURN"):
        names = ("generation", "ledger_seq", "under_bypass")
        return {name: p[name] for name in names} | {"unarmed": unarmed, "withheld": withheld}
    if kind.startswith("BYPASS"):
        of_bypass = ("kind", "cause", "until_ns", "left_ns", "ledger_seq")
        return {name: p[name] for name in of_bypass} | {"unarmed": unarmed, "withheld": withheld}
    if kind.startswith("OUT_"):
        return {"generation": p["generation"], "code": p["code"], "late": late}
    if kind == "COMMAND":
        sort = MessageType(p["type"]).name
        return {"kind": sort, "code": p["code"], "detail": p["detail"]}
    if kind == "PROGRAM":
        return {"kept": p["kept"], "changed": p["changed"]}
    if kind == "TAG_QUALITY":
        return {"quality": p["quality"], "reason": p["reason"]}
    if kind == "PAUSE":
        return {"gap_ns": p["took_ns"]}
    return {}


def _plain(event: Told) -> tuple[str, str, dict[str, Any]]:
    return event.type, event.id, event.fields


def _by_owner(told: list[tuple[str, str, dict[str, Any]]]) -> dict[str, list[Any]]:
    """Outputs, tags and interlocks each in their own order; in one what is not of one alone."""
    out: dict[str, list[Any]] = {}
    for kind, name, fields in told:
        own = kind.startswith(("OUT_", "BYPASS")) or kind == "TAG_QUALITY"
        if own or name in INTERLOCKS:
            out.setdefault(name, []).append((kind, name, fields))
        if not own:
            out.setdefault("", []).append((kind, name, fields))
    return out


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
