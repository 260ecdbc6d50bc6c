"""Two programs -> which armed interlock protects otherwise in the newer one, and how, in words.

Weakening is every change to an armed interlock, to a tag that it reads or to an output that it
trips, except effects that come in addition. The guard counts such interlocks for itself when it
swaps programs; here the same is told for people, from the blobs and their names alone.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastpath import blob
from fastpath.codes import (
    NONE_U32,
    DeviceFlag,
    DeviceKind,
    InterlockFlag,
    OnBad,
    OutputFlag,
    OutputKind,
    Parity,
)
from gateway.guard.program_reads import slots_read
from gateway.site.durations import exact_duration, parse_duration

CHANGES_MAX: Final = 12  # that one text tells
_MAPPED: Final = bytes(10) + b"\xff\xff"
_WORD: Final = {blob.ON_TRIP: "trip", blob.ON_NOTHING: "nothing"}
_FAILURE: Final = {blob.ON_TRIP: "stop_heartbeat", blob.ON_NOTHING: "nothing"}
_ON_BAD: Final = {OnBad.TRIP: "trip", OnBad.HOLD: "hold", OnBad.IGNORE: "ignore"}

Facts = dict[str, str]  # what a table of the site file says, key by key


@dataclass(frozen=True, slots=True)
class Weakening:
    """One armed interlock that is not what it was; ``changes`` are finished sentences."""

    interlock: str
    changes: tuple[str, ...]


def weakenings(old: bytes, new: bytes) -> list[Weakening]:
    """What became weaker, by the ids of the old program's armed interlocks. Blobs are verified."""
    before, now = _Program(old), _Program(new)
    everywhere = _differences("the site", before.site(), now.site(), _relaxed)
    found = []
    for ident in sorted(before.interlocks):
        if before.armed(ident):
            changes = [*_interlock_changes(ident, before, now), *everywhere]
            if changes:
                found.append(Weakening(ident, tuple(changes)))
    return found


def additions(old: bytes, new: bytes) -> list[str]:
    """What came in addition: interlocks that are new or armed now, outputs that are tripped too."""
    before, now = _Program(old), _Program(new)
    words = []
    for ident in sorted(now.interlocks):
        armed = now.armed(ident)
        if ident not in before.interlocks:
            words.append(f"interlock {ident} is new{'' if armed else ', not armed'}")
            continue
        if armed and not before.armed(ident):
            words.append(f"interlock {ident} is armed now")
        more = sorted(now.effects(ident).keys() - before.effects(ident))
        words += [f"interlock {ident} trips {output} too" for output in more]
    return words


def weakening_text(found: list[Weakening]) -> str:
    """One line of all of them, each change once and at most CHANGES_MAX of them."""
    return told(change for each in found for change in each.changes)


def told(sentences: Iterable[str]) -> str:
    """One line, each sentence once and at most CHANGES_MAX of them."""
    changes = list(dict.fromkeys(sentences))
    shown = changes[:CHANGES_MAX]
    if len(changes) > len(shown):
        shown.append(f"{len(changes) - len(shown)} changes more")
    return "; ".join(shown)


class _Program:
    """A program's records by the ids that its names give them."""

    def __init__(self, data: bytes) -> None:
        self.names: Final = blob.names(data)
        self.header: Final = blob.HEADER.unpack_from(data)
        self.interlocks: Final = self._named(data, "interlocks")
        self.outputs: Final = self._named(data, "outputs")
        self.devices: Final = self._named(data, "devices")
        self.groups: Final[list[blob.Group]] = blob.section(data, "groups")
        self._effects: Final[list[blob.Effect]] = blob.section(data, "effects")
        self._fallbacks: Final[dict[str, set[str]]] = {}
        for each in blob.section(data, "fallbacks"):
            below = self._fallbacks.setdefault(self.name("outputs", each.output), set())
            below.add(self.name("outputs", each.fallback))
        self._place: Final = {ident: i for i, ident in enumerate(self.interlocks)}
        conditions = [(lock.cause, lock.permissive) for lock in self.interlocks.values()]
        causes = slots_read(data, [cause for cause, _ in conditions])
        permissives = slots_read(data, [permissive for _, permissive in conditions])
        self._reads: Final = [a | b for a, b in zip(causes, permissives, strict=True)]

    def _named(self, data: bytes, section: str) -> dict[str, Any]:
        return dict(zip(self.names.get(section, []), blob.section(data, section), strict=False))

    def name(self, section: str, index: int) -> str:
        """The id of a record, "" where the names have none."""
        names = self.names.get(section, [])
        return names[index] if index < len(names) else ""

    def armed(self, ident: str) -> bool:
        """Whether an interlock moves its outputs."""
        return bool(self.interlocks[ident].flags & InterlockFlag.ARMED)

    def site(self) -> Facts:
        """What holds for all interlocks."""
        _, _, _, _, _, tick, start, overrun, stop, failure, _ = self.header
        return {
            "tick": exact_duration(tick), "start_within": exact_duration(start),
            "on_overrun": _WORD[overrun], "on_stop": _WORD[stop],
            "on_output_failure": _FAILURE[failure],
        }  # fmt: skip

    def interlock(self, ident: str) -> Facts:
        """An interlock's own keys."""
        lock, place = self.interlocks[ident], self._place[ident]
        return {
            "cause": self.name("causes", place),
            "permissive": self.name("permissives", place) or "nothing",
            "delay": exact_duration(lock.delay_ns),
            "bad_for": exact_duration(lock.bad_for_ns),
            "hold_max": exact_duration(lock.hold_max_ns),
            "min_trip": exact_duration(lock.min_trip_ns),
            "response": exact_duration(lock.response_ns),
            "bypass_max": exact_duration(lock.bypass_max_ns),
            "on_bad": _ON_BAD[lock.on_bad],
            "latch": _said(lock.flags & InterlockFlag.LATCH),
            "no_bypass": _said(lock.flags & InterlockFlag.NO_BYPASS),
            "bypass_votes": _choice(
                lock.flags & InterlockFlag.BYPASS_VOTES_TRIP, "trip", "abstain"
            ),
            "group": self.name("groups", lock.group) or "none",
        }

    def max_bypassed(self, ident: str) -> int:
        """How many of its group may be bypassed at once; without a group it is alone."""
        group = self.interlocks[ident].group
        return 1 if group == NONE_U32 else int(self.groups[group].max_bypassed)

    def reads(self, ident: str) -> dict[str, Facts]:
        """The tags that an interlock's conditions read, as they are defined."""
        slots = sorted(self._reads[self._place[ident]])
        return {self.name("tags", slot): self._tag(slot) for slot in slots}

    def _tag(self, slot: int) -> Facts:
        facts = (part.partition(": ") for part in self.name("definitions", slot).split("; "))
        return {key: value for key, _, value in facts if key}

    def effects(self, ident: str) -> dict[str, int]:
        """The outputs that an interlock trips, and how long after itself, ns."""
        lock = self.interlocks[ident]
        own = self._effects[lock.effects_first : lock.effects_first + lock.effects_count]
        return {self.name("outputs", effect.output): effect.delay_ns for effect in own}

    def output(self, ident: str) -> Facts:
        """An output's keys, and those of its device."""
        output: blob.Output = self.outputs[ident]
        inverted = "not " if output.flags & OutputFlag.READBACK_INVERTED else ""
        readback = self.name("tags", output.readback) if output.readback != NONE_U32 else ""
        facts = {
            "device": self.name("devices", output.device) or "of the gateway",
            "address": f"{'c' if output.kind == OutputKind.COIL else 'hr'}:{output.address}",
            "unit": str(output.unit),
            "trip": str(output.trip),
            "normal": str(output.normal) if output.flags & OutputFlag.HAS_NORMAL else "none",
            "readback": f"{inverted}{readback}" if readback else "none",
            "confirm_within": exact_duration(output.confirm_ns),
            "reassert": exact_duration(output.reassert_ns),
            "silence": exact_duration(output.silence_ns),
        }
        device = self.devices.get(facts["device"])
        return facts | (self._device(device) if device is not None else {})

    def fallbacks(self, ident: str) -> set[str]:
        """Who stands in for an output."""
        return self._fallbacks.get(ident, set())

    def _device(self, device: blob.Device) -> Facts:
        facts = {
            "device's address": self._address(device),
            "device's unit": str(device.unit),
            "device's timeout": exact_duration(device.timeout_ns),
            "device's settle": exact_duration(device.settle_ns),
            "device's request_delay": exact_duration(device.request_delay_ns),
            "device's heartbeat": "none",
            "device's lease": "none",
        }
        if device.flags & DeviceFlag.HAS_HEARTBEAT:
            every, watchdog = exact_duration(device.every_ns), exact_duration(device.watchdog_ns)
            place = f"hr:{device.heartbeat_address}"
            facts["device's heartbeat"] = f"{place} every {every}, watchdog {watchdog}"
        if device.flags & DeviceFlag.HAS_LEASE:
            within = exact_duration(device.lease_ns)
            facts["device's lease"] = f"hr:{device.lease_address} within {within}"
        return facts

    def _address(self, device: blob.Device) -> str:
        if device.kind == DeviceKind.MODBUS_RTU:
            parity = Parity(device.parity).name.lower()
            rs485 = ", rs485" if device.flags & DeviceFlag.RS485 else ""
            line = f"{device.baud} baud, parity {parity}, {device.stop_bits} stop{rs485}"
            return f"{self.name('ttys', device.tty)} ({line})"
        packed = device.address
        mapped = packed.startswith(_MAPPED)
        host = ipaddress.ip_address(packed[12:] if mapped else packed)
        return f"{host}:{device.port}" if mapped else f"[{host}]:{device.port}"


def _interlock_changes(ident: str, before: _Program, now: _Program) -> list[str]:
    what = f"interlock {ident}"
    if ident not in now.interlocks:
        return [f"{what} is gone"]
    changes = [] if now.armed(ident) else [f"{what} is NOT ARMED any more"]
    changes += _differences(what, before.interlock(ident), now.interlock(ident))
    if now.max_bypassed(ident) > before.max_bypassed(ident):
        most = f"{before.max_bypassed(ident)}, is {now.max_bypassed(ident)}"
        changes.append(f"{what}: max_bypassed of its group was {most}")
    tags, tags_now = before.reads(ident), now.reads(ident)
    for tag in sorted(tags.keys() & tags_now.keys()):
        if tags[tag] and tags_now[tag]:  # an older version's program does not tell them
            changes += _differences(f"tag {tag}", tags[tag], tags_now[tag])
    if not changes and before.interlocks[ident].fingerprint != now.interlocks[ident].fingerprint:
        changes.append(f"{what} is defined otherwise")
    return changes + _effect_changes(ident, before, now)


def _effect_changes(ident: str, before: _Program, now: _Program) -> list[str]:
    changes = []
    effects = now.effects(ident)
    for output, delay in sorted(before.effects(ident).items()):
        if output not in effects:
            changes.append(f"interlock {ident} does not trip {output} any more")
            continue
        if effects[output] != delay:
            was, is_now = exact_duration(delay), exact_duration(effects[output])
            changes.append(f"interlock {ident}: delay of {output} was {was}, is {is_now}")
        changes += _differences(f"output {output}", before.output(output), now.output(output))
        lost = sorted(before.fallbacks(output) - now.fallbacks(output))
        changes += [f"output {output} does not fall back on {name} any more" for name in lost]
    return changes


def _differences(
    what: str,
    old: Mapping[str, str],
    new: Mapping[str, str],
    counts: Callable[[str, str, str], bool] = lambda _key, was, now: was != now,
) -> list[str]:
    changes = [
        f"{what}: {key} was {_quoted(was)}, is {_quoted(new.get(key, 'nothing'))}"
        for key, was in old.items()
        if counts(key, was, new.get(key, "nothing"))
    ]
    added = sorted(new.keys() - old)
    return changes + [f"{what}: {key} was nothing, is {_quoted(new[key])}" for key in added]


def _relaxed(key: str, was: str, now: str) -> bool:
    """Of the site's own keys a longer time is weaker, and to do nothing."""
    if key in ("tick", "start_within"):
        return parse_duration(now) > parse_duration(was)
    return was != now and now == "nothing"


def _quoted(text: str) -> str:
    return f"`{text}`" if " " in text else text


def _said(flag: int) -> str:
    return _choice(flag, "true", "false")


def _choice(flag: int, yes: str, no: str) -> str:
    return yes if flag else no
