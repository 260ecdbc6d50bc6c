"""A history of schema 1, made by the code of its time, brought forward: nothing owed changes."""

import json
import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store.history import History
from gateway.store.items import PollGroup, SampleItem
from gateway.store.migration import copies
from tests.gateway.samples import samples_of

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
