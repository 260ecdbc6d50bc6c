"""Outputs through the gateway: a real guard wishes, the gateway writes to a libmodbus device."""

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from drivers.kind import Surroundings
from fastpath import blob, messages
from fastpath.codes import (
    NONE_U32,
    Counter,
    EventType,
    InterlockState,
    MessageType,
    OutputPath,
    OutputState,
    ResultCode,
)
from gateway.guard.board import GuardBoard
from gateway.guard.program_text import Programs
from gateway.guard.slow_outputs import SlowOutputs
from gateway.life.problems import Problems
from gateway.orders.commands import Commands
from gateway.site.model import Config, Device, Duration, Output, Site
from tests.helpers.live_guard import FAN, POWER, SIREN, LiveGuard
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
WAIT_S = 10.0


class Ledger:
    """Numbers what it is given."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, str, dict[str, Any]]] = []

    async def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        self.commands.append((who, action, target, dict(detail)))
        return len(self.commands)

    async def command_result(self, seq: int, code: int, text: str) -> None:
        """Nothing is kept."""


class Bench:
    """The guard, the slow device, and the part of the gateway that writes there."""

    def __init__(self, guard: LiveGuard, slow: ModbusServer) -> None:
        self.guard, self.slow = guard, slow
        self.written = Ledger()
        self.ledger = cast("Any", self.written)
        self.problems = Problems()
        self.programs = Programs(guard.blob)
        self.outputs = SlowOutputs(
            config(slow.port),
            self.board,
            guard.link,
            self.ledger,
            self.problems,
            Surroundings(no_secrets),
        )
        self.commands = Commands(self.ledger, guard.link, guard.map, guard.blob)
        self.tasks: list[asyncio.Task[None]] = []

    def board(self) -> GuardBoard | None:
        return GuardBoard.read(self.guard.view, self.programs)

    def start(self) -> None:
        self.tasks = [asyncio.create_task(job()) for job in self.outputs.jobs().values()]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        self.tasks = []

    async def until(self, so: Callable[[], bool]) -> None:
        await self.guard.until(so)

    def good(self) -> int:
        return self.outputs.stats().get(("siren", "good"), 0)


def config(port: int) -> Config:
    return Config(
        site=Site(id="bench"),
        device=(
            Device(
                id="slow",
                driver="modbus-tcp",
                address=f"127.0.0.1:{port}",
                timeout=Duration(300 * MS),
            ),
        ),
        output=(
            Output(
                id="siren",
                device="slow",
                address=f"c:{SIREN}",
                trip=False,
                normal=True,
                via="gateway",
            ),
        ),
    )


def through_gateway(program: bytes) -> bytes:
    """The bench's program, its siren written by the gateway, with the power as its fallback."""
    parts: dict[str, Any] = {name: blob.section(program, name) for name, _, _ in blob.SECTIONS}
    names = blob.names(program)
    siren, power = names["outputs"].index("siren"), names["outputs"].index("power")
    parts["outputs"][siren] = dataclasses.replace(
        parts["outputs"][siren], device=NONE_U32, unit=0, address=0, path=OutputPath.GATEWAY,
        reassert_ns=200 * MS,
    )  # fmt: skip
    parts["fallbacks"] = [blob.Fallback(siren, power)]
    # fan-stopped trips the siren alone here: whatever the power does is the fallback's doing
    fan = names["interlocks"].index("fan-stopped")
    first = parts["interlocks"][fan].effects_first
    parts["effects"][first] = blob.Effect(fan, siren)
    return blob.build(blob.Program(7, 10 * MS, 500 * MS, names=names, **parts))


class ViaGuard(LiveGuard):
    """Runs that program; its siren is released by whoever writes it."""

    async def load(self, program: bytes) -> None:
        self.release = False
        await super().load(through_gateway(program))


@asynccontextmanager
async def bench_at(directory: Path) -> AsyncIterator[Bench]:
    async with (
        ModbusServer() as fast,
        ModbusServer(directory / "slow.log") as slow,
        ViaGuard.at(directory, fast) as guard,
    ):
        bench = Bench(guard, slow)
        try:
            yield bench
        finally:
            await bench.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_at(tmp_path) as running:
        running.start()
        outcome = await running.commands.release("siren", "first start", "uid:tester")
        assert outcome.exit_code == 0, outcome
        await running.guard.output_of("siren", OutputState.RELEASED)
        assert await running.slow.get("c", SIREN) == [1]
        yield running


async def test_a_trip_is_written_confirmed_and_audited(bench: Bench) -> None:
    bench.guard.server.set("di", FAN, 0)
    await bench.guard.output_of("siren", OutputState.TRIPPED)
    assert await bench.slow.get("c", SIREN) == [0]
    await bench.until(lambda: any(c[3].get("trips") for c in bench.written.commands))
    who, action, target, detail = next(c for c in bench.written.commands if c[3].get("trips"))
    assert (who, action, target, detail["value"]) == ("guard", "write", "siren", 0)


async def test_the_trip_is_asserted_again_and_nothing_else_is_ever_written(bench: Bench) -> None:
    bench.guard.server.set("di", FAN, 0)
    await bench.guard.output_of("siren", OutputState.TRIPPED)
    count = bench.good()
    bench.slow.set("c", SIREN, 1)  # another master
    await bench.until(lambda: bench.good() >= count + 2)
    assert await bench.slow.get("c", SIREN) == [0]
    writes = [r for r in await bench.slow.requests() if r.kind == "w"]
    assert {(r.address, r.count) for r in writes} == {(SIREN, 1)}
    assert len([c for c in bench.written.commands if c[1] == "write"]) == 2  # release and trip


async def test_after_a_reset_it_is_released_once(bench: Bench) -> None:
    bench.guard.server.set("di", FAN, 0)
    await bench.guard.output_of("siren", OutputState.TRIPPED)
    bench.guard.server.set("di", FAN, 1)
    await bench.guard.state_of("fan-stopped", InterlockState.READY_TO_RESET)
    outcome = await bench.commands.reset("fan-stopped", None, "", "uid:tester")
    assert outcome.exit_code == 0, outcome
    assert await bench.slow.get("c", SIREN) == [1]
    assert bench.guard.map().header().counters[Counter.OUTPUT_RESULT_BAD] == 0


async def test_a_device_that_is_away_gets_the_trip_first_when_it_is_back(bench: Bench) -> None:
    os.kill(bench.slow.pid, signal.SIGSTOP)
    try:
        bench.guard.server.set("di", FAN, 0)
        await bench.guard.output_of("siren", OutputState.TRIP_FAILED)
        await bench.guard.output_of("power", OutputState.TRIPPED)  # the fallback
        await bench.until(lambda: ("outputs", "slow") in {(p.kind, p.ident) for p in
                                                          bench.problems.active()})  # fmt: skip
    finally:
        os.kill(bench.slow.pid, signal.SIGCONT)
    await bench.guard.output_of("siren", OutputState.TRIPPED)
    assert await bench.slow.get("c", SIREN) == [0]
    assert await bench.guard.server.get("c", POWER) == [0]  # stays until the reset


async def test_without_the_gateway_the_guard_trips_the_fallback(bench: Bench) -> None:
    await bench.stop()
    bench.guard.server.set("di", FAN, 0)
    await bench.guard.output_of("siren", OutputState.TRIP_FAILED)
    await bench.guard.output_of("power", OutputState.TRIPPED)
    assert await bench.slow.get("c", SIREN) == [1]
    kinds = {event.type for event in bench.guard.map().events(1, 1000)}
    assert EventType.OUT_FAILED in kinds
    bench.start()  # the gateway is back: what is pending goes out at once
    await bench.guard.output_of("siren", OutputState.TRIPPED)
    assert await bench.slow.get("c", SIREN) == [0]


async def test_a_dead_guard_releases_nothing(bench: Bench) -> None:
    bench.guard.server.set("di", FAN, 0)
    await bench.guard.output_of("siren", OutputState.TRIPPED)
    await bench.guard.until(lambda: bench.good() >= 2)
    bench.guard.end(signal.SIGKILL)
    count = bench.good()
    await bench.until(lambda: bench.good() > count)  # what it wished last is asserted on
    assert await bench.slow.get("c", SIREN) == [0]


async def test_a_program_with_another_meaning_of_the_output_is_not_served(tmp_path: Path) -> None:
    async with bench_at(tmp_path) as bench:
        site = config(bench.slow.port)
        turned = Output(
            id="siren", device="slow", address=f"c:{SIREN}", trip=True, normal=False, via="gateway"
        )
        bench.outputs = SlowOutputs(
            replace(site, output=(turned,)), bench.board, bench.guard.link, bench.ledger,
            bench.problems, Surroundings(no_secrets),
        )  # fmt: skip
        bench.start()
        body = messages.command(blob.key_of("interlock", "fan-stopped"), who="t")
        result = await bench.guard.link.command(MessageType.TRIP, body)
        assert result.code == ResultCode.DONE
        await bench.guard.output_of("siren", OutputState.TRIP_FAILED)
        assert bench.outputs.stats() == {}
        assert [r for r in await bench.slow.requests() if r.kind == "w"] == []
