"""The guard's records of tags: what it reads, what it is told, what it knows itself."""

from typing import Final

from fastpath import blob
from fastpath.codes import NONE_U16, Owner, RecordMode, SystemTag, TagFlag
from gateway.logic.conditions import GATEWAY_ALIVE
from gateway.logic.kinds import Kind
from gateway.logic.layout import Layout
from gateway.site.load import WATCHDOG_POLL_NS
from gateway.site.model import Device, Tag, WatchdogRegister
from gateway.site.places import is_boolean
from gateway.site.recording import told_mode
from gateway.site.references import SYSTEM_PREFIX

FED_STALE_NS: Final = 15_000_000_000  # of what the gateway makes and tells; then it counts as gone


def tags(layout: Layout) -> list[blob.Tag]:
    """In the order of the layout."""
    return [_tag(layout, ident) for ident in layout.tag_order.ids]


def _tag(layout: Layout, ident: str) -> blob.Tag:
    key = layout.tag_order.keys[ident]
    tag = layout.tags.get(ident)
    flags = TagFlag.IN_INTERLOCK if ident in layout.read else TagFlag(0)
    if ident in layout.watched:
        return _watchdog_tag(layout, key, *layout.watched[ident])
    if tag is None:
        return _system_tag(layout, ident, key, flags | TagFlag.BOOLEAN)
    if tag.value is not None:
        return _computed_tag(layout, tag, key, flags)
    device = layout.devices[tag.device or ""]
    if tag.point is not None and is_boolean(device, tag.point):
        flags |= TagFlag.BOOLEAN
    if tag.uncertain == "use":
        flags |= TagFlag.UNCERTAIN_USE
    low, high = tag.range or (0.0, 0.0)
    if tag.range is not None:
        flags |= TagFlag.HAS_RANGE
    fast = layout.is_fast(tag)
    return blob.Tag(
        key=key,
        low=low,
        high=high,
        stale_after_ns=int(tag.stale_after or 0),
        settle_ns=int(device.settle),
        stuck_ns=int(tag.stuck_after or 0) if fast else 0,
        owner=int(Owner.GUARD if fast else Owner.GATEWAY),
        record=int(told_mode(tag, device)),
        flags=int(flags),
        device=layout.device_order.index[device.id] if fast else NONE_U16,
    )


def _system_tag(layout: Layout, ident: str, key: int, flags: TagFlag) -> blob.Tag:
    alive = ident == GATEWAY_ALIVE
    device = ident.removeprefix(SYSTEM_PREFIX).removesuffix(".connected")
    if not alive and not layout.devices[device].fast:
        return _fed_tag(key, flags, RecordMode.CHANGE)
    return blob.Tag(
        key=key,
        owner=int(Owner.SYSTEM),
        record=int(RecordMode.CHANGE),
        flags=int(flags),
        device=NONE_U16 if alive else layout.device_order.index[device],
        system=int(SystemTag.GATEWAY_ALIVE if alive else SystemTag.DEVICE_CONNECTED),
    )


def _watchdog_tag(layout: Layout, key: int, device: Device, register: WatchdogRegister) -> blob.Tag:
    """Good with its one value; anything else keeps the device from being released."""
    return blob.Tag(
        key=key,
        low=float(register.value),
        high=float(register.value),
        stale_after_ns=3 * WATCHDOG_POLL_NS + int(device.timeout),
        settle_ns=int(device.settle),
        owner=int(Owner.GUARD),
        record=int(RecordMode.CHANGE),
        flags=int(TagFlag.HAS_RANGE | TagFlag.WATCHDOG),
        device=layout.device_order.index[device.id],
    )


def _computed_tag(layout: Layout, tag: Tag, key: int, flags: TagFlag) -> blob.Tag:
    """One that looks back further than the guard does."""
    if layout.computed.tags[tag.id].kind is Kind.BOOLEAN:
        flags |= TagFlag.BOOLEAN
    if tag.uncertain == "use":
        flags |= TagFlag.UNCERTAIN_USE
    return _fed_tag(key, flags, told_mode(tag, None))


def _fed_tag(key: int, flags: TagFlag, record: RecordMode) -> blob.Tag:
    """What the gateway makes itself and tells the guard once a second."""
    return blob.Tag(
        key=key,
        stale_after_ns=FED_STALE_NS,
        owner=int(Owner.GATEWAY),
        record=int(record),
        flags=int(flags),
    )
