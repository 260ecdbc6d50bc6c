"""An item over which the other end fails each time, while it takes all others."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.site.model import Duration
from gateway.uplink import doubts
from gateway.uplink.base import (
    ACCEPTED,
    GapItem,
    Outgoing,
    Refused,
    Retry,
    UnansweredError,
    Verdict,
)
from gateway.uplink.doubts import Doubts
from gateway.uplink.pump import Pump
from tests.helpers.http_script import Script
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.mqtt_script import Answer, ScriptedBroker
from tests.helpers.nginx import nginx
from tests.helpers.proxy import FaultProxy
from tests.helpers.pumping import Bench
from tests.helpers.uplinks import (
    MemoryUplink,
    until,
)

pytestmark = pytest.mark.usefixtures("quick")

POISON = 4
FAULT = Retry(reason="status 500", fault="http_500")


class Failing(MemoryUplink):
    """Gives no verdict on ``bad`` items, nor on their company; ``cut`` ends the session.

    ``lane``: whose items, "": every lane's.
    """

    def __init__(self, *bad: int, lane: str = "alert", cut: bool = False) -> None:
        super().__init__()
        self.bad = set(bad)
        self.lane = lane
        self.cut = cut
        self.markers = False  # they are bad, too
        self.down = False
        self.tried: list[tuple[int, float]] = []  # alone: which, when
        self.under_way = 0

    async def send(self, lane: str, items: list[Outgoing]) -> list[Verdict]:  # type: ignore[override]
        self.under_way += 1
        try:
            if not self.down and not any(self._is_bad(lane, out) for out in items):
                return await super().send(lane, items)
            self.sends.append((lane, list(items)))
            if len(items) == 1 and len(self.tried) > 2:
                assert self.under_way == 1, "what is doubted is sent with nothing beside it"
            if len(items) == 1:
                self.tried.append((items[0].item.seq, asyncio.get_running_loop().time()))
            await asyncio.sleep(0)
            if self.cut:
                msg = "closed"
                raise UnansweredError(msg)
            return [FAULT] * len(items)
        finally:
            self.under_way -= 1

    def _is_bad(self, lane: str, out: Outgoing) -> bool:
        if self.lane not in ("", lane):
            return False
        return self.markers if isinstance(out.item, GapItem) else out.item.seq in self.bad


async def _feed(bench: Bench, made: Pump, true: Callable[[], object], lane: str = "alert") -> None:
    """Go on recording until it is true: a platform that takes others is what proves anything."""
    async with asyncio.timeout(10):
        while not true():
            if lane == "alert":
                bench.ledger.put()
            else:
                bench.history.put(lane)
            made.nudge()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("cut", [False, True])
async def test_one_that_it_fails_over_each_time_is_set_aside_and_holds_nobody(
    bench: Bench, cut: bool
) -> None:
    uplink = Failing(POISON, cut=cut)
    bench.ledger.put(30)
    bench.history.put("backfill", 10)
    async with bench.running(uplink) as made:
        await until(lambda: set(uplink.of("alert")) == set(range(1, 31)) - {POISON})
        await until(lambda: made.stats().sent["backfill"] == 10)  # nor does it hold another lane
        assert not bench.ledger.letters
        assert bench.cursor() == POISON - 1
        assert made.stats().backlog["alert"] == 1
        moves = len(bench.ledger.moves)
        await _feed(bench, made, lambda: bench.ledger.letters)
        assert all(seq < POISON for _lane, seq in bench.ledger.moves[:moves])
        await until(lambda: made.stats().backlog["alert"] == 0)
        await until(lambda: bench.cursor() == bench.ledger.head)
    reason, body = bench.ledger.letters["platform", "alert", POISON]
    assert reason == ("no_answer" if cut else "http_500")
    assert body == bench.ledger.bodies[POISON - 1]
    (told,) = bench.ledger.drafts
    assert f"alert item {POISON} was refused" in told.cause
    taken = uplink.of("alert")
    assert [seq for seq in taken if seq < 0] == [-POISON]
    others = [seq for seq in taken if seq > 0]
    assert sorted(others) == [seq for seq in range(1, bench.ledger.head + 1) if seq != POISON]
    tried_s = [at_s for seq, at_s in uplink.tried if seq == POISON]
    assert tried_s[-1] - tried_s[-doubts.TRIES] >= (doubts.TRIES - 1) * doubts.EVERY_S


async def test_a_row_too(bench: Bench) -> None:
    uplink = Failing(POISON, lane="live")
    bench.history.put("live", 12)
    async with bench.running(uplink) as made:
        await _feed(bench, made, lambda: bench.ledger.letters, "live")
        await until(lambda: bench.history.cursors.get("live") == bench.history.heads["live"])
        assert made.stats().up
        assert bench.history.lane == "live"
    assert list(bench.ledger.letters) == [("platform", "live", POISON)]


@pytest.mark.parametrize("cut", [False, True])
async def test_a_platform_that_fails_over_everything_gets_nothing_set_aside(
    bench: Bench, cut: bool
) -> None:
    uplink = Failing(cut=cut)
    uplink.down = True
    bench.ledger.put(5)
    bench.history.put("backfill", 5)
    async with bench.running(uplink) as made:
        await until(lambda: len(uplink.tried) >= 30)
        assert not bench.ledger.letters
        uplink.down = False
        await until(lambda: not any(made.stats().backlog.values()))
    assert not bench.ledger.letters
    assert sorted(uplink.of("alert")) == [1, 2, 3, 4, 5]


async def test_a_lane_whose_every_item_fails_gets_nothing_set_aside(bench: Bench) -> None:
    """Its address is broken there, while that of the others is well."""
    uplink = Failing(*range(1, 200))
    bench.ledger.put(5)
    async with bench.running(uplink) as made:
        await _feed(bench, made, lambda: len(uplink.tried) >= 40, "live")
        assert made.stats().sent["live"] > 10
        assert not bench.ledger.letters
        uplink.bad.clear()
        await until(lambda: not any(made.stats().backlog.values()))
    assert not bench.ledger.letters
    assert sorted(uplink.of("alert")) == [1, 2, 3, 4, 5]


async def test_one_that_fails_now_and_then_arrives_once(bench: Bench) -> None:
    uplink = Failing(POISON)
    bench.ledger.put(10)
    async with bench.running(uplink) as made:
        await until(lambda: len(uplink.of("alert")) == 9)
        uplink.bad.clear()
        await until(lambda: bench.cursor() == 10)
        assert made.stats().backlog["alert"] == 0
    assert sorted(uplink.of("alert")) == list(range(1, 11))
    assert not bench.ledger.letters


async def test_several_in_a_row_are_found(bench: Bench) -> None:
    uplink = Failing(3, 4, 5)
    bench.ledger.put(12)
    async with bench.running(uplink) as made:
        await until(lambda: set(uplink.of("alert")) == set(range(1, 13)) - {3, 4, 5})
        await _feed(bench, made, lambda: len(bench.ledger.letters) == 3)
        await until(lambda: bench.cursor() == bench.ledger.head)
    assert sorted(-seq for seq in uplink.of("alert") if seq < 0) == [3, 4, 5]


async def test_a_lonely_one_waits_for_company_and_holds_no_other_lane(bench: Bench) -> None:
    uplink = Failing(1)
    bench.ledger.put(1)
    bench.history.put("live", 3)
    async with bench.running(uplink) as made:
        await until(lambda: made.stats().sent["live"] == 3)
        await until(lambda: len(uplink.tried) >= 10)
        assert not bench.ledger.letters  # nothing shows that the lane takes anything
        assert made.stats().up
        bench.ledger.put()
        made.nudge()
        await until(lambda: uplink.of("alert") == [2])
        await _feed(bench, made, lambda: bench.ledger.letters)


async def test_lanes_that_have_one_each_do_not_wait_for_each_other(bench: Bench) -> None:
    uplink = Failing(1, lane="")
    bench.ledger.put(6)
    bench.history.put("live", 6)
    async with bench.running(uplink):
        await until(lambda: uplink.of("alert") == uplink.of("live") == [2, 3, 4, 5, 6])


async def test_a_lane_that_is_not_taken_at_all_proves_nothing_for_another(bench: Bench) -> None:
    uplink = Failing(1)
    denied = Retry(reason="not allowed", denied=True)
    uplink.answer = lambda name, _out: denied if name == "live" else ACCEPTED
    bench.ledger.put(6)
    bench.history.put("live", 6)
    async with bench.running(uplink):
        await until(lambda: uplink.of("alert") == [2, 3, 4, 5, 6])


@pytest.mark.parametrize("cut", [False, True])
async def test_a_marker_that_it_fails_over_holds_nobody(bench: Bench, cut: bool) -> None:
    uplink = Failing(lane="live", cut=cut)
    uplink.markers = True
    bench.history.put("live", 30)
    bench.history.shed("live", 5)
    bench.history.put("backfill", 5)
    async with bench.running(uplink):
        await until(lambda: bench.history.cursors == {"live": 30, "backfill": 5})
    assert sorted(uplink.of("live")) == list(range(6, 31))
    assert sum(seq == 5 for seq, _at_s in uplink.tried) > doubts.TRIES


@pytest.mark.parametrize("cut", [False, True])
async def test_a_refused_one_is_set_aside_though_its_marker_fails(bench: Bench, cut: bool) -> None:
    uplink = Failing(cut=cut)
    uplink.markers = True
    uplink.answer = lambda _lane, out: Refused("bad") if out.item.seq == POISON else ACCEPTED
    bench.ledger.put(8)
    async with bench.running(uplink):
        await until(lambda: bench.ledger.letters)
        await until(lambda: bench.cursor() == bench.ledger.head)
    assert list(bench.ledger.letters) == [("platform", "alert", POISON)]
    assert len(uplink.tried) == doubts.TRIES
    assert ("raised", "platform/alert") not in bench.problems.said


@pytest.mark.parametrize("cut", [False, True])
async def test_one_that_it_fails_over_is_set_aside_though_its_marker_fails(
    bench: Bench, cut: bool
) -> None:
    uplink = Failing(POISON, cut=cut)
    uplink.markers = True
    bench.ledger.put(8)
    async with bench.running(uplink) as made:
        await _feed(bench, made, lambda: bench.ledger.letters)
        await until(lambda: bench.cursor() == bench.ledger.head)
    assert list(bench.ledger.letters) == [("platform", "alert", POISON)]


async def test_a_marker_that_it_fails_over_once_is_sent_again(bench: Bench) -> None:
    uplink = Failing()
    uplink.markers = True
    uplink.answer = lambda _lane, out: (
        Refused("bad") if out.item.seq == POISON and not isinstance(out.item, GapItem) else ACCEPTED
    )
    bench.ledger.put(8)
    async with bench.running(uplink):
        await until(lambda: uplink.tried)
        uplink.markers = False
        await until(lambda: bench.cursor() == bench.ledger.head)
    assert -POISON in uplink.of("alert")


async def test_a_platform_that_fails_over_everything_gets_every_marker(bench: Bench) -> None:
    uplink = Failing(lane="live")
    uplink.down = True
    bench.history.put("live", 10)
    bench.history.shed("live", 5)
    bench.ledger.put(1)
    async with bench.running(uplink) as made:
        await until(lambda: len(uplink.tried) >= 30)
        uplink.down = False
        await until(lambda: not any(made.stats().backlog.values()))
    assert sorted(uplink.of("live")) == [-5, 6, 7, 8, 9, 10]


async def test_one_that_more_have_passed_than_may_is_proven_by_one_more_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.uplink.lane.PASSED_MAX", 5)
    monkeypatch.setattr(doubts, "EVERY_S", 0.3)
    uplink = Failing(POISON)
    bench.ledger.put(40)
    async with bench.running(uplink, window=1, group=1) as made:
        await until(lambda: len(uplink.of("alert")) > POISON + 5)
        async with asyncio.timeout(5):
            while not bench.ledger.letters:
                tries = sum(seq == POISON for seq, _at_s in uplink.tried)
                assert len(uplink.of("alert")) <= POISON + 5 + tries
                await asyncio.sleep(0.002)
        await until(lambda: bench.cursor() == bench.ledger.head)
        assert made.stats().backlog["alert"] == 0
    assert list(bench.ledger.letters) == [("platform", "alert", POISON)]


async def test_a_letter_that_the_ledger_does_not_take_is_kept_later(bench: Bench) -> None:
    uplink = Failing(POISON)
    broke: list[int] = []

    def answer(_lane: str, out: Outgoing) -> Verdict:
        if isinstance(out.item, GapItem) and not broke:
            broke.append(out.item.seq)
            bench.ledger.broken = True
        return ACCEPTED

    uplink.answer = answer
    bench.ledger.put(8)
    async with bench.running(uplink) as made:
        await _feed(bench, made, lambda: broke)
        await until(lambda: -POISON in uplink.of("alert"))
        assert not bench.ledger.letters
        assert bench.cursor() == POISON - 1
        bench.ledger.broken = False
        await _feed(bench, made, lambda: bench.ledger.letters)
        await until(lambda: bench.cursor() == bench.ledger.head)


def _queue(bench: Bench, *seqs: int) -> None:
    for seq in seqs:
        bench.ledger.letters["platform", "backfill", seq] = ("http_422", b"{}")
        bench.ledger.resend("backfill", seq)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_letter_that_it_fails_over_is_dead_again_and_holds_no_other(
    bench: Bench, cut: bool
) -> None:
    uplink = Failing(POISON, lane="backfill", cut=cut)
    _queue(bench, 3, POISON, 5, 6)
    async with bench.running(uplink) as made:
        await _feed(bench, made, lambda: not bench.ledger.queued, "live")
        await _feed(bench, made, lambda: made.stats().up, "live")
    assert uplink.of("backfill") == [3, 5, 6]
    assert list(bench.ledger.letters) == [("platform", "backfill", POISON)]
    assert [seq for seq, _at_s in uplink.tried] == [POISON] * doubts.TRIES


async def test_a_letter_stays_queued_where_nothing_at_all_is_taken(bench: Bench) -> None:
    uplink = Failing(POISON, lane="backfill", cut=True)
    _queue(bench, POISON)
    async with bench.running(uplink):
        await until(lambda: len(uplink.tried) >= 2 * doubts.TRIES)
        assert bench.ledger.queued
        uplink.bad.clear()
        await until(lambda: not bench.ledger.queued)
    assert not bench.ledger.letters


def test_a_try_counts_only_after_the_lane_has_taken_something() -> None:
    lane = Doubts()
    for now_s in (0.0, 1.0):
        lane.failed(7, "http_500", "", 0, now_s)
    assert lane.stuck
    lane.accepted(8, 2.0)
    now_s = 2.0
    for _ in range(20):
        assert lane.due(now_s) == 7
        lane.failed(7, "http_500", "", 0, now_s)
        assert not lane.due(now_s)
        now_s += doubts.EVERY_S
    assert lane.parked[7].tries == 1
    for _ in range(doubts.TRIES - 1):
        assert lane.condemned(7) is None
        lane.accepted(9, now_s)
        lane.failed(7, "http_500", "", 0, now_s)
        now_s += doubts.EVERY_S
    assert lane.condemned(7) is None  # and once more afterwards
    lane.accepted(9, now_s)
    assert lane.due(now_s) == 7
    assert lane.condemned(7) is not None


def test_a_lane_that_takes_what_it_had_failed_over_begins_every_count_anew() -> None:
    lane = Doubts()
    for now_s in (0.0, 1.0):
        lane.failed(7, "http_500", "", 0, now_s)
    lane.accepted(8, 2.0)
    lane.failed(7, "http_500", "", 0, 2.0)
    assert lane.parked[7].tries == 1
    lane.failed(9, "http_500", "", 0, 3.0)
    lane.accepted(9, 4.0)
    assert lane.parked[7].tries == 0


def _poisoned(sent: list[dict[str, Any]]) -> bool:
    return any(alert["seq"] == POISON and "gap" not in alert for alert in sent)


@pytest.mark.parametrize("how", ["500", "closed", "502 of a proxy"])
async def test_a_platform_whose_parser_dies_of_one_item(
    bench: Bench, tmp_path: Path, how: str
) -> None:
    arrived: list[int] = []

    async def take(request: web.Request) -> web.StreamResponse:
        sent = [event["data"] for event in json.loads(await request.read())["alerts"]]
        if not _poisoned(sent):
            arrived.extend(alert["seq"] for alert in sent if "gap" not in alert)
            return web.Response()
        if how != "500":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=500)

    bench.ledger.put(20)
    async with Script(take).serving() as server:
        if how == "502 of a proxy":
            passing = f"location / {{ proxy_pass {server.url.removesuffix('/in')}; }}"
            async with nginx(tmp_path, passing) as front:
                await _set_aside(bench, f"{front}/in", "http_502", arrived)
        else:
            reason = "http_500" if how == "500" else "no_answer"
            await _set_aside(bench, server.url, reason, arrived)


async def _set_aside(bench: Bench, url: str, reason: str, arrived: list[int]) -> None:
    async with bench.running(url=url) as made:
        await until(lambda: len(arrived) == 19, 10)
        await _feed(bench, made, lambda: bench.ledger.letters)
        await until(lambda: bench.cursor() == bench.ledger.head)
    assert bench.ledger.letters["platform", "alert", POISON][0] == reason
    assert sorted(arrived) == [n for n in range(1, bench.ledger.head + 1) if n != POISON]


async def test_a_broker_that_cuts_the_session_at_one_publish(bench: Bench) -> None:
    def answer(_topic: str, payload: dict[str, Any]) -> Answer:
        return ("cut", 0) if _poisoned([payload]) else 0

    bench.ledger.put(20)
    async with (
        ScriptedBroker(answer) as broker,
        bench.running(url=broker.url) as made,
    ):
        await _feed(bench, made, lambda: bench.ledger.letters)
        await until(lambda: bench.cursor() == bench.ledger.head)
    assert bench.ledger.letters["platform", "alert", POISON][0] == "no_answer"
    ids = {payload["id"].split("/", 2)[-1] for _topic, payload in broker.published}
    assert ids >= {str(seq) for seq in range(1, bench.ledger.head + 1)} | {f"{POISON}/gap"}


async def test_a_middlebox_that_resets_mosquittos_session_at_one_payload(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "EVERY_S", 0.2)  # above what a session takes under load
    bench.ledger.put(3)
    bench.ledger.put(cause="' OR 1=1; DROP TABLE")
    bench.ledger.put(9)
    async with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
    ):
        proxy.up.cut_on = b"DROP TABLE"
        url = f"mqtt://127.0.0.1:{proxy.port}"
        async with bench.running(url=url, timeout=Duration(1_000_000_000)) as made:
            await _feed(bench, made, lambda: bench.ledger.letters)
            await until(lambda: bench.cursor() == bench.ledger.head)
        await subscriber.until(lambda: len(subscriber.of("alerts")) >= bench.ledger.head)
    ids = [message["id"].split("/", 2)[-1] for message in subscriber.of("alerts")]
    assert set(ids) >= {str(n) for n in range(1, bench.ledger.head + 1) if n != POISON}
    assert f"{POISON}/gap" in ids
    assert str(POISON) not in ids
    assert list(bench.ledger.letters) == [("platform", "alert", POISON)]
