"""The guard's life with stand-in guards: real processes, their header given by the test."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import paths as paths_module
from gateway.guard import supervise
from gateway.guard.process import GUARD_MODULE, GuardProcess, guard_command
from gateway.guard.supervise import GuardState, GuardSupervisor
from gateway.life.problems import Problems
from gateway.paths import Paths

SLEEPER = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time, pathlib, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
)
STOPPED = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('stop')"


@dataclass
class FakeView:
    """What guard.shm would say: a header of ``pid`` whose scan number grows at each look."""

    pid: int = 0
    scanning: bool = True
    alive: bool = False
    scan: int = 0

    def __call__(self) -> Any:
        return self

    def guard_alive(self) -> bool:
        return self.alive

    def header(self) -> SimpleNamespace:
        self.scan += self.scanning
        return SimpleNamespace(pid=self.pid, scan=self.scan)


@pytest.fixture
def site(tmp_path: Path) -> Paths:
    site = Paths(tmp_path / "run", tmp_path / "state")
    paths_module.prepare(site)
    return site


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "RESTART_S", (0.0, 0.01, 0.02))
    monkeypatch.setattr(supervise, "LOOK_S", 0.01)
    monkeypatch.setattr(supervise, "START_LOOK_S", 0.01)
    monkeypatch.setattr(supervise, "WATCH_S", 0.01)
    monkeypatch.setattr(supervise, "TERM_S", 1.0)


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


@contextlib.asynccontextmanager
async def running(supervisor: GuardSupervisor) -> AsyncIterator[None]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await supervisor.stop()


def other_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen(python(SLEEPER, GUARD_MODULE), start_new_session=True)


async def poll(wanted: Callable[[], bool]) -> None:
    while not wanted():  # noqa: ASYNC110  another process is looked at
        await asyncio.sleep(0.005)


async def until(supervisor: GuardSupervisor, wanted: Callable[[GuardState], bool]) -> GuardState:
    await poll(lambda: wanted(supervisor.state()))
    return supervisor.state()


async def until_problem(problems: Problems, ident: str, *, gone: bool = False) -> str:
    while True:
        texts = [problem.text for problem in problems.active() if problem.ident == ident]
        if bool(texts) != gone:
            return texts[0] if texts else ""
        await asyncio.sleep(0.005)


async def test_a_guard_that_was_killed_is_started_again_at_once(
    site: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "RESTART_S", (0.0, 60.0))
    view, problems = FakeView(), Problems()
    supervisor = GuardSupervisor(site, view, problems, command=python(SLEEPER))
    async with running(supervisor):
        first = await until(supervisor, lambda state: state.alive)
        os.kill(first.pid, signal.SIGKILL)
        text = await until_problem(problems, "guard")
        second = await until(supervisor, lambda state: state.alive and state.pid != first.pid)
        view.pid = second.pid
        await until_problem(problems, "guard", gone=True)
    assert text == f"guard {first.pid} was ended by SIGKILL"
    assert (second.starts, second.adopted) == (2, False)
    assert not supervisor.state().alive


async def test_the_guard_is_in_a_session_of_its_own_without_our_notify_socket(
    site: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@ours")
    code = (
        "import os, pathlib, sys, time; path = pathlib.Path(sys.argv[1]);"
        "new = path.with_suffix('.new'); socket = os.environ.get('NOTIFY_SOCKET');"
        "new.write_text(f'{os.getsid(0)} {socket}'); new.rename(path); time.sleep(60)"
    )
    told = tmp_path / "told"
    supervisor = GuardSupervisor(site, FakeView(), Problems(), command=python(code, told))
    async with running(supervisor):
        state = await until(supervisor, lambda state: state.alive)
        await poll(told.exists)
    assert told.read_text() == f"{state.pid} None"


async def test_a_running_guard_is_adopted_and_ended(site: Paths) -> None:
    with other_guard() as other:
        view = FakeView(pid=other.pid, alive=True)
        supervisor = GuardSupervisor(site, view, Problems(), command=["/no/such/guard"])
        async with running(supervisor):
            state = await until(supervisor, lambda state: state.alive)
            view.alive = False
        assert (state.pid, state.adopted, state.starts) == (other.pid, True, 0)
        assert other.wait() == -signal.SIGTERM


async def test_another_process_with_the_guards_old_pid_is_not_adopted(site: Paths) -> None:
    view = FakeView(pid=os.getpid(), alive=True)
    supervisor = GuardSupervisor(site, view, Problems(), command=python(SLEEPER))
    async with running(supervisor):
        state = await until(supervisor, lambda state: state.alive)
        assert not state.adopted


async def test_attached_guard_is_left_alone_and_missed(
    site: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "ATTACH_GRACE_S", 0.05)
    problems = Problems()
    with other_guard() as other:
        view = FakeView(pid=other.pid)
        supervisor = GuardSupervisor(site, view, problems, attach=True)
        async with running(supervisor):
            assert "waiting for its unit" in await until_problem(problems, "guard")
            view.alive = True
            await until(supervisor, lambda state: state.alive)
            await until_problem(problems, "guard", gone=True)
        assert other.poll() is None
        other.kill()


async def test_a_guard_that_stopped_on_purpose_stays_stopped(site: Paths) -> None:
    site.clean_stop.write_text("of an earlier life")
    problems = Problems()
    supervisor = GuardSupervisor(
        site, FakeView(), problems, command=python(STOPPED, site.clean_stop)
    )
    async with running(supervisor):
        state = await until(supervisor, lambda state: state.stopped)
        assert "on purpose" in await until_problem(problems, "guard")
        await asyncio.sleep(0.1)
        assert supervisor.state() == state
    assert state.starts == 1


async def test_the_alert_stands_until_it_lives_and_each_death_is_a_line(
    site: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    problems = Problems()
    supervisor = GuardSupervisor(site, FakeView(), problems, command=python("raise SystemExit(7)"))
    async with running(supervisor):
        await until(supervisor, lambda state: state.starts >= 4)
    assert problems.raised_total["guard"] == 1
    lines = [record for record in caplog.records if "exit status 7" in record.getMessage()]
    assert len(lines) >= 3


async def test_an_old_clean_stop_file_excuses_nobody(site: Paths) -> None:
    site.clean_stop.write_text("of an earlier life")
    problems = Problems()
    supervisor = GuardSupervisor(site, FakeView(), problems, command=python("pass"))
    async with running(supervisor):
        await until(supervisor, lambda state: state.starts >= 3)
    assert problems.active()[0].text.endswith("ended with exit status 0")
    assert problems.raised_total["guard"] == 1


async def test_a_guard_without_scans_is_told_and_killed(site: Paths) -> None:
    view, problems = FakeView(), Problems()
    supervisor = GuardSupervisor(site, view, problems, command=python(SLEEPER))
    async with running(supervisor):
        first = await until(supervisor, lambda state: state.alive)
        view.pid = first.pid
        await until_problem(problems, "guard", gone=True)
        view.scanning = False
        assert "no scans" in await until_problem(problems, "scan")
        second = await until(supervisor, lambda state: state.alive and state.starts == 2)
        view.scanning, view.pid = True, second.pid
        await until_problem(problems, "scan", gone=True)


async def test_a_guard_that_hangs_before_its_first_scan_is_told_and_killed(
    site: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "BEGIN_TOLD_S", 0.02)
    monkeypatch.setattr(supervise, "BEGIN_KILL_S", 0.2)
    view, problems = FakeView(), Problems()
    supervisor = GuardSupervisor(site, view, problems, command=python(SLEEPER))
    async with running(supervisor):
        assert "does not begin" in await until_problem(problems, "scan")
        second = await until(supervisor, lambda state: state.alive and state.starts == 2)
        view.pid = second.pid
        await until_problem(problems, "scan", gone=True)


async def test_a_guard_that_may_not_be_killed_is_watched_on(
    site: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended just now, or is another user's; the watch, and its descriptor, are not lost."""
    view, problems = FakeView(), Problems()
    supervisor = GuardSupervisor(site, view, problems, command=python(SLEEPER))
    tried = asyncio.Event()

    def refuses(*_: object) -> None:
        tried.set()
        raise PermissionError

    async with running(supervisor):
        first = await until(supervisor, lambda state: state.alive)
        view.pid = first.pid
        await until_problem(problems, "guard", gone=True)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pidfd_send_signal", refuses)
            view.scanning = False
            await tried.wait()
            view.scanning = True
            await until_problem(problems, "scan", gone=True)
        assert supervisor.state().starts == 1


async def test_a_guard_that_ignores_sigterm_is_killed(
    site: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervise, "TERM_S", 0.05)
    ready = tmp_path / "ready"
    supervisor = GuardSupervisor(site, FakeView(), Problems(), command=python(STUBBORN, ready))
    async with running(supervisor):
        await poll(ready.exists)
    assert "did not end by SIGTERM" in caplog.text
    assert not supervisor.state().alive


async def test_no_such_program_is_a_problem_not_an_end(site: Paths) -> None:
    problems = Problems()
    supervisor = GuardSupervisor(site, FakeView(), problems, command=["/no/such/guard"])
    async with running(supervisor):
        assert "cannot be started" in await until_problem(problems, "guard")


def test_a_guard_that_cannot_be_held_is_not_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def refuses(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuses)
    with pytest.raises(OSError, match="Too many"):
        GuardProcess.start(python(SLEEPER))
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_the_processor_goes_on_to_the_guards_command_line(site: Paths) -> None:
    assert guard_command(site, 3)[-2:] == ["--cpu", "3"]
    assert "--cpu" not in guard_command(site)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--guard-cpu", "999"], "CPU 999 does not exist, expected one of"),
        (["--guard-cpu", "0", "--attach"], "the guard is another unit's"),
    ],
)
def test_a_processor_that_cannot_be_is_refused(
    tmp_path: Path, options: list[str], words: str
) -> None:
    site_file = tmp_path / "site.toml"
    command = [sys.executable, "-m", "gateway", "run", str(site_file), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sitewarden run: --guard-cpu: ")
    assert words in done.stderr
