"""OPC UA: reads and writes of one server's nodes, or its subscriptions.

A session is one library client; after any loss a new one is made. Readings carry the source's time
where it can be true; how old a value is, our own clock decides.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from drivers.base import Batch, Facts, Reading
from drivers.errors import DeviceError, LinkError, RequestError
from drivers.kind import Surroundings
from drivers.opcua_client import OpcUaClient, mapped
from drivers.opcua_conditions import Conditions
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
from drivers.opcua_subscription import Subscription, Told
from drivers.opcua_values import bad, code_of, raw_of, reading_of
from fastpath.codes import Quality, Reason

CLOCK_NS_MAX: Final = 300_000_000_000  # a server's clock further off ours is told
PUBLISHING: Final = 2  # publish requests that the server holds
# Statuses of a node that only a change of the site file or of the server mends.
_REFUSALS: Final = Reason.UNREADABLE


@dataclass(frozen=True, slots=True)
class Pace:
    """How a subscription samples; 0 where the poll period says it. What else it tells."""

    sampling_ns: int = 0
    queue: int = 0
    conditions: tuple[str, int] | None = None  # of this notifier, from this severity on


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
        self._types: dict[int, ua.VariantType] = {}  # of what was read in this session
        self._refused: dict[int, int] = {}  # point: status code
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
        self._types.clear()
        self._refused.clear()

    async def read(self, plan: Sequence[int]) -> Sequence[Reading]:
        """Read every point once, as the server has it now. Raises LinkError or ProtocolError."""
        client = self._open_client()
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
        return {
            index: f"{self._points[index]} is refused: {status_text(code)}"
            for index, code in sorted(self._refused.items())
        }

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

    def _open_client(self) -> OpcUaClient:
        if self._client is None:
            text = "not connected"
            raise LinkError(text)
        if said := self._client.ended:
            raise LinkError(said)
        return self._client

    def _reading(self, index: int, data: ua.DataValue, utc_ns: int) -> Reading:
        code = code_of(data)
        if quality_of(code) == (Quality.BAD, _REFUSALS):
            return self._refusal(index, code)
        self._refused.pop(index, None)
        if data.Value is not None:
            self._types[index] = data.Value.VariantType
        return reading_of(index, self._points[index], data, utc_ns)

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


class OpcUaSubscribing(OpcUa):
    """One server that tells what changes. Reads and writes as above besides."""

    def __init__(
        self,
        settings: LinkSettings,
        points: Sequence[OpcUaPoint],
        around: Surroundings,
        pace: Pace,
    ) -> None:
        super().__init__(settings, points, around)
        self._pace = pace
        self._subscriptions: dict[int, Subscription] = {}
        self._publishing: deque[asyncio.Task[ua.PublishResponse]] = deque()
        self._acks: list[ua.SubscriptionAcknowledgement] = []
        self._unread: list[Reading] = []  # of refused points, not told yet
        self._conditions: Conditions | None = None

    async def subscribe(self, classes: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Subscribe to (period ns, plan) each. Raises LinkError or ProtocolError."""
        client = self._open_client()
        self._subscriptions.clear()
        self._conditions = Conditions(*self._pace.conditions) if self._pace.conditions else None
        for period_ns, plan in classes:
            sampling_ns = self._pace.sampling_ns or period_ns
            subscription = Subscription(
                client,
                self._points,
                plan,
                [self._nodes[i] for i in plan],
                period_ns=period_ns,
                sampling_ns=sampling_ns,
                # Two samples of slack: the server's sampling and publishing are not in step.
                queue=self._pace.queue or 2 + -(-period_ns // sampling_ns),
                timeout_ns=int(self._settings.timeout_s * 1e9),
                conditions=None if self._subscriptions else self._conditions,
            )
            await subscription.create(self._limits, time.monotonic_ns())
            self._subscriptions[subscription.id] = subscription
        self._unread = [
            reading for each in self._subscriptions.values() for reading in each.refusals()
        ]
        self._note_refused()
        self._publish()

    async def pushed(self) -> Batch:
        """What came next, at the latest when a subscription has been silent for too long.

        Raises LinkError or ProtocolError when the session cannot go on.
        """
        self._open_client()
        told, provable = await self._next()
        now_ns = time.monotonic_ns()
        for each in self._subscriptions.values():
            if said := each.silent(now_ns):
                raise LinkError(said)
            told.readings += await each.retry(self._limits, now_ns)
        if self._conditions is not None and self._conditions.again:
            await self._conditions.refresh(self._open_client(), next(iter(self._subscriptions)))
        self._note_refused()
        told.readings += self._unread
        self._unread = []
        if told.server_utc_ns:
            self._clock_ahead_ns = told.server_utc_ns - time.time_ns()
        return Batch(
            told.readings,
            provable if told.proven else (),
            told.gaps,
            told.conditions,
            None if told.standing is None else frozenset(told.standing),
        )

    def facts(self) -> Facts:
        """As of every session, and whether the server keeps pace."""
        facts = super().facts()
        slow = [text for each in self._subscriptions.values() if (text := each.slow_text())]
        found = {"server_pace": "; ".join(slow)} if slow else {}
        if self._conditions is not None and (said := self._conditions.trouble()):
            found["server_conditions"] = said
        return replace(facts, troubles={**facts.troubles, **found}) if found else facts

    async def close(self) -> None:
        """End the session and what it was waiting for."""
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        self._publishing.clear()
        self._acks.clear()
        self._subscriptions.clear()
        await super().close()

    def _publish(self) -> None:
        """Keep the server supplied with requests that it answers when there is something."""
        client = self._open_client()
        while len(self._publishing) < PUBLISHING:
            acks, self._acks = self._acks, []
            self._publishing.append(asyncio.create_task(_publish(client, acks)))

    async def _next(self) -> tuple[Told, Sequence[int]]:
        """The next message, or nothing at the time by which there should have been one."""
        deadline_ns = min(each.deadline_ns() for each in self._subscriptions.values())
        # A lost connection ends the request at once; silence ends the wait.
        oldest = self._publishing[0]
        await asyncio.wait({oldest}, timeout=max(0, deadline_ns - time.monotonic_ns()) / 1e9)
        if not oldest.done():
            return Told(), ()
        with mapped("publish"):
            response = self._publishing.popleft().result()
        result = response.Parameters
        subscription = self._subscriptions.get(int(result.SubscriptionId))
        message = result.NotificationMessage
        if message.NotificationData:
            ack = ua.SubscriptionAcknowledgement()
            ack.SubscriptionId, ack.SequenceNumber = result.SubscriptionId, message.SequenceNumber
            self._acks.append(ack)
        self._publish()
        if subscription is None:
            return Told(), ()
        self._counts["good"] += 1
        try:
            told = subscription.take(response, time.monotonic_ns(), time.time_ns())
        except LinkError:
            self._counts["lost"] += 1
            raise
        return told, subscription.provable()

    def _note_refused(self) -> None:
        self._refused.clear()
        for each in self._subscriptions.values():
            self._refused |= each.unreadable | each.refused


async def _publish(
    client: OpcUaClient, acks: list[ua.SubscriptionAcknowledgement]
) -> ua.PublishResponse:
    response = await client.uaclient.publish(acks)
    response.ResponseHeader.ServiceResult.check()
    return response
