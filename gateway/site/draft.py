"""A site file as read, before anybody trusts it: every table, good or not, with its place."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from msgspec import Struct

from gateway.site.complaints import Complaints
from gateway.site.convert import Entry
from gateway.site.lines import LineIndex
from gateway.site.model import (
    Device,
    Group,
    History,
    Interlock,
    Output,
    Site,
    Tag,
    Uplink,
    View,
)

SINGLE: Final[dict[str, type[Struct]]] = {"site": Site, "view": View, "history": History}
LISTED: Final[dict[str, type[Struct]]] = {
    "device": Device,
    "tag": Tag,
    "output": Output,
    "interlock": Interlock,
    "group": Group,
    "uplink": Uplink,
}


@dataclass(slots=True)
class Draft:
    """All tables of one site. ``lost`` are ids of tables that a syntax error swallowed."""

    file: str
    complaints: Complaints
    lines: LineIndex
    single: dict[str, Entry[Any]] = field(default_factory=dict)
    device: list[Entry[Device]] = field(default_factory=list)
    tag: list[Entry[Tag]] = field(default_factory=list)
    output: list[Entry[Output]] = field(default_factory=list)
    interlock: list[Entry[Interlock]] = field(default_factory=list)
    group: list[Entry[Group]] = field(default_factory=list)
    uplink: list[Entry[Uplink]] = field(default_factory=list)
    lost: dict[str, set[str]] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)  # kinds that may lack tables altogether
    _by_id: dict[str, tuple[int, dict[str, Entry[Any]]]] = field(default_factory=dict)

    def entries(self, kind: str) -> list[Entry[Any]]:
        """The tables of one kind, in the file's order."""
        entries: list[Entry[Any]] = getattr(self, kind)
        return entries

    def by_id(self, kind: str) -> dict[str, Entry[Any]]:
        """The first table of each id. Do not change it; made anew when tables were added."""
        entries = self.entries(kind)
        count, found = self._by_id.get(kind, (-1, {}))
        if count != len(entries):
            found = {}
            for entry in entries:
                if entry.id:
                    found.setdefault(entry.id, entry)
            self._by_id[kind] = (len(entries), found)
        return found

    def knows(self, kind: str, ident: str) -> bool:
        """Whether a table of this id is there, or may have been."""
        lost = ident in self.lost.get(kind, ()) or kind in self.incomplete
        return lost or ident in self.by_id(kind)

    def guard_devices(self) -> set[str]:
        """Ids of the devices that the guard itself talks to."""
        own = {entry.id for entry in self.device if entry.item.fast or entry.item.heartbeat}
        written = (entry for entry in self.output if entry.ok("device", "via"))
        return own | {entry.item.device for entry in written if entry.item.via is None}

    def with_tags(self, tags: list[Entry[Tag]]) -> "Draft":
        """The same site with other tags."""
        return replace(self, tag=tags, _by_id={})

    @property
    def site(self) -> Entry[Site]:
        """The ``[site]`` table."""
        return self.single["site"]
