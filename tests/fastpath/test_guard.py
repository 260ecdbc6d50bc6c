"""The guard as a process: against a libmodbus device, through kills, restarts and power losses."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    Counter,
    EventFlag,
    EventType,
    InterlockState,
    LoadFlag,
    LoadStep,
    MessageType,
    OutputState,
    Quality,
    Reason,
    ResultCode,
    ResultDetail,
    TripReason,
)
from fastpath.records import payload_of
from tests.helpers.guard import (
    BREAKER_COIL,
    BREAKER_CONTACT,
    METHANE_AT,
    GuardProcess,
    directories,
    mine,
    other_outputs,
    reset,
)
from tests.helpers.modbus_server import ModbusServer, Request


@pytest_asyncio.fixture
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests.log") as device:
        if "stuck" not in request.node.name:
            device.link(BREAKER_COIL, BREAKER_CONTACT, 2.0)
        device.set("c", BREAKER_COIL, 1)
        device.set("di", BREAKER_CONTACT, 1)
        for address in METHANE_AT:
            device.set_float("ir", address, 0.4)
        await device.sync()
        yield device


@pytest_asyncio.fixture
async def guard() -> AsyncIterator[GuardProcess]:
    with directories() as (runtime, state):
        process = GuardProcess(runtime, state)
        try:
            await process.start()
            yield process
        finally:
            await process.close()


async def _protecting(guard: GuardProcess, server: ModbusServer) -> None:
    """The mine's program runs, and its output is released by its read-back."""
    assert guard.load(mine(server.port)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)


async def _methane(server: ModbusServer, *values: float) -> None:
    for address, value in zip(METHANE_AT, values, strict=True):
        server.set_float("ir", address, value)
    await server.sync()


async def _trip(guard: GuardProcess, server: ModbusServer) -> None:
    await _methane(server, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)


async def _writes(server: ModbusServer) -> list[Request]:
    requests = await server.requests()
    return [r for r in requests if r.kind == "w" and r.address == BREAKER_COIL]


async def test_first_start_moves_nothing_until_the_read_back_agrees(
    guard: GuardProcess, server: ModbusServer
) -> None:
    server.set("c", BREAKER_COIL, 0)
    while await server.get("di", BREAKER_CONTACT) != [0]:
        await server.sync()
    guard.load(mine(server.port))
    await guard.until(lambda: guard.view is not None and guard.view.slot(3).quality == Quality.GOOD)
    assert guard.output().state == OutputState.HELD
    server.set("c", BREAKER_COIL, 1)
    await guard.until_output(OutputState.RELEASED)
    assert await server.edges(BREAKER_COIL) == []


async def test_two_of_three_trip_and_are_confirmed(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    await _methane(server, 1.6, 0.4, 0.4)
    await guard.until(lambda: guard.view is not None and guard.view.slot(0).value > 1.5)
    assert guard.output().state == OutputState.RELEASED
    await _methane(server, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)
    assert guard.output().confirmed == 1
    assert [edge.value for edge in await server.edges(BREAKER_COIL)] == [0]
    trip = guard.events(EventType.TRIP)
    assert len(trip) == 1
    told = payload_of(trip[0])
    assert told["reason"] == TripReason.CAUSE
    assert told["first_out"] == 1
    assert {told["slot0"], told["slot1"]} == {0, 1}
    confirmed = payload_of(guard.events(EventType.OUT_CONFIRMED)[0])
    assert 0 < confirmed["demand_ns"] <= confirmed["wire_ns"] <= confirmed["confirm_ns"]
    # Record before the wire: the trip's record is older than the first write.
    assert trip[0].mono_ns <= confirmed["wire_ns"]


async def test_a_trip_waits_for_reset_and_reset_names_what_is_missing(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    await _trip(guard, server)
    client = guard.client()
    refused = client.command(MessageType.RESET, reset(1))
    assert (refused.code, refused.detail) == (ResultCode.CAUSE_PRESENT, 0)
    await _methane(server, 1.2, 1.2, 1.2)  # inside the band: still there
    await guard.until(lambda: guard.view is not None and guard.view.slot(2).value > 1.1)
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.CAUSE_PRESENT
    await _methane(server, 0.4, 0.4, 1.2)  # cause gone, permissive not
    await guard.until(lambda: guard.view is not None and guard.view.slot(1).value < 1.0)
    await guard.until(
        lambda: client.command(MessageType.RESET, reset(1)).code == ResultCode.PERMISSIVE
    )
    await _methane(server, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.output().state == OutputState.TRIPPED
    assert client.command(MessageType.RESET, reset(7)).code == ResultCode.WRONG_GENERATION
    assert client.command(MessageType.RESET, reset(1, seq=0)).code == ResultCode.NOT_ALLOWED
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    assert [edge.value for edge in await server.edges(BREAKER_COIL)] == [0, 1]
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.ALREADY


async def test_the_same_command_again_has_the_same_answer_and_no_second_action(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    client = guard.client()
    ident = os.urandom(16)
    body = messages.command(7, who="uid:test")
    first = client.command(MessageType.TRIP, body, ident)
    again = client.command(MessageType.TRIP, body, ident)
    assert first == again
    assert first.code == ResultCode.DONE
    assert len(guard.events(EventType.TRIP)) == 1


async def test_one_bad_transmitter_leaves_one_of_two_and_two_bad_ones_trip(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    await _methane(server, 9.0, 0.4, 0.4)  # above the instrument's range
    await guard.until(
        lambda: guard.view is not None and guard.view.slot(0).reason == Reason.OUT_OF_RANGE
    )
    assert guard.output().state == OutputState.RELEASED
    await _methane(server, 9.0, 0.4, float("nan"))
    await guard.until_output(OutputState.TRIPPED)


async def test_a_dead_device_trips_in_its_time_and_is_told_once(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await guard.until_interlock(InterlockState.TRIPPED)
        await guard.until_output(OutputState.TRIP_FAILED)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await guard.until_output(OutputState.TRIPPED)
    assert guard.output().confirmed == 1
    assert len(guard.events(EventType.TRIP)) == 1
    assert len(guard.events(EventType.DEVICE_DOWN)) == 1
    late = guard.events(EventType.OUT_CONFIRMED)[-1]
    assert late.flags & EventFlag.LATE


async def test_a_stuck_breaker_is_never_said_to_be_confirmed(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    await _methane(server, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIP_FAILED)
    assert guard.output().confirmed == 0
    assert guard.events(EventType.OUT_CONFIRMED) == []
    # It goes on writing the trip value.
    written = len(await _writes(server))
    while len(await _writes(server)) < written + 3:
        assert guard.output().state == OutputState.TRIP_FAILED
    # The breaker opens at last: late, and said so.
    server.set("di", BREAKER_CONTACT, 0)
    await guard.until_output(OutputState.TRIPPED)
    assert guard.events(EventType.OUT_CONFIRMED)[0].flags & EventFlag.LATE


async def test_an_unarmed_interlock_is_told_and_moves_nothing(
    guard: GuardProcess, server: ModbusServer
) -> None:
    guard.load(mine(server.port, armed=False))
    await guard.until_output(OutputState.RELEASED)
    await _methane(server, 1.6, 1.7, 0.4)
    await guard.until_interlock(InterlockState.TRIPPED)
    assert guard.events(EventType.TRIP)[0].flags & EventFlag.UNARMED
    client = guard.client()
    result = client.command(MessageType.TRIP, messages.command(7, who="uid:test"))
    assert (result.code, result.detail) == (ResultCode.ALREADY, ResultDetail.UNARMED)
    await _methane(server, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.NORMAL)
    assert guard.output().state == OutputState.RELEASED
    assert await server.edges(BREAKER_COIL) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_restart_keeps_the_latch_and_writes_the_trip_value_first(
    guard: GuardProcess, server: ModbusServer, how: signal.Signals
) -> None:
    await _protecting(guard, server)
    await _trip(guard, server)
    await _methane(server, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    await guard.stop(how)
    server.set("c", BREAKER_COIL, 1)  # somebody else closed it meanwhile
    before = len(await server.requests())
    await guard.start()
    await guard.until(lambda: guard.output().confirmed == 1)
    assert guard.output().state == OutputState.TRIPPED
    assert len(guard.events(EventType.TRIP)) == 1
    writes = [r for r in (await server.requests())[before:] if r.kind == "w"]
    assert writes[0].address == BREAKER_COIL
    assert writes[0].values[0][1] == 0
    start = payload_of(guard.events(EventType.GUARD_START)[-1])
    assert start["clean"] == (1 if how == signal.SIGTERM else 0)


async def test_after_a_power_loss_everything_armed_starts_tripped(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    await guard.stop(signal.SIGKILL)
    guard.boot(2)
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)
    trip = payload_of(guard.events(EventType.TRIP)[0])
    assert trip["reason"] == TripReason.POWER_LOSS


async def test_a_clean_stop_survives_a_reboot_without_a_trip(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    await guard.stop(signal.SIGTERM)
    guard.boot(2)
    await guard.start()
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.slot(0).quality == Quality.GOOD)
    assert view.interlock(0).state == InterlockState.NORMAL
    assert guard.output().state == OutputState.RELEASED
    assert not (guard.state / "guard" / "clean-stop").exists()


async def test_a_damaged_latch_means_tripped(guard: GuardProcess, server: ModbusServer) -> None:
    await _protecting(guard, server)
    await guard.stop(signal.SIGKILL)
    with (guard.runtime / "guard.shm").open("r+b") as file:
        file.seek(4096 + 16)  # state of the first interlock's copy A
        file.write(b"\x07")
    await guard.start()
    await guard.until_output(OutputState.TRIPPED)
    assert payload_of(guard.events(EventType.TRIP)[0])["reason"] == TripReason.RESTORED


async def test_a_second_guard_is_refused(guard: GuardProcess) -> None:
    second = GuardProcess(guard.runtime, guard.state)
    with pytest.raises(RuntimeError, match="ended with 3"):
        await second.start()
    await second.close()


async def test_programs_are_swapped_only_where_no_trip_can_vanish(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    same = mine(server.port)
    same.tick_ns = 5_000_000
    assert guard.load(same, LoadStep.VERIFY).code == ResultCode.DONE
    await _trip(guard, server)
    # Equal interlocks: the state is carried.
    assert guard.load(same).code == ResultCode.DONE
    assert guard.output().state == OutputState.TRIPPED
    assert guard.load(same).code == ResultCode.ALREADY
    # It would be gone while tripped: refused, and the old program runs on.
    gone = mine(server.port, key=8)
    assert guard.load(gone, flags=LoadFlag.WEAKENS).code == ResultCode.WOULD_REMOVE_TRIP
    await _methane(server, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.client().command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED)
    assert guard.load(gone, flags=LoadFlag.WEAKENS).code == ResultCode.DONE
    broken = mine(server.port)
    broken.effects = []
    assert guard.load(broken).code == ResultCode.REFUSED_BLOB


async def test_a_swap_that_adds_an_output_holds_it(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    assert guard.load(other_outputs(mine(server.port))).code == ResultCode.DONE
    assert guard.output(0).state == OutputState.RELEASED
    assert guard.output(1).state == OutputState.HELD
    client = guard.client()
    body = messages.command(4, who="uid:test", ledger_seq=5)
    assert client.command(MessageType.RELEASE, body).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 1)
    # Both at adjacent addresses go in one request.
    await _methane(server, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED, 1)
    trips = [r for r in await server.requests() if r.kind == "w" and r.function == 15]
    assert trips
    assert trips[0].count == 2


async def test_the_heartbeat_moves_and_names_the_program(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    first = await server.get("hr", 90, 2)
    scans = guard.view.header().scan if guard.view else 0
    await guard.until(lambda: guard.view is not None and guard.view.header().scan > scans + 60)
    second = await server.get("hr", 90, 2)
    assert first[0] != second[0]
    assert guard.view is not None
    assert second[1] == int.from_bytes(guard.view.header().program[:2], "little")


async def test_stop_writes_the_trip_values_first(guard: GuardProcess, server: ModbusServer) -> None:
    await _protecting(guard, server)
    result = guard.client().command(MessageType.STOP, messages.command(0, who="me", ledger_seq=3))
    assert result.code == ResultCode.DONE
    assert guard.process is not None
    assert await guard.stop() == 0
    assert [edge.value for edge in await server.edges(BREAKER_COIL)] == [0]
    assert (guard.state / "guard" / "clean-stop").exists()


async def test_hostile_messages_end_their_session_only(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    good = guard.client()
    for message in (b"", b"x", bytes(32), os.urandom(64), bytes(5000)):
        bad = guard.client(hello=False)
        bad.socket.send(message)
        if message:
            assert bad.closed_by_peer()
        bad.close()
    assert good.command(MessageType.RESET, reset(0)).code == ResultCode.ALREADY


async def test_samples_from_the_gateway_are_checked_one_by_one(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    assert guard.view is not None
    view = guard.view
    client = guard.client()
    now = view.header().scan_mono_ns
    pack = messages.SAMPLE.pack
    body = b"".join(
        (
            pack(5, Quality.GOOD, 0, 0, 4.5, now, 1),  # its own: taken
            pack(5, Quality.GOOD, 0, 0, 9.0, now - 1, 1),  # older
            pack(0, Quality.GOOD, 0, 0, 0.1, now, 1),  # the guard's own tag
            pack(999, Quality.GOOD, 0, 0, 0.1, now, 1),  # no such slot
            pack(5, Quality.GOOD, 0, 0, 9.0, now + 10**12, 1),  # from the future
        )
    )
    client.send(MessageType.SAMPLES, body)
    await guard.until(lambda: view.slot(5).value == 4.5)
    assert view.slot(0).value != 0.1
    await guard.until(lambda: view.slot(5).reason == Reason.STALE)  # nobody feeds it any more


async def test_what_is_rehearsed_between_polls_leaves_no_trace(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    assert guard.view is not None
    view = guard.view
    output = view.output(0)
    before = (view.header(), view.interlock(0), guard.events())
    polls = view.device(0).requests + 200
    await guard.until(lambda: view.device(0).requests >= polls)
    header = view.header()
    assert guard.events() == before[2]
    assert view.interlock(0) == before[1]
    assert view.output(0)[1:2] + view.output(0)[3:8] == output[1:2] + output[3:8]
    assert header.counters[Counter.TRIPS] == before[0].counters[Counter.TRIPS] == 0
    await _trip(guard, server)
    assert view.interlock(0).generation == before[1].generation + 1
    assert [e.seq for e in guard.events()] == list(range(1, len(guard.events()) + 1))


async def test_a_weakening_program_needs_the_word_for_it(
    guard: GuardProcess, server: ModbusServer
) -> None:
    await _protecting(guard, server)
    weaker = mine(server.port, fingerprint=100)
    looked = guard.load(weaker, LoadStep.VERIFY)
    assert (looked.code, looked.detail) == (ResultCode.DONE, ResultDetail.WEAKENS + 1)
    refused = guard.load(weaker)
    assert (refused.code, refused.detail) == (ResultCode.NOT_ALLOWED, ResultDetail.WEAKENS + 1)
    assert guard.load(weaker, flags=LoadFlag.WEAKENS).code == ResultCode.DONE
    assert payload_of(guard.events(EventType.PROGRAM)[-1])["weakened"] == 1
    assert guard.counter(Counter.LOADS_REFUSED) == 1


async def test_a_unit_may_ask_for_a_second_word(guard: GuardProcess, server: ModbusServer) -> None:
    await guard.stop()
    guard.options = ("--confirm-weakening",)
    await guard.start()
    await _protecting(guard, server)
    weaker = mine(server.port, fingerprint=100)
    assert guard.load(weaker, flags=LoadFlag.WEAKENS).code == ResultCode.NOT_ALLOWED
    # The gateway's own session cannot give it; one that never said HELLO can.
    wanted = blobs.blob_hash(blobs.build(weaker))
    body = messages.LOAD.pack(wanted, bytes(32), 0, LoadStep.CONFIRM, 0)
    assert guard.client().command(MessageType.LOAD, body).code == ResultCode.NOT_ALLOWED
    operator = guard.client(hello=False)
    assert operator.command(MessageType.LOAD, body).code == ResultCode.DONE
    assert guard.load(weaker, flags=LoadFlag.WEAKENS).code == ResultCode.DONE
