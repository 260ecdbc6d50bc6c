"""A simulated OPC UA server on loopback, without security: the nodes that a site names.

Numbers are Double, booleans Boolean, outputs Boolean or Int32 and writable. A device that is
silent, busy or cut gives every node the status BadNoCommunication. Arrays are there, but the
library's server gives them whole: one element alone (``index``) cannot be asked for.
"""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from asyncua import Node, Server, ua

from drivers.errors import LinkError
from drivers.opcua_points import NodeName, OpcUaPoint
from drivers.plant import Fault, NodeText, Plant

HOST: Final = "127.0.0.1"
LOOK_S: Final = 0.1
OBJECTS: Final = (0, "Objects")
_URN: Final = "urn:sitewarden:simulated"


@dataclass(slots=True)
class _Held:
    """One variable of the server, and who is in it: by index, or whole."""

    node: Node
    texts: list[NodeText]
    written: int | None = None  # of an output: the newest that was taken over

    @property
    def output(self) -> NodeText | None:
        return self.texts[0] if self.texts[0].output else None


class NodeServer:
    """One server."""

    def __init__(
        self,
        nodes: tuple[NodeText, ...],
        plant: Plant,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.fault: Fault = "none"
        self._texts = nodes
        self._plant = plant
        self._monotonic_ns = monotonic_ns
        self._server: Server | None = None
        self._held: list[_Held] = []
        self._living: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen; the server's URL. Raises LinkError."""
        logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            url = f"opc.tcp://{HOST}:{probe.getsockname()[1]}"
        self._server = server = Server()
        await server.init()
        server.set_endpoint(url)
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        try:
            await self._add_nodes(server)
            await server.start()
        except (OSError, ua.UaError) as error:
            text = f"{url}: cannot be simulated: {error}"
            raise LinkError(text) from error
        await self._show()
        self._living = asyncio.create_task(self._live())
        return url

    async def close(self) -> None:
        """End it."""
        if self._living is not None:
            self._living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._living
        if self._server is not None:
            await self._server.stop()

    def cut(self) -> None:
        """Sessions stay; the nodes say that nothing is behind them."""

    # ---- the address space -------------------------------------------------------------------

    async def _add_nodes(self, server: Server) -> None:
        names = [step[0] for text in self._texts for step in text.place.path]
        names += [text.place.node.namespace for text in self._texts if text.place.node]
        for number in range(2, max(names, default=1) + 1):
            await server.register_namespace(f"{_URN}:{number}")
        shared: dict[str, list[NodeText]] = {}
        for text in self._texts:
            whole = str(text.place).split("[", 1)[0] if text.place.index is not None else ""
            shared.setdefault(whole or str(text.place), []).append(text)
        for texts in shared.values():
            self._held.append(_Held(await _add_variable(server, texts), texts))

    # ---- values ------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._show()

    async def _show(self) -> None:
        for held in self._held:
            if held.output is not None:
                await self._take(held, held.output)
            else:
                await self._write(held)

    async def _take(self, held: _Held, output: NodeText) -> None:
        """Whatever a client has written."""
        value = int(await held.node.read_value())
        if held.written is not None and value != held.written:
            self._plant.write(output.id, value, self._monotonic_ns())
        held.written = value

    async def _write(self, held: _Held) -> None:
        if self._server is None:
            return
        now_ns = self._monotonic_ns()
        values = {text.place.index: self._raw(text, now_ns) for text in held.texts}
        bad = self.fault != "none" or any(math.isnan(value) for value in values.values())
        boolean = held.texts[0].place.boolean
        value: Any = _whole(values, boolean=boolean)
        code = ua.StatusCodes.BadNoCommunication if bad else ua.StatusCodes.Good
        data = ua.DataValue(ua.Variant(value, _type_of(held.texts[0])), ua.StatusCode(code))
        await self._server.write_attribute_value(held.node.nodeid, data)

    def _raw(self, text: NodeText, now_ns: int) -> float:
        if self._plant.refused(text.id):
            return math.nan
        return (self._plant.value(text.id, now_ns) - text.place.offset) / text.place.scale


async def _add_variable(server: Server, texts: list[NodeText]) -> Node:
    """A variable with everything above it. Raises UaError."""
    text = texts[0]
    values = {each.place.index: float(each.first) for each in texts}
    boolean = text.place.boolean
    initial = bool(text.first) if text.output and boolean else _whole(values, boolean=boolean)
    if text.output and not boolean:
        initial = text.first
    parent, name, ident = server.nodes.objects, ua.QualifiedName(text.id, 2), ua.NodeId()
    if text.place.node is not None:
        ident = await _node_id(server, text.place.node)
        name = ua.QualifiedName(text.id, ident.NamespaceIndex)
    else:
        *above, (namespace, last) = _below_objects(text.place)
        for step in above:
            parent = await _folder(parent, step)
        name = ua.QualifiedName(last, namespace)
        ident = ua.NodeId(f"simulated.{text.id}", 1)
    node = await parent.add_variable(ident, name, initial, _type_of(text))
    if text.output:
        await node.set_writable()
    return node


async def _node_id(server: Server, name: NodeName) -> ua.NodeId:
    if name.uri:
        index = await server.register_namespace(name.uri)
        return ua.NodeId.from_string(f"ns={index};{name.identifier}")
    return ua.NodeId.from_string(str(name))


def _below_objects(place: OpcUaPoint) -> tuple[tuple[int, str], ...]:
    return place.path[1:] if place.path[0] == OBJECTS else place.path


async def _folder(parent: Node, step: tuple[int, str]) -> Node:
    namespace, name = step
    for child in await parent.get_children():
        browse = await child.read_browse_name()
        if (browse.NamespaceIndex, browse.Name) == step:
            return child
    return await parent.add_folder(namespace, name)


def _whole(values: dict[int | None, float], *, boolean: bool) -> Any:
    """The variable's value: one, or an array as long as its greatest index says."""

    def one(value: float) -> bool | float:
        return value >= 0.5 if boolean else value

    if None in values:
        return one(values[None])
    last = max(index or 0 for index in values)
    return [one(values.get(index, 0.0)) for index in range(last + 1)]


def _type_of(text: NodeText) -> ua.VariantType:
    if text.place.boolean:
        return ua.VariantType.Boolean
    return ua.VariantType.Int32 if text.output else ua.VariantType.Double
