"""What an interlock's fingerprint is made of: a change of any of it is another interlock.

The guard carries nodes and windows over a swap only where the fingerprint is the same.
"""

from collections.abc import Mapping

from drivers.points import describe
from gateway.logic.units import number_text
from gateway.site.model import Device, Interlock, Tag
from gateway.site.places import point_of


def of_interlock(interlock: Interlock) -> list[str]:
    """Its parameters, the condition and its effects aside: the guard compares effects itself."""
    names = (
        "delay", "bad_for", "min_trip", "hold_max", "response", "latch", "on_bad", "armed", "group",
        "bypass_max", "no_bypass", "bypass_votes",
    )  # fmt: skip
    return [f"{name}={getattr(interlock, name)}" for name in names]


def of_tag(ident: str, tags: Mapping[str, Tag], devices: Mapping[str, Device]) -> str:
    """The definition of a tag that it reads; a system tag is its id."""
    tag = tags.get(ident)
    if tag is None or tag.point is None:
        return ident
    device = devices[tag.device or ""]
    point = point_of(device, tag.point, tag.range)
    numbers = (point.scale, point.offset, point.low, point.high)
    parts = [
        ident, device.id, device.address, str(device.unit), "fast" if device.fast else "slow",
        describe(point), point.type.name, point.order.name, str(point.has_range),
        *map(number_text, numbers),
        str(tag.poll), str(tag.stale_after), tag.uncertain,
    ]  # fmt: skip
    return " ".join(parts)
