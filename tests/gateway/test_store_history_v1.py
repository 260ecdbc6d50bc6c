"""A history of schema 1, made by the code of its time, brought forward: nothing owed changes."""

import asyncio
import json
import math
import random
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import StoreError
from gateway.store import database, migration, owned_file
from gateway.store.history import History
from gateway.store.items import PollGroup, SampleItem
from gateway.store.migration import copies
from gateway.store.sqlite_file import open_file
from gateway.store.waiting import Waiting
from tests.gateway.samples import samples_of
from tests.helpers.small_disk import small_disk

OLD = Path(__file__).parent.parent / "stores" / "history-v1.db"
GROUPS = (PollGroup("plc/50ms", ("a", "b", "c"), (0, 1, 2)), PollGroup("slow/1s", ("d",), (3,)))
UPLINKS = ("up", "other", "idle")
LANES = ("live", "backfill")
JOURNAL = 2**64 - 3
MS = 1_000_000


@pytest.fixture
def known() -> Any:
    """What the code of schema 1 said of the file."""
    return json.loads(OLD.with_suffix(".json").read_text("utf-8"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLD, tmp_path / "history.db"))


async def opened(path: Path, **options: Any) -> History:
    options.setdefault("uplinks", UPLINKS)
    return await History.open(
        path, groups=GROUPS, reserve_bytes=0, utc_ns=lambda: 1_000 * 10**9, **options
    )


def plain(item: SampleItem) -> dict[str, Any]:
    return {
        "seq": item.seq,
        "t0_ns": item.t0_ns,
        "dt_ns": list(item.dt_ns),
        "tags": list(item.tags),
        "values": [[None if math.isnan(v) else v for v in column] for column in item.values],
        "qualities": [list(column) for column in item.qualities],
    }


async def test_what_is_owed_keeps_its_identity_and_content(path: Path, known: Any) -> None:
    history = await opened(path)
    try:
        assert history.epoch == known["epoch"]
        assert await history.sample_position(JOURNAL) == known["position"]
        stats = history.stats()
        assert (stats.pieces, stats.samples) == (known["rows"], known["samples"])
        for lane in LANES:
            for uplink in UPLINKS:
                owed = known["owed"][f"{uplink}/{lane}"]
                assert history.lane_head(uplink, lane) == owed["head"]
                assert await history.cursor(uplink, lane) == owed["cursor"]
                items = await history.items(uplink, lane, owed["cursor"], 1_000)
                assert [plain(item) for item in items] == owed["items"]
        assert (await history.items("up", "live", 30, 2))[0].seq == 31
    finally:
        await history.close()
    (copy,) = copies(path)
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("acknowledged", [False, True])
async def test_every_sample_is_still_there(path: Path, known: Any, acknowledged: bool) -> None:
    if acknowledged:  # then all of it is merged
        connection = sqlite3.connect(path)
        connection.execute("DELETE FROM cursor")
        for uplink in UPLINKS:
            for lane in LANES:
                head = known["owed"][f"{uplink}/{lane}"]["head"]
                cursor = (uplink, lane, known["epoch"], head)
                connection.execute("INSERT INTO cursor VALUES (?, ?, ?, ?)", cursor)
        connection.commit()
        connection.close()
    history = await opened(path)
    try:
        for tag, series in known["series"].items():
            found = [
                [t // MS * MS, None if math.isnan(v) else v, q]
                for t, v, q in await history.read(tag, 0, 2**62)
            ]
            assert found == [[t // MS * MS, v, q] for t, v, q in series]
    finally:
        await history.close()


async def test_it_goes_on_where_it_ended(path: Path, known: Any) -> None:
    history = await opened(path)
    try:
        history.set_lane("up", "live")
        for at in range(60, 70):
            history.add(samples_of([(tag, at / 8, at * 1000) for tag in range(3)]))
            await history.commit((JOURNAL, at * 11))
        heads = {lane: known["owed"][f"up/{lane}"]["head"] for lane in LANES}
        assert history.lane_head("up", "live") == heads["live"] + 10
        live = await history.items("up", "live", heads["live"], 100)
        assert [item.seq - heads["live"] for item in live] == list(range(1, 11))
        for uplink in UPLINKS:
            for lane in LANES:
                await history.move_cursor(uplink, lane, history.lane_head(uplink, lane))
        await history.pack()
        after = known["owed"]["idle/backfill"]["head"]
        items = await history.items("idle", "backfill", after, 100)
        assert [item.seq for item in items] == [after + 1]
        assert [len(items[0].dt_ns), *items[0].tags] == [10, "a", "b", "c"]
    finally:
        await history.close()


async def test_the_schema_is_that_of_a_new_file(path: Path, tmp_path: Path) -> None:
    schemas = []
    for name in (path, tmp_path / "new.db"):
        await (await opened(name)).close()
        connection = sqlite3.connect(name)
        schemas.append(
            connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").fetchall()
        )
        connection.close()
    assert schemas[0] == schemas[1]


async def test_a_start_does_not_wait_for_a_large_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought, whole = asyncio.Event(), open_file

    async def slow(*arguments: Any, **options: Any) -> Any:
        await brought.wait()
        return await whole(*arguments, **options)

    monkeypatch.setattr(owned_file, "open_file", slow)
    monkeypatch.setattr(database, "START_S", 0.05)
    history = await opened(path)
    try:
        assert not history.stats().ok
        assert "brought to this version" in history.stats().trouble
        history.add(samples_of([(0, 1.0, 10**7)]))
        commit = asyncio.create_task(history.commit((JOURNAL, 1)))
        await asyncio.sleep(0)
        assert not commit.done()
        brought.set()
        assert await commit == 1
        assert history.stats().ok
        assert history.stats().trouble == ""
    finally:
        await history.close()


def grow(path: Path, rows: int) -> None:
    """So many large rows before all others, packed, which ``idle`` is owed; the others move up."""
    connection = sqlite3.connect(path)
    for table, columns in (
        ("chunk", ("first_row", "last_row")),
        ("tail", ("row",)),
        ("lane_range", ("first_row", "last_row")),
        ("progress", ("next_row",)),
    ):
        for column in columns:  # by way of negative ones: they are keys
            connection.execute(f"UPDATE {table} SET {column} = -{column} - {rows}")  # noqa: S608
            connection.execute(f"UPDATE {table} SET {column} = -{column}")  # noqa: S608
    for ident, places in connection.execute("SELECT id, rows FROM chunk").fetchall():
        moved = [[row + rows, *rest] for row, *rest in msgspec.msgpack.decode(places)]
        connection.execute("UPDATE chunk SET rows = ? WHERE id = ?", (packed(moved), ident))
    connection.execute("UPDATE lane_range SET first_row = 1 WHERE uplink = 'idle'")
    noise = random.Random(1)
    waiting = Waiting(GROUPS)
    for row in range(1, rows + 1):
        waiting.add(samples_of([(0, noise.random(), row * 900 + at) for at in range(900)]))
        waiting.collect()
        (piece,) = waiting.oldest()
        waiting.stored(1)
        _, _, members, t_first, t_last, n, _, _, body = piece
        places = packed([[row, members, t_first, t_last, n, len(body)]])
        connection.execute(
            "INSERT INTO chunk (first_row, last_row, group_id, t_first, t_last, n, codec, crc32, "
            "rows, body) VALUES (?, ?, 1, ?, ?, ?, ?, 0, ?, ?)",
            (row, row, t_first, t_last, n, piece.codec, places, body),
        )
    for ident, places, body in connection.execute("SELECT id, rows, body FROM chunk").fetchall():
        crc = zlib.crc32(body, zlib.crc32(places))
        connection.execute("UPDATE chunk SET crc32 = ? WHERE id = ?", (crc, ident))
    connection.execute("UPDATE progress SET samples = samples + ?", (900 * rows,))
    connection.commit()
    connection.close()


def packed(places: list[Any]) -> bytes:
    return msgspec.msgpack.encode(places)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4 * 1024) as mounted:
        yield mounted


async def test_a_disk_without_room_for_twice_the_file_gets_the_newest(
    disk: Path, path: Path, known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "SPARE_BYTES", 256 * 1024)
    rows = 200
    grow(path, rows)
    path = Path(shutil.copy(path, disk / "history.db"))
    size, free = path.stat().st_size, shutil.disk_usage(disk).free
    assert free < 2 * size
    history = await opened(path)
    try:
        assert history.ok, history.stats().trouble
        assert "its oldest" in (told := history.take_damage())
        shed = history.stats().shed_pieces
        assert 0 < shed < rows
        assert f"{shed * 900} samples" in told
        assert history.stats().shed_unsent == {("idle", "backfill"): shed}
        items = await history.items("idle", "backfill", 0, 1_000)
        assert [item.seq for item in items] == list(range(shed + 1, rows + 81))
        assert [plain(item) for item in items[rows - shed :]] == [
            item | {"seq": item["seq"] + rows} for item in known["owed"]["idle/backfill"]["items"]
        ]
        assert len(await history.read("a", 0, 2**62)) > (rows - shed) * 900
        history.add(samples_of([(0, 1.0, 10**7)]))
        await history.commit((JOURNAL, 1))
        assert shutil.disk_usage(disk).free > 0
    finally:
        await history.close()
    again = await opened(path)
    assert not again.take_damage()
    await again.close()


def content(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


async def test_a_newer_one_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    before = content(path)
    with pytest.raises(StoreError, match="found schema 3, expected 2"):
        await opened(path)
    assert content(path) == before
    assert not list(path.parent.glob("*damaged*"))
