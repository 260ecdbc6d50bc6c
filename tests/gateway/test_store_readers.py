"""Other processes that read a database while it is written: none checkpoints, nothing suffers."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store.alert import AlertDraft, Source
from gateway.store.ledger import Ledger
from tests.helpers.audits import audit_entries

READERS = 3
BATCHES = 150
READ = """
import sqlite3, sys
while True:
    database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    rows = database.execute("SELECT seq FROM alert ORDER BY seq").fetchall()
    assert [seq for seq, in rows] == list(range(1, len(rows) + 1)), rows
    database.close()
    print(len(rows), flush=True)
"""


@pytest.mark.timeout(60)
async def test_readers_beside_the_writer_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = await Ledger.open(path, "shaft", reserve_bytes=0)
    readers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", READ, str(path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(READERS)
    ]
    try:
        draft = AlertDraft(kind="trip", state="event", source=Source("interlock", "face"))
        for i in range(BATCHES):
            await ledger.append([draft] * 20)
            if i % 30 == 0:
                for reader in readers:
                    assert reader.stdout is not None
                    assert int(await reader.stdout.readline()) >= 1
        assert ledger.head == 20 * BATCHES + 1
        assert audit_entries(ledger) == 1
        uri = f"file:{path}?mode=ro"
        with (  # a copy by SQLite's own way, meanwhile
            closing(sqlite3.connect(uri, uri=True)) as database,
            closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
        ):
            database.backup(copy)
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert copy.execute("SELECT max(seq) FROM alert").fetchone() == (ledger.head,)
    finally:
        for reader in readers:
            reader.kill()
            await reader.wait()
        await ledger.close()
    assert not list(tmp_path.glob("*damaged*"))


def test_reading_leaves_the_wal_alone(tmp_path: Path) -> None:
    """What a command does on the machine: the writer alone brings the -wal into the database."""

    async def killed() -> None:
        ledger = await Ledger.open(tmp_path / "ledger.db", "shaft", reserve_bytes=0)
        for part in tmp_path.glob("ledger.db*"):  # as a kill leaves it
            (tmp_path / f"killed-{part.name}").write_bytes(part.read_bytes())
        await ledger.close()

    asyncio.run(killed())
    path = tmp_path / "killed-ledger.db"
    wal = Path(f"{path}-wal")
    before = path.read_bytes(), wal.read_bytes()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM alert").fetchone() == (1,)
    assert (path.read_bytes(), wal.read_bytes()) == before
