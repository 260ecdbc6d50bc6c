"""Outputs, swaps and messages in odd order: nothing gets stuck, nothing is mistaken."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    Counter,
    EventType,
    InterlockState,
    LoadFlag,
    MessageType,
    OutputState,
    Quality,
    Reason,
    ResultCode,
)
from tests.helpers.blobs import MS
from tests.helpers.device import Asked, Device
from tests.helpers.guard import BREAKER_COIL, GuardProcess, mine, other_outputs, reset
from tests.helpers.guarding import methane, protecting, scans

# ---- outputs ------------------------------------------------------------------------------------


async def test_a_read_back_that_comes_back_and_differs_is_a_mismatch(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], readback=5)  # fed by the gateway
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    assert guard.view is not None
    view = guard.view
    client = guard.client()

    def contact(value: float, quality: Quality = Quality.GOOD) -> None:
        now = view.header().scan_mono_ns
        sample = messages.SAMPLE.pack(5, quality, Reason.COMM_FAILURE, 0, value, now, 1)
        client.send(MessageType.SAMPLES, sample)

    contact(1)
    await guard.until_output(OutputState.RELEASED)
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPING)
    await guard.until(lambda: guard.output().wire_ns != 0)
    await scans(guard, 2)
    contact(0)
    await guard.until_output(OutputState.TRIPPED)
    contact(0, Quality.BAD)
    await guard.until(lambda: len(guard.events(EventType.OUT_UNVERIFIED)) == 1)
    contact(1)
    await guard.until_output(OutputState.TRIP_FAILED)
    assert len(guard.events(EventType.OUT_MISMATCH)) == 1


async def test_outputs_whose_joint_write_is_refused_are_written_one_by_one(
    guard: GuardProcess, device: Device
) -> None:
    def single_writes_only(asked: Asked) -> bytes | None:
        return asked.refusal(1) if asked.function in {15} else None

    device.twist = single_writes_only
    device.coils[17] = 1
    await protecting(guard, other_outputs(mine(device.port)))
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)
    await guard.until_output(OutputState.TRIPPED, 1)
    assert (device.coils[BREAKER_COIL], device.coils[17]) == (0, 0)
    assert guard.events(EventType.OUT_FAILED) == []


async def test_a_trip_beside_a_release_leaves_the_other_release_alone(
    guard: GuardProcess, device: Device
) -> None:
    program = other_outputs(mine(device.port))
    program.interlocks.append(
        replace(
            program.interlocks[0], key=8, order=1, legs_first=3, legs_count=0,
            effects_first=2, effects_count=1,
        )
    )  # fmt: skip
    program.effects.append(blobs.Effect(1, 0))
    await protecting(guard, program)
    client = guard.client()
    client.command(MessageType.TRIP, messages.command(7, who="uid:test"))
    await guard.until_output(OutputState.TRIPPED, 1)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    # The normal values go out together and are never answered; one output trips again.
    device.twist = lambda asked: b"" if asked.function == 15 else None
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until(lambda: any(a.function == 15 and a.written == (1, 1) for a in device.asked))
    client.command(MessageType.TRIP, messages.command(8, who="uid:test"))
    await guard.until_output(OutputState.TRIPPED)
    await guard.until_output(OutputState.RELEASED, 1)


# ---- programs -----------------------------------------------------------------------------------


async def test_a_program_that_cannot_be_kept_runs_and_the_guard_too(
    guard: GuardProcess, device: Device
) -> None:
    await guard.start()
    obstacle = guard.state / "guard" / "last-good.new"
    obstacle.mkdir()  # as a full disk: the file cannot be written
    await protecting(guard, mine(device.port))
    obstacle.rmdir()
    last_good = guard.state / "guard" / "last-good"
    await guard.until(last_good.exists)  # tried again until it is kept
    assert guard.process is not None
    assert guard.process.returncode is None


async def test_a_swap_that_renews_inputs_gives_them_time_to_be_read(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    slower = mine(device.port)
    slower.devices[0] = replace(slower.devices[0], timeout_ns=250 * MS, settle_ns=100 * MS)
    assert guard.load(slower, flags=LoadFlag.WEAKENS).code == ResultCode.DONE
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.slot(0).quality == Quality.GOOD)
    await scans(guard, 5)
    assert guard.events(EventType.TRIP) == []
    assert view.interlock(0).state == InterlockState.NORMAL


async def test_a_changed_condition_begins_with_nodes_of_its_own(
    guard: GuardProcess, device: Device
) -> None:
    old, new = mine(device.port), mine(device.port, fingerprint=100)
    for program in (old, new):
        program.nodes = [replace(node, interlock=0) for node in program.nodes]
    await protecting(guard, old)
    methane(device, 1.6, 0.4, 0.4)
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.interlock(0).legs & 3 == 2)
    methane(device, 1.2, 0.4, 0.4)
    await guard.until(lambda: view.slot(0).value < 1.3)
    assert view.interlock(0).legs & 3 == 2  # set and inside its band
    assert guard.load(new, flags=LoadFlag.WEAKENS).code == ResultCode.DONE
    await scans(guard, 3)
    assert view.interlock(0).legs & 3 == 1


# ---- the mailbox --------------------------------------------------------------------------------


async def test_a_touch_cannot_be_made_to_take_long(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port))
    assert guard.view is not None
    view = guard.view
    client = guard.client()
    twice = messages.TOUCH.pack(1, 2) + 2 * messages.RANGE.pack(0, 6)
    client.send(MessageType.TOUCH, twice)
    await guard.until(lambda: view.header().counters[Counter.MESSAGE_BAD] == 1)
    assert client.closed_by_peer()


async def test_a_touch_for_another_program_keeps_nothing_alive(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    assert guard.view is not None
    view = guard.view
    client = guard.client()
    now = view.header().scan_mono_ns
    client.send(MessageType.SAMPLES, messages.SAMPLE.pack(5, Quality.GOOD, 0, 0, 1.0, now, 1))
    await guard.until(lambda: view.slot(5).quality == Quality.GOOD)
    body = messages.TOUCH.pack(view.header().scan_mono_ns, 1) + messages.RANGE.pack(5, 1)
    client.socket.send(messages.pack(MessageType.TOUCH, body, program=4711))
    await scans(guard, 2)
    assert view.slot(5).mono_ns == now
    client.socket.send(messages.pack(MessageType.TOUCH, body))
    await guard.until(lambda: view.slot(5).mono_ns > now)


async def test_an_answer_goes_to_nobody_else(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port))
    assert guard.process is not None
    asker = guard.client(hello=False)
    await scans(guard, 3)  # the guard has taken it in
    guard.process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{guard.process.pid}/stat")
    await guard.until(lambda: ") T " in stat.read_text())
    asker.send(MessageType.TRIP, messages.command(7, who="uid:test"), os.urandom(16))
    asker.close()
    other = guard.client(hello=False)  # gets the place of the one that left, in the same wake
    guard.process.send_signal(signal.SIGCONT)
    await guard.until_output(OutputState.TRIPPED)
    ident = os.urandom(16)
    other.send(MessageType.RESET, reset(0), ident)
    assert other.receive(MessageType.RESULT)[0] == ident


async def test_stop_asked_for_again_is_not_put_off(guard: GuardProcess, device: Device) -> None:
    program = mine(device.port)
    await protecting(guard, program)
    device.twist = lambda asked: b"" if asked.function == 5 else None  # never confirmed
    client = guard.client()
    body, ident = messages.command(0, who="me", ledger_seq=3), os.urandom(16)
    assert guard.view is not None
    view = guard.view
    for _ in range(10):  # 150 ms each, where 600 ms is the longest wait for a confirmation
        with contextlib.suppress(OSError):
            client.send(MessageType.STOP, body, ident)
        later = view.header().scan + 15
        await guard.until(lambda n=later: view.header().scan >= n or view.header().clean_stop == 1)  # type: ignore[misc]
        if view.header().clean_stop:
            break
    assert view.header().clean_stop == 1
    answered, result = client.receive(MessageType.RESULT)
    assert answered == ident
    assert messages.result_of(result).code == ResultCode.DONE
    assert guard.process is not None
    assert await guard.stop() == 0


async def test_two_guards_at_once_leave_one(guard: GuardProcess) -> None:
    rivals = [GuardProcess(guard.runtime, guard.state) for _ in range(4)]
    try:
        ends = await asyncio.gather(*(r.start() for r in rivals), return_exceptions=True)
        assert sum(1 for end in ends if end is None) == 1, ends
    finally:
        for rival in rivals:
            await rival.close()


async def test_a_request_without_points_is_never_parted(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.requests.append(blobs.Request(0, 4, 0, 10 * MS, 200, 4, 3, 1))
    device.twist = lambda asked: asked.refusal(2) if asked.function == 3 else None
    await protecting(guard, program)
    await scans(guard, 50)
    assert {a.address for a in device.asked if a.function == 3} <= {200}


@pytest.mark.skipif(os.getuid() != 0, reason="needs a guard of another user")
async def test_an_operator_may_trip_and_not_reset(guard: GuardProcess) -> None:
    # A guard of another user, to whom root is an operator; it reads this tree all the same.
    rights = "+dac_override"
    guard.prefix = ("setpriv", "--reuid=1", f"--inh-caps={rights}", f"--ambient-caps={rights}")
    await guard.start()
    operator = guard.client(hello=False)
    trip = operator.command(MessageType.TRIP, messages.command(7, who="uid:test"))
    assert trip.code == ResultCode.UNKNOWN_KEY
    operator.send(MessageType.RESET, reset(1), b"r" * 16)
    assert operator.closed_by_peer()
