"""How long a serial line is busy: the characters of its exchanges, and whom they keep waiting.

Devices on one serial port, or behind one serial server, take turns. A reply that comes late is told
from the next one by silence alone, so after a timeout the line stays silent for as long as a late
reply is believed possible. Between two reads that look alike the gateway leaves the time in which a
double of the first one's reply may come; the guard does not. How fast the line behind a serial
server is, and how much an instrument says, is not known here: such an exchange counts as its whole
timeout.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, NamedTuple

from drivers.modbus_kinds import excluded_of
from drivers.modbus_line import LATE_TIMEOUTS
from drivers.plan import BIT_FUNCTIONS, FUNCTIONS, Request, plan
from drivers.points import Area, ModbusPoint
from drivers.serial_kind import SERIAL
from drivers.serial_port import DOUBLE_S
from gateway.site.load import WATCHDOG_POLL_NS, heartbeat_every
from gateway.site.model import SERIAL_DRIVER, Device, Line
from gateway.site.places import server_of

SECOND_NS: Final = 1_000_000_000
READ_BYTES: Final = 8  # of a request: unit, function, address, count, crc
REPLY_BYTES: Final = 5  # of a reply beside its data
WRITE_BYTES: Final = 9 + 8  # FC15 or FC16 and its echo, beside the data
HEARTBEAT_DATA: Final = 4
GAP_CHARACTERS: Final = 3.5
GAP_NS_MIN: Final = 1_750_000  # above 19,200 baud
GAP_BAUD: Final = 19_200
DOUBLE_NS: Final = round(DOUBLE_S * SECOND_NS)
INSTRUMENT_LATE_TIMEOUTS: Final = 1  # of a serial instrument's answer
SERVER_DRIVER: Final = "modbus-rtu-tcp"  # a serial line behind a serial server


class Reply(NamedTuple):
    """All that a reply to a read says of what it answers; it names no address."""

    unit: int
    function: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request with its reply that comes again and again. Of an instrument: one of a period."""

    device: str
    busy_ns: int  # both, with the gaps around them
    period_ns: int
    reply: Reply | None = None  # of a read
    address: int = 0
    count: int = 0  # registers or bits
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class Bus:
    """The devices on one serial port. ``exchanges`` are their polls and heartbeats."""

    port: str
    devices: dict[str, Device] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """Whether the line's speed is known, and with it how long it is busy."""
        return all(device.driver == SERIAL_DRIVER for device in self.devices.values())

    @property
    def shared(self) -> bool:
        """Whether a device waits here for another's exchange, or for as many as it is known to."""
        return self.timed or len(self.devices) > 1

    @property
    def load(self) -> float:
        """The part of the time that the line is busy while all answer at once; 1: always."""
        busy = sum(each.busy_ns / each.period_ns for each in self.exchanges)
        return busy + sum(DOUBLE_NS * _changes(alike) for alike in self.kept_apart())

    @property
    def round_ns(self) -> int:
        """Everything that is due at once, one after the other."""
        waits = sum(len(alike) - 1 for alike in self.kept_apart())
        return sum(each.busy_ns for each in self.exchanges) + waits * DOUBLE_NS

    def kept_apart(self) -> list[list[Exchange]]:
        """The gateway's reads that look alike: it leaves ``DOUBLE_NS`` between two of a list."""
        alike: dict[Reply, list[Exchange]] = {}
        for each in self.exchanges:
            if each.reply is not None and not self.devices[each.device].fast:
                alike.setdefault(each.reply, []).append(each)
        return [
            reads
            for reads in alike.values()
            if any(_differ(one, other) for one, other in combinations(reads, 2))
        ]

    def look_alikes(self) -> list[tuple[Exchange, Exchange]]:
        """Pairs of reads whose replies cannot be told apart by what they say."""
        reads = [each for each in self.exchanges if each.reply is not None]
        return [
            (one, other)
            for one, other in combinations(reads, 2)
            if one.reply == other.reply and _differ(one, other)
        ]

    def running_ns(self) -> int:
        """The longest that an exchange in progress keeps the line: it times out."""
        sent = (each.busy_ns if self.timed else 0 for each in self.exchanges)
        waits_ns = DOUBLE_NS if self.kept_apart() else 0
        return waits_ns + max(
            (
                busy_ns + given_up_ns(self.devices[each.device])
                for busy_ns, each in zip(sent, self.exchanges, strict=True)
            ),
            default=max(given_up_ns(device) for device in self.devices.values()),
        )


def takes_turns(device: Device) -> bool:
    """Whether a device shares its line, one exchange at a time, with whatever else is there."""
    asked = device.protocol is not None and device.protocol.request is not None
    return device.driver in (SERIAL_DRIVER, SERVER_DRIVER) or (device.driver == SERIAL and asked)


def given_up_ns(device: Device) -> int:
    """A timeout, and the silence behind it."""
    late = INSTRUMENT_LATE_TIMEOUTS if device.driver == SERIAL else LATE_TIMEOUTS
    return (1 + late) * int(device.timeout)


def buses_of(
    devices: Mapping[str, Device],
    points: Mapping[str, Iterable[tuple[int, str, ModbusPoint | None]]],
) -> dict[str, Bus]:
    """The lines by server or port. ``points`` has (period, tag, point) of each device's tags.

    The point is None for an instrument's: one request brings all of them. A device with a backup is
    on the line of either address, since one day it is: those who live there wait for it then.
    """
    buses: dict[str, Bus] = {}
    for name, device in devices.items():
        exchanges = _exchanges(name, device, points.get(name, ()))
        for server, address in servers_of(device).items():
            bus = buses.setdefault(server, Bus(address))
            bus.devices[name] = device
            bus.exchanges += exchanges
    return buses


def servers_of(device: Device) -> dict[str, str]:
    """The servers or the line that a device is reached by, each as written."""
    return {server_of(each): each for each in (device.address, device.backup) if each}


def read_ns(device: Device, request: Request) -> int:
    """One read and its reply on the line, ns."""
    return _busy_ns(device, READ_BYTES + REPLY_BYTES + _data_bytes(request))


def write_ns(device: Device, data_bytes: int) -> int:
    """One write and its echo on the line, ns."""
    return _busy_ns(device, WRITE_BYTES + data_bytes)


def _exchanges(
    name: str, device: Device, points: Iterable[tuple[int, str, ModbusPoint | None]]
) -> list[Exchange]:
    """All that a device keeps its line busy with."""
    found: list[Exchange] = []
    by_period: dict[int, list[tuple[str, ModbusPoint]]] = {}
    for period, tag, point in points:
        members = by_period.setdefault(period, [])
        if point is not None:
            members.append((tag, point))
    for period, members in by_period.items():
        if device.driver == SERIAL:
            found.append(Exchange(name, int(device.timeout), period))
        else:
            found += _reads(name, device, period, members)
    one = Request(FUNCTIONS[Area.HOLDING_REGISTER], 0, 1, ())
    found += [
        Exchange(name, read_ns(device, one), WATCHDOG_POLL_NS) for _ in device.watchdog_registers
    ]
    if device.heartbeat is not None:
        every = heartbeat_every(device.heartbeat)
        found.append(Exchange(name, write_ns(device, HEARTBEAT_DATA), every))
    return found


def _reads(
    name: str, device: Device, period: int, members: Sequence[tuple[str, ModbusPoint]]
) -> list[Exchange]:
    points = [point for _, point in members]
    requests = plan(
        points,
        max_registers=device.max_registers,
        max_gap=device.max_gap,
        exclude=excluded_of(device),
    )
    return [
        Exchange(
            device=name,
            busy_ns=read_ns(device, request),
            period_ns=period,
            reply=Reply(device.unit, request.function, _data_bytes(request)),
            address=request.address,
            count=request.count,
            tags=tuple(members[place][0] for place, _ in request.points),
        )
        for request in requests
    ]


def _differ(one: Exchange, other: Exchange) -> bool:
    return (one.address, one.count) != (other.address, other.count)


def _changes(alike: list[Exchange]) -> float:
    """How often at most one of them follows another one, per ns: twice for each that is rarer."""
    rates = [1 / each.period_ns for each in alike]
    return min(sum(rates), 2 * (sum(rates) - max(rates)))


def _data_bytes(request: Request) -> int:
    bits = request.function in BIT_FUNCTIONS
    return (request.count + 7) // 8 if bits else 2 * request.count


def _busy_ns(device: Device, characters: int) -> int:
    if device.driver == SERVER_DRIVER:
        return int(device.timeout) + int(device.request_delay)
    line = device.line or Line()
    bits = 1 + line.bits + (0 if line.parity == "none" else 1) + line.stop
    gap = GAP_NS_MIN if line.baud > GAP_BAUD else GAP_CHARACTERS * bits * SECOND_NS / line.baud
    return round(characters * bits * SECOND_NS / line.baud + 2 * gap) + int(device.request_delay)
