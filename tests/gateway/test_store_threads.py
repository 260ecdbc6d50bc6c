"""The thread of a database ends, between two jobs or inside one: seen, told, and opened again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiosqlite import core

from gateway.errors import StoreError
from gateway.store import database
from gateway.store.alert import AlertDraft, Source
from gateway.store.ledger import Ledger
from tests.helpers.harness import until


@pytest.fixture
async def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(database, "THREAD_LOOK_S", 0.02)
    made = await Ledger.open(tmp_path / "ledger.db", "gw", reserve_bytes=0)
    yield made
    await made.close()


def draft(text: str) -> AlertDraft:
    return AlertDraft(kind="gateway", state="event", source=Source("gateway", "gw"), cause=text)


def end_thread(connection: Any) -> None:
    """As a thread ends that nobody asks any more; what is queued behind it is never done."""
    connection._tx.put_nowait((None, lambda: core._STOP_RUNNING_SENTINEL))


async def test_one_that_ended_between_two_jobs(ledger: Any) -> None:
    assert await ledger.append([draft("before")]) == [2]  # 1 says that the ledger is new
    connection = ledger._db._file.connection
    end_thread(connection)
    await until("the thread's end", lambda: not connection._thread.is_alive())
    with pytest.raises(StoreError, match="its thread has ended"):
        await ledger.append([draft("meanwhile")])
    assert await ledger.append([draft("after")]) == [3]
    assert ledger.ok


async def test_one_that_ends_inside_a_transaction(ledger: Any) -> None:
    await ledger.append([draft("before")])

    async def body(connection: Any) -> None:
        await connection.execute_fetchall("DELETE FROM alert")
        end_thread(connection)
        await connection.execute_fetchall("SELECT 1")  # is never answered

    with pytest.raises(StoreError, match="its thread has ended"):
        await ledger._db.transact(body)
    assert not ledger.ok
    assert await ledger.append([draft("after")]) == [3]
    assert len(await ledger.alerts(0, 10)) == 3  # nothing of the other is done
    assert ledger.ok


async def test_one_that_ends_right_after_a_commit(
    ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed is done: told as failed, it would be appended twice."""
    connection = ledger._db._file.connection
    real = connection.execute_fetchall

    async def last(sql: str, *rest: Any) -> Any:
        found = await real(sql, *rest)
        if sql == "COMMIT":
            end_thread(connection)
            connection._thread.join()
        return found

    monkeypatch.setattr(connection, "execute_fetchall", last)
    assert await ledger.append([draft("done")]) == [2]
    with pytest.raises(StoreError, match="its thread has ended"):
        await ledger.append([draft("meanwhile")])
    assert await ledger.append([draft("after")]) == [3]


async def test_a_commit_that_nobody_answers_is_looked_up(
    ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be done or not: the next number is that of the file."""
    connection = ledger._db._file.connection
    real = connection.execute_fetchall
    commits: list[str] = []

    async def unsure(sql: str, *rest: Any) -> Any:
        found = await real(sql, *rest)
        if sql == "COMMIT" and not commits:
            commits.append(sql)
            message = "out of memory, say"
            raise MemoryError(message)
        return found

    monkeypatch.setattr(connection, "execute_fetchall", unsure)
    with pytest.raises(StoreError, match="a commit was not answered"):
        await ledger.append([draft("done, but who knows")])
    assert await ledger.append([draft("after")]) == [3]
    assert [item.seq for item in await ledger.alerts(0, 10)] == [1, 2, 3]
