"""A link that loses 30 % of what passes, as far as a proxy can show it (``helpers.loss``)."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.site.model import Duration
from gateway.uplink.pump import Pump
from gateway.uplink.registry import make_uplink
from tests.helpers.http_script import Script
from tests.helpers.loss import Loss
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

pytestmark = pytest.mark.timeout(60)

ALERTS, ROWS = 40, 16
SHARE, RESET_EVERY = 0.3, 9

Arrived = list[tuple[str, dict[str, Any]]]  # lane and message, in the order in which they came


@asynccontextmanager
async def lossy(port: int) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", port, framed=False) as proxy:
        proxy.up.loss = Loss(SHARE, RESET_EVERY, seed=21)
        proxy.down.loss = Loss(SHARE, RESET_EVERY, seed=22)
        yield proxy


async def drain(url: str) -> None:
    """Everything that is recorded, over this link."""
    ledger, history = MemoryLedger(), MemoryHistory()
    ledger.put(ALERTS)
    history.put("backfill", ROWS)
    kind = url.partition(":")[0]
    config = config_of(url, kind=kind, timeout=Duration(10_000_000_000))
    uplink = make_uplink(config, SENDER)
    made = Pump(config, uplink, ledger, history, MemoryProblems(), SENDER)
    task = asyncio.create_task(made.run())
    try:
        await until(lambda: history.cursors.get("backfill") == ROWS, 50)
        assert ledger.cursors["platform", "alert"] == ALERTS
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not ledger.letters


def check(arrived: Arrived, proxy: FaultProxy, per_session: int) -> None:
    """All of it, once by its identity, alerts first, and no storm of connections."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for lane, message in arrived:
        changing = ("historical", "audit_head")  # of an alert that is sent again
        same = {key: value for key, value in message.items() if key not in changing}
        found[lane][message["seq"]].append(same)
    assert sorted(found["alert"]) == list(range(1, ALERTS + 1))
    assert sorted(found["backfill"]) == list(range(1, ROWS + 1))
    for numbered in found.values():
        for doubles in numbered.values():
            assert all(double == doubles[0] for double in doubles)
    lanes = [lane for lane, _message in arrived]
    assert lanes.index("backfill") >= ALERTS
    assert set(lanes[: lanes.index("backfill")]) == {"alert"}
    up, down = proxy.up.loss, proxy.down.loss
    assert up is not None
    assert down is not None
    resets = up.resets + down.resets
    assert up.stalls > 0
    assert down.stalls > 0
    assert resets > 0
    assert proxy.connections <= per_session * (1 + resets)
    print(
        f"{len(arrived)} messages, {len(arrived) - ALERTS - ROWS} doubles; "
        f"{up.segments + down.segments} segments, {up.stalls + down.stalls} late, by "
        f"{max(up.longest_s, down.longest_s):.1f} s at most, {resets} resets, "
        f"{proxy.connections} connections"
    )


async def test_mosquitto_over_it(tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        lossy(broker.port) as proxy,
    ):
        await drain(f"mqtt://127.0.0.1:{proxy.port}")
        await subscriber.until(lambda: {"backfill"} <= {name for name, _ in subscriber.received})
        await subscriber.until(lambda: subscriber.of("backfill")[-1]["seq"] == ROWS)
    words = {"alerts": "alert", "backfill": "backfill"}
    arrived = [(words[name], message) for name, message in subscriber.received if name in words]
    check(arrived, proxy, per_session=2)


async def test_an_http_platform_over_it() -> None:
    arrived: Arrived = []

    async def take(request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        arrived.extend(("alert", event["data"]) for event in body.get("alerts", ()))
        arrived.extend(("backfill", message) for message in body.get("samples", ()))
        return web.Response()

    async with Script(take).serving() as server:
        port = int(server.url.removesuffix("/in").rpartition(":")[2])
        async with lossy(port) as proxy:
            await drain(server.url.replace(str(port), str(proxy.port)))
    check(arrived, proxy, per_session=3)  # one for each lane
