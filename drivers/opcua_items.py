"""What is asked of a server about many nodes: in requests no larger than it takes.

Node ids are found once per session (namespaces by URI, nodes by their path). A node that the
server refuses has a status code; the others are served.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from drivers.opcua_client import OpcUaClient, StatusError, mapped
from drivers.opcua_points import NodeName, OpcUaPoint

BATCH_MAX: Final = 500
_TOO_MANY: Final = frozenset(
    (
        StatusCodes.BadTooManyOperations,
        StatusCodes.BadEncodingLimitsExceeded,
        StatusCodes.BadRequestTooLarge,
        StatusCodes.BadResponseTooLarge,
        StatusCodes.BadTcpMessageTooLarge,
    )
)
_NO_SERVICE: Final = frozenset(
    (
        StatusCodes.BadServiceUnsupported,
        StatusCodes.BadNotImplemented,
        StatusCodes.BadNotSupported,
    )
)
_ROOT: Final = ua.NodeId(84)
_HIERARCHICAL: Final = ua.NodeId(33)
_WHOLE_PATH: Final = 2**32 - 1

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Limits(NamedTuple):
    """The most nodes that the server takes in one request, by kind; never above BATCH_MAX."""

    read: int = BATCH_MAX
    items: int = BATCH_MAX
    paths: int = BATCH_MAX
    browse: int = BATCH_MAX


async def read_limits(client: OpcUaClient) -> Limits:
    """The server's operation limits; one that it does not tell is ours. Raises LinkError."""
    ids = ua.ObjectIds
    nodes = [
        ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
        ids.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
        ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
        ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    ]
    values = await read_values(client, [read_value_id(ua.NodeId(node), None) for node in nodes])
    return Limits(*(_limit(value.Value.Value if value.Value else None) for value in values))


def _limit(value: Any) -> int:
    told = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return min(BATCH_MAX, value) if told else BATCH_MAX


async def in_batches(
    asked: Sequence[Asked], limit: int, ask: Callable[[Sequence[Asked]], Awaitable[list[Answer]]]
) -> AsyncIterator[list[Answer]]:
    """The answers to ``asked``, at most ``limit`` at a time, fewer where the server wants that."""
    at = 0
    while at < len(asked):
        batch = asked[at : at + limit]
        try:
            answers = await ask(batch)
        except StatusError as error:
            if error.code not in _TOO_MANY or len(batch) == 1:
                raise
            limit = max(1, len(batch) // 2)
            continue
        yield answers
        at += len(batch)


async def read_values(
    client: OpcUaClient, nodes: Sequence[ua.ReadValueId], max_age_ms: float = 0
) -> list[ua.DataValue]:
    """One read request. Raises LinkError or ProtocolError."""
    parameters = ua.ReadParameters()
    parameters.MaxAge = max_age_ms
    parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
    parameters.NodesToRead = list(nodes)
    with mapped("read"):
        answers = await client.uaclient.read(parameters)
        return checked_count(answers, len(nodes))


def checked_count(answers: list[Answer], count: int) -> list[Answer]:
    """``answers`` when there is one for each that was asked. Raises ValueError."""
    if len(answers or []) != count:
        text = f"{len(answers or [])} answers to {count} questions"
        raise ValueError(text)
    return answers


def read_value_id(node: ua.NodeId, index: int | None) -> ua.ReadValueId:
    """The value of a node, or of one element of it."""
    item = ua.ReadValueId()
    item.NodeId = node
    item.AttributeId = ua.AttributeIds.Value
    item.IndexRange = None if index is None else str(index)
    return item


async def find_nodes(
    client: OpcUaClient, points: Sequence[OpcUaPoint], limits: Limits
) -> list[ua.NodeId | int]:
    """The node id of each point, or the status code for which it has none. Raises LinkError."""
    found: list[ua.NodeId | int] = [StatusCodes.BadNodeIdUnknown] * len(points)
    uris = await _namespaces(client, points)
    for at, point in enumerate(points):
        if point.node is not None:
            found[at] = node_id(point.node, uris)
    by_path = [at for at, point in enumerate(points) if point.path]

    async def translate(batch: Sequence[int]) -> list[ua.BrowsePathResult]:
        with mapped("browse paths"):
            answers = await client.uaclient.translate_browsepaths_to_nodeids(
                [_browse_path(points[at]) for at in batch]
            )
            return checked_count(answers, len(batch))

    results: list[ua.BrowsePathResult] = []
    try:
        async for answers in in_batches(by_path, limits.paths, translate):
            results += answers
    except StatusError as error:
        if error.code not in _NO_SERVICE:
            raise  # it is in trouble: a session begun later finds them
        # A small server has no such service: the other points have ids.
        refused = ua.BrowsePathResult(ua.StatusCode(error.code))
        results += [refused] * (len(by_path) - len(results))
    for at, result in zip(by_path, results, strict=True):
        found[at] = _target(result)
    return found


async def _namespaces(client: OpcUaClient, points: Sequence[OpcUaPoint]) -> list[str]:
    """The server's namespace URIs by number, where a point names one."""
    if not any(point.node is not None and point.node.uri for point in points):
        return []
    node = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)
    [value] = await read_values(client, [read_value_id(node, None)])
    uris = value.Value.Value if value.Value is not None else None
    return [str(uri) for uri in uris] if isinstance(uris, list) else []


def node_id(name: NodeName, uris: Sequence[str] = ()) -> ua.NodeId | int:
    """The library's node id; BadNodeIdUnknown for a namespace that the server does not have."""
    namespace = name.namespace
    if name.uri:
        if name.uri not in uris:
            return int(StatusCodes.BadNodeIdUnknown)
        namespace = uris.index(name.uri)
    return ua.NodeId.from_string(f"ns={namespace};{name.identifier}")


def _browse_path(point: OpcUaPoint) -> ua.BrowsePath:
    path = ua.BrowsePath()
    path.StartingNode = _ROOT
    for namespace, name in point.path:
        element = ua.RelativePathElement()
        element.ReferenceTypeId = _HIERARCHICAL
        element.IsInverse = False
        element.IncludeSubtypes = True
        element.TargetName = ua.QualifiedName(name, namespace)
        path.RelativePath.Elements.append(element)
    return path


def _target(result: ua.BrowsePathResult) -> ua.NodeId | int:
    """The one node that a path leads to; where it leads to several it leads nowhere.

    Nor does it where the rest of the way, or the node, is on another server.
    """
    if not result.StatusCode.is_good():
        return int(result.StatusCode.value)
    found: set[ua.NodeId] = set()
    for each in result.Targets or []:
        target = each.TargetId
        elsewhere = getattr(target, "ServerIndex", None) or getattr(target, "NamespaceUri", None)
        if each.RemainingPathIndex == _WHOLE_PATH and not elsewhere:
            found.add(ua.NodeId(target.Identifier, target.NamespaceIndex, target.NodeIdType))
    if len(found) != 1:
        return int(StatusCodes.BadTooManyMatches if found else StatusCodes.BadNoMatch)
    return found.pop()
