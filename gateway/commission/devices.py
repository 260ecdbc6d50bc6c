"""A device for a moment: opened for one command, read, written, and let go."""

import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from drivers.base import Subscribing
from drivers.errors import DriverError
from drivers.registry import make_driver
from fastpath.codes import Quality, Reason
from gateway.commission.hints import hint
from gateway.commission.target import Target, TargetPoint

if TYPE_CHECKING:
    from drivers.base import Reading
    from drivers.kind import PlanningDriver, Surroundings


STREAM_NS: Final = 5_000_000_000  # for points that a streaming instrument sends now and then


class Value(NamedTuple):
    """One point as read. ``value`` is NaN where there is none; ``note`` says why."""

    value: float
    quality: Quality
    reason: str  # "" where it is good
    utc_ns: int
    mono_ns: int
    note: str = ""

    @property
    def words(self) -> str:
        """The value for people, with all its digits; "-" where there is none."""
        if math.isnan(self.value):
            return "-"
        return str(int(self.value)) if self.value.is_integer() else repr(self.value)


class OpenDevice:
    """A connected device with its points."""

    def __init__(self, driver: "PlanningDriver", points: Sequence[TargetPoint]) -> None:
        self._driver = driver
        self._points = points
        self._plan: Any = driver.plan(range(len(points)))
        self._stream = driver.readings() if isinstance(driver, Subscribing) else None

    async def read(self) -> list[Value]:
        """Every point once. Raises DriverError when nothing can be said of the whole."""
        mono_ns, utc_ns = time.monotonic_ns(), time.time_ns()
        readings: dict[int, Reading] = {}
        if self._stream is None:
            readings = {one.point: one for one in await self._driver.read(self._plan)}
        else:  # it sends by itself: until each point has come, or for a while
            async for batch in self._stream:
                readings |= {one.point: one for one in batch}
                late = time.monotonic_ns() - mono_ns > STREAM_NS
                if late or len(readings) == len(self._points):
                    break
        faults = self._driver.faults()
        return [
            _value(readings.get(i), faults.get(i, ""), mono_ns, utc_ns)
            for i in range(len(self._points))
        ]

    async def close(self) -> None:
        """End what it listens to."""
        if isinstance(self._stream, AsyncGenerator):
            await self._stream.aclose()

    async def write(self, value: float) -> None:
        """Write the first point; the device has acknowledged it. Raises DriverError."""
        await self._driver.write(0, value)


@contextlib.asynccontextmanager
async def opened(target: Target, around: "Surroundings") -> AsyncIterator[OpenDevice]:
    """Connect, and close whatever happens. Raises DriverError."""
    points = [(one.point, one.limits) for one in target.points]
    device = target.device
    if "read" in target.kind.device_keys:  # asked now, not told later
        device = structs.replace(device, read="poll")
    driver = make_driver(device.driver, device, points, around)
    try:
        await driver.connect()
        device_open = OpenDevice(driver, target.points)
        try:
            yield device_open
        finally:
            await device_open.close()
    finally:
        await driver.close()


async def read_once(target: Target, around: "Surroundings") -> list[Value]:
    """Connect, read every point once, close. Raises DriverError."""
    async with opened(target, around) as device:
        return await device.read()


def said(target: Target, error: DriverError) -> str:
    """A driver's failure with the device's name, once, and what to look at next."""
    text = str(error)
    text = text if target.device.address in text else f"{target.name}: {text}"
    return "; ".join(part for part in (text, hint(target, error)) if part)


def _value(reading: "Reading | None", fault: str, mono_ns: int, utc_ns: int) -> Value:
    if reading is None:
        reason = Reason.NEVER_READ.name.lower()
        return Value(math.nan, Quality.BAD, reason, utc_ns, mono_ns, "it did not come")
    quality = Quality(reading.quality)
    reason = "" if quality is Quality.GOOD else Reason(reading.reason).name.lower()
    stamp = reading.source_utc_ns or utc_ns
    return Value(reading.value, quality, reason, stamp, mono_ns, fault)
