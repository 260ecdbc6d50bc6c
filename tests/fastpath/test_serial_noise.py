"""A bad cable and a slow device: nothing is taken for another's, and no demand is missed.

libmodbus answers; between it and the guard a program damages bytes and keeps replies until the
guard has given them up.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from fastpath import blob as blobs
from fastpath.codes import (
    ByteOrder,
    Counter,
    DeviceKind,
    EventType,
    InterlockFlag,
    InterlockState,
    MessageType,
    OnBad,
    Op,
    OutputFlag,
    OutputKind,
    OutputPath,
    OutputState,
    Owner,
    PointType,
    Quality,
    RecordMode,
    ResultCode,
    TagFlag,
)
from tests.helpers.blobs import MS, SECOND, conditions
from tests.helpers.guard import Client, GuardProcess, reset
from tests.helpers.serial_bench import Peer, mangler, rtu_server

FIRST, SECOND_ONE, GAS = 200, 300, 400  # holding registers that look alike
FIRST_VALUE, SECOND_VALUE = 0x1111, 0x2222
QUIET_GAS, HIGH_GAS = 5, 20
COIL, CONTACT = 16, 1
SLOTS = 4  # of each line: first, second, gas, contact
SAMPLE = struct.Struct("<IBBHdqq")
TIMEOUT_MS = 10
ERRORS_PPM = 1_000
LATE = f"late 20000 {1000 * (TIMEOUT_MS + 2)} {1000 * (TIMEOUT_MS + 12)}"


def plant(paths: list[str]) -> blobs.Program:
    """On each line a device with two registers that look alike, and an interlock of its own."""
    code = conditions(0, start_within_ns=SECOND)
    program = code.program
    for line, _path in enumerate(paths):
        for slot in range(SLOTS):
            flags = TagFlag.BOOLEAN if slot == 3 else TagFlag.IN_INTERLOCK if slot == 2 else 0
            program.tags.append(
                blobs.Tag(
                    1 + SLOTS * line + slot, 0.0, 0.0, 800 * MS, owner=Owner.GUARD,
                    record=RecordMode.ALL, flags=flags, device=line,
                )
            )  # fmt: skip
    for line, _path in enumerate(paths):
        _line(program, line)
        cause = code.compare(Op.GE, SLOTS * line + 2, 15.0)
        program.interlocks.append(
            blobs.Interlock(
                key=70 + line, fingerprint=99, delay_ns=0, bad_for_ns=0, hold_max_ns=0,
                min_trip_ns=0, response_ns=2 * SECOND, bypass_max_ns=0, order=line, cause=cause,
                permissive=code.compare(Op.LT, SLOTS * line + 2, 10.0), group=0xFFFFFFFF,
                flags=InterlockFlag.LATCH | InterlockFlag.ARMED, on_bad=OnBad.TRIP,
                legs_first=line, legs_count=1, effects_first=line, effects_count=1,
            )
        )  # fmt: skip
        program.legs.append(blobs.Leg(line, cause, SLOTS * line + 2, 15.0))
        program.effects.append(blobs.Effect(line, line))
    program.names = {"ttys": paths, "outputs": [], "interlocks": []}
    return program


def _line(program: blobs.Program, line: int) -> None:
    program.outputs.append(
        blobs.Output(
            key=30 + line, confirm_ns=SECOND, reassert_ns=SECOND, silence_ns=0, device=line,
            readback=SLOTS * line + 3, address=COIL, trip=0, normal=1, unit=1,
            path=OutputPath.MODBUS, kind=OutputKind.COIL, flags=OutputFlag.HAS_NORMAL,
        )
    )  # fmt: skip
    program.devices.append(
        blobs.Device(
            key=10 + line, address=bytes(16), connect_timeout_ns=TIMEOUT_MS * MS,
            timeout_ns=TIMEOUT_MS * MS, settle_ns=50 * MS, every_ns=0, watchdog_ns=0,
            request_delay_ns=0, connected_within_ns=SECOND, port=0, heartbeat_address=0, flags=0,
            unit=1, kind=DeviceKind.MODBUS_RTU, tty=line, baud=115_200, data_bits=8, stop_bits=1,
        )
    )  # fmt: skip
    for number, (address, period_ms) in enumerate(((FIRST, 5), (SECOND_ONE, 5), (GAS, 20))):
        at = len(program.decode)
        program.requests.append(blobs.Request(line, at, 1, period_ms * MS, address, 1, 3, 1))
        program.decode.append(
            blobs.Decode(
                SLOTS * line + number, len(program.requests) - 1, 0, PointType.UINT16,
                ByteOrder.ABCD,
            )
        )  # fmt: skip
    at = len(program.decode)
    program.requests.append(blobs.Request(line, at, 1, 20 * MS, CONTACT, 1, 2, 1))
    program.decode.append(
        blobs.Decode(SLOTS * line + 3, len(program.requests) - 1, 0, PointType.BOOL, ByteOrder.ABCD)
    )


@dataclass(slots=True)
class Line:
    """One line of the plant: its cable and its device."""

    number: int
    cable: Peer
    device: Peer
    path: str
    asking: asyncio.Lock

    async def gas(self, value: int) -> None:
        """What the device measures from now on."""
        self.device.send(f"hr {GAS} {value}")
        assert await self.cells("hr", GAS) == [value]

    async def cells(self, area: str, address: int) -> list[int]:
        """One cell as it is now."""
        return [int(word) for word in (await self.device.ask(f"get {area} {address} 1"))[1:]]


@asynccontextmanager
async def lines(count: int) -> AsyncIterator[list[Line]]:
    """So many lines, quiet and good at first."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(count):
            cable, near, far = await stack.enter_async_context(mangler(number + 1))
            device = await stack.enter_async_context(rtu_server(far))
            for command in (
                f"hr {FIRST} {FIRST_VALUE}", f"hr {SECOND_ONE} {SECOND_VALUE}",
                f"hr {GAS} {QUIET_GAS}", f"c {COIL} 1", f"link {COIL} {CONTACT}",
            ):  # fmt: skip
                device.send(command)
            line = Line(number, cable, device, near, asyncio.Lock())
            assert await line.cells("di", CONTACT) == [1]
            found.append(line)
        yield found


class Taken:
    """Every sample so far, by slot; a value that is not the slot's own fails at once."""

    def __init__(self, guard: GuardProcess) -> None:
        assert guard.view is not None
        self._view = guard.view
        self._next = 0
        self.good: dict[int, int] = {}

    def look(self) -> None:
        """The samples since the last look."""
        self._next, lost, raw = self._view.samples(self._next, 1 << 20)
        assert lost == 0
        for slot, quality, _reason, _flags, value, _mono, _utc in SAMPLE.iter_unpack(raw):
            if quality != Quality.GOOD:
                continue
            self.good[slot] = self.good.get(slot, 0) + 1
            own = [{FIRST_VALUE}, {SECOND_VALUE}, {QUIET_GAS, HIGH_GAS}, {0, 1}][slot % SLOTS]
            assert value in own, (slot, value)
        self._next += len(raw) // SAMPLE.size

    def polls(self) -> int:
        """Good polls of the two registers that look alike, on all lines."""
        return sum(count for slot, count in self.good.items() if slot % SLOTS < 2)


async def demand(guard: GuardProcess, client: Client, line: Line) -> None:
    """Gas, the trip is written and confirmed, and all is released again."""
    view = guard.view
    assert view is not None
    number = line.number
    await line.gas(HIGH_GAS)
    await guard.until(
        lambda: (
            view.output(number).state == OutputState.TRIPPED and bool(view.output(number).confirmed)
        )
    )
    assert await line.cells("c", COIL) == [0]
    await line.gas(QUIET_GAS)
    await guard.until_interlock(InterlockState.READY_TO_RESET, number)
    generation = view.interlock(number).generation
    result = client.command(MessageType.RESET, reset(generation, 70 + number))
    assert result.code == ResultCode.DONE
    await guard.until_output(OutputState.RELEASED, number)
    assert await line.cells("c", COIL) == [1]


async def torment(guard: GuardProcess, found: list[Line], polls: int, demands: int) -> None:
    """Polls and demands over bad cables."""
    await guard.start()
    assert guard.load(plant([line.path for line in found])).code == ResultCode.DONE
    for line in found:
        await guard.until_output(OutputState.RELEASED, line.number)
        assert await line.cable.ask(f"errors {ERRORS_PPM}") == ["ok"]
        assert await line.cable.ask(LATE) == ["ok"]
        assert await line.cable.ask("twice 10000") == ["ok"]
    taken = Taken(guard)
    client = guard.client()

    async def demanding(line: Line) -> None:
        for _ in range(demands // len(found)):
            await demand(guard, client, line)

    async with asyncio.TaskGroup() as group:
        for line in found:
            group.create_task(demanding(line))
        while taken.polls() < polls:
            await asyncio.sleep(0.2)
            taken.look()
    taken.look()


async def check_torment(guard: GuardProcess, lines_count: int, polls: int, demands: int) -> None:
    async with lines(lines_count) as found:
        await torment(guard, found, polls, demands)
        confirmed = guard.events(EventType.OUT_CONFIRMED)
        assert len(confirmed) >= demands
        assert guard.events(EventType.FAULT, EventType.DEVICE_DOWN) == []
        view = guard.view
        assert view is not None
        for line in found:
            _, bytes_damaged, late, twice = await line.cable.ask("count")
            assert min(int(bytes_damaged), int(late), int(twice)) > 0
        assert view.header().counters[Counter.RTU_LATE] > 0
        assert view.header().counters[Counter.RTU_NOISE] > 0


@pytest.mark.alone  # how late a reply may come at most is the site's word, not the machine's
@pytest.mark.timeout(120)
async def test_nothing_is_taken_for_another_and_no_demand_is_missed(guard: GuardProcess) -> None:
    await check_torment(guard, 4, 10_000, 100)


@pytest.mark.campaign
async def test_the_same_for_longer(guard: GuardProcess) -> None:
    await check_torment(guard, 4, 400_000, 2_000)
