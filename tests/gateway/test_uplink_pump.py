"""The pump: order, cursors, refused items, links that come and go."""

import asyncio
import math
from typing import Any

import pytest

from gateway.errors import UplinkError
from gateway.site.model import Duration
from gateway.store.alert import AlertItem
from gateway.uplink import backlog, letters, link_state, message, pump, settling
from gateway.uplink.base import (
    ACCEPTED,
    GapItem,
    LinkRefusedError,
    Outgoing,
    Refused,
    Retry,
    SuspectError,
    Verdict,
)
from gateway.uplink.batch import Batch
from gateway.uplink.lane import Lane
from gateway.uplink.lane_source import AlertLane, SampleLane
from tests.helpers.pumping import Bench
from tests.helpers.uplinks import (
    SENDER,
    T0_NS,
    MemoryHistory,
    MemoryUplink,
    until,
)

pytestmark = pytest.mark.usefixtures("quick")


async def test_alerts_then_live_then_backfill(bench: Bench) -> None:
    bench.history.put("backfill", 70)
    bench.history.put("live", 30)
    bench.ledger.put(50)
    async with bench.running() as made:
        await until(lambda: not any(made.stats().backlog.values()))
    lanes = [lane for lane, _seq in bench.uplink.taken]
    assert lanes == ["alert"] * 50 + ["live"] * 30 + ["backfill"] * 70
    assert bench.uplink.of("alert") == list(range(1, 51))
    assert bench.uplink.of("backfill") == list(range(1, 71))


async def test_an_alert_overtakes_the_backlog(bench: Bench) -> None:
    bench.history.put("backfill", 500)

    def answer(_lane: str, _out: Outgoing) -> Verdict:
        if len(bench.uplink.taken) >= 100 and not bench.ledger.head:
            bench.ledger.put()
        return ACCEPTED

    bench.uplink.answer = answer
    async with bench.running() as made:
        await until(lambda: not any(made.stats().backlog.values()))
    place = bench.uplink.taken.index(("alert", 1))
    assert place < 100 + 3 * 20  # nothing but the send that was under way was before it


async def test_live_rows_that_never_stop_on_a_long_way_leave_the_backlog_its_turns(
    bench: Bench,
) -> None:
    """The next ones are there before the last ones are acknowledged, for ever."""

    class Far(MemoryUplink):
        async def send(self, lane: str, items: list[Outgoing]) -> list[Verdict]:  # type: ignore[override]
            await asyncio.sleep(0.03)
            return await super().send(lane, items)

    bench.uplink = Far()
    bench.history.put("backfill", 60)
    async with bench.running() as made:
        async with asyncio.timeout(10):
            while made.stats().sent["backfill"] < 60:
                bench.history.put("live")
                made.nudge()
                await asyncio.sleep(0.01)
    assert bench.uplink.of("live") == list(range(1, len(bench.uplink.of("live")) + 1))


@pytest.mark.parametrize(
    ("way_s", "each_s", "least", "most"),
    [
        (0.001, 0.001, 50, 100),
        (0.6, 0.001, 50, 100),  # a satellite: long, not narrow
        (0.05, 1.25, 1, 2),  # 20 KB at 128 kbit/s: narrow
        (0.6, 1.25, 1, 2),
    ],
)
def test_the_backlog_fills_a_long_way_and_no_queue(
    bench: Bench, way_s: float, each_s: float, least: int, most: int
) -> None:
    sends = Batch(window=100, group=1)
    lane = Lane("platform", "backfill", SampleLane(bench.history, "platform", "backfill"))
    limits = []
    for _ in range(200):
        limits.append(sends.limit(lane))
        sends.pace(way_s + each_s * limits[-1])
    assert least <= max(limits[50:]) <= most
    for _ in range(300):  # now by another way, twice as long
        sends.pace(2 * way_s + each_s * sends.limit(lane))
    assert least <= sends.limit(lane) * 2


@pytest.mark.parametrize(
    ("before_s", "after_s", "least", "most"),
    [
        ((0.001, 0.00001), (0.6, 0.001), 50, 100),  # a cable, then a satellite
        ((0.001, 0.00001), (0.001, 0.01), 8, 32),  # then a narrow line
        ((0.001, 0.00001), (0.05, 1.25), 1, 2),
    ],
)
def test_a_session_by_another_way_learns_how_long_it_is_at_once(
    bench: Bench,
    before_s: tuple[float, float],
    after_s: tuple[float, float],
    least: int,
    most: int,
) -> None:
    sends = Batch(window=100, group=1)
    lane = Lane("platform", "backfill", SampleLane(bench.history, "platform", "backfill"))
    limits: list[int] = []
    for way_s, each_s in (before_s, after_s):
        sends.begin()
        limits = []
        for _ in range(30):
            limits.append(sends.limit(lane))
            sends.pace(way_s + each_s * limits[-1])
    assert least <= min(limits[8:])
    assert max(limits) <= most


async def test_the_pump_forgets_the_way_of_the_session_before(bench: Bench) -> None:
    cut = asyncio.Event()

    class Cut(MemoryUplink):
        async def lost(self) -> None:
            await cut.wait()
            cut.clear()
            msg = "cut"
            raise UplinkError(msg)

    bench.uplink = Cut()
    bench.history.put("backfill", 400)
    async with bench.running(window=100) as made:
        await until(lambda: made.stats().sent["backfill"] == 400)
        bench.uplink.sends.clear()
        cut.set()
        await until(lambda: made.stats().connects == 2)
        bench.history.put("backfill", 100)
        made.nudge()
        await until(lambda: made.stats().sent["backfill"] == 500)
    assert len(bench.uplink.sends[0][1]) == 1


async def test_a_window_at_most(bench: Bench) -> None:
    bench.ledger.put(25)
    async with bench.running(window=10) as made:
        await until(lambda: made.stats().sent["alert"] == 25)
    assert [len(items) for _lane, items in bench.uplink.sends] == [10, 10, 5]


async def test_the_cursor_is_the_highest_contiguous_acknowledged(bench: Bench) -> None:
    held = {3}

    def answer(_lane: str, out: Outgoing) -> Verdict:
        return Retry() if out.item.seq in held else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(6)
    async with bench.running() as made:
        await until(lambda: made.stats().retried >= 2)
        assert bench.ledger.cursors["platform", "alert"] == 2
        assert made.stats().backlog["alert"] == 1
        held.clear()
        await until(lambda: bench.ledger.cursors["platform", "alert"] == 6)
    assert sorted(bench.uplink.of("alert")) == [1, 2, 3, 4, 5, 6]  # 4, 5 and 6 once


async def test_goes_on_where_the_cursor_stands(bench: Bench) -> None:
    bench.ledger.put(5)
    bench.ledger.cursors["platform", "alert"] = 3
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] == 2)
    assert bench.uplink.of("alert") == [4, 5]


async def test_a_lost_link_loses_nothing(bench: Bench) -> None:
    bench.ledger.put(5)
    bench.uplink.error = UplinkError("cable")
    async with bench.running() as made:
        await until(lambda: bench.uplink.connects >= 3)
        assert made.stats().up is False
        assert made.stats().reason == "cable"
        assert made.stats().backlog["alert"] == 5
        assert made.stats().oldest_s == pytest.approx(100.0)
        assert bench.history.lane == "backfill"
        bench.uplink.error = None
        await until(lambda: made.stats().sent["alert"] == 5)
        assert made.stats().up
        assert made.stats().reason == ""
        assert bench.history.lane == "live"
    assert bench.problems.said == []  # a short outage is no alert


async def test_a_long_outage_is_told_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_state, "DOWN_TOLD_AFTER_S", 0.0)
    bench.uplink.error = UplinkError("cable")
    async with bench.running() as made:
        await until(lambda: bench.uplink.connects >= 4)
        bench.uplink.error = None
        await until(lambda: made.stats().up)
    assert bench.problems.said == [("raised", "platform"), ("cleared", "platform")]


async def test_a_link_that_refuses_us_is_told_at_once(bench: Bench) -> None:
    bench.uplink.error = LinkRefusedError("bad user name or password")
    async with bench.running() as made:
        await until(lambda: bench.problems.active)
        assert "bad user name or password" in bench.problems.active["uplink", "platform"]
        bench.uplink.error = None
        await until(lambda: made.stats().up)
        assert not bench.problems.active


async def test_the_backoff_grows_until_something_is_accepted(bench: Bench) -> None:
    state = link_state.LinkState(
        "platform", ("alert",), bench.history, bench.problems, jitter=lambda: 1.0
    )
    assert [round(state.backoff_s(), 3) for _ in range(4)] == [0.01, 0.02, 0.04, 0.04]
    state.progress()
    assert state.backoff_s() == pytest.approx(0.01)


async def test_alerts_of_the_outage_are_historical(bench: Bench) -> None:
    bench.ledger.put(2)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] == 2)
        bench.ledger.put()
        made.nudge()
        await until(lambda: made.stats().sent["alert"] == 3)
    flags = {out.item.seq: out.historical for _lane, outs in bench.uplink.sends for out in outs}
    assert flags == {1: True, 2: True, 3: False}


async def test_the_audit_head_travels(bench: Bench) -> None:
    bench.ledger.put(3)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] == 3)
    assert {out.audit_head for _lane, outs in bench.uplink.sends for out in outs} == {"audit-3"}


async def test_one_refused_item_is_set_aside_and_the_others_pass(bench: Bench) -> None:
    def answer(_lane: str, out: Outgoing) -> Verdict:
        poison = out.item.seq == 4 and not isinstance(out.item, GapItem)
        return Refused("payload_format_invalid", "no\x1b[31mway") if poison else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(10)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] >= 10)  # and the alert about it
        stats = made.stats()
    assert bench.uplink.of("alert")[:10] == [1, 2, 3, 5, 6, 7, 8, 9, 10, -4]
    assert bench.uplink.of("alert")[10] == 11
    assert bench.ledger.cursors["platform", "alert"] == 11
    assert bench.ledger.letters == {
        ("platform", "alert", 4): ("payload_format_invalid", bench.ledger.bodies[3])
    }
    assert stats.letters == {"payload_format_invalid": 1}
    assert stats.refused == 1
    (draft,) = bench.ledger.drafts
    assert draft.kind == "gap"
    assert "alert item 4" in draft.cause
    assert "\x1b" not in draft.cause


async def test_a_refused_row_is_kept_as_it_would_have_been_sent(bench: Bench) -> None:
    def answer(_lane: str, out: Outgoing) -> Verdict:
        poison = out.item.seq == 2 and not isinstance(out.item, GapItem)
        return Refused("packet_too_large") if poison else ACCEPTED

    bench.uplink.answer = answer
    bench.history.put("backfill", 3)
    async with bench.running() as made:
        await until(lambda: bench.history.cursors.get("backfill") == 3)
    reason, body = bench.ledger.letters["platform", "backfill", 2]
    assert reason == "packet_too_large"
    assert b'"tags":["ch4.t1","air.speed"]' in body
    assert made.stats().letters == {"packet_too_large": 1}


async def test_a_platform_that_refuses_everything_gets_nothing_set_aside(bench: Bench) -> None:
    refusing = True

    def answer(_lane: str, _out: Outgoing) -> Verdict:
        return Refused("http_400", "no") if refusing else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(3)
    async with bench.running() as made:
        await until(lambda: len(bench.uplink.sends) >= 6)  # three rounds of items and markers
        assert not bench.ledger.letters
        assert not bench.ledger.cursors
        assert "http_400" in bench.problems.active["uplink", "platform/alert"]
        assert "http_400" in made.stats().reason
        refusing = False
        await until(lambda: made.stats().sent["alert"] == 3)
        assert not bench.problems.active
    assert not bench.ledger.letters


async def test_a_platform_that_knows_no_markers_still_gets_the_rest(bench: Bench) -> None:
    def answer(_lane: str, out: Outgoing) -> Verdict:
        poison = out.item.seq == 2 or isinstance(out.item, GapItem)
        return Refused("http_422") if poison else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(3)
    async with bench.running():
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 4)
    assert set(bench.ledger.letters) == {("platform", "alert", 2)}


async def test_a_refused_gap_alert_begets_no_other(bench: Bench) -> None:
    def answer(_lane: str, out: Outgoing) -> Verdict:
        return ACCEPTED if isinstance(out.item, GapItem) else Refused("http_422")

    bench.uplink.answer = answer
    bench.ledger.put(1)
    async with bench.running():
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 2)
    assert len(bench.ledger.drafts) == 1
    assert len(bench.ledger.letters) == 2


async def test_letters_are_rationed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(lane: str, out: Outgoing) -> Verdict:
        wanted = lane == "alert" or isinstance(out.item, GapItem)
        return ACCEPTED if wanted else Refused("http_422")

    monkeypatch.setattr(letters, "AT_ONCE", 5)
    bench.uplink.answer = answer
    bench.history.put("backfill", 100)
    async with bench.running() as made:
        await until(lambda: len(bench.ledger.letters) == 5)
        bench.ledger.put()
        made.nudge()
        await until(lambda: made.stats().sent["alert"] == 6)  # alerts of the letters, and this one
    assert len(bench.ledger.letters) == 5
    assert bench.history.cursors["backfill"] == 5


async def test_a_letter_that_the_ledger_does_not_take_keeps_the_item(bench: Bench) -> None:
    def answer(_lane: str, out: Outgoing) -> Verdict:
        if out.item.seq == 1 and not isinstance(out.item, GapItem):
            bench.ledger.broken = True
            return Refused("http_422")
        return ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(2)
    async with bench.running() as made:
        await until(lambda: bench.ledger.broken and made.stats().refused == 1)
        await until(lambda: -1 in bench.uplink.of("alert"))
        assert not bench.ledger.letters
        assert not bench.ledger.cursors
        bench.ledger.broken = False
        await until(lambda: bench.ledger.cursors.get(("platform", "alert"), 0) >= 2)
    assert set(bench.ledger.letters) == {("platform", "alert", 1)}


async def test_a_denied_lane_does_not_hold_the_others(bench: Bench) -> None:
    denied = True

    def answer(lane: str, _out: Outgoing) -> Verdict:
        if denied and lane == "alert":
            return Retry(0.02, "topic: not authorised", denied=True)
        return ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(3)
    bench.history.put("live", 4)
    bench.history.put("backfill", 5)
    async with bench.running() as made:
        await until(lambda: made.stats().sent == {"alert": 0, "live": 4, "backfill": 5})
        await until(lambda: made.stats().retried >= 6)
        assert not bench.ledger.letters
        assert not bench.ledger.cursors
        assert bench.problems.said == [("raised", "platform/alert")]
        assert made.stats().up
        assert "not authorised" in made.stats().reason
        denied = False
        await until(lambda: made.stats().sent["alert"] == 3)
    assert bench.problems.said == [("raised", "platform/alert"), ("cleared", "platform/alert")]


async def test_all_lanes_denied_is_a_link_that_is_down(bench: Bench) -> None:
    bench.uplink.answer = lambda _lane, _out: Retry(0.02, "not authorised", denied=True)
    bench.ledger.put(1)
    bench.history.put("live", 1)
    bench.history.put("backfill", 1)
    async with bench.running() as made:
        await until(lambda: len(bench.problems.active) >= 3)
        await until(lambda: not made.stats().up)
        assert bench.history.lane == "backfill"


async def test_a_pause_holds_every_lane(bench: Bench) -> None:
    busy = True

    def answer(_lane: str, _out: Outgoing) -> Verdict:
        return Retry(0.05, "status 503") if busy else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(2)
    bench.history.put("live", 2)
    async with bench.running() as made:
        await until(lambda: len(bench.uplink.sends) == 2)
        assert {lane for lane, _items in bench.uplink.sends} == {"alert"}
        assert made.stats().up is False
        assert bench.uplink.connects == 1
        busy = False
        await until(lambda: made.stats().sent["live"] == 2)
    assert [lane for lane, _seq in bench.uplink.taken] == ["alert"] * 2 + ["live"] * 2


async def test_rows_that_were_shed_are_one_numbered_gap(bench: Bench) -> None:
    bench.history.put("backfill", 10)
    bench.history.shed("backfill", 6)
    async with bench.running() as made:
        await until(lambda: made.stats().backlog["backfill"] == 0)
    assert bench.uplink.of("backfill") == [-6, 7, 8, 9, 10]
    gap = bench.uplink.sends[0][1][0].item
    assert isinstance(gap, GapItem)
    assert (gap.first, gap.seq, gap.reason) == (1, 6, "shed")
    assert bench.history.cursors["backfill"] == 10
    assert not bench.ledger.letters


async def test_a_gap_may_hold_what_was_taken_before_it_was_shed(bench: Bench) -> None:
    """Nothing of it stays behind the cursor, where it would be counted for ever."""
    held = {3}

    def answer(_lane: str, out: Outgoing) -> Verdict:
        return Retry(0.02) if out.item.seq in held else ACCEPTED

    bench.uplink.answer = answer
    bench.history.put("live", 6)
    async with bench.running() as made:
        await until(lambda: bench.uplink.of("live") == [1, 2, 4, 5, 6])
        bench.history.put("live", 4)
        bench.history.shed("live", 8)
        held.clear()
        await until(lambda: bench.history.cursors["live"] == 10)
        assert made.stats().backlog["live"] == 0
        bench.history.put("live", 1)
        assert made.stats().backlog["live"] == 1
        made.nudge()
        await until(lambda: 11 in bench.uplink.of("live"))
    assert bench.uplink.of("live")[5:] == [-8, 9, 10, 11]


async def test_a_gap_that_was_taken_above_the_cursor_carries_it_on(bench: Bench) -> None:
    lane = Lane("platform", "live", SampleLane(bench.history, "platform", "live"))
    bench.history.put("live", 12)
    await lane.follow()
    for item in (GapItem(5, 9, "shed", 0), GapItem(1, 7, "shed", 0)):
        lane.done(item)
    assert (lane.cursor, lane.pending) == (9, 3)
    lane.done(GapItem(2, 4, "shed", 0))  # late, and passed long ago
    assert (lane.cursor, lane.pending) == (9, 3)


async def test_everything_shed(bench: Bench) -> None:
    bench.history.put("live", 5)
    bench.history.shed("live", 5)
    async with bench.running() as made:
        await until(lambda: made.stats().backlog["live"] == 0)
    assert bench.uplink.of("live") == [-5]


async def test_the_item_that_costs_the_session_is_found_and_set_aside(bench: Bench) -> None:
    class Cutting(MemoryUplink):
        """Closes the session over item 3: alone it is known, in company it is not."""

        async def send(self, lane: str, items: list[Outgoing]) -> list[Verdict]:  # type: ignore[override]
            if any(out.item.seq == 3 and not isinstance(out.item, GapItem) for out in items):
                self.error = UplinkError("not connected")
                self.sends.append((lane, list(items)))
                if len(items) > 1:
                    raise SuspectError("packet too large")
                return [Refused("packet_too_large")]
            return await super().send(lane, items)

        async def connect(self) -> bool:
            self.error = None
            return await super().connect()

    bench.uplink = Cutting()
    bench.ledger.put(5)
    async with bench.running() as made:
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 6)
        assert made.stats().letters == {"packet_too_large": 1}
    assert set(bench.ledger.letters) == {("platform", "alert", 3)}
    assert bench.uplink.of("alert") == [1, 2, -3, 4, 5, 6]


async def test_a_ledger_that_does_not_answer_stops_nothing_else(bench: Bench) -> None:
    bench.ledger.broken = True
    bench.ledger.put(2)
    bench.history.put("live", 2)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["live"] == 2)
        bench.ledger.broken = False
        await until(lambda: made.stats().sent["alert"] == 2)


async def test_a_cursor_that_cannot_be_stored_is_stored_later(bench: Bench) -> None:
    bench.ledger.put(2)

    def answer(_lane: str, out: Outgoing) -> Verdict:
        bench.ledger.broken = out.item.seq == 2
        return ACCEPTED

    bench.uplink.answer = answer
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] == 2)
        assert made.stats().backlog["alert"] == 0
        assert not bench.ledger.cursors
        bench.ledger.broken = False
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 2)
    assert bench.uplink.of("alert") == [1, 2]


async def test_a_store_begun_anew_starts_at_its_own_cursor(bench: Bench) -> None:
    bench.history.put("live", 5)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["live"] == 5)
        bench.history.heads.clear()
        bench.history.rows["live"].clear()
        bench.history.cursors.clear()
        bench.history.epoch += 1
        bench.history.put("live", 2)
        made.nudge()
        await until(lambda: made.stats().sent["live"] == 7)
    assert bench.uplink.of("live") == [1, 2, 3, 4, 5, 1, 2]
    assert bench.uplink.sends[-1][1][0].epoch == bench.history.epoch


@pytest.mark.parametrize(
    ("lanes", "up", "down"),
    [
        (("alert", "live", "backfill"), "live", "backfill"),
        (("alert", "live"), "live", "live"),
        (("alert", "backfill"), "backfill", "backfill"),
        (("alert",), "", ""),
    ],
)
async def test_only_the_lanes_of_the_site_file(
    bench: Bench, lanes: tuple[str, ...], up: str, down: str
) -> None:
    bench.ledger.put(1)
    bench.history.put("live", 1)
    bench.history.put("backfill", 1)
    async with bench.running(lanes=lanes) as made:
        await until(lambda: not any(made.stats().backlog.values()))
        assert bench.history.lane == up
        bench.uplink.error = UplinkError("cable")
        bench.ledger.put(1)
        made.nudge()
        await until(lambda: not made.stats().up)
        assert bench.history.lane == down
    assert {lane for lane, _seq in bench.uplink.taken} == set(lanes)


async def test_a_fault_of_an_uplink_ends_one_session_not_the_gateway(bench: Bench) -> None:
    faults = 2

    def answer(_lane: str, _out: Outgoing) -> Verdict:
        nonlocal faults
        if faults:
            faults -= 1
            raise KeyError("a bug")
        return ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(1)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] == 1)
    assert bench.uplink.connects == 3


async def test_at_the_end_the_session_is_closed_and_the_cursor_kept(bench: Bench) -> None:
    bench.ledger.put(3)
    async with bench.running() as made:
        await until(lambda: made.stats().sent["alert"] == 3)
    assert bench.uplink.closed >= 1
    assert bench.ledger.cursors["platform", "alert"] == 3


async def test_an_end_that_meets_a_failure_is_an_end(bench: Bench) -> None:
    """A session that fails in the moment in which the pump is to end hides that from nobody."""

    class Late(MemoryUplink):
        async def send(self, lane: str, items: Any) -> list[Verdict]:
            self.sent.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                msg = "closed"
                raise UplinkError(msg) from None
            return []

    bench.uplink = Late()
    bench.ledger.put(1)
    task = asyncio.create_task(bench.make().run())
    await bench.uplink.sent.wait()
    task.cancel()
    done, _pending = await asyncio.wait([task], timeout=2)
    task.cancel()
    assert done
    assert task.cancelled()


async def test_each_step_of_the_room_is_told_once_and_over_well_below_it(bench: Bench) -> None:
    lane = Lane("platform", "backfill", SampleLane(bench.history, "platform", "backfill"))
    weighed = backlog.Backlog("platform", [lane], bench.problems, lambda: T0_NS)
    bench.history.bound_bytes = 10_000  # a row is 100
    every = [50, 80, 95]
    course: tuple[tuple[int, list[int]], ...] = (
        (49, []),
        (51, [50]),
        (46, [50]),
        (44, []),
        (96, every),
        (91, every),
        (60, [50]),
    )
    for rows, steps in course:
        _leave(bench.history, rows)
        await lane.follow()
        lane.cursor = bench.history.heads["backfill"] - rows
        await lane.next(1, utc_ns=T0_NS)
        await weighed.weigh()
        told = {f"platform/backfill/{step}" for step in steps}
        assert {ident for _kind, ident in bench.problems.active} == told, rows
    raised = [ident for state, ident in bench.problems.said if state == "raised"]
    assert [ident.rsplit("/", 1)[-1] for ident in raised] == ["50", "50", "80", "95"]


def _leave(history: MemoryHistory, rows: int) -> None:
    history.put("backfill", 200)
    history.shed("backfill", len(history.rows["backfill"]) - rows)


async def test_when_the_room_is_full_at_the_present_rate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "LOOK_S", 0.001)
    monkeypatch.setattr(backlog, "RATE_S_MIN", 0.05)
    bench.uplink.error = UplinkError("cable")
    bench.history.bound_bytes = 100_000
    async with bench.running() as made:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await until(lambda: bench.uplink.connects >= 2)
        while (waiting := made.stats().waiting["backfill"]).full_s == math.inf:
            bench.history.put("backfill", 1)
            await asyncio.sleep(0.002)
        rate = (waiting.stored_bytes or 0) / (loop.time() - started_s)
        assert waiting.fill == pytest.approx((waiting.stored_bytes or 0) / 100_000)
        assert 0 < waiting.full_s < 20 * 100_000 / rate


async def test_live_rows_that_the_link_is_too_slow_for_are_made_backlog(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "LIVE_ITEMS_MAX", 10)
    monkeypatch.setattr(pump, "LIVE_AGE_NS_MAX", 1_000_000_000_000)
    slow = True

    def answer(lane: str, _out: Outgoing) -> Verdict:
        return Retry(0.01, "no rights", denied=True) if slow and lane == "live" else ACCEPTED

    bench.uplink.answer = answer
    async with bench.running() as made:
        await until(lambda: made.stats().up)
        assert bench.history.lane == "live"
        bench.history.put("live", 11)
        made.nudge()
        await until(lambda: bench.history.lane == "backfill")
        bench.history.put("backfill", 5)
        made.nudge()
        await until(lambda: made.stats().sent["backfill"] == 5)
        slow = False
        await until(lambda: bench.history.lane == "live")
    assert bench.uplink.of("live") == list(range(1, 12))
    assert bench.history.lanes_set == ["backfill", "live", "backfill", "live"]


async def test_what_is_acknowledged_within_the_grace_is_sent_once_more(bench: Bench) -> None:
    bench.ledger.put(10)
    async with bench.running(keep_after_ack=Duration(60_000_000_000)) as made:
        await until(lambda: made.stats().sent["alert"] == 10)
        assert not bench.ledger.cursors  # what is not passed is kept
        assert made.stats().backlog["alert"] == 0
        for _ in range(3):  # it comes and goes: once more, not at each time
            bench.uplink.error = UplinkError("the broker was killed")
            bench.ledger.put(1)
            made.nudge()
            await until(lambda: not made.stats().up)
            bench.uplink.error = None
            await until(lambda: made.stats().backlog["alert"] == 0)
    assert bench.uplink.of("alert") == [*range(1, 11), *range(1, 12), 11, 12, 12, 13]
    assert bench.ledger.cursors["platform", "alert"] == 12


async def test_what_is_acknowledged_above_a_hole_is_sent_once_more_too(bench: Bench) -> None:
    """A broker that was killed had it in its memory alone, whatever was still to come before."""
    lane = Lane("platform", "alert", AlertLane(bench.ledger, "platform"), keep_s=600.0)
    bench.ledger.put(6)

    async def waiting() -> list[int]:
        return [out.item.seq for out in await lane.next(10, utc_ns=T0_NS)]

    def take(*seqs: int) -> None:
        for seq in seqs:
            lane.done(AlertItem(seq, b""))

    assert await waiting() == [1, 2, 3, 4, 5, 6]
    take(4, 6)
    assert await waiting() == [1, 2, 3, 5]
    lane.rewind()
    assert await waiting() == [1, 2, 3, 4, 5, 6]
    assert lane.pending == 6
    take(1, 4)
    lane.rewind()  # 1 for the first time, 4 for the second
    assert await waiting() == [1, 2, 3, 5, 6]
    assert lane.pending == 5
    take(1, 2, 3, 5, 6)
    assert lane.pending == 0
    lane.rewind()
    assert lane.cursor == 1  # 2, 3 and 5 are to come once more
    take(2, 3, 4, 5, 6)
    for _ in range(3):
        lane.rewind()
        assert (lane.cursor, lane.pending) == (6, 0)


async def test_after_the_grace_nothing_is_sent_again(bench: Bench) -> None:
    bench.ledger.put(10)
    async with bench.running(keep_after_ack=Duration(1_000_000)) as made:
        await until(lambda: bench.ledger.cursors.get(("platform", "alert")) == 10)
        bench.uplink.error = UplinkError("cable")
        bench.ledger.put(1)
        made.nudge()
        await until(lambda: not made.stats().up)
        bench.uplink.error = None
        await until(lambda: made.stats().backlog["alert"] == 0)
    assert bench.uplink.of("alert") == list(range(1, 12))


async def test_letters_are_sent_again_and_settled_by_their_verdicts(bench: Bench) -> None:
    refusing = {("alert", 2), ("backfill", 1), ("backfill", 3)}

    def answer(lane: str, out: Outgoing) -> Verdict:
        poison = (lane, out.item.seq) in refusing and not isinstance(out.item, GapItem)
        return Refused("http_422") if poison else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(3)
    bench.history.put("backfill", 4)
    async with bench.running() as made:
        await until(lambda: len(bench.ledger.letters) == 3)
        await until(lambda: not any(made.stats().backlog.values()))
        kept = {lane_seq[1:]: body for lane_seq, (_, body) in bench.ledger.letters.items()}
        refusing.discard(("alert", 2))
        refusing.discard(("backfill", 1))
        cursors = dict(bench.ledger.cursors), dict(bench.history.cursors)
        place = len(bench.uplink.sends)
        for lane, seq in (("backfill", 1), ("alert", 2), ("backfill", 3)):
            bench.ledger.resend(lane, seq)
        made.nudge()
        await until(lambda: not bench.ledger.queued)
        assert set(bench.ledger.letters) == {("platform", "backfill", 3)}
        assert len(bench.ledger.drafts) == 3  # refused again: no new alert
        assert (dict(bench.ledger.cursors), dict(bench.history.cursors)) == cursors
    again = {
        (lane, out.item.seq): message.encode(SENDER, lane, out)
        for lane, outs in bench.uplink.sends[place:]
        for out in outs
    }
    assert again["backfill", 1] == kept["backfill", 1]
    assert b'"historical":true' in again["alert", 2]


def _queue(bench: Bench, lane: str, *seqs: int) -> None:
    for seq in seqs:
        bench.ledger.letters["platform", lane, seq] = ("http_422", b"{}")
        bench.ledger.resend(lane, seq)


@pytest.mark.parametrize("denied", [True, False])
async def test_a_letter_that_is_to_wait_holds_up_no_alert(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    """However often it is tried again: what is new is never held for it."""
    monkeypatch.setattr(settling, "REFUSED_RETRY_S", 600.0)

    def answer(lane: str, out: Outgoing) -> Verdict:
        old = lane == "alert" and out.item.seq == 1 and out.historical
        return Retry(0.0, "no rights", denied=denied) if old else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(1)
    bench.ledger.cursors["platform", "alert"] = 1
    _queue(bench, "alert", 1)
    _queue(bench, "backfill", 7)
    async with bench.running() as made:
        await until(lambda: bench.uplink.of("backfill") == [7])  # nor the letters of another lane
        for count in range(1, 5):
            bench.ledger.put()
            made.nudge()
            await until(lambda: len(bench.uplink.of("alert")) >= count)  # noqa: B023  at once
        assert made.stats().up
        assert not made.stats().reason
    tried = [out.item.seq for _lane, outs in bench.uplink.sends for out in outs]
    assert tried.count(1) == 1
    assert [letter.seq for letter in bench.ledger.queued] == [1]
    assert not bench.problems.active


async def test_a_long_wait_is_not_shortened_by_what_another_lane_is_told(bench: Bench) -> None:
    both = asyncio.Barrier(2)

    class Asking(MemoryUplink):
        """Asks alerts to wait for ten minutes, then the live rows, sent beside them, for less."""

        async def send(self, lane: str, items: list[Outgoing]) -> list[Verdict]:  # type: ignore[override]
            self.sends.append((lane, list(items)))
            if lane == "live":
                bench.ledger.put()
            await both.wait()
            if lane == "live":
                await asyncio.sleep(0)
            return [Retry(600.0 if lane == "alert" else 0.0, "busy")] * len(items)

    bench.uplink = Asking()
    bench.history.put("live")
    async with bench.running() as made:
        await until(lambda: bench.uplink.sends)
        made.nudge()
        await until(lambda: made.stats().retried == 2)
        await asyncio.sleep(0.2)  # many times the pause of the second
    assert [lane for lane, _outs in bench.uplink.sends] == ["live", "alert"]


async def test_a_lane_whose_send_is_cancelled_from_inside_goes_on(bench: Bench) -> None:
    """A library does that, where it awaits what another of its tasks has given up."""
    cancelled: list[int] = []

    def answer(_lane: str, out: Outgoing) -> Verdict:
        if not cancelled:
            cancelled.append(out.item.seq)
            raise asyncio.CancelledError
        return ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(2)
    async with bench.running():
        await until(lambda: bench.uplink.of("alert") == [1, 2])
    assert cancelled == [1]


async def test_no_letter_goes_in_a_lane_that_is_held(bench: Bench) -> None:
    denied = True

    def answer(lane: str, _out: Outgoing) -> Verdict:
        wait = denied and lane == "alert"
        return Retry(600.0, "no rights", denied=True) if wait else ACCEPTED

    bench.uplink.answer = answer
    bench.ledger.put(2)
    bench.ledger.cursors["platform", "alert"] = 1
    async with bench.running() as made:
        await until(lambda: "no rights" in made.stats().reason)
        _queue(bench, "alert", 1)
        _queue(bench, "backfill", 7)
        made.nudge()
        await until(lambda: bench.uplink.of("backfill") == [7])
    tried = [out.item.seq for lane, outs in bench.uplink.sends for out in outs if lane == "alert"]
    assert tried == [2]


async def test_letters_go_singly_where_one_item_cost_a_session(bench: Bench) -> None:
    class Cutting(MemoryUplink):
        """Ends the session over letter 3 in company; alone it is known."""

        async def send(self, lane: str, items: list[Outgoing]) -> list[Verdict]:  # type: ignore[override]
            if any(out.item.seq == 3 for out in items):
                self.sends.append((lane, list(items)))
                if len(items) > 1:
                    raise SuspectError("packet too large")
                return [Refused("packet_too_large")]
            return await super().send(lane, items)

    bench.uplink = Cutting()
    _queue(bench, "backfill", 1, 2, 3, 4)
    async with bench.running():
        await until(lambda: not bench.ledger.queued)
    assert bench.uplink.of("backfill") == [1, 2, 4]
    assert [len(outs) for _lane, outs in bench.uplink.sends] == [4, 1, 1, 1, 1]


async def test_letters_stay_queued_while_the_link_or_the_ledger_is_away(bench: Bench) -> None:
    bench.ledger.letters["platform", "backfill", 7] = ("http_422", b"{}")
    bench.uplink.error = UplinkError("cable")
    async with bench.running() as made:
        bench.ledger.resend("backfill", 7)
        await until(lambda: bench.uplink.connects >= 3)
        bench.ledger.broken = True
        bench.uplink.error = None
        await until(lambda: made.stats().up)
        assert bench.ledger.queued
        bench.ledger.broken = False
        await until(lambda: not bench.ledger.queued)
    assert bench.uplink.of("backfill") == [7]
