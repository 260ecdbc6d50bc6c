"""The guard's life: adopt the one that runs, start one, start it again when it died, end it.

The guard is a process in a session of its own and survives this one. One that left on purpose
(it leaves a clean-stop file) is not started again; with ``attach`` none is ever started or ended.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fastpath.codes import Counter
from gateway.guard.process import GuardProcess, guard_command, is_guard

if TYPE_CHECKING:
    from fastpath.journal import GuardView
    from gateway.life.problems import Problems
    from gateway.paths import Paths

_LOGGER = logging.getLogger(__name__)

RESTART_S: Final = (0.0, 1.0, 2.0, 5.0)
RESTART_AT_ONCE_S: Final = 0.2  # a guard that scanned for so long is restarted at once
HEALED_LOOKS: Final = 5  # with scans, WATCH_S apart: then the alert about its death is over
LOOK_S: Final = 0.25  # how often a guard to adopt is looked for
ATTACH_GRACE_S: Final = 5.0  # both units may start at the same time
START_LOOK_S: Final = 0.02
WATCH_S: Final = 1.0
SCANLESS_LOOKS_ALERT: Final = 3  # consecutive looks, WATCH_S apart, without a new scan
SCANLESS_LOOKS_KILL: Final = 10
BEGIN_TOLD_S: Final = 10.0  # a guard whose header does not show it
BEGIN_KILL_S: Final = 60.0  # a slow machine with a slow disk starts within less
TERM_S: Final = 1.5
KILL_S: Final = 0.5
_EXIT_ALREADY_RUNNING: Final = 3


@dataclass(frozen=True, slots=True)
class GuardState:
    """The guard as the supervisor knows it."""

    alive: bool = False
    pid: int = 0
    adopted: bool = False  # it ran before this gateway, or another process started it
    stopped: bool = False  # it left on purpose and is not started again
    starts: int = 0  # by this gateway
    text: str = "not started yet"


class GuardSupervisor:
    """Keeps one guard running for ``paths``.

    ``view`` gives the mapped guard.shm. ``on_scans`` is called when a guard has begun to scan.
    ``cpu``: what a guard that is started here scans on, None: any. ``command`` replaces the guard's
    command line in tests.
    """

    def __init__(
        self,
        paths: "Paths",
        view: "Callable[[], GuardView | None]",
        problems: "Problems",
        *,
        attach: bool = False,
        on_scans: Callable[[], None] | None = None,
        cpu: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._paths = paths
        self._view = view
        self._problems = problems
        self._attach = attach
        self._on_scans = on_scans
        self._cpu = cpu
        self._command = list(command or guard_command(paths, cpu))
        self._state = GuardState()
        self._guard: GuardProcess | None = None
        self._clean_stop_before: tuple[int, int] | None = None
        self._failures = 0
        self._missed = False  # the alert about it stands
        self._looks = 0  # for a guard to attach to, in vain

    def state(self) -> GuardState:
        """The guard as known now."""
        return self._state

    @property
    def attach(self) -> bool:
        """True where the guard is another unit's business."""
        return self._attach

    async def run(self) -> None:
        """Adopt or start, watch, start again; returns only by cancellation."""
        while True:
            if not self._adopt() and not await self._start():
                await asyncio.sleep(LOOK_S)
                continue
            scanned_s = await self._watch()
            self._ended()
            self._failures = 0 if scanned_s >= RESTART_AT_ONCE_S else self._failures + 1

    async def stop(self) -> None:
        """End the guard, SIGTERM first, in 2 s at most; with ``attach`` leave it running."""
        if self._guard is None:
            return
        if self._attach:
            await self.release()
            return
        await self._end(self._guard)
        self._forget()
        self._state = replace(self._state, alive=False, text="ended with the gateway")

    async def release(self) -> None:
        """Let the guard go on alone."""
        self._forget()

    # Start and end

    def _adopt(self) -> bool:
        view = self._view()
        if view is None or not view.guard_alive():
            return False
        pid = view.header().pid
        before = self._guard  # of a watch that was broken off
        child = before.child if before is not None and before.pid == pid else None
        try:
            guard = GuardProcess(pid, child)
        except OSError:
            return False  # not there any more, or not yet in the header
        if not is_guard(pid):
            guard.let_go()  # an earlier guard's pid, taken by another process since
            return False
        self._forget()
        self._guard = guard
        self._clean_stop_before = self._clean_stop()
        self._set_running(pid, adopted=True)
        _LOGGER.info("guard %d adopted", pid)
        if self._cpu is not None and view.header().counters[Counter.CPU] != self._cpu + 1:
            _LOGGER.warning(
                "guard %d does not scan on CPU %d: it ran before, and binds only when it starts",
                pid,
                self._cpu,
            )
        return True

    async def _start(self) -> bool:
        if self._attach:
            self._looks += 1
            if self._looks * LOOK_S >= ATTACH_GRACE_S:
                self._missing("no guard runs; waiting for its unit")
            return False
        if self._state.stopped:
            return False
        await asyncio.sleep(RESTART_S[min(max(self._failures - 1, 0), len(RESTART_S) - 1)])
        self._clean_stop_before = self._clean_stop()
        self._forget()  # what a watch that was broken off has left
        try:
            self._guard = guard = GuardProcess.start(self._command)
        except OSError as error:
            self._missing(f"the guard cannot be started: {error.strerror}")
            self._failures += 1
            return False
        self._set_running(guard.pid, adopted=False)
        _LOGGER.info("guard %d started", guard.pid)
        return True

    async def _end(self, guard: GuardProcess) -> None:
        for number, wait_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            try:
                guard.send(number)
            except ProcessLookupError:
                return
            except OSError as error:
                _LOGGER.error("guard %d is left running: %s", guard.pid, error.strerror)
                return
            if await guard.ended(wait_s):
                return
            _LOGGER.warning("guard %d did not end by %s in time", guard.pid, number.name)

    def _set_running(self, pid: int, *, adopted: bool) -> None:
        self._looks = 0
        self._state = GuardState(
            alive=True,
            pid=pid,
            adopted=adopted,
            starts=self._state.starts + (not adopted),
            text="adopted" if adopted else "started",
        )

    def _ended(self) -> None:
        code = self._guard.exit_status if self._guard is not None else None
        pid = self._state.pid
        self._forget()
        if code == _EXIT_ALREADY_RUNNING:
            text = f"guard {pid} found another guard running"
            self._state = replace(self._state, alive=False, text=text)
            _LOGGER.warning(text)
            return
        if code in (None, 0) and self._clean_stop() not in (None, self._clean_stop_before):
            text = "the guard was stopped on purpose; the next run starts it again"
            self._state = replace(self._state, alive=False, stopped=not self._attach, text=text)
            self._problems.raised("guard", "guard", text, priority="critical")
            return
        self._missing(f"guard {pid} {_how(code)}")

    def _missing(self, text: str) -> None:
        if self._state.alive and self._missed:
            _LOGGER.warning(text)  # the alert stands; each death is a line all the same
        self._missed = True
        self._state = replace(self._state, alive=False, text=text)
        self._problems.raised("guard", "guard", text, priority="critical")

    def _forget(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.let_go()

    def _clean_stop(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._paths.clean_stop)
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns)

    # Watching

    async def _watch(self) -> float:
        """Return when the guard has ended, for how long it scanned; meanwhile see that it does."""
        scan, scanless, looks = -1, 0, 0
        begun_s: float | None = None
        since_s = time.monotonic()
        while not await self._over(START_LOOK_S if begun_s is None else WATCH_S):
            now = self._scan()
            if begun_s is None:
                if now is not None:
                    begun_s, scan = time.monotonic(), now
                    if self._on_scans is not None:
                        self._on_scans()
                elif self._judge_begin(time.monotonic() - since_s):
                    since_s = time.monotonic()
                continue
            scanless = 0 if now != scan else scanless + 1
            scan = now if now is not None else scan
            self._judge(scanless)
            looks = looks + 1 if scanless == 0 else 0
            if looks == HEALED_LOOKS:  # not sooner, or a guard that dies again and again floods
                text = f"guard {self._state.pid} scans"
                self._missed = False
                self._problems.cleared("guard", "guard", text)
        return time.monotonic() - begun_s if begun_s is not None else 0.0

    async def _over(self, wait_s: float) -> bool:
        """True as soon as the guard has ended or was let go, False after ``wait_s``."""
        return self._guard is None or await self._guard.ended(wait_s)

    def _judge(self, scanless: int) -> None:
        if scanless == 0:
            self._problems.cleared("guard", "scan", "the guard scans again")
        elif scanless == SCANLESS_LOOKS_ALERT:
            text = f"guard {self._state.pid} makes no scans"
            self._problems.raised("guard", "scan", text, priority="critical")
        elif scanless == SCANLESS_LOOKS_KILL and not self._attach:
            self._kill("no scan for long")

    def _judge_begin(self, waited_s: float) -> bool:
        """Of a guard that hangs before its header is there; True where it was killed."""
        if waited_s >= BEGIN_TOLD_S:
            text = f"guard {self._state.pid} does not begin to scan"
            self._problems.raised("guard", "scan", text, priority="critical")
        if waited_s < BEGIN_KILL_S or self._attach:
            return False
        self._kill("it does not begin to scan")
        return True

    def _kill(self, why: str) -> None:
        _LOGGER.error("guard %d is killed: %s", self._state.pid, why)
        if self._guard is not None:
            with contextlib.suppress(OSError):  # it has ended, or it is another user's
                self._guard.send(signal.SIGKILL)

    def _scan(self) -> int | None:
        """The number of this guard's newest scan; None until its own header is there."""
        view = self._view()
        if view is None:
            return None
        header = view.header()
        return header.scan if header.pid == self._state.pid else None


def _how(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
