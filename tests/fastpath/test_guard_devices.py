"""Devices that are slow, dead, cut off, torn or odd: what of it reaches the image, and the others.

Many devices stand in for many moments: each is cut at its own byte, refuses with its own code.
"""

import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from fastpath import blob as blobs
from fastpath.codes import (
    ByteOrder,
    EventType,
    InterlockState,
    PointType,
    Quality,
    Reason,
    Refusal,
    ResultCode,
)
from fastpath.journal import GuardView
from tests.helpers.blobs import MS, SECOND
from tests.helpers.device import Asked, Device, serving
from tests.helpers.guard import BREAKER_COIL, METHANE_AT, GuardProcess, mine
from tests.helpers.guarding import methane, protecting, scans, tripped
from tests.helpers.many import REPLY_BYTES, VALUE_AT, SlowDevice, values_of, watching
from tests.helpers.proxy import FaultProxy

GOOD, BAD = Quality.GOOD, Quality.BAD


@asynccontextmanager
async def plants(count: int, value: float = 0.4) -> AsyncIterator[list[Device]]:
    """So many devices in this loop, each with a value."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(serving()) for _ in range(count)]
        for each in found:
            each.set_float(VALUE_AT, value)
        yield found


async def run(guard: GuardProcess, program: blobs.Program) -> GuardView:
    await guard.start()
    assert guard.load(program).code == ResultCode.DONE
    assert guard.view is not None
    return guard.view


async def all_good(guard: GuardProcess, count: int) -> None:
    view = guard.view
    assert view is not None
    await guard.until(lambda: all(view.slot(i).quality == GOOD for i in range(count)))


# ---- silence and slowness ------------------------------------------------------------------------


@contextlib.contextmanager
def swallowing() -> Iterator[int]:
    """A port whose SYNs are swallowed, as by a firewall: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def told_of(guard: GuardProcess, index: int) -> list[EventType]:
    """What was told of a device's connection, in order: up, down."""
    found = [
        (event.seq, kind)
        for kind in (EventType.DEVICE_DOWN, EventType.DEVICE_UP)
        for event in guard.events(kind)
        if event.index == index
    ]
    return [kind for _, kind in sorted(found)]


NEVER = "never answers"


@pytest.mark.parametrize("how", [NEVER, "takes no connection"])
async def test_one_black_hole_of_fifty_disturbs_no_other(guard: GuardProcess, how: str) -> None:
    async with plants(50) as devices:
        with swallowing() as nowhere:
            ports = [d.port for d in devices]
            if how == "takes no connection":
                ports[7] = nowhere
            program = watching(ports, period_ns=100 * MS)
            program.devices = [
                # The other devices live in this loop, which may be slow where much else runs.
                d if i == 7 else replace(d, timeout_ns=5 * SECOND, connect_timeout_ns=5 * SECOND)
                for i, d in enumerate(program.devices)
            ]
            view = await run(guard, program)
            others = [i for i in range(50) if i != 7]
            await guard.until(lambda: all(view.slot(i).quality == GOOD for i in others))
            devices[7].twist = lambda _asked: b""
            down = [EventType.DEVICE_DOWN]
            await guard.until(
                lambda: told_of(guard, 7)[-1:] == down and view.slot(7).quality == BAD
            )
            before = [view.device(i) for i in range(50)]
            since_ns = view.header().scan_mono_ns
            await guard.until(lambda: view.header().scan_mono_ns > since_ns + 2 * SECOND)
            after = [view.device(i) for i in range(50)]
            told = told_of(guard, 7)
            others_down = [e for e in guard.events(EventType.DEVICE_DOWN) if e.index != 7]
    periods = (view.header().scan_mono_ns - since_ns) / (100 * MS)
    for i in others:
        polls = after[i].requests - before[i].requests
        missed = after[i].polls_missed - before[i].polls_missed
        assert after[i].timeouts == 0, "nobody waits for the dead one"
        assert polls + missed >= 0.9 * periods - 1
        assert polls >= 0.5 * periods, "what is missed is the load of this machine"
    assert others_down == []
    assert told[-1] == EventType.DEVICE_DOWN
    assert all(a != b for a, b in itertools.pairwise(told)), "once, not once a poll"
    tried = after[7].refused[Refusal.CONNECT] - before[7].refused[Refusal.CONNECT]
    tried += after[7].timeouts - before[7].timeouts
    assert tried < 0.5 * periods, "less and less often"


async def test_a_slow_device_is_never_asked_twice_at_once(guard: GuardProcess) -> None:
    async with serving(SlowDevice(delay_s=0.17)) as device:  # 85 % of the timeout
        assert isinstance(device, SlowDevice)
        device.set_float(VALUE_AT, 0.4)
        device.set_float(VALUE_AT + 10, 0.4)
        device.set_float(VALUE_AT + 20, 0.4)
        view = await run(guard, watching([device.port], requests=3, period_ns=50 * MS))
        await guard.until(lambda: len(device.asked) >= 12)
        assert device.most == 1
        assert view.device(0).polls_missed > 0, "counted, not queued"
        assert view.slot(0).quality == GOOD
        assert device.connections == 2, "one reads, one carries outputs"
        assert guard.events(EventType.DEVICE_DOWN) == []


async def test_a_peer_that_is_gone_without_a_word_is_found_by_polls_and_by_heartbeats(
    guard: GuardProcess, device: Device
) -> None:
    """Half open: TCP says nothing, so requests must."""
    async with FaultProxy("127.0.0.1", device.port) as proxy:
        await protecting(guard, mine(proxy.port))
        connections = proxy.connections
        assert guard.view is not None
        view = guard.view
        proxy.up.frozen = proxy.down.frozen = True
        await guard.until(lambda: len(guard.events(EventType.DEVICE_DOWN)) == 1)
        # One connection reads, one carries the outputs: the heartbeat alone proves that one.
        await guard.until(lambda: proxy.connections >= connections + 2)
        await guard.until_interlock(InterlockState.TRIPPED)
        proxy.heal()
        await guard.until(lambda: view.slot(0).quality == GOOD)
        await guard.until(lambda: device.coils[BREAKER_COIL] == 0)
        assert len(guard.events(EventType.DEVICE_DOWN)) == 1


async def test_an_idle_trip_connection_proves_itself(guard: GuardProcess, device: Device) -> None:
    await protecting(guard, mine(device.port))
    before = device.connections
    device.twist = lambda asked: b"" if asked.function == 16 else None
    await guard.until(lambda: device.connections > before)
    device.twist = None
    beats = len([a for a in device.asked if a.function == 16])
    await guard.until(lambda: len([a for a in device.asked if a.function == 16]) > beats)
    assert guard.events(EventType.TRIP) == []


async def test_a_device_with_room_for_two_connections_gets_no_third(guard: GuardProcess) -> None:
    async with serving(SlowDevice(room=2)) as device:
        assert isinstance(device, SlowDevice)
        methane(device, 0.4, 0.4, 0.4)
        await protecting(guard, mine(device.port))
        await tripped(guard, device)
        device.cut()
        before = device.connections
        await guard.until(lambda: device.connections == before + 2)
        assert device.coils[BREAKER_COIL] == 0
        await scans(guard, 20)
        assert device.turned_away == 0


async def test_a_device_with_room_for_one_connection_is_tripped_and_not_read(
    guard: GuardProcess,
) -> None:
    """Reading has its only connection, and yields as soon as a trip waits."""
    async with serving(SlowDevice(room=1)) as device:
        assert isinstance(device, SlowDevice)
        methane(device, 0.4, 0.4, 0.4)
        program = mine(device.port)
        program.devices[0] = replace(program.devices[0], flags=0)
        await guard.start()
        assert guard.load(program).code == ResultCode.DONE
        assert guard.view is not None
        view = guard.view
        await guard.until(lambda: view.slot(0).quality == GOOD)
        await guard.until(lambda: device.turned_away >= 2)
        assert BREAKER_COIL not in {a.address for a in device.asked}
        methane(device, 1.6, 1.7, 0.4)
        await guard.until(lambda: device.coils[BREAKER_COIL] == 0)
        assert len(guard.events(EventType.DEVICE_DOWN)) == 1
        await guard.until(lambda: view.slot(0).quality == BAD)
        assert view.interlock(0).state == InterlockState.TRIPPED


# ---- cuts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_at_any_byte_of_a_reply_leaves_no_value(guard: GuardProcess, how: str) -> None:
    """Device n says 3.9 once and is cut off after n bytes of it."""
    async with AsyncExitStack() as stack:
        devices = await stack.enter_async_context(plants(REPLY_BYTES))
        proxies = [
            await stack.enter_async_context(FaultProxy("127.0.0.1", d.port)) for d in devices
        ]
        view = await run(guard, watching([p.port for p in proxies]))
        await all_good(guard, REPLY_BYTES)
        first = [p.connections for p in proxies]
        for n, (proxy, device) in enumerate(zip(proxies, devices, strict=True)):
            device.set_float(VALUE_AT, 3.9)
            proxy.down.truncate_to = n
            proxy.down.cut_how = "fin" if how == "fin" else "rst"
            proxy.down.cut_at = n
        await guard.until(
            lambda: all(p.connections > f for p, f in zip(proxies, first, strict=True))
        )
        for proxy, device in zip(proxies, devices, strict=True):
            device.set_float(VALUE_AT, 0.4)
            proxy.heal()
            proxy.cut()
        await guard.until(
            lambda: len(guard.events(EventType.DEVICE_UP)) >= 2 * REPLY_BYTES, wait_s=15
        )
        await all_good(guard, REPLY_BYTES)
        for slot in range(REPLY_BYTES):
            assert {round(v, 3) for v in values_of(view, slot)} == {0.4}


async def test_a_dribble_has_one_deadline(guard: GuardProcess) -> None:
    async with plants(3) as devices, AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultProxy("127.0.0.1", d.port)) for d in devices
        ]
        view = await run(guard, watching([p.port for p in proxies]))
        await all_good(guard, 3)
        proxies[0].down.dribble_s = 0.002  # 42 ms for a reply: late, and whole
        proxies[1].down.dribble_s = 0.02  # 420 ms, of which 200 ms are allowed
        await guard.until(lambda: view.device(1).timeouts >= 1)
        await guard.until(lambda: view.slot(1).quality == BAD)
        assert view.slot(0).quality == GOOD
        assert view.device(0).timeouts == 0
        assert sum(view.device(1).refused[k] for k in (2, 3, 4, 5, 6)) == 0


# ---- exceptions ----------------------------------------------------------------------------------

PER_DEVICE = 8


async def test_no_exception_code_is_ever_a_value_or_ends_a_connection(guard: GuardProcess) -> None:
    """Code 8 * d + k is what request k of device d gets."""
    async with plants(256 // PER_DEVICE) as devices:

        def refusing(number: int) -> Callable[[Asked], bytes]:
            def refuse(asked: Asked) -> bytes:
                code = PER_DEVICE * number + (asked.address - VALUE_AT) // 10
                return asked.refusal(code)

            return refuse

        for number, each in enumerate(devices):
            each.twist = refusing(number)
        ports = [d.port for d in devices]
        view = await run(guard, watching(ports, requests=PER_DEVICE))
        codes = range(256)
        later = {5, 6, 10, 11}
        await guard.until(
            lambda: all(
                view.slot(c).reason == Reason.DEVICE_FAILURE for c in codes if c not in later
            )
        )
        assert {view.slot(c).quality for c in codes} == {BAD}
        assert {view.slot(c).reason for c in later} <= {
            Reason.NEVER_READ, Reason.STALE, Reason.COMM_FAILURE,
        }  # fmt: skip
        assert [d.connections for d in devices] == [2] + [1] * 31, "one has an output"
        kinds = [0] * 12
        for i in range(len(devices)):
            kinds = [a + b for a, b in zip(kinds, view.device(i).refused, strict=True)]
        assert [k for k in range(12) if kinds[k]] == [
            Refusal.EXCEPTION_ADDRESS, Refusal.EXCEPTION_BUSY, Refusal.EXCEPTION_GATEWAY,
            Refusal.EXCEPTION_OTHER,
        ]  # fmt: skip
        for each in devices:
            each.twist = None
            for k in range(PER_DEVICE):
                each.set_float(VALUE_AT + 10 * k, 0.4)
        soon = [c for c in codes if c not in {1, 2, 3}]  # those are asked for rarely
        await guard.until(lambda: all(view.slot(c).quality == GOOD for c in soon))


# ---- values --------------------------------------------------------------------------------------


async def test_a_value_that_changes_between_two_reads_is_one_of_both(
    guard: GuardProcess, device: Device
) -> None:
    """Its two registers are never read apart: no mixture of both halves."""
    either = (0.4, 0.9)

    def changing(asked: Asked) -> None:
        if asked.function == 4:
            value = either[len(device.asked) % 2]
            methane(device, value, value, value)

    device.twist = changing
    await protecting(guard, mine(device.port))
    await guard.until(lambda: len(device.asked) > 300)
    assert guard.view is not None
    for slot in range(3):
        found = [round(v, 5) for v in values_of(guard.view, slot)]
        assert set(found) == set(either)
        assert len(found) >= 50


def numbers(port: int) -> blobs.Program:
    """A float, an int16 and an uint16 of 4 to 20 mA in microamperes / 2."""
    program = watching([port], requests=3)
    program.tags = [
        replace(program.tags[0], low=0.0, high=4.0),
        replace(program.tags[1], low=-1000.0, high=1000.0),
        replace(program.tags[2], low=3.6, high=21.0),
    ]
    kinds = (PointType.FLOAT32, PointType.INT16, PointType.UINT16)
    program.decode = [
        blobs.Decode(i, i, 0, kind, ByteOrder.ABCD, scale=0.001 if i == 2 else 1.0)
        for i, kind in enumerate(kinds)
    ]
    return program


WORDS: dict[str, tuple[tuple[int, ...], int, Quality, Reason]] = {
    "NaN": ((0x7FC0, 0), 0, BAD, Reason.NOT_A_NUMBER),
    "another NaN": ((0xFFFF, 0xFFFF), 0, BAD, Reason.NOT_A_NUMBER),
    "infinity": ((0x7F80, 0), 0, BAD, Reason.NOT_A_NUMBER),
    "minus infinity": ((0xFF80, 0), 0, BAD, Reason.NOT_A_NUMBER),
    "minus zero": ((0x8000, 0), 0, GOOD, Reason(0)),
    "denormal": ((0, 1), 0, GOOD, Reason(0)),
    "largest": ((0x7F7F, 0xFFFF), 0, BAD, Reason.OUT_OF_RANGE),
    "0x8000": ((0x8000,), 1, BAD, Reason.OUT_OF_RANGE),
    "0x7FFF": ((0x7FFF,), 1, BAD, Reason.OUT_OF_RANGE),
    "0xFFFF": ((0xFFFF,), 2, BAD, Reason.OUT_OF_RANGE),
    "3.59 mA": ((3590,), 2, BAD, Reason.OUT_OF_RANGE),
    "3.6 mA": ((3600,), 2, GOOD, Reason(0)),
    "21 mA": ((21000,), 2, GOOD, Reason(0)),
    "21.01 mA": ((21010,), 2, BAD, Reason.OUT_OF_RANGE),
}


async def test_what_is_no_number_or_no_signal_is_bad_and_healthy_again_at_once(
    guard: GuardProcess, device: Device
) -> None:
    view = await run(guard, numbers(device.port))

    def put(slot: int, *words: int) -> None:
        for i, word in enumerate(words):
            device.registers[VALUE_AT + 10 * slot + i] = word

    def fine() -> None:
        device.set_float(VALUE_AT, 0.4)
        put(1, 5)
        put(2, 12_000)

    fine()
    await all_good(guard, 3)
    for name, (words, slot, quality, reason) in WORDS.items():
        put(slot, *words)
        asked = len(device.asked) + 6
        await guard.until(lambda n=asked: len(device.asked) > n)  # type: ignore[misc]
        found = view.slot(slot)
        assert (found.quality, found.reason) == (quality, reason), name
        fine()
        await guard.until(lambda: view.slot(0).value == pytest.approx(0.4))
        await all_good(guard, 3)


async def test_swapped_words_leave_the_range_and_within_it_nothing_can_tell(
    guard: GuardProcess, device: Device
) -> None:
    """What a range finds of another firmware, and what it cannot."""
    await protecting(guard, mine(device.port))
    assert guard.view is not None
    view = guard.view

    def transmitter(value: float, order: str, scale: float = 1.0) -> None:
        high, low = struct.unpack(">HH", struct.pack(">f", value * scale))
        words = (low, high) if order == "CDAB" else (high, low)
        for i, word in enumerate(words):
            device.registers[METHANE_AT[0] + i] = word

    transmitter(0.4, "CDAB")
    await guard.until(lambda: view.slot(0).reason == Reason.OUT_OF_RANGE)
    transmitter(0.4, "ABCD")
    await guard.until(lambda: view.slot(0).quality == GOOD)
    transmitter(0.4, "ABCD", scale=100.0)  # percent became hundredths
    await guard.until(lambda: view.slot(0).reason == Reason.OUT_OF_RANGE)
    transmitter(0.4, "ABCD", scale=0.1)  # a scale that stays within the range: the honest limit
    await guard.until(lambda: view.slot(0).value == pytest.approx(0.04))
    assert view.slot(0).quality == GOOD
    assert view.interlock(0).state == InterlockState.NORMAL, "two others still vote"


async def test_zeros_of_a_device_that_starts_are_not_read(
    guard: GuardProcess, device: Device
) -> None:
    program = mine(device.port)
    program.devices[0] = replace(program.devices[0], settle_ns=150 * MS)
    await protecting(guard, program)
    known = device.connections
    zeros: list[Asked] = []

    def booting(asked: Asked) -> None:
        """The first five reads after a reboot find nothing but zeros."""
        if asked.function == 4 and asked.connection >= known:
            methane(device, *([0.0] * 3 if len(zeros) < 5 else [0.4] * 3))
            zeros.append(asked)

    device.twist = booting
    device.cut()
    await guard.until(lambda: len(guard.events(EventType.DEVICE_UP)) == 2)
    await guard.until(lambda: len(zeros) > 20)
    assert guard.view is not None
    for slot in range(3):
        assert {round(v, 3) for v in values_of(guard.view, slot)} == {0.4}
    assert guard.events(EventType.TRIP) == []


# ---- outputs -------------------------------------------------------------------------------------


async def test_a_trip_while_its_device_is_away_is_the_first_it_gets(
    guard: GuardProcess, device: Device
) -> None:
    async with FaultProxy("127.0.0.1", device.port) as proxy:
        await protecting(guard, mine(proxy.port))
        await proxy.refuse()
        proxy.cut()
        await guard.until(lambda: len(guard.events(EventType.DEVICE_DOWN)) == 1)
        await guard.until_interlock(InterlockState.TRIPPED)
        device.asked.clear()
        await scans(guard, 100)
        assert device.asked == []
        await proxy.refuse(refused=False)
        await guard.until(lambda: device.coils[BREAKER_COIL] == 0)
        wrote = [a for a in device.asked if a.written]
        assert (wrote[0].address, wrote[0].written) == (BREAKER_COIL, (0,))
        on_that = [a for a in device.asked if a.connection == wrote[0].connection]
        assert on_that[0] == wrote[0], "before anything else on its connection"
        await guard.until(lambda: guard.output().confirmed == 1)
