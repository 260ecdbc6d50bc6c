"""A step that a cancelled caller does not divide: what it stores and what it then forgets."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def undivided(lock: asyncio.Lock, step: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run ``step`` under the lock, to its end.

    Cancelling the caller leaves it running, and the lock with it: a database job goes on all the
    same, and what follows it in memory must not be left out. Before it has begun, nothing is done.
    """
    await lock.acquire()
    task = asyncio.create_task(step())
    task.add_done_callback(lambda done: _ended(lock, done))
    return await asyncio.shield(task)


def _ended(lock: asyncio.Lock, done: "asyncio.Task[Any]") -> None:
    lock.release()
    if not done.cancelled():
        done.exception()  # a caller that was cancelled does not come for it
