"""Devices that are slow, dead, torn or odd, as the gateway's own driver meets them."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from drivers.base import Reading
from drivers.modbus import ModbusUnit
from drivers.points import ModbusPoint, parse_point
from drivers.session import PollClass, Session
from fastpath.codes import Quality, Reason
from tests.drivers.test_session import Recorder
from tests.helpers.device import Asked, Device, serving
from tests.helpers.many import SlowDevice
from tests.helpers.modbus_tcp import modbus_tcp

MS = 1_000_000
GOOD, BAD = Quality.GOOD, Quality.BAD


@asynccontextmanager
async def reading(port: int, *points: ModbusPoint) -> AsyncIterator[ModbusUnit]:
    """A connected driver."""
    driver = modbus_tcp("127.0.0.1", port, points, timeout_s=5.0)
    await driver.connect()
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def polling(
    port: int, sink: Recorder, period_ms: int = 20, timeout_s: float = 0.2, points: int = 1
) -> AsyncIterator[Session]:
    """A session over a real socket."""
    driver = modbus_tcp(
        "127.0.0.1", port, [parse_point(f"ir:{100 * n}") for n in range(points)],
        timeout_s=timeout_s,
    )  # fmt: skip
    session = Session(
        driver, [PollClass(period_ms * MS, driver.plan(range(points)))], sink, name=str(port)
    )
    task = asyncio.create_task(session.run())
    try:
        yield session
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def one(driver: ModbusUnit) -> Reading:
    [found] = await driver.read(driver.plan([0]))
    return found


@pytest.mark.alone  # the paces of twenty sessions are compared
async def test_a_black_hole_among_twenty_disturbs_no_other() -> None:
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(serving()) for _ in range(20)]
        devices[3].twist = lambda _asked: b""
        sinks = [Recorder() for _ in devices]
        sessions = [
            await stack.enter_async_context(
                # A good one may be late on a busy machine, and is no failure for that.
                polling(device.port, sink, period_ms=100, timeout_s=0.2 if number == 3 else 5.0)
            )
            for number, (device, sink) in enumerate(zip(devices, sinks, strict=True))
        ]

        def due(number: int) -> int:
            """Polls that fell due: what was got, and what was missed as others ran late."""
            return len(sinks[number].got) + sessions[number].stats().polls_missed

        await sinks[3].until(lambda: bool(sinks[3].states))
        counted, before = [len(sink.got) for sink in sinks], [due(i) for i in range(20)]
        others = [i for i in range(20) if i != 3]
        for i in others:
            await sinks[i].until(lambda i=i: len(sinks[i].got) >= counted[i] + 5)  # type: ignore[misc]
        fell_due = [due(i) - before[i] for i in others]
        assert max(fell_due) - min(fell_due) <= 3, "they keep the same pace"
        assert [up for up, _ in sinks[3].states] == [False], "told once"
        assert {sessions[i].stats().polls_failed for i in others} == {0}


async def test_a_slow_device_is_never_asked_twice_at_once() -> None:
    async with serving(SlowDevice(delay_s=0.08)) as device:
        assert isinstance(device, SlowDevice)
        sink = Recorder()
        async with polling(device.port, sink, timeout_s=2.0, points=3) as session:
            await sink.until(lambda: len(sink.got) >= 3)
            assert session.stats().polls_missed > 0
        assert device.most == 1
        assert device.connections == 1


async def test_a_device_with_room_for_one_connection_gets_one_at_a_time() -> None:
    async with serving(SlowDevice(room=1)) as device:
        assert isinstance(device, SlowDevice)
        sink = Recorder()
        async with polling(device.port, sink):
            for _ in range(3):
                count, opened = len(sink.got), device.connections
                device.cut()
                await sink.until(lambda n=count: len(sink.got) >= n + 2)  # type: ignore[misc]
                assert device.connections == opened + 1
        assert device.turned_away == 0


async def test_a_value_that_changes_between_two_reads_is_one_of_both() -> None:
    either = (0.4, 0.9)
    device = Device()

    def changing(_asked: Asked) -> None:
        device.set_float(0, either[len(device.asked) % 2])

    device.twist = changing
    async with (
        serving(device),
        reading(device.port, parse_point("ir:0", "float32")) as driver,
    ):
        found = [(await one(driver)).value for _ in range(100)]
    assert {round(value, 5) for value in found} == set(either)


def words(value: float) -> Sequence[int]:
    return struct.unpack(">HH", struct.pack(">f", value))


WORDS: dict[str, tuple[str, Sequence[int], Quality, Reason]] = {
    "NaN": ("float32", (0x7FC0, 0), BAD, Reason.NOT_A_NUMBER),
    "infinity": ("float32", (0x7F80, 0), BAD, Reason.NOT_A_NUMBER),
    "minus infinity": ("float32", (0xFF80, 0), BAD, Reason.NOT_A_NUMBER),
    "minus zero": ("float32", (0x8000, 0), GOOD, Reason(0)),
    "denormal": ("float32", (0, 1), GOOD, Reason(0)),
    "swapped words": ("float32", words(0.4)[::-1], BAD, Reason.OUT_OF_RANGE),
    "another scale": ("float32", words(40.0), BAD, Reason.OUT_OF_RANGE),
    "another scale within the range": ("float32", words(0.04), GOOD, Reason(0)),
    "0x8000": ("int16", (0x8000,), BAD, Reason.OUT_OF_RANGE),
    "0xFFFF": ("uint16", (0xFFFF,), BAD, Reason.OUT_OF_RANGE),
}


@pytest.mark.parametrize("name", WORDS)
async def test_what_is_no_number_or_no_signal_is_bad(name: str) -> None:
    kind, cells, quality, reason = WORDS[name]
    device = Device(registers=dict(enumerate(cells)))
    point = parse_point("ir:0", kind, limits=(0.0, 4.0))
    async with serving(device), reading(device.port, point) as driver:
        found = await one(driver)
        assert (found.quality, found.reason) == (quality, reason)
        device.registers = dict(enumerate(words(0.5) if kind == "float32" else (3,)))
        assert (await one(driver)).quality == GOOD
