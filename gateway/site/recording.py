"""Report by exception: which samples of a tag the history keeps, and what its source must tell.

A fast device's samples come by the guard's journal, a computed tag's from the evaluator; both leave
out what has not changed. Where a tag has a longest interval they tell everything, and the
history's door decides.
"""

from typing import TYPE_CHECKING, Final

from msgspec import structs

from fastpath.codes import RecordMode
from fastpath.recording import NOTHING, Recording
from gateway.site.model import Device, Duration, Tag, by_id, is_text

if TYPE_CHECKING:
    from gateway.site.model import Config

MODES: Final = {
    "all": RecordMode.ALL,
    "change": RecordMode.CHANGE,
    "1s": RecordMode.ONE_SECOND,
}
# With a deadband and no interval of its own: else nobody could tell a still value from a dead tag.
WITHIN: Final = Duration(10 * 60 * 1_000_000_000)


def resolved(tag: Tag, device: Device | None) -> Tag:
    """The tag with its ``record`` and ``record_within``, the device's where it has none."""
    record = tag.record or (device.record if device else "change")
    within = tag.record_within
    if within is None and record == "change":
        within = device.record_within if device else None
        if within is None and tag.record_deadband:
            within = WITHIN
    return structs.replace(tag, record=record, record_within=within)


def told_mode(tag: Tag, device: Device | None) -> RecordMode:
    """What the source of the tag has to tell."""
    tag = resolved(tag, device)
    return RecordMode.ALL if tag.record_within is not None else MODES[tag.record or "change"]


def recording_of(config: "Config") -> Recording:
    """What the history keeps of each tag."""
    devices = by_id(config.device)
    return Recording([_rule(tag, devices.get(tag.device or "")) for tag in config.tag])


def _rule(tag: Tag, device: Device | None) -> tuple[int, float, int]:
    tag = resolved(tag, device)
    if is_text(tag.point):
        return NOTHING, 0.0, 0
    if tag.record_within is not None:
        return int(RecordMode.CHANGE), tag.record_deadband or 0.0, int(tag.record_within)
    if device is None or device.fast:  # its source has left out already what is not kept
        return int(RecordMode.ALL), 0.0, 0
    return int(MODES[tag.record or "change"]), 0.0, 0
