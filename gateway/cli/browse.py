"""``browse``: the tree of an OPC UA server with types and values, and tag rows of it."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drivers.errors import DriverError, PointError
from gateway.cli.points import failed, point_command, surroundings_of
from gateway.cli.scan import add_emit, emitted, new_file
from gateway.cli.table import plain, show_json, show_table
from gateway.commission.nodes import described, node_tags
from gateway.commission.stanza import device_table
from gateway.commission.tag_table import write_table
from gateway.commission.target import target_of
from gateway.errors import ConfigError, GatewayError
from gateway.orders.outcome import Exit

if TYPE_CHECKING:
    from drivers.opcua_browse import BrowsedNode
    from gateway.commission.target import Target

DEPTH: Final = 8
DEPTH_MAX: Final = 64
VALUE_MAX: Final = 40  # characters of a value in the table
TOML: Final = ".toml"
COLUMNS: Final = ("id", "device", "address", "type", "unit", "low", "high", "description")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "the tree of an OPC UA server, with types and values; reads only"
    parser = point_command(commands, "browse", text, browse)
    parser.add_argument("node", nargs="?", metavar="NODE", help="where to begin: ns=2;s=Plant")
    parser.add_argument(
        "--depth", type=_depth, default=DEPTH, metavar="N", help=f"levels (default: {DEPTH})"
    )
    add_emit(parser, "its variables as rows of tags (a .toml file: a whole site file)")


def browse(args: argparse.Namespace) -> int:
    """Print the tree. Raises GatewayError where there is nothing."""
    from drivers.opcua_browse import OBJECTS
    from drivers.opcua_browse import browse as walk
    from drivers.opcua_link import settings_of

    target = target_of(args.device, [args.node] if args.node else [], args.site)
    if target.device.driver != "opcua":
        driver = target.device.driver
        text = f"{args.device}: found {driver}, expected an OPC UA server (scan finds Modbus)"
        raise ConfigError([text])
    new_file(args.emit)
    start = target.points[0].point.address if target.points else OBJECTS
    settings, around = settings_of(target.device), surroundings_of(args)
    try:
        found, complete = asyncio.run(walk(settings, around, start=start, depth_max=args.depth))
    except PointError as error:
        raise ConfigError([f"{args.device}: {error}"]) from None
    except DriverError as error:
        raise failed(target, error) from None
    if not found:
        text = f"{target.name}: nothing below {start}: is there such a node?"
        raise GatewayError(text)
    _show(args, target, found, complete=complete)
    return Exit.DONE


def _show(
    args: argparse.Namespace, target: "Target", found: "list[BrowsedNode]", *, complete: bool
) -> None:
    if args.json:
        show_json({"complete": complete, "nodes": [_as_json(one) for one in found]})
    elif args.emit != "-":
        cells = [
            (f"{'. ' * one.depth}{one.name}", one.type, _value(one), one.status, one.node)
            for one in found
        ]
        show_table(target.name, ("name", "type", "value", "status", "node"), cells)
        if not complete:
            print(f"note: there is more; look deeper with --depth (now {args.depth})")
    if not args.emit:
        return
    device = "" if target.site is None else target.device.id
    if args.emit.endswith(TOML):
        device = device or "opcua"
        emitted(args.emit, device_table(target.device, device, 1), _rows(found, device))
    else:
        _write_rows(args.emit, _rows(found, device))


def _rows(found: "list[BrowsedNode]", device: str) -> list[dict[str, str]]:
    """A row for each variable that a tag can be."""
    return [
        {
            "id": tag.ident,
            "device": device,
            "address": tag.node,
            "type": "bool" if tag.boolean else "",
            "unit": tag.unit,
            "low": f"{tag.limits[0]:g}" if tag.limits else "",
            "high": f"{tag.limits[1]:g}" if tag.limits else "",
            "description": tag.description,
        }
        for tag in node_tags(found)
    ]


def _write_rows(emit: str, rows: list[dict[str, str]]) -> None:
    content = write_table(rows, COLUMNS, chinese=False)
    if emit == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    try:
        with Path(emit).open("xb") as file:
            file.write(content)
    except OSError as error:
        msg = f"{emit} cannot be written: {error.strerror}"
        raise GatewayError(msg) from error
    print(plain(f"written to {emit}; look with: sitewarden tags --import {emit} --site SITE.toml"))


def _value(found: "BrowsedNode") -> str:
    text = "" if found.value is None else described(found.value)
    return text if len(text) <= VALUE_MAX else f"{text[: VALUE_MAX - 1]}…"


def _as_json(found: "BrowsedNode") -> dict[str, Any]:
    value = found.value
    plain_value = value if isinstance(value, bool | int | float | str | None) else str(value)
    return {
        "depth": found.depth,
        "name": found.name,
        "node": found.node,
        "path": found.path,
        "variable": found.variable,
        "type": found.type,
        "value": plain_value,
        "status": found.status,
    }


def _depth(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= DEPTH_MAX:
        msg = f'found "{text}", expected levels from 1 to {DEPTH_MAX}'
        raise argparse.ArgumentTypeError(msg)
    return int(text)
