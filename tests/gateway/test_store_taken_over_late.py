"""A damaged file is set aside, and the new one fails before its first commit: it is salvaged."""

import json
import sqlite3
from pathlib import Path

import pytest
from aiosqlite import Connection

from gateway.store import owned_file
from gateway.store.alert import AlertDraft, Source
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from gateway.store.owner import Opened
from gateway.store.reserve import Mark
from tests.gateway.samples import samples_of

COUNT = 8
GROUP = PollGroup("plc/1s", ("a",), (0,))


async def open_ledger(directory: Path) -> Ledger:
    return await Ledger.open(directory / "ledger.db", "shaft", uplinks=("up",), reserve_bytes=0)


async def open_history(directory: Path) -> History:
    path = directory / "history.db"
    return await History.open(path, groups=[GROUP], uplinks=("up",), reserve_bytes=0)


async def damaged_ledger(directory: Path) -> None:
    ledger = await open_ledger(directory)
    source = Source("interlock", "face")
    drafts = [AlertDraft(kind="trip", state="event", source=source, cause=str(i)) for i in range(8)]
    await ledger.append(drafts)
    await ledger.close()
    behind(directory / "ledger.db")


async def damaged_history(directory: Path) -> None:
    history = await open_history(directory)
    for at in range(COUNT):
        history.add(samples_of([(0, 1.0, at * 1_000)]))
    await history.commit()
    await history.close()
    behind(directory / "history.db")


LOAD = owned_file.OwnedFile._load


async def full(file: owned_file.OwnedFile, connection: Connection, found: Opened) -> None:
    """A disk that takes nothing of what is salvaged."""
    if found.aside is None:
        return await LOAD(file, connection, found)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    raise error


def behind(path: Path) -> None:
    """Its mark says that commits are missing: it is set aside."""
    mark = Mark(path.with_name(f"{path.name}.mark"))
    mark.write(mark.read()[0], 100_000)
    mark.close()


async def check_ledger(directory: Path) -> None:
    ledger = await open_ledger(directory)
    try:
        alerts = [json.loads(item.body) for item in await ledger.alerts(0, 1_000)]
        assert [alert["cause"] for alert in alerts if alert["kind"] == "trip"] == list("01234567")
    finally:
        await ledger.close()


async def check_history(directory: Path) -> None:
    history = await open_history(directory)
    try:
        assert len(await history.read("a", 0, 2**62)) == COUNT
        assert f"{COUNT} of {COUNT} samples" in history.take_damage()
        assert history.begun_anew
    finally:
        await history.close()
    again = await open_history(directory)
    assert not again.take_damage()
    assert not again.begun_anew
    await again.close()


STORES = {"ledger": (damaged_ledger, check_ledger), "history": (damaged_history, check_history)}


@pytest.mark.parametrize("left", ["nothing", "a header", "tables"])
@pytest.mark.parametrize("name", STORES)
async def test_a_start_after_the_one_that_set_it_aside(
    tmp_path: Path, name: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill, check = STORES[name]
    await fill(tmp_path)
    path = tmp_path / f"{name}.db"
    with monkeypatch.context() as patch:
        patch.setattr(owned_file.OwnedFile, "_load", full)
        store = await (open_ledger(tmp_path) if name == "ledger" else open_history(tmp_path))
        assert not store.ok
        await store.close()
    assert len(list(tmp_path.glob("*.damaged-*[0-9]"))) == 1
    if left != "tables":
        for part in tmp_path.glob(f"{name}.db*"):
            if part.name in {path.name, f"{path.name}-wal", f"{path.name}-shm"}:
                part.unlink()
    if left == "a header":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    await check(tmp_path)
