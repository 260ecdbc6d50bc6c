"""The MQTT uplink against a broker that answers as told."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.errors import UplinkError
from gateway.site.model import Duration
from gateway.uplink import link_state, mqtt
from gateway.uplink.base import (
    ACCEPTED,
    LinkRefusedError,
    Refused,
    Retry,
    SuspectError,
    Watched,
)
from gateway.uplink.mqtt import MqttUplink
from gateway.uplink.mqtt_codes import DENIED_RETRY_S, QUOTA_RETRY_S
from gateway.uplink.pump import Pump
from tests.helpers.mqtt_script import Answer, ScriptedBroker
from tests.helpers.uplinks import (
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    alert_out,
    config_of,
    row_out,
    until,
)

MAXIMUM_PACKET_SIZE = 0x27
RECEIVE_MAXIMUM = 0x21
MAXIMUM_QOS = 0x24


@asynccontextmanager
async def connected(broker: ScriptedBroker, **changes: Any) -> AsyncIterator[MqttUplink]:
    uplink = MqttUplink(config_of(broker.url, **changes), SENDER)
    assert await uplink.connect() is True
    try:
        yield uplink
    finally:
        await uplink.close()


async def test_each_lane_has_its_topic() -> None:
    async with ScriptedBroker() as broker, connected(broker) as uplink:
        assert await uplink.send("alert", [alert_out(1), alert_out(2)]) == [ACCEPTED, ACCEPTED]
        assert await uplink.send("live", [row_out(1)]) == [ACCEPTED]
        assert await uplink.send("backfill", [row_out(1)]) == [ACCEPTED]
    assert [topic for topic, _payload in broker.published] == [
        "alerts", "alerts", "live", "backfill",
    ]  # fmt: skip
    assert broker.published[0][1]["seq"] == 1


@pytest.mark.parametrize("code", [0x00, 0x10])
async def test_success_and_no_subscribers_are_accepted(code: int) -> None:
    async with ScriptedBroker(lambda _t, _p: code) as broker, connected(broker) as uplink:
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0x80, "unspecified"),
        (0x83, "implementation_specific"),
        (0x99, "payload_format_invalid"),
    ],
)
async def test_codes_that_say_this_item_is_bad(code: int, reason: str) -> None:
    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return code if payload["seq"] == 2 else 0

    async with ScriptedBroker(answer) as broker, connected(broker) as uplink:
        verdicts = await uplink.send("alert", [alert_out(seq) for seq in (1, 2, 3)])
    assert verdicts == [ACCEPTED, Refused(reason, f"PUBACK 0x{code:02x}"), ACCEPTED]


@pytest.mark.parametrize("code", [0x87, 0x90])
async def test_codes_that_say_this_lane_is_not_allowed(code: int) -> None:
    def answer(topic: str, _payload: dict[str, Any]) -> Answer:
        return code if topic == "live" else 0

    async with ScriptedBroker(answer) as broker, connected(broker) as uplink:
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]
        (verdict,) = await uplink.send("live", [row_out()])
    assert isinstance(verdict, Retry)
    assert verdict.denied
    assert verdict.after_s == DENIED_RETRY_S
    assert "sitewarden/gw-1/live" in verdict.reason


@pytest.mark.parametrize("code", [0x91, 0x97])
async def test_codes_that_say_later(code: int) -> None:
    async with ScriptedBroker(lambda _t, _p: code) as broker, connected(broker) as uplink:
        (verdict,) = await uplink.send("alert", [alert_out()])
    assert isinstance(verdict, Retry)
    assert not verdict.denied
    assert verdict.after_s == QUOTA_RETRY_S


@pytest.mark.parametrize("code", [0x95, 0x9E, 0xFF])
async def test_a_code_that_no_puback_may_have_is_the_items_once_it_is_alone(code: int) -> None:
    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return code if payload["seq"] == 2 else 0

    async with ScriptedBroker(answer) as broker, connected(broker) as uplink:
        with pytest.raises(SuspectError):
            await uplink.send("alert", [alert_out(2), alert_out(3)])
        await uplink.connect()
        (verdict,) = await uplink.send("alert", [alert_out(2)])
    assert isinstance(verdict, Refused)


@pytest.mark.parametrize("code", [0x81, 0x82, 0x95, 0x99])
async def test_a_disconnect_over_an_item(code: int) -> None:
    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return ("disconnect", code) if payload["seq"] == 2 else 0

    async with ScriptedBroker(answer) as broker, connected(broker) as uplink:
        first, second = await uplink.send("alert", [alert_out(1), alert_out(2)])
        assert first == ACCEPTED
        assert isinstance(second, Retry)
        with pytest.raises(SuspectError):
            await uplink.send("alert", [alert_out(2)])
        await uplink.connect()
        (alone,) = await uplink.send("alert", [alert_out(2)])
        assert isinstance(alone, Refused)


@pytest.mark.parametrize("code", [0x87, 0x8E])
async def test_a_disconnect_that_refuses_us(code: int) -> None:
    broker = ScriptedBroker(lambda _t, _p: ("disconnect", code))
    async with broker, connected(broker) as uplink:
        with pytest.raises(LinkRefusedError):
            await uplink.send("alert", [alert_out()])


@pytest.mark.parametrize("code", [0x89, 0x8B, 0x98])
async def test_any_other_disconnect_is_nothing_known(code: int) -> None:
    broker = ScriptedBroker(lambda _t, _p: ("disconnect", code))
    async with broker, connected(broker) as uplink:
        with pytest.raises(UplinkError) as raised:
            await uplink.send("alert", [alert_out()])
    assert type(raised.value) is UplinkError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x01, LinkRefusedError),  # a broker of MQTT 3.1.1
        (0x84, LinkRefusedError),
        (0x85, LinkRefusedError),
        (0x86, LinkRefusedError),
        (0x87, LinkRefusedError),
        (0x8A, LinkRefusedError),
        (0x88, UplinkError),
        (0x89, UplinkError),
        (0x97, UplinkError),
        (0x9F, UplinkError),
    ],
)
async def test_refused_connections(code: int, kind: type[UplinkError]) -> None:
    async with ScriptedBroker(connack=code) as broker:
        uplink = MqttUplink(config_of(broker.url), SENDER)
        with pytest.raises(UplinkError) as raised:
            await uplink.connect()
        assert type(raised.value) is kind
        await uplink.close()


async def test_a_broker_that_says_nothing() -> None:
    async with ScriptedBroker() as broker:
        broker.silent = True
        uplink = MqttUplink(config_of(broker.url, timeout=Duration(50_000_000)), SENDER)
        with pytest.raises(UplinkError, match="no answer to CONNECT"):
            await uplink.connect()


async def test_no_broker() -> None:
    async with ScriptedBroker() as broker:
        url = broker.url
    uplink = MqttUplink(config_of(url), SENDER)
    with pytest.raises(UplinkError, match=r"127\.0\.0\.1:\d+: "):
        await uplink.connect()


async def test_a_broker_that_answers_connect_and_nothing_else_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "FIRST_RETRY_S", 0.02)
    short = Duration(100_000_000)
    async with ScriptedBroker() as first, ScriptedBroker() as second:
        first.deaf = True
        async with connected(first, backup_urls=[second.url], timeout=short) as uplink:
            assert second.url.removeprefix("mqtt://") in uplink.notices["broker"]
            assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]
            lost = asyncio.create_task(uplink.lost())
            sessions = first.sessions
            await until(lambda: first.sessions >= sessions + 2)  # looked for, not gone back to
            assert not lost.done()
            first.deaf = False
            with pytest.raises(UplinkError, match="back to the first"):
                await lost
            await uplink.connect()
            assert not uplink.notices["broker"]
            assert await uplink.send("alert", [alert_out(2)]) == [ACCEPTED]
    assert [payload["seq"] for _topic, payload in first.published] == [2]


async def test_where_no_broker_answers_nothing_is_left_open() -> None:
    async with ScriptedBroker() as first, ScriptedBroker() as second:
        first.deaf = second.deaf = True
        config = config_of(first.url, backup_urls=[second.url], timeout=Duration(100_000_000))
        uplink = MqttUplink(config, SENDER)
        with pytest.raises(UplinkError, match="no acknowledgement"):
            await uplink.connect()
        await until(lambda: not first.connections + second.connections)
        assert not uplink.notices["broker"]


async def test_after_a_session_that_took_nothing_the_next_broker_is_asked_first() -> None:
    short = Duration(100_000_000)
    async with (
        ScriptedBroker(lambda _t, _p: None) as first,
        ScriptedBroker() as second,
        connected(first, backup_urls=[second.url], timeout=short) as uplink,
    ):
        await uplink.connect()  # it was given nothing
        assert not _in_use(uplink)
        with pytest.raises(UplinkError, match="no acknowledgement"):
            await uplink.send("alert", [alert_out()])
        await uplink.connect()
        assert _in_use(uplink)
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]
        await uplink.connect()  # that one took something
        assert not _in_use(uplink)
        first.answer = lambda _topic, _payload: ("disconnect", 0x95)
        with pytest.raises(SuspectError):
            await uplink.send("alert", [alert_out(1), alert_out(2)])
        await uplink.connect()  # one of the items did that
        assert not _in_use(uplink)


def _in_use(uplink: MqttUplink) -> str:
    """What is told of a backup broker."""
    return uplink.notices["broker"]


async def test_a_broker_without_qos_1_is_refused() -> None:
    async with ScriptedBroker(properties=bytes((MAXIMUM_QOS, 0))) as broker:
        uplink = MqttUplink(config_of(broker.url), SENDER)
        with pytest.raises(LinkRefusedError, match="QoS"):
            await uplink.connect()


async def test_what_is_too_large_for_the_broker_is_not_even_sent() -> None:
    properties = struct.pack(">BI", MAXIMUM_PACKET_SIZE, 500)
    body = b'{"id":"x","kind":"alarm","recorded":"","cause":"' + b"x" * 500 + b'"}'
    async with ScriptedBroker(properties=properties) as broker, connected(broker) as uplink:
        first, second = await uplink.send("alert", [alert_out(1, body), alert_out(2)])
    assert isinstance(first, Refused)
    assert first.reason == "packet_too_large"
    assert second == ACCEPTED
    assert len(broker.published) == 1


async def test_the_brokers_receive_maximum_bounds_what_is_in_flight() -> None:
    properties = struct.pack(">BH", RECEIVE_MAXIMUM, 4)
    broker = ScriptedBroker(lambda _t, _p: None, properties=properties)
    async with broker, connected(broker, timeout=Duration(100_000_000)) as uplink:
        with pytest.raises(UplinkError, match="no acknowledgement"):
            await uplink.send("alert", [alert_out(seq) for seq in range(1, 21)])
    assert len(broker.published) == 4


async def test_samples_leave_room_for_alerts() -> None:
    def answer(topic: str, _payload: dict[str, Any]) -> Answer:
        return 0 if topic == "alerts" else None

    broker = ScriptedBroker(answer)
    async with broker, connected(broker, window=8, timeout=Duration(500_000_000)) as uplink:
        rows = asyncio.create_task(uplink.send("backfill", [row_out(n) for n in range(1, 9)]))
        await until(lambda: len(broker.published) == 6)
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]
        with pytest.raises(UplinkError):
            await rows
    assert len(broker.published) == 7


async def test_a_slow_link_is_no_lost_link() -> None:
    broker = ScriptedBroker(lambda _t, _p: None)
    async with broker, connected(broker, timeout=Duration(300_000_000)) as uplink:
        client = uplink._client
        assert client is not None
        sending = asyncio.create_task(uplink.send("alert", [alert_out(n) for n in range(1, 5)]))
        await until(lambda: len(broker.published) == 4)
        for mid in sorted(client._acks):  # one every 0.2 s: 0.8 s in all
            await asyncio.sleep(0.2)
            client._on_publish(client._client, None, mid, _Code(0), None)  # type: ignore[arg-type]
        assert await sending == [ACCEPTED] * 4


class _Code:
    def __init__(self, value: int) -> None:
        self.value = value


async def test_a_lost_session_fails_at_once_and_is_told() -> None:
    broker = ScriptedBroker(lambda _t, _p: None)
    async with broker, connected(broker, timeout=Duration(20_000_000_000)) as uplink:
        assert isinstance(uplink, Watched)
        lost = asyncio.create_task(uplink.lost())
        sending = asyncio.create_task(uplink.send("alert", [alert_out()]))
        await until(lambda: broker.published)
        broker.cut()
        for waiting in (lost, sending):
            async with asyncio.timeout(2):
                with pytest.raises(UplinkError, match="connection lost"):
                    await waiting
        with pytest.raises(UplinkError):
            await uplink.send("alert", [alert_out()])


async def test_hostile_bytes_end_the_session_alone() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK, then nonsense
        writer.write(bytes(range(256)))
        await reader.read(1000)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    uplink = MqttUplink(config_of(url), SENDER)
    try:
        with pytest.raises(UplinkError):
            await _connect_and_send(uplink)
    finally:
        await uplink.close()
        server.close()


async def _connect_and_send(uplink: MqttUplink) -> None:
    await uplink.connect()
    await uplink.send("alert", [alert_out()])


async def test_cancelled_while_connecting_leaves_nothing() -> None:
    async with ScriptedBroker() as broker:
        broker.silent = True
        uplink = MqttUplink(config_of(broker.url, timeout=Duration(60_000_000_000)), SENDER)
        task = asyncio.create_task(uplink.connect())
        await until(lambda: broker.connections)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_pump_finds_the_item_that_costs_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.01)
    monkeypatch.setattr(link_state, "BACKOFF_S_MAX", 0.02)
    monkeypatch.setattr(link_state, "LOOK_S", 0.02)

    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return ("disconnect", 0x95) if payload["id"].endswith("/7") else 0

    ledger, history, problems = MemoryLedger(), MemoryHistory(), MemoryProblems()
    ledger.put(40)
    async with ScriptedBroker(answer) as broker:
        config = config_of(broker.url)
        made = Pump(config, MqttUplink(config, SENDER), ledger, history, problems, SENDER)
        task = asyncio.create_task(made.run())
        await until(lambda: ledger.cursors.get(("platform", "alert")) == 41, 15)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert set(ledger.letters) == {("platform", "alert", 7)}
    ids = {payload["id"].rsplit("/", 1)[-1] for _topic, payload in broker.published}
    assert ids >= {str(seq) for seq in range(1, 42)} | {"gap"}


async def test_acknowledgements_out_of_order_move_the_cursor_to_the_first_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.01)
    monkeypatch.setattr(link_state, "BACKOFF_S_MAX", 0.02)
    held = {3, *range(5, 11)}

    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return None if payload["seq"] in held and broker.sessions == 1 else 0

    ledger = MemoryLedger()
    ledger.put(20)
    async with ScriptedBroker(answer) as broker:
        config = config_of(broker.url, timeout=Duration(20_000_000_000))
        uplink = MqttUplink(config, SENDER)
        made = Pump(config, uplink, ledger, MemoryHistory(), MemoryProblems(), SENDER)
        task = asyncio.create_task(made.run())
        await until(lambda: len(broker.published) == 20)
        await until(lambda: uplink._client is not None and len(uplink._client._acks) == len(held))
        assert not ledger.cursors  # nothing is settled before the send is
        broker.cut()
        await until(lambda: ledger.cursors.get(("platform", "alert")) == 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    moves = [seq for lane, seq in ledger.moves if lane == "alert"]
    assert moves[0] == 2
    assert moves == sorted(moves)
    again = [payload["seq"] for _topic, payload in broker.published[20:]]
    assert sorted(again) == sorted(held)  # what was acknowledged is not sent again
