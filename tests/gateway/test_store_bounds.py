"""The bounds of a history on a disk that is short, that has room again, or that does not say."""

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiosqlite import Connection

from gateway.errors import StoreError
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.sqlite_file import PAGE_BYTES, value_of
from tests.gateway.samples import samples_of

MAX_BYTES = 8 * 1024 * 1024
BLOCK_BYTES = 4096
SHORT, ROOMY = 1, 1_000_000  # blocks that are free

Answer = Callable[[int], None]


@pytest_asyncio.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    made = await History.open(
        tmp_path / "history.db",
        groups=[PollGroup("plc/1s", ("a",), (0,))],
        max_bytes=MAX_BYTES,
        reserve_bytes=0,
    )
    made.add(samples_of([(0, 1.0, 1_000)]))
    await made.commit()
    yield made
    await made.close()


@pytest.fixture
def free_blocks(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Sets how many blocks the disk says are free."""

    def say(free: int) -> None:
        numbers = (BLOCK_BYTES, BLOCK_BYTES, ROOMY, free, free, 1_000, 1_000, 1_000, 0, 255)
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(numbers))

    return say


async def bound_pages(history: History) -> int:
    async def body(connection: Connection) -> int:
        return int(await value_of(connection, "PRAGMA max_page_count"))

    return await history._db.query(body)


async def test_a_bound_that_could_not_be_set_is_set_with_the_next_look(
    history: History, free_blocks: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: int) -> None:
        message = "history.db: disk I/O error"
        raise StoreError(message)

    wide = await bound_pages(history)
    assert wide == MAX_BYTES // PAGE_BYTES
    for free, narrow in ((SHORT, True), (ROOMY, False)):
        free_blocks(free)
        before = await bound_pages(history)
        with monkeypatch.context() as patch:
            patch.setattr(history._db, "limit", refuse)
            with pytest.raises(StoreError):
                await history.shed()
        assert await bound_pages(history) == before
        await history.shed()
        assert (await bound_pages(history) < wide) is narrow


async def test_a_disk_that_does_not_say_what_is_free_changes_nothing(
    history: History, free_blocks: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_blocks(SHORT)
    await history.shed()
    narrow = await bound_pages(history)

    def refuse(_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, "statvfs", refuse)
    await history.shed()
    assert await bound_pages(history) == narrow
    free_blocks(ROOMY)
    await history.shed()
    assert await bound_pages(history) == MAX_BYTES // PAGE_BYTES
