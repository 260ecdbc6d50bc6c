"""What is allowed and still weak: one line each, in the form of an error."""

from collections.abc import Mapping
from typing import Final

from gateway.logic.timing import Path, hiding_inputs
from gateway.logic.tree import Expr, tags_of
from gateway.site.complaints import Complaints
from gateway.site.draft import Draft
from gateway.site.durations import format_duration
from gateway.site.model import Config, Device, Interlock, Tag, by_id

WATCHDOG_NS_SHORT: Final = 3_000_000_000


def cautions(
    draft: Draft, config: Config, causes: Mapping[str, Expr], paths: list[Path]
) -> list[str]:
    """The warnings of a site without errors, sorted by line."""
    found = Complaints(draft.file)
    tags: dict[str, Tag] = by_id(config.tag)
    devices: dict[str, Device] = by_id(config.device)
    _uplinks(draft, found)
    _outputs(draft, devices, found)
    for entry in draft.interlock:
        interlock: Interlock = entry.item
        if not interlock.latch:
            text = "found false: the trip ends by itself when its cause does"
            found.add(entry.origin, ("latch",), text)
        for name, text in _inputs(tags, devices, causes[interlock.id]):
            found.add(entry.origin, ("cause",), f"{name} {text}")
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
        if devices[output.device].heartbeat is None and output.device not in told:
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


def _inputs(
    tags: Mapping[str, Tag], devices: Mapping[str, Device], cause: Expr
) -> list[tuple[str, str]]:
    measured = [name for name in tags_of(cause) if name in tags]
    slow = [name for name in measured if not devices[tags[name].device or ""].fast]
    said = [(name, "is not fast: the gateway polls it, the guard does not") for name in slow]
    hiding = hiding_inputs(cause, measured)
    if len(hiding) == 1:
        said.append(
            (next(iter(hiding)), "is not redundant: stuck at a harmless value it hides the cause")
        )
    return said


def response_text(path: Path) -> str:
    """``found "2s", worst demand 1.2s (ch4.t1), worst loss 800ms (fan.running) to power.face``."""
    return (
        f'found "{format_duration(path.response_ns)}", '
        f"worst demand {format_duration(path.demand_ns)} ({path.demand_tag}), "
        f"worst loss {format_duration(path.loss_ns)} ({path.loss_tag}) to {path.output}"
    )
