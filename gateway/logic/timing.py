"""How long each interlock takes at worst, from its input to each of its outputs.

Demand: the condition comes true just after it was polled. Loss: an input falls silent just after
its last good value. Both end when the device of the output has been written. What is not known for
sure counts as the worse: the output's request is the last of its device in that scan, and a delay
that holds back a demand holds back a loss too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from drivers.points import Area, parse_address
from gateway.logic import tree
from gateway.logic.conditions import GATEWAY_ALIVE, connected_tag
from gateway.logic.tree import Expr
from gateway.site.draft import Draft
from gateway.site.load import tag_times
from gateway.site.model import Device, Interlock, Output, Tag

WRITE_TIMEOUT_NS: Final = 200_000_000
GATEWAY_SILENT_NS: Final = 3_000_000_000  # the guard takes a gateway that says nothing for dead
WRITE_BITS_MAX: Final = 1_968  # of one request
WRITE_REGISTERS_MAX: Final = 123


@dataclass(frozen=True, slots=True)
class Path:
    """One cause and one output: worst demand and worst loss, ns, and the inputs that make them."""

    interlock: str
    output: str
    demand_ns: int
    demand_tag: str
    loss_ns: int
    loss_tag: str
    response_ns: int

    @property
    def worst_ns(self) -> int:
        """The longer of the two."""
        return max(self.demand_ns, self.loss_ns)


class Timing:
    """Worst cases of a draft, of what in it is good."""

    def __init__(self, draft: Draft) -> None:
        self._tick = int(draft.site.item.tick) if draft.site.ok("tick") else 0
        self._devices: dict[str, Device] = {
            entry.id: entry.item for entry in draft.device if entry.ok("poll", "timeout", "base")
        }
        self._tags: dict[str, Tag] = {
            entry.id: entry.item
            for entry in draft.tag
            if entry.ok("poll", "stale_after", "device") and entry.item.device in self._devices
        }
        self._outputs: dict[str, Output] = {
            entry.id: entry.item
            for entry in draft.output
            if entry.ok("address", "device", "unit") and entry.item.device in self._devices
        }
        self._system = {GATEWAY_ALIVE: (GATEWAY_SILENT_NS, GATEWAY_SILENT_NS)}
        for device in self._devices.values():
            silent = 3 * int(device.poll) + int(device.timeout)
            self._system[connected_tag(device.id)] = (silent, silent)
        self._writes = {device: self._write_ns(device) for device in self._devices}

    def paths(self, interlock: Interlock, cause: Expr) -> list[Path]:
        """One path per effect; none for a cause whose tags are all unknown."""
        delays = delays_of(cause)
        known = [name for name in delays if name in self._tags or name in self._system]
        times = {name: self._times(name, delays[name]) for name in known}
        if not times:
            return []
        demand_tag = max(times, key=lambda name: times[name][0])
        loss_tag = max(times, key=lambda name: times[name][1])
        held = int(interlock.hold_max or 0) if interlock.on_bad == "hold" else 0
        own = int(interlock.delay) + self._tick
        paths: list[Path] = []
        for effect in interlock.effects:
            name = effect.output
            if name in self._outputs:
                rest = own + int(effect.delay) + self._writes[self._outputs[name].device]
                demand = times[demand_tag][0] + rest
                loss = times[loss_tag][1] + int(interlock.bad_for) + held + rest
                response = int(interlock.response)
                paths.append(Path(interlock.id, name, demand, demand_tag, loss, loss_tag, response))
        return paths

    def _times(self, name: str, delay: int) -> tuple[int, int]:
        """(demand, loss) of one input up to the condition."""
        if name in self._system:
            demand, loss = self._system[name]
            return demand + delay, loss + delay
        tag = self._tags[name]
        device = self._devices[tag.device or ""]
        poll, stale_after = tag_times(tag, device)
        return 2 * poll + int(device.timeout) + delay, stale_after + delay

    def _write_ns(self, device: str) -> int:
        own = self._devices[device]
        places: dict[tuple[int, Area], set[int]] = {}
        for output in self._outputs.values():
            if output.device == device:
                address = parse_address(output.address, base=own.base)
                unit = own.unit if output.unit is None else output.unit
                places.setdefault((unit, address.area), set()).add(address.number)
        requests = sum(_requests(area, numbers) for (_, area), numbers in places.items())
        return requests * WRITE_TIMEOUT_NS


def delays_of(cause: Expr) -> dict[str, int]:
    """Each tag of a condition with the longest sum of ``for`` above it, ns."""
    found: dict[str, int] = {}
    waiting = [(cause, 0)]
    while waiting:
        node, delay = waiting.pop()
        if isinstance(node, tree.For):
            delay += node.duration_ns
        if isinstance(node, tree.TagRef):
            found[node.id] = max(delay, found.get(node.id, 0))
        waiting.extend((operand, delay) for operand in node.operands)
    return found


def hiding_inputs(cause: Expr, measured: Iterable[str]) -> frozenset[str]:
    """A smallest set of measured tags that, stuck at harmless values, hide the cause.

    One tag alone means that the cause has no redundancy.
    """
    names = frozenset(measured)
    return _hiding(cause, names)


def _hiding(node: Expr, names: frozenset[str]) -> frozenset[str]:
    below = [_hiding(operand, names) for operand in node.operands]
    if isinstance(node, tree.TagRef):
        return frozenset((node.id,)) & names
    if isinstance(node, tree.Vote):
        kept = sorted(below, key=len)[: len(below) - node.needed + 1]
        return frozenset().union(*kept)
    if isinstance(node, tree.Or) or (isinstance(node, tree.Call) and node.name in ("min", "max")):
        return frozenset().union(*below)
    filled = [each for each in below if each]
    return min(filled, key=len) if filled else frozenset()


def _requests(area: Area, numbers: set[int]) -> int:
    """Write requests for these places: one for each run of neighbours."""
    most = WRITE_BITS_MAX if area is Area.COIL else WRITE_REGISTERS_MAX
    requests, last, length = 0, -2, 0
    for number in sorted(numbers):
        if number != last + 1 or length == most:
            requests, length = requests + 1, 0
        last, length = number, length + 1
    return requests
