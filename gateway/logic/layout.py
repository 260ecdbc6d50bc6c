"""What the guard holds of a site, and in which order: the indices of its program.

Sections are sorted by key and every index is one of the sorted order. What the guard holds: every
tag of its fast devices, the gateway's tags that an interlock or a read-back needs, system tags.
"""

from collections.abc import Iterable
from typing import Final

from fastpath import blob
from gateway.errors import GatewayError
from gateway.logic.conditions import conditions_of
from gateway.logic.tree import Expr, tags_of
from gateway.site.model import Config, Device, Interlock, Output, Tag, WatchdogRegister, by_id
from gateway.site.places import server_of
from gateway.site.references import SYSTEM_PREFIX, readback_of


class TooLargeError(GatewayError):
    """A site is beyond what one guard holds; the text is for people."""


class Keyed:
    """Ids of one kind in the order of their keys: what the guard's tables are sorted by."""

    def __init__(self, kind: str, ids: Iterable[str]) -> None:
        keys = {ident: blob.key_of(kind, ident) for ident in ids}
        self.ids: Final = sorted(keys, key=lambda ident: keys[ident])
        self.index: Final = {ident: place for place, ident in enumerate(self.ids)}
        self.keys: Final = keys
        if len(set(keys.values())) != len(keys):
            msg = f"found two ids of kind {kind} with one key, expected another id for the newer"
            raise TooLargeError(msg)


class Layout:
    """Everything of a site by id, and the order of what the guard gets of it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tags: dict[str, Tag] = by_id(config.tag)
        self.devices: dict[str, Device] = by_id(config.device)
        self.interlocks: dict[str, Interlock] = by_id(config.interlock)
        self.outputs: dict[str, Output] = by_id(config.output)
        conditions = conditions_of(config)
        self.computed = conditions.computed
        self.causes = conditions.causes
        self.permissives: dict[str, Expr | None] = {
            item.id: conditions.permissives.get(item.id) for item in config.interlock
        }
        self.read = self._read_by_interlocks()
        self.device_order = Keyed("device", self._guard_devices())
        self.watched = self._watchdog_tags()
        serial = (self.devices[ident] for ident in self.device_order.ids)
        paths = sorted(
            {device.address for device in serial if device.line is not None}, reverse=True
        )
        self._tty_by_port = {server_of(path): path for path in paths}  # one name of each
        self.ttys = sorted(self._tty_by_port.values())
        self.tag_order = Keyed("tag", self._guard_tags())
        self.output_order = Keyed("output", self.outputs)
        self.interlock_order = Keyed("interlock", self.interlocks)
        self.group_order = Keyed("group", (group.id for group in config.group))

    def _read_by_interlocks(self) -> set[str]:
        trees = [*self.causes.values(), *(tree for tree in self.permissives.values() if tree)]
        return {ident for tree in trees for ident in tags_of(tree)}

    def _guard_devices(self) -> list[str]:
        written = {output.device for output in self.config.output if output.via is None}
        return [
            device.id
            for device in self.config.device
            if device.fast or device.heartbeat is not None or device.id in written
        ]

    def _guard_tags(self) -> list[str]:
        needed = set(self.read)
        for output in self.config.output:
            readback = readback_of(output.readback) if output.readback is not None else None
            if readback is not None:
                needed.add(readback[0])
        fast = {tag.id for tag in self.config.tag if self.is_fast(tag)}
        return sorted(needed | fast | self.watched.keys())

    def _watchdog_tags(self) -> dict[str, tuple[Device, WatchdogRegister]]:
        """The registers that set a device's own watchdog, as tags of the guard."""
        return {
            f"{SYSTEM_PREFIX}{device.id}.watchdog.{number}": (device, register)
            for device in self.config.device
            for number, register in enumerate(device.watchdog_registers, start=1)
        }

    def is_fast(self, tag: Tag) -> bool:
        """Whether the guard reads it itself."""
        return tag.device is not None and self.devices[tag.device].fast

    def tty_of(self, device: Device) -> int:
        """The index of a serial device's port."""
        return self.ttys.index(self._tty_by_port[server_of(device.address)])
