"""Cursors while the file that they belong to is replaced: what was salvaged is still owed."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiosqlite import Connection

from gateway.errors import StoreError
from gateway.store.alert import AlertDraft, Source
from gateway.store.database import Database
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from gateway.store.owned_file import OwnedFile
from gateway.uplink.lane import Lane
from gateway.uplink.lane_source import AlertLane, LaneSource, SampleLane
from tests.gateway.samples import samples_of

COUNT = 8
SENT = 4
GROUP = PollGroup("plc/1s", ("a",), (0,))


async def filled_ledger(directory: Path) -> tuple[Ledger, LaneSource]:
    ledger = await Ledger.open(directory / "ledger.db", "shaft", uplinks=("up",), reserve_bytes=0)
    source = Source("interlock", "face")
    drafts = [AlertDraft(kind="trip", state="event", source=source, cause=str(i)) for i in range(8)]
    await ledger.append(drafts)
    return ledger, AlertLane(ledger, "up")


async def filled_history(directory: Path) -> tuple[History, LaneSource]:
    history = await History.open(
        directory / "history.db", groups=[GROUP], uplinks=("up",), reserve_bytes=0
    )
    history.set_lane("up", "live")
    for at in range(COUNT):
        history.add(samples_of([(0, 1.0, at * 1_000)]))
        await history.commit()
    return history, SampleLane(history, "up", "live")


@pytest_asyncio.fixture(params=[filled_ledger, filled_history])
async def store(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, LaneSource]]:
    made, source = await request.param(tmp_path)
    yield made._db, source
    await made.close()


async def damaged(_connection: Connection) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorname = "SQLITE_CORRUPT"
    raise error


async def failing(*_: object) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_READ"
    raise error


def once(body: Callable[[Connection], object]) -> Callable[[Connection], object]:
    """A job that fails with its first run."""
    runs: list[int] = []

    async def run(connection: Connection) -> None:
        runs.append(1)
        if len(runs) == 1:
            await body(connection)  # type: ignore[misc]

    return run


@pytest.mark.parametrize("closed", [False, True])
async def test_a_cursor_is_not_taken_into_the_epoch_after_it(
    store: tuple[Database, LaneSource], monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """The file is replaced after the lane has asked for the epoch."""
    database, source = store
    lane = Lane("up", "x", source)
    for out in await lane.next(SENT, utc_ns=0):
        lane.done(out.item)
    epoch = source.epoch()
    assert lane.cursor == SENT
    transact = database.transact
    query = database.query

    async def replaced_before(*args: object) -> object:
        monkeypatch.undo()
        await query(once(damaged))  # type: ignore[arg-type]
        return await (query if closed else transact)(*args)  # type: ignore[arg-type]

    if closed:
        monkeypatch.setattr(database, "_trouble", "it was closed")
    monkeypatch.setattr(database, "query" if closed else "transact", replaced_before)
    await lane.save()
    assert source.epoch() > epoch
    assert await source.load() == 0
    with pytest.raises(StoreError, match="is over"):
        await source.save(1, epoch)
    await lane.save()
    await lane.follow()
    assert lane.cursor == 0
    assert len(await lane.next(100, utc_ns=0)) >= COUNT - 1
    await source.save(2, source.epoch())
    assert await source.load() == 2


async def test_no_item_leaves_with_the_epoch_before_it(
    store: tuple[Database, LaneSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very read of the items finds the damage; they are those of the new file then."""
    database, source = store
    lane = Lane("up", "x", source)
    for out in await lane.next(SENT, utc_ns=0):
        lane.done(out.item)
    epoch, query = source.epoch(), database.query

    async def replaced_before(body: Callable[[Connection], object]) -> object:
        monkeypatch.undo()
        await query(once(damaged))  # type: ignore[arg-type]
        return await query(body)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "query", replaced_before)
    outs = await lane.next(100, utc_ns=0)
    assert source.epoch() > epoch
    assert {out.epoch for out in outs} == {source.epoch()}
    assert [out.item.seq for out in outs] == list(range(1, len(outs) + 1))
    assert len(outs) >= COUNT - 1


async def test_an_uplink_begins_with_the_cursor_of_a_file_that_was_not_open_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, source = await filled_ledger(tmp_path)
    await source.save(3, source.epoch())
    await ledger.close()
    with monkeypatch.context() as patch:
        patch.setattr(OwnedFile, "_open", failing)
        again = await Ledger.open(tmp_path / "ledger.db", "shaft", uplinks=("up",), reserve_bytes=0)
        assert not again.ok
    try:
        again._db._file.retry(0)
        await again.cursors.begin(("up", "new"))
        assert again.cursors.owed() == {"up": again.head - 3, "new": again.head}
    finally:
        await again.close()
