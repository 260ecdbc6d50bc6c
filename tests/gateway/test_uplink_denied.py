"""Who is not let in: a whole lane for want of rights, or one item that something dislikes."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from gateway.uplink import doubts
from gateway.uplink.base import GapItem, Outgoing, Retry, Verdict
from tests.helpers.http_script import Script
from tests.helpers.mqtt_script import Answer, ScriptedBroker
from tests.helpers.pumping import Bench
from tests.helpers.uplinks import MemoryUplink, until

pytestmark = pytest.mark.usefixtures("quick")

BAD = 4
DENIED = Retry(0.05, "status 403", denied=True, fault="http_403")


class Firewall(MemoryUplink):
    """Denies a send that has a bad item of ``lane`` in it, or every one of ``shut`` lane."""

    def __init__(self, *bad: int, lane: str = "alert") -> None:
        super().__init__()
        self.bad = set(bad)
        self.lane = lane
        self.verdict = DENIED
        self.shut: set[str] = set()
        self.asked: list[tuple[str, int, float]] = []  # denied alone: lane, sequence, loop time

    async def send(self, lane: str, items: list[Outgoing]) -> list[Verdict]:  # type: ignore[override]
        if lane not in self.shut and not any(self._is_bad(lane, out) for out in items):
            return await super().send(lane, items)
        if len(items) == 1:
            self.asked.append((lane, items[0].item.seq, asyncio.get_running_loop().time()))
        await asyncio.sleep(0)
        return [self.verdict] * len(items)

    def _is_bad(self, lane: str, out: Outgoing) -> bool:
        return lane == self.lane and not isinstance(out.item, GapItem) and out.item.seq in self.bad


async def feed(bench: Bench, lane: str, until_seq: int) -> None:
    """Go on recording until the lane's cursor is there."""
    async with asyncio.timeout(10):
        while bench.cursor(lane) < until_seq:
            bench.ledger.put() if lane == "alert" else bench.history.put(lane)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("lane", ["alert", "live"])
async def test_one_item_that_is_denied_each_time_is_set_aside_and_holds_nobody(
    bench: Bench, lane: str
) -> None:
    firewall = Firewall(BAD, lane=lane)
    bench.ledger.put(9)
    bench.history.put("live", 9)
    bench.history.put("backfill", 9)
    async with bench.running(firewall) as made:
        others = [seq for seq in range(1, 10) if seq != BAD]
        await until(lambda: set(others) <= set(firewall.of(lane)))
        assert firewall.of(lane)[: len(others)] == others, "the others, in order"
        assert not bench.ledger.letters
        assert not bench.problems.said
        await feed(bench, lane, BAD + 6)
        assert made.stats().up
    assert {key: reason for key, (reason, _) in bench.ledger.letters.items()} == {
        ("platform", lane, BAD): "http_403"
    }
    assert -BAD in firewall.of(lane)
    tries = [at_s for name, seq, at_s in firewall.asked if (name, seq) == (lane, BAD)]
    assert len(tries) >= doubts.TRIES


async def test_a_lane_without_rights_is_asked_slowly_keeps_everything_and_its_order(
    bench: Bench,
) -> None:
    firewall = Firewall()
    firewall.shut = {"alert"}
    bench.ledger.put(40)
    async with bench.running(firewall) as made:
        for _ in range(60):
            bench.history.put("live")
            await asyncio.sleep(0.01)
        times_s = [at_s for _lane, _seq, at_s in firewall.asked]
        assert {seq for _lane, seq, _at_s in firewall.asked} > {1}, "another one is tried, too"
        assert len(times_s) <= 2 * (1 + (times_s[-1] - times_s[0]) / 0.0375)
        assert bench.problems.said == [("raised", "platform/alert")]
        assert not bench.ledger.letters
        assert len(firewall.of("live")) >= 50
        tried = len(firewall.asked)
        await until(lambda: len(firewall.asked) > tried and firewall.asked[-1][1] > 1)
        firewall.shut = set()  # before the next turn of the first one
        await until(lambda: made.stats().sent["alert"] == 40)
    assert firewall.of("alert") == list(range(1, 41))
    assert not bench.ledger.letters
    assert bench.problems.said == [("raised", "platform/alert"), ("cleared", "platform/alert")]


async def test_a_lonely_one_that_is_denied_waits_for_company(bench: Bench) -> None:
    firewall = Firewall(1)
    bench.ledger.put()
    async with bench.running(firewall) as made:
        await until(lambda: len(firewall.asked) >= 3)
        bench.history.put("live", 3)
        await until(lambda: made.stats().sent["live"] == 3)
        assert bench.problems.active, "told, while it may be the lane"
        bench.ledger.put()
        await until(lambda: firewall.of("alert") == [2])
        assert not bench.problems.active


async def test_letters_that_are_denied_hold_no_other_letter(bench: Bench) -> None:
    firewall = Firewall(BAD)
    bench.ledger.put(9)
    for seq in (BAD, 5, 6):
        bench.ledger.letters["platform", "alert", seq] = ("old", bench.ledger.bodies[seq - 1])
        bench.ledger.resend("alert", seq)
    bench.ledger.cursors["platform", "alert"] = 9
    async with bench.running(firewall):
        await until(lambda: {5, 6} <= set(firewall.of("alert")))
        assert [letter.seq for letter in bench.ledger.queued] == [BAD]
        await feed(bench, "alert", 20)
        async with asyncio.timeout(5):
            while bench.ledger.queued:
                bench.ledger.put()
                await asyncio.sleep(0.01)
    assert list(bench.ledger.letters) == [("platform", "alert", BAD)], "dead again, not lost"


async def test_a_firewall_that_dislikes_one_body(bench: Bench) -> None:
    """A real server: 403 for every POST that has those bytes in it, whatever else it has."""
    stored: list[int] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if b"../etc/passwd" in body:
            return web.Response(status=403, text="<html>blocked</html>", content_type="text/html")
        sent = [event["data"] for event in json.loads(body).get("alerts", ())]
        stored.extend(alert["seq"] for alert in sent if "gap" not in alert)
        return web.Response()

    bench.ledger.put(20)
    bench.ledger.put(cause="found ../etc/passwd in the name of a tag")
    bench.ledger.put(30)
    async with Script(take).serving() as server, bench.running(url=server.url):
        await until(lambda: len(stored) >= 50)
        assert stored[:50] == [seq for seq in range(1, 52) if seq != 21]
        await feed(bench, "alert", 60)
    assert list(bench.ledger.letters) == [("platform", "alert", 21)]


async def test_errors_that_name_something_else_hold_one_item_alone(bench: Bench) -> None:
    """A platform that numbers its errors its own way says of no item that it is stored."""
    stored: set[int] = set()

    async def take(request: web.Request) -> web.Response:
        sent = [event["data"]["seq"] for event in json.loads(await request.read())["alerts"]]
        if BAD in sent:
            return web.json_response({"errors": [{"id": f"row-{sent.index(BAD)}", "reason": "x"}]})
        stored.update(sent)
        return web.Response()

    bench.ledger.put(9)
    async with Script(take).serving() as server, bench.running(url=server.url):
        await until(lambda: stored >= set(range(1, 10)) - {BAD})


async def test_a_broker_that_denies_one_publish(bench: Bench) -> None:
    """By a rule that looks into payloads, of a topic that is ours."""

    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return 0x87 if payload["seq"] == BAD and "gap" not in payload else 0

    bench.ledger.put(9)
    async with ScriptedBroker(answer) as broker, bench.running(url=broker.url):
        await feed(bench, "alert", 12)
    assert {key: reason for key, (reason, _) in bench.ledger.letters.items()} == {
        ("platform", "alert", BAD): "not_authorised"
    }


@pytest.mark.parametrize("denied", [True, False])
async def test_more_than_may_wait_aside_hold_nobody_and_lose_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    monkeypatch.setattr(doubts, "PARKED_MAX", 2)
    bad = (3, 4, 6, 9, 11)
    firewall = Firewall(*bad)
    if not denied:
        firewall.verdict = Retry(reason="status 500", fault="http_403")
    bench.ledger.put(20)
    async with bench.running(firewall):
        others = [seq for seq in range(1, 21) if seq not in bad]
        await until(lambda: set(others) <= set(firewall.of("alert")))
        await feed(bench, "alert", 20)
    assert sorted(seq for _uplink, _lane, seq in bench.ledger.letters) == list(bad)
