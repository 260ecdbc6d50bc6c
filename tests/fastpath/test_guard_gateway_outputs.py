"""Outputs that the gateway writes: its word counts only for what is commanded, and in time."""

import signal

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    Counter,
    EventFlag,
    EventType,
    InterlockState,
    MessageType,
    OutputCode,
    OutputState,
    ResultCode,
)
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Device
from tests.helpers.guard import BREAKER_COIL, Client, GuardProcess, mine, reset
from tests.helpers.guarding import methane, release, scans
from tests.helpers.outputs import add_output, code_of, path_of, told, trip, via_gateway

SLOW = 4  # key of the output that the gateway writes
STATES = (
    EventType.OUT_TRIP, EventType.OUT_CONFIRMED, EventType.OUT_FAILED, EventType.OUT_UNVERIFIED,
    EventType.OUT_RELEASE, EventType.OUT_RELEASED, EventType.OUT_HELD,
)  # fmt: skip


def answer(client: Client, generation: int, code: int = 1, key: int = SLOW) -> None:
    """The gateway's word of one write."""
    client.send(MessageType.OUTPUT_RESULT, messages.OUTPUT_RESULT.pack(key, generation, code))


def bad(guard: GuardProcess) -> int:
    """Results that answered nothing."""
    assert guard.view is not None
    return guard.view.header().counters[Counter.OUTPUT_RESULT_BAD]


async def slow_output(guard: GuardProcess, device: Device, confirm_ns: int) -> None:
    """The second output is the gateway's; the breaker is its fallback."""
    program = mine(device.port)
    add_output(program, SLOW)
    via_gateway(program, 1, confirm_ns=confirm_ns)
    program.effects = [blobs.Effect(0, 1)]
    program.fallbacks = [blobs.Fallback(1, 0)]
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, 0)
    methane(device, 1.6, 1.7, 0.4)


async def test_it_is_confirmed_by_the_gateways_result_of_its_generation(
    guard: GuardProcess, device: Device
) -> None:
    await slow_output(guard, device, 30 * SECOND)
    await guard.until_output(OutputState.TRIPPING, 1)
    latch = guard.output(1)
    assert (latch.commanded, latch.generation) == (0, 1)
    gateway = guard.client()
    for generation, code, key in [(0, 1, SLOW), (2, 1, SLOW), (1, 0, SLOW), (1, 1, 3), (1, 1, 99)]:
        answer(gateway, generation, code, key)
    await guard.until(lambda: bad(guard) == 5)
    assert guard.output(1).state == OutputState.TRIPPING
    answer(gateway, 1)
    await guard.until_output(OutputState.TRIPPED, 1)
    assert guard.output(0).state == OutputState.RELEASED  # no fallback was needed
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert gateway.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASING, 1)
    latch = guard.output(1)
    assert (latch.commanded, latch.generation) == (1, 2)
    answer(gateway, 1)  # late, of the trip
    await guard.until(lambda: bad(guard) == 6)
    assert guard.output(1).state == OutputState.RELEASING
    answer(gateway, 2)
    await guard.until_output(OutputState.RELEASED, 1)
    answer(gateway, 2)
    await guard.until(lambda: bad(guard) == 7)


async def test_no_result_in_time_trips_the_fallback_also_without_a_gateway(
    guard: GuardProcess, device: Device
) -> None:
    await slow_output(guard, device, 200 * MS)
    await guard.until_output(OutputState.TRIP_FAILED, 1)
    await guard.until_output(OutputState.TRIPPED, 0)
    (begin,), (failed,) = (told(guard, SLOW, kind) for kind in STATES[::2][:2])
    assert code_of(failed) == OutputCode.TIMEOUT
    assert failed.mono_ns - begin.mono_ns >= 200 * MS
    assert told(guard, 3, EventType.OUT_TRIP)[0].scan == failed.scan
    assert device.coils[BREAKER_COIL] == 0
    answer(guard.client(), 1)
    await guard.until_output(OutputState.TRIPPED, 1)
    assert told(guard, SLOW, EventType.OUT_CONFIRMED)[0].flags & EventFlag.LATE


async def test_a_refused_result_fails_at_once(guard: GuardProcess, device: Device) -> None:
    await slow_output(guard, device, 30 * SECOND)
    await guard.until_output(OutputState.TRIPPING, 1)
    gateway = guard.client()
    answer(gateway, 1, 2)
    await guard.until_output(OutputState.TRIP_FAILED, 1)
    assert code_of(told(guard, SLOW, EventType.OUT_FAILED)[0]) == OutputCode.REFUSED
    answer(gateway, 1)
    await guard.until_output(OutputState.TRIPPED, 1)


async def test_a_release_that_is_refused_three_times_is_held(
    guard: GuardProcess, device: Device
) -> None:
    await slow_output(guard, device, 30 * SECOND)
    await guard.until_output(OutputState.TRIPPING, 1)
    gateway = guard.client()
    answer(gateway, 1)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert gateway.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    for _ in range(3):
        answer(gateway, 2, 5)
    await guard.until_output(OutputState.HELD, 1)
    assert gateway.command(MessageType.RELEASE, release(SLOW)).code == ResultCode.DONE
    answer(gateway, 3)
    await guard.until_output(OutputState.RELEASED, 1)


async def test_a_lost_gateway_leaves_it_tripped_and_unverified(
    guard: GuardProcess, device: Device
) -> None:
    await slow_output(guard, device, 30 * SECOND)
    await guard.until_output(OutputState.TRIPPING, 1)
    gateway = guard.client()
    answer(gateway, 1)
    await guard.until_output(OutputState.TRIPPED, 1)
    gateway.close()
    await guard.until(lambda: len(told(guard, SLOW, EventType.OUT_UNVERIFIED)) == 1)
    await scans(guard, 5)
    assert guard.output(1).state == OutputState.TRIPPED
    answer(guard.client(), 1)
    await guard.until(lambda: len(told(guard, SLOW, EventType.OUT_CONFIRMED)) == 2)
    assert path_of(guard, SLOW, *STATES) == [
        EventType.OUT_TRIP, EventType.OUT_CONFIRMED,
        EventType.OUT_UNVERIFIED, EventType.OUT_CONFIRMED,
    ]  # fmt: skip


async def test_it_is_commanded_again_after_a_kill_and_its_fallback_acts(
    guard: GuardProcess, device: Device
) -> None:
    await slow_output(guard, device, 200 * MS)
    await guard.until_output(OutputState.TRIPPED, 0)
    await guard.stop(signal.SIGKILL)
    await guard.start()
    await guard.until_output(OutputState.TRIPPED, 0)
    assert guard.output(1).commanded == 0
    answer(guard.client(), guard.output(1).generation)
    await guard.until_output(OutputState.TRIPPED, 1)


async def test_only_the_gateways_session_may_answer(guard: GuardProcess, device: Device) -> None:
    await slow_output(guard, device, 30 * SECOND)
    await guard.until_output(OutputState.TRIPPING, 1)
    stranger = guard.client(hello=False)
    answer(stranger, 1)
    assert stranger.closed_by_peer()
    gateway = guard.client()
    gateway.send(MessageType.OUTPUT_RESULT, bytes(17))
    assert gateway.closed_by_peer()
    assert guard.output(1).state == OutputState.TRIPPING
    trip(guard.client())  # and the guard goes on
