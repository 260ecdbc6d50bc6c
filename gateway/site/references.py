"""Who names whom, and what a key must be beside another: everything but the conditions.

Works on a draft, so that an error in one place hides none in another: what is wrong already is
left out of the checks that need it.
"""

import re
from itertools import pairwise
from typing import Any, Final, get_args

from gateway.site import uplink_rules
from gateway.site.complaints import did_you_mean, shown
from gateway.site.convert import Entry
from gateway.site.draft import LISTED, Draft
from gateway.site.durations import format_duration
from gateway.site.fallbacks import DEPTH_MAX, chains
from gateway.site.load import heartbeat_every, tag_times
from gateway.site.model import (
    Burst,
    Device,
    Effect,
    Interlock,
    Lane,
    Limits,
    Output,
    Tag,
    Uplink,
    is_text,
)
from gateway.site.places import Places
from gateway.site.signal_rules import flaws_of

RESERVED: Final = frozenset(
    (
        "and",
        "or",
        "not",
        "until",
        "for",
        "hold",
        "true",
        "false",
        "bad",
        "good",
        "abs",
        "min",
        "max",
    )
)
SYSTEM_PREFIX: Final = "sys."
POLL_NS_MIN: Final = 5_000_000
MEASURED_KEYS: Final = (
    "device", "point", "signal", "range", "poll", "stale_after", "stuck_after", "molar_mass",
)  # fmt: skip
TEXT_NEVER: Final = (
    "limits", "signal", "stuck_after", "molar_mass", "record_deadband", "record_within",
)  # fmt: skip
RECORD_NS_MIN: Final = 1_000_000_000
TICK_NS: Final = (1_000_000, 1_000_000_000)
TIMEOUT_NS: Final = (10_000_000, 10_000_000_000)
BYPASS_NS_MIN: Final = 1_000_000_000
LEASE_NS_MIN: Final = 1_000_000_000
TEST_NS_MIN: Final = 1_000_000_000
SILENCE_NS_MAX: Final = 24 * 3_600_000_000_000
ROTATE_NS: Final = (1_000_000_000, 24 * 3_600_000_000_000)

_READBACK: Final = re.compile(r"(?:(not)\s+)?(\S+)")


def check_references(draft: Draft, places: Places) -> None:
    """Complain about every id, reference and combination of keys that cannot be."""
    _Checker(draft, places).run()


def readback_of(text: str) -> tuple[str, bool] | None:
    """(tag, inverted) of ``"x"`` or ``"not x"``; None for anything else."""
    match = _READBACK.fullmatch(text.strip())
    return (match[2], match[1] is not None) if match else None


class _Checker:
    def __init__(self, draft: Draft, places: Places) -> None:
        self.draft = draft
        self.places = places

    def run(self) -> None:
        self.ids()
        self.site()
        for device in self.draft.device:
            self.device(device)
        for tag in self.draft.tag:
            self.tag(tag)
        for output in self.draft.output:
            self.output(output)
        self.fallback_chains()
        for interlock in self.draft.interlock:
            self.interlock(interlock)
        for uplink in self.draft.uplink:
            self.uplink(uplink)

    def complain(self, entry: Entry[Any], keys: tuple[str | int, ...], text: str) -> None:
        entry.bad.add(".".join(key for key in keys if isinstance(key, str)))
        self.draft.complaints.add(entry.origin, keys, text)

    # ---- ids

    def ids(self) -> None:
        shared: dict[str, Entry[Any]] = {}
        for kind in LISTED:
            seen = shared if kind in ("tag", "output", "interlock") else {}
            for entry in self.draft.entries(kind):
                if not entry.id:
                    continue
                first = seen.setdefault(entry.id, entry)
                if first is not entry:
                    place = f"{first.origin.file}:{first.origin.line(('id',))}"
                    text = f"found {shown(entry.id)}, expected an id of its own (first at {place})"
                    self.complain(entry, ("id",), text)
        for entry in self.draft.tag:
            if entry.id in RESERVED or entry.id.startswith(SYSTEM_PREFIX):
                text = f"found {shown(entry.id)}, expected an id that is no word of conditions"
                self.complain(entry, ("id",), text)

    def reference(
        self, entry: Entry[Any], keys: tuple[str | int, ...], kind: str, name: str
    ) -> bool:
        """Whether ``name`` is a table of this kind; complains where it is not."""
        if self.draft.knows(kind, name):
            return True
        near = did_you_mean(name, self.draft.by_id(kind))
        article = "an" if kind[0] in "aeiou" else "a"
        self.complain(
            entry, keys, f"found {shown(name)}, expected the id of {article} {kind}{near}"
        )
        return False

    # ---- numbers

    def between(
        self, entry: Entry[Any], keys: tuple[str, ...], ns: int | None, low: int, high: int | None
    ) -> None:
        """A duration's bounds; ``high`` None: no upper one."""
        if ns is None or not entry.ok(".".join(keys)):
            return
        if ns < low or (high is not None and ns > high):
            top = f" to {format_duration(high)}" if high is not None else " or more"
            text = f"found {shown(format_duration(ns))}, expected {format_duration(low)}{top}"
            self.complain(entry, keys, text)

    # ---- tables

    def site(self) -> None:
        site = self.draft.site
        for uplink in site.item.discard_uplinks if site.ok("discard_uplinks") else ():
            if text := self._discarded(uplink):
                self.complain(site, ("discard_uplinks",), f"found {shown(uplink)}, {text}")
        self.between(site, ("tick",), site.item.tick, *TICK_NS)
        listen = self.draft.single["view"]
        if listen.ok("listen"):
            self.places.check_listen(listen)
        history = self.draft.single["history"]
        if history.ok("max_bytes") and history.item.max_bytes < 1_000_000:
            self.complain(history, ("max_bytes",), "found less than 1MB, expected 1MB or more")

    def _discarded(self, name: str) -> str:
        """What is wrong with an entry of ``discard_uplinks``; "" nothing."""
        ident, _, lane = name.partition("/")
        entry = self.draft.by_id("uplink").get(ident)
        if not lane:
            return "expected no uplink of this file" if entry else ""
        if entry is None or lane not in get_args(Lane):
            return 'expected the id of an uplink of this file and a lane, as in "platform/alert"'
        known = entry.ok("lanes") and lane in entry.item.lanes
        return "expected a lane that the uplink does not have any more" if known else ""

    def device(self, entry: Entry[Device]) -> None:
        device = entry.item
        self.places.check_device(entry)
        self.between(entry, ("poll",), device.poll, POLL_NS_MIN, None)
        self.between(entry, ("timeout",), device.timeout, *TIMEOUT_NS)
        self.between(entry, ("record_within",), device.record_within, RECORD_NS_MIN, None)
        if device.watchdog_registers and not device.fast and entry.ok("fast"):
            text = "found it on a device that is not fast, expected fast = true: the guard reads it"
            self.complain(entry, ("watchdog_registers",), text)
        self.lease(entry)
        if device.burst is not None and entry.ok("burst"):
            self.burst(entry, device.burst)
        self.polled_keys(entry)
        heartbeat = device.heartbeat
        if heartbeat is None:
            return
        every = heartbeat.every
        self.between(entry, ("heartbeat", "every"), every, POLL_NS_MIN, heartbeat.watchdog)
        least = POLL_NS_MIN if every is not None else 200_000_000
        self.between(entry, ("heartbeat", "watchdog"), heartbeat.watchdog, least, None)

    def burst(self, entry: Entry[Device], burst: Burst) -> None:
        """It is faster, the gateway's own, and some alarm raises it."""
        device = entry.item
        if device.fast and entry.ok("fast"):
            text = "found it on a fast device, expected none: the guard polls it at one rate"
            self.complain(entry, ("burst",), text)
        if entry.ok("poll"):
            self.between(entry, ("burst", "poll"), burst.poll, POLL_NS_MIN, device.poll)
        known = all(
            self.reference(entry, ("burst", "on", number), "tag", name)
            for number, name in enumerate(burst.on)
        )
        watched = [
            tag.item
            for tag in self.draft.tag
            if tag.id in burst.on or (not burst.on and tag.item.device == device.id)
        ]
        if known and not any(tag.limits for tag in watched) and "tag" not in self.draft.incomplete:
            text = "found no limits of any tag that raises it, expected an alarm"
            self.complain(entry, ("burst", "on"), text)

    def polled_keys(self, entry: Entry[Device]) -> None:
        """What the gateway watches while it polls; the guard has one address and no counters."""
        device = entry.item
        if not entry.ok("fast"):
            return
        if device.fast and device.alive is not None and entry.ok("alive"):
            text = (
                "found it on a fast device: the guard polls it and keeps no counter of lives, "
                "expected stuck_after on a tag of that register, which makes that tag bad"
            )
            self.complain(entry, ("alive",), text)
        if device.fast and device.backup is not None and entry.ok("backup"):
            text = "found it on a fast device, expected none: the guard speaks to one address"
            self.complain(entry, ("backup",), text)
        if device.alive is None or device.fast:
            return
        polls = [tag.item.poll or device.poll for tag in self.draft.tag if tag.ok("device", "poll")
                 and tag.item.device == entry.id]  # fmt: skip
        least = 2 * min(polls, default=device.poll)
        self.between(entry, ("alive", "within"), device.alive.within, least, None)

    def lease(self, entry: Entry[Device]) -> None:
        """It is refreshed with the heartbeat, at least twice before it ends."""
        lease, heartbeat = entry.item.lease, entry.item.heartbeat
        if lease is None:
            return
        if heartbeat is None:
            if entry.ok("heartbeat"):
                text = "found it without a heartbeat, expected one: it is refreshed with it"
                self.complain(entry, ("lease",), text)
            return
        least = LEASE_NS_MIN
        if entry.ok("heartbeat.every", "heartbeat.watchdog"):
            least = max(least, 2 * heartbeat_every(heartbeat))
        self.between(entry, ("lease", "within"), lease.within, least, None)

    def tag(self, entry: Entry[Tag]) -> None:
        tag = entry.item
        self.recorded(entry)
        if tag.value is not None or not entry.ok("value"):
            self.computed(entry)
            return
        if tag.device is not None and entry.ok("device"):
            self.reference(entry, ("device",), "device", tag.device)
        elif tag.device is None and entry.ok("device") and not entry.damaged:
            self.complain(entry, ("device",), "found nothing, expected the id of a device")
        if tag.point is None and entry.ok("point") and not entry.damaged:
            self.complain(entry, ("point",), 'found nothing, expected { address = "ir:100", … }')
        self.between(entry, ("poll",), tag.poll, POLL_NS_MIN, None)
        self.between(entry, ("stale_after",), tag.stale_after, POLL_NS_MIN, None)
        self.stuck(entry)
        if tag.signal is not None and entry.ok("signal", "range", "unit"):
            self.signal(entry)
        if is_text(tag.point):
            self.text(entry)
        self.places.check_tag(entry)
        if entry.ok("range") and tag.range is not None and not tag.range[0] < tag.range[1]:
            self.complain(entry, ("range",), f"found {shown(tag.range)}, expected low < high")
        if tag.limits is not None:
            self.limits(entry, tag.limits)

    def recorded(self, entry: Entry[Tag]) -> None:
        """By exception: of changes alone, and of what has more than two values."""
        tag = entry.item
        self.between(entry, ("record_within",), tag.record_within, RECORD_NS_MIN, None)
        device = self.draft.by_id("device").get(tag.device or "")
        if device is not None and not device.ok("record"):
            return
        record = tag.record or (device.item.record if device is not None else "change")
        for key in ("record_deadband", "record_within"):
            if getattr(tag, key) is not None and record != "change" and entry.ok("record", key):
                text = f'found it beside record = "{record}", expected it beside "change" alone'
                self.complain(entry, (key,), text)
        if tag.record_deadband is not None and self.places.is_boolean(entry):
            text = "found it on a boolean tag, expected it on a number"
            self.complain(entry, ("record_deadband",), text)

    def text(self, entry: Entry[Tag]) -> None:
        """A text lives in the gateway alone and has no alarm."""
        for key in TEXT_NEVER:
            if getattr(entry.item, key) is not None and entry.ok(key):
                text = f"found {key} on a text tag, expected none: it is shown and sent on change"
                self.complain(entry, (key,), text)
        device = self.draft.by_id("device").get(entry.item.device or "")
        if device is not None and device.ok("fast") and device.item.fast:
            text = 'found "text" on a fast device, expected a number: the guard keeps no texts'
            self.complain(entry, ("point", "type"), text)

    def stuck(self, entry: Entry[Tag]) -> None:
        """One poll proves nothing."""
        tag = entry.item
        device = self.draft.by_id("device").get(tag.device or "")
        if tag.stuck_after is None or device is None or not device.ok("fast", "poll"):
            return
        if entry.ok("poll"):
            least = 2 * tag_times(tag, device.item)[0]
            self.between(entry, ("stuck_after",), tag.stuck_after, least, None)

    def signal(self, entry: Entry[Tag]) -> None:
        device = self.draft.by_id("device").get(entry.item.device or "")
        fast = device is not None and device.ok("fast") and device.item.fast
        boolean = bool(self.places.is_boolean(entry))
        for keys, text in flaws_of(entry.item, fast=fast, boolean=boolean):
            if entry.ok(".".join(keys)):
                self.complain(entry, keys, text)

    def computed(self, entry: Entry[Tag]) -> None:
        """A computed tag is read nowhere."""
        for key in MEASURED_KEYS:
            if getattr(entry.item, key) is not None and entry.ok(key):
                text = f"found {key} on a computed tag, expected none (value says what it is)"
                self.complain(entry, (key,), text)
        if entry.item.limits is not None:
            self.limits(entry, entry.item.limits)

    def limits(self, entry: Entry[Tag], limits: Limits) -> None:
        names = ("low_low", "low", "high", "high_high")
        given = {name: getattr(limits, name) for name in names}
        known = {name: value for name, value in given.items() if value is not None}
        if not known and entry.ok("limits"):
            self.complain(
                entry, ("limits",), "found no limit, expected low_low, low, high, high_high"
            )
        if self.places.is_boolean(entry):
            text = "found limits of a boolean tag, expected them of a number"
            self.complain(entry, ("limits",), text)
            return
        for (below, low), (above, high) in pairwise(known.items()):
            if low >= high:
                text = f"found {high:g}, expected more than {below} = {low:g}"
                self.complain(entry, ("limits", above), text)
        bounds = entry.item.range
        if bounds is None or not entry.ok("range"):
            return
        for name, value in known.items():
            if not bounds[0] <= value <= bounds[1]:
                text = f"found {value:g}, expected a value within range {shown(list(bounds))}"
                self.complain(entry, ("limits", name), text)

    def output(self, entry: Entry[Output]) -> None:
        output = entry.item
        if entry.ok("device"):
            self.reference(entry, ("device",), "device", output.device)
        self.places.check_output(entry)
        if output.via is not None and entry.ok("via", "device"):
            self.via(entry)
        self.between(entry, ("silence",), output.silence, 0, SILENCE_NS_MAX)
        if entry.ok("fallback"):
            self.fallback(entry)
        self.between(entry, ("confirm_within",), output.confirm_within, TIMEOUT_NS[0], None)
        self.between(entry, ("reassert",), output.reassert, POLL_NS_MIN, None)
        if output.readback is not None and entry.ok("readback"):
            self.readback(entry, output.readback)

    def via(self, entry: Entry[Output]) -> None:
        """The gateway writes where it polls; a fast device is the guard's alone."""
        device = self.draft.by_id("device").get(entry.item.device)
        if device is not None and device.ok("fast") and device.item.fast:
            text = (
                f'found "gateway" on the fast device {entry.item.device}, expected a device that '
                f"the gateway polls (the guard alone speaks to a fast one)"
            )
            self.complain(entry, ("via",), text)

    def fallback(self, entry: Entry[Output]) -> None:
        names = entry.item.fallback
        for number, name in enumerate(names):
            keys = ("fallback", number)
            if name in names[:number]:
                self.complain(entry, keys, f"found {shown(name)} a second time, expected it once")
            elif name == entry.id:
                text = f"found {shown(name)}, which is the output itself, expected another one"
                self.complain(entry, keys, text)
            else:
                self.reference(entry, keys, "output", name)

    def fallback_chains(self) -> None:
        """A chain of fallbacks ends, and soon: who fails in turn must still be in time."""
        outputs = self.draft.by_id("output")
        below = {
            ident: [name for name in entry.item.fallback if name != ident]
            for ident, entry in outputs.items()
            if entry.ok("fallback")
        }
        for ident in below:
            below[ident] = [name for name in below[ident] if name in below]
        ends, circles = chains(below)
        for circle in circles:
            text = f"found a circle, {' -> '.join(circle)}, expected a chain that ends"
            self.complain(outputs[circle[0]], ("fallback",), text)
        for ident, chain in ends.items():
            if len(chain) - 1 > DEPTH_MAX:
                text = f"found {' -> '.join(chain)}, expected at most {DEPTH_MAX} in turn"
                self.complain(outputs[ident], ("fallback",), text)

    def readback(self, entry: Entry[Any], text: str) -> None:
        parsed = readback_of(text)
        if parsed is None:
            said = f'found {shown(text)}, expected a boolean tag "x" or "not x"'
            self.complain(entry, ("readback",), said)
        elif self.reference(entry, ("readback",), "tag", parsed[0]):
            tag = self.draft.by_id("tag").get(parsed[0])
            if tag is not None and tag.item.value is not None:
                said = f"found {shown(text)}, which is computed, expected a measured tag"
                self.complain(entry, ("readback",), said)
            elif tag is not None and self.places.is_boolean(tag) is False:
                said = f"found {shown(text)}, which is a number, expected a boolean tag"
                self.complain(entry, ("readback",), said)

    def interlock(self, entry: Entry[Interlock]) -> None:
        interlock = entry.item
        if entry.ok("effects"):
            self.effects(entry, interlock.effects)
        if entry.ok("on_bad", "hold_max"):
            if interlock.on_bad == "hold" and not interlock.hold_max:
                text = 'found nothing, expected a duration such as "10s" (on_bad = "hold")'
                self.complain(entry, ("hold_max",), text)
            elif interlock.on_bad != "hold" and interlock.hold_max is not None:
                text = f'found it with on_bad = "{interlock.on_bad}", expected on_bad = "hold"'
                self.complain(entry, ("hold_max",), text)
        if entry.ok("shares"):
            for number, name in enumerate(interlock.shares):
                self.reference(entry, ("shares", number), "device", name)
        if entry.ok("group") and interlock.group is not None:
            self.group(entry, interlock.group)
        if interlock.no_bypass and "bypass_max" in entry.raw:
            text = "found it with no_bypass = true, expected one of the two"
            self.complain(entry, ("bypass_max",), text)
        self.between(entry, ("bypass_max",), interlock.bypass_max, BYPASS_NS_MIN, None)
        self.between(entry, ("test_every",), interlock.test_every, TEST_NS_MIN, None)

    def effects(self, entry: Entry[Interlock], effects: tuple[Effect, ...]) -> None:
        if not effects and (interlock_armed := entry.item.armed) and entry.ok("armed"):
            text = f"found [], expected an output (armed = {shown(interlock_armed)})"
            self.complain(entry, ("effects",), text)
        names = [effect.output for effect in effects]
        for number, name in enumerate(names):
            if name in names[:number]:
                text = f"found {shown(name)} a second time, expected it once"
                self.complain(entry, ("effects", number), text)
            else:
                self.reference(entry, ("effects", number), "output", name)

    def group(self, entry: Entry[Interlock], name: str) -> None:
        """A group need not be declared, but a slip of one that is should not make another."""
        declared = self.draft.by_id("group")
        if declared and not self.draft.knows("group", name):
            near = did_you_mean(name, declared)
            if near:
                text = f"found {shown(name)}, expected the id of a group{near}"
                self.complain(entry, ("group",), text)

    def uplink(self, entry: Entry[Uplink]) -> None:
        for keys, text in uplink_rules.flaws_of(entry):
            self.complain(entry, keys, text)
        self.between(entry, ("timeout",), entry.item.timeout, 100_000_000, None)
        self.between(entry, ("rotate_after",), entry.item.rotate_after, *ROTATE_NS)
