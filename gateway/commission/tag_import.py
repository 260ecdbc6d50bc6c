"""Tags of a list into a site: what would be added or changed, checked with the whole site first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from drivers.errors import PointError
from drivers.points import parse_point
from drivers.registry import DRIVERS
from gateway.check import check_draft
from gateway.commission.tag_export import export_cells
from gateway.commission.tag_table import TagRow, TagTable, read_table, translated, write_table
from gateway.errors import ConfigError
from gateway.site import tags_csv
from gateway.site.complaints import Complaints, Origin
from gateway.site.convert import Entry, convert
from gateway.site.draft import Draft
from gateway.site.later import LATER_KEYS
from gateway.site.load import read_site
from gateway.site.model import Device, Tag
from gateway.site.spreadsheet import guessed
from gateway.site.whole_file import whole_file

NUMBERS: Final = tags_csv.NUMBERS
_MODBUS: Final = re.compile("[a-z]{1,2}:|[0-9]")


@dataclass(slots=True)
class Change:
    """One row's effect. ``columns``: (column, before, after) of what a tag had otherwise."""

    row: TagRow
    kind: str  # added, changed, same
    columns: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class TagImport:
    """A list that fits its site. ``merged`` is the site's new CSV, b"" where it has none.

    ``guessed``: its code page, where nothing but its letters says so.
    """

    changes: list[Change]
    left_out: tuple[str, ...]
    path: Path | None = None
    merged: bytes = b""
    guessed: str = ""


def read_import(file: Path, site: Path | None, *, device: str = "") -> TagImport:
    """Read a list and put it into the site as read. Raises ConfigError with every error."""
    draft = None if site is None else read_site(site)
    complaints = Complaints(str(file)) if draft is None else draft.complaints
    try:
        data = whole_file(file)
    except OSError as error:
        raise ConfigError([f"{file}:1: cannot be read: {error.strerror}"]) from None
    table = read_table(str(file), data, complaints)
    bases = {entry.id: _base(entry.item) for entry in draft.device} if draft else {}
    rows = [
        translated(row, modbus=lambda name: bases.get(name, None if draft else 0), device=device)
        for row in table.rows
    ]
    if draft is not None and site is not None:
        return replace(_into(draft, site, table, rows), guessed=guessed(data))
    _tell_doubles(str(file), rows, complaints)
    for row in rows:
        _check_alone(_entry(str(file), row.number, row.cells, complaints), complaints)
    if complaints:
        raise ConfigError(complaints.lines())
    changes = [Change(row, "read") for row in rows]
    return TagImport(changes, table.left_out, guessed=guessed(data))


def _into(draft: Draft, site: Path, table: TagTable, rows: Sequence[TagRow]) -> TagImport:
    """Check the whole site with the rows in it; what each of them changes."""
    old = {entry.id: entry for entry in reversed(draft.tag)}
    changes, new = [], {}
    for row in rows:
        ident = row.cells.get("id", "")
        before = old.get(ident)
        change = _change(row, before)
        changes.append(change)
        if change.kind == "same":
            continue
        cells = row.cells if before is None else export_cells(before.item) | row.cells
        entry = _entry(table.file, row.number, cells, draft.complaints)
        if before is None or before.origin.row:
            new[ident if ident not in new else f"#{row.number}"] = entry
        else:
            what = ", ".join(column for column, _, _ in change.columns)
            text = f"found another {what} than {draft.file} has, where this tag is to be changed"
            draft.complaints.add(entry.origin, (), text)
    kept = [new.pop(entry.id, entry) for entry in draft.tag]
    check_draft(draft.with_tags([*kept, *new.values()]), require_credentials=False)
    name = draft.site.item.tags
    if name is None:
        return TagImport(changes, table.left_out)
    path = site.parent / name
    return TagImport(changes, table.left_out, path, _merged(path, changes))


def _merged(path: Path, changes: Sequence[Change]) -> bytes:
    """The site's CSV with its own order, rows and headings, and what is new."""
    table = read_table(str(path), whole_file(path), Complaints(str(path)))
    by_id = {change.row.cells["id"]: change for change in changes if change.kind != "same"}
    rows = []
    for row in table.rows:
        change = by_id.pop(row.cells.get("id", ""), None)
        rows.append(row.cells | (change.row.cells if change else {}))
    rows += [change.row.cells for change in by_id.values() if change.kind == "added"]
    used = {name for cells in rows for name, cell in cells.items() if cell}
    columns = [*table.columns, *(n for n in tags_csv.HEADINGS if n in used - set(table.columns))]
    return write_table(rows, columns, chinese=table.chinese)


def _change(row: TagRow, old: Entry[Tag] | None) -> Change:
    if old is None:
        return Change(row, "added")
    before = export_cells(old.item)
    columns = [
        (name, before.get(name, ""), cell)
        for name, cell in row.cells.items()
        if not _equal(name, before.get(name, ""), cell)
    ]
    return Change(row, "changed" if columns else "same", columns)


def _equal(name: str, one: str, other: str) -> bool:
    if name not in NUMBERS or not (one or other):
        return one == other
    neutral = {"scale": "1", "offset": "0"}.get(name, "nan")
    try:
        return float(one or neutral) == float(other or neutral)
    except ValueError:
        return False


def _entry(file: str, number: int, cells: dict[str, str], complaints: Complaints) -> Entry[Tag]:
    origin = Origin(file, f"tag[{cells.get('id') or f'#{number}'}]", row=number)
    read = tags_csv.row_of(cells, origin, complaints)
    entry = convert(Tag, read.table, origin, complaints, later=LATER_KEYS["tag"])
    entry.bad |= read.bad
    return entry


def _check_alone(entry: Entry[Tag], complaints: Complaints) -> None:
    """What can be said of a Modbus point without its device; others are the driver's to judge."""
    point = entry.item.point
    if point is None or not entry.ok("point") or not _MODBUS.match(point.address):
        return
    try:
        parse_point(point.address, point.type, point.order, scale=point.scale, offset=point.offset)
    except PointError as error:
        complaints.add(entry.origin, ("point", error.key), str(error))


def _tell_doubles(file: str, rows: Sequence[TagRow], complaints: Complaints) -> None:
    first: dict[str, int] = {}
    for row in rows:
        ident = row.cells.get("id", "")
        if ident and first.setdefault(ident, row.number) != row.number:
            text = f"found the id of row {first[ident]} again, expected each once"
            complaints.at_line(file, row.number, f"tag[{ident}]", text)


def _base(device: Device) -> int | None:
    kind = DRIVERS.get(device.driver)
    return device.base if kind and "max_registers" in kind.device_keys else None
