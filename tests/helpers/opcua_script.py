"""An OPC UA server of a few services, each answer of which a test may replace; no security.

The library's own encoding is used, none of its server: a real one would not say what these say.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from asyncua import ua
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.ua_binary import (
    header_from_binary,
    nodeid_from_binary,
    struct_from_binary,
    struct_to_binary,
    uatcp_to_binary,
)

SERVICES = (
    "GetEndpoints", "CreateSession", "ActivateSession", "CloseSession", "Read", "Write", "Call",
    "TranslateBrowsePathsToNodeIds", "CreateSubscription", "CreateMonitoredItems",
    "DeleteMonitoredItems", "Publish", "Browse", "BrowseNext",
)  # fmt: skip
_NAMES = {getattr(ua.ObjectIds, f"{each}Request_Encoding_DefaultBinary"): each for each in SERVICES}
_NONE = "http://opcfoundation.org/UA/SecurityPolicy#None"


class ScriptedServer:
    """``answers``: by service, what is said instead: a response, its bytes, a status, or None.

    A Publish is answered by :meth:`publish` alone.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.values: dict[str, ua.DataValue] = {}  # by node id
        self.asked: list[tuple[str, Any]] = []
        self.handles: dict[str, int] = {}  # of what is monitored, by node id
        self.sequence = 0
        self.small = False  # holds one Publish
        self.open = 0  # connections
        self._late: set[asyncio.Task[None]] = set()
        self._publish: list[tuple[Any, int]] = []
        self._answered = asyncio.Event()
        self._send: Callable[[Any, int], None] = lambda *_: None
        self._write: Callable[[bytes], None] = lambda _: None

    def count(self, service: str) -> int:
        """How often it was asked for."""
        return sum(name == service for name, _ in self.asked)

    async def publish(
        self,
        values: dict[str, Any] | None = None,
        *,
        number: int | None = None,
        subscription: int = 1,
        **more: Any,
    ) -> None:
        """Answer the oldest Publish: a keep-alive, or ``values`` by node id, and its number."""
        while not self._publish:
            self._answered.clear()
            await self._answered.wait()
        request, request_id = self._publish.pop(0)
        response = ua.PublishResponse()
        response.Parameters.SubscriptionId = subscription
        response.Parameters.MoreNotifications = False
        message = response.Parameters.NotificationMessage
        message.PublishTime = datetime.now(UTC)
        message.NotificationData = []
        if values:
            self.sequence += 1
            items = [
                ua.MonitoredItemNotification(self.handles[node], as_data(value))
                for node, value in values.items()
            ]
            message.NotificationData = [ua.DataChangeNotification(MonitoredItems=items)]
        message.SequenceNumber = number or self.sequence + (0 if values else 1)
        for name, value in more.items():
            setattr(message, name, value)
        self.answer(request, request_id, response)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        limits = TransportLimits()
        connection = SecureConnection(SecurityPolicyNone(), limits)

        def send(
            response: Any, request_id: int, kind: bytes = ua.MessageType.SecureMessage
        ) -> None:
            data = response if isinstance(response, bytes) else struct_to_binary(response)
            writer.write(connection.message_to_binary(data, kind, request_id))

        self._send, self._write = send, writer.write
        self._publish.clear()
        self.sequence = 0
        while True:
            head = await reader.readexactly(8)
            rest = await reader.readexactly(int.from_bytes(head[4:], "little") - 8)
            buffer = Buffer(head + rest)
            header = header_from_binary(buffer)
            message = connection.receive_from_header_and_body(header, buffer)
            if header.MessageType == ua.MessageType.Hello:
                writer.write(uatcp_to_binary(ua.MessageType.Acknowledge, ua.Acknowledge()))
            elif header.MessageType == ua.MessageType.SecureOpen:
                request = struct_from_binary(ua.OpenSecureChannelRequest, message.body())
                response = ua.OpenSecureChannelResponse()
                response.Parameters = connection.open(request.Parameters, self)
                send(response, message.request_id(), ua.MessageType.SecureOpen)
            elif header.MessageType == ua.MessageType.SecureClose:
                return
            else:
                self._take(message.body(), message.request_id())

    def answered(self, service: str, request: Any) -> Any:
        """What is said where a test says nothing else."""
        return getattr(self, f"_{service.lower()}")(request)

    def limit(self, items: int) -> None:
        """Take no more monitored items at a time."""
        node = ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall
        self.values[f"i={node}"] = ua.DataValue(ua.Variant(items, ua.VariantType.UInt32))

    def error(self, code: int) -> None:
        """Say why this connection ends."""
        message = ua.ErrorMessage(ua.StatusCode(code), "for all to read")
        self._write(uatcp_to_binary(ua.MessageType.Error, message))

    def give_back(self) -> None:
        """Refuse the oldest Publish where there are two: there is room for one only."""
        if len(self._publish) > 1:
            self.answer(*self._publish.pop(0), ua.StatusCodes.BadTooManyPublishRequests)

    def get_new_channel_id(self) -> int:
        """As the library's connection asks it."""
        return 5

    def _take(self, body: Buffer, request_id: int) -> None:
        name = _NAMES[nodeid_from_binary(body.copy()).Identifier]
        request = struct_from_binary(getattr(ua, f"{name}Request"), body)
        self.asked.append((name, request))
        if name == "CreateMonitoredItems":
            for item in request.Parameters.ItemsToCreate:
                node = item.ItemToMonitor.NodeId.to_string()
                self.handles[node] = item.RequestedParameters.ClientHandle
        if name in self.answers:
            response = self.answers[name](request)
            if asyncio.iscoroutine(response):
                task = asyncio.create_task(self._answer_later(request, request_id, response))
                self._late.add(task)
                return
        elif name == "Publish":
            self._publish.append((request, request_id))
            self._answered.set()
            if self.small:
                self.give_back()
            return
        else:
            response = self.answered(name, request)
        if response is not None:
            self.answer(request, request_id, response)

    async def _answer_later(self, request: Any, request_id: int, response: Any) -> None:
        self.answer(request, request_id, await response)

    def answer(self, request: Any, request_id: int, response: Any) -> None:
        """Say this to that."""
        if isinstance(response, int):
            code, response = response, ua.ServiceFault()
            response.ResponseHeader.ServiceResult = ua.StatusCode(code)
        if not isinstance(response, bytes):
            response.ResponseHeader.RequestHandle = request.RequestHeader.RequestHandle
            response.ResponseHeader.Timestamp = datetime.now(UTC)
        with contextlib.suppress(OSError):
            self._send(response, request_id)

    def _endpoints(self) -> list[ua.EndpointDescription]:
        return [
            ua.EndpointDescription(
                EndpointUrl=self.url,
                SecurityMode=ua.MessageSecurityMode.None_,
                SecurityPolicyUri=_NONE,
            )
        ]

    def _getendpoints(self, request: Any) -> Any:
        del request
        return ua.GetEndpointsResponse(Endpoints=self._endpoints())

    def _createsession(self, request: Any) -> Any:
        response = ua.CreateSessionResponse()
        response.Parameters.AuthenticationToken = ua.NodeId(7, 0)
        response.Parameters.RevisedSessionTimeout = request.Parameters.RequestedSessionTimeout
        response.Parameters.ServerEndpoints = self._endpoints()
        return response

    def _activatesession(self, request: Any) -> Any:
        del request
        return ua.ActivateSessionResponse()

    def _closesession(self, request: Any) -> Any:
        del request
        return ua.CloseSessionResponse()

    def _read(self, request: Any) -> Any:
        absent = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown))
        nodes = [each.NodeId.to_string() for each in request.Parameters.NodesToRead]
        return ua.ReadResponse(Results=[self.values.get(node, absent) for node in nodes])

    def _createsubscription(self, request: Any) -> Any:
        asked, response = request.Parameters, ua.CreateSubscriptionResponse()
        response.Parameters.SubscriptionId = 1
        response.Parameters.RevisedPublishingInterval = asked.RequestedPublishingInterval
        response.Parameters.RevisedLifetimeCount = asked.RequestedLifetimeCount
        response.Parameters.RevisedMaxKeepAliveCount = asked.RequestedMaxKeepAliveCount
        return response

    def _createmonitoreditems(self, request: Any) -> Any:
        return ua.CreateMonitoredItemsResponse(
            Results=[item_made(each) for each in items_of(request)]
        )

    def _deletemonitoreditems(self, request: Any) -> Any:
        count = len(request.Parameters.MonitoredItemIds)
        return ua.DeleteMonitoredItemsResponse(Results=[ua.StatusCode()] * count)

    def _call(self, request: Any) -> Any:
        count = len(request.Parameters.MethodsToCall)
        results = [ua.CallMethodResult(StatusCode=ua.StatusCode()) for _ in range(count)]
        return ua.CallResponse(Results=results)


def items_of(request: Any) -> list[Any]:
    """The items that a CreateMonitoredItems asks for."""
    return list(request.Parameters.ItemsToCreate)


def item_made(item: Any, code: int = 0) -> ua.MonitoredItemCreateResult:
    """What is said to one of them: as asked for, or refused with ``code``."""
    asked = item.RequestedParameters
    return ua.MonitoredItemCreateResult(
        StatusCode=ua.StatusCode(code),
        MonitoredItemId=asked.ClientHandle + 1,
        RevisedSamplingInterval=asked.SamplingInterval,
        RevisedQueueSize=asked.QueueSize,
    )


def as_data(value: Any) -> ua.DataValue:
    """A value as it travels; a status alone stands for itself."""
    if isinstance(value, ua.DataValue):
        return value
    return ua.DataValue(ua.Variant(value), SourceTimestamp=datetime.now(UTC))


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedServer]:
    """One, for as long as the block lasts."""
    server, served = ScriptedServer(), dict[asyncio.StreamWriter, asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served[writer] = task
        server.open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await server.serve(reader, writer)
        finally:
            server.open -= 1
            writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"opc.tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for writer in served:
            writer.transport.abort()
        await asyncio.gather(*served.values())
