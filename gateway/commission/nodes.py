"""Nodes of an OPC UA server as tags: ids made of their names, only what a tag can be."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Final

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
    unit: str = ""  # as the server names it
    limits: tuple[float, float] | None = None  # what the instrument can measure


def node_tags(found: Sequence["BrowsedNode"]) -> list[NodeTag]:
    """Those with a single number or boolean, each with an id of its own.

    What is the standard's own (namespace 0) is no value of a plant. EURange is what is usual, not
    what is possible: a value beyond it is not bad, so InstrumentRange alone limits a tag.
    """
    tags: list[NodeTag] = []
    taken: set[str] = set()
    for at, one in enumerate(found):
        single = one.type in NUMBERS or one.type == BOOLEAN
        if not (one.variable and single and one.node.startswith("ns=")):
            continue
        ident = _free(_ident(one), taken)
        taken.add(ident)
        unit, limits = _analog(found, at)
        tags.append(NodeTag(ident, one.node, one.type == BOOLEAN, one.name, unit, limits))
    return tags


def described(value: Any) -> str:
    """A value for people; of a unit its name, of a range its ends."""
    if hasattr(value, "Low") and hasattr(value, "High"):
        return f"{value.Low} to {value.High}"
    name = getattr(value, "DisplayName", None)
    return str(getattr(name, "Text", None) or "") if name is not None else str(value)


def _analog(found: Sequence["BrowsedNode"], at: int) -> tuple[str, tuple[float, float] | None]:
    """The unit and range that stand below a variable (Part 8, AnalogItemType)."""
    unit, limits = "", None
    rest = islice(found, at + 1, None)
    for below in takewhile(lambda each: each.depth > found[at].depth, rest):
        if below.depth != found[at].depth + 1:
            continue
        if below.name == "EngineeringUnits" and hasattr(below.value, "DisplayName"):
            unit = described(below.value)
        elif below.name == "InstrumentRange":
            low, high = getattr(below.value, "Low", None), getattr(below.value, "High", None)
            if isinstance(low, float) and isinstance(high, float) and low < high:
                limits = (low, high)
    return unit.strip(), limits


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
