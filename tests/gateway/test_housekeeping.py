"""endpoints.json, the watchdog and the things that are looked at, over stand-in parts."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.guard.link import LinkState
from gateway.guard.supervise import GuardState
from gateway.life import housekeeping
from gateway.life.housekeeping import Housekeeper
from gateway.life.problems import Problems
from gateway.paths import Paths, read_endpoints
from gateway.store.pace import Pace

CONNECTED = LinkState(True, True, None, "connected")
AWAY = LinkState(False, True, None, "no WELCOME in time")
SKEWED = LinkState(False, False, None, "the guard speaks version 9")


class FakeNotifier:
    """Counts what the service manager would get."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self.ready_with = ""
        self.alive_count = 0

    def ready(self, status: str) -> None:
        self.ready_with = status

    def alive(self) -> None:
        self.alive_count += 1


class Bench:
    """A housekeeper whose gateway is made of what a test sets."""

    def __init__(self, directory: Path, notifier: FakeNotifier) -> None:
        self.paths = Paths(directory, directory)
        self.problems = Problems()
        self.guard = GuardState(alive=True, pid=77)
        self.link = CONNECTED
        stats = SimpleNamespace(trouble="EIO", bytes_written=1_000)
        self.stores = SimpleNamespace(ok=True, stats=lambda: stats, mishaps=(0, ""))
        self.recorder = SimpleNamespace(rounds=0)
        gateway: Any = SimpleNamespace(
            paths=self.paths,
            problems=self.problems,
            config=SimpleNamespace(site=SimpleNamespace(id="north-shaft")),
            supervisor=SimpleNamespace(state=lambda: self.guard),
            link=SimpleNamespace(state=lambda: self.link),
            ledger=self.stores,
            history=SimpleNamespace(ok=True, stats=lambda: stats, begun_anew="", mishaps=(0, "")),
            paces={"ledger": Pace(), "history": Pace()},
            recorder=self.recorder,
            http="",
            started_utc_ns=5,
        )
        typed: Any = notifier
        self.gateway = gateway
        self.keeper = Housekeeper(gateway, typed)

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not wanted():  # noqa: ASYNC110  another task is looked at
                await asyncio.sleep(0.002)

    def told(self, kind: str, ident: str) -> bool:
        return any((p.kind, p.ident) == (kind, ident) for p in self.problems.active())


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(housekeeping, "LOOK_S", 0.005)
    made = Bench(tmp_path, FakeNotifier())
    monkeypatch.setattr(housekeeping, "DISK_LOOK_S", 0.005)
    tasks = [asyncio.create_task(look()) for look in (made.keeper.run, made.keeper.disk)]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_endpoints_are_there_when_ready_and_follow_the_guard(bench: Bench) -> None:
    path = bench.paths.endpoints
    assert not path.exists()
    bench.keeper.ready()
    found = read_endpoints(path)
    assert found is not None
    assert (found.pid, found.guard_pid, found.site, found.http) == (
        os.getpid(), 77, "north-shaft", "",
    )  # fmt: skip
    bench.guard = GuardState(alive=True, pid=78)
    bench.gateway.http = "http://127.0.0.1:4711"

    def follows() -> bool:
        now = read_endpoints(path)
        return now is not None and (now.guard_pid, now.http) == (78, "http://127.0.0.1:4711")

    await bench.until(follows)
    bench.guard = GuardState(alive=False, pid=78)
    await bench.until(lambda: (now := read_endpoints(path)) is not None and now.guard_pid == 0)
    bench.keeper.remove_endpoints()
    assert not path.exists()


async def test_link_and_version_are_told_and_cleared(bench: Bench) -> None:
    bench.link = AWAY
    await bench.until(lambda: bench.told("guard", "link"))
    bench.link = SKEWED
    await bench.until(lambda: bench.told("guard", "version"))
    bench.link = CONNECTED
    await bench.until(lambda: bench.problems.active() == [])


async def test_a_guard_that_is_gone_is_no_missing_link(bench: Bench) -> None:
    bench.guard, bench.link = GuardState(alive=False), AWAY
    await asyncio.sleep(0.2)
    assert bench.problems.active() == []


async def test_a_store_that_is_full_is_told_and_cleared(bench: Bench) -> None:
    bench.stores.ok = False
    await bench.until(lambda: bench.told("store", "ledger"))
    assert bench.problems.active()[0].text.endswith("EIO")
    assert not bench.told("store", "history")
    bench.stores.ok = True
    await bench.until(lambda: bench.problems.active() == [])


async def test_a_store_that_was_mended_is_told_as_a_store(bench: Bench) -> None:
    told: list[tuple[str, str, str]] = []
    bench.problems.event = lambda kind, ident, text, **_: told.append((kind, ident, text))  # type: ignore[method-assign]
    bench.stores.mishaps = (1, "ledger.db was deleted")
    await bench.until(lambda: bool(told))
    assert told == [("store", "ledger", "ledger.db was deleted")]


@pytest.mark.parametrize(
    ("blocks", "free", "files", "full"),
    [
        (1 << 30, 4096, 10, False),  # 16 MiB free of 4 TiB
        (1 << 30, 4095, 10, True),
        (25_600, 800, 10, False),  # 3 MiB free of 100 MiB
        (25_600, 799, 10, True),
        (1 << 30, 1 << 20, 0, True),  # no inode left
    ],
)
async def test_a_full_disk_is_told_and_cleared(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, files: int, full: bool
) -> None:
    state = SimpleNamespace(
        f_frsize=4096, f_blocks=blocks, f_bavail=free, f_files=1000, f_favail=files
    )
    loop, looked = asyncio.get_running_loop(), asyncio.Event()

    def statvfs(_: object) -> SimpleNamespace:
        loop.call_soon_threadsafe(looked.set)
        return state

    monkeypatch.setattr(os, "statvfs", statvfs)
    for _ in range(2):  # the second follows what the first has told
        looked.clear()
        await looked.wait()
    assert bench.told("store", "disk") == full
    state.f_bavail, state.f_favail = blocks // 2, 10
    await bench.until(lambda: bench.problems.active() == [])


async def test_a_disk_that_hangs_holds_up_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, on = threading.Event(), threading.Event()

    def statvfs(_: object) -> None:
        hangs.set()
        on.wait()
        raise OSError

    monkeypatch.setattr(os, "statvfs", statvfs)
    try:
        await bench.until(hangs.is_set)
        bench.link = SKEWED
        await bench.until(lambda: bench.told("guard", "version"))
    finally:
        on.set()


async def test_the_watchdog_is_fed_only_while_the_recorder_makes_rounds(tmp_path: Path) -> None:
    notifier = FakeNotifier(0.02)
    made = Bench(tmp_path, notifier)
    task = asyncio.create_task(made.keeper.watchdog())
    for _ in range(3):
        fed = notifier.alive_count
        made.recorder.rounds += 1
        await made.until(lambda fed=fed: notifier.alive_count > fed)  # type: ignore[misc]
    await asyncio.sleep(0.05)
    fed = notifier.alive_count
    await asyncio.sleep(0.1)
    assert notifier.alive_count == fed
    made.recorder.rounds += 1
    await made.until(lambda: notifier.alive_count > fed)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
