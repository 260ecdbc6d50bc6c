"""The site file (and its CSV) -> every table, with every error: the only reader of TOML.

``read_site`` keeps what is wrong for whoever checks further; ``load_site`` is for those who want a
site or a refusal. A table with an error still gives its id to the references.
"""

import re
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from gateway.site import recording, tags_csv
from gateway.site.complaints import Complaints, Origin, nearest, shown
from gateway.site.convert import Entry, convert
from gateway.site.device_templates import expand_devices
from gateway.site.draft import LISTED, SINGLE, Draft
from gateway.site.later import LATER_KEYS
from gateway.site.lines import LineIndex, index_lines
from gateway.site.model import (
    TTY_DRIVERS,
    Config,
    Device,
    Duration,
    Group,
    Heartbeat,
    Line,
    Site,
    Tag,
    Uplink,
)
from gateway.site.plausible import fill_simulated_points
from gateway.site.serial_templates import expand_templates
from gateway.site.signal_rules import folded
from gateway.site.syntax import TomlText, read_toml
from gateway.site.whole_file import whole_file

HEARTBEAT_EVERY_NS_MIN: Final = 100_000_000
WATCHDOG_POLL_NS: Final = 1_000_000_000  # of the registers that set a device's own watchdog


def load_site(path: Path) -> tuple[Config | None, list[str], LineIndex]:
    """The site, or None with every error of syntax, keys and types, and the lines of its keys.

    References and conditions are ``check_site``'s.
    """
    draft = read_site(path)
    errors = draft.complaints.lines()
    return (None if errors else resolve(draft)), errors, draft.lines


def read_site(path: Path) -> Draft:
    """Read every table. What is wrong stands in ``complaints``; nothing is raised for it."""
    file = str(path)
    complaints = Complaints(file)
    toml = _read_text(path, complaints)
    for line, said in toml.errors:
        complaints.at_line(file, line, "", said)
    index = index_lines(toml.text)
    draft = Draft(file, complaints, index, lost=toml.lost_ids)
    if complaints and not toml.data:
        draft.incomplete.update((*SINGLE, *LISTED))
    reader = _Reader(draft, toml)
    reader.check_names()
    reader.read_single()
    reader.read_listed()
    _read_csv(draft, path)
    expand_devices(draft, path.parent)
    expand_templates(draft)
    fill_simulated_points(draft)
    return draft


def resolve(draft: Draft) -> Config:
    """Put every default in its place. For a draft without complaints only."""
    folder = Path(draft.file).parent
    devices = tuple(_resolve_device(entry.item, folder) for entry in draft.device)
    by_id = {device.id: device for device in devices}
    site: Site = draft.site.item
    return Config(
        site=structs.replace(site, gateway=site.gateway or site.id),
        device=devices,
        tag=tuple(_resolve_tag(entry.item, by_id) for entry in draft.tag),
        output=tuple(entry.item for entry in draft.output),
        interlock=tuple(entry.item for entry in draft.interlock),
        group=_resolve_groups(draft),
        uplink=tuple(_resolve_uplink(entry.item, folder) for entry in draft.uplink),
        view=draft.single["view"].item,
        history=draft.single["history"].item,
    )


def tag_times(tag: Tag, device: Device) -> tuple[int, int]:
    """Resolved (poll, stale_after) of a tag, ns: stale after three polls and a timeout."""
    poll = tag.poll if tag.poll is not None else device.poll
    stale = tag.stale_after if tag.stale_after is not None else 3 * poll + device.timeout
    return int(poll), int(stale)


def heartbeat_every(heartbeat: Heartbeat) -> int:
    """Resolved period of a heartbeat, ns: a tenth of the watchdog's time."""
    if heartbeat.every is not None:
        return int(heartbeat.every)
    return max(heartbeat.watchdog // 10, HEARTBEAT_EVERY_NS_MIN)


def _resolve_device(device: Device, folder: Path) -> Device:
    heartbeat, line = device.heartbeat, device.line
    if heartbeat is not None:
        every = Duration(heartbeat_every(heartbeat))
        heartbeat = structs.replace(heartbeat, every=every)
    if line is None and device.driver in TTY_DRIVERS:
        line = Line()
    pinned = device.server_certificate
    if pinned is not None:
        pinned = str((folder / pinned).absolute())
    return structs.replace(
        device,
        address=device.address or f"{device.driver}:{device.id}",
        heartbeat=heartbeat,
        line=line,
        server_certificate=pinned,
    )


def _resolve_uplink(uplink: Uplink, folder: Path) -> Uplink:
    if uplink.template is None:
        return uplink
    return structs.replace(uplink, template=str((folder / uplink.template).absolute()))


def _resolve_tag(tag: Tag, devices: dict[str, Device]) -> Tag:
    device = devices.get(tag.device or "")
    if tag.value is not None or device is None:  # computed: never stale by itself; or: not checked
        return recording.resolved(tag, None)
    poll, stale = tag_times(tag, device)
    return structs.replace(
        recording.resolved(folded(tag) if device.fast else tag, device),
        poll=Duration(poll),
        stale_after=Duration(stale),
    )


def _resolve_groups(draft: Draft) -> tuple[Group, ...]:
    groups: dict[str, Group] = {entry.id: entry.item for entry in draft.group}
    for entry in draft.interlock:
        name = entry.item.group
        if name is not None:
            groups.setdefault(name, Group(id=name))
    return tuple(groups.values())


def _read_text(path: Path, complaints: Complaints) -> TomlText:
    try:
        data = whole_file(path)
    except OSError as error:
        complaints.at_line(str(path), 1, "", f"cannot be read: {error.strerror or error}")
        return TomlText({}, "")
    try:
        return read_toml(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        complaints.at_line(str(path), line, "", "found bytes that are not UTF-8, expected UTF-8")
        return read_toml(data.decode("utf-8", "replace"))


class _Reader:
    """Turns the tables of one TOML document into entries."""

    def __init__(self, draft: Draft, toml: TomlText) -> None:
        self.draft = draft
        self.data = toml.data
        self.misnamed: set[str] = set()  # tables that may stand under another name
        self.damaged = {
            table.path
            for table in draft.lines.tables
            if any(table.first <= line <= table.last for line in toml.lost_lines)
        }

    def check_names(self) -> None:
        """Complain of tables that nobody knows; under a misnamed one there may be ids."""
        known = [*SINGLE, *LISTED]
        for name in self.data:
            if name in known:
                continue
            near = nearest(name, known)
            if near:
                self.misnamed.add(near)
            names = f'; did you mean "{near}"?' if near else f" ({', '.join(known)})"
            text = f"found {shown(name)}, expected a known table{names}"
            self.draft.complaints.add(self._origin(name, (name,)), (), text)

    def read_single(self) -> None:
        for kind in SINGLE:
            raw = self.data.get(kind, {})
            origin = self._origin(kind, (kind,))
            if not isinstance(raw, dict):
                found = f"[[{kind}]]" if isinstance(raw, list) else shown(raw)
                text = f"found {found}, expected [{kind}]"
                self.draft.complaints.add(origin, (), text)
                raw = raw[0] if isinstance(raw, list) and raw and isinstance(raw[0], dict) else {}
            self.draft.single[kind] = self._entry(kind, raw, origin)

    def read_listed(self) -> None:
        for kind in LISTED:
            raw = self.data.get(kind, [])
            if isinstance(raw, dict):
                origin = self._origin(kind, (kind,))
                self.draft.complaints.add(origin, (), f"found [{kind}], expected [[{kind}]]")
                self.draft.entries(kind).append(self._entry(kind, raw, origin))
                continue
            for number, table in enumerate(raw if isinstance(raw, list) else [raw]):
                self._read_one(kind, number, table)

    def _read_one(self, kind: str, number: int, table: Any) -> None:
        path = (kind, number)
        if not isinstance(table, dict):
            origin = self._origin(kind, path)
            text = f"found {shown(table)}, expected a table [[{kind}]]"
            self.draft.complaints.add(origin, (), text)
            return
        ident = table.get("id")
        name = _printable(ident) if isinstance(ident, str) and ident else f"#{number + 1}"
        origin = self._origin(f"{kind}[{name}]", path)
        self.draft.entries(kind).append(self._entry(kind, table, origin))

    def _entry(self, kind: str, raw: dict[str, Any], origin: Origin) -> Entry[Any]:
        return convert(
            (SINGLE | LISTED)[kind],
            raw,
            origin,
            self.draft.complaints,
            later=LATER_KEYS.get(kind),
            damaged=kind in self.misnamed
            or kind in self.draft.incomplete
            or any(origin.path == path[: len(origin.path)] for path in self.damaged),
        )

    def _origin(self, where: str, path: tuple[str | int, ...]) -> Origin:
        return Origin(self.draft.file, where, path, self.draft.lines)


def _printable(ident: str) -> str:
    return re.sub(r"[^\w.-]", "?", ident)[:63]


def _read_csv(draft: Draft, path: Path) -> None:
    name = draft.site.item.tags
    if name is None:
        return
    complaints = draft.complaints
    try:
        data = whole_file(path.parent / name)
    except OSError as error:
        text = f"found {shown(name)}, which cannot be read: {error.strerror or error}"
        complaints.add(draft.site.origin, ("tags",), text)
        draft.incomplete.add("tag")
        return
    for row in tags_csv.read(name, data, complaints):
        entry = convert(Tag, row.table, row.origin, complaints, later=LATER_KEYS["tag"])
        entry.bad |= row.bad
        draft.tag.append(entry)
