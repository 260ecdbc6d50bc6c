"""What a server may say that no good one says, and what the OPC UA driver makes of it."""

import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_to_binary, variant_from_binary

from drivers import opcua, opcua_bounds, opcua_client, opcua_subscription
from drivers.base import Batch
from drivers.errors import LinkError, ProtocolError
from drivers.kind import Surroundings
from drivers.opcua_browse import browse
from drivers.opcua_conditions import HANDLE, Conditions
from drivers.opcua_link import LinkSettings
from drivers.opcua_points import parse_opcua_point
from drivers.opcua_subscribing import PUBLISHING, OpcUaSubscribing
from drivers.opcua_values import reading_of
from drivers.registry import make_driver
from fastpath.codes import Quality, Reason
from gateway.plant import polled_device
from gateway.site.model import Config, Device, DeviceConditions, Duration, Point, Site
from tests.helpers.opcua_script import ScriptedServer, as_data, item_made, items_of, scripted
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
LEVEL, FLOW = Point(node="ns=2;s=Level"), Point(node="ns=2;s=Flow")
WITHIN_S = 4.0


def made(server: ScriptedServer, *points: Point, **fields: Any) -> OpcUaSubscribing:
    defaults: dict[str, Any] = {
        "id": "dut",
        "driver": "opcua",
        "address": server.url,
        "security": "None",
        "insecure": True,
        "poll": Duration(100 * MS),
        "timeout": Duration(500 * MS),
        "settle": Duration(0),
    }
    device = Device(**(defaults | fields))
    pairs = [(point, None) for point in points]
    return cast("OpcUaSubscribing", make_driver("opcua", device, pairs, Surroundings(no_secrets)))


def read_response(results: bytes) -> bytes:
    """A ReadResponse whose list of results is these bytes."""
    whole: bytes = struct_to_binary(ua.ReadResponse(Results=[]))
    return whole[:-8] + results + struct.pack("<i", -1)


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return bytes([1, 0x80 | kind]) + struct.pack("<i", count) + body


@pytest.mark.parametrize(
    "results",
    [
        struct.pack("<i", 1) + array(0, 2**31 - 1),
        struct.pack("<i", 1) + array(12, 2**31 - 1, struct.pack("<i", -4)),
        struct.pack("<i", 2**31 - 1),
        struct.pack("<i", 1_000_000) + bytes(1_000_000),
        struct.pack("<i", 20) + 20 * array(24, 100, bytes(100)),
    ],
    ids=["nulls", "steps back", "absent", "objects", "objects within objects"],
)
async def test_no_message_makes_more_of_us_than_it_is(
    results: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcua_bounds, "OBJECTS_MAX", 1_000)
    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.answers["Read"] = lambda _: read_response(results)
        driver = made(server, timeout=Duration(2_000 * MS))
        with pytest.raises(ProtocolError):
            await driver.connect()
        await driver.close()


def test_arrays_and_their_dimensions_are_read_as_they_are() -> None:
    for value in ([1.5] * (opcua_bounds.OBJECTS_MAX + 1), [[1, 2, 3], [4, 5, 6]], [], ["a", None]):
        kind = ua.VariantType.Double if not value else None
        sent = ua.Variant(value, kind, is_array=True)
        got = variant_from_binary(Buffer(ua.ua_binary.variant_to_binary(sent)))
        assert got.Value == value
    matrix = bytes([0xC0 | 6]) + struct.pack("<iii", 2, 7, 8)
    for dimensions in ((2**30,), (1000, 1000), (-1, -2), (0,)):
        told = struct.pack(f"<i{len(dimensions)}i", len(dimensions), *dimensions)
        assert variant_from_binary(Buffer(matrix + told)).Value == [7, 8]


@asynccontextmanager
async def followed(
    server: ScriptedServer, *points: Point, **fields: Any
) -> AsyncIterator[OpcUaSubscribing]:
    """A driver that has subscribed to these points."""
    driver = made(server, *points, **fields)
    period_ns = int(fields.get("poll", 100 * MS))
    try:
        async with asyncio.timeout(WITHIN_S):
            await driver.connect()
            await driver.subscribe([(period_ns, driver.plan(range(len(points))))])
            yield driver
    finally:
        await driver.close()


async def told(driver: OpcUaSubscribing, server: ScriptedServer, **more: Any) -> Batch:
    await server.publish(**more)
    return await driver.pushed()


async def test_a_server_may_take_its_time_to_create_what_it_monitors() -> None:
    async def slowly(request: Any) -> Any:
        await asyncio.sleep(0.1)
        return ua.CreateMonitoredItemsResponse(Results=[item_made(i) for i in items_of(request)])

    fields = {"poll": Duration(10 * MS), "timeout": Duration(200 * MS)}
    async with scripted() as server:
        server.limit(1)
        server.answers["CreateMonitoredItems"] = slowly
        async with followed(server, LEVEL, FLOW, **fields) as driver:
            batch = await told(driver, server, values={"ns=2;s=Level": 1.5, "ns=2;s=Flow": 2.5})
            assert [reading.value for reading in batch.readings] == [1.5, 2.5]


async def test_a_message_that_is_missing_before_a_keep_alive_proves_nothing() -> None:
    async with scripted() as server, followed(server, LEVEL) as driver:
        assert (await told(driver, server, values={"ns=2;s=Level": 1.5})).proven
        assert (await told(driver, server)).proven == (0,)
        with pytest.raises(LinkError, match="1 messages of a subscription are missing"):
            await told(driver, server, number=3)


async def test_a_clock_that_moves_once_a_second_has_not_stood_still() -> None:
    fields = {"poll": Duration(20 * MS), "timeout": Duration(100 * MS)}
    async with scripted() as server, followed(server, LEVEL, **fields) as driver:
        end_s = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < end_s:
            await told(driver, server)
            await asyncio.sleep(0.02)


async def test_a_server_that_tells_seldom_that_it_lives_is_given_that_time() -> None:
    def seldom(request: Any) -> Any:
        response = server.answered("CreateSubscription", request)
        response.Parameters.RevisedMaxKeepAliveCount = 20
        return response

    fields = {"poll": Duration(20 * MS), "timeout": Duration(100 * MS)}
    async with scripted() as server:
        server.answers["CreateSubscription"] = seldom
        async with followed(server, LEVEL, **fields) as driver:
            await told(driver, server, values={"ns=2;s=Level": 1.5})
            await asyncio.sleep(0.25)
            assert (await told(driver, server)).proven


async def test_a_slow_server_keeps_all_that_it_samples_meanwhile() -> None:
    def slowly(request: Any) -> Any:
        response = server.answered("CreateSubscription", request)
        response.Parameters.RevisedPublishingInterval = 1_000.0
        return response

    async with scripted() as server:
        server.answers["CreateSubscription"] = slowly
        async with followed(server, LEVEL):
            [request] = [each for name, each in server.asked if name == "CreateMonitoredItems"]
            queues = [each.RequestedParameters.QueueSize for each in items_of(request)]
    assert queues == [1, 12], "the clock, and a second of samples with two to spare"


async def test_what_a_message_proves_has_been_looked_at() -> None:
    async with scripted() as server, followed(server, LEVEL, sampling=Duration(5_000 * MS)):
        [request] = [each for name, each in server.asked if name == "CreateMonitoredItems"]
        assert [i.RequestedParameters.SamplingInterval for i in items_of(request)] == [100, 100]


async def test_a_server_with_room_for_one_publish_request_is_followed() -> None:
    async with scripted() as server:
        server.small = True
        async with followed(server, LEVEL) as driver:
            assert not (await driver.pushed()).readings
            for value in (1.5, 2.5, 3.5):
                batch = await told(driver, server, values={"ns=2;s=Level": value})
                assert [reading.value for reading in batch.readings] == [value]


@pytest.mark.parametrize("interval", [math.nan, math.inf])
async def test_an_interval_that_is_no_number_is_the_servers_fault(interval: float) -> None:
    def nonsense(request: Any) -> Any:
        response = server.answered("CreateSubscription", request)
        response.Parameters.RevisedPublishingInterval = interval
        return response

    async with scripted() as server:
        server.answers["CreateSubscription"] = nonsense
        with pytest.raises(ProtocolError):
            async with followed(server, LEVEL):
                pass


async def test_a_close_that_is_cancelled_leaves_no_connection() -> None:
    async with scripted() as server, followed(server, LEVEL) as driver:
        closing = asyncio.create_task(driver.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        while server.open:  # noqa: ASYNC110  the end of a connection has no event here
            await asyncio.sleep(0.01)


async def test_a_session_is_kept_between_slow_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcua_client, "KEEP_S_MIN", 0.05)

    def briefly(request: Any) -> Any:
        response = server.answered("CreateSession", request)
        response.Parameters.RevisedSessionTimeout = 150.0
        return response

    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.answers["CreateSession"] = briefly
        driver = made(server, LEVEL, read="poll")
        await driver.connect()
        # One that has no room for it just now has answered.
        for busy in (False, True):
            if busy:
                server.answers["Read"] = lambda _: ua.StatusCodes.BadTooManyOperations
            before = server.count("Read")
            while server.count("Read") < before + 2:  # noqa: ASYNC110  it is asked for by itself
                await asyncio.sleep(0.02)
        server.answers["Read"] = lambda _: ua.StatusCodes.BadSessionClosed
        assert driver._client is not None
        while not driver._client.ended:  # noqa: ASYNC110  nor has this
            await asyncio.sleep(0.02)
        with pytest.raises(LinkError, match="ended the session: BadSessionClosed"):
            await driver.read((0,))
        await driver.close()


def target(**fields: Any) -> ua.BrowsePathTarget:
    whole = {"RemainingPathIndex": 2**32 - 1, "TargetId": ua.NodeId("Level", 2)}
    return ua.BrowsePathTarget(**(whole | fields))


ELSEWHERE = ua.ExpandedNodeId("Level", 2, ua.NodeIdType.String, None, 1)
OTHER = target(TargetId=ua.NodeId("Flow", 2))


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ([target()], True),
        ([target(), target()], True),
        ([target(RemainingPathIndex=1)], False),
        ([target(TargetId=ELSEWHERE)], False),
        ([target(), OTHER], False),
        ([], False),
    ],
    ids=["whole", "the same by two ways", "half a way", "another server", "two", "none"],
)
async def test_a_path_leads_to_one_node_of_this_server_or_nowhere(
    targets: list[Any], found: bool
) -> None:
    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.values["ns=2;s=Level"] = as_data(1.5)
        server.answers["TranslateBrowsePathsToNodeIds"] = lambda _: (
            ua.TranslateBrowsePathsToNodeIdsResponse(Results=[ua.BrowsePathResult(Targets=targets)])
        )
        driver = made(server, Point(path="0:Objects/2:Level"), read="poll")
        await driver.connect()
        [reading] = await driver.read((0,))
        await driver.close()
    assert (reading.quality == Quality.GOOD) is found


@pytest.mark.parametrize("read", ["poll", "subscribe"])
async def test_what_has_no_path_yet_is_looked_for_again(
    read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (opcua, opcua_subscription):
        monkeypatch.setattr(module, "RETRY_NS", 0)
    results = [ua.BrowsePathResult(ua.StatusCode(ua.StatusCodes.BadNoMatch))]

    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.values["ns=2;s=Level"] = as_data(1.5)
        server.answers["TranslateBrowsePathsToNodeIds"] = lambda _: (
            ua.TranslateBrowsePathsToNodeIdsResponse(Results=results)
        )
        driver = made(server, Point(path="0:Objects/2:Level"), read=read)
        await driver.connect()
        if read == "poll":
            [reading] = await driver.read((0,))
        else:
            await driver.subscribe([(100 * MS, (0,))])
            [reading, *_] = (await told(driver, server)).readings
        assert (reading.quality, reading.reason) == (Quality.BAD, Reason.UNREADABLE)
        assert "BadNoMatch" in driver.faults()[0]
        results[:] = [ua.BrowsePathResult(Targets=[target()])]
        if read == "poll":
            [reading] = await driver.read((0,))
        else:
            await told(driver, server)
            [reading] = (await told(driver, server, values={"ns=2;s=Level": 1.5})).readings
        assert (reading.value, reading.quality) == (1.5, Quality.GOOD)
        assert not driver.faults()
        await driver.close()


@pytest.mark.parametrize("read", ["poll", "subscribe"])
async def test_a_service_that_is_missing_costs_what_needs_it_alone(
    read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.values["ns=2;s=Level"] = as_data(1.5)
        for service in ("TranslateBrowsePathsToNodeIds", "DeleteMonitoredItems"):
            server.answers[service] = lambda _: ua.StatusCodes.BadServiceUnsupported
        driver = made(server, LEVEL, Point(path="0:Objects/2:Level"), read=read)
        await driver.connect()
        if read == "poll":
            found = await driver.read((0, 1))
        else:
            gone = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown))
            await driver.subscribe([(100 * MS, (0, 1))])
            await told(driver, server, values={"ns=2;s=Level": gone})
            monkeypatch.setattr(opcua_subscription, "RETRY_NS", 0)
            for each in driver._subscriptions.values():
                each._retry_ns = 0
            found = [*(await told(driver, server, values={"ns=2;s=Level": 1.5})).readings]
            assert server.count("DeleteMonitoredItems") == 1
        assert {(each.point, each.quality) for each in found} == {
            (0, Quality.GOOD),
            (1, Quality.BAD),
        }
        assert "BadServiceUnsupported" in driver.faults()[1]
        await driver.close()


@pytest.mark.parametrize("whole", [True, False], ids=["no such service", "not this item"])
async def test_a_server_that_deletes_nothing_is_not_filled_with_items(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = ua.StatusCodes.BadServiceUnsupported if whole else ua.StatusCodes.BadUserAccessDenied
    refused = ua.DeleteMonitoredItemsResponse(Results=[ua.StatusCode(code)])
    gone = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown))
    monkeypatch.setattr(opcua_subscription, "RETRY_NS", 0)
    async with scripted() as server, followed(server, LEVEL) as driver:
        server.answers["DeleteMonitoredItems"] = lambda _: code if whole else refused
        await told(driver, server, values={"ns=2;s=Level": gone})
        first = server.count("CreateMonitoredItems")
        for _ in range(5):
            await told(driver, server)
        assert server.count("DeleteMonitoredItems") == 5
        assert server.count("CreateMonitoredItems") == first, "it is still gone"
        server.values["ns=2;s=Level"] = as_data(1.5)
        batch = await told(driver, server, values={"ns=2;s=Level": 1.5})
        assert [reading.value for reading in batch.readings] == [1.5]
        assert server.count("CreateMonitoredItems") == first + 1
        for _ in range(2 * opcua_subscription.LEFT_MAX):  # it comes and goes
            await told(driver, server, values={"ns=2;s=Level": gone})
        assert server.count("CreateMonitoredItems") == first + opcua_subscription.LEFT_MAX


async def test_a_server_in_trouble_is_asked_for_its_paths_in_another_session() -> None:
    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.answers["TranslateBrowsePathsToNodeIds"] = lambda _: ua.StatusCodes.BadServerHalted
        driver = made(server, LEVEL, Point(path="0:Objects/2:Level"))
        with pytest.raises(LinkError, match="browse paths: BadServerHalted"):
            await driver.connect()


async def test_a_server_that_had_no_room_once_is_asked_for_two_in_the_next_session() -> None:
    async with scripted() as server, followed(server, LEVEL) as driver:
        server.small = True
        await told(driver, server)
        await driver.pushed()
        server.small = False
        before = server.count("Publish")
        await driver.connect()
        await driver.subscribe([(100 * MS, (0,))])
        await told(driver, server)
        assert server.count("Publish") >= before + PUBLISHING


def numbered(server: ScriptedServer) -> None:
    """Let each subscription have a number of its own, from 1."""

    def create(request: Any) -> Any:
        response = server.answered("CreateSubscription", request)
        response.Parameters.SubscriptionId = server.count("CreateSubscription")
        return response

    server.answers["CreateSubscription"] = create


async def test_nobody_is_called_silent_while_what_he_said_lies_unread() -> None:
    async with scripted() as server, asyncio.timeout(WITHIN_S):
        numbered(server)
        driver = made(server, LEVEL, FLOW)
        await driver.connect()
        await driver.subscribe([(100 * MS, (0,)), (101 * MS, (1,))])
        for number in (1, 2):
            await server.publish(subscription=number)
        await asyncio.wait(driver._publishing)
        for each in driver._subscriptions.values():
            each._proven_ns = 0  # as if the whole process had stood still for long
        await driver.pushed()
        await driver.pushed()
        await driver.close()


async def test_the_time_of_our_own_questions_is_no_silence_of_the_server() -> None:
    """Two subscriptions; a search for a path outlasts the silence that either may keep."""
    late = asyncio.Event()

    async def translate(_: Any) -> Any:
        await late.wait()
        return ua.TranslateBrowsePathsToNodeIdsResponse(
            Results=[ua.BrowsePathResult(ua.StatusCode(ua.StatusCodes.BadNoMatch))]
        )

    async with scripted() as server, asyncio.timeout(WITHIN_S):
        numbered(server)
        server.answers["TranslateBrowsePathsToNodeIds"] = translate
        late.set()
        points = (LEVEL, FLOW, Point(path="0:Objects/2:Level"))
        driver = made(server, *points, timeout=Duration(2_000 * MS))
        await driver.connect()
        await driver.subscribe([(50 * MS, (0, 2)), (51 * MS, (1,))])
        for each in driver._subscriptions.values():
            each._timeout_ns = 300 * MS  # of many questions, each within its own
        for number in (1, 2):
            await server.publish(subscription=number)
            await driver.pushed()
        late.clear()
        driver._find_ns = 0
        for _ in range(PUBLISHING):  # one uses all that the other could have answered
            await server.publish(subscription=1)
        pushed = asyncio.create_task(driver.pushed())
        quiet_ns = max(each.deadline_ns() for each in driver._subscriptions.values())
        await asyncio.sleep(max(0, quiet_ns - time.monotonic_ns()) / 1e9)
        late.set()
        await pushed
        await driver.pushed()
        await server.publish(subscription=2)
        await driver.pushed()
        await driver.close()


async def test_a_servers_last_words_are_told_once_by_us(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().slow_callback_duration = WITHIN_S  # a busy machine is not meant
    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.answers["Read"] = lambda _: server.error(ua.StatusCodes.BadOutOfMemory)
        driver = made(server)
        with pytest.raises(LinkError):
            await driver.connect()
        await driver.close()
    assert not caplog.records


async def test_a_tree_without_end_is_given_up() -> None:
    def reference(number: int) -> ua.ReferenceDescription:
        return ua.ReferenceDescription(
            NodeId=ua.NodeId(number, 2),
            BrowseName=ua.QualifiedName(f"N{number}", 2),
            NodeClass=ua.NodeClass.Object,
        )

    def page(first: int, count: int) -> ua.BrowseResult:
        references = [reference(first + number) for number in range(count)]
        return ua.BrowseResult(ContinuationPoint=b"more", References=references)

    def begin(request: Any) -> Any:
        count = len(request.Parameters.NodesToBrowse)
        return ua.BrowseResponse(Results=[page(1_000 * number, 5) for number in range(count)])

    def on(_: Any) -> Any:
        return ua.BrowseNextResponse(
            Parameters=ua.BrowseNextResult(Results=[page(10 * server.count("BrowseNext"), 5)])
        )

    async with scripted() as server, asyncio.timeout(WITHIN_S):
        server.answers |= {"Browse": begin, "BrowseNext": on}
        settings = LinkSettings("dut", server.url, 0.5)
        found, complete = await browse(settings, Surroundings(no_secrets), nodes_max=20)
        assert not complete
        assert len(found) < 20
        assert server.count("BrowseNext") < 50


async def test_conditions_that_were_refused_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opcua_subscription, "RETRY_NS", 0)
    code = {"item": ua.StatusCodes.BadNodeIdUnknown, "list": ua.StatusCodes.BadNothingToDo}

    def create(request: Any) -> Any:
        events = ua.AttributeIds.EventNotifier
        return ua.CreateMonitoredItemsResponse(
            Results=[
                item_made(each, code["item"] * (each.ItemToMonitor.AttributeId == events))
                for each in items_of(request)
            ]
        )

    def call(_: Any) -> Any:
        return ua.CallResponse(
            Results=[ua.CallMethodResult(StatusCode=ua.StatusCode(code["list"]))]
        )

    async with scripted() as server:
        server.answers |= {"CreateMonitoredItems": create, "Call": call}
        async with followed(server, LEVEL, conditions=DeviceConditions()) as driver:
            for refused, said in (("item", "BadNodeIdUnknown"), ("list", "BadNothingToDo")):
                await told(driver, server)
                assert said in driver.facts().troubles["server_conditions"]
                code[refused] = 0
                await told(driver, server)
            await told(driver, server)
            assert not driver.facts().troubles


async def test_a_device_without_tags_is_followed_for_its_conditions() -> None:
    conditions = DeviceConditions()
    async with scripted() as server:
        device = Device(
            id="dcs", driver="opcua", address=server.url, security="None", insecure=True,
            conditions=conditions, settle=Duration(0),
        )  # fmt: skip
        bench = Bench(Config(site=Site(id="s"), device=(device,)))
        async with asyncio.timeout(WITHIN_S), bench.scanning():
            while not server.count("Publish"):  # noqa: ASYNC110  nor has this
                await asyncio.sleep(0.01)
    [request] = [each for name, each in server.asked if name == "CreateMonitoredItems"]
    assert [each.ItemToMonitor.AttributeId for each in items_of(request)] == [13, 12]


def test_a_value_without_a_time_of_its_source_has_the_servers() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    now_ns = int(now.timestamp()) * 1_000_000_000
    point = parse_opcua_point(LEVEL, None)
    for source, server, expected_ns in (
        (now, None, now_ns),
        (None, now, now_ns),
        (datetime(1601, 1, 1, tzinfo=UTC), now, now_ns),
        (datetime(1601, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), 0),
        (None, None, 0),
    ):
        data = ua.DataValue(ua.Variant(1.5), SourceTimestamp=source, ServerTimestamp=server)
        assert reading_of(0, point, data, now_ns).source_utc_ns == expected_ns


def test_what_a_condition_says_is_taken_for_no_more_than_it_is() -> None:
    conditions = Conditions("i=2253", 1)
    fields = [ua.Variant(each) for each in (
        ua.NodeId(1), "Pump", "yesterday", "high", 500, "High", ua.NodeId(), True, True,
        ua.NodeId("High", 2),
    )]  # fmt: skip
    [condition], standing = conditions.take([ua.EventFieldList(HANDLE, fields)])
    assert (condition.active, condition.source_utc_ns, standing) == (True, 0, None)
    assert "server_conditions" in polled_device._FACTS, "what an earlier life told of it ends"
