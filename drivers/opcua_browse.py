"""Walk an OPC UA server's tree with the types and values of its variables. Reads only.

For people who make a site file: what is found can stand there as ``node`` or ``path``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from asyncua import ua

from drivers.errors import PointError
from drivers.kind import Surroundings
from drivers.opcua_client import OpcUaClient, mapped
from drivers.opcua_items import (
    Limits,
    checked_count,
    in_batches,
    node_id,
    read_limits,
    read_value_id,
    read_values,
)
from drivers.opcua_link import LinkSettings, OpcUaLink
from drivers.opcua_points import parse_node
from drivers.opcua_status import quality_of, status_text
from drivers.opcua_values import code_of
from fastpath.codes import Quality

NODES_MAX: Final = 20_000
DEPTH_MAX: Final = 16
OBJECTS: Final = "i=85"
_SERVER: Final = "i=2253"  # the server about itself: thousands of nodes that nobody polls
_REFERENCES_PER_NODE: Final = 1_000
_CONTINUATIONS_MAX: Final = 100
_HIERARCHICAL: Final = ua.NodeId(33)
_CLASSES: Final = ua.NodeClass.Object | ua.NodeClass.Variable


@dataclass(frozen=True, slots=True)
class BrowsedNode:
    """One node of the tree, as a site file would name it."""

    depth: int  # 0: directly below the start
    node: str  # ns=2;s=Tank.Level
    path: str  # 0:Objects/2:Plant/2:Level; "" where the start was not Objects
    name: str  # for people
    variable: bool  # else an object
    type: str = ""  # of a variable: Double, Boolean …; Double[4] of an array; "" without a value
    value: Any = None  # as the server has it; None: none
    status: str = ""  # of its value, for people; "" when it is good


@dataclass(slots=True)
class _Entry:
    found: BrowsedNode
    children: "list[_Entry]" = field(default_factory=list)


async def browse(
    settings: LinkSettings,
    around: Surroundings,
    *,
    start: str = OBJECTS,
    depth_max: int = DEPTH_MAX,
    nodes_max: int = NODES_MAX,
) -> tuple[list[BrowsedNode], bool]:
    """The tree below ``start``, in its own order, and whether that is all of it.

    A node that is reached twice is shown once; the Server object only when it is the start.
    Raises PointError for a start that is no node id, LinkError and ProtocolError.
    """
    root = node_id(parse_node(start))
    if isinstance(root, int):
        raise PointError(key="node", text=f'found "{start}", expected a node with a number (ns=…)')
    client = await OpcUaLink(settings, around).open()
    try:
        limits = await read_limits(client)
        walk = _Walk(client, limits, depth_max, nodes_max)
        begin = "0:Objects" if start == OBJECTS else ""
        top = _Entry(BrowsedNode(-1, root.to_string(), begin, "", variable=False))
        with mapped("browse"):  # a hostile server's node ids come apart when they are shown
            await walk.run(top)
            await _read_values(client, limits, walk.variables)
    finally:
        await client.shut()
    return _flat(top), walk.complete


class _Walk:
    """Level by level, every level in as few requests as the server allows."""

    def __init__(self, client: OpcUaClient, limits: Limits, depth_max: int, nodes_max: int) -> None:
        self.complete = True
        self.variables: list[_Entry] = []
        self._client = client
        self._limits = limits
        self._depth_max = depth_max
        self._nodes_max = nodes_max
        self._seen: set[str] = set()
        self._references = 0  # on pages that were not the last: a server may have no end of them

    async def run(self, top: _Entry) -> None:
        level = [top]
        self._seen.add(top.found.node)
        for depth in range(self._depth_max):
            following: list[_Entry] = []
            at = 0
            async for answers in in_batches(level, self._limits.browse, self._children):
                for references in answers:
                    following += self._take(level[at], references, depth)
                    at += 1
            level = following
            if not level:
                return
        self.complete = False

    def _take(self, parent: _Entry, references: list[Any], depth: int) -> list[_Entry]:
        for reference in references:
            entry = _entry(parent.found, reference, depth)
            if entry.found.node in self._seen or entry.found.node == _SERVER:
                continue
            if len(self._seen) >= self._nodes_max:
                self.complete = False
                break
            self._seen.add(entry.found.node)
            parent.children.append(entry)
            if entry.found.variable:
                self.variables.append(entry)
        return parent.children

    async def _children(self, batch: Sequence[_Entry]) -> list[list[Any]]:
        """The references forward of each node, pages put together."""
        parameters = ua.BrowseParameters()
        parameters.RequestedMaxReferencesPerNode = _REFERENCES_PER_NODE
        parameters.NodesToBrowse = [_description(entry.found.node) for entry in batch]
        with mapped("browse"):
            results = await self._client.uaclient.browse(parameters)
            checked_count(results, len(batch))
        return [await self._pages(result) for result in results]

    async def _pages(self, result: ua.BrowseResult) -> list[Any]:
        found = list(result.References or [])
        pages = 0
        while result.ContinuationPoint:
            pages += 1
            parameters = ua.BrowseNextParameters()
            parameters.ContinuationPoints = [result.ContinuationPoint]
            self._references += len(result.References or [])
            full = self._references >= 2 * self._nodes_max or pages > _CONTINUATIONS_MAX
            parameters.ReleaseContinuationPoints = full
            with mapped("browse"):
                answers = await self._client.uaclient.browse_next(parameters)
                if full:
                    self.complete = False
                    break
                [result] = checked_count(answers, 1)
            found += result.References or []
        return found


async def _read_values(client: OpcUaClient, limits: Limits, variables: Sequence[_Entry]) -> None:
    async def ask(batch: Sequence[_Entry]) -> list[ua.DataValue]:
        nodes = [ua.NodeId.from_string(entry.found.node) for entry in batch]
        return await read_values(client, [read_value_id(node, None) for node in nodes])

    at = 0
    async for answers in in_batches(variables, limits.read, ask):
        for data in answers:
            entry = variables[at]
            at += 1
            entry.found = replace(entry.found, **_value_of(data))


def _value_of(data: ua.DataValue) -> dict[str, Any]:
    code = code_of(data)
    if quality_of(code)[0] is Quality.BAD or data.Value is None or data.Value.Value is None:
        return {"status": "" if code == 0 else status_text(code)}
    value = data.Value.Value
    size = f"[{len(value)}]" if isinstance(value, list) else ""
    return {
        "type": f"{data.Value.VariantType.name}{size}",
        "value": value,
        "status": "" if code == 0 else status_text(code),
    }


def _entry(parent: BrowsedNode, reference: Any, depth: int) -> _Entry:
    name = reference.BrowseName
    step = str(name.Name).replace("&", "&&").replace("/", "&/")
    path = f"{parent.path}/{name.NamespaceIndex}:{step}" if parent.path else ""
    target = reference.NodeId
    node = ua.NodeId(target.Identifier, target.NamespaceIndex, target.NodeIdType)
    return _Entry(
        BrowsedNode(
            depth=depth,
            node=node.to_string(),
            path=path,
            name=str(reference.DisplayName.Text or name.Name),
            variable=reference.NodeClass == ua.NodeClass.Variable,
        )
    )


def _description(node: str) -> ua.BrowseDescription:
    asked = ua.BrowseDescription()
    asked.NodeId = ua.NodeId.from_string(node)
    asked.BrowseDirection = ua.BrowseDirection.Forward
    asked.ReferenceTypeId = _HIERARCHICAL
    asked.IncludeSubtypes = True
    asked.NodeClassMask = int(_CLASSES)
    asked.ResultMask = int(ua.BrowseResultMask.All)
    return asked


def _flat(top: _Entry) -> list[BrowsedNode]:
    """Each node before what is below it; without recursion, a server may be deep."""
    found: list[BrowsedNode] = []
    waiting = list(reversed(top.children))
    while waiting:
        entry = waiting.pop()
        found.append(entry.found)
        waiting.extend(reversed(entry.children))
    return found
