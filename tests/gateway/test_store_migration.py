"""Files of older versions are brought forward whole, or left as they are; newer are refused."""

import asyncio
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiosqlite import Connection

from gateway.store import migration
from gateway.store.ledger_state import LedgerState
from gateway.store.migration import Step, copies, statements
from gateway.store.sqlite_file import (
    DamagedError,
    NewerError,
    Schema,
    close_file,
    open_file,
    value_of,
)

MIB = 1024 * 1024
OLD = Path(__file__).parent.parent / "stores" / "ledger-v1.db"

_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.store import migration
from tests.gateway.test_store_migration import schema_of, open_file
async def code(connection):
    await connection.execute_fetchall("DELETE FROM alert")
    if sys.argv[2] == "step":
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "copy":
    migration._adopt = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(open_file(Path(sys.argv[1]), schema_of(code), fresh=False))
"""


async def renamed(connection: Connection) -> None:
    await connection.execute_fetchall("UPDATE meta SET value = 'pit' WHERE key = 'gateway'")


async def failing(connection: Connection) -> None:
    await renamed(connection)
    await connection.execute_fetchall("INSERT INTO nothing VALUES (1)")


def schema_of(*codes: "migration.Code") -> Schema:
    """Of the ledger, some versions on."""
    steps = tuple(Step(version, code=code) for version, code in enumerate(codes, 2))
    return Schema("ledger", LedgerState.schema.application_id, len(codes) + 1, steps)


def content(path: Path) -> list[str]:
    options = "immutable=1" if path == OLD else "mode=ro"  # beside OLD no file may appear
    connection = sqlite3.connect(f"{path.as_uri()}?{options}", uri=True)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return [f"-- {version}", *connection.iterdump()]
    finally:
        connection.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of version 1 that was not closed: half of it is in the -wal."""
    path = tmp_path / "ledger.db"
    live = tmp_path / "live"
    live.mkdir()
    shutil.copy(OLD, live / "ledger.db")
    connection = sqlite3.connect(live / "ledger.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("UPDATE cursor SET seq = 31 WHERE uplink = 'platform'")
    for part in live.iterdir():
        shutil.copy(part, tmp_path / part.name)
    connection.close()
    shutil.rmtree(live)
    assert path.with_name("ledger.db-wal").stat().st_size
    return path


async def test_steps_run_in_order_and_a_copy_of_before_is_kept(old: Path) -> None:
    async def doubled(connection: Connection) -> None:
        gateway = await value_of(connection, "SELECT value FROM meta WHERE key = 'gateway'")
        await connection.execute_fetchall("UPDATE meta SET value = ? || ?", (gateway, gateway))

    connection = await open_file(old, schema_of(renamed, doubled), fresh=False)
    try:
        assert await value_of(connection, "SELECT value FROM meta") == "pitpit"
        assert await value_of(connection, "PRAGMA user_version") == 3
        assert await value_of(connection, "PRAGMA foreign_keys") == 1
    finally:
        await close_file(connection)
    (copy,) = copies(old)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    changed = "'platform','alert',1790000000123456789,{}"
    assert content(copy) == [
        line.replace(changed.format(30), changed.format(31)) for line in content(OLD)
    ]
    assert not list(old.parent.glob("*.making"))


@pytest.mark.parametrize("moment", ["copy", "step"])
async def test_a_kill_leaves_the_old_version_and_the_next_start_brings_it_forward(
    old: Path, moment: str
) -> None:
    command = [sys.executable, "-c", _KILLED, str(old), moment]
    child = await asyncio.to_thread(subprocess.run, command, check=False)
    assert child.returncode == -signal.SIGKILL
    before = content(old)
    assert before[0] == "-- 1"
    assert any('INTO "alert"' in line for line in before)
    connection = await open_file(old, schema_of(renamed), fresh=False)
    await close_file(connection)
    after = content(old)
    assert after[0] == "-- 2"
    assert sorted(set(before) - set(after)) == [
        "-- 1", "INSERT INTO \"meta\" VALUES('gateway','shaft');"
    ]  # fmt: skip
    assert len(copies(old)) == 1
    assert not list(old.parent.glob("*.making"))


async def test_a_step_that_fails_leaves_the_old_version(old: Path) -> None:
    before = content(old)
    with pytest.raises(sqlite3.OperationalError, match="nothing"):
        await open_file(old, schema_of(renamed, failing), fresh=False)
    assert content(old) == before


async def test_a_way_with_a_hole_is_damage(old: Path) -> None:
    schema = Schema("ledger", LedgerState.schema.application_id, 3, (Step(3, code=renamed),))
    with pytest.raises(DamagedError, match="no way from schema 1 to 3"):
        await open_file(old, schema, fresh=False)


async def test_without_room_for_a_copy_it_goes_on_without(
    old: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(migration, "SPARE_BYTES", 1 << 60)
    connection = await open_file(old, schema_of(renamed), fresh=False)
    await close_file(connection)
    assert content(old)[0] == "-- 2"
    assert not copies(old)
    assert "there was no room for a copy" in caplog.text


async def test_the_half_copy_of_a_start_that_was_killed_takes_no_room(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = old.with_name("ledger.db.schema-1.making")
    making.write_bytes(bytes(MIB))

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=migration.SPARE_BYTES + (0 if making.exists() else MIB))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    await close_file(await open_file(old, schema_of(renamed), fresh=False))
    assert len(copies(old)) == 1


async def test_old_copies_are_bounded(old: Path) -> None:
    for version in range(3):
        old.with_name(f"ledger.db.schema-{version + 10}").write_bytes(b"")
    connection = await open_file(old, schema_of(renamed), fresh=False)
    await close_file(connection)
    assert len(copies(old)) == migration.COPIES_MAX
    assert old.with_name("ledger.db.schema-1") in copies(old)


async def test_a_newer_file_is_refused_with_what_to_do_and_left_alone(old: Path) -> None:
    connection = sqlite3.connect(old)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    before = content(old)
    with pytest.raises(NewerError) as caught:
        await open_file(old, LedgerState.schema, fresh=False)
    text = str(caught.value)
    for word in ("ledger.db", str(old.parent), "found schema 9", "expected", "--state-dir"):
        assert word in text
    assert content(old) == before


def test_a_script_is_taken_statement_by_statement() -> None:
    table, trigger = "-- a; b\nCREATE TABLE x (y);\n", "CREATE TRIGGER t AFTER INSERT ON x BEGIN\n"
    trigger += "DELETE FROM x;\nEND;\n"
    assert list(statements(table + trigger + "SELECT ';'")) == [table, trigger, "SELECT ';'"]
