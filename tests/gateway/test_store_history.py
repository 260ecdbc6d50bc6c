"""The history: rows that never change, lanes without gaps, packing, positions, restarts."""

import math
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fastpath.codes import Quality, Reason
from fastpath.columns import ABSENT, quality_byte
from gateway.store import history as history_module
from gateway.store.history import History
from gateway.store.items import PollGroup, SampleItem
from tests.gateway.samples import samples_of

GROUPS = (PollGroup("plc/50ms", ("a", "b", "c"), (0, 1, 2)), PollGroup("slow/1s", ("d",), (3,)))
GOOD = quality_byte(Quality.GOOD, 0)
JOURNAL = 2**64 - 3
LANES = ("live", "backfill")


async def open_history(directory: Path, **options: Any) -> History:
    options.setdefault("groups", GROUPS)
    options.setdefault("uplinks", ("up", "other"))
    return await History.open(directory / "history.db", reserve_bytes=0, **options)


@pytest_asyncio.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    opened = await open_history(tmp_path)
    yield opened
    await opened.close()


async def second(history: History, at: int, *, value: float = 1.0) -> int:
    """One second of samples of both groups: two rows."""
    history.add(samples_of([(tag, value, at * 1000 + ms) for ms in (0, 500) for tag in range(3)]))
    history.add(samples_of([(3, -value, at * 1000)]))
    return await history.commit((JOURNAL, at * 7))


def points(items: list[SampleItem]) -> list[tuple[str, int, float, int]]:
    """(tag, time, value, quality) of every sample in the items."""
    return [
        (tag, item.t0_ns + dt, value, quality)
        for item in items
        for tag, values, qualities in zip(item.tags, item.values, item.qualities, strict=True)
        for dt, value, quality in zip(item.dt_ns, values, qualities, strict=True)
        if quality != ABSENT
    ]


async def test_rows_come_back_as_they_were_put_in(history: History) -> None:
    assert await second(history, 10, value=2.5) == 2
    items = await history.items("up", "backfill", 0, 10)
    assert [item.seq for item in items] == [1, 2]
    found = sorted(points(items))
    assert found[0] == ("a", 10_000_000_000, 2.5, GOOD)
    assert len(found) == 7
    assert found[-1] == ("d", 10_000_000_000, -2.5, GOOD)


async def test_a_row_names_only_the_tags_it_has(history: History) -> None:
    history.add(samples_of([(0, 1.0, 5), (2, 3.0, 5), (2, 4.0, 6)]))
    history.add(samples_of([(1, math.nan, 7)], quality=Quality.BAD, reason=Reason.STALE))
    await history.commit()
    (item,) = await history.items("up", "backfill", 0, 10)
    assert list(item.tags) == ["a", "b", "c"]
    history.add(samples_of([(0, 1.0, 8), (2, 3.0, 8)]))
    await history.commit()
    (item,) = await history.items("up", "backfill", 1, 10)
    assert list(item.tags) == ["a", "c"]
    assert item.qualities[0] == bytes([GOOD])


async def test_bad_samples_keep_their_reason(history: History) -> None:
    history.add(samples_of([(1, math.nan, 7)], quality=Quality.BAD, reason=Reason.STALE))
    await history.commit()
    ((tag, _, value, quality),) = points(await history.items("up", "backfill", 0, 10))
    assert (tag, quality) == ("b", quality_byte(Quality.BAD, Reason.STALE))
    assert math.isnan(value)


async def test_each_row_is_in_one_lane_of_each_uplink_for_ever(
    history: History, tmp_path: Path
) -> None:
    plan = ["backfill", "live", "live", "backfill", "backfill", "live"]
    for at, lane in enumerate(plan):
        history.set_lane("up", lane)
        await second(history, at)
    assert history.lane_head("up", "live") == 6
    assert history.lane_head("up", "backfill") == 6
    assert history.lane_head("other", "backfill") == 12
    assert history.lane_head("other", "live") == 0
    before = {lane: await history.items("up", lane, 0, 100) for lane in LANES}
    for lane, items in before.items():
        assert [item.seq for item in items] == [1, 2, 3, 4, 5, 6]
        assert [item.t0_ns // 10**9 for item in items if item.tags == ["d"]] == [
            at for at, own in enumerate(plan) if own == lane
        ]
    await history.close()
    again = await open_history(tmp_path)
    try:
        assert {lane: await again.items("up", lane, 0, 100) for lane in LANES} == before
        await second(again, 6)  # the lane is backfill until the link is up
        assert again.lane_head("up", "backfill") == 8
    finally:
        await again.close()


async def test_items_go_on_where_they_ended(history: History) -> None:
    for at in range(5):
        history.set_lane("up", "live" if at % 2 else "backfill")
        await second(history, at)
    seqs, after = [], 0
    while items := await history.items("up", "backfill", after, 4):
        seqs += [item.seq for item in items]
        after = items[-1].seq
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert await history.items("nobody", "live", 0, 4) == []


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
    await history.close()
    with sqlite3.connect(tmp_path / "history.db") as connection:
        (ranges,) = connection.execute(
            "SELECT count(*) FROM lane_range WHERE uplink = 'up'"
        ).fetchone()
    connection.close()
    assert ranges == 2  # the newest of each lane keeps the numbers
    again = await open_history(tmp_path)
    try:
        assert await again.cursor("up", "live") == 5
        assert (again.lane_head("up", "live"), again.lane_head("up", "backfill")) == (6, 6)
    finally:
        await again.close()


async def test_packing_changes_no_item(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "WINDOW_BYTES", 2_000)
    rng = random.Random(7)
    for at in range(60):
        history.set_lane("up", rng.choice(LANES))
        await second(history, at, value=rng.random())
    before = {lane: await history.items("up", lane, 0, 1000) for lane in LANES}
    series = await history.read("b", 0, 10**12)
    assert len(series) == 120
    packed = await history.pack()
    assert 0 < packed < 120
    assert {lane: await history.items("up", lane, 0, 1000) for lane in LANES} == before
    one_by_one = [
        item
        for seq in range(len(before["live"]))
        for item in await history.items("up", "live", seq, 1)
    ]
    assert one_by_one == before["live"]
    assert await history.read("b", 0, 10**12) == series
    assert (
        await history.read("b", 10**10, 2 * 10**10, limit=3)
        == [item for item in series if item[0] >= 10**10][:3]
    )
    assert await history.read("nothing", 0, 10**12) == []
    await history.close()
    again = await open_history(tmp_path)
    try:
        assert {lane: await again.items("up", lane, 0, 1000) for lane in LANES} == before
    finally:
        await again.close()


async def test_a_damaged_chunk_is_left_out_and_counted(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "WINDOW_BYTES", 2_000)
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
        assert 0 < len(items) < 120
        assert again.stats().dropped["damaged"] > 0
    finally:
        await again.close()


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


async def test_old_rows_go_when_every_uplink_has_them(tmp_path: Path) -> None:
    now = 1_000 * 10**9
    history = await open_history(
        tmp_path, uplinks=("up",), max_age_ns=100 * 10**9, utc_ns=lambda: now
    )
    try:
        for at in (10, 20, 990):
            await second(history, at)
        assert (await history.shed()).rows == 0  # owed: only the size lets it go
        await history.move_cursor("up", "backfill", 4)
        assert len(await history.items("up", "backfill", 0, 10)) == 6
        shed = await history.shed()
        assert (shed.rows, shed.unsent) == (0, 0)  # the tail goes in one piece with what is young
        await history.move_cursor("up", "backfill", 6)
        now += 200 * 10**9
        shed = await history.shed()
        assert (shed.rows, shed.samples, shed.unsent) == (6, 21, 0)
        assert await history.items("up", "backfill", 0, 10) == []
        await second(history, 1_200)
        assert [item.seq for item in await history.items("up", "backfill", 0, 10)] == [7, 8]
    finally:
        await history.close()


async def test_groups_of_another_site_file_stay_readable(history: History, tmp_path: Path) -> None:
    await second(history, 1)
    await history.close()
    changed = (PollGroup("plc/50ms", ("c", "x"), (0, 1)),)
    again = await open_history(tmp_path, groups=changed)
    try:
        again.add(samples_of([(0, 7.0, 2_000), (1, 8.0, 2_000)]))
        await again.commit()
        items = await again.items("up", "backfill", 0, 10)
        assert [list(item.tags) for item in items] == [["a", "b", "c"], ["d"], ["c", "x"]]
        assert [value for _, value, _ in await again.read("c", 0, 10**12)] == [1.0, 1.0, 7.0]
    finally:
        await again.close()


async def test_samples_of_no_group_are_counted(history: History) -> None:
    assert history.add(samples_of([(0, 1.0, 1), (99, 1.0, 1)])) == 1
    assert history.stats().dropped["no_group"] == 1
