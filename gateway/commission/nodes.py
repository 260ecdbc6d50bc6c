"""Nodes of an OPC UA server as tags: ids made of their names, only what a tag can be."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.site.model import IDENT_PATTERN

if TYPE_CHECKING:
    from drivers.opcua_browse import BrowsedNode

NUMBERS: Final = frozenset(
    {"SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double"}
)
BOOLEAN: Final = "Boolean"
IDENT_MAX: Final = 63

_NAME: Final = re.compile(r"(?:ns=\d+;)?s=(?P<name>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NodeTag:
    """A variable that can be a tag."""

    ident: str
    node: str
    boolean: bool
    description: str


def node_tags(found: Sequence["BrowsedNode"]) -> list[NodeTag]:
    """Those with a single number or boolean, each with an id of its own."""
    tags: list[NodeTag] = []
    taken: set[str] = set()
    for one in found:
        if one.variable and (one.type in NUMBERS or one.type == BOOLEAN):
            ident = _free(_ident(one), taken)
            taken.add(ident)
            tags.append(NodeTag(ident, one.node, one.type == BOOLEAN, one.name))
    return tags


def _ident(found: "BrowsedNode") -> str:
    """``tank.level`` of ``ns=2;s=Tank.Level``; the path's names where the node is a number."""
    match = _NAME.fullmatch(found.node)
    steps = [step.partition(":")[2] for step in found.path.split("/")[1:]]
    name = match["name"] if match else ".".join(steps) or found.name
    plain = re.sub(r"[^a-z0-9_.-]+", "_", name.lower()).strip("_.-")[:IDENT_MAX]
    return plain if re.fullmatch(IDENT_PATTERN, plain) else f"n_{plain}"[:IDENT_MAX]


def _free(ident: str, taken: set[str]) -> str:
    number, free = 1, ident
    while free in taken:
        number += 1
        end = f"_{number}"
        free = ident[: IDENT_MAX - len(end)] + end
    return free
