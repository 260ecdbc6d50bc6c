"""kill -9 at every boundary between two stores of the journal, from the trip's record on.

The story is a trip, its confirmation, the cause's end, a reset and the release. The guard is
killed at the n-th boundary of it, for every n until the story is over before the n-th comes. The
device is the outside observer.
"""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastpath.journal
from fastpath.codes import EventType, InterlockState, MessageType, OutputState, ResultCode
from fastpath.journal import GuardView
from fastpath.records import Event, payload_of
from tests.helpers.guard import (
    BREAKER_COIL,
    BREAKER_CONTACT,
    METHANE_AT,
    WAIT_S,
    GuardProcess,
    directories,
    mine,
    reset,
)
from tests.helpers.modbus_server import ModbusServer

AT_ONCE = 4  # stories side by side
BOUNDARIES_MIN = 100  # of one story: fewer means that the failpoints are not there
TRIPPED_STATES = (InterlockState.TRIPPED, InterlockState.READY_TO_RESET)
HOLDS = (OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED)


@dataclass(frozen=True)
class Found:
    """What stands in the shared file of a guard that was killed."""

    interlock: int  # state by both copies; TRIPPED where they differ
    generation: int
    events: list[Event]

    @property
    def trips(self) -> int:
        return sum(e.type == EventType.TRIP for e in self.events)

    @property
    def resets(self) -> int:
        return sum(e.type == EventType.RESET for e in self.events)


def _look(guard: GuardProcess) -> Found:
    view = GuardView(str(guard.runtime / "guard.shm"))
    try:
        latch = view.interlock(0)
        return Found(latch.state, latch.generation, view.events(0, 100_000))
    finally:
        view.close()


async def _methane(server: ModbusServer, value: float) -> None:
    for address in METHANE_AT:
        server.set_float("ir", address, value)
    await server.sync()


async def _dead(guard: GuardProcess) -> None:
    assert guard.process is not None
    await guard.process.wait()


async def _story(guard: GuardProcess, server: ModbusServer) -> None:
    """Trip, confirm, end of the cause, reset, release."""
    await _methane(server, 1.8)
    await guard.until_output(OutputState.TRIPPED)
    await _methane(server, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.view is not None
    generation = guard.view.interlock(0).generation
    client = guard.client()
    result = await asyncio.to_thread(client.command, MessageType.RESET, reset(generation))
    assert result.code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)


async def _killed_at(boundary: int, log: Path) -> bool:
    """Run the story with this failpoint and judge what is left; False: it was not reached."""
    async with ModbusServer(log) as server:
        server.link(BREAKER_COIL, BREAKER_CONTACT, 1.0)
        server.set("c", BREAKER_COIL, 1)
        server.set("di", BREAKER_CONTACT, 1)
        await _methane(server, 0.4)
        with directories() as (runtime, state):
            guard = GuardProcess(runtime, state)
            try:
                guard.environment["SITEWARDEN_FAIL_AT"] = str(boundary)
                await guard.start()
                result = await asyncio.to_thread(guard.load, mine(server.port))
                assert result.code == ResultCode.DONE
                await guard.until_output(OutputState.RELEASED)
                died = asyncio.create_task(_dead(guard))
                told = asyncio.create_task(_story(guard, server))
                await asyncio.wait({died, told}, return_when=asyncio.FIRST_COMPLETED)
                if told.done() and told.exception() is None:
                    died.cancel()
                    return False
                told.cancel()
                await asyncio.gather(told, return_exceptions=True)
                await asyncio.wait_for(died, WAIT_S)
                assert guard.process is not None
                assert guard.process.returncode == -signal.SIGKILL
                await _judge(guard, server, boundary)
            finally:
                await guard.close()
    return True


async def _judge(guard: GuardProcess, server: ModbusServer, boundary: int) -> None:
    """Nothing lost, nothing invented, nothing seen outside that is unknown inside."""
    found = _look(guard)
    place = f"boundary {boundary}: {found.interlock}, {[e.type for e in found.events]}"
    writes = [edge.value for edge in await server.edges(BREAKER_COIL)]
    if 0 in writes:  # the trip was seen on the wire
        assert found.trips == 1, place
    if found.trips > found.resets:
        assert found.interlock in TRIPPED_STATES or not found.resets, place
    if writes[-1:] == [1]:
        assert found.resets == 1, place
    assert guard.process is not None
    assert guard.process.stderr is not None
    await guard.process.stderr.read()
    guard.environment.clear()
    await guard.start()
    assert guard.view is not None
    await guard.until(lambda: bool(guard.events(EventType.GUARD_START)[-1:]))
    after = guard.view.interlock(0)
    if found.trips > found.resets:
        assert after.state in TRIPPED_STATES, place
        assert guard.output().state in HOLDS, place
    # Every record of the life before is still there, whole and in its place.
    events = guard.events()
    assert events[: len(found.events)] == found.events, place
    assert [e.seq for e in events] == list(range(1, len(events) + 1)), place
    generations = [payload_of(e)["generation"] for e in events if e.type == EventType.TRIP]
    assert generations == sorted(set(generations)), place


@pytest.mark.timeout(600)
async def test_every_boundary(tmp_path: Path) -> None:
    boundary, over = 1, False
    while not over:
        batch = range(boundary, boundary + AT_ONCE)
        async with asyncio.TaskGroup() as group:
            stories = [
                group.create_task(_killed_at(n, tmp_path / f"requests-{n}.log")) for n in batch
            ]
        over = not all(story.result() for story in stories)
        boundary += AT_ONCE
    assert boundary > BOUNDARIES_MIN


def test_the_sanitizer_is_there() -> None:
    data = Path(fastpath.journal.__file__).read_bytes()
    assert b"__ubsan_handle" in data
    assert b"sitewarden_failpoints_left" in data
