"""Maps of Modbus devices: ``template = "x"`` makes a tag of each of its points.

A map is ``devices/x.toml`` beside the site file, else one of ``config/devices/`` that is installed
with the package. Its ``[[point]]`` becomes the tag ``<device>.<point>``; a ``[[tag]]`` of that id
in the site file changes single keys of it. ``[device]`` in the map gives what the site file's
device leaves out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, structs

from gateway.site.complaints import Complaints, Origin, did_you_mean, shown
from gateway.site.convert import Entry, convert
from gateway.site.draft import Draft
from gateway.site.later import LATER_KEYS
from gateway.site.lines import index_lines
from gateway.site.model import Device, Order, Point, Tag
from gateway.site.syntax import read_toml
from gateway.site.whole_file import whole_file

FOLDER: Final = "devices"
BYTES_MAX: Final = 1024 * 1024
TABLES: Final = ("description", "device", "point")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_POINT_KEYS: Final = ("address", "type", "order", "scale", "offset", "length")
_NEVER: Final = ("device", "point", "value")  # of a tag: what a map cannot know


class Defaults(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[device]`` of a map: how its kind of device is spoken to."""

    base: Annotated[int, Meta(ge=0, le=1)] | None = None
    order: Order | None = None
    max_registers: Annotated[int, Meta(ge=1, le=125)] | None = None
    max_gap: Annotated[int, Meta(ge=0, le=124)] | None = None
    exclude: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Map:
    defaults: Mapping[str, Any]
    rows: tuple[tuple[dict[str, Any], Origin], ...]


def expand_devices(draft: Draft, folder: Path) -> None:
    """Add the tags of every Modbus device's map. What is wrong in a map is told once, by line."""
    maps: dict[str, _Map | None] = {}
    for entry in draft.device:
        name = entry.item.template
        if name is None or not entry.ok("template", "driver"):
            continue
        if not entry.item.driver.startswith("modbus"):
            continue
        if name not in maps:
            maps[name] = _read(name, folder, draft.complaints)
        found = maps[name]
        if found is None:
            known = sorted(_names(folder))
            near = did_you_mean(name, known) or f" ({', '.join(shown(each) for each in known)})"
            text = f"found {shown(name)}, expected a file {FOLDER}/{name}.toml or a known map{near}"
            entry.bad.add("template")
            draft.complaints.add(entry.origin, ("template",), text)
            continue
        left = {key: value for key, value in found.defaults.items() if key not in entry.raw}
        base = found.defaults.get("base", 0)
        if "base" in entry.raw and entry.ok("base") and entry.item.base != base:
            entry.bad.add("base")
            text = f"found {entry.item.base}, expected {base}: the map's addresses count from it"
            draft.complaints.add(entry.origin, ("base",), text)
        entry.item = structs.replace(entry.item, **left)
        _add_tags(draft, entry, found)


def _add_tags(draft: Draft, device: Entry[Device], found: _Map) -> None:
    own: dict[str, Entry[Tag]] = draft.by_id("tag")
    made = []
    for row, origin in found.rows:
        table = {**row, "device": device.id, "id": f"{device.id}.{row.get('id', '')}"}
        tag = convert(Tag, table, origin, draft.complaints, later=LATER_KEYS["tag"])
        written = own.get(tag.id)
        if written is None or written.item.device not in (None, device.id):
            made.append(tag)
        else:
            _fill(written, tag)
    draft.tag.extend(made)


def _fill(written: Entry[Tag], tag: Entry[Tag]) -> None:
    """Put what the map says where the site file's own tag says nothing."""
    left = {key: getattr(tag.item, key) for key in tag.raw if key not in written.raw}
    point = written.item.point
    if point is not None and tag.item.point is not None and "point" in written.raw:
        given = written.raw["point"]
        kept = [key for key in tag.raw["point"] if key not in given]
        left["point"] = structs.replace(point, **{k: getattr(tag.item.point, k) for k in kept})
    written.item = structs.replace(written.item, **left)
    written.bad |= {key for key in tag.bad if key.partition(".")[0] in left}
    written.raw = {**tag.raw, **written.raw}


def _read(name: str, folder: Path, complaints: Complaints) -> _Map | None:
    place = _file(name, folder)
    if place is None:
        return None
    file = f"{FOLDER}/{name}.toml"
    try:
        with resources.as_file(place) as path:
            toml = read_toml(whole_file(path, BYTES_MAX).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        complaints.at_line(file, 1, "", f"cannot be read: {why}")
        return _Map({}, ())
    for line, said in toml.errors:
        complaints.at_line(file, line, "", said)
    index = index_lines(toml.text)
    for key in toml.data:
        if key not in TABLES:
            near = did_you_mean(key, TABLES) or f" ({', '.join(TABLES)})"
            text = f"found {shown(key)}, expected a known table{near}"
            complaints.add(Origin(file, key, (key,), index), (), text)
    given = toml.data.get("device", {})
    defaults = convert(Defaults, given, Origin(file, "device", ("device",), index), complaints)
    listed = toml.data.get("point", [])
    rows = []
    for number, raw in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(raw, dict):
            origin = Origin(
                file, f"point[{raw.get('id', f'#{number + 1}')}]", ("point", number), index
            )
            rows.append((_row(raw, origin, complaints), origin))
    if not rows and not toml.errors:
        complaints.at_line(file, 1, "", "found no [[point]], expected one or more")
    known = [key for key in Defaults.__struct_fields__ if key in given and defaults.ok(key)]
    return _Map({key: getattr(defaults.item, key) for key in known}, tuple(rows))


def _row(raw: dict[str, Any], origin: Origin, complaints: Complaints) -> dict[str, Any]:
    """A map's row as the table of a tag; the point's keys stand among the others there."""
    row: dict[str, Any] = {}
    point: dict[str, Any] = {}
    known = [key for key in (*Tag.__struct_fields__, *_POINT_KEYS) if key not in _NEVER]
    for key, value in raw.items():
        if key in _POINT_KEYS and key in Point.__struct_fields__:
            point[key] = value
            if origin.index is not None:
                origin.index.note((*origin.path, "point", key), origin.line((key,)))
        elif key in known:
            row[key] = value
        else:
            near = did_you_mean(key, known)
            complaints.add(origin, (key,), f"found {shown(key)}, expected a known key{near}")
    if "id" not in raw:
        complaints.add(origin, ("id",), 'found nothing, expected an id such as "ch4"')
    row["point"] = point
    return row


def _file(name: str, folder: Path) -> Traversable | None:
    if _NAME.fullmatch(name) is None:
        return None
    for place in _folders(folder):
        file = place / f"{name}.toml"
        if file.is_file():
            return file
    return None


def _names(folder: Path) -> set[str]:
    return {
        file.name.removesuffix(".toml")
        for place in _folders(folder)
        if place.is_dir()
        for file in place.iterdir()
        if file.name.endswith(".toml")
    }


def _folders(folder: Path) -> tuple[Traversable, ...]:
    return folder / FOLDER, resources.files("gateway.sites") / FOLDER
