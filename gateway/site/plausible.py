"""Where a tag lies while nothing happens, as its unit, its range and its limits say.

A simulated device's point that names no signal walks there.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from drivers.signals import BARE, signal_text
from drivers.simulated import SIM
from gateway.site.draft import Draft
from gateway.site.model import Limits, Point, Tag

MOVES: Final = 0.02  # the part of the room between two limits in which a value moves at rest
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "degC": (0, 50), "°C": (0, 50), "K": (273, 323), "%": (0, 100), "%RH": (0, 100), "bar": (0, 10),
    "kPa": (0, 200), "MPa": (0, 1), "Pa": (0, 1000), "mbar": (900, 1100), "hPa": (900, 1100),
    "m/s": (0, 5), "m": (0, 10), "mm": (0, 100), "V": (220, 240), "kV": (6, 10), "A": (0, 100),
    "mA": (4, 20), "Hz": (49.9, 50.1), "kW": (0, 500), "rpm": (0, 1500), "ppm": (0, 20),
    "%CH4": (0, 1), "%O2": (20, 21.8), "m3/h": (0, 100), "L/min": (0, 100), "pH": (6, 8),
}  # fmt: skip
_ANY_RANGE: Final = (0.0, 100.0)


def band_of(
    tag: Tag, above: Sequence[float] = (), below: Sequence[float] = ()
) -> tuple[float, float]:
    """The middle of what range and limits leave, and what else it is to be above and below."""
    low, high = tag.range or RANGES.get(tag.unit, _ANY_RANGE)
    limits = tag.limits or Limits()
    lows = [*above, *_given(limits.low_low, limits.low)]
    highs = [*below, *_given(limits.high, limits.high_high)]
    bottom, top = max([low, *lows]), min([high, *highs])
    if bottom >= top and tag.range is None and (lows or highs):  # the limits know better
        bottom = max(lows) if lows else min(highs) - (high - low)
        top = min(highs) if highs else max(lows) + (high - low)
    if bottom >= top:
        bottom, top = low, high
    middle, half = (bottom + top) / 2, (top - bottom) * MOVES
    return middle - half, middle + half


def fill_simulated_points(draft: Draft) -> None:
    """Give the points of simulated devices that say nothing a walk in their tag's own band."""
    devices = draft.by_id("device")
    for entry in draft.tag:
        tag, device = entry.item, devices.get(entry.item.device or "")
        if device is None or device.item.driver != SIM or tag.value is not None:
            continue
        if not entry.ok("point", "range", "unit", "limits", "value"):
            continue
        point = tag.point or Point()
        if not point.address and not point.type:
            address = signal_text(BARE, *band_of(tag))
            entry.item = structs.replace(tag, point=structs.replace(point, address=address))


def _given(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]
