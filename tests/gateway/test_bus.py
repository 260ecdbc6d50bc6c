"""Serial lines in time: characters, gaps, rounds, and replies that look alike."""

import pytest

from drivers import modbus_line
from drivers.modbus_link import Call
from drivers.plan import Request
from drivers.points import parse_point
from drivers.serial_tables import SerialProtocol
from gateway.logic.bus import (
    DOUBLE_NS,
    Bus,
    Exchange,
    buses_of,
    given_up_ns,
    read_ns,
    takes_turns,
    write_ns,
)
from gateway.site.model import Device, Duration, Heartbeat, Line, WatchdogRegister
from tests.drivers.test_modbus_line import party
from tests.helpers.device import Device as FarDevice

MS = 1_000_000


def device(**keys: object) -> Device:
    values = {"id": "d", "driver": "modbus-rtu", "address": "/dev/ttyS1", **keys}
    return Device(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "count", "busy_ns"),
    [
        # 8 + 5 + 4 characters of 10 bits, and 3.5 twice: 24 characters at 9,600 baud
        (Line(), 2, 24 * 10 * 10**9 // 9600),
        (Line(parity="even"), 2, 24 * 11 * 10**9 // 9600),
        (Line(stop=2), 2, 24 * 11 * 10**9 // 9600),
        (Line(baud=1200), 125, (13 + 250 + 7) * 10 * 10**9 // 1200),
        # beyond 19,200 baud a gap is 1.75 ms
        (Line(baud=115200), 2, 17 * 10 * 10**9 / 115200 + 3_500_000),
        (Line(baud=19200), 2, 24 * 10 * 10**9 // 19200),
    ],
)
def test_an_exchange_on_the_line(line: Line, count: int, busy_ns: float) -> None:
    assert read_ns(device(line=line), Request(3, 0, count, ())) == pytest.approx(busy_ns, abs=1)


def test_bits_are_packed_and_a_write_is_echoed() -> None:
    own = device(line=Line())
    character = 10 * 10**9 / 9600
    assert read_ns(own, Request(1, 0, 9, ())) == round(22 * character)  # 8 + 5 + 2, and 7
    assert write_ns(own, 4) == round(28 * character)  # 9 + 4 and 8, and 7
    rested = device(line=Line(), request_delay=Duration(20 * MS))
    assert write_ns(rested, 4) == round(28 * character) + 20 * MS


def test_a_bus_is_a_port() -> None:
    points = {
        "a": [(100 * MS, "x", parse_point("ir:0")), (100 * MS, "y", parse_point("ir:1"))],
        "b": [(200 * MS, "z", parse_point("ir:0"))],
    }
    beat = Heartbeat(address="hr:9", watchdog=Duration(5_000 * MS))
    devices = {
        "a": device(heartbeat=beat),
        "b": device(unit=2, watchdog_registers=(WatchdogRegister(address="hr:1", value=1),)),
        "c": device(address="/dev/ttyS2"),
    }
    buses = buses_of(devices, points)
    assert set(buses) == {"/dev/ttyS1", "/dev/ttyS2"}
    bus = buses["/dev/ttyS1"]
    assert [(each.device, each.period_ns // MS, each.tags) for each in bus.exchanges] == [
        ("a", 100, ("x", "y")), ("a", 500, ()), ("b", 200, ("z",)), ("b", 1_000, ()),
    ]  # fmt: skip
    assert bus.round_ns == sum(each.busy_ns for each in bus.exchanges)
    assert 0.2 < bus.load < 0.6
    assert buses["/dev/ttyS2"].load == 0
    assert buses["/dev/ttyS2"].running_ns() == given_up_ns(devices["c"])


def test_who_fell_back_to_a_line_keeps_it_busy_too() -> None:
    server = {"driver": "modbus-rtu-tcp", "timeout": Duration(100 * MS)}
    devices = {
        "a": device(address="10.0.0.1:4001", backup="10.0.0.2:4001", **server),
        "b": device(address="10.0.0.2:4001", unit=2, **server),
    }
    points = {name: [(1000 * MS, name, parse_point("ir:0"))] for name in devices}
    own, other = buses_of(devices, points).values()
    assert (own.port, [each.device for each in own.exchanges]) == ("10.0.0.1:4001", ["a"])
    assert (other.port, [each.device for each in other.exchanges]) == ("10.0.0.2:4001", ["a", "b"])
    assert (own.shared, other.shared) == (False, True)
    assert other.round_ns == 200 * MS


def test_what_keeps_the_line_longest_is_what_times_out_last() -> None:
    quick, slow = device(timeout=Duration(50 * MS)), device(timeout=Duration(200 * MS))
    bus = Bus("p", {"q": quick, "s": slow}, [Exchange("q", 40 * MS, 1), Exchange("s", 5 * MS, 1)])
    assert given_up_ns(slow) == 600 * MS  # its timeout, and twice that in silence
    assert bus.running_ns() == 605 * MS


def test_behind_a_serial_server_an_exchange_may_take_its_whole_timeout() -> None:
    keys = {"driver": "modbus-rtu-tcp", "timeout": Duration(100 * MS)}
    devices = {
        "a": device(**keys, address="moxa.example:4001"),
        "b": device(**keys, address="Moxa.Example:4001", unit=2),
        "c": device(**keys, address="moxa.example:4002"),
    }
    points = {name: [(200 * MS, name, parse_point("ir:0"))] for name in devices}
    shared, alone = buses_of(devices, points).values()
    assert (list(shared.devices), shared.shared, shared.timed) == (["a", "b"], True, False)
    assert shared.round_ns == 200 * MS
    assert shared.running_ns() == 300 * MS  # its timeout, and twice that in silence
    assert (list(alone.devices), alone.shared) == (["c"], False)


def test_an_instrument_that_is_asked_waits_for_the_others_of_its_port() -> None:
    asked = SerialProtocol(kind="line", delimiter="\r", request="01?")
    one, other = (
        device(driver="serial", protocol=asked, timeout=Duration(timeout * MS))
        for timeout in (100, 400)
    )
    sends = device(driver="serial", protocol=SerialProtocol(kind="line", delimiter="\r"))
    assert (takes_turns(one), takes_turns(sends)) == (True, False)
    points = {"one": [(MS, "x", None), (MS, "y", None)], "other": [(MS, "z", None)]}
    [bus] = buses_of({"one": one, "other": other}, points).values()
    assert bus.round_ns == 500 * MS  # one request brings all fields
    assert bus.running_ns() == 800 * MS  # the slower one's timeout, and once more in silence


@pytest.mark.parametrize(
    ("address", "type_name", "unit", "alike"),
    [
        ("ir:50", "float32", 1, True),
        ("ir:50", "uint16", 1, False),  # shorter
        ("hr:50", "float32", 1, False),  # another function
        ("ir:50", "float32", 2, False),  # another unit
    ],
)
def test_replies_that_look_alike(address: str, type_name: str, unit: int, alike: bool) -> None:
    points = {
        "a": [(100 * MS, "x", parse_point("ir:0", "float32"))],
        "b": [(100 * MS, "y", parse_point(address, type_name))],
    }
    bus = buses_of({"a": device(), "b": device(unit=unit)}, points)["/dev/ttyS1"]
    pairs = [(one.tags, other.tags) for one, other in bus.look_alikes()]
    assert pairs == ([(("x",), ("y",))] if alike else [])


async def test_check_counts_a_wait_for_a_double_where_the_driver_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same reads over a line, in the order in which they wait most."""
    devices = {"a": device(), "b": device(unit=2)}
    points = {
        "a": [(MS, f"hr{n}", parse_point(f"hr:{100 * n}")) for n in range(5)]  # 4 waits
        + [(MS, "ir", parse_point("ir:0"))]  # another function
        + [(MS, f"c{n}", parse_point(f"c:{n}")) for n in range(3)]  # one read of 3 coils ...
        + [(2 * MS, "c", parse_point("c:0"))],  # ... and of the first: as short a reply
        "b": [(MS, "hr", parse_point("hr:0")), (MS, "wide", parse_point("hr:100", "float32"))],
    }
    [bus] = buses_of(devices, points).values()
    waited = []
    passes_for = modbus_line._Heard.passes_for

    def noting(heard: modbus_line._Heard, call: Call, unit: int) -> bool:
        waited.append(passes_for(heard, call, unit))
        return waited[-1]

    monkeypatch.setattr(modbus_line._Heard, "passes_for", noting)
    async with party(u1=FarDevice(), u2=FarDevice()) as line:
        wires = {unit: line.wire(unit, 1.0) for unit in (1, 2)}
        for wire in wires.values():
            await wire.open()
        for each in sorted(bus.exchanges, key=lambda each: each.reply or ()):
            assert each.reply is not None
            await wires[each.reply.unit].read(each.reply.function, each.address, each.count)
    assert sum(waited) == 5
    busy_ns = sum(each.busy_ns for each in bus.exchanges)
    assert bus.round_ns == busy_ns + sum(waited) * DOUBLE_NS
    slowest_ns = max(each.busy_ns for each in bus.exchanges)
    assert bus.running_ns() == slowest_ns + given_up_ns(devices["a"]) + DOUBLE_NS


def test_the_guards_reads_that_look_alike_do_not_wait() -> None:
    points = {"a": [(100 * MS, f"x{n}", parse_point(f"hr:{100 * n}")) for n in range(5)]}
    [bus] = buses_of({"a": device(fast=True)}, points).values()
    assert bus.round_ns == sum(each.busy_ns for each in bus.exchanges)
    assert bus.load == sum(each.busy_ns / each.period_ns for each in bus.exchanges)


@pytest.mark.parametrize(
    ("periods_ms", "waits"),
    [
        ((50,), 0),
        ((50, 50), 40),  # in a second: each of them follows the other one
        ((50, 1000), 2),  # before the rare one and after it
        ((50, 100, 100), 40),
    ],
)
def test_reads_that_look_alike_wait_as_often_as_one_follows_another(
    periods_ms: tuple[int, ...], waits: int
) -> None:
    points = {
        "a": [
            (period * MS, f"x{n}", parse_point(f"hr:{100 * n}"))
            for n, period in enumerate(periods_ms)
        ]
    }
    [bus] = buses_of({"a": device()}, points).values()
    busy = sum(each.busy_ns / each.period_ns for each in bus.exchanges)
    assert bus.load == pytest.approx(busy + waits * DOUBLE_NS / 1e9)
