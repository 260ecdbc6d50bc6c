"""Uplinks over a path that really loses packets (``helpers.lossy_path``)."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from gateway.site.model import Duration
from tests.helpers.lossy_path import FAR, LossyPath, why_not
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.pumping import Bench
from tests.helpers.receiving import Receiver, receiving
from tests.helpers.uplinks import until

pytestmark = pytest.mark.timeout(60)

TIMEOUT_S = 10
ROWS, ALERT_EVERY, BACKLOG = 15, 3, 30
ALERTS = 1 + ROWS // ALERT_EVERY
EVERY_S = 0.1
SHARE, DELAY_S, JITTER_S = 0.1, 0.01, 0.01


@pytest.fixture(autouse=True, scope="module")
def machine_that_can() -> None:
    """Tried when the first test begins: to collect it must make no namespaces."""
    if lack := why_not():
        pytest.skip(lack)


async def run(bench: Bench, url: str, path: LossyPath) -> int:
    """Alerts and rows that come meanwhile, and a backlog, until all of it is acknowledged.

    Gives how many sessions it took.
    """
    loop = asyncio.get_running_loop()
    bench.history.put("backfill", BACKLOG)
    late_s: dict[str, list[float]] = {"alert": [], "live": []}

    async def wait(lane: str, seq: int, since_s: float) -> None:
        await until(lambda: sent(lane) >= seq, 50)
        late_s[lane].append(loop.time() - since_s)

    timeout = Duration(TIMEOUT_S * 1_000_000_000)
    async with bench.running(url=url, timeout=timeout) as made, asyncio.TaskGroup() as waits:

        def sent(lane: str) -> int:
            return made.stats().sent[lane]

        bench.ledger.put()
        await until(lambda: sent("alert"))
        # Only now: Linux takes a lost SYN for a long way, and waits seconds for what is lost next.
        path.share = SHARE
        for seq in range(1, ROWS + 1):
            bench.history.put("live")
            waits.create_task(wait("live", seq, loop.time()))
            if seq % ALERT_EVERY == 0:
                bench.ledger.put()
                waits.create_task(wait("alert", bench.ledger.head, loop.time()))
            made.nudge()
            await asyncio.sleep(EVERY_S)
        await until(lambda: sent("backfill") == BACKLOG, 50)
    for lane, times_s in late_s.items():
        times_s.sort()
        middle_s, most_s = times_s[len(times_s) // 2], times_s[-1]
        print(f"{lane}: {middle_s * 1000:.0f} ms, at most {most_s * 1000:.0f} ms")
        # TCP's own pauses grow to seconds; what it does not mend in time ends with the session.
        assert most_s < 2 * TIMEOUT_S
    print(f"{path.packets} packets, {path.lost} lost")
    assert path.lost > 0
    assert not bench.ledger.letters
    return made.stats().connects


async def test_mosquitto(tmp_path: Path) -> None:
    bench, path = Bench(), LossyPath(DELAY_S, JITTER_S, seed=5)
    async with path.passing(), AsyncExitStack() as stack:
        with path.far():
            broker = await stack.enter_async_context(
                Mosquitto(tmp_path, lines=[f"listener 1883 {FAR}"])
            )
            subscriber = await stack.enter_async_context(Subscriber(broker.port))
        with path.near():
            sessions = await run(bench, f"mqtt://{FAR}:1883", path)
        for topic, count in {"alerts": ALERTS, "live": ROWS, "backfill": BACKLOG}.items():
            await subscriber.until(partial(_has, subscriber, topic, count))
            seqs = [message["seq"] for message in subscriber.of(topic)]
            once = list(dict.fromkeys(seqs))
            assert once == list(range(1, count + 1)), topic
            assert seqs == once or sessions > 1, topic


async def test_an_http_platform(tmp_path: Path) -> None:
    bench, path = Bench(), LossyPath(DELAY_S, JITTER_S, seed=6)
    async with path.passing(), AsyncExitStack() as stack:
        with path.far():
            url = await stack.enter_async_context(
                receiving(listen=f"{FAR}:0", store=tmp_path / "r.db")
            )
        with path.near():
            sessions = await run(bench, url, path)
        with path.far():
            async with aiohttp.ClientSession() as session:
                report = await Receiver(session, url).report()
    assert report["complete"]
    assert report["duplicates"] == 0 or sessions > 1
    assert {row["lane"]: row["to"] for row in report["streams"]} == {
        "alert": ALERTS, "live": ROWS, "backfill": BACKLOG
    }  # fmt: skip
    for lane in ("alert", "live", "backfill"):
        runs = [run for run in report["order"] if run[0] == lane]
        assert runs == sorted(runs) or sessions > 1, lane


def _has(subscriber: Subscriber, topic: str, count: int) -> bool:
    return len(subscriber.of(topic)) >= count
