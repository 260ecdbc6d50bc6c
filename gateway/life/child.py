"""A child of a task group that is to run for as long as the group does.

A group takes a child that ends cancelled for one that has done its work. Where nobody cancelled it,
and what it awaited was (a library's future, given up by another of its tasks), it would be missing
from then on, and nobody would know.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def start_child(
    group: asyncio.TaskGroup, job: Callable[[], Coroutine[Any, Any, None]], name: str
) -> None:
    """Run ``job`` in the group, which fails with RuntimeError where it is cancelled from inside."""
    group.create_task(_run(job, name), name=name)


async def _run(job: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    try:
        await job()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        msg = f"{name} was cancelled from inside"
        raise RuntimeError(msg) from error
