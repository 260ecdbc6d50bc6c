"""What was found, as tables of a site file: devices with their tags, to be made right by people."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct, structs

from gateway.commission.scan import Block, UnitFound
from gateway.site.durations import exact_duration
from gateway.site.model import Device, Duration, Line

TAGS_MAX: Final = 500  # of one device: what is more is named in a comment
SITE: Final = """\
# Made by sitewarden. Give the tags their names, types and units, then: sitewarden check FILE
[site]
id = "new-site"
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


def tag_table(
    ident: str, device: str, point: dict[str, object], *, comment: str = "", description: str = ""
) -> str:
    """``[[tag]]``."""
    said = f"  # {comment}" if comment else ""
    text = f'[[tag]]\nid = "{ident}"\ndevice = "{device}"\npoint = {_toml(point)}{said}\n'
    return f"{text}{_pair('description', description)}\n" if description else text


def scanned(device: Device, found: Sequence[UnitFound]) -> str:
    """One device per unit, a tag for each register or coil that was not zero."""
    parts = []
    for one in found:
        ident = f"unit-{one.unit}"
        parts.append(_ranges(one) + device_table(device, ident, one.unit))
        places = [place for block in one.blocks for place in _places(block)]
        for area, number, value in places[:TAGS_MAX]:
            point: dict[str, object] = {"address": f"{area}:{number + device.base}"}
            name, comment = f"u{one.unit}.{area}{number}", f"was {value}"
            parts.append(tag_table(name, ident, point, comment=comment))
        if len(places) > TAGS_MAX:
            parts.append(f"# {len(places) - TAGS_MAX} more that are not zero are left out\n")
    return "\n".join(parts)


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
