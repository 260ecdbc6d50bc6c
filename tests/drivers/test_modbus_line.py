"""Units that share a serial line: one at a time, nobody's reply for another's, the dead apart."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from drivers.errors import DeviceError, DriverError, LinkError, ProtocolError
from drivers.modbus import MISSES_UNTIL_DOWN, MissedError, ModbusUnit
from drivers.modbus_dial import RtuTcpDial, SerialDial
from drivers.modbus_line import LATE_TIMEOUTS, LineWire
from drivers.modbus_link import Call, SilenceError
from drivers.points import parse_point
from drivers.session import PollClass, Session
from fastpath.codes import Quality
from tests.drivers.test_session import Recorder
from tests.helpers.device import Device
from tests.helpers.proxy import FaultProxy
from tests.helpers.serial_bench import mangler, rtu_server
from tests.helpers.serial_device import SerialBus, bus_of, framed
from tests.helpers.tcp_bridges import serial_server

MS = 1_000_000
TIMEOUT_S = 0.05
CAMPAIGN_LINES = 25
CAMPAIGN_POLLS = 50_000  # of all lines


class Party:
    """Units of one gateway on one line."""

    def __init__(self, bus: SerialBus) -> None:
        self.bus = bus
        self.lines: dict[object, object] = {}
        self.wires: list[LineWire] = []

    def wire(self, unit: int, timeout_s: float = TIMEOUT_S) -> LineWire:
        made = LineWire(SerialDial(self.bus.path, 115_200), unit, timeout_s, self.lines)
        self.wires.append(made)
        return made

    def unit(
        self, unit: int, *addresses: str, timeout_s: float = TIMEOUT_S, gap: int = 8
    ) -> ModbusUnit:
        points = [parse_point(address) for address in addresses]
        return ModbusUnit(self.wire(unit, timeout_s), points, max_gap=gap)


@asynccontextmanager
async def party(**units: Device) -> AsyncIterator[Party]:
    with bus_of(**units) as bus:
        made = Party(bus)
        yield made
        for wire in made.wires:
            wire.close()
            await wire.closed()


@asynccontextmanager
async def polling(driver: ModbusUnit, sink: Recorder, points: int = 1) -> AsyncIterator[Session]:
    session = Session(
        driver, [PollClass(20 * MS, driver.plan(range(points)))], sink, name="unit", settle_ns=0,
        retry_max_ns=100 * MS,
    )  # fmt: skip
    task = asyncio.create_task(session.run())
    try:
        yield session
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def values(sink: Recorder) -> set[float]:
    return {reading.value for *_, readings in sink.got for reading in readings}


async def test_one_request_at_a_time_on_the_port_and_a_gap_between() -> None:
    devices = {f"u{n}": Device(registers={0: n}) for n in range(1, 5)}
    async with party(**devices) as line:
        busy: list[float] = []
        open_requests: list[int] = []

        def later(frame: bytes, reply: bytes) -> bytes:
            open_requests.append(1)
            now = time.monotonic()
            if busy:
                assert now - busy[-1] >= 0.001, "the gap after a reply"

            def answer() -> None:
                open_requests.pop()
                busy.append(time.monotonic())
                line.bus.put(reply)

            assert len(open_requests) == 1, "asked while another one was open"
            asyncio.get_running_loop().call_later(0.003, answer)
            return b""

        line.bus.wire = later
        sinks = [Recorder() for _ in devices]
        async with AsyncExitStack() as stack:
            for unit, sink in enumerate(sinks, start=1):
                driver = line.unit(unit, "hr:0", timeout_s=1.0)
                await stack.enter_async_context(polling(driver, sink))
            for sink in sinks:
                await sink.until(lambda sink=sink: len(sink.got) >= 10)  # type: ignore[misc]
        assert [values(sink) for sink in sinks] == [{1.0}, {2.0}, {3.0}, {4.0}]
    assert not line.lines, "the last one closes the port"


async def test_a_dead_unit_costs_the_others_its_own_timeout_alone() -> None:
    async with party(u1=Device(registers={0: 7})) as line:
        good, dead = Recorder(), Recorder()
        async with (
            polling(line.unit(1, "hr:0"), good) as session,
            polling(line.unit(9, "hr:0"), dead),
        ):
            await dead.until(lambda: bool(dead.states))
            assert [up for up, _ in dead.states] == [False]
            before, since = len(good.got), len(line.bus.sent)
            await good.until(lambda: len(good.got) >= before + 40)
            asked_dead = sum(frame[0] == 9 for frame in line.bus.sent[since:])
            assert asked_dead >= 2, "it is tried for ever"
        starts = [mono_ns for _, mono_ns, _, _ in good.got[before:]]
        apart_s = [(b - a) / 1e9 for a, b in itertools.pairwise(starts)]
        assert session.stats().polls_failed == 0
        silence_s = LATE_TIMEOUTS * TIMEOUT_S
        late = sum(apart > TIMEOUT_S + silence_s for apart in apart_s)
        assert late <= 2, "no silence of the whole line for a unit that is dead for long"
        assert values(good) == {7.0}


async def test_a_unit_that_misses_once_is_not_down_and_loses_nothing_else() -> None:
    async with party(u1=Device(registers={0: 7})) as line:
        driver = line.unit(1, "hr:0")
        await driver.connect()
        line.bus.wire = lambda _frame, _reply: b""
        for _ in range(MISSES_UNTIL_DOWN - 1):
            with pytest.raises(MissedError):
                await driver.read(driver.plan([0]))
        with pytest.raises(SilenceError):
            await driver.read(driver.plan([0]))
        line.bus.wire = None
        [reading] = await driver.read(driver.plan([0]))
        assert reading.value == 7.0
        assert driver.stats()["timeout"] == MISSES_UNTIL_DOWN


async def crossing(
    polls: int, seed: int, *, late_ppm: int = 250_000, twice_ppm: int = 50_000, baud: int = 115_200
) -> tuple[int, int, int]:
    """(good polls, wrong values, replies that came late) of two registers that look alike.

    A program between libmodbus and us keeps replies until we have given them up, and doubles some.
    The silence after a timeout is longer than it keeps them by more than a busy machine adds.
    """
    timeout_ms = 60
    good = wrong = 0
    async with mangler(seed) as (cable, near, far), rtu_server(far, baud=baud) as server:
        server.send("hr 0 1000")
        server.send("hr 100 2000")
        await server.ask("get hr 0 1")
        late = f"late {late_ppm} {1000 * (timeout_ms + 2)} {1000 * (timeout_ms + 25)}"
        await cable.ask(late)
        await cable.ask(f"twice {twice_ppm}")
        lines: dict[object, object] = {}
        drivers = [
            ModbusUnit(
                LineWire(SerialDial(near, baud), 1, timeout_ms / 1000, lines), [parse_point(where)]
            )
            for where in ("hr:0", "hr:100")
        ]
        plans = [driver.plan([0]) for driver in drivers]
        for driver in drivers:
            await driver.connect()
        for number in range(polls):
            which = number % 2
            try:
                [reading] = await drivers[which].read(plans[which])
            except DriverError:
                await drivers[which].connect()
                continue
            good += 1
            wrong += reading.value != (1000.0, 2000.0)[which]
        for driver in drivers:
            await driver.close()
        counted = await cable.ask("count")
    return good, wrong, int(counted[2])


async def test_late_and_doubled_replies_are_never_anothers() -> None:
    good, wrong, late = await crossing(120, seed=4)
    assert wrong == 0
    assert good > 20
    assert late > 10


@pytest.mark.campaign
@pytest.mark.timeout(1800)
async def test_late_and_doubled_replies_are_never_anothers_for_long() -> None:
    polls = CAMPAIGN_POLLS // CAMPAIGN_LINES  # nearly all of a line's time is waiting
    lines = [crossing(polls, seed=5 + line) for line in range(CAMPAIGN_LINES)]
    good, wrong, late = map(sum, zip(*await asyncio.gather(*lines), strict=True))
    assert wrong == 0
    assert min(good, late) > CAMPAIGN_POLLS // 10


async def test_a_reply_with_noise_is_one_failed_poll() -> None:
    async with party(u1=Device(registers={0: 7}), u2=Device(registers={0: 8})) as line:
        drivers = [line.unit(unit, "hr:0") for unit in (1, 2)]
        for driver in drivers:
            await driver.connect()
        spoils = (
            lambda reply: b"\xff" + reply,
            lambda reply: reply[:-1] + b"\0",
            lambda reply: reply[:3],
            lambda reply: reply + b"\0",
        )
        for spoil in spoils:
            line.bus.wire = lambda _frame, reply, spoil=spoil: spoil(reply)
            with pytest.raises(DeviceError):
                await drivers[0].read(drivers[0].plan([0]))
            line.bus.wire = None
            for driver, value in zip(drivers, (7.0, 8.0), strict=True):
                [reading] = await driver.read(driver.plan([0]))
                assert reading == (0, value, int(Quality.GOOD), 0, 0)
        line.bus.put(bytes(50))  # nobody asked
        [reading] = await drivers[1].read(drivers[1].plan([0]))
        assert reading.value == 8.0


async def test_a_line_that_is_never_quiet_is_not_asked() -> None:
    async with party(u1=Device()) as line:
        wire = LineWire(SerialDial(line.bus.path, 1200), 1, 0.3, line.lines)
        await wire.open()

        async def babble() -> None:
            while True:
                line.bus.put(b"\x55")
                await asyncio.sleep(0.002)  # a gap at 1,200 baud is 32 ms

        task = asyncio.create_task(babble())
        await asyncio.sleep(0.01)
        try:
            with pytest.raises(ProtocolError, match="never quiet"):
                await wire.read(3, 0, 1)
        finally:
            task.cancel()
            wire.close()
            await wire.closed()
        assert not line.bus.sent


async def test_a_trip_goes_before_the_reads_that_wait() -> None:
    devices = {f"u{n}": Device() for n in range(1, 7)}
    async with party(**devices) as line:
        wires = [line.wire(unit, 1.0) for unit in range(1, 7)]
        for wire in wires:
            await wire.open()
        await wires[0].read(3, 0, 1)  # the line does not echo
        line.bus.sent.clear()
        reads = [asyncio.ensure_future(wire.read(3, 0, 1)) for wire in wires[:5]]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await wires[5].write_coil(16, on=False)
        order = [frame[0] for frame in line.bus.sent]
        await asyncio.gather(*reads)
    assert order == [1, 6]


@pytest.mark.parametrize("echo", [False, True])
async def test_adapters_that_play_our_requests_back(echo: bool) -> None:
    device = Device(registers={0: 7})
    async with party(u1=device) as line:
        if echo:
            line.bus.wire = lambda frame, reply: frame + reply
        wire = line.wire(1)
        await wire.open()
        await wire.write_coil(16, on=False)  # the first of all: its echo confirms nothing
        assert device.coils[16] == 0
        assert line.bus.sent[0][1] == 15
        assert await wire.read(3, 0, 1) == b"\0\x07"
        await wire.write_coil(16, on=True)
        await wire.write_registers(5, [42])
        assert (device.coils[16], device.registers[5]) == (1, 42)
        assert [frame[1] for frame in line.bus.sent[1:]] == [3, 5, 6]
        line.bus.wire = lambda frame, _reply: frame if echo else b""
        with pytest.raises(SilenceError):  # its echo alone is no reply
            await wire.write_coil(16, on=False)


async def test_units_of_a_serial_server_share_its_connection_which_a_timeout_ends() -> None:
    devices = {"u1": Device(registers={0: 1}), "u2": Device(registers={0: 2})}
    with bus_of(**devices) as bus:
        async with (
            serial_server(bus.path) as port,
            FaultProxy("127.0.0.1", port, framed=False) as line,
        ):
            lines: dict[object, object] = {}
            wires = [
                LineWire(RtuTcpDial("127.0.0.1", line.port), unit, TIMEOUT_S, lines)
                for unit in (1, 2)
            ]
            for wire in wires:
                await wire.open()
            for _ in range(3):
                assert [await wire.read(3, 0, 1) for wire in wires] == [b"\0\1", b"\0\2"]
            assert line.connections == 1
            line.down.delay_s = 1.5 * TIMEOUT_S
            with pytest.raises(SilenceError):
                await wires[0].read(3, 0, 1)
            line.heal()
            assert [await wire.read(3, 0, 1) for wire in wires] == [b"\0\1", b"\0\2"]
            assert line.connections == 2
            for wire in wires:
                wire.close()
                await wire.closed()


async def test_a_port_by_two_names_is_one_line(tmp_path: Path) -> None:
    by_id = tmp_path / "usb-FTDI-port0"
    async with party(u1=Device(registers={0: 1}), u2=Device(registers={0: 2})) as line:
        by_id.symlink_to(line.bus.path)
        wires = [line.wire(1), LineWire(SerialDial(str(by_id), 115_200), 2, TIMEOUT_S, line.lines)]
        line.wires.append(wires[1])
        for wire in wires:
            await wire.open()
        assert [await wire.read(3, 0, 1) for wire in wires] == [b"\0\1", b"\0\2"]
        assert len(line.lines) == 1
        by_id.unlink()  # as a port that is pulled out
    assert not line.lines


def _point(names: dict[Path, SerialBus]) -> None:
    for name, bus in names.items():
        name.unlink(missing_ok=True)
        name.symlink_to(bus.path)


async def _after_leaving(wire: LineWire) -> bytes:
    """As a session does: the first request ends it, the next one is of a new connection."""
    try:
        return await wire.read(3, 0, 1)
    except LinkError:
        await wire.open()
        return await wire.read(3, 0, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_ports_that_are_numbered_anew_keep_their_units(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    one, two = Device(registers={0: 1}), Device(registers={0: 2})
    names = tmp_path / "usb-one", tmp_path / "usb-two"
    with bus_of(u1=one, u2=one) as here, bus_of(u1=two, u2=two) as there:
        lines: dict[object, object] = {}
        _point(dict(zip(names, (here, there), strict=True)))
        wires = [
            LineWire(SerialDial(str(name), 115_200), unit, TIMEOUT_S, lines)
            for name in names
            for unit in (1, 2)
        ]
        for wire in wires:
            await wire.open()
        for _ in range(2):  # there, and back again
            for line in list(lines.values()):
                line.link.close()  # type: ignore[attr-defined]  # the hub drops out
            here.units, there.units = there.units, here.units
            by_now = (here, there) if here.units[1] is one else (there, here)
            _point(dict(zip(names, by_now, strict=True)))
            await wires[order[0]].open()  # it was asked in between, the slow ones were not
            asked = [await _after_leaving(wires[which]) for which in order]
            assert asked == [bytes((0, 1 + which // 2)) for which in order]
            assert len(lines) == 2
        for wire in wires:
            wire.close()
            await wire.closed()
    assert not lines


async def test_a_line_that_is_set_in_another_way_is_not_joined() -> None:
    async with party(u1=Device(), u2=Device()) as line:
        first = line.wire(1)
        await first.open()
        other = LineWire(SerialDial(line.bus.path, 9_600), 2, TIMEOUT_S, line.lines)
        with pytest.raises(LinkError, match="open with other settings of the line"):
            await other.open()
        await first.read(3, 0, 1)
        first.close()
        await other.open()
        other.close()
        await other.closed()


async def test_a_request_that_is_given_up_leaves_its_turn_to_the_next() -> None:
    device = Device(registers={0: 7})
    async with party(u1=device, u2=device) as line:
        wires = [line.wire(unit) for unit in (1, 2)]
        for wire in wires:
            await wire.open()
        for given_up in range(1, 6):
            tasks = [asyncio.ensure_future(wire.ask(Call(3, 0, 1))) for wire in wires]
            for _ in range(given_up):
                await asyncio.sleep(0)
            tasks[0].cancel()
            assert (await tasks[1])[2:] == b"\0\x07"
            with contextlib.suppress(asyncio.CancelledError):
                await tasks[0]


def test_frames_are_the_specifications() -> None:
    assert framed(bytes((7,)), 2) == bytes((0x02, 0x07, 0x41, 0x12))
