"""The simulated mine face: its model on virtual time, and the process over Modbus."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.mine_face import (
    BREAKER_OPENS_NS,
    OPERATOR_CLOSES_NS,
    SECOND_NS,
    WATCHDOG_NS,
    MineFace,
)
from drivers.points import parse_point
from tests.helpers.modbus_tcp import modbus_tcp

START_NS = 1_000 * SECOND_NS
STEP_NS = SECOND_NS // 50
POINTS = [
    "ir:100", "ir:102", "ir:104", "ir:106", "di:0", "di:1", "di:2", "c:16", "c:17",
    "hr:90", "hr:91",
]  # fmt: skip


class Shift:
    """A mine face that is stepped on virtual time."""

    def __init__(self, **options: bool) -> None:
        self.now_ns = START_NS
        self.face = MineFace(self.now_ns, **options)

    def closed(self) -> bool:
        return self.face.breaker.closed

    def go(self, seconds: float, until: Callable[[MineFace], bool] = lambda _: False) -> float:
        """Step on; the seconds after which ``until`` held, or all of them."""
        end_ns = self.now_ns + int(seconds * SECOND_NS)
        begun_ns = self.now_ns
        while self.now_ns < end_ns and not until(self.face):
            self.now_ns += STEP_NS
            self.face.step(self.now_ns)
        return (self.now_ns - begun_ns) / SECOND_NS


def middle(face: MineFace) -> float:
    return sorted(face.methane)[1]


def test_methane_lies_at_its_baseline_and_each_transmitter_has_its_own() -> None:
    shift = Shift()
    seen: set[float] = set()
    for _ in range(600):
        shift.go(0.5)
        assert all(0.3 < value < 0.5 for value in shift.face.methane)
        assert len(set(shift.face.methane)) == 3
        seen.update(shift.face.methane)
    assert len(seen) > 1000
    assert shift.face.air_speed == pytest.approx(1.8)


def test_an_inflow_rises_past_both_limits_and_the_cut_clears_it() -> None:
    shift = Shift()
    shift.go(5)
    shift.face.inflow = True
    assert 1 < shift.go(20, lambda face: middle(face) >= 1.0) < 8
    assert shift.go(20, lambda face: middle(face) >= 1.5) < 8
    shift.face.breaker.set_permit(False, shift.now_ns)
    assert shift.go(30, lambda face: max(face.methane) < 1.0) < 12
    assert not shift.face.inflow, "a cut face lets no more gas in when it has power again"
    shift.go(60)
    assert max(shift.face.methane) < 0.5


def test_without_a_cut_it_goes_on_to_its_level() -> None:
    shift = Shift(stuck_breaker=True)
    shift.face.inflow = True
    shift.go(6)
    shift.face.breaker.set_permit(False, shift.now_ns)
    shift.go(10)
    assert shift.closed(), "it is stuck"
    assert 1.8 < middle(shift.face) < 2.1


def test_the_breaker_follows_its_permit_after_its_time() -> None:
    shift = Shift()
    breaker = shift.face.breaker
    breaker.set_permit(False, shift.now_ns)
    assert shift.closed()
    opened = shift.go(1, lambda face: not face.breaker.closed)
    assert opened * SECOND_NS == pytest.approx(BREAKER_OPENS_NS, abs=STEP_NS)
    breaker.set_permit(True, shift.now_ns)
    closed = shift.go(1, lambda face: face.breaker.closed)
    assert closed * SECOND_NS == pytest.approx(OPERATOR_CLOSES_NS, abs=STEP_NS)


def test_a_permit_that_comes_and_goes_at_once_leaves_the_breaker_open() -> None:
    shift = Shift()
    breaker = shift.face.breaker
    breaker.set_permit(False, shift.now_ns)
    shift.go(1)
    breaker.set_permit(True, shift.now_ns)
    shift.go(0.1)
    breaker.set_permit(False, shift.now_ns)
    shift.go(2)
    assert not shift.closed()


def test_the_watchdog_bites_once_when_a_heartbeat_stands_still() -> None:
    shift = Shift()
    shift.go(60)
    assert shift.closed(), "a heartbeat that never came is not missed"
    for beat in range(1, 20):
        shift.face.watchdog.beat((beat, 7), shift.now_ns)
        shift.go(1)
    assert shift.closed()
    bitten = shift.go(10, lambda face: face.watchdog.bitten)
    assert WATCHDOG_NS / SECOND_NS - 1.1 < bitten < WATCHDOG_NS / SECOND_NS + 0.1
    shift.go(1)
    assert not shift.closed()
    assert shift.face.siren
    shift.face.watchdog.beat((20, 7), shift.now_ns)
    shift.face.breaker.set_permit(True, shift.now_ns)
    shift.go(1)
    assert shift.closed()


def test_without_the_fan_air_stands_and_methane_grows() -> None:
    shift = Shift()
    shift.face.fan = False
    shift.go(10)
    assert shift.face.air_speed < 0.2
    assert middle(shift.face) > 0.5
    shift.face.fan = True
    shift.go(60)
    assert middle(shift.face) < 0.5


class Sim:
    """The simulator as a process, with a driver on it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.driver = modbus_tcp(
            "127.0.0.1",
            port,
            [parse_point(a, "float32" if a.startswith("ir") else "") for a in POINTS],
            timeout_s=5.0,
        )
        self.plan = self.driver.plan(range(len(POINTS)))

    async def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    async def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        await self.tell(line)
        answer: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answer

    async def read(self) -> dict[str, float]:
        return {POINTS[r.point]: r.value for r in await self.driver.read(self.plan)}

    async def until(self, point: str, value: float) -> None:
        """Poll until a point reads so."""
        async with asyncio.timeout(5):
            while (await self.read())[point] != value:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[Sim]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.sim", "mine-face", *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        sim = Sim(process, json.loads(await process.stdout.readline())["port"])
        await sim.driver.connect()
        yield sim
        await sim.driver.close()
    finally:
        process.stdin.close()
        async with asyncio.timeout(5):
            code = await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
    assert code == 0, "it ends cleanly when stdin closes"


async def test_the_face_over_modbus() -> None:
    async with running("--port", "0") as sim:
        values = await sim.read()
        assert all(0.2 < values[ir] < 0.6 for ir in ("ir:100", "ir:102", "ir:104"))
        assert values["ir:106"] == pytest.approx(1.8, abs=0.05)
        assert [values[a] for a in ("di:0", "di:1", "di:2", "c:16", "c:17")] == [1, 1, 0, 1, 1]
        await sim.driver.write(POINTS.index("c:16"), 0.0)
        assert (await sim.read())["c:16"] == 0.0
        await sim.until("di:1", 0.0)
        await sim.driver.write(POINTS.index("c:17"), 0.0)
        await sim.until("di:2", 1.0)
        await sim.driver.write(POINTS.index("c:16"), 1.0)
        await sim.until("di:1", 1.0)
        await sim.driver.write(POINTS.index("hr:90"), 41.0)
        await sim.driver.write(POINTS.index("hr:91"), 65535.0)
        values = await sim.read()
        assert (values["hr:90"], values["hr:91"]) == (41.0, 65535.0)
        state = await sim.ask("state")
        assert state["heartbeat"] == [41, 65535]
        assert state["breaker"] == "closed"


async def test_commands() -> None:
    async with running() as sim:
        await sim.tell("fan off")
        await sim.until("di:0", 0.0)
        await sim.tell('{"command": "fan on"}')
        await sim.until("di:0", 1.0)
        await sim.tell("inflow")
        assert (await sim.ask('"state"'))["inflow"] is True
        await sim.tell("  clear ")
        assert (await sim.ask("state"))["inflow"] is False
        assert "inflow" in (await sim.ask("{nonsense"))["commands"]


async def test_a_stuck_breaker_obeys_in_its_coil_alone() -> None:
    async with running("--stuck-breaker") as sim:
        await sim.driver.write(POINTS.index("c:16"), 0.0)
        await asyncio.sleep(3 * BREAKER_OPENS_NS / SECOND_NS)
        values = await sim.read()
        assert (values["c:16"], values["di:1"]) == (0.0, 1.0)


async def test_sigterm_ends_it_and_a_port_in_use_is_said() -> None:
    async with running() as sim:
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "drivers.sim", "mine-face", "--port", str(sim.port),
            stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await second.communicate()
        assert second.returncode == 1
        assert errors.decode().count("\n") == 1
        assert "cannot listen" in errors.decode()
        sim.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await sim.process.wait() == 0
