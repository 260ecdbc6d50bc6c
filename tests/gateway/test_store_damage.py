"""Databases that were damaged: set aside, begun anew, nothing to be deleted by hand."""

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store import file_parts, owned_file
from gateway.store.alert import AlertDraft, Source
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from gateway.store.reserve import Mark
from tests.gateway.samples import samples_of
from tests.helpers.audits import audit_entries
from tests.helpers.small_disk import small_disk

DAMAGES = 40
DAMAGES_CAMPAIGN = 1_000
ALERTS = 200
GROUP = PollGroup("plc/1s", ("a", "b"), (0, 1))
JOURNAL = 42


def draft(cause: str, **fields: Any) -> AlertDraft:
    return AlertDraft(
        kind="trip", state="event", source=Source("interlock", "face"), cause=cause, **fields
    )


async def open_ledger(directory: Path, **options: Any) -> Ledger:
    path = directory / "ledger.db"
    return await Ledger.open(path, "shaft", uplinks=("platform",), reserve_bytes=0, **options)


async def fill(directory: Path, *, delivered: int = 0) -> int:
    """A ledger that was in use, copied while it was open: as kill -9 leaves it. Its epoch."""
    live = directory / "live"
    live.mkdir()
    ledger = await open_ledger(live)
    for first in range(0, ALERTS, 20):
        batch = [draft(f"alert {i} " + "x" * 300, journal_seq=i) for i in range(first, first + 20)]
        await ledger.append(batch, journal=(JOURNAL, first + 20))
    raise_ = AlertDraft(
        kind="alarm", state="raised", source=Source("alarm", "a"), cause="up", subject="alarm:a"
    )
    await ledger.append([raise_])
    await ledger.command("uid 0", "reset", "face", {})
    if delivered:
        await ledger.move_cursor("platform", "alert", delivered)
    for part in live.glob("ledger.db*"):
        shutil.copy(part, directory / part.name)
    epoch = ledger.epoch
    await ledger.close()
    shutil.rmtree(live)
    return epoch


async def causes(ledger: Ledger) -> list[str]:
    return [json.loads(item.body)["cause"] for item in await ledger.alerts(0, 10_000)]


def run(*command: str | Path) -> None:
    """A program that ends at once."""
    subprocess.run(command, check=True)


def aside(directory: Path, name: str = "ledger.db") -> list[Path]:
    return [path for path in directory.glob(f"{name}.damaged-*") if path.suffix[-1].isdigit()]


async def test_after_a_kill_everything_is_there(tmp_path: Path) -> None:
    epoch = await fill(tmp_path)
    ledger = await open_ledger(tmp_path)
    try:
        assert (ledger.epoch, ledger.head) == (epoch, ALERTS + 2)
        assert await ledger.journal_position(JOURNAL) == ALERTS
        assert [item.subject for item in ledger.active()] == ["alarm:a"]
        assert not aside(tmp_path)
    finally:
        await ledger.close()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 17)


def overwrite(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def lose_wal(path: Path) -> None:
    path.with_name("ledger.db-wal").unlink()


def foreign(path: Path) -> None:
    path.with_name("ledger.db-wal").unlink()
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()


def no_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE active")
    connection.close()


@pytest.mark.parametrize("damage", [cut_short, overwrite, lose_wal, foreign, no_table])
async def test_a_damaged_ledger_is_set_aside(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    epoch = await fill(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:  # some of it out of the -wal
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if damage is lose_wal:
            connection.execute("DELETE FROM alert WHERE seq > 150")
    connection.close()
    (tmp_path / "ledger.db-wal").touch()
    damage(tmp_path / "ledger.db")
    ledger = await open_ledger(tmp_path)
    try:
        assert ledger.epoch > epoch
        assert len(aside(tmp_path)) == 1
        first = json.loads((await ledger.alerts(0, 1))[0].body)
        assert (first["kind"], first["priority"]) == ("gap", "high")
        assert aside(tmp_path)[0].name in first["cause"]
        assert await ledger.append([draft("goes on")])
        found = [json.loads(item.body) for item in await ledger.alerts(0, 10_000)]
        assert [alert["seq"] for alert in found] == list(range(1, len(found) + 1))
    finally:
        await ledger.close()
    again = await open_ledger(tmp_path)
    assert again.head == len(found)
    await again.close()


async def test_a_ledger_behind_its_mark_owes_what_it_still_has(tmp_path: Path) -> None:
    """Its -wal is gone: the last numbers were given to others, so they are not given again."""
    epoch = await fill(tmp_path, delivered=150)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    mark = Mark(tmp_path / "ledger.db.mark")
    mark.write(epoch, 10_000)
    mark.close()
    ledger = await open_ledger(tmp_path)
    try:
        assert ledger.epoch > epoch
        found = [json.loads(item.body) for item in await ledger.alerts(1, 10_000)]
        assert [alert["was"] for alert in found] == [
            f"shaft/{epoch}/{seq}" for seq in range(151, ALERTS + 3)
        ]
        assert all(alert["epoch"] == ledger.epoch for alert in found)
        (active,) = ledger.active()
        assert active.id == found[-1]["id"]
        assert await ledger.journal_position(JOURNAL) == ALERTS
        assert audit_entries(ledger) == 3, "two that were there, one that tells of the gap"
    finally:
        await ledger.close()


async def test_a_ledger_that_has_lost_a_commit_while_it_ran_gives_no_number_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a disk that failed and was mended: what was synced last is not there, no mark is."""
    monkeypatch.setattr(owned_file, "REOPEN_NS", 0)
    ledger = await open_ledger(tmp_path)
    try:
        await ledger.append([draft("stays")], journal=(JOURNAL, 1))
        kept = tmp_path / "kept"
        kept.mkdir()
        for part in tmp_path.glob("ledger.db*"):
            shutil.copy(part, kept / part.name)
        await ledger.append([draft("is lost")], journal=(JOURNAL, 2))
        epoch, head = ledger.epoch, ledger.head
        await ledger._db._file.close()
        for part in kept.iterdir():
            shutil.copy(part, tmp_path / part.name)
        (tmp_path / "ledger.db.mark").unlink()
        await ledger.append([draft("another")])
        assert (ledger.epoch, ledger.head) > (epoch, head)
        assert ledger.epoch > epoch
        found = await causes(ledger)
        assert "the ledger was damaged (commits are missing" in found[0]
        assert found[-2:] == ["stays", "another"]
        assert await ledger.journal_position(JOURNAL) == 1, "its record comes again"
    finally:
        await ledger.close()


async def test_own_raises_that_a_file_has_lost_while_it_ran_are_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else their end would belong to nothing: whoever made them believes them told."""
    monkeypatch.setattr(owned_file, "REOPEN_NS", 0)
    ledger = await open_ledger(tmp_path)
    try:
        own = AlertDraft(
            kind="alarm", state="raised", source=Source("alarm", "a"), cause="up", subject="alarm:a"
        )
        (seq,) = await ledger.append([own])
        await ledger.move_cursor("platform", "alert", seq)
        ident = ledger.active()[0].id
        await ledger._db._file.close()
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
            connection.execute("DELETE FROM active")
            connection.execute("DELETE FROM alert WHERE seq >= ?", (seq,))
            connection.commit()
        end = AlertDraft(
            kind="alarm_end", state="cleared", source=Source("alarm", "a"), subject="alarm:a"
        )
        await ledger.append([end])
        _, raised, ended = [json.loads(item.body) for item in await ledger.alerts(0, 10)]
        assert (raised["was"], ended["ref"]) == (ident, raised["id"])
        assert not ledger.active()
    finally:
        await ledger.close()


@pytest.mark.parametrize("how", ["deleted", "with its -wal", "its -wal alone", "replaced"])
async def test_a_file_that_somebody_takes_away_while_it_is_in_use_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Else all went to a file without a name, and a restart had none of it."""
    monkeypatch.setattr("gateway.store.database.HOUSEKEEPING_S", 0.02)
    ledger = await open_ledger(tmp_path)
    path, wal = tmp_path / "ledger.db", tmp_path / "ledger.db-wal"
    try:
        await ledger.append([draft("before")])
        epoch = ledger.epoch
        if how != "its -wal alone":
            path.unlink()
        if "-wal" in how:
            wal.unlink()
        if how == "replaced":
            path.write_bytes(b"something else")
        await ledger.append([draft("after")])
        async with asyncio.timeout(10.0):
            while not ledger.mishaps[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "was deleted or replaced while it was in use" in ledger.mishaps[1]
        await ledger.append([draft("later")])
        (copy := tmp_path / "killed").mkdir()
        for part in (path, wal):
            shutil.copy(part, copy)
    finally:
        await ledger.close()
    again = await open_ledger(copy)
    try:
        assert again.epoch == epoch
        assert (await causes(again))[1:] == ["before", "after", "later"]
    finally:
        await again.close()


def all_but(directory: Path, free_bytes: int) -> Path:
    """Fill a disk; gives the file that does."""
    filler = directory / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(directory).free - free_bytes)
    return filler


async def test_one_that_cannot_be_put_back_takes_nothing_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.database.HOUSEKEEPING_S", 0.02)
    with small_disk(tmp_path / "state", 16 * 1024) as state:
        ledger = await open_ledger(state)
        try:
            await ledger.append([draft("before " + "x" * 1_000) for _ in range(300)])
            filler = all_but(state, 64 * 1024)
            (state / "ledger.db").unlink()
            for _ in range(2):
                with pytest.raises(StoreError, match="deleted or replaced and cannot be put back"):
                    await ledger.append([draft("not taken")])
            assert not ledger.stats().ok
            assert "cannot be put back" in ledger.stats().trouble
            assert len(await causes(ledger)) == 301, "it can be read"
            assert not (state / "ledger.db").exists()
            filler.unlink()
            async with asyncio.timeout(10.0):
                while not ledger.ok:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not ledger.stats().trouble
            await ledger.append([draft("after")])
        finally:
            await ledger.close()
        again = await open_ledger(state)
        try:
            assert (await causes(again))[300:] == ["before " + "x" * 1_000, "after"]
        finally:
            await again.close()


async def test_the_reserve_makes_the_room_to_put_one_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", 32 * 1024) as state:
        ledger = await Ledger.open(state / "ledger.db", "shaft", reserve_bytes=12 << 20)
        try:
            await ledger.append([draft("before " + "x" * 1_000) for _ in range(300)])
            async with asyncio.timeout(10.0):
                while ledger.stats().reserve_bytes < 12 << 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            all_but(state, 64 * 1024)
            (state / "ledger.db").unlink()
            await ledger.append([draft("after")])
            assert (state / "ledger.db").exists(), "before anything is acknowledged"
            assert ledger.stats().reserve_bytes == 8 << 20
        finally:
            await ledger.close()


async def test_one_that_is_deleted_just_before_the_end_is_there_after_it(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path)
    await ledger.append([draft("before")])
    (tmp_path / "ledger.db").unlink()
    await ledger.close()
    again = await open_ledger(tmp_path)
    try:
        assert (await causes(again))[1:] == ["before"]
    finally:
        await again.close()


async def test_what_is_left_of_a_putting_back_that_was_killed_goes(tmp_path: Path) -> None:
    (rescued := tmp_path / "ledger.db.rescued").write_bytes(b"half of it")
    ledger = await open_ledger(tmp_path)
    await ledger.close()
    assert not rescued.exists()


async def test_a_disk_that_is_mounted_over_a_ledger_in_use_gets_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned_file, "REOPEN_NS", 0)
    (state := tmp_path / "state").mkdir()
    ledger = await open_ledger(state)
    try:
        await ledger.append([draft("one")])
        with small_disk(state, 8 * 1024):
            for _ in range(2):
                with pytest.raises(StoreError, match=r"not mounted: .* restart the gateway"):
                    await ledger.append([draft("not taken")])
            assert not list(state.iterdir())
            assert "another disk is mounted" in ledger.mishaps[1]
        await ledger.append([draft("two")])
        assert (await causes(ledger))[1:] == ["one", "two"]
    finally:
        await ledger.close()


async def test_a_disk_that_is_not_mounted_gets_no_new_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away to be mended; what is under it would be hidden once it is back."""
    monkeypatch.setattr(owned_file, "REOPEN_NS", 0)
    with small_disk(tmp_path / "state", 8 * 1024) as state:
        ledger = await open_ledger(state)
        try:
            await ledger.append([draft("one")])
            await ledger._db._file.close()
            for part in state.iterdir():
                shutil.copy(part, tmp_path / part.name)
            run("umount", state)
            with pytest.raises(StoreError, match="not mounted"):
                await ledger.append([draft("two")])
            assert not list(state.iterdir())
            run("mount", "-t", "tmpfs", "tmpfs", state)
            for part in tmp_path.glob("ledger.db*"):
                shutil.copy(part, state / part.name)
            await ledger.append([draft("three")])
            assert (await causes(ledger))[1:] == ["one", "three"]
        finally:
            await ledger.close()


async def test_an_empty_file_is_a_new_ledger(tmp_path: Path) -> None:
    epoch = await fill(tmp_path)
    (tmp_path / "ledger.db").write_bytes(b"")
    ledger = await open_ledger(tmp_path)
    try:
        assert ledger.epoch > epoch
        assert ledger.head == 1
    finally:
        await ledger.close()


async def test_a_file_that_was_being_made_when_the_power_went_is_begun_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # the header is there, no table yet
    connection.close()
    assert path.stat().st_size
    ledger = await open_ledger(tmp_path)
    assert ledger.head == 1
    await ledger.close()
    assert not aside(tmp_path)


async def _survive(directory: Path, seed: int) -> None:
    """One random damage of the file set; whatever it is, the ledger works at once."""
    rng = random.Random(seed)
    parts = [directory / "ledger.db", directory / "ledger.db-wal"]
    path = rng.choice([part for part in parts if part.exists() and part.stat().st_size])
    kind = rng.choice(["flip", "flip", "flip", "cut", "zero", "unlink"])
    data = bytearray(path.read_bytes())
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 8, 200])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "zero":
        at = rng.randrange(len(data))
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    if kind == "unlink":
        path.unlink()
    else:
        path.write_bytes(data)
    started = time.monotonic()
    ledger = await open_ledger(directory)
    try:
        assert await ledger.append([draft("goes on")])
        assert await ledger.command("uid 0", "reset", "face", {})
        numbers, new = [], []
        for item in await ledger.alerts(0, 10_000):
            alert = json.loads(item.body)
            numbers.append(alert["seq"])
            new.append(alert["cause"])
        assert new[-1] == "goes on"
        assert sorted(set(numbers)) == numbers
        assert time.monotonic() - started < 10.0, "the start must not take longer than that"
    finally:
        await ledger.close()


async def _random_damages(tmp_path: Path, count: int) -> None:
    original = tmp_path / "original"
    original.mkdir()
    await fill(original)
    for seed in range(count):
        directory = tmp_path / str(seed)
        shutil.copytree(original, directory)
        if seed % 2:  # all of it in the database
            with sqlite3.connect(directory / "ledger.db") as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        await _survive(directory, seed)
        shutil.rmtree(directory)


async def test_random_damage(tmp_path: Path) -> None:
    await _random_damages(tmp_path, DAMAGES)


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_random_damage_campaign(tmp_path: Path) -> None:
    await _random_damages(tmp_path, DAMAGES_CAMPAIGN)


async def test_damage_that_appears_while_running(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path)
    try:
        for _ in range(60):
            await ledger.append([draft("x" * 4000) for _ in range(20)])
        epoch, path = ledger.epoch, tmp_path / "ledger.db"
        with path.open("r+b") as file:
            for page in range(1, path.stat().st_size // 4096):
                file.seek(page * 4096)
                file.write(bytes(4096))
        await ledger.alerts(0, 10_000)
        assert ledger.epoch > epoch
        assert len(aside(tmp_path)) == 1
        await ledger.append([draft("goes on")])
        assert (await causes(ledger))[-1] == "goes on"
    finally:
        await ledger.close()


async def test_a_damaged_history_is_set_aside(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "history.db", groups=[GROUP], reserve_bytes=0)
    history.add(samples_of([(0, 1.0, 10), (1, 2.0, 10)]))
    assert await history.commit((JOURNAL, 2)) == 1
    epoch = history.epoch
    await history.close()
    overwrite(tmp_path / "history.db")
    history = await History.open(tmp_path / "history.db", groups=[GROUP], reserve_bytes=0)
    try:
        assert history.epoch > epoch
        assert await history.sample_position(JOURNAL) is None
        history.add(samples_of([(0, 1.0, 10)]))
        assert await history.commit((JOURNAL, 2)) == 1
        assert len(aside(tmp_path, "history.db")) == 1
    finally:
        await history.close()


@pytest.fixture
def give_to_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Make files another user's: they can be read, and not written or changed by us.

    A file is known by its inode, which is held open: a file system gives the inode of a file that
    is gone to the next one, and a copy of ours would be root's.
    """
    inodes: set[int] = set()
    access, chmod = os.access, Path.chmod

    def may(file: Path, mode: int) -> bool:
        return access(file, mode) and not (mode & os.W_OK and file.stat().st_ino in inodes)

    def change(file: Path, mode: int) -> None:
        if file.stat().st_ino in inodes:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        chmod(file, mode)

    monkeypatch.setattr(os, "access", may)
    monkeypatch.setattr(Path, "chmod", change)
    with contextlib.ExitStack() as held:

        def give(file: Path) -> None:
            inodes.add(os.fstat(held.enter_context(file.open("rb")).fileno()).st_ino)

        yield give


async def test_a_file_that_root_has_put_back_is_taken_as_it_is(
    tmp_path: Path, give_to_root: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = await fill(tmp_path)
    for part in tmp_path.iterdir():
        give_to_root(part)
    with monkeypatch.context() as patch:
        patch.setattr(file_parts, "SPARE_BYTES", 1 << 60)
        ledger = await open_ledger(tmp_path)
        try:
            assert not ledger.stats().ok
            assert "ledger.db-wal is of another user" in ledger.stats().trouble
            assert "chown it" in ledger.stats().trouble
        finally:
            await ledger.close()
    ledger = await open_ledger(tmp_path)
    try:
        assert ledger.ok
        assert ledger.epoch == epoch
        assert await ledger.append([draft("after")]) == [ledger.head]
    finally:
        await ledger.close()
    assert not list(tmp_path.glob("*.damaged-*"))
    assert not list(tmp_path.glob("*.ours"))
