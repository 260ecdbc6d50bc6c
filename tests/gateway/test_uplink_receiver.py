"""The small receiving platform, and the pump through the HTTP uplink into it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.errors import GatewayError
from gateway.uplink import link_state, pump
from gateway.uplink.http import HttpUplink
from gateway.uplink.pump import Pump
from gateway.uplink.receiver import receive
from tests.helpers.uplinks import (
    EPOCH,
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    config_of,
    until,
)


@asynccontextmanager
async def receiving(store: Path | None = None) -> AsyncIterator[str]:
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(receive("127.0.0.1:0", store=store, on_ready=url.set_result))
    try:
        async with asyncio.timeout(5):
            await asyncio.wait((url, task), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            yield await url
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


async def _received(client: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with client.get(f"{url}/received") as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def _control(client: aiohttp.ClientSession, url: str, *, down: bool) -> None:
    async with client.post(f"{url}/control", json={"down": down}) as response:
        assert response.status == 200


def _event(seq: int) -> dict[str, Any]:
    return {"data": {"id": f"gw-1/{EPOCH}/{seq}", "epoch": EPOCH, "seq": seq}}


def _samples(seq: int, *, historical: bool = False) -> dict[str, Any]:
    return {"epoch": EPOCH, "seq": seq, "historical": historical, "v": [[1.0, None], [2.0, 3.0]]}


async def test_counts_order_and_doubles(client: aiohttp.ClientSession) -> None:
    async with receiving() as url:
        await client.post(f"{url}/alerts", json={"alerts": [_event(1), _event(2)]})
        await client.post(f"{url}/samples", json={"samples": [_samples(1)]})
        await client.post(f"{url}/samples", json={"samples": [_samples(1, historical=True)]})
        await client.post(f"{url}/alerts", json={"alerts": [_event(2), _event(4)]})
        summary = await _received(client, url)
    assert summary["alerts"] == 3
    assert summary["alerts_arrived"] == 4
    assert summary["duplicates"] == 1
    assert summary["values"] == 6
    assert [alert["seq"] for alert in summary["alert_list"]] == [1, 2, 4]
    assert summary["order"] == [
        ["alert", 1, 2], ["live", 1, 1], ["backfill", 1, 1], ["alert", 2, 2], ["alert", 4, 4],
    ]  # fmt: skip
    assert summary["lanes"]["alert"]["epochs"] == {str(EPOCH): {"last": 4, "missing": 1}}


async def test_a_numbered_gap_is_not_missing(client: aiohttp.ClientSession) -> None:
    gap = {**_samples(5), "v": [], "gap": {"first": 2, "last": 5, "reason": "shed"}}
    async with receiving() as url:
        await client.post(f"{url}/samples", json={"samples": [_samples(1), gap, _samples(6)]})
        summary = await _received(client, url)
    assert summary["lanes"]["live"]["epochs"] == {str(EPOCH): {"last": 6, "missing": 0}}
    assert summary["order"] == [["live", 1, 6]]


async def test_the_file_has_each_item_once(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    store = tmp_path / "received.jsonl"
    async with receiving(store) as url:
        await client.post(f"{url}/alerts", json={"alerts": [_event(1), _event(1)]})
        await client.post(f"{url}/samples", json={"samples": [_samples(1)]})
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    assert lines == [
        {"kind": "alert", "item": _event(1)["data"]},
        {"kind": "samples", "item": _samples(1)},
    ]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("alerts", b"not JSON", 400),
        ("alerts", b"[]", 400),
        ("alerts", b'{"alerts": {}}', 400),
        ("alerts", b'{"alerts": [1]}', 400),
        ("alerts", b'{"alerts": [{"data": {}}]}', 422),
        ("samples", b'{"samples": [{}]}', 422),
        ("control", b'{"down": 1}', 422),
    ],
)
async def test_nonsense_is_refused(
    client: aiohttp.ClientSession, path: str, body: bytes, status: int
) -> None:
    async with receiving() as url, client.post(f"{url}/{path}", data=body) as response:
        assert response.status == status


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:http", "256.1.1.1:0"])
async def test_an_address_that_cannot_be_used(listen: str) -> None:
    with pytest.raises(GatewayError):
        await receive(listen, on_ready=lambda _url: None)


async def test_a_port_in_use() -> None:
    async with receiving() as url:
        with pytest.raises(GatewayError, match="cannot receive on"):
            await receive(url.removeprefix("http://"), on_ready=lambda _url: None)


async def test_a_cut_link_and_what_comes_after(
    client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.01)
    monkeypatch.setattr(link_state, "BACKOFF_S_MAX", 0.05)
    monkeypatch.setattr(pump, "LOOK_S", 0.02)
    ledger, history, problems = MemoryLedger(), MemoryHistory(), MemoryProblems()
    async with receiving() as url:
        config = config_of(url, kind="http")
        made = Pump(config, HttpUplink(config, SENDER), ledger, history, problems, SENDER)
        task = asyncio.create_task(made.run())
        ledger.put(2)
        await until(lambda: made.stats().up)
        await _control(client, url, down=True)
        ledger.put(30)
        made.nudge()
        await until(lambda: not made.stats().up)
        assert history.lane == "backfill"
        history.put("backfill", 40)
        await until(lambda: made.stats().connects >= 4)
        assert made.stats().backlog == {"alert": 30, "live": 0, "backfill": 40}
        await _control(client, url, down=False)
        await until(lambda: not any(made.stats().backlog.values()))
        summary = await _received(client, url)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert summary["order"] == [["alert", 1, 32], ["backfill", 1, 40]]
    assert summary["duplicates"] == 0
    assert summary["values"] == 40 * 3
    assert [alert["historical"] for alert in summary["alert_list"][-30:]] == [True] * 30
