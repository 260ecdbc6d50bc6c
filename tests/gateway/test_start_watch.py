"""The start's time is extended while its threads work, and not while they hang."""

import asyncio
import threading
from pathlib import Path

import aiosqlite
import pytest

from gateway.life import start_watch
from gateway.life.start_watch import EXTEND_S, extended, thread_ticks

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


class FakeNotifier:
    """Holds what the service manager would get."""

    def __init__(self) -> None:
        self.extensions: list[float] = []
        self.told = asyncio.Event()

    def extend(self, more_s: float) -> None:
        self.extensions.append(more_s)
        self.told.set()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_watch, "LOOK_S", 0.02)


async def test_a_database_at_work_is_waited_for(tmp_path: Path) -> None:
    """As one that is brought forward: a statement that does not end by itself, in its thread."""
    notifier, stop = FakeNotifier(), threading.Event()
    async with aiosqlite.connect(tmp_path / "any.db") as database:
        await database.set_progress_handler(lambda: int(stop.is_set()), 10_000)
        async with extended(notifier):  # type: ignore[arg-type]
            work = asyncio.create_task(database.execute_fetchall(SLOW))
            for _ in range(3):
                notifier.told.clear()
                await notifier.told.wait()
            stop.set()
            with pytest.raises(aiosqlite.OperationalError):
                await work
    assert set(notifier.extensions) == {EXTEND_S}


async def test_a_look_that_found_no_descriptor_is_not_the_last() -> None:
    notifier = FakeNotifier()
    looks: list[int | OSError] = [2, OSError("no descriptor"), 1]

    def worked() -> int:
        look = looks.pop() if len(looks) > 1 else looks[0]
        if isinstance(look, OSError):
            raise look
        return look

    async with extended(notifier, worked):  # type: ignore[arg-type]
        await asyncio.wait_for(notifier.told.wait(), 5.0)


async def test_a_thread_that_hangs_is_not() -> None:
    notifier, release = FakeNotifier(), threading.Event()
    looks: list[int] = []
    enough = asyncio.Event()

    def worked() -> int:
        looks.append(thread_ticks())
        if len(looks) >= 10:
            enough.set()
        return looks[-1]

    hanging = asyncio.create_task(asyncio.to_thread(release.wait))
    try:
        await asyncio.sleep(0.1)  # until it does
        async with extended(notifier, worked):  # type: ignore[arg-type]
            await enough.wait()
    finally:
        release.set()
        await hanging
    assert not notifier.extensions, looks
