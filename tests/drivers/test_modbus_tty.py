"""The port under a Modbus line: what is heard, what is sent, and what costs nobody any time."""

import asyncio
import contextlib
import os
import select
import threading
import time
import tty
from pathlib import Path
from typing import Any

import pytest
import serial

from drivers import modbus_line, modbus_link, modbus_tty, serial_port
from drivers.errors import LinkError, ProtocolError
from drivers.modbus_dial import RtuTcpDial, SerialDial
from drivers.modbus_line import Line, LineWire
from drivers.modbus_link import Call, SilenceError
from drivers.serial_port import DOUBLE_S
from tests.drivers.test_modbus_line import party
from tests.helpers.device import Device
from tests.helpers.serial_device import SerialBus, framed

TIMEOUT_S = 0.2
WITHIN_S = 5.0
STALE = framed(b"\x03\x02\x03\xe8")  # 1000, of another register


def _overtaken(monkeypatch: pytest.MonkeyPatch, descriptor: Any, put: Any) -> None:
    """Let something arrive when the next request is about to leave."""
    request, waiting = modbus_link._request, [STALE]

    async def late(*args: Any) -> None:
        if waiting:
            put(waiting.pop())
            assert select.select([descriptor()], [], [], WITHIN_S)[0], "it has arrived"
        await request(*args)

    monkeypatch.setattr(modbus_link, "_request", late)


async def test_what_came_before_a_request_left_is_no_reply_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with party(u1=Device(registers={0: 7})) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()
        _overtaken(monkeypatch, lambda: line.bus.slave, line.bus.put)
        assert await wire.read(3, 0, 1) == b"\0\x07"
        assert len(line.bus.sent) == 1, "asked once, when the line was quiet"


async def test_what_came_before_a_request_to_a_serial_server_is_no_reply_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        while await reader.read(64):
            writer.write(framed(b"\x03\x02\0\x07"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    lines: dict[object, object] = {}
    async with server:
        port = server.sockets[0].getsockname()[1]
        wire = LineWire(RtuTcpDial("127.0.0.1", port), 1, TIMEOUT_S, lines)
        await wire.open()
        assert await wire.read(3, 0, 1) == b"\0\x07"
        far = peers[0].get_extra_info("socket").fileno()
        [line] = lines.values()
        assert isinstance(line, Line)
        transport: Any = line.link._client.ctx.transport  # type: ignore[union-attr]
        near = transport.get_extra_info("socket")
        _overtaken(monkeypatch, lambda: near, lambda data: os.write(far, data))
        assert await wire.read(3, 0, 1) == b"\0\x07"
        assert len(peers) == 1, "the connection stays"
        wire.close()
        await wire.closed()


@pytest.mark.parametrize("refused", [False, True])
async def test_a_double_that_is_held_back_is_not_the_next_reply(refused: bool) -> None:
    """An adapter on USB hands over what it has every 16 ms."""
    async with party(u1=Device(registers={0: 1000, 100: 2000})) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()

        def twice(frame: bytes, reply: bytes) -> bytes:
            if frame[3] == 0:
                reply = framed(b"\x83\x02") if refused else reply
                line.bus.put_later(DOUBLE_S / 2, reply)
                return reply
            line.bus.put_later(1.5 * DOUBLE_S, reply)
            return b""

        line.bus.wire = twice
        with contextlib.suppress(modbus_link.ExceptionReply):
            assert await wire.read(3, 0, 1) == b"\x03\xe8"
        assert await wire.read(3, 100, 1) == b"\x07\xd0"


async def test_a_double_of_a_write_of_several_is_not_the_echo_of_other_values() -> None:
    """The echo of functions 15 and 16 has no values."""
    async with party(u1=Device()) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()

        def twice(frame: bytes, reply: bytes) -> bytes:
            if frame[8] == 1:
                line.bus.put_later(DOUBLE_S / 2, reply)
                return reply
            line.bus.put_later(1.5 * DOUBLE_S, framed(b"\x90\x04"))
            return b""

        line.bus.wire = twice
        await wire.write_registers(0, [1, 1])
        with pytest.raises(modbus_link.ExceptionReply):
            await wire.write_registers(0, [2, 2])


LONG_S = 5.0  # for a double: one who waits for it is told from all that a busy machine adds


async def test_reads_that_cannot_be_taken_for_each_other_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modbus_line, "DOUBLE_S", LONG_S)
    async with party(u1=Device(), u2=Device()) as line:
        wires = [line.wire(unit, TIMEOUT_S) for unit in (1, 2)]
        for wire in wires:
            await wire.open()
        async with asyncio.timeout(LONG_S):
            for _ in range(10):
                for size in (1, 2):
                    for wire in wires:
                        await wire.read(3, 0, size)
    assert len(line.bus.sent) == 40


@pytest.mark.parametrize(
    "calls",
    [
        [Call(5, 0, 1, (0,)), Call(5, 1, 1, (0,)), Call(5, 1, 1, (1,))],
        [Call(6, 0, 1, (7,)), Call(6, 1, 1, (7,)), Call(6, 1, 1, (8,))],
        [Call(15, 0, 2, (0, 0)), Call(15, 2, 2, (0, 0)), Call(15, 2, 3, (0, 0, 0))],
        [Call(16, 0, 2, (7, 7)), Call(16, 2, 2, (7, 7)), Call(16, 2, 3, (7, 7, 7))],
    ],
    ids=lambda calls: f"fc{calls[0].function}",
)
async def test_a_write_does_not_wait_for_the_double_of_anothers_echo(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten coils that trip through the gateway are written one after the other."""
    monkeypatch.setattr(modbus_line, "DOUBLE_S", LONG_S)
    async with party(u1=Device()) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()
        async with asyncio.timeout(LONG_S):
            for call in calls:
                await wire.ask(call)
    assert len(line.bus.sent) == len(calls)


async def test_a_trip_does_not_wait_for_the_double_of_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modbus_line, "DOUBLE_S", LONG_S)
    async with party(u1=Device(registers={0: 7})) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()
        await wire.read(3, 0, 1)  # it is known by now that nothing is sent back
        line.bus.wire = lambda frame, reply: reply if frame[3] else framed(b"\x85\x02")
        async with asyncio.timeout(LONG_S):
            with pytest.raises(modbus_link.ExceptionReply):
                await wire.write_coil(0, on=False)
            await wire.write_coil(1, on=False)


async def test_a_request_that_could_not_leave_does_not_leave_later() -> None:
    """A port that its far end holds up: a write of a minute ago must not be carried out."""
    master, slave = os.openpty()
    tty.setraw(slave)
    for end in (master, slave):
        os.set_blocking(end, False)
    wire = LineWire(SerialDial(os.ttyname(slave), 115_200), 1, TIMEOUT_S / 2, {})
    try:
        await wire.open()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(slave, bytes(64))
        with pytest.raises(SilenceError):
            await wire.write_registers(5, [42])
        heard = b""
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                heard += os.read(master, 65_536)
            await asyncio.sleep(0.002)
        assert not heard.strip(b"\0")
    finally:
        wire.close()
        await wire.closed()
        os.close(master)
        os.close(slave)


async def test_a_port_whose_open_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, closed = threading.Event(), threading.Event()

    class Stuck:
        def close(self) -> None:
            closed.set()

    def hang(*_: Any) -> Any:
        go.wait(WITHIN_S)
        return Stuck()

    monkeypatch.setattr(serial_port, "_opened", hang)
    monkeypatch.setattr(modbus_line, "OPEN_S", TIMEOUT_S / 4)
    wire = LineWire(SerialDial(str(tmp_path / "tty")), 1, TIMEOUT_S / 4, {})
    try:
        with pytest.raises(LinkError, match="no connection within"):
            await wire.open()
        with pytest.raises(LinkError, match="its open has not returned"):
            await wire.open()
    finally:
        go.set()
    assert await asyncio.to_thread(closed.wait, WITHIN_S), "what nobody waits for is closed"


async def test_a_port_whose_close_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    close = serial.Serial.close

    def hang(port: Any) -> None:
        go.wait(WITHIN_S)
        close(port)

    async with party(u1=Device(registers={0: 7})) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()
        monkeypatch.setattr(serial.Serial, "close", hang)
        begin_s = time.monotonic()
        wire.close()
        await asyncio.sleep(0)
        assert time.monotonic() - begin_s < 1.0
        go.set()
        await wire.open()
        assert await wire.read(3, 0, 1) == b"\0\x07"


async def test_a_byte_with_a_parity_error_spoils_its_reply() -> None:
    async with party(u1=Device(registers={0: 7})) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()
        [bus] = line.lines.values()
        assert isinstance(bus, Line)
        link = bus.link
        line.bus.wire = lambda _frame, reply: link._on_flaw() or reply  # type: ignore[func-returns-value]
        with pytest.raises(ProtocolError, match="parity or framing"):
            await wire.read(3, 0, 1)


async def test_bytes_of_ones_are_read_as_they_are() -> None:
    """They are what the system marks bad bytes with."""
    registers = {0: 0xFFFF, 1: 0xFF00, 2: 0x00FF, 3: 0xFFFF}
    async with party(u1=Device(registers=registers)) as line:
        wire = line.wire(1, TIMEOUT_S)
        await wire.open()
        assert await wire.read(3, 0, 4) == bytes.fromhex("ffffff0000ffffff")


async def test_a_port_that_goes_while_it_is_opened_is_not_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its line would be silent for ever: no unit leaves it while the others stay."""
    bus = SerialBus({1: Device()})
    bus.plug()
    opened = serial_port.open_port

    async def pulled(*args: Any) -> serial_port.SerialPort:
        port = await opened(*args)
        bus.unplug()
        return port

    monkeypatch.setattr(modbus_tty, "open_port", pulled)
    wire = LineWire(SerialDial(bus.path), 1, TIMEOUT_S, {})
    with pytest.raises(LinkError) as told:
        await wire.open()
    assert str(told.value) == f"{wire.name}: the port has gone"
    await wire.closed()


async def test_a_port_that_is_pulled_out_says_so() -> None:
    bus = SerialBus({1: Device()})
    bus.plug()
    wire = LineWire(SerialDial(bus.path), 1, TIMEOUT_S, {})
    try:
        await wire.open()
    finally:
        bus.unplug()
    with pytest.raises(LinkError, match=r"gone|error"):
        await wire.read(3, 0, 1)
    wire.close()
    await wire.closed()
