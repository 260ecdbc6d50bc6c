"""What asks the disk does so in a thread: a disk that hangs holds nobody but who waits for it."""

import asyncio
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.life import directory_lock
from gateway.life.directory_lock import DirectoryLock
from gateway.store.alert import AlertDraft, Source
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from tests.gateway.samples import samples_of

CALLS = ("open", "stat", "statvfs", "unlink", "rename", "replace", "pwrite", "fsync", "ftruncate")
DRAFT = AlertDraft(kind="trip", state="event", source=Source("interlock", "face"))


async def open_both(directory: Path) -> tuple[Ledger, History]:
    ledger = await Ledger.open(directory / "ledger.db", "shaft", reserve_bytes=1 << 20)
    groups = [PollGroup("plc/1s", ("a",), (0,))]
    return ledger, await History.open(directory / "history.db", groups=groups, reserve_bytes=0)


@pytest.fixture
def on_the_loop(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The calls to the disk that were made by the loop's own thread."""
    found: set[str] = set()
    loop = threading.get_ident()

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == loop and ".db" in str(arguments[0]):
                found.add(f"{name} {Path(arguments[0]).name}")
            return call(*arguments, **options)

        return watch

    for name in CALLS:
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    monkeypatch.setattr(io, "open", watched("io.open", io.open))
    return found


async def test_nothing_of_a_store_asks_the_disk_on_the_loop(
    tmp_path: Path, on_the_loop: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.database.HOUSEKEEPING_S", 0.02)
    for _ in range(2):
        ledger, history = await open_both(tmp_path)
        on_the_loop.clear()  # a start waits for the disk
        await ledger.append([DRAFT])
        history.add(samples_of([(0, 1.0, 1_000)]))
        await history.commit()
        await history.shed()
        await ledger._db._file.close()  # as after an error of the disk
        ledger._db._file.retry(0)
        await ledger.append([DRAFT])
        (tmp_path / "ledger.db").rename(tmp_path / "away")
        await ledger.append([DRAFT])
        on_the_loop.discard("rename ledger.db")
        await ledger.close()
        await history.close()
        assert not on_the_loop


async def test_a_directory_that_cannot_be_opened_for_long_holds_only_who_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store is opened again while the other is closed: on the disk that hangs, both are."""
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    ledger, history = await open_both(tmp_path)
    hangs, answers, open_directory = asyncio.Event(), threading.Event(), os.open
    loop = asyncio.get_running_loop()

    def slow(path: Any, *arguments: Any, **options: Any) -> int:
        if path == tmp_path and threading.current_thread() is not threading.main_thread():
            loop.call_soon_threadsafe(hangs.set)
            answers.wait(20.0)
        return open_directory(path, *arguments, **options)

    try:
        for each in (ledger, history):
            await each._db._file.close()
            each._db._file.retry(0)
        history.add(samples_of([(0, 1.0, 1_000)]))
        await history.commit()  # open again
        directory_lock.leave(tmp_path, history._db._file)
        monkeypatch.setattr(os, "open", slow)
        appended = asyncio.create_task(ledger.append([DRAFT]))
        await hangs.wait()
        closed = asyncio.create_task(history._db._file.close())
        loop.call_later(0.1, answers.set)  # never, where the loop stands still
        began = loop.time()
        await asyncio.gather(appended, closed)
        assert loop.time() - began < 10.0
    finally:
        answers.set()
        await ledger.close()
        await history.close()
        lock.release()
