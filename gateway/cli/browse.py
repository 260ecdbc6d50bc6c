"""``browse``: the tree of an OPC UA server with types and values, and tag rows of it."""

import argparse
import asyncio
from typing import TYPE_CHECKING, Any, Final

from drivers.errors import DriverError, PointError
from gateway.cli.points import failed, point_command, surroundings_of
from gateway.cli.scan import add_emit, emitted, new_file
from gateway.cli.table import plain, show_json, show_table
from gateway.commission.target import target_of
from gateway.errors import ConfigError
from gateway.outcome import Exit

if TYPE_CHECKING:
    from drivers.opcua_browse import BrowsedNode
    from gateway.commission.nodes import NodeTag
    from gateway.commission.target import Target

DEPTH: Final = 8
DEPTH_MAX: Final = 64
VALUE_MAX: Final = 40  # characters of a value in the table
TOML: Final = ".toml"


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
    """Print the tree; 1 where there is nothing."""
    from drivers.opcua_browse import OBJECTS
    from drivers.opcua_browse import browse as walk
    from drivers.opcua_link import settings_of

    target = target_of(args.device, [args.node] if args.node else [], args.site)
    if target.device.driver != "opcua":
        text = f"{args.device}: found {target.device.driver}, expected an OPC UA server"
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
    _show(args, target, found, complete=complete)
    return Exit.DONE if found else Exit.FAILED


def _show(
    args: argparse.Namespace, target: "Target", found: "list[BrowsedNode]", *, complete: bool
) -> None:
    from gateway.commission.nodes import node_tags

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
    tags = node_tags(found)
    if args.emit.endswith(TOML):
        emitted(args.emit, _tables(target, tags))
    else:
        _rows(args.emit, target, tags)


def _tables(target: "Target", tags: "list[NodeTag]") -> str:
    """A device with its tags."""
    from gateway.commission.stanza import device_table, tag_table

    ident = "opcua" if target.site is None else target.device.id
    parts = [device_table(target.device, ident, 1)]
    for tag in tags:
        point: dict[str, object] = {"node": tag.node}
        if tag.boolean:
            point["type"] = "bool"
        parts.append(tag_table(tag.ident, ident, point, description=tag.description))
    return "\n".join(parts)


def _rows(emit: str, target: "Target", tags: "list[NodeTag]") -> None:
    """The rows of a CSV; without a site file no device stands in them."""
    import sys
    from pathlib import Path

    from gateway.commission.tag_table import write_table
    from gateway.errors import GatewayError

    device = "" if target.site is None else target.device.id
    columns = ("id", "device", "address", "type", "description")
    rows = [
        dict(
            zip(
                columns,
                (tag.ident, device, tag.node, "bool" if tag.boolean else "", tag.description),
                strict=True,
            )
        )
        for tag in tags
    ]
    content = write_table(rows, columns, chinese=False)
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
    text = "" if found.value is None else str(found.value)
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
