"""Commands over a real guard and a libmodbus device: what is confirmed is read, never said."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastpath.codes import (
    Counter,
    EventType,
    InterlockState,
    OutputState,
    ResultCode,
    TripReason,
)
from fastpath.messages import Result
from fastpath.records import payload_of
from gateway.errors import GuardError, StoreError
from gateway.orders.commands import Commands, who_of
from gateway.orders.outcome import Exit
from tests.helpers.live_guard import FAN, GAS, POWER, LiveGuard
from tests.helpers.modbus_server import ModbusServer

WHO = "uid:tester"


class Ledger:
    """Remembers commands; refuses when ``full``."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, str, dict[str, Any]]] = []
        self.results: list[tuple[int, int, str]] = []
        self.proofs: list[tuple[str, str, dict[str, Any]]] = []
        self.full = False

    async def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        if self.full:
            raise StoreError("disk full")
        told = {key: value for key, value in detail.items() if key != "id"}
        self.commands.append((who, action, target, told))
        return len(self.commands)

    async def proof_test(self, who: str, target: str, detail: Mapping[str, Any]) -> None:
        if self.full:
            raise StoreError("disk full")
        self.proofs.append((who, target, dict(detail)))

    async def command_result(self, seq: int, code: int, text: str) -> None:
        self.results.append((seq, code, text))


@pytest.fixture
async def server() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as running:
        yield running


@pytest.fixture
async def guard(tmp_path: Path, server: ModbusServer) -> AsyncIterator[LiveGuard]:
    async with LiveGuard.at(tmp_path, server) as running:
        yield running


def commands_of(guard: LiveGuard, ledger: Ledger) -> Commands:
    return Commands(ledger, guard.link, guard.map, guard.blob)  # type: ignore[arg-type]


async def test_trip_and_reset(guard: LiveGuard, server: ModbusServer) -> None:
    ledger = Ledger()
    commands = commands_of(guard, ledger)
    answered = asyncio.Event()

    async def tell() -> None:
        answered.set()

    outcome = await commands.trip("gas-high", "drill", WHO, answered=tell)
    assert answered.is_set()
    assert outcome.exit_code == Exit.DONE, outcome
    assert outcome.confirmed
    assert [o["id"] for o in outcome.details["outputs"]] == ["power", "siren"] or [
        o["id"] for o in outcome.details["outputs"]
    ] == ["siren", "power"]
    assert await server.get("c", POWER, 2) == [0, 0]
    assert ledger.commands == [(WHO, "trip", "gas-high", {"reason": "drill"})]
    assert ledger.results == [(1, ResultCode.DONE, "")]

    await guard.state_of("gas-high", InterlockState.READY_TO_RESET)
    done = await commands.reset("gas-high", None, "checked", WHO)
    assert done.exit_code == Exit.DONE, done
    assert done.details["seen"] == {"state": "READY_TO_RESET", "generation": 1}
    assert ledger.commands[-1] == (
        WHO, "reset", "gas-high", {"generation": 1, "reason": "checked"},
    )  # fmt: skip
    assert await server.get("c", POWER, 2) == [1, 1]

    nothing = await commands.reset("gas-high", None, "", WHO)
    assert nothing.exit_code == Exit.ALREADY
    assert "NORMAL" in nothing.text


async def test_refused_reset_names_what_is_missing(guard: LiveGuard, server: ModbusServer) -> None:
    commands = commands_of(guard, Ledger())
    server.set_float("ir", GAS, 2.5)
    await guard.state_of("gas-high", InterlockState.TRIPPED)

    present = await commands.reset("gas-high", None, "", WHO)
    assert (present.exit_code, present.code) == (Exit.REFUSED, ResultCode.CAUSE_PRESENT)
    assert "'gas >= 1.5 until < 1.0'" in present.text
    assert "2.5 %CH4" in present.text
    assert "missing" in present.text

    again = await commands.trip("gas-high", "", WHO)
    assert (again.exit_code, again.code) == (Exit.ALREADY, ResultCode.ALREADY)

    server.set_float("ir", GAS, 0.9)
    await guard.until(lambda: guard.map().slot(_slot(guard, "gas")).value < 1.0)
    await asyncio.sleep(0)
    permissive = await commands.reset("gas-high", None, "", WHO)
    assert (permissive.exit_code, permissive.code) == (Exit.REFUSED, ResultCode.PERMISSIVE)
    assert "'gas < 0.8'" in permissive.text
    assert "gas is 0.9 %CH4" in permissive.text

    wrong = await commands.reset("gas-high", 99, "", WHO)
    assert (wrong.exit_code, wrong.code) == (Exit.REFUSED, ResultCode.WRONG_GENERATION)
    assert "--generation 1" in wrong.text


async def test_unknown_cause_names_the_leg(guard: LiveGuard, server: ModbusServer) -> None:
    commands = commands_of(guard, Ledger())
    server.set_float("ir", GAS, 9.0)  # out of its range: BAD
    await guard.state_of("gas-high", InterlockState.TRIPPED)
    unknown = await commands.reset("gas-high", None, "", WHO)
    assert (unknown.exit_code, unknown.code) == (Exit.REFUSED, ResultCode.CAUSE_UNKNOWN)
    assert "is unknown" in unknown.text
    assert "out_of_range" in unknown.text


async def test_reset_names_the_holder(guard: LiveGuard, server: ModbusServer) -> None:
    commands = commands_of(guard, Ledger())
    server.set("di", FAN, 0)
    await guard.state_of("fan-stopped", InterlockState.TRIPPED)
    await commands.trip("gas-high", "", WHO)
    await guard.state_of("gas-high", InterlockState.READY_TO_RESET)
    outcome = await commands.reset("gas-high", None, "", WHO)
    assert outcome.exit_code == Exit.DONE
    assert "power stays tripped: held by fan-stopped" in outcome.text
    assert await server.get("c", POWER, 2) == [0, 1]


async def test_unarmed_trip_moves_nothing(guard: LiveGuard, server: ModbusServer) -> None:
    outcome = await commands_of(guard, Ledger()).trip("watch-gas", "", WHO)
    assert outcome.exit_code == Exit.UNCONFIRMED
    assert outcome.text == "UNARMED: no output was moved"
    assert await server.get("c", POWER, 2) == [1, 1]


async def test_stuck_breaker_is_not_confirmed(tmp_path: Path, server: ModbusServer) -> None:
    async with LiveGuard.at(tmp_path, server, stuck=True) as guard:
        outcome = await commands_of(guard, Ledger()).trip("gas-high", "", WHO)
        assert outcome.exit_code == Exit.UNCONFIRMED
        assert not outcome.confirmed
        assert "power TRIP_FAILED, NOT confirmed in time" in outcome.text
        assert "siren TRIPPED, confirmed" in outcome.text
        assert await server.get("c", POWER, 2) == [0, 0]


async def test_unknown_ids_get_near_names(guard: LiveGuard) -> None:
    commands = commands_of(guard, Ledger())
    for outcome in (
        await commands.trip("gas-hihg", "", WHO),
        await commands.reset("gas_high", None, "", WHO),
    ):
        assert outcome.exit_code == Exit.USAGE
        assert "gas-high" in outcome.details["near"]
        assert "did you mean gas-high" in outcome.text
    released = await commands.release("powr", "", WHO)
    assert released.exit_code == Exit.USAGE
    assert released.details["near"] == ["power"]


async def test_release_of_a_held_output(tmp_path: Path, server: ModbusServer) -> None:
    async with LiveGuard.at(tmp_path, server, release=False) as guard:
        commands = commands_of(guard, Ledger())
        held = await commands.release("siren", "first start", WHO)
        assert held.exit_code == Exit.DONE, held
        assert "siren RELEASED, confirmed" in held.text
        nothing = await commands.release("siren", "", WHO)
        assert nothing.exit_code == Exit.ALREADY
        server.set("di", FAN, 0)
        await guard.state_of("fan-stopped", InterlockState.TRIPPED)
        refused = await commands.release("power", "", WHO)
        assert refused.exit_code == Exit.REFUSED
        assert "kept tripped by fan-stopped" in refused.text


async def test_nothing_weakens_without_the_ledger(guard: LiveGuard, server: ModbusServer) -> None:
    ledger = Ledger()
    commands = commands_of(guard, ledger)
    await commands.trip("gas-high", "", WHO)
    await guard.state_of("gas-high", InterlockState.READY_TO_RESET)
    ledger.full = True
    outcome = await commands.reset("gas-high", None, "", WHO)
    assert outcome.exit_code == Exit.FAILED
    assert "disk full" in outcome.text
    assert await server.get("c", POWER) == [0]
    tripped = await commands.trip("fan-stopped", "", WHO)  # what strengthens does not wait for it
    assert tripped.exit_code == Exit.DONE


async def test_guard_not_reached(guard: LiveGuard) -> None:
    ledger = Ledger()
    commands = commands_of(guard, ledger)
    guard.end()
    await guard.until(lambda: not guard.link.state().connected)
    for outcome in (
        await commands.trip("gas-high", "", WHO),
        await commands.reset("gas-high", None, "", WHO),
    ):
        assert outcome.exit_code == Exit.NOT_REACHED
        assert "guard not reached" in outcome.text
    assert ledger.results[-1][1] == 0


async def test_stop_trips_confirms_and_ends(guard: LiveGuard, server: ModbusServer) -> None:
    ledger = Ledger()
    outcome = await commands_of(guard, ledger).stop_guard("valve replacement", WHO)
    assert outcome.exit_code == Exit.DONE, outcome
    assert outcome.confirmed
    assert outcome.details["guard_alive"] is False
    assert await server.get("c", POWER, 2) == [0, 0]
    assert ledger.commands == [(WHO, "stop", "guard", {"reason": "valve replacement"})]
    assert guard.paths.clean_stop.exists()


async def nobody() -> None:
    """Who waits for nothing."""


async def test_a_drill_measures_each_output_and_keeps_the_result(
    guard: LiveGuard, server: ModbusServer
) -> None:
    ledger = Ledger()
    commands = commands_of(guard, ledger)
    outcome = await commands.drills.run("gas-high", "yearly", WHO, answered=nobody)
    assert outcome.exit_code == Exit.DONE, outcome
    assert "proof test of gas-high passed (response 2 s)" in outcome.text
    assert "sitewarden reset gas-high" in outcome.text
    assert await server.get("c", POWER, 2) == [0, 0]
    assert ledger.commands == [(WHO, "drill", "gas-high", {"reason": "yearly"})]
    ((who, target, kept),) = ledger.proofs
    assert (who, target, kept["passed"], kept["reason"]) == (WHO, "gas-high", True, "yearly")
    for output in kept["outputs"]:
        assert output["before"] == "RELEASED"
        assert 0 < output["confirm_ns"] < 2_000_000_000
    trip = [e for e in guard.map().events(1, 1000) if e.type == EventType.TRIP][-1]
    assert payload_of(trip)["reason"] == TripReason.EXERCISE

    again = await commands.drills.run("gas-high", "", WHO, answered=nobody)
    assert again.exit_code == Exit.ALREADY
    assert "reset it first" in again.text
    other = await commands.drills.run("fan-stopped", "", WHO, answered=nobody)
    assert other.exit_code == Exit.UNCONFIRMED  # its output was tripped before
    assert "power was TRIPPED before: nothing proved" in other.text
    assert not ledger.proofs[-1][2]["passed"]


async def test_a_drill_of_a_stuck_breaker_does_not_pass(
    tmp_path: Path, server: ModbusServer
) -> None:
    async with LiveGuard.at(tmp_path, server, stuck=True) as guard:
        ledger = Ledger()
        outcome = await commands_of(guard, ledger).drills.run("gas-high", "", WHO, answered=nobody)
        assert outcome.exit_code == Exit.UNCONFIRMED
        assert "NOT PASSED" in outcome.text
        assert "power TRIP_FAILED, NOT confirmed in time" in outcome.text
        assert not ledger.proofs[0][2]["passed"]


async def test_a_drill_that_proves_nothing_is_not_made(guard: LiveGuard) -> None:
    ledger = Ledger()
    commands = commands_of(guard, ledger)
    unarmed = await commands.drills.run("watch-gas", "", WHO, answered=nobody)
    assert unarmed.exit_code == Exit.UNCONFIRMED
    assert unarmed.text.startswith("UNARMED")
    ledger.full = True
    unwritten = await commands.drills.run("gas-high", "", WHO, answered=nobody)
    assert unwritten.exit_code == Exit.FAILED
    assert "nothing was sent" in unwritten.text
    assert guard.map().header().counters[Counter.TRIPS] == 0
    assert ledger.proofs == []


class DeafLink:
    """Loses the first answer, gives the second; remembers the ids."""

    def __init__(self) -> None:
        self.idents: list[bytes] = []
        self.bodies: list[bytes] = []

    async def command(self, kind: int, body: bytes, *, ident: bytes, timeout_s: float) -> Result:
        self.idents.append(ident)
        self.bodies.append(body)
        if len(self.idents) == 1:
            raise GuardError("no answer")
        return Result(ResultCode.WRONG_GENERATION, kind, 1, 1, 0, "")

    def state(self) -> Any:
        return type("State", (), {"connected": True})


async def test_a_lost_answer_is_asked_for_once_more_with_the_same_id(guard: LiveGuard) -> None:
    link = DeafLink()
    commands = Commands(Ledger(), link, guard.map, guard.blob)  # type: ignore[arg-type]
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    outcome = await commands.reset("gas-high", 3, "", WHO)
    assert outcome.code == ResultCode.WRONG_GENERATION
    assert len(set(link.idents)) == 1
    assert len(link.idents) == 2
    from fastpath import messages

    key, generation, _kind, not_after_ns, seq, _duration, who = messages.COMMAND.unpack(
        link.bodies[0]
    )
    assert (generation, seq) == (3, 1)
    assert who.rstrip(b"\0") == WHO.encode()
    assert 29_000_000_000 < not_after_ns - before_ns <= 31_000_000_000
    assert key


async def test_nothing_weakens_after_the_client_gave_up(guard: LiveGuard) -> None:
    """The ledger took its time; the guard sees that it is too late."""
    commands = commands_of(guard, Ledger())
    await commands.trip("gas-high", "", WHO)
    await guard.state_of("gas-high", InterlockState.READY_TO_RESET)
    past_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 1
    late = await commands.reset("gas-high", None, "", WHO, not_after_ns=past_ns)
    assert (late.exit_code, late.code) == (Exit.REFUSED, ResultCode.EXPIRED)
    assert "too late" in late.text


def test_who() -> None:
    assert who_of(0) == "uid:root"
    assert who_of(4_000_000_000) == "uid:4000000000"


def _slot(guard: LiveGuard, tag: str) -> int:
    from fastpath import blob

    return blob.names(guard.program)["tags"].index(tag)


def test_output_states_are_the_guards_words() -> None:
    from gateway.guard.board import output_word

    assert output_word(OutputState.TRIP_FAILED) == "TRIP_FAILED"
    assert output_word(0) == "TRIPPING"
