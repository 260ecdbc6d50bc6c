"""A start that takes long: the service manager waits for it as long as its threads work."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.life.sd_notify import Notifier

LOOK_S: Final = 5.0
EXTEND_S: Final = 30.0  # after the last look that saw progress
_TASKS: Final = Path("/proc/self/task")
_TICKS_AT: Final = slice(11, 13)  # utime and stime, counted behind the command's name


@contextlib.asynccontextmanager
async def extended(
    notifier: "Notifier", worked: "Callable[[], int] | None" = None
) -> AsyncIterator[None]:
    """While inside, the start's time is extended whenever ``worked`` (ticks) has moved.

    Databases are brought forward, salvaged and read by threads: one that hangs uses no processor,
    and the service manager ends a start that only waits.
    """
    watch = asyncio.create_task(_extend(notifier, worked or thread_ticks), name="start watch")
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait({watch})


def thread_ticks() -> int:
    """Clock ticks (1/100 s) that all threads but the first have used; those that ended are out.

    Raises OSError where they cannot be listed.
    """
    ticks = 0
    for task in _TASKS.iterdir():
        if task.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # ended meanwhile
            words = (task / "stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, words[_TICKS_AT]))
    return ticks


async def _extend(notifier: "Notifier", worked: Callable[[], int]) -> None:
    before: int | None = None
    while True:
        with contextlib.suppress(OSError):  # no descriptor for it now: looked at again
            now = worked()
            if before not in (None, now):
                notifier.extend(EXTEND_S)
            before = now
        await asyncio.sleep(LOOK_S)
