"""One connection: nothing but the right reply passes, and whatever is odd ends it."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import DriverError, LinkError, ProtocolError
from drivers.modbus_dial import TcpDial
from drivers.modbus_frames import reply_is_whole
from drivers.modbus_link import ExceptionReply, SilenceError
from drivers.modbus_wire import OwnWire
from fastpath import modbus
from fastpath.codes import Refusal
from tests.drivers.scripted import (
    Answer,
    Conversation,
    exception_reply,
    registers_reply,
    reply,
    right,
    scripted,
    silent,
)

TIMEOUT_S = 5.0  # of what must not take it
SHORT_S = 0.1  # of what must


async def read(port: int, timeout_s: float = TIMEOUT_S) -> bytes:
    """Read three registers over a connection of its own."""
    link = OwnWire(TcpDial("127.0.0.1", port), 1, timeout_s)
    await link.open()
    try:
        return await link.read(3, 4, 3)
    finally:
        link.close()
        await asyncio.sleep(0)


def sends(make: Callable[[bytes], bytes]) -> Answer:
    """A device that answers with what ``make`` makes of the request."""

    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(make(request))

    return answer


async def test_a_right_reply() -> None:
    async with scripted(right) as server:
        assert await read(server.port) == bytes([0, 4, 0, 5, 0, 6])


@pytest.mark.parametrize("cut", range(1, 15))
async def test_a_reply_in_two_segments(cut: int) -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        whole = registers_reply(request)
        await talk.send(whole[:cut], whole[cut:])

    async with scripted(answer) as server:
        assert await read(server.port) == bytes([0, 4, 0, 5, 0, 6])


async def test_a_reply_byte_by_byte() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(*(bytes([byte]) for byte in registers_reply(request)))

    async with scripted(answer) as server:
        assert await read(server.port) == bytes([0, 4, 0, 5, 0, 6])


DATA = bytes([3, 6, 0, 4, 0, 5, 0, 6])
WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "transaction 0": (lambda r: reply(r, DATA, tid=0), "transaction 0"),
    "other transaction": (lambda r: reply(r, DATA, tid=77), "transaction 77"),
    "protocol": (lambda r: reply(r, DATA, protocol=1), "protocol id 1"),
    "other unit": (lambda r: reply(r, DATA, unit=2), "unit 2"),
    "unit 0": (lambda r: reply(r, DATA, unit=0), "unit 0"),
    "other function": (lambda r: reply(r, b"\x04" + DATA[1:]), "function 4"),
    "exception of another function": (lambda r: reply(r, b"\x84\x02"), "function 132"),
    "function 0x80": (lambda r: reply(r, b"\x80\x02"), "function 128"),
    "short": (lambda r: reply(r, bytes([3, 2, 0, 4])), "length 5, expected 9"),
    "long": (lambda r: reply(r, bytes([3, 8, *range(8)])), "length 11, expected 9"),
    "byte count too small": (lambda r: reply(r, b"\x03\x04" + DATA[2:]), "byte count 4"),
    "byte count too large": (lambda r: reply(r, b"\x03\xff" + DATA[2:]), "byte count 255"),
    "length 0": (lambda r: reply(r, DATA, length=0), "length 0"),
    "length 1": (lambda r: reply(r, DATA, length=1), "length 1"),
    "length too small": (lambda r: reply(r, DATA, length=8), "length 8"),
    "length too large": (lambda r: reply(r, DATA, length=10), "length 10"),
    "length 255": (lambda r: reply(r, DATA, length=255), "length 255"),
    "length 65535": (lambda r: reply(r, DATA, length=65535), "length 65535"),
    "exception with more": (lambda r: reply(r, b"\x83\x02\x00"), "length 4, expected 3"),
    "exception without code": (lambda r: reply(r, b"\x83"), "length 2, expected 3"),
    "bytes after it": (lambda r: reply(r, DATA) + b"\x00", "1 bytes after"),
    "the reply twice": (lambda r: reply(r, DATA) * 2, "15 bytes after"),
    "300 bytes too many": (lambda r: reply(r, DATA) + bytes(300), "300 bytes after"),
    "text": (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "transaction 18516"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_reply_ends_the_connection(name: str) -> None:
    make, says = WRONG[name]
    async with scripted(sends(make)) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, TIMEOUT_S)
        await link.open()
        with pytest.raises(ProtocolError, match=says):
            await link.read(3, 4, 3)
        with pytest.raises(LinkError, match="not connected"):
            await link.read(3, 4, 3)
        await asyncio.sleep(0)


@pytest.mark.parametrize("code", range(256))
async def test_every_exception_code_keeps_the_connection(code: int) -> None:
    async with scripted(sends(lambda r: exception_reply(r, code))) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, TIMEOUT_S)
        await link.open()
        for _ in range(2):
            with pytest.raises(ExceptionReply) as caught:
                await link.read(3, 4, 3)
            assert caught.value.code == code
        assert server.connections == 1
        link.close()
        await asyncio.sleep(0)


async def test_silence_ends_the_connection() -> None:
    async with scripted(silent) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, SHORT_S)
        await link.open()
        with pytest.raises(SilenceError, match=r"no reply within 0\.1 s"):
            await link.read(3, 4, 3)
        with pytest.raises(LinkError, match="not connected"):
            await link.read(3, 4, 3)
        await asyncio.sleep(0)


async def test_dribble_does_not_move_the_deadline() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        for byte in registers_reply(request):
            await talk.send(bytes([byte]))
            await asyncio.sleep(SHORT_S / 4)

    async with scripted(answer) as server:
        with pytest.raises(SilenceError):
            await read(server.port, SHORT_S)


@pytest.mark.parametrize("end", [Conversation.reset, Conversation.finish], ids=["rst", "fin"])
@pytest.mark.parametrize("sent", range(15))
async def test_an_end_after_any_byte_is_seen_at_once(
    sent: int, end: Callable[[Conversation], None]
) -> None:
    """Well before the timeout, which pymodbus alone would wait for."""

    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(registers_reply(request)[:sent])
        end(talk)

    async with scripted(answer) as server, asyncio.timeout(TIMEOUT_S / 2):
        with pytest.raises(LinkError):
            await read(server.port)


async def test_a_late_reply_meets_no_later_request() -> None:
    """The reply to the first request comes when the second one is asked."""
    late: list[bytes] = []

    async def answer(talk: Conversation, request: bytes) -> None:
        late.append(registers_reply(request))
        if len(late) == 2:
            await talk.send(late[0])

    async with scripted(answer) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, SHORT_S)
        await link.open()
        with pytest.raises(SilenceError):
            await link.read(3, 4, 3)
        await link.open()
        with pytest.raises(ProtocolError, match="transaction 1, expected 2"):
            await link.read(3, 104, 3)
        link.close()
        await asyncio.sleep(0)


async def test_unasked_bytes_end_the_connection() -> None:
    told = asyncio.Event()

    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(registers_reply(request))
        await talk.send(registers_reply(request))
        told.set()

    async with scripted(answer) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, TIMEOUT_S)
        await link.open()
        await link.read(3, 4, 3)
        await told.wait()
        await asyncio.sleep(0.02)
        with pytest.raises(ProtocolError, match="not asked for"):
            await link.read(3, 4, 3)
        await asyncio.sleep(0)


async def test_a_cancelled_read_ends_the_connection() -> None:
    asked = asyncio.Event()

    async def answer(_talk: Conversation, _request: bytes) -> None:
        asked.set()

    async with scripted(answer) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, TIMEOUT_S)
        await link.open()
        task = asyncio.create_task(link.read(3, 4, 3))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(LinkError, match="not connected"):
            await link.read(3, 4, 3)


async def test_nobody_listens() -> None:
    async with scripted(right) as server:
        port = server.port
    link = OwnWire(TcpDial("127.0.0.1", port), 1, TIMEOUT_S)
    with pytest.raises(LinkError, match=f"127.0.0.1:{port}: Connection refused"):
        await link.open()


@pytest.mark.parametrize("host", ["a..b", "\udcff", "x" * 300])
async def test_a_host_that_cannot_be(host: str) -> None:
    with pytest.raises(LinkError):
        await OwnWire(TcpDial(host, 502), 1, SHORT_S).open()


async def test_a_name_with_several_addresses_is_tried_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(right) as server:
        answers = [(2, 1, 6, "", (address, server.port)) for address in ("127.0.0.9", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
        link = OwnWire(TcpDial("plc.site", server.port), 1, TIMEOUT_S)
        await link.open()
        assert len(await link.read(3, 4, 3)) == 6
        link.close()
        await asyncio.sleep(0)


async def test_a_name_service_that_hangs_costs_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, lookups = threading.Event(), []

    def hang(host: str, *_: object, **__: object) -> None:
        lookups.append(host)
        release.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    for _ in range(3):
        with pytest.raises(LinkError, match=r"plc\.site: no answer from the name service"):
            await OwnWire(TcpDial("plc.site", 502), 1, SHORT_S / 10).open()
    assert lookups == ["plc.site"]
    asyncio.get_running_loop().call_later(0.01, release.set)
    with pytest.raises(LinkError, match="Temporary failure"):
        await OwnWire(TcpDial("plc.site", 502), 1, TIMEOUT_S).open()


async def test_writes_are_echoed() -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(reply(request, request[7:12]))

    async with scripted(answer) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 9, TIMEOUT_S)
        await link.open()
        await link.write_coil(16, on=True)
        await link.write_coil(16, on=False)
        await link.write_registers(90, [7])
        await link.write_registers(90, [7, 65535])
        link.close()
        await asyncio.sleep(0)
        assert [request[6:].hex() for request in server.requests] == [
            "09050010ff00",
            "090500100000",
            "0906005a0007",
            "0910005a0002040007ffff",
        ]


@pytest.mark.parametrize("byte", range(8, 12))
@pytest.mark.parametrize("kind", ["coil", "register", "registers"])
async def test_a_wrong_echo_ends_the_connection(kind: str, byte: int) -> None:
    async def answer(talk: Conversation, request: bytes) -> None:
        echo = bytearray(request[:12])
        echo[4:6] = b"\x00\x06"
        echo[byte] ^= 1
        await talk.send(bytes(echo))

    calls: dict[str, Callable[[OwnWire], Awaitable[None]]] = {
        "coil": lambda link: link.write_coil(16, on=True),
        "register": lambda link: link.write_registers(90, [7]),
        "registers": lambda link: link.write_registers(90, [7, 8]),
    }
    async with scripted(answer) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, TIMEOUT_S)
        await link.open()
        with pytest.raises(ProtocolError, match="echo"):
            await calls[kind](link)
        await asyncio.sleep(0)


def test_every_beginning_of_a_right_reply_waits() -> None:
    request = bytes.fromhex("0007 0000 0006 01 03 0004 0003")
    whole = registers_reply(request)
    assert [reply_is_whole(request, whole[:n]) for n in range(1, len(whole))] == [False] * 14
    assert reply_is_whole(request, whole)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 2000])
def test_bit_replies_have_their_own_length(count: int) -> None:
    request = bytes.fromhex("0007 0000 0006 01 01 0004") + count.to_bytes(2, "big")
    size = (count + 7) // 8
    assert reply_is_whole(request, reply(request, bytes([1, size]) + bytes(size)))
    with pytest.raises(ProtocolError):
        reply_is_whole(request, reply(request, bytes([1, size - 1]) + bytes(size - 1)))


REQUESTS = [
    modbus.read_frame(7, 1, 3, 4, 3),
    modbus.read_frame(7, 1, 4, 4, 1),
    modbus.read_frame(7, 1, 1, 4, 9),
    modbus.write_frame(7, 1, 5, 16, [1]),
    modbus.write_frame(7, 1, 6, 90, [7]),
    modbus.write_frame(7, 1, 16, 90, [7, 8]),
]


@settings(deadline=None)
@given(st.sampled_from(REQUESTS), st.data())
def test_the_guard_and_the_driver_judge_alike(request: bytes, data: st.DataObject) -> None:
    """Two implementations that share no line, over right replies with a few bytes changed."""
    function = request[7]
    if data.draw(st.booleans()):
        pdu = bytes([function | 0x80, data.draw(st.integers(0, 255))])
    elif function in (5, 6, 16):
        pdu = request[7:12]
    else:
        size = 2 * request[11] if function > 2 else (request[11] + 7) // 8
        pdu = bytes([function, size]) + data.draw(st.binary(min_size=size, max_size=size))
    answer = bytearray(reply(request, pdu))
    for _ in range(data.draw(st.integers(0, 2))):
        answer[data.draw(st.integers(0, len(answer) - 1))] = data.draw(st.integers(0, 255))
    code, _ = modbus.reply_code(bytes(answer), request)
    exceptions = {
        modbus.REPLY_REFUSED + each for each in Refusal if each.name.startswith("EXCEPTION")
    }
    guard_passes = code == modbus.REPLY_GOOD or code in exceptions
    try:
        driver_passes = reply_is_whole(request, bytes(answer))
    except ProtocolError:
        driver_passes = False
    assert driver_passes is guard_passes


async def test_random_bytes_are_never_a_reply() -> None:
    random = Random(4)

    async def answer(talk: Conversation, _request: bytes) -> None:
        await talk.send(random.randbytes(random.randint(8, 4000)))

    async with scripted(answer) as server:
        link = OwnWire(TcpDial("127.0.0.1", server.port), 1, TIMEOUT_S)
        for _ in range(300):
            await link.open()
            with pytest.raises(DriverError):
                await link.read(3, 4, 3)
        await asyncio.sleep(0)
