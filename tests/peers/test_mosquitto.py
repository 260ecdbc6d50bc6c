"""The MQTT uplink and the pump against Debian's mosquitto: refusals, outages, doubles, TLS.

These hold the private names of aiomqtt and paho that the client leans on against a real broker.
"""

import asyncio
import select
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from gateway.errors import UplinkError
from gateway.site.credentials import Credentials, Secret
from gateway.site.model import Duration
from gateway.uplink import link_state, mqtt_codes, settling
from gateway.uplink.base import ACCEPTED, LinkRefusedError, Refused, Retry, SuspectError
from gateway.uplink.mqtt import MqttUplink
from gateway.uplink.mqtt_client import AckingClient
from gateway.uplink.pump import Pump
from tests.helpers.certificates import make_authority
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.programs import find
from tests.helpers.proxy import FaultProxy
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

# Where the order, or each thing once, is asserted: a busy machine must not cost a session.
PATIENT = Duration(10_000_000_000)


class Bench:
    """A pump between stores in memory and a broker."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.history = MemoryHistory()
        self.problems = MemoryProblems()

    @asynccontextmanager
    async def running(self, url: str, **changes: Any) -> AsyncIterator[Pump]:
        config = config_of(url, **{"timeout": Duration(500_000_000), **changes})
        uplink = MqttUplink(config, SENDER)
        made = Pump(config, uplink, self.ledger, self.history, self.problems, SENDER)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.02)
    monkeypatch.setattr(link_state, "BACKOFF_S_MAX", 0.1)
    monkeypatch.setattr(settling, "REFUSED_RETRY_S", 0.2)
    monkeypatch.setattr(link_state, "LOOK_S", 0.05)
    monkeypatch.setattr(mqtt_codes, "DENIED_RETRY_S", 0.1)


@asynccontextmanager
async def connected(url: str, held: Credentials | None = None) -> AsyncIterator[MqttUplink]:
    uplink = MqttUplink(config_of(url), SENDER, held)
    await uplink.connect()
    try:
        yield uplink
    finally:
        await uplink.close()


def _held(**given: Any) -> Credentials:
    names = ("username", "password", "ca_path", "cert_path", "key_path")
    return Credentials(**{**dict.fromkeys(names), **given})


def _ids(messages: list[dict[str, Any]]) -> list[int]:
    """Sequence numbers in the order of arrival, doubles dropped by id."""
    seen = dict.fromkeys(message["id"] for message in messages)
    return [int(ident.rsplit("/", 1)[-1]) for ident in seen]


def _seqs(messages: list[dict[str, Any]]) -> list[int]:
    return list(dict.fromkeys(message["seq"] for message in messages))


async def test_everything_arrives_alerts_first(bench: Bench, tmp_path: Path) -> None:
    bench.history.put("backfill", 60)
    bench.history.put("live", 20)
    bench.ledger.put(100)
    async with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url, timeout=PATIENT),
    ):
        await subscriber.until(lambda: len(subscriber.received) >= 181)
    topics = [name for name, _payload in subscriber.received if name != "status"]
    assert topics == ["alerts"] * 100 + ["live"] * 20 + ["backfill"] * 60
    assert _ids(subscriber.of("alerts")) == list(range(1, 101))
    assert _seqs(subscriber.of("backfill")) == list(range(1, 61))
    assert {message["historical"] for message in subscriber.of("backfill")} == {True}
    assert subscriber.of("backfill")[0]["v"] == [[1.25, 1.5], [3.0, None]]


async def test_a_publish_that_the_broker_denies_is_not_delivered(
    bench: Bench, tmp_path: Path
) -> None:
    acl = ["topic readwrite sitewarden/#", "topic deny sitewarden/gw-1/alerts"]
    bench.ledger.put(3)
    bench.history.put("live", 4)
    async with (
        Mosquitto(tmp_path, acl=acl) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url, timeout=PATIENT) as made,
    ):
        await subscriber.until(lambda: len(subscriber.of("live")) == 4)
        await until(lambda: made.stats().retried >= 6)
        assert not bench.ledger.cursors
        assert not bench.ledger.letters
        assert made.stats().backlog["alert"] == 3
        assert "not authorised" in bench.problems.active["uplink", "platform/alert"]
        (tmp_path / "acl").write_text("topic readwrite sitewarden/#\n")
        broker.send(signal.SIGHUP)
        await subscriber.until(lambda: len(subscriber.of("alerts")) == 3)
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 3)
        assert not bench.problems.active
    # The one that was being tried beside the first when the rights came may be there before it.
    assert sorted(_ids(subscriber.of("alerts"))) == [1, 2, 3]


async def test_a_broker_that_ends_the_session_after_each_refusal(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mosquitto 2.0 does so where its queues are unbounded."""
    monkeypatch.setattr(mqtt_codes, "DENIED_RETRY_S", 60.0)
    acl = ["topic readwrite sitewarden/#", "topic deny sitewarden/gw-1/alerts"]
    bench.ledger.put(3)
    bench.history.put("backfill", 300)
    async with (
        Mosquitto(tmp_path, acl=acl, lines=["max_queued_messages 0"]) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url, timeout=PATIENT) as made,
    ):
        await subscriber.until(lambda: len(_seqs(subscriber.of("backfill"))) == 300)
        await until(lambda: made.stats().backlog == {"alert": 3, "live": 0, "backfill": 0})
        assert made.stats().connects <= 5  # not one for each try
        assert not bench.ledger.cursors
        assert not bench.ledger.letters


async def test_a_broker_that_hangs(bench: Bench, tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url) as made,
    ):
        bench.ledger.put(5)
        await subscriber.until(lambda: len(subscriber.of("alerts")) == 5)
        broker.send(signal.SIGSTOP)
        bench.ledger.put(50)
        bench.history.put("backfill", 30)
        made.nudge()
        await until(lambda: not made.stats().up)
        assert made.stats().backlog["alert"] == 50
        broker.send(signal.SIGCONT)
        await until(lambda: not any(made.stats().backlog.values()), 15)
        await subscriber.until(lambda: len(_seqs(subscriber.of("backfill"))) == 30)
    assert _ids(subscriber.of("alerts")) == list(range(1, 56))
    first = [name for name, _payload in subscriber.received].index("backfill")
    before = [message for name, message in subscriber.received[:first] if name == "alerts"]
    assert _ids(before) == list(range(1, 56))


async def test_a_broker_that_is_killed_and_comes_back(bench: Bench, tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path) as broker,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
        Subscriber(broker.port) as subscriber,
        bench.running(f"mqtt://{proxy.address}") as made,
    ):
        bench.ledger.put(10)
        bench.history.put("live", 3)
        await until(lambda: not any(made.stats().backlog.values()))
        for round_ in range(3):
            await proxy.refuse()
            await broker.kill()
            bench.ledger.put(40)
            bench.history.put("backfill", 25)
            made.nudge()
            await until(lambda: not made.stats().up)
            assert made.stats().backlog == {"alert": 40, "live": 0, "backfill": 25}
            await broker.start()
            await subscriber.leave()
            await subscriber.subscribe()
            place = len(subscriber.received)
            await proxy.refuse(refused=False)
            await until(lambda: not any(made.stats().backlog.values()))
            rows = 25 * (round_ + 1)
            await subscriber.until(lambda rows=rows: len(subscriber.of("backfill")) >= rows)  # type: ignore[misc]
            topics = [name for name, _payload in subscriber.received[place:] if name != "status"]
            assert topics == ["alerts"] * 40 + ["backfill"] * 25
    assert _ids(subscriber.of("alerts")) == list(range(1, 131))
    assert _seqs(subscriber.of("backfill")) == list(range(1, 76))


async def test_a_lost_puback_gives_doubles_of_the_same_id_and_nothing_else(
    bench: Bench, tmp_path: Path
) -> None:
    async with (
        Mosquitto(tmp_path) as broker,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
        Subscriber(broker.port) as subscriber,
        bench.running(f"mqtt://{proxy.address}") as made,
    ):
        await until(lambda: made.stats().up)
        proxy.down.drop = True  # the broker gets what is sent, its answers are lost
        bench.ledger.put(5)
        made.nudge()
        await subscriber.until(lambda: len(subscriber.of("alerts")) == 5)
        assert not bench.ledger.cursors
        await until(lambda: not made.stats().up)
        proxy.heal()
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 5)
        await subscriber.until(lambda: len(subscriber.of("alerts")) == 10)
    messages = subscriber.of("alerts")
    assert _ids(messages) == [1, 2, 3, 4, 5]
    first, again = messages[:5], messages[5:]
    changing = ("historical", "audit_head")
    for message in (*first, *again):
        for key in changing:
            message.pop(key)
    assert first == again


async def test_a_cut_line_fails_at_once(bench: Bench, tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path) as broker,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
        bench.running(f"mqtt://{proxy.address}", timeout=Duration(60_000_000_000)) as made,
    ):
        await until(lambda: made.stats().up)
        await proxy.refuse()
        proxy.cut()
        await until(lambda: not made.stats().up)  # with nothing to send, too
        await proxy.refuse(refused=False)
        await until(lambda: made.stats().up)


async def test_flapping_makes_progress(bench: Bench, tmp_path: Path) -> None:
    bench.ledger.put(400)
    async with (
        Mosquitto(tmp_path) as broker,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
        Subscriber(broker.port) as subscriber,
    ):
        proxy.down.cut_at = 200  # of each session
        async with bench.running(f"mqtt://{proxy.address}") as made:
            await until(lambda: made.stats().backlog["alert"] == 0, 20)
            assert made.stats().connects > 3
        await subscriber.until(lambda: len(_ids(subscriber.of("alerts"))) == 400)
    assert len(subscriber.of("alerts")) <= 400 + 20 * made.stats().connects


async def test_a_message_above_the_brokers_limit_is_set_aside(bench: Bench, tmp_path: Path) -> None:
    bench.ledger.put(3)
    bench.ledger.put(1, cause="x" * 3000)
    bench.ledger.put(3)
    async with (
        Mosquitto(tmp_path, lines=["message_size_limit 2000"]) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url),
    ):
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 8)
        await subscriber.until(lambda: len(subscriber.of("alerts")) >= 8)
    assert set(bench.ledger.letters) == {("platform", "alert", 4)}
    sent = {message["id"].split("/", 2)[-1]: message for message in subscriber.of("alerts")}
    assert set(sent) == {"1", "2", "3", "4/gap", "5", "6", "7", "8"}
    assert sent["8"]["kind"] == "gap"


async def test_the_limit_that_the_broker_states_is_kept(tmp_path: Path) -> None:
    body = b'{"id":"x","kind":"alarm","recorded":"","cause":"' + b"x" * 3000 + b'"}'
    async with (
        Mosquitto(tmp_path, lines=["max_packet_size 2000"]) as broker,
        connected(broker.url) as uplink,
    ):
        first, second = await uplink.send("alert", [alert_out(1, body), alert_out(2)])
    assert isinstance(first, Refused)
    assert second == ACCEPTED


async def test_the_status_is_retained_and_has_a_will(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as broker:
        async with connected(broker.url) as uplink, Subscriber(broker.port) as subscriber:
            await subscriber.until(lambda: len(subscriber.received) == 1)
            online = subscriber.of("status")[-1]
            assert online.pop("session")
            assert online == {"gateway": "gw-1", "uplink": "platform", "state": "online"}
            client = uplink._client
            assert client is not None
            client.drop()  # no DISCONNECT: the broker publishes the will
            await subscriber.until(lambda: len(subscriber.received) == 2)
            assert subscriber.of("status")[-1]["state"] == "offline"
            await uplink.connect()
            await subscriber.until(lambda: len(subscriber.received) == 3)
            await uplink.close()
            await subscriber.until(lambda: len(subscriber.received) == 4)
            assert subscriber.of("status")[-1]["state"] == "offline"
        async with Subscriber(broker.port) as late:
            await late.until(lambda: len(late.received) == 1)
            assert [word["state"] for word in late.of("status")] == ["offline"]


async def test_a_status_that_is_denied_costs_nothing_else(bench: Bench, tmp_path: Path) -> None:
    acl = ["topic readwrite sitewarden/#", "topic deny sitewarden/gw-1/status"]
    bench.ledger.put(3)
    async with (
        Mosquitto(tmp_path, acl=acl, lines=["max_queued_messages 0"]) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url) as made,
    ):
        await until(lambda: made.stats().backlog["alert"] == 0)
        await subscriber.until(lambda: len(_ids(subscriber.of("alerts"))) == 3)
    assert not subscriber.of("status")


async def test_user_name_and_password(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    process = await asyncio.create_subprocess_exec(
        find("mosquitto_passwd"), "-b", "-c", str(passwords), "ann", "pa55"
    )
    await process.wait()
    lines = ["allow_anonymous false", f"password_file {passwords}"]
    async with Mosquitto(tmp_path, lines=lines) as broker:
        right = _held(username="ann", password=Secret("pa55"))
        async with connected(broker.url, right) as uplink:
            assert await uplink.send("live", [row_out()]) == [ACCEPTED]
        for held in (_held(username="ann", password=Secret("wrong")), None):
            with pytest.raises(LinkRefusedError, match=r"not authorised|bad user name"):
                await MqttUplink(config_of(broker.url), SENDER, held).connect()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority"))


async def test_tls_with_a_client_certificate(authority: Path, tmp_path: Path) -> None:
    held = _held(
        ca_path=authority / "ca.pem",
        cert_path=authority / "client.pem",
        key_path=authority / "client-key.pem",
    )
    async with Mosquitto(tmp_path, certificates=authority) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        async with connected(url, held) as uplink:
            rows = [row_out(seq) for seq in range(1, 41)]
            assert await uplink.send("backfill", rows) == [ACCEPTED] * 40
            assert uplink.certificate_not_after_utc_ns > 1_700_000_000_000_000_000
            lost = asyncio.create_task(uplink.lost())
            await broker.kill()
            with pytest.raises(UplinkError):
                await lost


async def test_tls_that_fails_says_why(authority: Path, tmp_path: Path) -> None:
    stranger = make_authority(tmp_path / "stranger")
    async with Mosquitto(tmp_path, certificates=authority) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        for held, text in (
            (None, "server's certificate is not accepted"),
            (_held(ca_path=stranger / "ca.pem"), "server's certificate is not accepted"),
            (_held(ca_path=authority / "ca.pem"), "refuses the TLS handshake"),
            (
                _held(
                    ca_path=authority / "ca.pem",
                    cert_path=stranger / "client.pem",
                    key_path=stranger / "client-key.pem",
                ),
                "refuses the TLS handshake",
            ),
            (_held(ca_path=tmp_path / "gone.pem"), r"gone\.pem"),
        ):
            with pytest.raises(LinkRefusedError, match=text):
                await MqttUplink(config_of(url), SENDER, held).connect()


async def test_a_refused_certificate_is_told_where_the_write_fails_first(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the broker has looked at it, and hung up, before CONNECT is written."""
    held = _held(ca_path=authority / "ca.pem")
    send, read = paho.Client._sock_send, AckingClient._read
    tried = False
    async with Mosquitto(tmp_path, certificates=authority) as broker:

        def send_late(client: paho.Client, packet: bytes) -> int:
            nonlocal tried
            tried = True
            sock = client.socket()
            assert sock is not None
            hung_up = select.poll()
            hung_up.register(sock, select.POLLHUP | select.POLLERR)
            assert hung_up.poll(5_000)
            return send(client, packet)

        def read_later(client: AckingClient) -> None:
            if tried:
                read(client)

        monkeypatch.setattr(paho.Client, "_sock_send", send_late)
        monkeypatch.setattr(AckingClient, "_read", read_later)
        with pytest.raises(LinkRefusedError, match="refuses the TLS handshake"):
            await MqttUplink(config_of(f"mqtts://127.0.0.1:{broker.port}"), SENDER, held).connect()


async def test_an_acknowledgement_that_the_library_cannot_read(tmp_path: Path) -> None:
    """mosquitto answers 0x95 in a PUBACK, a code that MQTT has for DISCONNECT alone."""
    body = b'{"id":"x","kind":"alarm","recorded":"","cause":"' + b"x" * 3000 + b'"}'
    async with (
        Mosquitto(tmp_path, lines=["message_size_limit 2000"]) as broker,
        connected(broker.url) as uplink,
    ):
        first, second = await uplink.send("alert", [alert_out(1), alert_out(2, body)])
        assert first == ACCEPTED
        assert isinstance(second, Retry)
        with pytest.raises(SuspectError):
            await uplink.send("alert", [alert_out(2, body)])
        await uplink.connect()
        (alone,) = await uplink.send("alert", [alert_out(2, body)])
        assert isinstance(alone, Refused)
