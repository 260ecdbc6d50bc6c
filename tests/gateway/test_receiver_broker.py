"""MQTT in: Debian's mosquitto between a publisher that is not ours and the receiving platform."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt

from tests.helpers.harness import ROOT, until
from tests.helpers.mosquitto import Mosquitto
from tests.helpers.receiving import Receiver, alert_of, gap_of, receiving, samples_of
from tests.helpers.uplinks import EPOCH

KILLS = 2
MESSAGES = 1_500


@asynccontextmanager
async def receiver(broker: Mosquitto, **settings: Any) -> AsyncIterator[Receiver]:
    async with (
        receiving(mqtt=broker.url, **settings) as url,
        aiohttp.ClientSession() as session,
    ):
        platform = Receiver(session, url)
        await until("subscribed", lambda: _is_subscribed(platform))
        yield platform


async def _is_subscribed(platform: Receiver) -> bool:
    return bool((await platform.report())["broker"] == "subscribed")


async def publish(broker: Mosquitto, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """As any publisher would, 50 at a time."""
    async with aiomqtt.Client(
        "127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        client.pending_calls_threshold = 100
        for at in range(0, len(messages), 50):
            await asyncio.gather(
                *(
                    client.publish(f"sitewarden/gw-1/{topic}", json.dumps(payload), qos=1)
                    for topic, payload in messages[at : at + 50]
                )
            )


async def test_alerts_samples_markers_and_the_word(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as broker, receiver(broker) as platform:
        await publish(
            broker,
            [
                ("status", {"gateway": "gw-1", "state": "online"}),
                ("alerts", alert_of(1)),
                ("alerts", {"alerts": [alert_of(2), alert_of(3)]}),
                ("live", samples_of(1)),
                ("live", gap_of(2, 4)),
                ("backfill", samples_of(1, historical=True)),
                ("live", {"not": "a message"}),
                ("live", samples_of(5)),
            ],
        )
        await until("all of it", lambda: _has(platform, "live", 5))
        report = await platform.report()
    assert report["complete"]
    assert report["alerts"] == 3
    assert report["values"] == 9
    assert report["refused"] == {"not understood": 1}
    assert [(row["gateway"], row["state"]) for row in report["gateways"]] == [("gw-1", "online")]


async def test_nobody_speaks_for_another_gateway_than_its_topics(tmp_path: Path) -> None:
    """Rights at a broker are rights on topics: a gateway may write its own alone."""
    with_id = {"gateway": "gw-2", "id": f"gw-2/{EPOCH}/1"}
    async with Mosquitto(tmp_path) as broker, receiver(broker) as platform:
        await publish(
            broker,
            [
                ("alerts", alert_of(1, **with_id)),
                ("live", {**samples_of(1), "gateway": "gw-2"}),
                ("status", {"gateway": "gw-2", "state": "offline"}),
                ("alerts", alert_of(1)),
            ],
        )
        await until("its own", lambda: _has(platform, "alert", 1))
        report = await platform.report()
    assert [row["gateway"] for row in report["streams"]] == ["gw-1"]
    assert report["gateways"] == []
    assert report["refused"] == {"not understood": 3}


async def test_a_broker_that_sends_nonsense_is_left_and_the_other_way_in_goes_on() -> None:
    """The client library's thread ends over it, and tells nobody."""
    nonsense = bytes((0x30, 4, 0, 1, 0xFF, 0))  # a PUBLISH whose topic is no UTF-8
    sessions = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions
        sessions += 1
        await reader.read(100)
        writer.write(bytes((0x20, 3, 0, 0, 0)))  # CONNACK
        await reader.read(200)  # SUBSCRIBE
        writer.write(nonsense)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def again() -> bool:
        return sessions >= 2

    async with (
        server,
        receiving(mqtt=f"mqtt://127.0.0.1:{port}") as url,
        aiohttp.ClientSession() as session,
    ):
        await until("a new session", again)
        assert await Receiver(session, url).post("alerts", alerts=[alert_of(1)]) == 200


async def test_what_comes_while_nobody_receives_comes_later(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with Mosquitto(tmp_path, lines=["max_queued_messages 1000"]) as broker:
        async with receiver(broker, store=store) as platform:
            await publish(broker, [("live", samples_of(1))])
            await until("the first", lambda: _has(platform, "live", 1))
        await publish(broker, [("live", samples_of(n)) for n in range(2, 302)])
        async with receiver(broker, store=store) as platform:
            await until("the rest", lambda: _has(platform, "live", 301))
            row = await platform.stream("live")
    assert (row["from"], row["missing"], row["doubles"]) == (1, 0, 0)


async def test_what_cannot_be_stored_stays_with_the_broker(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with Mosquitto(tmp_path) as broker, receiver(broker, store=store) as platform:
        with closing(sqlite3.connect(store, isolation_level=None)) as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON message "
                          "BEGIN SELECT raise(ABORT, 'disk full'); END")  # fmt: skip
            await publish(broker, [("live", samples_of(n)) for n in range(1, 4)])
            await until("the trouble", lambda: _says(platform, "disk full"))
            assert not (await platform.report())["streams"]
            other.execute("DROP TRIGGER full")
        await until("all of it", lambda: _has(platform, "live", 3))
        assert (await platform.stream("live"))["missing"] == 0


async def test_a_broker_that_restarts(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    await broker.start()
    try:
        async with receiver(broker) as platform:
            await broker.kill()
            await until("the loss", lambda: _not_subscribed(platform))
            await broker.start()
            await until("subscribed again", lambda: _is_subscribed(platform))
            await publish(broker, [("live", samples_of(1))])
            await until("the message", lambda: _has(platform, "live", 1))
    finally:
        await broker.stop()


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    messages = [("live", samples_of(n)) for n in range(1, MESSAGES + 1)]
    async with Mosquitto(tmp_path, lines=["max_queued_messages 10000"]) as broker:
        await _kill(await _start(broker, store))  # the session is there
        publishing = asyncio.create_task(publish(broker, messages))
        for kill in range(KILLS):
            process = await _start(broker, store)
            share = MESSAGES * (kill + 1) // (KILLS + 1)
            await until("some of it", lambda share=share: _stored(store) >= share)  # type: ignore[misc]
            await _kill(process)
            assert _stored(store) < MESSAGES, "killed after it all: it proves nothing"
        await publishing
        process = await _start(broker, store)
        await until("all of it", lambda: _stored(store) == MESSAGES)
        await _kill(process)
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("SELECT first, last FROM came").fetchall() == [(1, MESSAGES)]
        assert database.execute("SELECT differing FROM stream").fetchone() == (0,)


async def _start(broker: Mosquitto, store: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "receive", "--listen", "127.0.0.1:0",
        "--mqtt", broker.url, "--store", str(store),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    url = json.loads(await process.stdout.readline())["url"]
    async with aiohttp.ClientSession() as session:
        platform = Receiver(session, url)
        await until("subscribed", lambda: _is_subscribed(platform))
    return process


async def _kill(process: asyncio.subprocess.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()


def _stored(store: Path) -> int:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM message").fetchone()[0])


async def _has(platform: Receiver, lane: str, seq: int) -> bool:
    rows = [row for row in (await platform.report())["streams"] if row["lane"] == lane]
    return bool(rows) and rows[0]["to"] >= seq and rows[0]["missing"] == 0


async def _says(platform: Receiver, text: str) -> bool:
    return text in (await platform.report())["broker"]


async def _not_subscribed(platform: Receiver) -> bool:
    return not await _is_subscribed(platform)
