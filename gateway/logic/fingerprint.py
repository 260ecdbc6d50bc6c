"""What an interlock's fingerprint is made of: a change of any of it is another interlock.

The guard carries nodes and windows over a swap only where the fingerprint is the same.
"""

from collections.abc import Mapping

from drivers.registry import DRIVERS
from gateway.logic.units import number_text
from gateway.site.durations import exact_duration
from gateway.site.model import Device, Interlock, Tag
from gateway.site.signal_rules import signal_text


def of_interlock(interlock: Interlock) -> list[str]:
    """Its parameters, the condition and its effects aside: the guard compares effects itself."""
    names = (
        "delay", "bad_for", "min_trip", "hold_max", "response", "latch", "on_bad", "armed", "group",
        "bypass_max", "no_bypass", "bypass_votes",
    )  # fmt: skip
    return [f"{name}={getattr(interlock, name)}" for name in names]


def of_tag(ident: str, tags: Mapping[str, Tag], devices: Mapping[str, Device]) -> str:
    """The definition of a tag that it reads; a system tag is its id."""
    return f"{ident} {definition(ident, tags, devices)}".rstrip()


def definition(ident: str, tags: Mapping[str, Tag], devices: Mapping[str, Device]) -> str:
    """How a measured tag is made, ``key: value; key: value`` for people; else empty."""
    tag = tags.get(ident)
    if tag is None or tag.point is None:
        return ""
    device = devices[tag.device or ""]
    point = tag.point
    limits = f"[{number_text(tag.range[0])}, {number_text(tag.range[1])}]" if tag.range else "none"
    facts = {
        "device": device.id,
        "device's address": f"{device.address} unit {device.unit}",
        "fast": "true" if device.fast else "false",
        "point": DRIVERS[device.driver].describe(device, point),
        "scale": number_text(point.scale),
        "offset": number_text(point.offset),
        "range": limits,
        "poll": exact_duration(int(tag.poll or 0)),
        "stale_after": exact_duration(int(tag.stale_after or 0)),
        "uncertain": tag.uncertain,
    }
    if tag.stuck_after is not None:
        facts["stuck_after"] = exact_duration(int(tag.stuck_after))
    if tag.signal is not None:
        facts["signal"] = signal_text(tag.signal)
    return "; ".join(f"{key}: {value}" for key, value in facts.items())
