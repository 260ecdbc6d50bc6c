"""The MQTT uplink and the pump against mosquitto: several brokers, doubled names, storms."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.site.model import Duration
from gateway.uplink import backlog, link_state, mqtt, session_mark, settling
from gateway.uplink.mqtt import MqttUplink
from gateway.uplink.pump import Pump
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.proxy import FaultProxy
from tests.helpers.uplinks import (
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    config_of,
    until,
)


@dataclass
class Bench:
    """A pump between stores in memory and brokers."""

    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    history: MemoryHistory = field(default_factory=MemoryHistory)
    problems: MemoryProblems = field(default_factory=MemoryProblems)

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
    monkeypatch.setattr(backlog, "LOOK_S", 0.05)
    monkeypatch.setattr(mqtt, "FIRST_RETRY_S", 0.1)


def _alerts(subscriber: Subscriber) -> list[int]:
    """Sequences in the order of arrival, groups opened, doubles dropped."""
    alerts = [
        one for message in subscriber.of("alerts") for one in message.get("alerts", [message])
    ]
    return list(dict.fromkeys(alert["seq"] for alert in alerts))


async def test_another_broker_while_the_first_is_away(bench: Bench, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "backup")]
    for folder in folders:
        folder.mkdir()
    first, backup = (Mosquitto(folder) for folder in folders)
    async with backup, Subscriber(backup.port) as there:
        bench.ledger.put(5)
        urls = ["mqtt://127.0.0.1:1", backup.url]
        async with bench.running(first.url, backup_urls=urls) as made:
            await until(lambda: made.stats().backlog["alert"] == 0)
            await there.until(lambda: _alerts(there) == [1, 2, 3, 4, 5])
            place = f"127.0.0.1:{backup.port}"
            assert place in bench.problems.active["uplink", "platform/broker"]
            async with first, Subscriber(first.port) as here:
                await here.until(lambda: bool(here.of("status")))
                await until(lambda: made.stats().up and not bench.problems.active)
                bench.ledger.put(3)
                made.nudge()
                await here.until(lambda: _alerts(here) == [6, 7, 8])
                assert there.of("status")[-1]["state"] == "offline"
            bench.ledger.put(1)
            made.nudge()
            await there.until(lambda: _alerts(there)[5:] == [9])
    told = [("raised", "platform/broker"), ("cleared", "platform/broker")]
    assert bench.problems.said[:3] == [*told, told[0]]


async def test_a_session_that_is_taken_over_without_a_word_is_told_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This broker gives no reason; the mark in the retained status shows who was there."""
    monkeypatch.setattr(session_mark, "LOOK_S", 0.0)
    async with Mosquitto(tmp_path) as broker, bench.running(broker.url) as made:
        other = MqttUplink(config_of(broker.url), SENDER)
        await until(lambda: made.stats().up)
        for _ in range(3):
            await other.connect()
            await until(lambda: ("uplink", "platform/session") in bench.problems.active)
            await until(lambda: made.stats().up)
        assert "used twice" in bench.problems.active["uplink", "platform/session"]
        assert bench.problems.said == [("raised", "platform/session")]
        await other.close()
        monkeypatch.setattr(session_mark, "TOLD_S", 0.0)
        await until(lambda: not bench.problems.active)


async def test_a_broker_that_restarts_is_no_other_client(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    kept = ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
    async with Mosquitto(tmp_path, lines=kept) as broker, bench.running(broker.url) as made:
        for _ in range(2):
            await until(lambda: made.stats().up)
            await broker.stop()
            await until(lambda: not made.stats().up)
            await broker.start()
        await until(lambda: made.stats().up)
    assert not bench.problems.said


async def test_an_idle_half_open_link_is_found_by_a_ping(bench: Bench, tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path) as broker,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
        bench.running(f"mqtt://{proxy.address}") as made,
    ):
        await until(lambda: made.stats().up)
        passed = dict(proxy.passed)
        await until(lambda: proxy.passed["down"] >= passed["down"] + 4)  # two answers to pings
        assert made.stats().connects == 1
        proxy.down.drop = proxy.up.drop = True
        broken_s = time.monotonic()
        await until(lambda: not made.stats().up)
        assert time.monotonic() - broken_s < 20 * 0.5  # the keep-alive alone takes 40 s
        proxy.heal()
        await until(lambda: made.stats().up)


async def test_a_slow_line_makes_progress(bench: Bench, tmp_path: Path) -> None:
    """A message takes more than twice the timeout: bytes that leave are a sign of life."""
    bench.ledger.put(2, cause="x" * 60_000)
    async with (
        Mosquitto(tmp_path) as broker,
        FaultProxy("127.0.0.1", broker.port, framed=False, narrow=True) as proxy,
        Subscriber(broker.port) as subscriber,
    ):
        proxy.up.bytes_per_s = 60_000
        async with bench.running(f"mqtt://{proxy.address}", timeout=Duration(400_000_000)) as made:
            await until(lambda: made.stats().backlog["alert"] == 0, 20)
            assert made.stats().connects == 1
        await subscriber.until(lambda: _alerts(subscriber) == [1, 2])
    assert len(subscriber.of("alerts")) == 2


async def test_a_storm_in_groups_is_in_order_and_whole(bench: Bench, tmp_path: Path) -> None:
    bench.ledger.put(1_000)
    bench.history.put("backfill", 10)
    async with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url, group=50) as made,
    ):
        await until(lambda: not any(made.stats().backlog.values()))
        await subscriber.until(lambda: len(subscriber.of("backfill")) == 10)
        bench.ledger.put(1)
        made.nudge()
        await subscriber.until(lambda: len(_alerts(subscriber)) == 1_001)
    assert _alerts(subscriber) == list(range(1, 1_002))
    assert len(subscriber.of("alerts")) == 21
    assert subscriber.of("alerts")[-1].keys() == {"alerts"}  # one alone has the same form
    assert [name for name, _ in subscriber.received if name != "status"][:20] == ["alerts"] * 20


async def test_one_of_a_group_is_refused_alone(bench: Bench, tmp_path: Path) -> None:
    bench.ledger.put(3)
    bench.ledger.put(1, cause="x" * 9_000)
    bench.ledger.put(12)
    async with (
        Mosquitto(tmp_path, lines=["max_packet_size 8000"]) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url, group=8),
    ):
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 17)
        await subscriber.until(lambda: len(_alerts(subscriber)) == 17)  # 4 is the marker's
    assert set(bench.ledger.letters) == {("platform", "alert", 4)}


async def test_the_rate_is_kept_and_alerts_do_not_wait_for_samples(
    bench: Bench, tmp_path: Path
) -> None:
    bench.history.put("backfill", 200)
    async with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        bench.running(broker.url, messages_per_second=100) as made,
    ):
        began_s = time.monotonic()
        await subscriber.until(lambda: len(subscriber.of("backfill")) == 20)
        bench.ledger.put(5)
        made.nudge()
        await subscriber.until(lambda: len(_alerts(subscriber)) == 5)
        place = [name for name, _ in subscriber.received].index("alerts")
        assert place < 20 + 25  # what was under way, no more
        await subscriber.until(lambda: len(subscriber.of("backfill")) == 60)
        assert time.monotonic() - began_s >= 0.6
    seqs = [message["seq"] for message in subscriber.of("backfill")]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_broker_that_loses_its_memory_after_the_acknowledgement(
    bench: Bench, tmp_path: Path
) -> None:
    """It acknowledges what it holds in memory for a subscriber that is away, and is killed."""
    grace = Duration(60_000_000_000)
    async with Mosquitto(tmp_path) as broker:
        bench.ledger.put(10)
        async with bench.running(broker.url, keep_after_ack=grace) as made:
            await until(lambda: made.stats().sent["alert"] == 10)
            assert made.stats().backlog["alert"] == 0
            await broker.kill()
            await until(lambda: not made.stats().up)
            assert made.stats().backlog["alert"] == 10
            made._link.hold_until_s = asyncio.get_running_loop().time() + 60
            await broker.start()
            async with Subscriber(broker.port) as subscriber:
                made._link.hold_until_s = 0.0
                made.nudge()
                await subscriber.until(lambda: _alerts(subscriber) == list(range(1, 11)))
                await until(lambda: made.stats().backlog["alert"] == 0)
