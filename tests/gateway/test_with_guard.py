"""Link, supervisor and program against the real guard, no device and no gateway around them."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastpath import blob, messages
from fastpath.codes import Counter, InterlockState, MessageType, Owner, RecordMode, ResultCode
from gateway import paths as paths_module
from gateway.guard import supervise
from gateway.guard.apply import Applier, Running
from gateway.guard.link import GuardLink
from gateway.guard.sharedview import SharedView
from gateway.guard.supervise import GuardSupervisor
from gateway.life.problems import Problems
from gateway.orders.direct import send_directly
from gateway.paths import Paths

KEY = blob.key_of("interlock", "wind")
TAGS = {"wind": 0}


def program() -> bytes:
    """One unarmed interlock on a tag that the gateway feeds: wind >= 20 for people to see."""
    return blob.build(
        blob.Program(
            site_key=blob.key_of("site", "s"),
            tick_ns=10_000_000,
            start_within_ns=5_000_000_000,
            tags=[
                blob.Tag(
                    key=blob.key_of("tag", "wind"),
                    stale_after_ns=60_000_000_000,
                    owner=Owner.GATEWAY,
                    record=RecordMode.ALL,
                )
            ],
            code=[
                blob.Instruction(op=2, dst=0, a=0),
                blob.Instruction(op=1, dst=1, imm=20.0),
                blob.Instruction(op=36, dst=2, a=0, b=1),
            ],
            interlocks=[
                blob.Interlock(
                    key=KEY,
                    fingerprint=1,
                    delay_ns=0,
                    bad_for_ns=0,
                    hold_max_ns=0,
                    min_trip_ns=0,
                    response_ns=1_000_000_000,
                    bypass_max_ns=0,
                    order=0,
                    cause=2,
                    permissive=0xFFFFFFFF,
                    group=0xFFFFFFFF,
                    flags=1,
                    on_bad=1,
                    legs_first=0,
                    legs_count=0,
                    effects_first=0,
                    effects_count=0,
                )
            ],
            names={"tags": ["wind"], "interlocks": ["wind"]},
        )
    )


class Audit:
    """A ledger that takes every command."""

    async def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        return 1

    async def command_result(self, seq: int, code: int, text: str) -> None: ...


@dataclass
class Bench:
    """Supervisor, link and applier on one site, as the daemon wires them."""

    paths: Paths
    view: SharedView
    problems: Problems
    supervisor: GuardSupervisor
    link: GuardLink
    applier: Applier
    running: list[Running]
    nudges: list[tuple[int, int]]

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not wanted():  # noqa: ASYNC110  another process is looked at
                await asyncio.sleep(0.005)

    def runs(self, digest: bytes) -> bool:
        view = self.view()
        return view is not None and view.guard_alive() and view.header().program == digest


@contextlib.asynccontextmanager
async def bench(site: Paths, wanted: bytes) -> AsyncIterator[Bench]:
    view, problems = SharedView(site.guard_shm), Problems()
    supervisor = GuardSupervisor(site, view, problems)
    running: list[Running] = []
    nudges: list[tuple[int, int]] = []
    link = GuardLink(
        site.guard_sock,
        on_nudge=lambda events, samples: nudges.append((events, samples)),
        on_state=lambda _: applier.wake(),
    )
    applier = Applier(site, wanted, TAGS, link, view, Audit(), problems, running.append)
    tasks = [asyncio.create_task(job()) for job in (supervisor.run, link.run, applier.run)]
    try:
        yield Bench(site, view, problems, supervisor, link, applier, running, nudges)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await supervisor.stop()
        view.close()


@pytest.fixture
async def guarded(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(supervise, "WATCH_S", 0.05)
    with tempfile.TemporaryDirectory(prefix="sitewarden", dir="/dev/shm") as name:
        site = Paths(Path(name) / "run", Path(name) / "state")
        paths_module.prepare(site)
        async with bench(site, program()) as made:
            await made.applier.settled.wait()
            yield made


DIGEST = blob.blob_hash(program())


async def test_the_first_program_is_loaded_and_kept(guarded: Bench) -> None:
    await guarded.until(lambda: guarded.runs(DIGEST))
    await guarded.until(guarded.paths.last_good.exists)
    assert guarded.paths.last_good.read_bytes() == program()
    assert guarded.running[-1].names["tags"] == ["wind"]
    assert list(guarded.running[-1].slots) == [0]
    assert guarded.problems.active() == []


async def test_samples_reach_the_image_and_trip(guarded: Bench) -> None:
    await guarded.until(lambda: guarded.runs(DIGEST))
    running = guarded.running[-1]
    view = guarded.view()
    assert view is not None
    now = asyncio.get_running_loop().time()
    stamp = int(now * 1e9)
    guarded.link.send_samples(messages.SAMPLE.pack(0, 2, 0, 0, 3.5, stamp, 1), running.number)
    await guarded.until(lambda: view.slot(0).value == 3.5)
    assert view.interlock(0).state == InterlockState.NORMAL
    guarded.link.send_samples(messages.SAMPLE.pack(0, 2, 0, 0, 25.0, stamp + 1, 2), running.number)
    await guarded.until(lambda: view.interlock(0).state == InterlockState.TRIPPED)
    guarded.link.send_samples(
        messages.SAMPLE.pack(0, 2, 0, 0, 1.0, stamp + 2, 3), running.number ^ 1
    )
    await guarded.until(lambda: view.header().counters[Counter.SAMPLE_PROGRAM] > 0)
    assert view.slot(0).value == 25.0
    assert guarded.nudges


async def test_commands_and_the_direct_trip_are_answered(guarded: Bench) -> None:
    await guarded.until(lambda: guarded.runs(DIGEST))
    body = messages.command(KEY, who="0", generation=1, ledger_seq=1)
    unknown = messages.command(KEY ^ 1, who="0")
    assert (await guarded.link.command(MessageType.TRIP, unknown)).code == ResultCode.UNKNOWN_KEY
    result = await asyncio.to_thread(
        send_directly, guarded.paths.guard_sock, MessageType.TRIP, KEY, "0"
    )
    assert (result.code, result.type) == (ResultCode.DONE, MessageType.TRIP)
    assert guarded.link.state().connected
    refused = await guarded.link.command(
        MessageType.RESET, messages.command(KEY, who="0", generation=1)
    )
    assert refused.code == ResultCode.NOT_ALLOWED
    again = await guarded.link.command(MessageType.RESET, body)
    assert again.type == MessageType.RESET


async def test_a_killed_guard_comes_back_with_its_program(guarded: Bench) -> None:
    await guarded.until(lambda: guarded.runs(DIGEST))
    await guarded.until(guarded.paths.last_good.exists)
    before = guarded.supervisor.state()
    connects = guarded.link.stats().connects
    os.kill(before.pid, signal.SIGKILL)
    await guarded.until(lambda: guarded.link.stats().connects > connects)
    await guarded.until(lambda: guarded.runs(DIGEST))
    after = guarded.supervisor.state()
    assert (after.starts, after.alive) == (2, True)
    await guarded.until(lambda: not guarded.problems.active())
    assert guarded.problems.raised_total["guard"] >= 1


async def test_a_guard_that_ended_cleanly_stays_away(guarded: Bench) -> None:
    await guarded.until(lambda: guarded.runs(DIGEST))
    os.kill(guarded.supervisor.state().pid, signal.SIGTERM)
    await guarded.until(lambda: guarded.supervisor.state().stopped)
    assert guarded.paths.clean_stop.exists()
    assert not guarded.supervisor.state().alive


async def test_the_next_supervisor_adopts_the_guard(guarded: Bench) -> None:
    await guarded.until(lambda: guarded.runs(DIGEST))
    async with bench(guarded.paths, program()) as second:
        await second.until(lambda: second.supervisor.state().alive)
        state = second.supervisor.state()
        assert (state.pid, state.adopted) == (guarded.supervisor.state().pid, True)
