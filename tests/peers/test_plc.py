"""The PLC's side of the heartbeat: the Structured Text that is shipped, run cycle by cycle.

The steps are those of the commissioning table in config/plc/README.md.
"""

import asyncio
import dataclasses
import re
import signal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import blob
from fastpath.codes import DeviceFlag, OutputState
from tests.helpers.live_guard import POWER, LiveGuard
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.structured_text import FunctionBlock

PLC = Path(__file__).parents[2] / "config" / "plc"
CYCLE_MS = 10
WATCHDOG_MS = 500
HASH = 0xBEEF
HEARTBEAT = 90  # hr
MS = 1_000_000


class Cabinet:
    """One permit with its wiring; time goes by in cycles."""

    def __init__(self, expected: int = 0) -> None:
        self.block = FunctionBlock(PLC / "sitewarden_permit.st")
        self.now_ms = 0
        self.wires: dict[str, Any] = {
            "Counter": 0, "ProgramHash": HASH, "Expected": expected, "Request": True,
            "Conflict": False, "ResetButton": False, "Watchdog": WATCHDOG_MS,
        }  # fmt: skip

    def cycle(self, **wires: Any) -> bool:
        self.wires |= wires
        self.block.cycle(self.now_ms, **self.wires)
        self.now_ms += CYCLE_MS
        return bool(self.block.Permit)

    def run(self, ms: int, *, beats: bool, **wires: Any) -> None:
        for _ in range(ms // CYCLE_MS):
            if beats and self.now_ms % 50 == 0:
                self.wires["Counter"] = (self.wires["Counter"] + 1) % 65536
            self.cycle(**wires)

    def press(self) -> None:
        self.cycle(ResetButton=True)
        self.cycle(ResetButton=False)

    def started(self) -> "Cabinet":
        self.run(1000, beats=True)
        self.press()
        assert self.block.Permit
        return self


def test_step_1_nothing_is_allowed_at_the_start() -> None:
    cabinet = Cabinet()
    assert not cabinet.cycle()
    assert (cabinet.block.Latched, cabinet.block.Reason) == (True, 1)
    cabinet.run(2 * WATCHDOG_MS, beats=False)
    cabinet.press()
    assert not cabinet.block.Permit  # no counter moves


def test_step_2_a_moving_counter_allows_only_after_the_button() -> None:
    cabinet = Cabinet()
    cabinet.run(1000, beats=True)
    assert cabinet.block.Alive
    assert not cabinet.block.Permit
    cabinet.press()
    assert cabinet.block.Permit
    assert cabinet.block.Reason == 0


def test_step_3_a_button_that_is_stuck_resets_nothing() -> None:
    cabinet = Cabinet()
    cabinet.run(3000, beats=True, ResetButton=True)
    assert not cabinet.block.Permit


def test_step_4_a_counter_that_stands_still_forbids_within_its_time() -> None:
    cabinet = Cabinet().started()
    cabinet.cycle(Counter=cabinet.wires["Counter"] + 1)
    cabinet.run(WATCHDOG_MS, beats=False)
    assert cabinet.block.Permit
    cabinet.run(CYCLE_MS, beats=False)
    assert not cabinet.block.Permit
    assert (cabinet.block.Latched, cabinet.block.Reason) == (True, 2)


def test_step_5_the_link_is_back_but_only_the_button_allows() -> None:
    cabinet = Cabinet().started()
    cabinet.run(2 * WATCHDOG_MS, beats=False)
    cabinet.press()
    assert not cabinet.block.Permit  # still dead
    cabinet.run(2000, beats=True)
    assert cabinet.block.Alive
    assert not cabinet.block.Permit
    cabinet.press()
    assert cabinet.block.Permit


def test_step_6_one_old_write_is_no_life() -> None:
    cabinet = Cabinet().started()
    cabinet.run(2 * WATCHDOG_MS, beats=False)
    cabinet.cycle(Counter=cabinet.wires["Counter"] + 1)  # a write that lay in a queue
    cabinet.run(100, beats=False)
    assert not cabinet.block.Alive
    cabinet.press()
    assert not cabinet.block.Permit


def test_step_7_the_guards_own_trip_is_not_latched_here() -> None:
    cabinet = Cabinet().started()
    cabinet.run(100, beats=True, Request=False)
    assert not cabinet.block.Permit
    assert not cabinet.block.Latched
    cabinet.run(100, beats=True, Request=True)  # a person has reset the interlock
    assert cabinet.block.Permit


def test_step_8_another_program_forbids_until_it_is_approved() -> None:
    cabinet = Cabinet(expected=HASH).started()
    cabinet.run(100, beats=True, ProgramHash=0x1234)
    assert not cabinet.block.Permit
    assert (cabinet.block.WrongProgram, cabinet.block.Reason) == (True, 3)
    cabinet.press()
    assert not cabinet.block.Permit
    cabinet.run(100, beats=True, Expected=0x1234)
    assert not cabinet.block.Permit
    cabinet.press()
    assert cabinet.block.Permit


def test_step_9_two_guards_forbid() -> None:
    cabinet, lease = Cabinet().started(), FunctionBlock(PLC / "sitewarden_lease.st")

    def owned_by(instance: int, ms: int) -> None:
        for _ in range(ms // CYCLE_MS):
            lease.cycle(cabinet.now_ms, InstanceLow=instance, InstanceHigh=0, Within=3000)
            cabinet.run(CYCLE_MS, beats=True, Conflict=lease.Conflict)

    owned_by(0, 100)
    assert not lease.Owned
    owned_by(7, 100)
    assert (lease.Owned, lease.Changed) == (True, False)
    owned_by(8, 4000)  # a spare guard has taken over, once
    assert (lease.Changed, lease.Conflict, cabinet.block.Permit) == (False, False, True)
    for instance in (9, 8, 9):
        owned_by(instance, 200)
    assert lease.Conflict
    assert not cabinet.block.Permit
    assert cabinet.block.Reason == 4
    owned_by(9, 4000)
    assert not lease.Conflict
    assert not cabinet.block.Permit
    cabinet.press()
    assert cabinet.block.Permit


def test_the_counter_may_wrap() -> None:
    cabinet = Cabinet()
    cabinet.wires["Counter"] = 65_530
    cabinet.started().run(2000, beats=True)
    assert cabinet.block.Permit


CYCLES = st.lists(
    st.tuples(
        st.integers(0, 3), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([HASH, 1])
    ),
    max_size=300,
)


@settings(max_examples=200, deadline=None)
@given(CYCLES)
def test_it_never_allows_what_it_must_not(cycles: list[tuple[int, bool, bool, bool, int]]) -> None:
    """Whatever the wires do: no permit without request, life, right program, or past a latch."""
    cabinet = Cabinet(expected=HASH)
    moved_ms = 0
    was_latched, before = True, False
    for step, request, button, conflict, program in cycles:
        if step:
            moved_ms = cabinet.now_ms
        now_ms = cabinet.now_ms
        allowed = cabinet.cycle(
            Counter=(cabinet.wires["Counter"] + step) % 65536, Request=request,
            ResetButton=button, Conflict=conflict, ProgramHash=program,
        )  # fmt: skip
        if allowed:
            assert request
            assert not conflict
            assert program == HASH
            assert now_ms - moved_ms <= WATCHDOG_MS
        if was_latched and not cabinet.block.Latched:
            assert button
            assert not before
        was_latched, before = bool(cabinet.block.Latched), button


def beating(program: bytes) -> bytes:
    """The bench's program with a heartbeat at hr:90, every 100 ms."""
    parts: dict[str, Any] = {name: blob.section(program, name) for name, _, _ in blob.SECTIONS}
    parts["devices"][0] = dataclasses.replace(
        parts["devices"][0], flags=DeviceFlag.HAS_HEARTBEAT, heartbeat_address=HEARTBEAT,
        every_ns=100 * MS, watchdog_ns=2_000 * MS,
    )  # fmt: skip
    return blob.build(blob.Program(7, 10 * MS, 500 * MS, names=blob.names(program), **parts))


class BeatingGuard(LiveGuard):
    async def load(self, program: bytes) -> None:
        await super().load(beating(program))


async def test_with_a_real_guard_over_libmodbus(tmp_path: Path) -> None:
    """The PLC's cycle reads its registers: the guard beats, is killed, and comes back."""
    block = FunctionBlock(PLC / "sitewarden_permit.st")
    loop = asyncio.get_running_loop()

    async def until(server: ModbusServer, wanted: bool, *, button: bool = False) -> None:
        async with asyncio.timeout(10):
            pressed = False
            while True:
                counter, program = await server.get("hr", HEARTBEAT, 2)
                (coil,) = await server.get("c", POWER)
                pressed = button and not pressed
                block.cycle(
                    int(loop.time() * 1000), Counter=counter, ProgramHash=program,
                    Expected=expected, Request=bool(coil), Conflict=False, ResetButton=pressed,
                    Watchdog=2000,
                )  # fmt: skip
                if bool(block.Permit) is wanted:
                    return
                await asyncio.sleep(0.01)

    async with ModbusServer() as server, BeatingGuard.at(tmp_path, server) as guard:
        digest = blob.blob_hash(guard.program)
        expected = digest[0] | digest[1] << 8
        await until(server, wanted=False)
        await until(server, wanted=True, button=True)
        guard.end(signal.SIGKILL)
        await until(server, wanted=False)
        assert block.Reason == 2
        assert await server.get("c", POWER) == [1]  # the coil still says so: the watchdog does not
        guard.start()
        await guard.output_of("power", OutputState.RELEASED)
        await until(server, wanted=True, button=True)


def test_the_table_of_steps_is_the_tests() -> None:
    """Every step of the commissioning table has its test, and the other way round."""
    table = re.findall(r"^\| (\d+) \|", (PLC / "README.md").read_text(), re.MULTILINE)
    tests = [name for name in globals() if name.startswith("test_step_")]
    assert [int(n) for n in table] == sorted(int(name.split("_")[2]) for name in tests)
