"""What devices answer, and do not: only a whole reply to the very request counts."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockState,
    MessageType,
    OutputState,
    Owner,
    Quality,
    Reason,
    RecordMode,
    Refusal,
    ResultCode,
)
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Asked, Device
from tests.helpers.guard import BREAKER_COIL, METHANE_AT, GuardProcess, mine, other_outputs, reset
from tests.helpers.guarding import methane, protecting, scans, tripped

HEARTBEAT_AT = 90


def refused(guard: GuardProcess) -> tuple[int, ...]:
    assert guard.view is not None
    counts: tuple[int, ...] = guard.view.device(0).refused
    return counts


# ---- reads: exceptions ------------------------------------------------------------------------


async def test_a_refused_request_is_halved_until_the_guilty_points_stand_alone(
    guard: GuardProcess, device: Device
) -> None:
    def sparse(asked: Asked) -> bytes | None:
        hole = range(METHANE_AT[1], METHANE_AT[1] + 2)
        touched = range(asked.address, asked.address + asked.word)
        if asked.function == 4 and set(hole) & set(touched):
            return asked.refusal(2)
        return None

    device.twist = sparse
    await protecting(guard, mine(device.port))
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.slot(1).reason == Reason.DEVICE_FAILURE)
    await guard.until(lambda: view.slot(2).quality == Quality.GOOD)
    assert view.slot(0).quality == Quality.GOOD
    first = refused(guard)[Refusal.EXCEPTION_ADDRESS]
    await scans(guard, 30)
    assert refused(guard)[Refusal.EXCEPTION_ADDRESS] == first  # no storm
    assert view.interlock(0).state == InterlockState.NORMAL  # one of two is left of 2oo3
    assert guard.events(EventType.DEVICE_DOWN) == []


@pytest.mark.parametrize("number", [5, 6])
async def test_busy_is_asked_again_within_the_poll(
    guard: GuardProcess, device: Device, number: int
) -> None:
    program = mine(device.port)
    program.requests[0] = replace(program.requests[0], period_ns=400 * MS)  # stale after 500 ms
    await protecting(guard, program)
    count = 0

    def busy_twice(asked: Asked) -> bytes | None:
        nonlocal count
        count += asked.function == 4
        return asked.refusal(number) if asked.function == 4 and count % 3 else None

    device.twist = busy_twice
    await guard.until(lambda: count >= 9)
    assert guard.events(EventType.TRIP) == []
    assert refused(guard)[Refusal.EXCEPTION_BUSY] >= 6


@pytest.mark.parametrize(("number", "reason"), [(4, Reason.DEVICE_FAILURE), (11, Reason.STALE)])
async def test_a_failed_device_is_bad_at_once_and_a_silent_unit_in_its_time(
    guard: GuardProcess, device: Device, number: int, reason: Reason
) -> None:
    await protecting(guard, mine(device.port))
    assert guard.view is not None
    view = guard.view
    device.twist = lambda asked: asked.refusal(number) if asked.function == 4 else None
    await guard.until_interlock(InterlockState.TRIPPED)
    await guard.until(lambda: view.slot(0).reason == reason)
    assert guard.events(EventType.DEVICE_DOWN) == []


# ---- reads: what is no reply --------------------------------------------------------------------

ODD: dict[str, tuple[Callable[[Asked, bytes], bytes], Refusal]] = {
    "transaction 0": (lambda a, r: b"\0\0" + r[2:], Refusal.TRANSACTION),
    "next transaction": (
        lambda a, r: struct.pack(">H", (a.tid + 1) % 65536) + r[2:], Refusal.TRANSACTION,
    ),
    "swapped transaction": (
        lambda a, r: bytes((r[1] ^ 0x55, r[0] ^ 0xAA)) + r[2:], Refusal.TRANSACTION,
    ),
    "protocol": (lambda a, r: r[:2] + b"\0\1" + r[4:], Refusal.PROTOCOL),
    "length 0": (lambda a, r: r[:4] + b"\0\0" + r[6:], Refusal.LENGTH),
    "length 255": (lambda a, r: r[:4] + b"\0\xff" + r[6:], Refusal.LENGTH),
    "length 65535": (lambda a, r: r[:4] + b"\xff\xff" + r[6:], Refusal.LENGTH),
    "unit": (lambda a, r: r[:6] + b"\7" + r[7:], Refusal.UNIT),
    "function": (lambda a, r: r[:7] + b"\3" + r[8:], Refusal.FUNCTION),
    "byte count": (lambda a, r: r[:8] + bytes((r[8] + 2,)) + r[9:], Refusal.BYTE_COUNT),
    "cut short": (
        lambda a, r: r[:4] + struct.pack(">H", len(r) - 8) + r[6:-2], Refusal.LENGTH,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_reply_is_refused_counted_and_ends_the_connection(
    guard: GuardProcess, device: Device, name: str
) -> None:
    await protecting(guard, mine(device.port))
    twisted, kind = ODD[name]
    connections = device.connections
    left = 1

    def odd_once(asked: Asked) -> bytes | None:
        nonlocal left
        if asked.function != 4 or not left:
            return None
        left -= 1
        device.set_float(METHANE_AT[0], 3.9)  # what it says must not count
        reply = twisted(asked, device.plain(asked))
        device.set_float(METHANE_AT[0], 0.4)
        return reply

    device.twist = odd_once
    await guard.until(lambda: device.connections > connections)
    assert guard.view is not None
    view = guard.view
    downs = guard.events(EventType.DEVICE_DOWN)
    assert len(downs) == 1
    assert refused(guard)[kind] == 1
    await guard.until(lambda: len(guard.events(EventType.DEVICE_UP)) == 2)
    assert view.interlock(0).state == InterlockState.NORMAL
    _, _, raw = view.samples(0, 100_000)
    values = {s[4] for s in messages.SAMPLE.iter_unpack(raw) if s[0] == 0}
    assert 3.9 not in {round(value, 3) for value in values}


async def test_doubled_replies_count_once(guard: GuardProcess, device: Device) -> None:
    device.twist = lambda asked: 2 * device.plain(asked)
    await protecting(guard, mine(device.port))
    await scans(guard, 20)
    assert sum(refused(guard)) == 0
    assert guard.events(EventType.DEVICE_DOWN) == []


async def test_a_reply_that_comes_late_is_not_taken_for_the_next(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.requests = program.requests[:1]
    program.decode = program.decode[:3]
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32)
    program.tags[3] = blobs.Tag(20, owner=Owner.GATEWAY, record=RecordMode.ALL)
    program.devices[0] = replace(program.devices[0], timeout_ns=40 * MS, flags=0)
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    assert guard.view is not None
    view = guard.view
    await guard.until(lambda: view.slot(0).quality == Quality.GOOD)
    kept: list[bytes] = []

    def late(asked: Asked) -> bytes:
        if asked.function != 4:
            return device.plain(asked)
        if not kept:
            methane(device, 3.0, 3.0, 3.0)
            kept.append(device.plain(asked))
            methane(device, 0.4, 0.4, 0.4)
            return b""
        return device.plain(asked)

    device.twist = late
    before = view.device(0).timeouts
    await guard.until(lambda: view.device(0).timeouts > before)
    next(iter(device.writers.values())).write(kept[0])
    asked = len(device.asked)
    await guard.until(lambda: len(device.asked) > asked + 3)
    assert guard.events(EventType.DEVICE_DOWN) == []
    assert guard.events(EventType.TRIP) == []


# ---- writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["address", "value", "unit", "transaction 0"])
async def test_an_echo_that_differs_confirms_nothing(
    guard: GuardProcess, device: Device, wrong: str
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32)
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    device.contact_follows = False

    def echo(asked: Asked) -> bytes | None:
        if asked.function != 5:
            return None
        if wrong == "address":
            return asked.reply(struct.pack(">BHH", 5, asked.address + 1, asked.word))
        if wrong == "value":
            return asked.reply(struct.pack(">BHH", 5, asked.address, asked.word ^ 0xFF00))
        pdu = struct.pack(">BHH", 5, asked.address, asked.word)
        return asked.reply(pdu, unit=9) if wrong == "unit" else asked.reply(pdu, tid=0)

    device.twist = echo
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIP_FAILED)
    assert guard.events(EventType.OUT_CONFIRMED) == []
    device.twist = None
    await guard.until_output(OutputState.TRIPPED)


async def test_the_reply_of_an_expired_write_confirms_nothing(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32, confirm_ns=5 * SECOND)
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    last: list[Asked] = []

    def one_behind(asked: Asked) -> bytes | None:
        """Each write is answered when the next one has come, with the reply of the one before."""
        if asked.function != 5:
            return None
        last.append(asked)
        if len(last) == 1:
            return b""
        old = last[-2]
        return old.reply(struct.pack(">BHH", 5, old.address, old.word))

    device.twist = one_behind
    methane(device, 1.6, 1.7, 0.4)
    await guard.until(lambda: len({a.tid for a in last}) >= 3)
    assert guard.output().state == OutputState.TRIPPING
    assert guard.events(EventType.OUT_CONFIRMED) == []


async def test_a_trip_goes_beside_an_outstanding_heartbeat_and_again_after_it(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.devices[0] = replace(program.devices[0], every_ns=5 * MS)
    await protecting(guard, program)
    beats: list[Asked] = []
    trips: list[Asked] = []

    def only_the_first(asked: Asked) -> bytes | None:
        """A server that drops what comes while it still owes a reply."""
        if asked.function == 16:
            beats.append(asked)
            return b"" if len(beats) == 1 else None
        if asked.function != 5:
            return None
        trips.append(asked)
        if len(trips) > 1:
            return None
        beat = beats[0]  # answers the heartbeat, has lost the trip
        return beat.reply(struct.pack(">BHH", 16, HEARTBEAT_AT, 2))

    device.twist = only_the_first
    await guard.until(lambda: len(beats) == 1)
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)
    assert trips[0].tid == trips[1].tid  # the same frame once more
    assert guard.events(EventType.OUT_FAILED) == []


async def test_a_trip_overtakes_an_outstanding_normal_value(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    normal: list[Asked] = []

    def slow_normal(asked: Asked) -> bytes | None:
        """The normal value is carried out and answered only when the trip has come."""
        if asked.function != 5:
            return None
        if asked.written == (1,):
            normal.append(asked)
            return b""
        late = normal[0].reply(struct.pack(">BHH", 5, BREAKER_COIL, 0xFF00)) if normal else b""
        return late + device.plain(asked)

    device.twist = slow_normal
    client = guard.client()
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await guard.until(lambda: len(normal) == 1)
    client.command(MessageType.TRIP, messages.command(7, who="uid:test"))
    await guard.until_output(OutputState.TRIPPED)
    released = guard.events(EventType.OUT_RELEASED)
    assert len(released) == 1  # the one of the start: the late reply released nothing
    assert device.coils[BREAKER_COIL] == 0


async def test_a_normal_value_waits_for_an_outstanding_heartbeat(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)
    await guard.until_interlock(InterlockState.READY_TO_RESET)
    assert guard.view is not None
    view = guard.view
    owed: list[Asked] = []

    def owes_one(asked: Asked) -> bytes | None:
        if asked.function != 16 or owed:
            return None
        owed.append(asked)
        return b""

    client = guard.client()
    timeouts = view.device(0).timeouts
    device.twist = owes_one
    await guard.until(lambda: len(owed) == 1)
    assert client.command(MessageType.RESET, reset(1)).code == ResultCode.DONE
    await scans(guard, 3)
    # Where this machine is too slow the heartbeat has expired by now.
    assert 1 not in device.writes(BREAKER_COIL) or view.device(0).timeouts > timeouts
    device.writers[owed[0].connection].write(device.plain(owed[0]))
    await guard.until_output(OutputState.RELEASED)


async def test_every_new_connection_begins_with_the_trip_values(
    guard: GuardProcess, device: Device
) -> None:
    program = other_outputs(mine(device.port))
    program.outputs[1] = replace(program.outputs[1], address=40)  # not adjacent: two requests
    device.coils[40] = 1
    await protecting(guard, program)
    methane(device, 1.6, 1.7, 0.4)
    await guard.until_output(OutputState.TRIPPED)
    await guard.until_output(OutputState.TRIPPED, 1)
    for _ in range(4):
        before = device.connections
        device.cut()
        confirmed = len(guard.events(EventType.OUT_CONFIRMED))
        await guard.until(lambda n=confirmed: len(guard.events(EventType.OUT_CONFIRMED)) == n + 2)  # type: ignore[misc]
        for number in range(before, device.connections):
            asked = [a for a in device.asked if a.connection == number and a.written]
            if asked:
                assert {a.address for a in asked[:2]} == {BREAKER_COIL, 40}
                assert [a.written for a in asked[:2]] == [(0,), (0,)]
