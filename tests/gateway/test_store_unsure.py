"""Commits of which nobody knows: what was in them is in the file once, whether they were or not."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store import database, owned_file
from gateway.store import waiting as waiting_pieces
from gateway.store.alert import AlertDraft, Source
from tests.gateway.samples import samples_of
from tests.gateway.test_store_full import (
    TAGS,
    drafts,
    open_history,
    open_ledger,
    take_second,
    until,
    whole,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "HOUSEKEEPING_S", 0.2)
    monkeypatch.setattr(owned_file, "REOPEN_NS", 200_000_000)


@pytest.fixture(params=[True, False], ids=["there", "not there"])
def failing_sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which each commit fails with its sync, whether it is in the file or not."""
    whole = owned_file.OwnedFile.transaction

    async def fails(file: Any, connection: Any, body: Any) -> Any:
        if getattr(body, "__name__", "") == "load":  # it is opened well
            return await whole(file, connection, body)
        if request.param:
            await whole(file, connection, body)
        else:
            await whole(file, connection, partial(_undone, body))
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    async def _undone(body: Any, connection: Any) -> None:
        await connection.execute_fetchall("SAVEPOINT undone")
        await body(connection)
        await connection.execute_fetchall("ROLLBACK TO undone")

    @contextmanager
    def failing() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(owned_file.OwnedFile, "transaction", fails)
            yield

    return failing


async def test_samples_of_a_commit_of_which_nobody_knows_are_stored_once(
    tmp_path: Path, failing_sync: Any
) -> None:
    history = await open_history(tmp_path)
    try:
        await take_second(history, 0, 10)
        with failing_sync(), pytest.raises(StoreError):
            await take_second(history, 1, 10)
        history.add(samples_of([(0, 1.0, 9_000)]))
        await until(lambda: history.ok)
        await history.commit((9, 9))
        stats = history.stats()
        assert (stats.samples, stats.waiting_pieces) == (2 * 10 * len(TAGS) + 1, 0)
        times = [at_ns for at_ns, _, _ in await history.read(TAGS[0], 0, 2**62)]
        assert times == sorted(set(times))
        assert len(times) == 21
        assert await history.sample_position(9) == 9
    finally:
        await history.close()


async def unopened(*_: object) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorname = "SQLITE_CANTOPEN"
    raise error


async def test_such_a_commit_that_opened_the_file_itself_is_known_again(
    tmp_path: Path, failing_sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await open_history(tmp_path)
    await take_second(history, 0, 10)
    await history.close()
    with monkeypatch.context() as patch:
        patch.setattr(owned_file.OwnedFile, "_open", unopened)
        history = await open_history(tmp_path)
        assert history.epoch == 0
    try:
        history._db._file.retry(0)
        with failing_sync(), pytest.raises(StoreError):
            await take_second(history, 1, 10)
        assert history.epoch
        await until(lambda: history.ok)
        await take_second(history, 2, 10)
        assert history.stats().samples == 3 * 10 * len(TAGS)
        assert len(await history.read(TAGS[0], 0, 2**62)) == 30
    finally:
        await history.close()


async def test_such_a_commit_is_known_again_when_its_oldest_had_to_go(
    tmp_path: Path, failing_sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await open_history(tmp_path)
    try:
        with failing_sync(), pytest.raises(StoreError):
            await take_second(history, 0)
        count = history.stats().waiting_pieces
        assert count > 2
        monkeypatch.setattr(waiting_pieces, "BYTES_MAX", history._commits.waiting._bytes - 1)
        await until(lambda: history.ok)
        there = history.stats().samples > 0
        await history.commit((9, 4_000))
        dropped = history.stats().dropped["store"]
        assert dropped > 0
        assert history.stats().samples == (4_000 if there else 4_000 - dropped)
        times = [at_ns for at_ns, _, _ in await history.read(TAGS[0], 0, 2**62)]
        assert times == sorted(set(times))
        assert await history.sample_position(9) == 4_000
    finally:
        await history.close()


def alarm(state: Any, subject: str) -> AlertDraft:
    return AlertDraft(kind="alarm", state=state, source=Source("tag", subject), subject=subject)


async def test_alerts_of_a_commit_of_which_nobody_knows_are_told_once(
    tmp_path: Path, failing_sync: Any
) -> None:
    """Also one that was raised and ended in it, which nothing in the file is against."""
    ledger = await open_ledger(tmp_path, 0)
    try:
        short = [alarm(state, "a") for state in ("raised", "raised", "cleared")]
        waiting = [*drafts(2), *short]
        for _ in range(2):  # once more in vain: what is known must not be forgotten over that
            with failing_sync(), pytest.raises(StoreError):
                await ledger.append(waiting, samples=(7, 5))
            await until(lambda: ledger.ok)
        others = drafts(2)  # of the same words as the first, but others
        assert await ledger.append(others) in ([6, 7], [2, 3])
        waiting += [alarm("raised", "a"), *drafts(1)]
        seqs = await ledger.append(waiting, samples=(7, 6))
        assert seqs[3] == 0
        assert len(await whole(ledger)) == ledger.head == 1 + 2 + 6
        told = {item.seq: json.loads(item.body) for item in await ledger.alerts(0, 100)}
        assert [told[seq]["state"] for seq in seqs if seq] == [
            *("event", "event", "raised", "cleared", "raised", "event")
        ]
        assert len({seq for seq in seqs if seq}) == 6
        assert [item.subject for item in ledger.active()] == ["a"]
        assert await ledger.sample_position(7) == 6
        assert await ledger.append([waiting[0]]) == [10], "it was answered: this one is new"
    finally:
        await ledger.close()


async def test_callers_that_shared_such_a_commit_are_each_told_their_numbers(
    tmp_path: Path, failing_sync: Any
) -> None:
    ledger = await open_ledger(tmp_path, 0)
    try:
        calls = [drafts(1) for _ in range(3)]
        with failing_sync():
            failed = await asyncio.gather(*map(ledger.append, calls), return_exceptions=True)
        assert all(isinstance(error, StoreError) for error in failed)
        await until(lambda: ledger.ok)
        found = [await ledger.append(call) for call in calls[1:]]
        assert found in ([[3], [4]], [[2], [3]])
        await ledger.append(drafts(1))
        assert ledger.head == len(await whole(ledger))
    finally:
        await ledger.close()
