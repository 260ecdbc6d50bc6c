"""OPC UA: reads and writes of one server's nodes.

A session is one library client; after any loss a new one is made. Readings carry the source's time
or the server's where it can be true; how old a value is, our own clock decides.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from drivers.base import Facts, Reading
from drivers.errors import DeviceError, LinkError, RequestError
from drivers.kind import Surroundings
from drivers.opcua_client import OpcUaClient, mapped
from drivers.opcua_items import (
    Limits,
    checked_count,
    find_nodes,
    in_batches,
    read_limits,
    read_value_id,
    read_values,
)
from drivers.opcua_link import LinkSettings, OpcUaLink
from drivers.opcua_points import OpcUaPoint
from drivers.opcua_status import quality_of, status_text
from drivers.opcua_subscription import RETRY_NS
from drivers.opcua_values import bad, code_of, raw_of, reading_of
from fastpath.codes import Quality, Reason

CLOCK_NS_MAX: Final = 300_000_000_000  # a server's clock further off ours is told


class OpcUa:
    """One server, read in cycles. A plan is a tuple of point indices, made by :meth:`plan`."""

    def __init__(
        self, settings: LinkSettings, points: Sequence[OpcUaPoint], around: Surroundings
    ) -> None:
        self._settings = settings
        self._points = tuple(points)
        self._link = OpcUaLink(settings, around)
        self._client: OpcUaClient | None = None
        self._limits = Limits()
        self._nodes: list[ua.NodeId | int] = []
        self._find_ns = 0  # when those that were not found are looked for again
        self._types: dict[int, ua.VariantType] = {}  # of what was read in this session
        self._refused: dict[int, int] = {}  # point: status code; 0: it is not what it should be
        self._counts: Counter[str] = Counter()
        self._clock_ahead_ns: int | None = None

    def plan(self, indices: Iterable[int]) -> tuple[int, ...]:
        """The points at ``indices``. Raises RequestError for one that is not there."""
        chosen = tuple(indices)
        if any(not 0 <= i < len(self._points) for i in chosen):
            text = "a plan of points that the device does not have"
            raise RequestError(text)
        return chosen

    async def connect(self) -> None:
        """Open a session and find every node. Raises LinkError or ProtocolError."""
        await self.close()
        try:
            self._client = await self._link.open()
            self._limits = await read_limits(self._client)
            self._nodes = await find_nodes(self._client, self._points, self._limits)
        except BaseException:
            self._counts["connect"] += 1
            await self.close()
            raise
        self._find_ns = time.monotonic_ns() + RETRY_NS
        self._types.clear()
        self._refused.clear()

    async def read(self, plan: Sequence[int]) -> Sequence[Reading]:
        """Read every point once, as the server has it now. Raises LinkError or ProtocolError."""
        client = self._open_client()
        await self._find_again(client)
        found: dict[int, Reading] = {}
        known: list[int] = []
        for index in plan:
            node = self._nodes[index]
            if isinstance(node, int):
                found[index] = self._refusal(index, node)
            else:
                known.append(index)

        async def ask(batch: Sequence[int]) -> list[ua.DataValue]:
            asked = [read_value_id(self._nodes[i], self._points[i].index) for i in batch]
            try:
                answers = await read_values(client, asked)
            except BaseException:
                self._counts["lost"] += 1
                raise
            self._counts["good"] += 1
            return answers

        at = 0
        async for answers in in_batches(known, self._limits.read, ask):
            utc_ns = time.time_ns()
            for data in answers:
                index = known[at]
                found[index] = self._reading(index, data, utc_ns)
                at += 1
        return [found[index] for index in plan]

    async def write(self, point: int, value: float) -> None:
        """Write one point and check the status. Raises DriverError; never tried twice."""
        client = self._open_client()
        target, node = self._points[point], self._nodes[point]
        if isinstance(node, int):
            text = f"{target} is not written: {status_text(node)}"
            raise DeviceError(text)
        kind = await self._type_of(client, point)
        raw = raw_of(target, value, kind)
        item = ua.WriteValue()
        item.NodeId = node
        item.AttributeId = ua.AttributeIds.Value
        item.IndexRange = None if target.index is None else str(target.index)
        array = target.index is not None
        item.Value = ua.DataValue(ua.Variant([raw] if array else raw, kind, is_array=array))
        # Value alone: many servers refuse a status or a time with it.
        item.Value.StatusCode = None
        parameters = ua.WriteParameters()
        parameters.NodesToWrite = [item]
        with mapped("write"):
            [status] = checked_count(await client.uaclient.write(parameters), 1)
        if int(status.value) != StatusCodes.Good:
            self._counts["exception"] += 1
            self._types.pop(point, None)  # it may have become another one
            text = f"{target} is not written: {status_text(int(status.value))}"
            raise DeviceError(text)
        self._counts["good"] += 1

    async def close(self) -> None:
        """End the session; the socket is closed when this returns."""
        client, self._client = self._client, None
        if client is not None:
            await client.shut()

    def stats(self) -> Mapping[str, int]:
        """Requests by result: good, exception, lost; connect: failed connects."""
        return self._counts

    def faults(self) -> Mapping[int, str]:
        """Points that the server refuses, by index, with a text for people."""
        return {index: self._fault(index, code) for index, code in sorted(self._refused.items())}

    def facts(self) -> Facts:
        """When the server's certificate ends, how its clock goes, and what people must see to."""
        troubles = self._link.troubles()
        ahead_ns = self._clock_ahead_ns
        if ahead_ns is not None and abs(ahead_ns) > CLOCK_NS_MAX:
            side = "ahead of" if ahead_ns > 0 else "behind"
            troubles["server_clock"] = f"its clock is {abs(ahead_ns) / 1e9:.0f} s {side} ours"
        return Facts(
            not_after_utc_ns=self._link.server_not_after_utc_ns,
            clock_ahead_ns=ahead_ns,
            troubles=troubles,
        )

    def _fault(self, index: int, code: int) -> str:
        point = self._points[index]
        if code:
            return f"{point} is refused: {status_text(code)}"
        if point.boolean:
            return f'{point} holds no boolean, which type = "bool" is for'
        return f'{point} holds no number (a boolean needs type = "bool", an array an index)'

    async def _find_again(self, client: OpcUaClient) -> None:
        """Look again, once in a while, for what was not there: a server may still be filling."""
        now_ns = time.monotonic_ns()
        if now_ns < self._find_ns:
            return
        self._find_ns = now_ns + RETRY_NS
        lost = [index for index, node in enumerate(self._nodes) if isinstance(node, int)]
        if lost:
            asked = [self._points[index] for index in lost]
            found = await find_nodes(client, asked, self._limits)
            for index, node in zip(lost, found, strict=True):
                self._nodes[index] = node

    def _open_client(self) -> OpcUaClient:
        if self._client is None:
            text = "not connected"
            raise LinkError(text)
        if said := self._client.ended:
            raise LinkError(said)
        return self._client

    def _reading(self, index: int, data: ua.DataValue, utc_ns: int) -> Reading:
        code = code_of(data)
        if quality_of(code) == (Quality.BAD, Reason.UNREADABLE):
            return self._refusal(index, code)
        self._refused.pop(index, None)
        if data.Value is not None:
            self._types[index] = data.Value.VariantType
        reading = reading_of(index, self._points[index], data, utc_ns)
        if reading.reason == Reason.UNREADABLE:
            self._refused[index] = 0
        return reading

    def _refusal(self, index: int, code: int) -> Reading:
        self._refused[index] = code
        return bad(index, Reason.UNREADABLE)

    async def _type_of(self, client: OpcUaClient, point: int) -> ua.VariantType:
        """The type that the node has now: servers refuse a value of another one."""
        kind = self._types.get(point)
        if kind is None:
            asked = read_value_id(self._nodes[point], self._points[point].index)
            [data] = await read_values(client, [asked])
            kind = data.Value.VariantType if data.Value is not None else ua.VariantType.Null
            if kind is ua.VariantType.Null:
                text = f"{self._points[point]}: its type is not known: {status_text(code_of(data))}"
                raise DeviceError(text)
            self._types[point] = kind
        return kind
