"""The start and end of the databases while the disk hangs: bounded, and never two that write."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiosqlite import Connection

from gateway import build, parting
from gateway import daemon as daemons
from gateway.daemon import Daemon
from gateway.errors import ConfigError, StoreError
from gateway.paths import prepare, site_paths
from gateway.store import database, owned_file
from gateway.store.alert import AlertDraft, Source
from gateway.store.history import History
from gateway.store.ledger import Ledger
from gateway.store.sqlite_file import open_file

pytestmark = pytest.mark.timeout(30)

LONG_S = 10.0  # well above what is bounded here, well below what a disk that hangs takes
LATE = AlertDraft(kind="alarm", state="event", source=Source("tag", "t"), cause="late")


@pytest.fixture
def disk() -> Iterator[threading.Event]:
    """It hangs until this is set."""
    event = threading.Event()
    yield event
    event.set()


async def hang(store: Any, disk: threading.Event) -> "asyncio.Task[None]":
    """A statement that the disk does not answer; given when it is under way."""
    begun = asyncio.Event()

    async def body(connection: Connection) -> None:
        await connection.create_function("disk", 0, disk.wait)
        begun.set()
        await connection.execute_fetchall("SELECT disk()")

    job = asyncio.create_task(store._db.query(body))
    await begun.wait()
    return job


async def test_an_end_that_is_given_up_goes_on(tmp_path: Path, disk: threading.Event) -> None:
    ledger = await Ledger.open(tmp_path / "ledger.db", "gw")
    job = await hang(ledger, disk)
    async with asyncio.timeout(LONG_S):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ledger.close()
    disk.set()
    await job
    await ledger.close()


async def test_the_next_one_waits_for_the_end_of_the_one_before(
    tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "START_S", 0.1)
    ledger = await Ledger.open(tmp_path / "ledger.db", "gw")
    await ledger.append([LATE])
    job = await hang(ledger, disk)
    closing = asyncio.create_task(ledger.close())
    again: Any = await Ledger.open(tmp_path / "ledger.db", "gw")
    assert not again.ok
    assert again._db._file.connection is None, "two write"
    append = asyncio.create_task(again.append([LATE]))
    disk.set()
    assert await append == [3]  # behind the ledger's own, and the first
    assert again.ok
    await asyncio.gather(job, closing)
    await again.close()


async def test_whoever_asked_is_answered_when_the_task_is_broken_off(
    tmp_path: Path, disk: threading.Event
) -> None:
    ledger: Any = await Ledger.open(tmp_path / "ledger.db", "gw")
    job = await hang(ledger, disk)
    ledger._db._task.cancel()
    disk.set()
    async with asyncio.timeout(LONG_S):
        with pytest.raises(StoreError, match="is closed"):
            await job
    await ledger.close()


class SlowOpening:
    """Stands for ``open_file``: the files of these names wait for ``done``."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.begun: set[str] = set()
        self.all_begun = asyncio.Event()
        self.done = asyncio.Event()

    async def __call__(self, path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name in self._names:
            self.begun.add(path.name)
            if len(self.begun) == len(self._names):
                self.all_begun.set()
            await self.done.wait()
        return await open_file(path, *arguments, **options)


def config_of(*discard: str) -> Any:
    site = SimpleNamespace(id="mine", name="", discard_uplinks=discard)
    ages = SimpleNamespace(max_bytes=10**9, raw_max_age_ns=10**18, five_minute_max_age=10**18)
    return SimpleNamespace(site=site, uplink=[], history=ages)


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(build, "gateway_name", lambda config: config.site.id)
    monkeypatch.setattr(build, "poll_groups", lambda _config: [])
    monkeypatch.setattr(
        daemons, "build_gateway", lambda *_, **__: SimpleNamespace(config=None, reloader=None)
    )
    monkeypatch.setattr(daemons, "ViewServer", lambda *_: None)
    monkeypatch.setattr(parting, "STORES_LOOK_S", 0.01)
    paths = site_paths(tmp_path / "run", tmp_path / "state")
    prepare(paths)
    checked: Any = SimpleNamespace(warnings=(), config=config_of())
    made: Any = Daemon(tmp_path / "site.toml", checked, paths, None)

    async def started(*_: Any) -> None:
        return

    monkeypatch.setattr(made, "_start_tasks", started)
    yield made
    await made._stop_parts()


async def test_a_stop_does_not_wait_for_a_disk_that_hangs(
    daemon: Any, disk: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    await daemon._start_parts()
    ledger, _ = daemon._stores
    job = await hang(ledger, disk)
    daemon._problems.event("gateway", "gw", "it waits for the disk")
    async with asyncio.timeout(LONG_S):
        await daemon._stop_parts()
    assert "do not close in time" in caplog.text
    disk.set()
    await job
    await asyncio.wait(daemon._closing.tasks)


async def test_the_two_are_opened_side_by_side_and_a_start_that_is_stopped_ends(
    daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = SlowOpening("ledger.db", "history.db")
    monkeypatch.setattr(owned_file, "open_file", opening)
    start = asyncio.create_task(daemon._start_parts())
    async with asyncio.timeout(LONG_S):
        await opening.all_begun.wait()
        start.cancel()
        await asyncio.wait({start})
    assert start.cancelled()
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("store ")]
    opening.done.set()
    await asyncio.wait(left)


async def test_a_reload_while_one_of_them_is_being_opened_waits_for_its_end(
    daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = SlowOpening("history.db")
    monkeypatch.setattr(owned_file, "open_file", opening)
    start = asyncio.create_task(daemon._start_parts())
    await opening.all_begun.wait()
    start.cancel()
    await asyncio.wait({start})
    again = asyncio.create_task(daemon._start_parts())
    await asyncio.sleep(0.1)  # it must not get on; opening.begun would not tell
    assert not again.done()
    opening.done.set()
    await again
    assert [store.ok for store in daemon._stores] == [True, True]


async def owed(paths: Any, uplink: str) -> None:
    """An alert that an uplink has not had."""
    ledger = await Ledger.open(paths.ledger, "mine", uplinks=[uplink])
    await ledger.append([LATE])
    await ledger.close()


async def until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not wanted():  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("discard", "kept"), [((), True), (("gone",), False)])
async def test_a_start_that_does_not_wait_keeps_what_an_uplink_is_owed_and_tells(
    daemon: Any, monkeypatch: pytest.MonkeyPatch, discard: tuple[str, ...], kept: bool
) -> None:
    await owed(daemon._paths, "gone")
    daemon._checked.config = config_of(*discard)
    opening = SlowOpening("ledger.db")
    monkeypatch.setattr(owned_file, "open_file", opening)
    monkeypatch.setattr(database, "START_S", 0.1)
    async with asyncio.timeout(LONG_S):
        await daemon._start_parts()
    ledger, _ = daemon._stores
    assert not daemon._problems.active()
    opening.done.set()
    if kept:
        await until(lambda: bool(daemon._problems.active()))
        (problem,) = daemon._problems.active()
        assert "found no [[uplink]] 'gone' any more" in problem.text
        assert ledger.cursors.owed()["gone"] > 0
    else:
        await until(lambda: ledger.ok and "gone" not in ledger.cursors.owed())
        assert not daemon._problems.active()


async def test_a_start_that_knows_refuses(daemon: Any) -> None:
    await owed(daemon._paths, "gone")
    with pytest.raises(ConfigError, match="'gone' any more"):
        await daemon._start_parts()


async def test_a_disk_that_hangs_while_uplinks_are_parted_with_holds_no_start(
    daemon: Any, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    await owed(daemon._paths, "gone")
    daemon._checked.config = config_of("gone")
    open_stores = build.open_stores
    jobs = []

    async def opened(*arguments: Any, **options: Any) -> tuple[Ledger, History]:
        stores = await open_stores(*arguments, **options)
        jobs.append(await hang(stores[0], disk))
        return stores

    monkeypatch.setattr(daemons, "open_stores", opened)
    monkeypatch.setattr(daemons, "PARTED_S", 0.05)
    async with asyncio.timeout(LONG_S):
        await daemon._start_parts()
    ledger, _ = daemon._stores
    disk.set()
    await until(lambda: "gone" not in ledger.cursors.owed())
    await asyncio.gather(*jobs)
