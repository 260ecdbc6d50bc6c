"""What was found, as tables of a site file: devices with their tags, to be made right by people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct, structs

from gateway.commission.scan import Block, UnitFound
from gateway.site.durations import exact_duration
from gateway.site.model import Device, Duration, Line

TAGS_MAX: Final = 500  # of one device: what is more is named in a comment
SITE: Final = """\
# Made by sitewarden. Give the tags in {tags} their names, types and units in a spreadsheet, then
# look with: sitewarden check {site}
[site]
id = "new-site"
tags = "{tags}"
"""
_NEVER: Final = frozenset({"id", "driver", "address", "unit"})


def device_table(device: Device, ident: str, unit: int) -> str:
    """``[[device]]`` with every key that is not its default."""
    lines = ["[[device]]", f'id = "{ident}"', _pair("driver", device.driver)]
    lines.append(_pair("address", device.address))
    if unit != 1:
        lines.append(f"unit = {unit}")
    for info in structs.fields(Device):
        value = getattr(device, info.name)
        if info.name not in _NEVER and value != info.default and value != Line():
            lines.append(_pair(info.name, value))
    return "\n".join(lines) + "\n"


def tag_tables(rows: Sequence[Mapping[str, str]]) -> str:
    """``[[tag]]`` of each row of a CSV of tags."""
    parts = []
    for row in rows:
        point = {name: row[name] for name in ("address", "type") if row.get(name)}
        lines = ["[[tag]]", _pair("id", row["id"]), _pair("device", row["device"])]
        lines.append(_pair("point", point))
        if row.get("description"):
            lines.append(_pair("description", row["description"]))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def site_text(site: str, tags: str, devices: str) -> str:
    """A whole site file, beside a CSV of its tags."""
    return f"{SITE.format(site=site, tags=tags)}\n{devices}"


def scanned(device: Device, found: Sequence[UnitFound]) -> tuple[str, list[dict[str, str]]]:
    """One device per unit, and a row for each register or coil that was not zero."""
    parts, rows = [], []
    for one in found:
        ident = f"unit-{one.unit}"
        places = [place for block in one.blocks for place in _places(block)]
        left = len(places) - TAGS_MAX
        more = f"# {left} more that are not zero have no tag\n" if left > 0 else ""
        parts.append(_ranges(one) + more + device_table(device, ident, one.unit))
        for area, number, value in places[:TAGS_MAX]:
            rows.append(
                {
                    "id": f"u{one.unit}.{area}{number}",
                    "device": ident,
                    "address": f"{area}:{number + device.base}",
                    "description": f"was {value}",
                }
            )
    return "\n".join(parts), rows


def _ranges(found: UnitFound) -> str:
    lines = [
        f"# {block.area.value}:{block.first}-{block.last} can be read, {block.used} not zero"
        for block in found.blocks
    ]
    return "".join(f"{line}\n" for line in lines)


def _places(block: Block) -> Iterable[tuple[str, int, int]]:
    """Every cell that is not zero; the first one where all are."""
    used = [(block.first + i, value) for i, value in enumerate(block.values) if value]
    for number, value in used or [(block.first, 0)]:
        yield block.area.value, number, value


def _pair(key: str, value: object) -> str:
    return f"{key} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Duration):
        return f'"{exact_duration(value)}"'
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Struct):
        default = type(value)
        value = {
            info.name: getattr(value, info.name)
            for info in structs.fields(default)
            if getattr(value, info.name) != info.default
        }
    if isinstance(value, dict):
        return "{ " + ", ".join(_pair(key, item) for key, item in value.items()) + " }"
    return msgspec.json.encode(value).decode()  # a TOML basic string is one of JSON
