"""Tasks that end: started again, told, and never in silence."""

import asyncio

import pytest

from gateway.life import tasks as tasks_module
from gateway.life.problems import Problems
from gateway.life.tasks import Tasks


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "RESTART_S", (0.0, 0.01))
    monkeypatch.setattr(tasks_module, "STABLE_S", 0.05)


@pytest.mark.parametrize("end", ["raise", "return", "cancel"])
async def test_every_kind_of_end_is_mended(end: str) -> None:
    problems, starts, third = Problems(), [], asyncio.Event()

    async def job() -> None:
        starts.append(1)
        if len(starts) >= 3:
            third.set()
            await asyncio.Event().wait()
        if end == "raise":
            raise ValueError("odd")
        if end == "cancel":
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    tasks = Tasks(problems)
    tasks.start("recorder", job)
    await third.wait()
    [problem] = problems.active()
    expected = {"raise": "ValueError: odd", "return": "ended by itself", "cancel": "cancelled"}
    assert (problem.kind, problem.ident) == ("task", "recorder")
    assert expected[end] in problem.text
    while problems.active():  # noqa: ASYNC110  the task's own timer clears it
        await asyncio.sleep(0.005)
    assert (tasks.stats["recorder"].starts, tasks.stats["recorder"].failures) == (3, 2)
    await tasks.stop(1.0)


async def test_stop_ends_the_named_ones_first_and_names_who_does_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()
    ended: list[str] = []

    async def willing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("willing")

    async def unwilling() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    tasks = Tasks(Problems())
    tasks.start("willing", willing)
    tasks.start("unwilling", unwilling)
    await asyncio.sleep(0)
    await tasks.stop(1.0, "willing")
    assert ended == ["willing"]
    [left] = [task for task in asyncio.all_tasks() if task.get_name() == "unwilling"]
    await tasks.stop(0.01)
    assert "task unwilling does not end" in caplog.text
    release.set()
    await asyncio.wait({left})


async def test_a_group_that_fails_while_it_is_stopped_is_not_started_again() -> None:
    waiting = asyncio.Event()

    async def child() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            raise ValueError("odd")

    async def job() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    problems = Problems()
    tasks = Tasks(problems)
    tasks.start("recorder", job)
    await waiting.wait()
    await tasks.stop(1.0)
    assert tasks.stats["recorder"].starts == 1
    assert problems.active() == []


async def test_what_a_failed_group_leaves_behind_is_no_word_to_stop() -> None:
    """The cancellation of a group's own stays counted; the next one from inside is none of ours."""
    starts, third = [], asyncio.Event()

    async def child() -> None:
        raise ValueError("odd")

    async def job() -> None:
        starts.append(1)
        if len(starts) == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        if len(starts) == 2:
            raise asyncio.CancelledError
        third.set()
        await asyncio.Event().wait()

    tasks = Tasks(Problems())
    tasks.start("recorder", job)
    await asyncio.wait_for(third.wait(), 5)
    await tasks.stop(1.0)
