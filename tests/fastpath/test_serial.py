"""The guard on a serial line: one exchange at a time, nothing taken for another's, trips first."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    Counter,
    EventType,
    LoadFlag,
    MessageType,
    OutputState,
    Quality,
    Reason,
    Refusal,
    ResultCode,
)
from fastpath.journal import GuardView
from fastpath.records import payload_of
from tests.helpers.blobs import MS
from tests.helpers.device import Asked, Device
from tests.helpers.guard import METHANE_AT, GuardProcess, mine, reset
from tests.helpers.guarding import methane, protecting, scans, tripped
from tests.helpers.serial_device import SerialBus, bus_of, framed, on_line

BEAT = b"\x10\x00\x5a"  # FC16 to the heartbeat's address
TRIP = b"\x05\x00\x10\x00\x00"  # FC5 to the breaker's coil, off
TRIP_OF_MANY = b"\x0f\x00\x10\x00\x01\x01\x00"  # the same by FC15
READS = (2, 4)


def view_of(guard: GuardProcess) -> GuardView:
    assert guard.view is not None
    return guard.view


def counted(guard: GuardProcess, counter: Counter) -> int:
    return int(view_of(guard).header().counters[counter])


def written(bus: SerialBus) -> list[bytes]:
    """The requests to write the breaker, without unit and CRC."""
    return [frame[1:-2] for frame in bus.sent if frame[1:4] in {TRIP[:3], TRIP_OF_MANY[:3]}]


async def polled(guard: GuardProcess, slot: int = 0) -> None:
    """The next good poll of a tag."""
    view = view_of(guard)
    before = view.slot(slot).mono_ns
    await guard.until(
        lambda: view.slot(slot).mono_ns > before and view.slot(slot).quality == Quality.GOOD
    )


def is_read(frame: bytes) -> bool:
    return frame[1] in READS


# ---- the plain case ----------------------------------------------------------------------------


async def test_it_polls_trips_confirms_and_releases_over_a_serial_line(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path))
        await tripped(guard, device)
        assert device.coils[16] == 0
        methane(device, 0.4, 0.4, 0.4)
        view = view_of(guard)
        await guard.until(lambda: view.slot(0).value < 1.0)
        await guard.until_interlock(4)
        body = reset(view.interlock(0).generation)
        assert guard.client().command(MessageType.RESET, body).code == ResultCode.DONE
        await guard.until_output(OutputState.RELEASED)
        assert device.coils[16] == 1
        await guard.until(lambda: sum(frame[1:4] == BEAT for frame in bus.sent) > 2)


async def test_a_trip_waits_for_one_exchange_at_most(guard: GuardProcess, device: Device) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path))
        gas_at: list[int] = []

        def gas(frame: bytes, reply: bytes) -> bytes:
            if frame[1] == 4 and not gas_at and device.registers[METHANE_AT[0]] >= 0x3FC0:
                gas_at.append(len(bus.sent))
            return reply

        bus.wire = gas
        await tripped(guard, device)
        later = [frame[1:-2] for frame in bus.sent[gas_at[0] :]]
        assert later.index(TRIP) <= 1


async def test_the_next_request_waits_until_the_last_exchange_has_ended(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        waiting: list[bytes] = []
        early: list[bytes] = []

        def slow(frame: bytes, reply: bytes) -> bytes:
            if waiting:
                early.append(frame)
            waiting.append(frame)

            def answer() -> None:
                waiting.clear()
                bus.put(reply)

            asyncio.get_running_loop().call_later(0.015, answer)
            return b""

        bus.wire = slow
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=300 * MS))
        await tripped(guard, device)
        assert early == []
        assert counted(guard, Counter.RTU_NOISE) == 0


async def test_a_refused_block_is_halved_until_the_guilty_point_stands_alone(
    guard: GuardProcess, device: Device
) -> None:
    def sparse(asked: Asked) -> bytes | None:
        hole = range(METHANE_AT[1], METHANE_AT[1] + 2)
        touched = range(asked.address, asked.address + asked.word)
        return asked.refusal(2) if asked.function == 4 and set(hole) & set(touched) else None

    device.twist = sparse
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path))
        view = view_of(guard)
        await guard.until(lambda: view.slot(1).reason == Reason.DEVICE_FAILURE)
        await guard.until(lambda: view.slot(2).quality == Quality.GOOD)
        assert view.slot(0).quality == Quality.GOOD


# ---- late, doubled, damaged --------------------------------------------------------------------


async def test_a_late_reply_is_dropped_and_counted(guard: GuardProcess, device: Device) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=30 * MS))
        late: list[bytes] = []

        def once(frame: bytes, reply: bytes) -> bytes:
            if frame[1] == 4 and not late:
                late.append(reply)
                methane(device, 0.5, 0.5, 0.5)
                bus.put_later(0.05, reply)
                return b""
            return reply

        bus.wire = once
        view = view_of(guard)
        await guard.until(lambda: view.slot(0).value == 0.5)
        await guard.until(lambda: counted(guard, Counter.RTU_LATE) == 1)
        assert view.device(0).timeouts == 1
        assert sum(view.device(0).refused) == 0
        assert guard.events(EventType.DEVICE_DOWN) == []


async def test_nothing_is_asked_while_a_late_reply_may_still_come(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=50 * MS))
        lost_at: list[float] = []
        next_at: list[float] = []
        loop = asyncio.get_running_loop()

        def lose_one(frame: bytes, reply: bytes) -> bytes:
            if is_read(frame) and not lost_at:
                lost_at.append(loop.time())
                return b""
            if lost_at and not next_at and frame[1] != 5:
                next_at.append(loop.time())
            return reply

        bus.wire = lose_one
        await guard.until(lambda: bool(next_at))
        assert next_at[0] - lost_at[0] > 0.14  # the timeout, and twice as long


@pytest.mark.parametrize("gap_s", [0.0, 0.0005])
async def test_a_doubled_reply_is_dropped(
    guard: GuardProcess, device: Device, gap_s: float
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=20 * MS))

        def twice(frame: bytes, reply: bytes) -> bytes:
            if frame[1] != 4:
                return reply
            if gap_s:
                bus.put_later(gap_s, reply)
                return reply
            return reply + reply

        bus.wire = twice
        for _ in range(5):
            await polled(guard)
        assert counted(guard, Counter.RTU_NOISE) > 0
        assert view_of(guard).device(0).refused[Refusal.EXCEPTION_ADDRESS] == 0
        assert guard.events(EventType.DEVICE_DOWN) == []


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
async def test_after_a_partial_frame_the_next_poll_is_good(
    guard: GuardProcess, device: Device, length: int
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=150 * MS))
        cut: list[bytes] = []

        def cut_once(frame: bytes, reply: bytes) -> bytes:
            if frame[1] == 4 and not cut:
                cut.append(reply)
                methane(device, 0.6, 0.6, 0.6)
                return reply[:length]
            return reply

        bus.wire = cut_once
        view = view_of(guard)
        # On a busy machine it may be stale, and so 0, before the next poll comes.
        await guard.until(
            lambda: (
                bool(cut)
                and view.slot(0).quality == Quality.GOOD
                and view.slot(0).value != pytest.approx(0.4)
            )
        )
        assert view.slot(0).value == pytest.approx(0.6)
        assert view.device(0).timeouts >= 1


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda reply: framed(reply[1:-2], 9), Refusal.UNIT),
        (lambda reply: framed(b"\x03" + reply[2:-2], 1), Refusal.FUNCTION),
        (lambda reply: framed(reply[1:2] + b"\x0a" + reply[3:13], 1), Refusal.BYTE_COUNT),
        (lambda reply: reply[:-1] + bytes((reply[-1] ^ 1,)), Refusal.PROTOCOL),
        (lambda reply: b"\x00" + reply, Refusal.UNIT),
    ],
)
async def test_each_kind_of_damage_is_counted_and_over_with_the_next_poll(
    guard: GuardProcess, device: Device, damage: Callable[[bytes], bytes], kind: Refusal
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=150 * MS))
        done: list[bytes] = []

        def once(frame: bytes, reply: bytes) -> bytes:
            if frame[1] == 4 and not done:
                done.append(reply)
                methane(device, 0.7, 0.7, 0.7)
                return damage(reply)
            return reply

        bus.wire = once
        view = view_of(guard)
        await guard.until(lambda: view.slot(0).value > 0.6)
        assert view.device(0).refused[kind] == 1
        assert sum(view.device(0).refused) == 1
        assert guard.events(EventType.DEVICE_DOWN) == []


async def test_a_write_whose_reply_is_damaged_is_written_again_and_confirmed(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=150 * MS))
        damaged: list[bytes] = []

        def damage(frame: bytes, reply: bytes) -> bytes:
            if frame[1] == 5 and len(damaged) < 2:
                damaged.append(reply)
                return reply[:-1] + bytes((reply[-1] ^ 0x40,))
            return reply

        bus.wire = damage
        await tripped(guard, device)
        assert written(bus)[:3] == [TRIP, TRIP, TRIP]
        assert guard.events(EventType.OUT_FAILED) == []


async def test_a_trip_whose_reply_is_lost_is_written_again_before_anything_else(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=50 * MS))
        lost: list[int] = []

        def lose(frame: bytes, reply: bytes) -> bytes:
            if frame[1] == 5 and len(lost) < 2:
                lost.append(len(bus.sent))
                return b""
            return reply

        bus.wire = lose
        await tripped(guard, device)
        assert [frame[1] for frame in bus.sent[lost[0] - 1 : lost[0] + 2]] == [5, 5, 5]
        assert guard.events(EventType.OUT_FAILED) == []


# ---- echo, another master, noise ---------------------------------------------------------------


async def test_an_adapter_that_echoes_is_found_out(guard: GuardProcess, device: Device) -> None:
    with bus_of(u1=device) as bus:
        bus.wire = lambda frame, reply: frame + reply
        await protecting(guard, on_line(mine(1), bus.path))
        await tripped(guard, device)
        assert device.coils[16] == 0
        assert counted(guard, Counter.RTU_NOISE) == 0


@pytest.mark.parametrize("silent_from_the_start", [True, False])
async def test_an_echo_alone_confirms_no_trip(
    guard: GuardProcess, device: Device, silent_from_the_start: bool
) -> None:
    program = on_line(mine(1), "", timeout_ns=20 * MS)
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32)
    with bus_of(u1=device) as bus:
        program.names["ttys"] = [bus.path]
        bus.wire = lambda frame, reply: frame + reply
        if silent_from_the_start:
            bus.wire = lambda frame, _reply: frame
        await guard.start()
        assert guard.load(program).code == ResultCode.DONE
        if not silent_from_the_start:
            await polled(guard)
            bus.wire = lambda frame, _reply: frame
        body = messages.command(7, who="uid:test", generation=0, ledger_seq=1)
        assert guard.client().command(MessageType.TRIP, body).code == ResultCode.DONE
        await guard.until_output(OutputState.TRIP_FAILED)
        await guard.until(lambda: len(written(bus)) > 2)
        assert not guard.output().confirmed
        assert guard.events(EventType.OUT_CONFIRMED) == []


async def test_where_nobody_answered_yet_a_write_is_one_that_an_echo_cannot_confirm(
    guard: GuardProcess, device: Device
) -> None:
    program = on_line(mine(1), "", timeout_ns=20 * MS, flags=0)  # no heartbeat
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32)
    with bus_of(u1=device) as bus:
        program.names["ttys"] = [bus.path]
        bus.wire = lambda frame, reply: b"" if is_read(frame) else reply
        await guard.start()
        assert guard.load(program).code == ResultCode.DONE
        await guard.until(lambda: len(bus.sent) > 1)
        body = messages.command(7, who="uid:test", generation=0, ledger_seq=1)
        assert guard.client().command(MessageType.TRIP, body).code == ResultCode.DONE
        await guard.until_output(OutputState.TRIPPED)
        assert written(bus)[0] == TRIP_OF_MANY
        assert device.coils[16] == 0


async def test_a_device_without_fc15_is_written_by_fc5_then(
    guard: GuardProcess, device: Device
) -> None:
    program = on_line(mine(1), "", timeout_ns=20 * MS, flags=0)
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32)
    device.twist = lambda asked: asked.refusal(1) if asked.function == 15 else None
    with bus_of(u1=device) as bus:
        program.names["ttys"] = [bus.path]
        bus.wire = lambda frame, reply: b"" if is_read(frame) else reply
        await guard.start()
        assert guard.load(program).code == ResultCode.DONE
        await guard.until(lambda: len(bus.sent) > 1)
        body = messages.command(7, who="uid:test", generation=0, ledger_seq=1)
        assert guard.client().command(MessageType.TRIP, body).code == ResultCode.DONE
        await guard.until_output(OutputState.TRIPPED)
        assert written(bus)[:2] == [TRIP_OF_MANY, TRIP]
        assert guard.events(EventType.OUT_FAILED) == []


async def test_another_masters_traffic_is_never_taken_for_ours(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=20 * MS))
        foreign = framed(b"\x04\x00\x64\x00\x06", 7) + framed(b"\x04\x0c" + b"\x40" * 12, 7)

        async def chatter() -> None:
            while True:
                bus.put(foreign)
                await asyncio.sleep(0.1)

        task = asyncio.create_task(chatter())
        for _ in range(5):
            await polled(guard)
        await tripped(guard, device)
        task.cancel()
        await asyncio.wait({task})
        assert counted(guard, Counter.RTU_NOISE) > 0
        view = view_of(guard)
        assert view.slot(0).value == pytest.approx(1.6)


async def test_a_trip_goes_out_over_a_line_that_is_never_quiet(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=20 * MS))

        async def babble() -> None:
            while True:
                bus.put(b"\xff" * 3)
                await asyncio.sleep(0.0005)

        task = asyncio.create_task(babble())
        await guard.until(lambda: counted(guard, Counter.RTU_NOISE) > 50)
        await tripped(guard, device)
        task.cancel()
        await asyncio.wait({task})
        assert device.coils[16] == 0


async def test_a_flood_of_bytes_stops_no_scan(guard: GuardProcess, device: Device) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=20 * MS))

        async def flood() -> None:
            while True:
                with contextlib.suppress(BlockingIOError):
                    bus.put(b"\x01\x04\x0c" * 1000)
                await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        await guard.until(lambda: counted(guard, Counter.RTU_NOISE) > 500_000)
        await scans(guard, 20)
        task.cancel()
        await asyncio.wait({task})
        await polled(guard)


# ---- several on one line -----------------------------------------------------------------------


def two_units(path: str, **changes: int) -> blobs.Program:
    """The mine's device as unit 1, and unit 2 with one register of its own."""
    program = on_line(mine(1), path, **changes)
    program.devices.append(replace(program.devices[0], key=2, unit=2, flags=0))
    program.tags.append(replace(program.tags[0], key=50, low=0.0, high=4.0, flags=0, device=1))
    program.requests.append(blobs.Request(1, 4, 1, 10 * MS, 100, 2, 4, 2))
    program.decode.append(replace(program.decode[0], slot=6, request=2))
    return program


async def test_two_units_of_one_line_both_are_read(guard: GuardProcess, device: Device) -> None:
    other = Device()
    other.set_float(100, 3.25)
    with bus_of(u1=device, u2=other) as bus:
        await protecting(guard, two_units(bus.path))
        await polled(guard, 6)
        assert view_of(guard).slot(6).value == 3.25
        assert view_of(guard).slot(0).value == pytest.approx(0.4)


async def test_a_dead_unit_is_asked_less_and_less_and_the_other_goes_on(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, two_units(bus.path, timeout_ns=20 * MS))
        view = view_of(guard)
        await guard.until(lambda: bool(guard.events(EventType.DEVICE_DOWN)))
        told = payload_of(guard.events(EventType.DEVICE_DOWN)[0])
        assert guard.events(EventType.DEVICE_DOWN)[0].key == 2
        assert told["reason"] == 3  # timeout
        asked = len([frame for frame in bus.sent if frame[0] == 2])
        others = len(bus.sent) - asked
        await guard.until(lambda: view.device(0).requests > others + 100)
        dead = len([frame for frame in bus.sent if frame[0] == 2]) - asked
        alive = len(bus.sent) - others - asked - dead
        assert dead * 10 < alive
        assert view.slot(0).quality == Quality.GOOD
        await tripped(guard, device)


async def test_a_unit_that_comes_back_is_read_again(guard: GuardProcess, device: Device) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, two_units(bus.path, timeout_ns=20 * MS))
        await guard.until(lambda: bool(guard.events(EventType.DEVICE_DOWN)))
        other = Device()
        other.set_float(100, 2.5)
        bus.units[2] = other
        await polled(guard, 6)
        assert view_of(guard).slot(6).value == 2.5
        assert [e.key for e in guard.events(EventType.DEVICE_UP)] == [1, 2]


async def test_a_trip_to_a_device_that_was_away_is_the_first_it_gets_when_it_is_back(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path, timeout_ns=20 * MS))
        await tripped(guard, device)
        units, bus.units = bus.units, {}
        await guard.until(lambda: bool(guard.events(EventType.DEVICE_DOWN)))
        assert not guard.output().confirmed
        device.coils[16] = 1  # somebody else did that meanwhile
        bus.units = units
        await guard.until(lambda: bool(guard.output().confirmed))
        assert device.coils[16] == 0


async def test_the_trips_of_all_devices_go_before_anything_else(
    guard: GuardProcess, device: Device
) -> None:
    program = two_units("")
    program.outputs.append(
        replace(program.outputs[0], key=4, device=1, unit=2, address=17, readback=NONE_U32)
    )
    program.effects.append(blobs.Effect(0, 1))
    program.interlocks[0] = replace(program.interlocks[0], effects_count=2)
    program.names["outputs"].append("second")
    with bus_of(u1=device, u2=Device()) as bus:
        program.names["ttys"] = [bus.path]
        await protecting(guard, program)
        await tripped(guard, device)
        await guard.until_output(OutputState.TRIPPED, 1)
        writes = [n for n, frame in enumerate(bus.sent) if frame[1] == 5]
        assert [bus.sent[n][0] for n in writes[:2]] == [1, 2]
        assert writes[1] == writes[0] + 1


# ---- programs ----------------------------------------------------------------------------------


async def test_a_program_that_keeps_the_line_keeps_its_tty(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        await protecting(guard, on_line(mine(1), bus.path))
        changed = on_line(mine(1), bus.path)
        changed.tags[-1] = replace(changed.tags[-1], stale_after_ns=900 * MS)
        assert guard.load(changed).code == ResultCode.DONE
        await polled(guard)
        assert guard.events(EventType.DEVICE_DOWN) == []
        assert len(guard.events(EventType.DEVICE_UP)) == 1
        await scans(guard, 10)
        await tripped(guard, device)


async def test_a_program_with_another_tty_leaves_the_first(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus, bus_of(u1=device) as other:
        await protecting(guard, on_line(mine(1), bus.path))
        assert (
            guard.load(on_line(mine(1), other.path), flags=LoadFlag.WEAKENS).code == ResultCode.DONE
        )
        await guard.until(lambda: len(other.sent) > 10)
        asked = len(bus.sent)
        await tripped(guard, device)
        assert len(bus.sent) == asked
