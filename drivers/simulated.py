"""A device without hardware inside a site file: ``driver = "sim"``.

Each point shows a signal (``signals.py``) or is a place that remembers what was written: ``c:3`` a
boolean, ``hr:3`` a number, 0 at first. Also a signal's point can be written; from then on it shows
what was written. What one device remembers, all its drivers share.
"""

import asyncio
import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from drivers.base import Reading
from drivers.errors import LinkError, PointError, RequestError
from drivers.kind import (
    COMMON_DEVICE_KEYS,
    DriverKind,
    Limits,
    Place,
    PlanningDriver,
    Surroundings,
)
from drivers.points import parse_address
from drivers.signals import Signal, Wave, parse_signal
from fastpath.codes import Quality, Reason

SIM: Final = "sim"
Lost = Literal["", "silent", "gone"]


class SimDevice(Protocol):
    """What the driver reads of a device."""

    @property
    def id(self) -> str:
        """Names what its drivers share."""

    @property
    def timeout(self) -> int:
        """How long a silent device is waited for, ns."""


class SimTag(Protocol):
    """What the driver reads of a tag's point."""

    @property
    def address(self) -> str:
        """A signal, a place, or empty for a walk."""

    @property
    def type(self) -> str:
        """Bool for a signal of 0 and 1, or empty."""


@dataclass(frozen=True, slots=True)
class SimPoint:
    """One point; ``signal`` is None for a place that only remembers."""

    name: str
    boolean: bool
    signal: Signal | None
    limits: Limits = None


@dataclass(slots=True)
class SimState:
    """What a simulated device is now, for all its drivers. ``lost``: what its link does."""

    written: dict[str, float] = field(default_factory=dict)
    lost: Lost = ""


def state_of(device: str, around: Surroundings) -> SimState:
    """The state of a device, by its id; the same for all who share these surroundings."""
    state: SimState = around.shared.setdefault((SIM, device), SimState())
    return state


class Simulated:
    """The driver. A plan is the tuple of its points' indices."""

    def __init__(
        self,
        state: SimState,
        points: Sequence[SimPoint],
        *,
        timeout_s: float,
        seed: str = "",
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._state = state
        self._points = tuple(points)
        self._timeout_s = timeout_s
        self._monotonic_ns = monotonic_ns
        self._counts: Counter[str] = Counter()
        self._open = False
        now_ns = monotonic_ns()
        self._waves = [
            None
            if point.signal is None
            else Wave(point.signal, zlib.crc32(f"{seed}/{index}".encode()), now_ns)
            for index, point in enumerate(points)
        ]

    def plan(self, indices: Iterable[int]) -> tuple[int, ...]:
        """The points to read."""
        return tuple(indices)

    async def connect(self) -> None:
        """Raises LinkError while the device is gone."""
        if self._state.lost == "gone":
            self._counts["connect"] += 1
            text = "simulated: nobody there"
            raise LinkError(text)
        self._open = True

    async def read(self, plan: Sequence[int]) -> Sequence[Reading]:
        """Every point of the plan. Raises LinkError."""
        await self._reach()
        now_ns = self._monotonic_ns()
        self._counts["good"] += 1
        return [self._reading(index, now_ns) for index in plan]

    async def write(self, point: int, value: float) -> None:
        """Remember a value. Raises LinkError, or RequestError for one that the point cannot be."""
        target = self._points[point]
        if not math.isfinite(value) or (target.boolean and value not in (0.0, 1.0)):
            text = f"{target.name} takes {'0 or 1' if target.boolean else 'a number'}, not {value}"
            raise RequestError(text)
        await self._reach()
        self._counts["good"] += 1
        self._state.written[target.name] = value

    async def close(self) -> None:
        """Nothing is open."""
        self._open = False

    def stats(self) -> Mapping[str, int]:
        """Requests by result: good, timeout, lost, connect."""
        return self._counts

    def faults(self) -> Mapping[int, str]:
        """None: a simulated device refuses no point."""
        return {}

    async def _reach(self) -> None:
        if not self._open or self._state.lost == "gone":
            self._counts["lost"] += 1
            text = "simulated: the link is gone"
            raise LinkError(text)
        if self._state.lost == "silent":
            await asyncio.sleep(self._timeout_s)
            self._counts["timeout"] += 1
            text = f"simulated: no answer within {self._timeout_s:g} s"
            raise LinkError(text)

    def _reading(self, index: int, now_ns: int) -> Reading:
        point, wave = self._points[index], self._waves[index]
        value = self._state.written.get(point.name)
        if value is None:
            value = 0.0 if wave is None else wave.value(now_ns)
        if point.limits is not None and not point.limits[0] <= value <= point.limits[1]:
            return Reading(index, value, Quality.BAD, Reason.OUT_OF_RANGE, 0)
        return Reading(index, value, Quality.GOOD, 0, 0)


def sim_point(point: SimTag, limits: Limits) -> SimPoint:
    """Read a point. Raises PointError."""
    name = " ".join(point.address.split())
    if point.type not in ("", "bool"):
        text = f'found "{point.type}", expected "bool" or nothing'
        raise PointError(key="type", text=text)
    if ":" in name:
        return _remembered(name, point.type, limits)
    signal = parse_signal(name, limits)
    if point.type == "bool" and not {signal.low, signal.high} <= {0.0, 1.0}:
        text = f'found "bool" with "{name or "walk"}", expected square, or constant 0 or 1'
        raise PointError(key="type", text=text)
    return SimPoint(name, point.type == "bool" or signal.boolean, signal, limits)


def _remembered(name: str, kind: str, limits: Limits) -> SimPoint:
    place = parse_address(name)
    if not place.area.writable or place.bit is not None:
        text = f'found "{name}", expected "c:3", "hr:3" or a signal such as "sine"'
        raise PointError(key="address", text=text)
    if kind == "bool" and not place.area.of_bits:
        raise PointError(key="type", text=f'found "bool", but "{name}" is a number')
    return SimPoint(f"{place.area.value}:{place.number}", place.area.of_bits, None, limits)


def _make(
    device: SimDevice, points: Sequence[tuple[SimTag, Limits]], around: Surroundings
) -> PlanningDriver:
    return Simulated(
        state_of(device.id, around),
        [sim_point(point, limits) for point, limits in points],
        timeout_s=device.timeout / 1e9,
        seed=device.id,
    )


def _boolean(device: SimDevice, point: SimTag) -> bool | None:
    del device
    try:
        return sim_point(point, None).boolean
    except PointError:
        return None


def _check_point(device: SimDevice, point: SimTag, limits: Limits) -> None:
    del device
    sim_point(point, limits)


def _check_device(device: SimDevice) -> None:
    """Nothing of it can be wrong."""


def _describe(device: SimDevice, point: SimTag) -> str:
    del device
    return f"simulated {point.address}".strip()


KINDS: Final = (
    DriverKind(
        name=SIM,
        place=Place.NOWHERE,
        device_keys=COMMON_DEVICE_KEYS - {"address"},
        point_keys=frozenset(("address", "type")),
        make=_make,
        check_point=_check_point,
        check_device=_check_device,
        boolean=_boolean,
        describe=_describe,
    ),
)
