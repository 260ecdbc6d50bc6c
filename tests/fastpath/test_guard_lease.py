"""Two guards and one device: one owns its outputs, the other writes nothing until it is gone."""

import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest_asyncio

from fastpath import blob as blobs
from fastpath.codes import (
    NONE_U32,
    Counter,
    DeviceFlag,
    DeviceStatsFlag,
    DownReason,
    EventType,
    InterlockState,
    MessageType,
    OutputState,
    ResultCode,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS
from tests.helpers.guard import BREAKER_COIL, METHANE_AT, GuardProcess, directories, mine, reset
from tests.helpers.guarding import scans
from tests.helpers.modbus_server import ModbusServer, Request
from tests.helpers.outputs import trip

LEASE_AT = 200
BEAT_AT = 90
WITHIN_NS = 800 * MS


def leased(port: int) -> blobs.Program:
    """The mine, with a lease."""
    program = mine(port)
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32)
    program.devices[0] = replace(
        program.devices[0], flags=DeviceFlag.HAS_HEARTBEAT | DeviceFlag.HAS_LEASE,
        lease_address=LEASE_AT, lease_ns=WITHIN_NS, every_ns=50 * MS,
    )  # fmt: skip
    return program


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    """A libmodbus device without gas, which logs what is written."""
    async with ModbusServer(tmp_path / "log", reads=False) as plant:
        for address in METHANE_AT:
            plant.set_float("ir", address, 0.4)
        plant.set("c", BREAKER_COIL, 1)
        await plant.sync()
        yield plant


@pytest_asyncio.fixture
async def second() -> AsyncIterator[GuardProcess]:
    """Another guard, of its own directories."""
    with directories() as (runtime, state):
        process = GuardProcess(runtime, state)
        try:
            yield process
        finally:
            await process.close()


def flags(guard: GuardProcess) -> int:
    """What the guard holds against the device."""
    assert guard.view is not None
    return guard.view.device(0).flags


def normals_and_beats(requests: list[Request]) -> list[Request]:
    """Writes that only an owner may send."""
    return [
        r for r in requests
        if r.kind == "w" and (
            (r.address == BEAT_AT and r.function == 16)
            or (r.address == BREAKER_COIL and r.values[0][1] == 1)
        )
    ]  # fmt: skip


async def beating(guard: GuardProcess, server: ModbusServer) -> None:
    """Its heartbeats come."""
    before = (await server.get("hr", BEAT_AT))[0]
    while (await server.get("hr", BEAT_AT))[0] == before:
        await scans(guard, 2)


async def test_the_loser_is_passive_and_takes_over_when_the_owner_is_gone(
    guard: GuardProcess, second: GuardProcess, server: ModbusServer
) -> None:
    program = leased(server.port)
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    await beating(guard, server)
    low, high, _ = await server.get("hr", LEASE_AT, 3)
    assert low | high << 16 == int((guard.state / "guard" / "instance").read_text())
    await second.start()
    assert second.load(program).code == ResultCode.DONE
    await second.until(lambda: flags(second) == DeviceStatsFlag.LEASE_LOST)
    (down,) = [
        e for e in second.events(EventType.DEVICE_DOWN)
        if payload_of(e)["reason"] == DownReason.LEASE
    ]  # fmt: skip
    assert down.key == 1
    assert second.view is not None
    assert second.view.header().counters[Counter.LEASE_LOST] == 1
    # The loser's own trip does not reach the device, and is said to have failed.
    trip(second.client())
    await second.until_output(OutputState.TRIP_FAILED)
    assert await server.get("c", BREAKER_COIL) == [1]
    assert flags(guard) == 0
    await guard.stop(signal.SIGKILL)
    await second.until_output(OutputState.TRIPPED)  # it owns the device now
    assert await server.get("c", BREAKER_COIL) == [0]
    await beating(second, server)
    assert flags(second) == 0
    # Who was the owner comes back, and waits for its turn.
    await guard.start()
    await guard.until(lambda: flags(guard) == DeviceStatsFlag.LEASE_LOST)
    await second.until_interlock(InterlockState.READY_TO_RESET)
    generation = second.view.interlock(0).generation
    assert second.client().command(MessageType.RESET, reset(generation)).code == ResultCode.DONE
    await second.until_output(OutputState.RELEASED)
    assert await server.get("c", BREAKER_COIL) == [1]


async def test_two_guards_that_start_together_never_both_beat_or_release(
    guard: GuardProcess, second: GuardProcess, server: ModbusServer
) -> None:
    program = leased(server.port)
    both = (guard, second)
    for one in both:
        await one.start()
    for one in both:
        assert one.load(program).code == ResultCode.DONE
    await guard.until(lambda: sum(flags(one) for one in both) == DeviceStatsFlag.LEASE_LOST)
    owner, loser = both if flags(guard) == 0 else both[::-1]
    await beating(owner, server)
    trip(owner.client())
    await owner.until_output(OutputState.TRIPPED)
    await owner.until_interlock(InterlockState.READY_TO_RESET)
    assert owner.client().command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await owner.until_output(OutputState.RELEASED)
    await scans(loser, 20)
    writes = normals_and_beats(await server.requests())
    assert len({r.connection for r in writes}) == 1
    assert any(r.address == BREAKER_COIL for r in writes)


async def test_a_guard_goes_on_with_its_own_lease_after_a_restart(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await guard.start()
    assert guard.load(leased(server.port)).code == ResultCode.DONE
    await beating(guard, server)
    before = await server.get("hr", LEASE_AT, 2)
    await guard.stop(signal.SIGKILL)
    await guard.start()
    await beating(guard, server)
    assert await server.get("hr", LEASE_AT, 2) == before
    assert flags(guard) == 0


async def test_a_pending_trip_value_is_written_before_the_lease_is_read(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await guard.start()
    assert guard.load(leased(server.port)).code == ResultCode.DONE
    await beating(guard, server)
    trip(guard.client())
    await guard.until_output(OutputState.TRIPPED)
    await guard.stop(signal.SIGKILL)
    done = len(await server.requests())
    server.set("c", BREAKER_COIL, 1)
    await server.sync()
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)
    first = next(r for r in (await server.requests())[done:] if r.kind == "w")
    assert (first.address, first.values) == (BREAKER_COIL, ((1, 0),))
