"""What is allowed and still weak: one line each, in the form of an error."""

from collections.abc import Iterable, Mapping
from typing import Final

from drivers.kind import Place
from drivers.registry import DRIVERS
from drivers.simulated import SIM
from gateway.logic import tree
from gateway.logic.bus import Bus, takes_turns
from gateway.logic.conditions import Conditions
from gateway.logic.inputs import same_points, shared_votes
from gateway.logic.redundancy import hides
from gateway.logic.timing import Path
from gateway.logic.tree import Expr, tags_of
from gateway.site.complaints import Complaints
from gateway.site.draft import Draft
from gateway.site.durations import format_duration
from gateway.site.model import Config, Device, Interlock, Output, Tag, by_id
from gateway.site.places import server_of
from gateway.site.uplink_rules import caution_of

WATCHDOG_NS_SHORT: Final = 3_000_000_000


def cautions(
    draft: Draft,
    config: Config,
    conditions: Conditions,
    paths: list[Path],
    buses: Iterable[Bus] = (),
) -> list[str]:
    """The warnings of a site without errors, sorted by line."""
    found = Complaints(draft.file)
    causes = conditions.causes
    tags: dict[str, Tag] = by_id(config.tag)
    devices: dict[str, Device] = by_id(config.device)
    _uplinks(draft, found)
    for device in draft.device:
        if device.item.driver == SIM:
            text = f'found "{SIM}": no such device is there, and nothing that it shows is real'
            found.add(device.origin, ("driver",), text)
        if device.item.insecure:
            text = "found true: everybody on that network can read and write there, or stand in"
            found.add(device.origin, ("insecure",), text)
        if device.item.insecure and device.item.credentials:
            text = "found it without security: a password may go readable, to whoever answers there"
            found.add(device.origin, ("credentials",), text)
    _outputs(draft, devices, found)
    _fallbacks(draft, devices, found)
    _look_alikes(draft, buses, causes, found)
    for entry in draft.interlock:
        interlock: Interlock = entry.item
        if not interlock.latch:
            text = "found false: the trip ends by itself when its cause does"
            found.add(entry.origin, ("latch",), text)
        for name, text in _inputs(tags, devices, causes[interlock.id]):
            found.add(entry.origin, ("cause",), f"{name} {text}")
        measured = conditions.computed.inlined(causes[interlock.id], all_of_them=True)
        for text in shared_votes(interlock, measured, tags, devices):
            found.add(entry.origin, ("cause",), text)
    for path in paths:
        if path.worst_ns * 2 > path.response_ns:
            entry = draft.by_id("interlock")[path.interlock]
            text = f"{response_text(path)}, more than half of it"
            found.add(entry.origin, ("response",), text)
    return found.lines()


def _uplinks(draft: Draft, found: Complaints) -> None:
    if not draft.uplink:
        text = "found no [[uplink]]: alerts stay on this machine"
        found.at_line(draft.file, 1, "uplink", text)
    for entry in draft.uplink:
        if (caution := caution_of(entry.item)) is not None:
            found.add(entry.origin, *caution)


def _outputs(draft: Draft, devices: Mapping[str, Device], found: Complaints) -> None:
    told: set[str] = set()
    for entry in draft.output:
        output = entry.item
        if output.readback is None:
            text = "found none: nothing shows that the final element moved"
            found.add(entry.origin, ("readback",), text)
        if output.trip is True:
            text = "found true (energise to trip): a cut wire or a dead device cannot trip"
            found.add(entry.origin, ("trip",), text)
        if output.via is not None:
            text = 'found "gateway": not independent, the guard asks and the gateway writes'
            found.add(entry.origin, ("via",), text)
        elif devices[output.device].heartbeat is None and output.device not in told:
            told.add(output.device)
            device = draft.by_id("device")[output.device]
            text = "found none, with outputs on this device: nothing trips when the guard is gone"
            found.add(device.origin, ("heartbeat",), text)
    for device in draft.device:
        heartbeat = device.item.heartbeat
        if heartbeat is not None and heartbeat.watchdog < WATCHDOG_NS_SHORT:
            shown = format_duration(heartbeat.watchdog)
            text = f"found {shown}, below 3s: every restart of the guard trips the plant"
            found.add(device.origin, ("heartbeat", "watchdog"), text)


def _fallbacks(draft: Draft, devices: Mapping[str, Device], found: Complaints) -> None:
    """Who stands in for an output must not hang on the same wire."""
    outputs: dict[str, Output] = {entry.id: entry.item for entry in draft.output}
    for entry in draft.output:
        own = _wire(devices, entry.item)
        apart = [name for name in entry.item.fallback if _wire(devices, outputs[name]) != own]
        if entry.item.fallback and not apart:
            text = "found none on another device: what fails this output fails them too"
            found.add(entry.origin, ("fallback",), text)
        elif not apart and _on_line(devices, entry.item):
            text = "found none: a serial line that is cut or jammed reaches no output at all"
            found.add(entry.origin, ("fallback",), text)


def _on_line(devices: Mapping[str, Device], output: Output) -> bool:
    """Whether the output hangs on a serial line, behind a gateway of several units too."""
    own = devices[output.device]
    units = {
        device.unit
        for device in devices.values()
        if server_of(device.address) == _wire(devices, output)
    }
    return takes_turns(own) or (DRIVERS[own.driver].place is Place.ENDPOINT and len(units) > 1)


def _wire(devices: Mapping[str, Device], output: Output) -> str:
    return server_of(devices[output.device].address)


def _look_alikes(
    draft: Draft, buses: Iterable[Bus], causes: Mapping[str, Expr], found: Complaints
) -> None:
    """Replies on a serial line name no address: what tells two of one length apart is silence."""
    readers: dict[str, str] = {}
    for ident, cause in causes.items():
        for name in tags_of(cause):
            readers.setdefault(name, ident)
    for bus in buses:
        for one, other in bus.look_alikes():
            fed = next((name for name in (*one.tags, *other.tags) if name in readers), None)
            if fed is not None:
                text = (
                    f"found reads at {one.address} and {other.address} whose replies look alike, "
                    f"and {fed} feeds interlock {readers[fed]}: only silence tells a late reply "
                    f"from the next (join them by max_gap, or let them differ in length)"
                )
                found.add(draft.by_id("device")[one.device].origin, (), text)


def _inputs(
    tags: Mapping[str, Tag], devices: Mapping[str, Device], cause: Expr
) -> list[tuple[str, str]]:
    measured = [name for name in tags_of(cause) if name in tags]
    fast = {device.id for device in devices.values() if device.fast}
    slow = [name for name in measured if tags[name].device not in fast]
    said = [
        (name, f"is not fast: the gateway {_does(tags[name])} it, the guard does not")
        for name in slow
    ]
    text = "is not redundant: stuck at a harmless value it hides the cause"
    said += [(name, text) for name in measured if hides(cause, [name], measured)]
    for first, *others in same_points(measured, tags, devices):
        also = " and ".join(others)
        said.append((first, f"and {also} are one point of one device: they fail as one"))
    for name, span in _seen_through_windows(cause).items():
        blind = format_duration(span // 5)
        said.append((name, f"is seen through windows alone: its loss shows {blind} later"))
    return said


def _does(tag: Tag) -> str:
    return "polls" if tag.value is None else "computes"


def _seen_through_windows(cause: Expr) -> dict[str, int]:
    """Tags that a cause looks at through windows alone, with the shortest span, ns.

    A window stays known until a fifth of it is missing.
    """
    spans: dict[str, int] = {}
    direct: set[str] = set()
    waiting = [cause]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tree.Window):
            known = spans.get(node.tag.id, node.span_ns)
            spans[node.tag.id] = min(known, node.span_ns)
        elif isinstance(node, tree.TagRef):
            direct.add(node.id)
        else:
            waiting.extend(node.operands)
    return {name: span for name, span in spans.items() if name not in direct}


def response_text(path: Path) -> str:
    """``found "2s", worst demand 1.2s (ch4.t1), worst loss 800ms (fan.running) to power.face``."""
    return (
        f'found "{format_duration(path.response_ns)}", '
        f"worst demand {format_duration(path.demand_ns)} ({path.demand_tag}), "
        f"worst loss {format_duration(path.loss_ns)} ({path.loss_tag}) to {path.output}"
    )
