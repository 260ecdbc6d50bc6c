"""One OPC UA subscription: its monitored items, what they tell, and the proof that they live.

Made by requests of our own, not by the library's Subscription: that one keeps a queue which drops
its oldest entries unseen, recreates itself behind its owner and forgets refused items. Here the
server's queue is the only one, and its overflow bit is counted. A subscription is never mended:
when it falls silent its session ends.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_from_binary

from drivers.base import Condition, Reading
from drivers.errors import LinkError
from drivers.opcua_client import OpcUaClient, mapped
from drivers.opcua_conditions import HANDLE, Conditions
from drivers.opcua_items import Limits, in_batches, read_value_id, read_values
from drivers.opcua_monitored import create_items, delete_items, monitored
from drivers.opcua_points import OpcUaPoint
from drivers.opcua_status import overflowed, quality_of, status_text
from drivers.opcua_values import bad, code_of, reading_of, utc_ns_of
from fastpath.codes import Quality, Reason

NOTIFICATIONS_MAX: Final = 500  # of one message: decoding more would hold the event loop
LIFE_NS: Final = 60_000_000_000  # the server forgets us after this long without a request of ours
SILENT_PERIODS: Final = 3
QUEUE_MAX: Final = 10_000  # values of an item, however slow its server is
CLOCK_TICK_NS: Final = 2_000_000_000  # many a server's clock moves once a second
SLOW_FACTOR: Final = 1.5
RETRY_NS: Final = 30_000_000_000  # what is refused or gone is asked for again so often
LEFT_MAX: Final = 10  # dead items of a point, where the server deletes none
CLOCK: Final = 0  # client handle of the server's own clock; a point's is its index + 1
_CLOCK_NODE: Final = ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)


@dataclass(slots=True)
class Told:
    """What one message of the server's said."""

    readings: list[Reading] = field(default_factory=list)
    proven: bool = False  # what it did not tell of is as it was
    gaps: int = 0  # values that it had no room for
    server_utc_ns: int = 0  # its clock as it sent this; 0: it did not say
    conditions: list[Condition] = field(default_factory=list)
    standing: set[str] | None = None


class Subscription:
    """The points of one period.

    ``nodes`` are the node ids of all points, or the status why there is none: whoever finds one
    later writes it there. ``queue``: values that the server keeps of each; 0: as many as it needs.
    """

    def __init__(
        self,
        client: OpcUaClient,
        points: Sequence[OpcUaPoint],
        members: Sequence[int],
        nodes: Sequence[ua.NodeId | int],
        *,
        period_ns: int,
        sampling_ns: int,
        queue: int,
        timeout_ns: int,
        conditions: Conditions | None = None,
    ) -> None:
        self.members = tuple(members)
        self.id = 0
        self.refused: dict[int, int] = {}  # point: the status it was refused with
        self.unreadable: dict[int, int] = {}  # point: its newest status, where people must act
        self._client = client
        self._points = points
        self._nodes = nodes
        self._ids: dict[int, int] = {}  # point: of its monitored item
        self._period_ns = self._asked_ns = period_ns
        self._keep_alives = 1  # periods without news until the server says that it lives
        # A message proves what has been looked at since the one before it.
        self._sampling_ns = min(sampling_ns, period_ns)
        self._queue = queue
        self._timeout_ns = timeout_ns
        self._conditions = conditions
        self._sent_ns = 0  # the server's clock, by its newest message; 0: it tells none
        self._proven_ns = 0  # ours, when that had moved last
        self._clock_every_ns = 0  # how often the server samples its clock for us; 0: it does not
        self._clock_ns = 0  # ours, when the sampled clock had moved last
        self._retry_ns = 0
        self._sequence = 0  # of the newest message with notifications
        self._left: Counter[int] = Counter()  # by point: dead items that the server keeps
        self._unfit: dict[int, str] = {}  # point: how the server made it worse than asked
        self._seldom: set[int] = set()  # of those: sampled so seldom that nothing is proven
        self._untold = set(members)  # of this session: a proof says nothing of them

    async def create(self, limits: Limits, now_ns: int) -> None:
        """Create it with all its items. Raises LinkError or ProtocolError."""
        request = ua.CreateSubscriptionRequest()
        period_ms = self._period_ns / 1e6
        request.Parameters.RequestedPublishingInterval = period_ms
        request.Parameters.RequestedMaxKeepAliveCount = 1
        request.Parameters.RequestedLifetimeCount = max(10, LIFE_NS // self._period_ns)
        request.Parameters.MaxNotificationsPerPublish = NOTIFICATIONS_MAX
        with mapped("subscription"):
            data = await self._client.transport.request(request)
            response = struct_from_binary(ua.CreateSubscriptionResponse, data)
            response.ResponseHeader.ServiceResult.check()
            made = response.Parameters
            self.id = int(made.SubscriptionId)
            self._period_ns = max(self._period_ns, int(made.RevisedPublishingInterval * 1e6))
            self._keep_alives = max(1, int(made.RevisedMaxKeepAliveCount))
        needed = 2 + -(-self._period_ns // self._sampling_ns)
        self._queue = self._queue or min(needed, QUEUE_MAX)
        self._retry_ns = now_ns + RETRY_NS
        items = [monitored(CLOCK, read_value_id(_CLOCK_NODE, None), self._period_ns, 1)]
        if self._conditions is not None:
            items.append(self._conditions.item())
        await self._monitor(self.members, limits, items)

    async def take_in(self, members: Sequence[int], limits: Limits) -> None:
        """Monitor these points too, at this pace. Raises LinkError or ProtocolError."""
        self.members += tuple(members)
        self._untold.update(members)
        await self._monitor(members, limits, [])

    async def _monitor(
        self,
        members: Sequence[int],
        limits: Limits,
        items: Sequence[ua.MonitoredItemCreateRequest],
    ) -> None:
        """Create ``items`` and those of ``members``; one without a node is refused."""
        for index in members:
            if isinstance(status := self._nodes[index], int):
                self.refused[index] = status
        known = [self._point_item(i) for i in members if i not in self.refused]
        await self._create_items([*items, *known], limits)

    def begin(self, now_ns: int) -> None:
        """Whatever it took to create all items: from now on the server has to tell."""
        self._proven_ns = self._clock_ns = now_ns

    def excuse(self, away_ns: int) -> None:
        """For so long nobody took what the server told: that is none of its silence.

        It had two requests at most to answer, and its other subscriptions may have used them.
        """
        self._proven_ns += away_ns
        self._clock_ns += away_ns

    async def retry(self, limits: Limits, now_ns: int) -> list[Reading]:
        """Ask again for what was refused, once in a while; what is to be told of it.

        So it is with a node that is gone: its item is not always told of one that comes after it.
        """
        gone = [i for i, code in self.unreadable.items() if code and i in self._ids]
        if now_ns < self._retry_ns:
            return []
        self._retry_ns = now_ns + RETRY_NS
        if self._conditions is not None and self._conditions.asked_again():
            await self._create_items([self._conditions.item()], limits)
        if not (self.refused or gone):
            return []
        gone = await self._cleared(gone, limits)
        again = [i for i in self.refused if not isinstance(self._nodes[i], int)]
        for index in again:
            del self.refused[index]
        again += gone
        self._untold.update(again)
        await self._create_items([self._point_item(i) for i in again], limits)
        return self.refusals()

    def refusals(self) -> list[Reading]:
        """A reading without a value for each refused point."""
        return [bad(i, quality_of(code | StatusCodes.Bad)[1]) for i, code in self.refused.items()]

    def provable(self) -> Sequence[int]:
        """The points that a proof speaks of: told in this session, or refused."""
        unknown = self._untold | self._seldom
        return [i for i in self.members if i not in unknown] if unknown else self.members

    def slow_text(self) -> str:
        """That the server tells less often than it was asked to; empty where it keeps pace."""
        if self._period_ns <= SLOW_FACTOR * self._asked_ns:
            if self._keep_alives > SILENT_PERIODS and not self._clock_every_ns:
                lives_s = self._keep_alives * self._period_ns / 1e9
                return f"it proves unchanged values every {lives_s:g} s only"
            return next(iter(self._unfit.values()), "")
        told_s, asked_s = self._period_ns / 1e9, self._asked_ns / 1e9
        return f"it tells changes every {told_s:g} s at best, poll = {asked_s:g} s asks for more"

    def deadline_ns(self) -> int:
        """Our monotonic time at which this subscription counts as dead."""
        silent_ns = self._proven_ns + self._quiet_ns() + self._timeout_ns
        if not self._clock_every_ns:
            return silent_ns
        every_ns = max(self._period_ns, self._clock_every_ns)
        stands_ns = max(SILENT_PERIODS * every_ns, CLOCK_TICK_NS)
        return min(silent_ns, self._clock_ns + stands_ns + self._timeout_ns)

    def silent(self, now_ns: int) -> str:
        """Why it counts as dead; empty while it lives."""
        if now_ns < self.deadline_ns():
            return ""
        quiet_ns = now_ns - self._proven_ns
        if quiet_ns >= self._quiet_ns() + self._timeout_ns:
            return f"a subscription said nothing for {quiet_ns / 1e9:.1f} s while its session lived"
        stood_s = (now_ns - self._clock_ns) / 1e9
        return f"the server's clock has stood still for {stood_s:.1f} s"

    def _quiet_ns(self) -> int:
        """How long the server may be silent: a missed message or two mean nothing."""
        return max(SILENT_PERIODS, self._keep_alives + 1) * self._period_ns

    def take(self, response: ua.PublishResponse, now_ns: int, utc_ns: int) -> Told:
        """One message of this subscription's.

        Raises LinkError when it says that it ended, or when one before it is missing: what that
        told is not known, and a proof would call the values of before good.
        """
        message = response.Parameters.NotificationMessage
        if missing := self._missing(message):
            text = f"{missing} messages of a subscription are missing before this one"
            raise LinkError(text)
        told = Told()
        sent_ns = _server_time_ns(response)
        if sent_ns != self._sent_ns:  # one that stands still proves nothing
            self._sent_ns = told.server_utc_ns = sent_ns
            self._proven_ns = now_ns
            told.proven = not response.Parameters.MoreNotifications
        for each in message.NotificationData or []:
            if isinstance(each, ua.StatusChangeNotification):
                text = f"the server ended a subscription: {status_text(int(each.Status.value))}"
                raise LinkError(text)
            if isinstance(each, ua.EventNotificationList) and self._conditions is not None:
                changed, standing = self._conditions.take(each.Events or [])
                told.conditions += changed
                told.standing = told.standing if standing is None else standing
            if isinstance(each, ua.DataChangeNotification):
                for item in each.MonitoredItems:
                    self._take_item(int(item.ClientHandle), item.Value, told, now_ns, utc_ns)
        return told

    def _take_item(
        self, handle: int, data: ua.DataValue, told: Told, now_ns: int, utc_ns: int
    ) -> None:
        if handle == CLOCK:
            self._clock_ns = now_ns
            return
        index = handle - 1
        if index not in self._ids:
            return
        code = code_of(data)
        told.gaps += overflowed(code)
        reading = reading_of(index, self._points[index], data, utc_ns)
        if reading.reason == Reason.UNREADABLE:
            self.unreadable[index] = 0 if quality_of(code)[0] != Quality.BAD else code
        else:
            self.unreadable.pop(index, None)
        self._untold.discard(index)
        told.readings.append(reading)

    def _missing(self, message: ua.NotificationMessage) -> int:
        """How many messages are missing before this one; a keep-alive tells the next number."""
        number = int(message.SequenceNumber)
        missing = number - self._sequence - 1 if self._sequence else 0
        if message.NotificationData:
            self._sequence = number
        return max(0, missing)  # less than 0: it began again at 1

    def _point_item(self, index: int) -> ua.MonitoredItemCreateRequest:
        point = self._points[index]
        node = read_value_id(self._nodes[index], point.index)
        return monitored(index + 1, node, self._sampling_ns, self._queue, point.deadband)

    async def _create_items(
        self, items: Sequence[ua.MonitoredItemCreateRequest], limits: Limits
    ) -> None:
        """Create items in batches; whoever is refused is remembered with its status."""
        results = await create_items(self._client, self.id, items, limits)
        with mapped("monitored items"):
            for item, result in zip(items, results, strict=True):
                self._created(item, result)
        self._untold -= self.refused.keys()

    def _created(
        self, item: ua.MonitoredItemCreateRequest, result: ua.MonitoredItemCreateResult
    ) -> None:
        handle = int(item.RequestedParameters.ClientHandle)
        if handle == CLOCK:
            good = result.StatusCode.is_good()
            self._clock_every_ns = int(result.RevisedSamplingInterval * 1e6) if good else 0
        elif handle == HANDLE and self._conditions is not None:
            self._conditions.created(result)
        elif not result.StatusCode.is_good():
            self._ids.pop(handle - 1, None)
            self.refused[handle - 1] = int(result.StatusCode.value)
        else:
            self._ids[handle - 1] = int(result.MonitoredItemId)
            self._note_pace(handle - 1, item, result)

    async def _cleared(self, gone: Sequence[int], limits: Limits) -> list[int]:
        """Those of these points that get a new item.

        Where the server deletes none, a dead item stays beside the new one: a node that is still
        gone gets no new one then, and one that comes and goes gets so many and no more.
        """
        ids = [self._ids[point] for point in gone]
        ended = await delete_items(self._client, self.id, ids, limits)
        deleted = [point for point, item in zip(gone, ids, strict=True) if item in ended]
        kept = [i for i in gone if i not in deleted and self._left[i] < LEFT_MAX]

        async def ask(batch: Sequence[int]) -> list[ua.DataValue]:
            asked = [read_value_id(self._nodes[i], self._points[i].index) for i in batch]
            return await read_values(self._client, asked)

        answers: list[ua.DataValue] = []
        async for part in in_batches(kept, limits.read, ask):
            answers += part
        back = [
            index
            for index, data in zip(kept, answers, strict=True)
            if quality_of(code_of(data)) != (Quality.BAD, Reason.UNREADABLE)
        ]
        self._left.update(back)
        return [*deleted, *back]

    def _note_pace(
        self,
        index: int,
        item: ua.MonitoredItemCreateRequest,
        result: ua.MonitoredItemCreateResult,
    ) -> None:
        """What the server made of an item that is worse than what was asked."""
        self._unfit.pop(index, None)
        self._seldom.discard(index)
        every_ns = int(result.RevisedSamplingInterval * 1e6)
        if every_ns > SLOW_FACTOR * max(self._sampling_ns, self._asked_ns):
            self._unfit[index] = f"it samples a value every {every_ns / 1e9:g} s only"
            self._seldom.add(index)
        elif 0 < result.RevisedQueueSize < min(2, item.RequestedParameters.QueueSize):
            self._unfit[index] = "it keeps one value of each: lost ones are not counted"


def _server_time_ns(response: ua.PublishResponse) -> int:
    """The server's clock as it sent this; some leave the message's own time empty."""
    stamps = (
        response.Parameters.NotificationMessage.PublishTime,
        response.ResponseHeader.Timestamp,
    )
    times = [utc_ns_of(stamp) for stamp in stamps if stamp is not None]
    return next((each for each in times if each > 0), 0)
