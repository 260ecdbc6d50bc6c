"""A site as the reference sees it: its tables, its conditions, and what the guard holds of it.

Part of the reference (``reference``): written for reading, never run on site.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastpath.reference_conditions import Node, shape_of, tags_of

SYSTEM = "sys."


def readback_of(output: Any) -> tuple[str, bool] | None:
    """(tag, inverted) of an output's read-back."""
    if output.readback is None:
        return None
    text = str(output.readback)
    return text.removeprefix("not ").strip(), text.startswith("not ")


@dataclass(slots=True)
class Plan:
    """A site: its tables (``gateway.site.model.Config``) and its conditions, parsed."""

    config: Any
    causes: Mapping[str, Node]
    permissives: Mapping[str, Node | None]
    legs: Mapping[str, tuple[Node, ...]]
    tags: dict[str, Any] = field(default_factory=dict)  # measured, by id
    devices: dict[str, Any] = field(default_factory=dict)  # by id
    read: frozenset[str] = frozenset()  # by some interlock
    held: tuple[str, ...] = ()  # those of the guard's own devices, and those that it needs

    def __post_init__(self) -> None:
        self.tags = {each.id: each for each in self.config.tag}
        self.devices = {each.id: each for each in self.config.device}
        trees = [*self.causes.values(), *self.permissives.values()]
        self.read = frozenset(
            tag for each in trees if each is not None for tag in tags_of(each)
        )  # fmt: skip
        backs = {found[0] for each in self.config.output if (found := readback_of(each))}
        wanted = self.read | backs
        known = [each.id for each in self.config.tag if self.is_fast(each.id) or each.id in wanted]
        self.held = (*known, *sorted(tag for tag in wanted if tag.startswith(SYSTEM)))

    def device_of(self, tag: str) -> Any | None:
        """The device of a measured tag."""
        definition = self.tags.get(tag)
        return None if definition is None else self.devices[definition.device]

    def is_fast(self, tag: str) -> bool:
        """The guard reads it itself."""
        device = self.device_of(tag)
        return device is not None and bool(device.fast)

    def definition_of(self, tag: str) -> tuple[Any, Any]:
        """What makes a tag the same tag: it and its device, in every respect."""
        return self.tags.get(tag), self.device_of(tag)

    def fingerprint_of(self, definition: Any) -> object:
        """Condition, parameters but for the effects, and the definitions of the tags."""
        cause, permissive = self.causes[definition.id], self.permissives[definition.id]
        trees = [cause] if permissive is None else [cause, permissive]
        tags = sorted(set().union(*map(tags_of, trees)))
        d = definition
        numbers = (d.delay, d.bad_for, d.min_trip, d.hold_max, d.bypass_max, d.response)
        words = (d.armed, d.group, d.latch, d.on_bad, d.no_bypass, d.bypass_votes)
        return (
            [shape_of(each) for each in trees],
            [None if each is None else int(each) for each in numbers],
            words,
            [self.definition_of(tag) for tag in tags],
        )
