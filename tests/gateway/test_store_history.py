"""The history: messages that never change, lanes without gaps, packing, positions, restarts."""

import asyncio
import contextlib
import math
import random
import sqlite3
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiosqlite import Connection

from fastpath.codes import Quality, Reason
from fastpath.columns import ABSENT, quality_byte
from gateway.store import packing, waiting
from gateway.store.chunks import CHUNK_SAMPLES
from gateway.store.history import History
from gateway.store.items import PollGroup, SampleItem
from gateway.store.shedding import Shed
from gateway.uplink.base import GapItem
from gateway.uplink.lane import Lane
from gateway.uplink.lane_source import SampleLane
from tests.gateway.samples import samples_of

GROUPS = (PollGroup("plc/50ms", ("a", "b", "c"), (0, 1, 2)), PollGroup("slow/1s", ("d",), (3,)))
GOOD = quality_byte(Quality.GOOD, 0)
JOURNAL = 2**64 - 3
DAY_NS = 86_400 * 10**9
LANES = ("live", "backfill")


async def open_history(directory: Path, **options: Any) -> History:
    options.setdefault("groups", GROUPS)
    options.setdefault("uplinks", ("up", "other"))
    options.setdefault("utc_ns", lambda: 1_000 * 10**9)
    return await History.open(directory / "history.db", reserve_bytes=0, **options)


@pytest_asyncio.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    opened = await open_history(tmp_path)
    yield opened
    await opened.close()


async def second(history: History, at: int, *, value: float = 1.0) -> int:
    """One second of samples of both groups: two pieces."""
    history.add(samples_of([(tag, value, at * 1000 + ms) for ms in (0, 500) for tag in range(3)]))
    history.add(samples_of([(3, -value, at * 1000)]))
    return await history.commit((JOURNAL, at * 7))


async def pack_everything(history: History) -> None:
    """What is not packed is an hour old now."""
    hours = count(2**61, 2**45)
    before, history._state.monotonic_ns = history._state.monotonic_ns, hours.__next__
    for _ in range(1_000):
        if not await history.pack():
            break
    history._state.monotonic_ns = before
    assert history.stats().unpacked_samples == 0


def points(items: list[SampleItem]) -> list[tuple[str, int, float, int]]:
    """(tag, time, value, quality) of every sample in the items."""
    return [
        (tag, item.t0_ns + dt, value, quality)
        for item in items
        for tag, values, qualities in zip(item.tags, item.values, item.qualities, strict=True)
        for dt, value, quality in zip(item.dt_ns, values, qualities, strict=True)
        if quality != ABSENT
    ]


async def test_pieces_leave_live_as_they_were_put_in(history: History) -> None:
    history.set_lane("up", "live")
    assert await second(history, 10, value=2.5) == 2
    items = await history.items("up", "live", 0, 10)
    assert [item.seq for item in items] == [1, 2]
    found = sorted(points(items))
    assert found[0] == ("a", 10_000_000_000, 2.5, GOOD)
    assert len(found) == 7
    assert found[-1] == ("d", 10_000_000_000, -2.5, GOOD)
    assert history.lane_head("other", "backfill") == 0  # it is numbered when it is packed


async def test_backfill_leaves_by_group_once_it_is_packed(history: History) -> None:
    for at in range(30):
        await second(history, at, value=at / 4)
    assert history.lane_head("up", "backfill") == 0
    assert await history.pack() == 60
    items = await history.items("up", "backfill", 0, 10)
    assert [item.seq for item in items] == list(range(1, len(items) + 1))
    assert sorted(points(items)) == sorted(
        [("d", at * 10**9, -at / 4, GOOD) for at in range(30)]
        + [
            (tag, at * 10**9 + ms * 10**6, at / 4, GOOD)
            for at in range(30)
            for ms in (0, 500)
            for tag in "abc"
        ]
    )
    assert await history.items("other", "backfill", 0, 10) == items


async def test_a_message_names_only_the_tags_it_has(history: History) -> None:
    history.set_lane("up", "live")
    history.add(samples_of([(0, 1.0, 5), (2, 3.0, 5), (2, 4.0, 6)]))
    history.add(samples_of([(1, math.nan, 7)], quality=Quality.BAD, reason=Reason.STALE))
    await history.commit()
    history.add(samples_of([(0, 1.0, 8), (2, 3.0, 8)]))
    await history.commit()
    first, later = await history.items("up", "live", 0, 10)
    assert list(first.tags) == ["a", "b", "c"]
    assert list(later.tags) == ["a", "c"]
    assert later.qualities[0] == bytes([GOOD])


async def test_bad_samples_keep_their_reason(history: History) -> None:
    history.add(samples_of([(1, math.nan, 7)], quality=Quality.BAD, reason=Reason.STALE))
    await history.commit()
    await history.pack()
    ((tag, _, value, quality),) = points(await history.items("up", "backfill", 0, 10))
    assert (tag, quality) == ("b", quality_byte(Quality.BAD, Reason.STALE))
    assert math.isnan(value)


async def test_each_sample_is_in_one_lane_of_each_uplink_for_ever(
    history: History, tmp_path: Path
) -> None:
    plan = ["backfill", "live", "live", "backfill", "backfill", "live"]
    for at, lane in enumerate(plan):
        history.set_lane("up", lane)
        await second(history, at)
    assert history.lane_head("up", "live") == 6
    assert history.lane_head("up", "backfill") == 4  # two windows of two groups
    assert history.lane_head("other", "live") == 0
    before = {lane: await history.items("up", lane, 0, 100) for lane in LANES}
    for lane, items in before.items():
        assert [item.seq for item in items] == list(range(1, len(items) + 1))
        assert [t // 10**9 for tag, t, _, _ in points(items) if tag == "d"] == [
            at for at, own in enumerate(plan) if own == lane
        ]
    await pack_everything(history)
    assert {lane: await history.items("up", lane, 0, 100) for lane in LANES} == before
    assert [t // 10**9 for tag, t, _, _ in points(
        await history.items("other", "backfill", 0, 100)
    ) if tag == "d"] == list(range(6))  # fmt: skip
    await history.close()
    again = await open_history(tmp_path)
    try:
        assert {lane: await again.items("up", lane, 0, 100) for lane in LANES} == before
        await second(again, 6)  # the lane is backfill until the link is up
        assert again.lane_head("up", "live") == 6
    finally:
        await again.close()


async def test_items_go_on_where_they_ended(history: History) -> None:
    for at in range(5):
        history.set_lane("up", "live" if at % 2 else "backfill")
        await second(history, at)
    await pack_everything(history)
    for lane, head in (("live", 4), ("backfill", 6)):
        seqs, after = [], 0
        while items := await history.items("up", lane, after, 3):
            seqs += [item.seq for item in items]
            after = items[-1].seq
        assert seqs == list(range(1, head + 1))
    assert await history.items("nobody", "live", 0, 4) == []


async def test_an_uplink_that_comes_back_goes_on_behind_its_numbers(tmp_path: Path) -> None:
    history = await open_history(tmp_path)
    for at, lane in enumerate(("live", "backfill")):
        history.set_lane("up", lane)
        await second(history, at)
    await pack_everything(history)
    await history.move_cursor("up", "live", 1)
    heads = {lane: history.lane_head("up", lane) for lane in LANES}
    await history.close()
    history = await open_history(tmp_path, uplinks=("other",))
    await history.forget("up")
    assert not [uplink for uplink, _lane in history.owed() if uplink == "up"]
    assert {lane: await history.cursor("up", lane) for lane in LANES} == heads
    await second(history, 2)
    await pack_everything(history)
    await history.close()
    history = await open_history(tmp_path)
    try:
        # What it never had is a gap: the cursor is where it was, and no row of it is there.
        assert await history.cursor("up", "live") == 1
        assert await history.cursor("up", "backfill") == 0
        for lane in LANES:
            assert history.lane_head("up", lane) == heads[lane]
            assert await history.items("up", lane, 0, 100) == []
        for at, lane in enumerate(("backfill", "live"), start=3):
            history.set_lane("up", lane)
            await second(history, at)
        await pack_everything(history)
        for lane, at in zip(LANES, (4, 3), strict=True):
            items = await history.items("up", lane, 0, 100)
            assert [item.seq for item in items] == [heads[lane] + 1, heads[lane] + 2]
            assert {t // 10**9 for _, t, _, _ in points(items)} == {at}
        for lane in LANES:
            await history.move_cursor("up", lane, heads[lane])
    finally:
        await history.close()
    history = await open_history(tmp_path)
    assert {lane: await history.cursor("up", lane) for lane in LANES} == heads  # told once
    await history.close()


async def test_an_uplink_that_comes_back_is_told_what_it_will_not_get(tmp_path: Path) -> None:
    """By the pump's own lane, as the other end would get it."""
    history = await open_history(tmp_path)
    history.set_lane("up", "live")
    for at in range(3):
        await second(history, at)
    await history.move_cursor("up", "live", 1)
    head = history.lane_head("up", "live")
    await history.close()
    for _ in range(2):  # parted with twice before it could be told
        history = await open_history(tmp_path, uplinks=("other",))
        await history.forget("up")
        await history.close()
        history = await open_history(tmp_path)
        await history.close()
    history = await open_history(tmp_path)
    try:
        lane = Lane("up", "live", SampleLane(history, "up", "live"))
        (out,) = await lane.next(10, utc_ns=1)
        assert out.item == GapItem(2, head, "shed", 1)
        history.set_lane("up", "live")
        await second(history, 9)
        first, *rest = await lane.next(10, utc_ns=1)
        assert first.item == GapItem(2, head, "shed", 1)
        assert [out.item.seq for out in rest] == [head + 1, head + 2]
        lane.done(first.item)
        await lane.save()
        assert await history.cursor("up", "live") == head
    finally:
        await history.close()


async def test_cursors_move_forward_and_drop_what_is_done(history: History, tmp_path: Path) -> None:
    for at in range(6):
        history.set_lane("up", "live" if at % 2 else "backfill")
        await second(history, at)
    for lane in LANES:
        await history.move_cursor("up", lane, 5)
        with pytest.raises(ValueError, match="cursor"):
            await history.move_cursor("up", lane, 4)
        with pytest.raises(ValueError, match="cursor"):
            await history.move_cursor("up", lane, 7)
    assert await history.cursor("up", "live") == 5
    assert [item.seq for item in await history.items("up", "live", 5, 9)] == [6]
    await history.pack()
    await history.close()
    with sqlite3.connect(tmp_path / "history.db") as connection:
        ranges = connection.execute(
            "SELECT lane, first_seq FROM lane_range WHERE uplink = 'up'"
        ).fetchall()
        ranges += connection.execute(
            "SELECT first_seq FROM message_range WHERE uplink = 'up'"
        ).fetchall()
    connection.close()
    assert ranges == [("live", 5), (5,)]  # the newest of each lane keeps the numbers
    again = await open_history(tmp_path)
    try:
        assert await again.cursor("up", "live") == 5
        assert (again.lane_head("up", "live"), again.lane_head("up", "backfill")) == (6, 6)
    finally:
        await again.close()


@pytest.mark.parametrize("chunk_samples", [CHUNK_SAMPLES, 9])
async def test_packing_changes_no_message(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_samples: int
) -> None:
    monkeypatch.setattr("gateway.store.chunks.CHUNK_SAMPLES", chunk_samples)
    rng = random.Random(7)
    for at in range(60):
        history.set_lane("up", rng.choice(LANES))
        await second(history, at, value=rng.random())
    before = {lane: await history.items("up", lane, 0, 1000) for lane in LANES}
    series = await history.read("b", 0, 10**12)
    assert len(series) == 120
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 50)
    await pack_everything(history)
    after = {lane: await history.items("up", lane, 0, 1000) for lane in LANES}
    assert after["live"] == before["live"]
    assert after["backfill"][: len(before["backfill"])] == before["backfill"]
    assert len(points(after["live"] + after["backfill"])) == 60 * 7
    one_by_one = [
        item
        for seq in range(len(after["backfill"]))
        for item in await history.items("up", "backfill", seq, 1)
    ]
    assert one_by_one == after["backfill"]
    with contextlib.closing(sqlite3.connect(tmp_path / "history.db")) as database:
        sizes = [n for (n,) in database.execute("SELECT n FROM chunk")]
    assert max(sizes) <= chunk_samples
    assert await history.read("b", 0, 10**12) == series
    assert (
        await history.read("b", 10**10, 2 * 10**10, limit=3)
        == [item for item in series if item[0] >= 10**10][:3]
    )
    assert await history.read("nothing", 0, 10**12) == []
    await history.close()
    again = await open_history(tmp_path)
    try:
        assert {lane: await again.items("up", lane, 0, 1000) for lane in LANES} == after
        head = again.lane_head("up", "live")
        await again.move_cursor("up", "live", head)
        await second(again, 100)
        await pack_everything(again)
        assert await again.items("up", "live", 0, 1000) == []  # what is packed is kept once
        assert len(await again.read("b", 0, 10**12)) == 122
    finally:
        await again.close()


async def test_a_wrong_clock_of_a_device_shortens_no_window(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.set_lane("up", "live")
    history.set_lane("other", "live")
    history._state.utc_ns = lambda: 10**19
    for at in range(5):
        await second(history, at)
    assert await history.pack() == 0
    monkeypatch.setattr(packing, "WINDOW_NS", 0)
    assert await history.pack() == 10


async def test_what_an_uplink_missed_is_packed_when_it_is_back(history: History) -> None:
    for at in range(10):
        await second(history, at)
    history.set_lane("up", "live")
    await second(history, 10)
    missed = await history.items("up", "backfill", 0, 100)
    assert {t // 10**9 for _, t, _, _ in points(missed)} == set(range(10))
    assert {t // 10**9 for _, t, _, _ in points(await history.items("up", "live", 0, 100))} == {10}


async def test_a_flapping_link_costs_a_window_in_ten_commits(history: History) -> None:
    for at in range(200):
        history.set_lane("up", LANES[at % 2])
        await second(history, at)
    windows = {chunk[:2] for chunk in await chunks(history)}
    assert len(windows) <= 2 * (8 + 200 // 10)
    history.set_lane("up", "backfill")
    await second(history, 200)
    await pack_everything(history)
    sent = [item for lane in LANES for item in await history.items("up", lane, 0, 1000)]
    found = points(sent)
    assert len(found) == len(set(found)) == 201 * 7


async def chunks(history: History) -> list[tuple[int, int, int]]:
    """(first piece, last piece, messages) of each chunk."""

    async def body(connection: Connection) -> Any:
        sql = "SELECT first_piece, last_piece, messages FROM chunk ORDER BY id"
        return list(await connection.execute_fetchall(sql))

    return await history._db.query(body)


async def test_what_every_uplink_got_live_is_packed_without_messages(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 70)
    for uplink in ("up", "other"):
        history.set_lane(uplink, "live")
    for at in range(20):
        await second(history, at)
    assert await history.pack() == 40
    assert [messages for _, _, messages in await chunks(history)] == [0, 0] * 2
    assert len(await history.items("up", "live", 0, 100)) == 40  # owed until it is acknowledged


async def test_a_damaged_chunk_is_left_out_and_counted(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 70)
    for at in range(60):
        await second(history, at)
    await history.pack()
    await history.close()
    with sqlite3.connect(tmp_path / "history.db") as connection:
        connection.execute(
            "UPDATE chunk SET body = zeroblob(length(body)) WHERE id = (SELECT min(id) FROM chunk)"
        )
    connection.close()
    again = await open_history(tmp_path)
    try:
        items = await again.items("up", "backfill", 0, 1000)
        assert len(points(items)) == 60 * 7 - 60
        assert again.stats().dropped["damaged"] == 60
        assert len(await again.read("a", 0, 10**12)) == 100
    finally:
        await again.close()


async def test_damaged_pieces_are_packed_beside_the_others(history: History) -> None:
    for at in range(10):
        await second(history, at)

    async def damage(connection: Connection) -> None:
        await connection.execute_fetchall(
            "UPDATE tail SET body = zeroblob(length(body)) WHERE piece = 5"
        )

    await history._db.transact(damage)
    await history.pack()
    assert len(points(await history.items("up", "backfill", 0, 1000))) == 70 - 6
    assert history.stats().dropped["damaged"] == 6


async def test_the_rings_position_moves_with_the_rows(history: History, tmp_path: Path) -> None:
    assert await history.sample_position(JOURNAL) is None
    await second(history, 3)
    assert await history.sample_position(JOURNAL) == 21
    assert await history.sample_position(5) is None
    assert await history.commit((JOURNAL, 99)) == 0  # nothing of it belongs to us
    await history.close()
    again = await open_history(tmp_path)
    try:
        assert await again.sample_position(JOURNAL) == 21
    finally:
        await again.close()


async def test_old_samples_go_when_every_uplink_has_them(tmp_path: Path) -> None:
    now = 1_000 * 10**9
    history = await open_history(
        tmp_path, uplinks=("up",), max_age_ns=100 * 10**9, utc_ns=lambda: now
    )
    try:
        for at in (10, 20, 990):
            await second(history, at)
            await pack_everything(history)
        assert (await history.shed()).pieces == 0  # owed: only the size lets it go
        await history.move_cursor("up", "backfill", 2)
        shed = await history.shed()
        assert shed == Shed(2, 7, 0)
        await pack_everything(history)
        await history.move_cursor("up", "backfill", history.lane_head("up", "backfill"))
        now += 200 * 10**9
        assert await history.shed() == Shed(4, 14, 0)
        assert await history.items("up", "backfill", 0, 10) == []
        before = history.lane_head("up", "backfill")
        await second(history, 1_200)
        await pack_everything(history)
        items = await history.items("up", "backfill", 0, 10)
        assert [item.seq for item in items] == [before + 1, before + 2]
    finally:
        await history.close()


async def test_a_clock_that_leaps_ahead_for_a_while_makes_nothing_old(tmp_path: Path) -> None:
    now = 1_000 * 10**9
    history = await open_history(tmp_path, uplinks=(), max_age_ns=7 * DAY_NS, utc_ns=lambda: now)
    try:
        await second(history, 990)
        await pack_everything(history)
        await history.shed()
        begun = now
        for leap_days in (400, 400, 0):
            now = begun + leap_days * DAY_NS
            assert await history.shed() == Shed()
        now = begun + 400 * DAY_NS
        assert await history.shed() == Shed(), "it has leapt only now"
        passed = history._state.monotonic_ns() + DAY_NS
        history._state.monotonic_ns = lambda: passed
        assert (await history.shed()).samples == 7, "it has lasted"
    finally:
        await history.close()


async def test_a_restart_follows_no_leap_and_counts_how_long_it_lasts(tmp_path: Path) -> None:
    """The samples stamped by the clock that has leapt are the newest there are."""
    right = now = 1_000 * 10**9
    monotonic = 5 * 10**9

    async def opened() -> History:
        history = await open_history(
            tmp_path, uplinks=(), max_age_ns=7 * DAY_NS, utc_ns=lambda: now
        )
        history._state.monotonic_ns = lambda: monotonic
        return history

    history = await opened()
    await second(history, 990)
    await pack_everything(history)
    assert await history.shed() == Shed()
    now = right + 4_000 * DAY_NS
    await second(history, now // 10**9)
    assert await history.shed() == Shed()
    for _ in range(3):
        await history.close()
        history = await opened()
        assert await history.shed() == Shed(), "what has lasted is not yet a day"
        monotonic += DAY_NS // 3
        shed = await history.shed()
    assert shed.samples == 7, "it has lasted, by parts"
    await history.close()


async def test_a_clock_that_begins_behind_does_not_keep_samples_for_ever(tmp_path: Path) -> None:
    """A machine without a clock of its own, which is switched on for eight hours a day."""
    right = 20_000 * DAY_NS
    now, monotonic, shed = right, 0, 0

    def utc_ns() -> int:
        return now

    def monotonic_ns() -> int:
        return monotonic

    for day in range(12):
        now = 0
        history = await open_history(tmp_path, uplinks=(), max_age_ns=7 * DAY_NS, utc_ns=utc_ns)
        history._state.monotonic_ns = monotonic_ns
        assert await history.shed() == Shed(), "in 1970"
        monotonic += 60 * 10**9
        now = right + day * DAY_NS
        await second(history, now // 10**9)
        await pack_everything(history)
        shed += (await history.shed()).samples
        for hour in range(1, 9):
            now, monotonic = right + day * DAY_NS + hour * DAY_NS // 24, monotonic + DAY_NS // 24
            shed += (await history.shed()).samples
        await history.close()
    assert shed, "the oldest"
    assert shed < 12 * 7 - 7 * 7, "and of those that are not old none"


async def test_a_clock_that_is_put_back_makes_nothing_old(tmp_path: Path) -> None:
    now = 9_000 * DAY_NS
    history = await open_history(tmp_path, uplinks=(), max_age_ns=7 * DAY_NS, utc_ns=lambda: now)
    try:
        await second(history, now // 10**9)
        assert await history.shed() == Shed()
        now -= 4_000 * DAY_NS  # it was wrong before
        await second(history, now // 10**9)
        await pack_everything(history)
        assert await history.shed() == Shed()
    finally:
        await history.close()


@pytest.mark.parametrize("packed", [True, False])
async def test_what_is_shed_unsent_is_a_gap_and_is_counted(tmp_path: Path, packed: bool) -> None:
    history = await open_history(tmp_path)
    try:
        history.set_lane("other", "live")
        for at in range(5):
            await second(history, at)
        if packed:
            await pack_everything(history)
        then = await history._db.transact(history._state.make_room)
        assert then is not None
        then()
        head = history.lane_head("up", "backfill")
        assert head == (2 if packed else 10)
        stats = history.stats()
        assert (stats.shed_pieces, stats.shed_samples) == (10, 35)
        assert stats.shed_unsent == {("up", "backfill"): head, ("other", "live"): 10}
        await second(history, 5)
        await pack_everything(history)
        assert await history.items("other", "live", 0, 1) == (
            await history.items("other", "live", 10, 1)
        )
        (item, *_) = await history.items("up", "backfill", 0, 10)
        assert item.seq == head + 1
    finally:
        await history.close()
    again = await open_history(tmp_path)
    try:
        assert again.stats().shed_unsent == stats.shed_unsent
        assert again.stats().shed_samples == 35
    finally:
        await again.close()


async def test_groups_of_another_site_file_stay_readable(history: History, tmp_path: Path) -> None:
    await second(history, 1)
    await history.close()
    changed = (PollGroup("plc/50ms", ("c", "x"), (0, 1)),)
    again = await open_history(tmp_path, groups=changed)
    try:
        again.add(samples_of([(0, 7.0, 2_000), (1, 8.0, 2_000)]))
        await again.commit()
        await again.pack()
        items = await again.items("up", "backfill", 0, 10)
        assert [list(item.tags) for item in items] == [["a", "b", "c"], ["d"], ["c", "x"]]
        assert [value for _, value, _ in await again.read("c", 0, 10**12)] == [1.0, 1.0, 7.0]
    finally:
        await again.close()


async def test_samples_of_no_group_are_counted(history: History) -> None:
    assert history.add(samples_of([(0, 1.0, 1), (99, 1.0, 1)])) == 1
    assert history.stats().dropped["no_group"] == 1


async def test_a_commit_whose_caller_goes_away_is_made_once(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job goes on: until it is over its pieces neither go nor wait for another commit."""
    runs, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_connection: Connection) -> None:
        runs.set()
        await go_on.wait()

    held = asyncio.create_task(history._db.query(hold))
    await runs.wait()
    commit = asyncio.create_task(second(history, 0))
    while history._db._queue.empty():  # noqa: ASYNC110
        await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    monkeypatch.setattr(waiting, "BYTES_MAX", 1)  # whatever is collected now drops the oldest
    history.add(samples_of([(0, 2.0, 5_000)]))
    after = asyncio.create_task(history.commit())
    for _ in range(5):
        await asyncio.sleep(0)
    monkeypatch.setattr(waiting, "BYTES_MAX", 10**6)
    go_on.set()
    await asyncio.gather(held, after)
    stats = history.stats()
    assert (stats.samples, stats.waiting_pieces, stats.dropped["store"]) == (8, 0, 0)


async def test_a_position_is_that_of_the_samples_before_it(history: History) -> None:
    """Those that come while a commit begins are not in it: they are read again from there."""
    history.add(samples_of([(0, 1.0, 1_000)]))
    commit = asyncio.create_task(history.commit((JOURNAL, 1)))
    await asyncio.sleep(0)
    history.add(samples_of([(0, 2.0, 2_000)]))
    await commit
    assert history.stats().samples == 1
    assert await history.sample_position(JOURNAL) == 1
    await history.commit((JOURNAL, 2))
    assert history.stats().samples == 2
