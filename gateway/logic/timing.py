"""How long each interlock takes at worst, from its input to each of its outputs.

Demand: the condition comes true just after it was polled. Loss: an input falls silent just after
its last good value. Both end when the device of the output has been written. What is not known for
sure counts as the worse: the output's request is the last of its device in that scan, and a delay
that holds back a demand holds back a loss too. On a serial line every exchange that is due comes
first, and one of them times out; an output through the gateway waits for the gateway's own turn.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from drivers.errors import PointError, RequestError
from drivers.modbus_kinds import point_of
from drivers.points import Area, ModbusPoint, parse_address
from drivers.serial_kind import SERIAL
from gateway.logic import tree
from gateway.logic.bus import Bus, buses_of, given_up_ns, servers_of, takes_turns, write_ns
from gateway.logic.computed import ComputedTags
from gateway.logic.conditions import GATEWAY_ALIVE, connected_tag
from gateway.logic.tag_records import FED_STALE_NS
from gateway.logic.tree import Expr
from gateway.site.convert import Entry
from gateway.site.draft import Draft
from gateway.site.load import tag_times
from gateway.site.model import Device, Interlock, Output, Tag

WRITE_TIMEOUT_NS: Final = 200_000_000
GATEWAY_SILENT_NS: Final = 3_000_000_000  # the guard takes a gateway that says nothing for dead
GATEWAY_TURN_NS: Final = 1_000_000_000  # until the gateway has seen what the guard wants
GATEWAY_TELLS_NS: Final = 1_000_000_000  # how often it tells what it makes itself
WRITE_BITS_MAX: Final = 1_968  # of one request
WRITE_REGISTERS_MAX: Final = 123

Points = dict[str, list[tuple[int, str, ModbusPoint | None]]]  # (period, tag, point) by device


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
    independent: bool = True  # False: the gateway writes it, not the guard

    @property
    def worst_ns(self) -> int:
        """The longer of the two."""
        return max(self.demand_ns, self.loss_ns)


class Timing:
    """Worst cases of a draft, of what in it is good."""

    def __init__(self, draft: Draft, computed: ComputedTags) -> None:
        self._tick = int(draft.site.item.tick) if draft.site.ok("tick") else 0
        self._devices: dict[str, Device] = {
            entry.id: entry.item
            for entry in draft.device
            if entry.ok("poll", "timeout", "base", "unit", "heartbeat", "line", "request_delay")
        }
        self._tags: dict[str, Tag] = {
            entry.id: entry.item
            for entry in draft.tag
            if entry.ok("poll", "stale_after", "device") and entry.item.device in self._devices
        }
        self._outputs: dict[str, Output] = {
            entry.id: entry.item
            for entry in draft.output
            if entry.ok("address", "device", "unit", "via") and entry.item.device in self._devices
        }
        self._system = {GATEWAY_ALIVE: (GATEWAY_SILENT_NS, GATEWAY_SILENT_NS)}
        for device in self._devices.values():
            poll = int(device.poll)
            if not device.fast:  # the scanner hears of it as often as it asks
                own = [tag for tag in self._tags.values() if tag.device == device.id]
                poll = max(poll, min((int(tag.poll or poll) for tag in own), default=0))
            silent = 3 * poll + int(device.timeout)
            loss = silent if device.fast else max(silent, FED_STALE_NS)
            self._system[connected_tag(device.id)] = (silent, loss)
        lines = {name: item for name, item in self._devices.items() if takes_turns(item)}
        self.buses: dict[str, Bus] = buses_of(lines, self._points(draft.tag))
        self._writes = {name: self._write_ns(item) for name, item in self._outputs.items()}
        self._system |= self._far(computed)

    def _far(self, computed: ComputedTags) -> dict[str, tuple[int, int]]:
        """(demand, loss) of the computed tags that the gateway tells the guard."""
        found = {}
        for ident, each in computed.tags.items():
            delays = delays_of(each.tree)
            times = [self._times(name, delays[name]) for name in delays if name in self._tags]
            if each.far and times:
                demand = max(time[0] for time in times) + GATEWAY_TELLS_NS
                loss = max(max(time[1] for time in times), FED_STALE_NS) + GATEWAY_TELLS_NS
                found[ident] = (demand, loss)
        return found

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
        paths: list[Path] = []
        for effect in interlock.effects:
            output = self._outputs.get(effect.output)
            if output is None:
                continue
            own = int(interlock.delay) + self._tick + int(effect.delay)
            rest = own + self._writes[effect.output]
            paths.append(
                Path(
                    interlock=interlock.id,
                    output=effect.output,
                    demand_ns=times[demand_tag][0] + rest,
                    demand_tag=demand_tag,
                    loss_ns=times[loss_tag][1] + int(interlock.bad_for) + held + rest,
                    loss_tag=loss_tag,
                    response_ns=int(interlock.response),
                    independent=output.via is None,
                )
            )
        return paths

    def _times(self, name: str, delay: int) -> tuple[int, int]:
        """(demand, loss) of one input up to the condition."""
        if name in self._system:
            demand, loss = self._system[name]
            return demand + delay, loss + delay
        tag = self._tags[name]
        device = self._devices[tag.device or ""]
        poll, stale_after = tag_times(tag, device)
        # Its own poll times out once, and so does the one of another that was just running.
        wait = max(
            (bus.round_ns + given_up_ns(device) + bus.running_ns() for bus in self._lines(device)),
            default=int(device.timeout),
        )
        return 2 * poll + wait + delay, stale_after + delay

    def _lines(self, device: Device) -> list[Bus]:
        """The lines on which the device waits for others: its own, and that of its backup."""
        if not takes_turns(device):
            return []
        own = (self.buses.get(server) for server in servers_of(device))
        return [bus for bus in own if bus is not None and bus.shared]

    def _points(self, tags: Iterable[Entry[Tag]]) -> Points:
        """What is read of each device on a line; a point that cannot be is left out."""
        found: Points = {}
        for entry in tags:
            tag = self._tags.get(entry.id)
            device = self._devices.get(tag.device or "") if tag is not None else None
            if tag is None or device is None or tag.point is None or not entry.ok("point"):
                continue
            if not takes_turns(device):
                continue
            try:
                point = None if device.driver == SERIAL else point_of(device, tag.point, None)
            except (PointError, RequestError):
                continue
            found.setdefault(tag.device or "", []).append(
                (tag_times(tag, device)[0], tag.id, point)
            )
        return found

    def _write_ns(self, output: Output) -> int:
        """Until this output's device was written: behind all others of the same scan."""
        lines = self._lines(self._devices[output.device])
        return max(self._written_by(output, bus) for bus in lines or (None,))

    def _written_by(self, output: Output, bus: Bus | None) -> int:
        device = self._devices[output.device]
        if output.via is not None:
            # A poll of the gateway's, on the same connection or line.
            running = int(device.timeout) if bus is None else bus.running_ns()
            writers = {output.device: device} if bus is None else bus.devices
            return (
                GATEWAY_TURN_NS
                + running
                + sum(
                    self._requests(name, through_gateway=True) * int(each.timeout)
                    for name, each in writers.items()
                )
            )
        if bus is None:
            return self._requests(output.device) * WRITE_TIMEOUT_NS
        wait = bus.running_ns()
        for name, each in bus.devices.items():
            one = max(int(each.timeout), WRITE_TIMEOUT_NS) + write_ns(each, 2)
            wait += self._requests(name) * one
        return wait

    def _requests(self, name: str, *, through_gateway: bool = False) -> int:
        """The write requests of one scan to a device, when all its outputs trip."""
        device = self._devices[name]
        outputs = [
            output
            for output in self._outputs.values()
            if output.device == name and (output.via is not None) == through_gateway
        ]
        if through_gateway:
            return len(outputs)  # one by one
        places: dict[tuple[int, Area], set[int]] = {}
        for output in outputs:
            address = parse_address(output.address, base=device.base)
            unit = device.unit if output.unit is None else output.unit
            places.setdefault((unit, address.area), set()).add(address.number)
        return sum(_runs(area, numbers) for (_, area), numbers in places.items())


def delays_of(cause: Expr) -> dict[str, int]:
    """Each tag of a condition with the longest sum of delays above it, ns.

    ``for`` delays what makes the condition true; under a ``not`` that is ``hold``.
    """
    found: dict[str, int] = {}
    waiting = [(cause, 0, False)]
    while waiting:
        node, delay, negated = waiting.pop()
        if isinstance(node, tree.Hold if negated else tree.For):
            delay += node.duration_ns
        if isinstance(node, tree.TagRef):
            found[node.id] = max(delay, found.get(node.id, 0))
        negated ^= isinstance(node, tree.Not)
        waiting.extend((operand, delay, negated) for operand in node.operands)
    return found


def _runs(area: Area, numbers: set[int]) -> int:
    """Write requests for these places: one for each run of neighbours."""
    most = WRITE_BITS_MAX if area is Area.COIL else WRITE_REGISTERS_MAX
    requests, last, length = 0, -2, 0
    for number in sorted(numbers):
        if number != last + 1 or length == most:
            requests, length = requests + 1, 0
        last, length = number, length + 1
    return requests
