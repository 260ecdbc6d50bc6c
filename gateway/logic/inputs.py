"""How each input of an interlock is read: by whom, from where, how old it may be, what is shared.

A vote is worth as much as its votes are independent: what can make enough of them stand still
together hides the cause, whatever M and N say.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from drivers.kind import Place
from drivers.registry import DRIVERS
from gateway.logic import tree
from gateway.logic.computed import ComputedTags
from gateway.logic.redundancy import hides
from gateway.logic.tag_records import FED_STALE_NS
from gateway.logic.timing import GATEWAY_TELLS_NS
from gateway.logic.tree import Expr, tags_of
from gateway.site.durations import format_duration
from gateway.site.load import tag_times
from gateway.site.model import Config, Device, Interlock, Output, Tag, by_id
from gateway.site.places import box_of, host_of, server_of


@dataclass(frozen=True, slots=True)
class Input:
    """One measured input. ``age_ns``: the oldest value that still counts, from when it was read."""

    tag: str
    device: str
    driver: str
    point: str  # its address in the device
    by: str  # guard, gateway
    poll_ns: int
    age_ns: int
    through: str | None = None  # the gateway's computed tag that it is read for

    def text(self) -> str:
        """``ch4.t1: plc-face ir:100 (modbus-tcp) by the guard every 50ms, at most 500ms old``."""
        through = f", then through {self.through} of the gateway," if self.through else ""
        return (
            f"{self.tag}: {self.device} {self.point} ({self.driver}) by the {self.by}{through} "
            f"every {format_duration(self.poll_ns)}, at most {format_duration(self.age_ns)} old"
        )


def inputs_of(config: Config, conditions: Iterable[Expr], computed: ComputedTags) -> list[Input]:
    """The measured inputs of conditions, in the order of the site file."""
    tags: dict[str, Tag] = by_id(config.tag)
    devices: dict[str, Device] = by_id(config.device)
    read: dict[str, str | None] = {}
    for name in [name for condition in conditions for name in tags_of(condition)]:
        if name in computed.tags:
            for below in tags_of(computed.tags[name].tree):
                read.setdefault(below, name)
        else:
            read[name] = None
    return [
        _input(tags[name], devices[tags[name].device or ""], read[name])
        for name in tags
        if name in read and tags[name].point is not None
    ]


def _input(tag: Tag, device: Device, through: str | None) -> Input:
    poll_ns, age_ns = tag_times(tag, device)
    if through is not None:  # with the gateway gone, the guard goes by its last word for so long
        age_ns = max(age_ns, FED_STALE_NS) + GATEWAY_TELLS_NS
    return Input(
        tag=tag.id,
        device=device.id,
        driver=device.driver,
        point=_place(tag, device),
        by="guard" if device.fast else "gateway",
        poll_ns=poll_ns,
        age_ns=age_ns,
        through=through,
    )


def _place(tag: Tag, device: Device) -> str:
    """The point as the site file has it."""
    point = tag.point
    if point is None:
        return ""
    written = point.address or point.node or point.path or point.field
    return str(written) if written else DRIVERS[device.driver].describe(device, point)


@dataclass(frozen=True, slots=True)
class CommonLine:
    """A port or server that carries several devices of one interlock: what ends it ends them all.

    ``inputs`` are tags, ``outputs`` its effects, each with its device.
    """

    address: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """``/dev/ttyS1: a (bus-a), b (bus-b), output siren (bus-c): not independent``."""
        carried = [f"{tag} ({device})" for tag, device in self.inputs]
        carried += [f"output {name} ({device})" for name, device in self.outputs]
        return f"{self.address}: {', '.join(carried)}: not independent"


def common_lines(
    interlock: Interlock,
    inputs: Iterable[Input],
    outputs: Mapping[str, Output],
    devices: Mapping[str, Device],
) -> list[CommonLine]:
    """Where several devices of an interlock are reached by one address, in the site's order.

    A backup is such an address: who fell back to it hangs on it with all who are there.
    """
    read = [(each.tag, each.device) for each in inputs]
    effects = dict.fromkeys(effect.output for effect in interlock.effects)
    written = [(name, outputs[name].device) for name in effects]
    carried: dict[str, list[str]] = {}
    addresses: dict[str, list[str]] = {}
    for device in dict.fromkeys(device for _, device in (*read, *written)):
        for box, address in _boxes(devices[device]).items():
            carried.setdefault(box, []).append(device)
            addresses.setdefault(box, []).append(address)
    return [
        CommonLine(
            address=_one_of(addresses[box]),
            inputs=tuple(each for each in read if each[1] in members),
            outputs=tuple(each for each in written if each[1] in members),
        )
        for box, members in carried.items()
        if len(members) > 1
    ]


def _one_of(addresses: Sequence[str]) -> str:
    """The first as written; of a host at several ports the host alone."""
    ports = {server_of(each) for each in addresses}
    return addresses[0] if len(ports) == 1 else host_of(addresses[0])


def shared_votes(
    interlock: Interlock, cause: Expr, tags: Mapping[str, Tag], devices: Mapping[str, Device]
) -> Iterator[str]:
    """What each M out of N of a cause hangs on that the site file does not own up to."""
    for node in tree.walk(cause):
        if not isinstance(node, tree.Vote):
            continue
        hanging: dict[str, list[frozenset[str]]] = {}  # by device or server: each vote's devices
        for vote in node.votes:
            own = frozenset(
                device for name in tags_of(vote) if name in tags if (device := tags[name].device)
            )
            for place in _places(own, devices):
                hanging.setdefault(place, []).append(own)
        hiding = len(node.votes) - node.needed + 1
        if hiding == 1:
            continue  # no redundancy at all, which is told of each input
        told: set[str] = set()
        for place, votes in sorted(hanging.items(), key=lambda item: item[0] not in devices):
            at = frozenset().union(*votes) if place not in devices else frozenset((place,))
            behind = {d for d in at if place == d or place in _boxes(devices[d])}
            if len(votes) < hiding or behind <= {*interlock.shares, *told}:
                continue
            told |= behind
            whole = "all" if len(votes) == len(node.votes) else f"{len(votes)} of"
            where = place if place in devices else f"{_listed(sorted(behind))} at one address"
            stuck = [
                name for name in tags_of(cause) if name in tags and tags[name].device in behind
            ]
            hidden = "the cause" if hides(cause, stuck, tags) else "this vote"
            yield (
                f"{whole} {len(node.votes)} votes of {node.needed}oo{len(node.votes)} come from "
                f"{where}: not independent, what stands still there hides {hidden}"
            )


def same_points(
    names: Iterable[str], tags: Mapping[str, Tag], devices: Mapping[str, Device]
) -> list[list[str]]:
    """Measured tags that are one and the same point of one device, two or more of each."""
    found: dict[tuple[str, int, str], list[str]] = {}
    for name in names:
        device = devices.get(tags[name].device or "")
        if device is None or tags[name].point is None:
            continue
        kind = DRIVERS[device.driver]
        if kind.place is not Place.NOWHERE:
            place = kind.describe(device, tags[name].point)
            found.setdefault((server_of(device.address), device.unit, place), []).append(name)
    return [each for each in found.values() if len(each) > 1]


def _boxes(device: Device) -> dict[str, str]:
    """What a device hangs on at its address and its backup's, each as written."""
    return {box_of(each): each for each in (device.address, device.backup) if each}


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _places(own: Iterable[str], devices: Mapping[str, Device]) -> set[str]:
    """Devices, and the servers or serial lines that they are reached by."""
    known = [name for name in own if name in devices]
    return {*known, *(box for name in known for box in _boxes(devices[name]))}
