"""The daemon's own tasks, all that a site of every kind has: each is broken, told and runs again.

The lists are taken from the running program, so that a new task is in them by itself.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.check import check_site
from gateway.daemon import Daemon
from gateway.errors import StoreError
from gateway.life import tasks as tasks_module
from gateway.life.tasks import Tasks
from gateway.paths import prepare, site_paths
from tests.helpers.harness import CONTACT, GAS, ROOT, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = pytest.mark.timeout(60)

TRIES, ALERT_S = 4, 5.0
TASKS_MIN = 18  # that such a site has
SLOW = """
[[device]]
id = "slow"
driver = "modbus-tcp"
address = "{address}"
poll = "50ms"

[[tag]]
id = "slow.count"
device = "slow"
point = {{ address = "hr:20" }}
signal = {{ kind = "counter", bits = 16 }}

[[tag]]
id = "slow.horn"
device = "slow"
point = {{ address = "c:40" }}

[[output]]
id = "horn"
device = "slow"
address = "c:41"
trip = true
normal = false
via = "gateway"
readback = "slow.horn"

[[interlock]]
id = "sound"
cause = "gas0 >= 3"
effects = ["horn"]
response = "30s"
armed = true

[[uplink]]
id = "spool"
kind = "file"
url = "file://{spool}"
"""


class InjectedError(Exception):
    """Thrown where a task waits."""


class Bench:
    """The running daemon, its tasks by name, and what was told of them."""

    def __init__(self, daemon: Any, ending: set[str]) -> None:
        self.daemon = daemon
        self._ending = ending  # jobs that are to end by themselves when they are cancelled

    @property
    def supervised(self) -> tuple[str, ...]:
        """Names of the tasks that the daemon watches."""
        found: tuple[str, ...] = self.daemon._tasks.names
        return found

    def starts(self, name: str) -> int:
        """How often a supervised one was started."""
        count: int = self.daemon._tasks.stats[name].starts
        return count

    def started(self, name: str, before: int) -> bool:
        """Whether it was, since ``starts`` said ``before``."""
        return self.starts(name) > before

    async def end(self, name: str) -> None:
        """Let a supervised one return."""
        self._ending.add(name)
        self.daemon._tasks._tasks[name].cancel()
        await asyncio.sleep(0)

    async def throw_into(self, name: str) -> None:
        """Let what a task waits for raise."""
        await until(f"{name} waits", partial(waits, name))
        waiter = waiter_of(name)
        assert waiter is not None
        waiter.set_exception(InjectedError(f"into {name}."))
        await asyncio.sleep(0)

    async def told(self, name: str, words: str) -> bool:
        """Whether an alert in the ledger names the task, or what was thrown, with these words."""
        with contextlib.suppress(StoreError):
            for item in await self.daemon.gateway.ledger.alerts(0, 10_000):
                alert = json.loads(item.body)
                if words in alert["cause"] and (f"task {name} " in alert["cause"]):
                    return True
        return False

    async def alerted(self, words: str) -> bool:
        """Whether any alert has these words."""
        with contextlib.suppress(StoreError):
            alerts = await self.daemon.gateway.ledger.alerts(0, 10_000)
            return any(words in json.loads(item.body)["cause"] for item in alerts)
        return False


def named(name: str) -> "asyncio.Task[Any] | None":
    """The newest living task of a name."""
    found = [task for task in asyncio.all_tasks() if task.get_name() == name and not task.done()]
    return found[0] if found else None


def waiter_of(name: str) -> "asyncio.Future[Any] | None":
    """What a task waits for, where that is nothing but a future."""
    task: Any = named(name)
    waiter = None if task is None else task._fut_waiter
    plain = waiter is not None and not waiter.done() and not isinstance(waiter, asyncio.Task)
    return waiter if plain else None


def waits(name: str) -> bool:
    """Whether a task of this name runs, and waits."""
    return waiter_of(name) is not None


def frames(task: "asyncio.Task[Any]") -> list[str]:
    """The files of what a task is in, from its own coroutine to where it waits."""
    found, coro = [], cast("Any", task.get_coro())
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        found.append(frame.f_code.co_filename)
        coro = coro.cr_await
    return found


def waits_for_tasks(name: str) -> bool:
    """Whether it only waits for a group of others, which raises what they raise."""
    task = named(name)
    return task is not None and frames(task)[-1].endswith("taskgroups.py")


@pytest.fixture
async def device() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as running:
        running.set_float("ir", GAS, 0.2)
        running.set("c", 16, 1)
        running.set("di", CONTACT, 1)
        running.link(16, CONTACT)
        await running.sync()
        yield running


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Jobs whose cancellation is to be an end by themselves."""
    monkeypatch.setattr(tasks_module, "RESTART_S", (0.0, 0.05))
    monkeypatch.setattr(tasks_module, "STABLE_S", 0.1)
    names: set[str] = set()
    start = Tasks.start

    def wrapped(tasks: Tasks, name: str, job: Callable[[], Awaitable[None]]) -> None:
        async def ends() -> None:
            try:
                await job()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if name not in names or task is None:
                    raise
                names.discard(name)
                task.uncancel()

        start(tasks, name, ends)

    monkeypatch.setattr(Tasks, "start", wrapped)
    return names


@pytest.fixture
async def bench(tmp_path: Path, device: ModbusServer, ending: set[str]) -> AsyncIterator[Bench]:
    (tmp_path / "spool").mkdir()
    site = tmp_path / "site.toml"
    extra = SLOW.format(address=device.address, spool=tmp_path / "spool")
    site.write_text(site_text([device.address], url="http://127.0.0.1:9/", extra=extra))
    paths = site_paths(tmp_path / "run", tmp_path / "state")
    prepare(paths)
    daemon = Daemon(site, check_site(site), paths, None)
    await daemon.start()
    yield Bench(daemon, ending)
    await daemon.stop()


async def test_one_that_ends_in_silence_is_told_by_name_and_runs_again(bench: Bench) -> None:
    assert len(bench.supervised) >= TASKS_MIN
    for name in bench.supervised:
        before = bench.starts(name)
        await bench.end(name)
        await until(f"{name} again", partial(bench.started, name, before))
        await until(f"an alert of {name}", partial(bench.told, name, "ended by itself"))


async def test_one_that_fails_where_it_waits_is_told_by_name_and_runs_again(bench: Bench) -> None:
    for name in bench.supervised:
        if waits_for_tasks(name):
            continue  # of its own: below
        await break_(bench, name)


async def test_the_tasks_of_tasks_are_told_and_run_again(bench: Bench) -> None:
    found = set(asyncio.all_tasks())
    await asyncio.sleep(0.5)
    names = {
        task.get_name()
        for task in found & asyncio.all_tasks()  # not those that live for one job
        if frames(task)[0].startswith((f"{ROOT}/gateway", f"{ROOT}/drivers"))
    } - set(bench.supervised)
    assert not any(name.startswith("Task-") for name in names), "a task without a name"
    assert {"store ledger.db", "store history.db", "recorder events", "spool/backlog"} <= names
    for name in sorted(names):
        await until(f"{name} runs", partial(waits, name))
        if not waits_for_tasks(name):
            await break_(bench, name)
    await until("nothing is wrong", lambda: not still_wrong(bench))
    assert bench.daemon.gateway.ledger.ok
    assert bench.daemon.gateway.history.ok


async def break_(bench: Bench, name: str) -> None:
    """Throw into a task until somebody is told; it runs again.

    What it waits for may take one for itself, and a device that is down already is told once.
    """
    for _ in range(TRIES):
        await until("nothing is wrong", lambda: not still_wrong(bench))
        await bench.throw_into(name)
        with contextlib.suppress(TimeoutError):
            await until("alert", partial(bench.alerted, f"into {name}."), ALERT_S)
            break
    assert await bench.alerted(f"into {name}."), f"nobody was told of {name}"
    await until(f"{name} again", partial(waits, name))


def still_wrong(bench: Bench) -> list[str]:
    """Problems that do not come from the site's own absent platform."""
    active = bench.daemon._problems.active()
    return [each.text for each in active if each.ident != "platform"]
