"""OPC UA as it is meant: a session whose server tells what changes.

Publish requests are always at the server; what it answers is taken one by one, in its order.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from drivers.base import Batch, Facts, Reading
from drivers.errors import DriverError, LinkError
from drivers.kind import Surroundings
from drivers.opcua import OpcUa
from drivers.opcua_client import OpcUaClient, StatusError, mapped
from drivers.opcua_conditions import Conditions
from drivers.opcua_link import LinkSettings
from drivers.opcua_points import OpcUaPoint
from drivers.opcua_subscription import Subscription, Told

PUBLISHING: Final = 2  # publish requests that the server holds, where it holds more than one


@dataclass(frozen=True, slots=True)
class Pace:
    """How a subscription samples; 0 where the poll period says it. What else it tells."""

    sampling_ns: int = 0
    queue: int = 0
    conditions: tuple[str, int] | None = None  # of this notifier, from this severity on


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
        self._publishing_max = PUBLISHING
        self._publishing: deque[asyncio.Task[ua.PublishResponse]] = deque()
        self._acks: list[ua.SubscriptionAcknowledgement] = []
        self._unread: list[Reading] = []  # of refused points, not told yet
        self._conditions: Conditions | None = None

    async def subscribe(self, classes: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Subscribe to (period ns, plan) each. Raises LinkError or ProtocolError.

        Where the server has room for fewer subscriptions the slowest share one, at the pace of
        the fastest of them.
        """
        client = self._open_client()
        self._subscriptions.clear()
        self._publishing_max = PUBLISHING  # of this session: the next server may hold more
        self._conditions = Conditions(*self._pace.conditions) if self._pace.conditions else None
        last: Subscription | None = None
        for period_ns, plan in sorted(classes, key=itemgetter(0)):
            subscription = Subscription(
                client,
                self._points,
                plan,
                self._nodes,
                period_ns=period_ns,
                sampling_ns=self._pace.sampling_ns or period_ns,
                queue=self._pace.queue,
                timeout_ns=int(self._settings.timeout_s * 1e9),
                conditions=None if self._subscriptions else self._conditions,
            )
            try:
                await subscription.create(self._limits, time.monotonic_ns())
            except StatusError as error:
                if error.code != StatusCodes.BadTooManySubscriptions or last is None:
                    raise
                await last.take_in(plan, self._limits)  # the faster one tells of them too
            else:
                self._subscriptions[subscription.id] = last = subscription
        self._unread = [
            reading for each in self._subscriptions.values() for reading in each.refusals()
        ]
        self._note_refused()
        self._publish()
        now_ns = time.monotonic_ns()
        for each in self._subscriptions.values():
            each.begin(now_ns)

    async def pushed(self) -> Batch:
        """What came next, at the latest when a subscription has been silent for too long.

        Raises LinkError or ProtocolError when the session cannot go on.
        """
        await self._ask_again(self._open_client())  # before: what has come is not kept waiting
        told, provable = await self._next()
        now_ns = time.monotonic_ns()
        # What lies here unread may be the very message that a subscription is waited for.
        if not self._publishing[0].done():
            for each in self._subscriptions.values():
                if said := each.silent(now_ns):
                    raise LinkError(said)
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
        publishing = list(self._publishing)
        self._publishing.clear()
        self._acks.clear()
        self._subscriptions.clear()
        for task in publishing:
            task.cancel()
        try:
            await asyncio.gather(*publishing, return_exceptions=True)
        finally:
            await super().close()

    async def _ask_again(self, client: OpcUaClient) -> None:
        """Ask again, once in a while, for what was refused, and for conditions that changed."""
        began_ns = time.monotonic_ns()
        await self._find_again(client)
        for each in self._subscriptions.values():
            self._unread += await each.retry(self._limits, began_ns)
        if self._conditions is not None and self._conditions.again:
            await self._conditions.refresh(client, next(iter(self._subscriptions)))
        away_ns = time.monotonic_ns() - began_ns
        for each in self._subscriptions.values():
            each.excuse(away_ns)

    def _publish(self) -> None:
        """Keep the server supplied with requests that it answers when there is something."""
        client = self._open_client()
        while len(self._publishing) < self._publishing_max:
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
        try:
            with mapped("publish"):
                response = self._publishing.popleft().result()
        except StatusError as error:
            if error.code != StatusCodes.BadTooManyPublishRequests or not self._publishing:
                raise
            self._publishing_max = 1  # it gave back the older one; the other is still there
            return Told(), ()
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
            with mapped("publish"):
                told = subscription.take(response, time.monotonic_ns(), time.time_ns())
        except DriverError:
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
