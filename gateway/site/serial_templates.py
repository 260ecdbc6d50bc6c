"""Known serial instruments: ``template = "x"`` stands for a line, a protocol and its fields.

They are ``config/serial/*.toml``, installed with the package.
"""

import tomllib
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from drivers.serial_kind import SERIAL
from drivers.serial_tables import SerialField, SerialProtocol
from gateway.site.complaints import did_you_mean, shown
from gateway.site.convert import Entry
from gateway.site.draft import Draft
from gateway.site.model import Device, Line, Point, Tag

_SUFFIX: Final = ".toml"


class SerialTemplate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file."""

    description: str
    protocol: SerialProtocol
    fields: tuple[SerialField, ...]
    line: Line = Line()
    example: str = ""  # what it sends, with the escapes of a TOML text; of frames hexadecimal


@cache
def templates() -> dict[str, SerialTemplate]:
    """Every known instrument by its name."""
    folder = resources.files("gateway.sites") / "serial"
    found: dict[str, SerialTemplate] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(_SUFFIX):
            table = tomllib.loads(file.read_text(encoding="utf-8"))
            found[file.name.removesuffix(_SUFFIX)] = msgspec.convert(table, SerialTemplate)
    return found


def expand_templates(draft: Draft) -> None:
    """Put a template's tables into its devices, a field's unit into tags that state none."""
    for entry in draft.device:
        if entry.item.template is not None and entry.ok("template", "driver"):
            _expand(draft, entry)
    devices = draft.by_id("device")
    for tag in draft.tag:
        device = devices.get(tag.item.device or "")
        if device is not None and device.item.driver == SERIAL:
            _place(tag)
            _unit(draft, tag, device)


def _expand(draft: Draft, entry: Entry[Device]) -> None:
    device = entry.item
    if device.driver != SERIAL:
        return  # told as a key that the driver does not take
    template = templates().get(device.template or "")
    if template is None:
        names = ", ".join(shown(name) for name in templates())
        near = did_you_mean(device.template or "", templates()) or f" ({names})"
        text = f"found {shown(device.template)}, expected a known instrument{near}"
        _complain(draft, entry, ("template",), text)
        entry.bad.add("protocol")
        return
    if device.protocol is not None or not entry.ok("protocol"):
        text = "found it beside template, expected one of both"
        _complain(draft, entry, ("protocol",), text)
        return
    entry.item = structs.replace(
        device,
        protocol=template.protocol,
        fields=(*template.fields, *device.fields),
        line=device.line if device.line is not None else template.line,
    )


def _place(entry: Entry[Tag]) -> None:
    """The address of a row of a spreadsheet is the field."""
    point = entry.item.point
    if not entry.origin.row or point is None or point.field is not None:
        return
    field: str | int = point.address
    if point.address.isdigit():
        field = int(point.address)
    placed: Point = structs.replace(point, field=field, address="")
    entry.item = structs.replace(entry.item, point=placed)


def _unit(draft: Draft, entry: Entry[Tag], device: Entry[Device]) -> None:
    """A field knows its unit; a tag may leave it out, or convert. A signal's unit is another."""
    tag, point = entry.item, entry.item.point
    if (
        point is None
        or tag.signal is not None
        or not entry.ok("unit", "point.field", "point.scale", "point.offset")
    ):
        return
    fields = {field.name: field.unit for field in device.item.fields}
    unit = fields.get(str(point.field), "")
    if not unit or tag.unit == unit:
        return
    if not tag.unit:
        entry.item = structs.replace(tag, unit=unit)
    elif (point.scale, point.offset) == (1.0, 0.0):
        text = (
            f"found {shown(tag.unit)}, expected {shown(unit)} as the field {shown(point.field)} "
            f"has it, or a scale in the point"
        )
        _complain(draft, entry, ("unit",), text)


def _complain(draft: Draft, entry: Entry[Any], keys: tuple[str, ...], text: str) -> None:
    entry.bad.update(keys)
    draft.complaints.add(entry.origin, keys, text)
