"""The power goes while a database is being made: at whatever moment, the next start begins it."""

import asyncio
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from tests.helpers.disk import Disk, Recorded

CUTS = 2  # of each moment
_SCRIPT = """
import asyncio, sys
from pathlib import Path
from tests.gateway.test_store_making import STORES

async def make():
    name, make = STORES[sys.argv[1]]
    store = await make(Path(sys.argv[2]) / name)
    await store.close()

asyncio.run(make())
"""


async def _ledger(path: Path) -> Ledger:
    return await Ledger.open(path, "shaft", reserve_bytes=0)


async def _history(path: Path) -> History:
    return await History.open(path, groups=[PollGroup("plc/1s", ("a",), (0,))], reserve_bytes=0)


Make = Callable[[Path], Coroutine[Any, Any, "Ledger | History"]]
STORES: dict[str, tuple[str, Make]] = {
    "ledger": ("ledger.db", _ledger),
    "history": ("history.db", _history),
}


@pytest.mark.parametrize("store", STORES)
async def test_a_file_whose_making_was_cut_short_is_begun_again(tmp_path: Path, store: str) -> None:
    root = tmp_path / "state"
    root.mkdir()
    disk, chance = Disk(root), random.Random(7)
    name, make = STORES[store]
    with Recorded(tmp_path, root) as recorded:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SCRIPT, store, str(root)),
            env={**os.environ, **recorded.environment},
        )
        assert await child.wait() == 0
        records = recorded.news()
    hot = 0
    for moment, record in enumerate(records):
        for cut in range(CUTS):
            left = tmp_path / f"left-{moment}-{cut}"
            disk.cut(left, chance)
            hot += (left / f"{name}-journal").exists()
            await (await make(left / name)).close()
            assert not [path.name for path in left.glob("*damaged-*")], (moment, cut)
        disk.play(record)
    assert hot > len(records) // 20, f"{hot} of {len(records)}: none was cut with a journal"


async def test_a_disk_that_takes_no_writes_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite opens what it may not open for writing to read it; such an error gets better."""
    path = tmp_path / "ledger.db"
    await (await _ledger(path)).close()
    connect = sqlite3.connect

    def reading(_: object, **options: Any) -> sqlite3.Connection:
        found: sqlite3.Connection = connect(f"{path.as_uri()}?mode=ro", **{**options, "uri": True})
        return found

    monkeypatch.setattr(sqlite3, "connect", reading)
    ledger = await _ledger(path)
    assert ledger.head == 0, "nothing can be read or appended"
    await ledger.close()
    monkeypatch.undo()
    ledger = await _ledger(path)
    assert ledger.head == 1
    await ledger.close()
    assert not list(tmp_path.glob("*damaged-*"))


async def test_a_file_of_a_newer_sqlite_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await (await _ledger(path)).close()
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
    await (await _ledger(path)).close()
    assert list(tmp_path.glob("*damaged-*"))
