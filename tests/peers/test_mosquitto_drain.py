"""A backlog that drains to mosquitto beside live rows, against one sample per message with paho."""

import asyncio
import itertools
import json
import threading
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.site.model import Duration
from gateway.store.alert import AlertDraft, Source
from gateway.store.items import SampleItem
from gateway.store.ledger import Ledger
from gateway.uplink.mqtt import MqttUplink
from gateway.uplink.pump import Pump
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.uplinks import (
    GOOD,
    SENDER,
    T0_NS,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    config_of,
    until,
)

TAGS, TIMES = 100, 10
MESSAGES = 3_000
LIVE_PER_S = 12  # messages: 1,200 samples
ONE_BY_ONE = 10_000
STORM = 10_000
SECONDS_MAX = 60


class LongHistory(MemoryHistory):
    """A backlog of messages of 1,000 samples, made when they are asked for."""

    tags = tuple(f"face.sensor.{i}" for i in range(TAGS))
    values = tuple(
        tuple(round(20 + i / 8 + j / 1000, 3) for j in range(TIMES)) for i in range(TAGS)
    )
    good = tuple(bytes((GOOD,)) * TIMES for _ in range(TAGS))

    async def items(self, uplink: str, lane: str, after: int, limit: int) -> list[SampleItem]:
        if lane == "live":
            return await super().items(uplink, lane, after, limit)
        dt_ns = tuple(range(0, TIMES * 1_000_000_000, 1_000_000_000))
        last = min(after + limit, self.heads[lane])
        return [
            SampleItem(seq, T0_NS + seq * 1_000_000, dt_ns, self.tags, self.values, self.good)
            for seq in range(after + 1, last + 1)
        ]


def _one_by_one(port: int) -> float:
    """Samples a second of paho with 20 in flight."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(20)
    client.connect("127.0.0.1", port)
    everything = threading.Event()
    counts = itertools.count(1)

    def published(*_: object) -> None:
        if next(counts) == ONE_BY_ONE:
            everything.set()

    client.on_publish = published
    client.loop_start()
    clock = asyncio.new_event_loop()
    began_s = clock.time()
    for i in range(ONE_BY_ONE):
        sample = {"t_ns": T0_NS + i, "tag": "face.sensor.1", "v": 20.125, "q": GOOD}
        client.publish("single/live", json.dumps(sample), qos=1)
    assert everything.wait(SECONDS_MAX)
    took_s = clock.time() - began_s
    clock.close()
    client.loop_stop()
    client.disconnect()
    return ONE_BY_ONE / took_s


@pytest.mark.alone
async def test_a_drain_leaves_live_rows_their_latency(tmp_path: Path) -> None:
    history = LongHistory()
    history.heads["backfill"] = MESSAGES
    loop = asyncio.get_running_loop()
    loop.set_debug(False)  # where the tests' loops have it, it is most of the time
    put_s: dict[int, float] = {}
    latencies_s: list[float] = []

    def moved() -> None:
        for seq in [seq for seq in put_s if seq <= history.cursors.get("live", 0)]:
            latencies_s.append(loop.time() - put_s.pop(seq))

    history.on_move = moved
    async with Mosquitto(tmp_path) as broker:
        single = await asyncio.to_thread(_one_by_one, broker.port)
        config = config_of(broker.url, timeout=Duration(10_000_000_000))
        uplink = MqttUplink(config, SENDER)
        made = Pump(config, uplink, MemoryLedger(), history, MemoryProblems(), SENDER)
        pumping = asyncio.create_task(made.run())
        await until(lambda: made.stats().up)
        first, began_s = history.cursors.get("backfill", 0), loop.time()
        while made.stats().backlog["backfill"]:
            history.put("live", LIVE_PER_S // 4)
            for seq in range(
                history.heads["live"] - LIVE_PER_S // 4 + 1, history.heads["live"] + 1
            ):
                put_s[seq] = loop.time()
            made.nudge()
            await asyncio.sleep(0.25)
        drained = (MESSAGES - first) / (loop.time() - began_s)
        await until(lambda: not put_s)
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
    latencies_s.sort()
    p99_s = latencies_s[int(len(latencies_s) * 0.99)]
    print(
        f"drained {drained:.0f} messages of {TAGS * TIMES} samples a second, "
        f"{drained * TAGS * TIMES / single:.0f} times one sample a message with paho "
        f"({single:.0f}/s); live rows {p99_s * 1000:.0f} ms at p99"
    )
    assert p99_s <= 1.0
    assert drained * TAGS * TIMES >= 20 * 1_200
    assert drained * TAGS * TIMES >= 50 * single


async def test_a_storm_of_alerts_is_out_in_order_before_any_backlog(tmp_path: Path) -> None:
    """10,000 alerts that were stored while the link was away; 60 s is what they may take."""
    history = LongHistory()
    history.heads["backfill"] = 50
    drafts = [
        AlertDraft(kind="alarm", state="event", source=Source("tag", "ch4.t1"), cause=f"storm {i}")
        for i in range(STORM)
    ]
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    async with Mosquitto(tmp_path, lines=["max_queued_messages 0"]) as broker:
        ledger = await Ledger.open(tmp_path / "ledger.db", "gw-1", uplinks=["platform"])
        for first in range(0, STORM, 500):
            await ledger.append(drafts[first : first + 500])
        config = config_of(broker.url, timeout=Duration(10_000_000_000))
        made = Pump(config, MqttUplink(config, SENDER), ledger, history, MemoryProblems(), SENDER)
        async with Subscriber(broker.port) as subscriber:
            began_s = loop.time()
            pumping = asyncio.create_task(made.run())
            await until(lambda: made.stats().backlog["alert"] == 0, SECONDS_MAX)
            took_s = loop.time() - began_s
            await subscriber.until(lambda: len(subscriber.of("backfill")) == 50, SECONDS_MAX)
            pumping.cancel()
            await asyncio.gather(pumping, return_exceptions=True)
        await ledger.close()
    print(f"{STORM} alerts acknowledged in {took_s:.1f} s")
    topics = [name for name, _ in subscriber.received if name != "status"]
    assert topics.index("backfill") == topics.count("alerts") == STORM + 1  # its ledger's own first
    assert [alert["seq"] for alert in subscriber.of("alerts")] == list(range(1, STORM + 2))
