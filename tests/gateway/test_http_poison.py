"""One item that a platform does not take, among ten thousand that it does."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.uplink.http import HttpUplink
from gateway.uplink.pump import Pump
from tests.helpers.http_script import Script
from tests.helpers.uplinks import (
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    config_of,
    until,
)

ALERTS = 10_000
POISON = 7_777

Answer = Callable[[list[dict[str, Any]]], tuple[int, str]]


def _by_status(status: int) -> Answer:
    """Refuses a body that has the item in it, and stores nothing of it."""
    return lambda sent: (status, "no") if POISON in _seqs(sent) else (204, "")


def _by_name(sent: list[dict[str, Any]]) -> tuple[int, str]:
    """Stores the others, and names the one."""
    if POISON not in _seqs(sent):
        return 204, ""
    return 207, json.dumps({"errors": [{"seq": POISON, "reason": "no"}]})


def _seqs(sent: list[dict[str, Any]]) -> list[int]:
    return [alert["seq"] for alert in sent if "gap" not in alert]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_by_status(400), "http_400"),
        (_by_name, "platform"),
    ],
)
async def test_one_of_ten_thousand_is_set_aside_and_the_others_arrive(
    answer: Answer, reason: str
) -> None:
    arrived: list[int] = []
    gaps: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.StreamResponse:
        sent = [event["data"] for event in json.loads(await request.read())["alerts"]]
        status, text = answer(sent)
        if status < 300:
            arrived.extend(seq for seq in _seqs(sent) if status == 204 or seq != POISON)
            gaps.extend(alert["gap"] for alert in sent if "gap" in alert)
        return web.Response(status=status, text=text)

    ledger, problems = MemoryLedger(), MemoryProblems()
    ledger.put(ALERTS)
    script = Script(take)
    async with script.serving() as server:
        config = config_of(server.url, kind="http", window=1_000)
        uplink = HttpUplink(config, SENDER)
        pump = Pump(config, uplink, ledger, MemoryHistory(), problems, SENDER)
        task = asyncio.create_task(pump.run())
        try:
            await until(lambda: ledger.cursors.get(("platform", "alert")) == ALERTS + 1, 30)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert sorted(set(arrived)) == [seq for seq in range(1, ALERTS + 2) if seq != POISON]
    assert list(ledger.letters) == [("platform", "alert", POISON)]
    assert ledger.letters["platform", "alert", POISON][0] == reason
    assert gaps == [{"first": POISON, "last": POISON, "reason": reason}]
    (told,) = ledger.drafts  # the alert about it, which is the last that arrived
    assert f"alert item {POISON} was refused by platform: {reason}" in told.cause
    assert len(script.posts) < 200
