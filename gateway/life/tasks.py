"""The gateway's tasks, each kept alive: an end that nobody asked for is logged, alerted, mended."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.life.problems import Problems

_LOGGER = logging.getLogger(__name__)

RESTART_S: Final = (0.0, 1.0, 2.0, 5.0)
STABLE_S: Final = 10.0  # so long without a failure counts as mended

Job = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class TaskStats:
    """One task's life."""

    starts: int = 0
    failures: int = 0


class Tasks:
    """Runs jobs that are meant to run for ever, and starts each again when it ends."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._told_to_end: set[asyncio.Task[None]] = set()
        self.stats: dict[str, TaskStats] = {}

    def start(self, name: str, job: Job) -> None:
        """Run ``job`` under ``name``, unique among the tasks, until :meth:`stop`."""
        self.stats[name] = TaskStats()
        self._tasks[name] = asyncio.create_task(self._keep(name, job), name=name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the jobs that run."""
        return tuple(self._tasks)

    async def stop(self, wait_s: float, *names: str) -> None:
        """Cancel the named tasks (none: all) and wait; who does not end in time is logged."""
        chosen = {name: self._tasks.pop(name) for name in names or tuple(self._tasks)}
        for task in chosen.values():
            self._told_to_end.add(task)
            task.add_done_callback(self._told_to_end.discard)
            task.cancel()
        if not chosen:
            return
        _, pending = await asyncio.wait(chosen.values(), timeout=wait_s)
        for task in pending:
            _LOGGER.error("task %s does not end", task.get_name())

    async def _keep(self, name: str, job: Job) -> None:
        stats = self.stats[name]
        loop = asyncio.get_running_loop()
        failures = 0  # in a row
        while True:
            stats.starts += 1
            mended = loop.call_later(STABLE_S, self._mended, name)
            started_s = loop.time()
            try:
                text = await self._run_once(name, job)
            finally:
                mended.cancel()
            failures = 0 if loop.time() - started_s >= STABLE_S else failures
            stats.failures += 1
            self._problems.raised("task", name, text)
            await self._pause(RESTART_S[min(failures, len(RESTART_S) - 1)])
            failures += 1

    async def _run_once(self, name: str, job: Job) -> str:
        """What ended the job; only our own cancellation passes through."""
        try:
            await job()
        except asyncio.CancelledError:
            if self._is_told_to_end():
                raise
            return f"task {name} was cancelled from inside and is started again"
        except Exception as error:
            _LOGGER.exception("task %s failed", name)
            if self._is_told_to_end():  # a group that fails at its end hides that it was told so
                raise asyncio.CancelledError from error
            found = _innermost(error)
            return f"task {name} failed and is started again: {type(found).__name__}: {found}"
        return f"task {name} ended by itself and is started again"

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if self._is_told_to_end():
                raise

    def _is_told_to_end(self) -> bool:
        """Whether it was :meth:`stop` that cancelled the present task.

        Its own count does not tell: until Python 3.13 a group that failed leaves one behind.
        """
        task = asyncio.current_task()
        if task in self._told_to_end:
            return True
        while task is not None and task.cancelling():
            task.uncancel()
        return False

    def _mended(self, name: str) -> None:
        self._problems.cleared("task", name, f"task {name} runs again")


def _innermost(error: Exception) -> Exception:
    """The first of a group's: a group says nothing of its own."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
