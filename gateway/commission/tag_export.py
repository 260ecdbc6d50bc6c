"""A site's measured tags as a list for spreadsheets; an import reads it back as the same tags."""

from pathlib import Path
from typing import Final

from gateway.commission.tag_table import write_table
from gateway.errors import ConfigError
from gateway.site import tags_csv
from gateway.site.convert import Entry
from gateway.site.durations import exact_duration
from gateway.site.load import read_site
from gateway.site.model import Point, Tag

_COLUMNS: Final = frozenset(
    {"id", "device", "point", "unit", "range", "poll", "stale_after", "description"}
)
_PLACES: Final = frozenset({*tags_csv.POINT, "node", "path", "field"})


def exported(site: Path, *, chinese: bool = False) -> tuple[bytes, list[str]]:
    """The list, and a line for each thing that it cannot say. Raises ConfigError."""
    draft = read_site(site)
    if draft.complaints:
        raise ConfigError(draft.complaints.lines())
    rows, left_out = [], []
    for entry in draft.tag:
        if entry.item.value is not None:
            left_out.append(f"{entry.id} is computed and has no row")
            continue
        rows.append(export_cells(entry.item))
        keys = not_expressed(entry)
        if keys:
            left_out.append(f"{entry.id}: {', '.join(keys)} has no column")
    return write_table(rows, list(tags_csv.HEADINGS), chinese=chinese), left_out


def export_cells(tag: Tag) -> dict[str, str]:
    """A measured tag's cells; empty for what is its default."""
    point = tag.point or Point()
    field = "" if point.field is None else str(point.field)
    place = point.address or point.node or point.path or field
    cells = {
        "id": tag.id,
        "device": tag.device or "",
        "address": place,
        "type": point.type,
        "order": point.order,
        "unit": tag.unit,
        "low": _number(tag.range[0]) if tag.range else "",
        "high": _number(tag.range[1]) if tag.range else "",
        "scale": _number(point.scale) if point.scale != 1.0 else "",
        "offset": _number(point.offset) if point.offset != 0.0 else "",
        "poll": "" if tag.poll is None else exact_duration(tag.poll),
        "stale_after": "" if tag.stale_after is None else exact_duration(tag.stale_after),
        "description": tag.description,
    }
    return {name: text.strip() for name, text in cells.items()}


def not_expressed(entry: Entry[Tag]) -> list[str]:
    """Keys of a tag that a CSV has no column for."""
    point = entry.raw.get("point")
    inner = set(point) - _PLACES if isinstance(point, dict) else set()
    return sorted(set(entry.raw) - _COLUMNS) + [f"point.{key}" for key in sorted(inner)]


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")
