"""A plant that is not there: what its tags show, and what its final elements do.

A tag shows its signal until somebody drives it or an output moves it: a read-back follows its
output a short time later. The model has no clock; every call takes the monotonic time.
"""

import difflib
import math
import zlib
from dataclasses import dataclass, field
from typing import Final, Literal

from msgspec import Struct

from drivers.errors import RequestError
from drivers.instrument import InstrumentText
from drivers.opcua_points import OpcUaPoint
from drivers.points import ModbusPoint
from drivers.signals import Signal, Wave

Fault = Literal["none", "silent", "busy", "cut"]  # what can be wrong with a device on demand


class TagText(Struct, frozen=True, kw_only=True):
    """One tag and its place; ``unit`` is the Modbus unit."""

    id: str
    unit: int
    place: ModbusPoint
    signal: Signal


class OutputText(Struct, frozen=True, kw_only=True):
    """One output: the place that is written, and the tag that shows where it stands."""

    id: str
    unit: int
    place: ModbusPoint
    trip: int
    normal: int  # what stands there at the beginning
    readback: str | None = None
    inverted: bool = False
    follow_ns: int = 100_000_000  # from the write to the read-back


class NodeText(Struct, frozen=True, kw_only=True):
    """A tag's or an output's node; ``first`` is what an output's has at the beginning."""

    id: str
    place: OpcUaPoint
    output: bool = False
    first: int = 0


class HeartbeatText(Struct, frozen=True, kw_only=True):
    """Two registers; once seen and then still for the watchdog's time, the outputs trip."""

    unit: int
    address: int
    watchdog_ns: int


class RegisterText(Struct, frozen=True, kw_only=True):
    """A register that has this value at the beginning."""

    unit: int
    place: ModbusPoint
    value: int


class ServerText(Struct, frozen=True, kw_only=True):
    """One simulated device as it is reached, with every unit behind it.

    tcp: Modbus TCP, port 0 for any free one. rtu: Modbus RTU on a pty. serial: instruments on one.
    opcua: OPC UA without security.
    """

    name: str
    kind: Literal["tcp", "rtu", "serial", "opcua"] = "tcp"
    port: int = 0
    instruments: tuple[InstrumentText, ...] = ()
    nodes: tuple[NodeText, ...] = ()
    tags: tuple[TagText, ...] = ()
    outputs: tuple[OutputText, ...] = ()
    heartbeats: tuple[HeartbeatText, ...] = ()
    registers: tuple[RegisterText, ...] = ()


class PlantText(Struct, frozen=True, kw_only=True):
    """A whole plant, as whoever knows the site describes it."""

    site: str = ""
    servers: tuple[ServerText, ...] = ()


@dataclass(slots=True)
class Drive:
    """Somebody drives a tag: to ``target`` by ``until_ns``, in a straight line."""

    begin: float
    target: float
    from_ns: int
    until_ns: int
    refused: bool = False  # its place has no value that says that it is bad

    def value(self, now_ns: int) -> float:
        """Where it is by now."""
        if now_ns >= self.until_ns:
            return self.target
        part = (now_ns - self.from_ns) / (self.until_ns - self.from_ns)
        return self.begin + (self.target - self.begin) * part


@dataclass(slots=True)
class Element:
    """A final element: what it was told, and what it does."""

    text: OutputText
    wanted: int
    shown: int
    moves_at_ns: int = 0
    stuck: bool = False

    def write(self, value: int, now_ns: int) -> None:
        """Take over what was written."""
        if value != self.wanted:
            self.wanted = value
            self.moves_at_ns = now_ns + self.text.follow_ns

    def go_on(self, before: "Element") -> None:
        """As it was, where its values mean the same."""
        if (before.text.trip, before.text.normal) == (self.text.trip, self.text.normal):
            self.wanted, self.shown = before.wanted, before.shown
            self.moves_at_ns, self.stuck = before.moves_at_ns, before.stuck

    def closed(self, now_ns: int) -> bool:
        """What the read-back tag shows, before any ``not``: the trip value's truth when tripped."""
        if now_ns >= self.moves_at_ns and not self.stuck:
            self.shown = self.wanted
        tripped = bool(self.text.trip)
        return tripped if self.shown == self.text.trip else not tripped


@dataclass(slots=True)
class _Quantity:
    text: TagText
    wave: Wave
    drive: Drive | None = None
    element: Element | None = None  # that it is the read-back of


@dataclass(slots=True)
class _Watchdog:
    text: HeartbeatText
    seen: tuple[int, int] = (0, 0)
    moved_ns: int = 0  # 0: never seen
    elements: list[Element] = field(default_factory=list)


class Plant:
    """All tags and outputs of a site. ``seed`` makes one run like another."""

    def __init__(self, text: PlantText, now_ns: int, seed: int = 1) -> None:
        self._seed = seed
        self._tags: dict[str, _Quantity] = {}
        self._elements: dict[str, Element] = {}
        self._watchdogs: dict[tuple[str, int, int], _Watchdog] = {}
        self._build(text, now_ns)

    def become(self, text: PlantText, now_ns: int) -> None:
        """Be another plant: what is driven, moved or watched in both goes on as it was."""
        tags, elements, watchdogs = self._tags, self._elements, self._watchdogs
        self._tags, self._elements, self._watchdogs = {}, {}, {}
        self._build(text, now_ns)
        for ident in self._tags.keys() & tags.keys():
            own, before = self._tags[ident], tags[ident]
            if own.text.place.boolean == before.text.place.boolean:
                own.drive = before.drive
            if own.text.signal == before.text.signal:
                own.wave = before.wave
        for name in self._elements.keys() & elements.keys():
            self._elements[name].go_on(elements[name])
        for key in self._watchdogs.keys() & watchdogs.keys():
            own_dog, dog = self._watchdogs[key], watchdogs[key]
            own_dog.seen, own_dog.moved_ns = dog.seen, dog.moved_ns

    def _build(self, text: PlantText, now_ns: int) -> None:
        for server in text.servers:
            for tag in server.tags:
                own = self._seed ^ zlib.crc32(tag.id.encode())
                self._tags[tag.id] = _Quantity(tag, Wave(tag.signal, own, now_ns))
            for output in server.outputs:
                self._elements[output.id] = Element(output, output.normal, output.normal)
        for element in self._elements.values():
            if element.text.readback in self._tags:
                self._tags[element.text.readback].element = element
        for server in text.servers:
            own_elements = [self._elements[output.id] for output in server.outputs]
            for beat in server.heartbeats:
                key = (server.name, beat.unit, beat.address)
                self._watchdogs[key] = _Watchdog(beat, elements=own_elements)

    def value(self, ident: str, now_ns: int) -> float:
        """What a tag shows, in its unit; NaN for one that is driven bad and can say so."""
        tag = self._tags[ident]
        if tag.drive is not None:
            return tag.drive.value(now_ns)
        if tag.element is not None:
            self._bite(now_ns)
            return float(tag.element.closed(now_ns) != tag.element.text.inverted)
        return tag.wave.value(now_ns)

    def refused(self, ident: str) -> bool:
        """Whether a tag is driven bad and its place has no value that says so."""
        drive = self._tags[ident].drive
        return drive is not None and drive.refused

    def is_driven(self, ident: str) -> bool:
        """Whether somebody drives this tag."""
        return self._tags[ident].drive is not None

    def write(self, output: str, value: int, now_ns: int) -> None:
        """An output was written."""
        self._elements[output].write(value, now_ns)

    def beat(self, key: tuple[str, int, int], registers: tuple[int, int], now_ns: int) -> None:
        """A heartbeat's registers were written: (server, unit, address)."""
        watchdog = self._watchdogs[key]
        if registers != watchdog.seen:
            watchdog.seen, watchdog.moved_ns = registers, now_ns

    def drive(self, ident: str, value: float, over_ns: int, now_ns: int) -> str:
        """Take a tag to a value, at once or in a straight line. Raises RequestError."""
        tag = self._tag(ident)
        if not math.isfinite(value):
            text = f"{value} is no value; --bad makes a tag bad"
            raise RequestError(text)
        if tag.text.place.boolean and value not in (0.0, 1.0):
            text = f"{ident} is a boolean: 0 or 1"
            raise RequestError(text)
        begin = self.value(ident, now_ns)
        begin = value if math.isnan(begin) else begin
        tag.drive = Drive(begin, value, now_ns, now_ns + over_ns)
        return f"{ident} is driven to {value:g}"

    def spoil(self, ident: str, now_ns: int) -> str:
        """Make a tag bad as far as its place allows. Raises RequestError."""
        tag = self._tag(ident)
        value = _worst(tag.text.place)
        if value is None:
            tag.drive = Drive(0.0, 0.0, now_ns, now_ns, refused=True)
            return f"{ident} is bad: the device refuses it, and what it reads together with it"
        tag.drive = Drive(value, value, now_ns, now_ns)
        return f"{ident} is bad: {'not a number' if math.isnan(value) else 'out of its range'}"

    def end(self, ident: str) -> str:
        """Let a tag go its own way again. Raises RequestError."""
        self._tag(ident).drive = None
        return f"{ident} goes its own way again"

    def stick(self, ident: str, *, stuck: bool) -> str:
        """A final element that does not move, or moves again. Raises RequestError."""
        element = self._elements.get(ident)
        if element is None:
            text = f"there is no output {ident} here"
            raise RequestError(text)
        element.stuck = stuck
        return f"{ident} {'does not move any more' if stuck else 'moves again'}"

    def shown(self, ident: str, now_ns: int) -> float | None:
        """What a tag shows; None for no number. Raises RequestError."""
        self._tag(ident)
        value = self.value(ident, now_ns)
        return None if math.isnan(value) else value

    def driven(self) -> list[str]:
        """The tags that somebody drives, by id."""
        return [ident for ident, tag in self._tags.items() if tag.drive is not None]

    def _tag(self, ident: str) -> _Quantity:
        try:
            return self._tags[ident]
        except KeyError:
            near = difflib.get_close_matches(ident, self._tags, n=1, cutoff=NEAR_CUTOFF)
            hint = f"; did you mean {near[0]}?" if near else ""
            text = f"there is no measured tag {ident} here{hint}"
            raise RequestError(text) from None

    def _bite(self, now_ns: int) -> None:
        """A PLC's own watchdog, once for each standstill."""
        for watchdog in self._watchdogs.values():
            if watchdog.moved_ns and now_ns - watchdog.moved_ns > watchdog.text.watchdog_ns:
                watchdog.moved_ns = 0
                for element in watchdog.elements:
                    element.write(element.text.trip, now_ns)


NEAR_CUTOFF: Final = 0.6  # of difflib: how alike an id must be to be meant
_FLOATS: Final = ("FLOAT32", "FLOAT64")


def _worst(place: ModbusPoint) -> float | None:
    """A value that is bad by itself: no number, or out of range; None where there is none."""
    if place.type.name in _FLOATS:
        return math.nan
    if place.boolean or not place.has_range:
        return None
    step = max(place.high - place.low, abs(place.scale))
    return next((v for v in (place.high + step, place.low - step) if _fits(place, v)), None)


def _fits(place: ModbusPoint, value: float) -> bool:
    low, high = integer_bounds(place)
    return low <= round((value - place.offset) / place.scale) <= high


def integer_bounds(place: ModbusPoint) -> tuple[int, int]:
    """The smallest and greatest raw value of an integer's place."""
    bits = 16 * place.width
    if place.type.name.startswith("U"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
