"""The tests' own tools do what they say."""

import asyncio
import contextlib
import struct
from pathlib import Path

import pytest

from tests.helpers.modbus_server import ModbusServer
from tests.helpers.proxy import FaultProxy

READ = struct.pack(">HHHBBHH", 7, 0, 6, 1, 4, 100, 2)
WRITE_OFF = struct.pack(">HHHBBHH", 8, 0, 6, 1, 5, 16, 0)


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_armed_value_leaves_in_the_next_reply_and_the_trip_is_timed(tmp_path: Path) -> None:
    async with ModbusServer(tmp_path / "log") as server:
        server.set("c", 16, 1)
        server.link(16, 5, ms=0)
        server.set_float("ir", 100, 0.5)
        await server.sync()
        reader, writer = await _connect(server.port)
        server.send("arm t ir 100 1.75 16 0")
        await server.sync()
        writer.write(READ)
        reply = await reader.readexactly(13)
        assert struct.unpack(">f", reply[9:]) == (1.75,)
        sent = await server.event("sent")
        writer.write(WRITE_OFF)
        await reader.readexactly(12)
        tripped = await server.event("trip")
        assert int(tripped[1]) > int(sent[1])
        assert await server.get("di", 5) == [0]
        requests = await server.requests()
        assert [request.kind for request in requests] == ["open", "r", "w"]
        assert requests[2].values == ((1, 0),)
        assert len(await server.edges(16)) == 1
        await _close(writer)


async def test_cycles_wait_for_the_return(tmp_path: Path) -> None:
    async with ModbusServer() as server:
        server.set("c", 16, 1)
        server.send("cycle 3 ir 100 0.5 1.5 16 0 1000")
        reader, writer = await _connect(server.port)
        on = True
        for _ in range(200):
            writer.write(READ)
            value = struct.unpack(">f", (await reader.readexactly(13))[9:])[0]
            if (value < 1.0) != on:
                on = not on
                writer.write(struct.pack(">HHHBBHH", 9, 0, 6, 1, 5, 16, 0xFF00 * on))
                await reader.readexactly(12)
        for _ in range(3):
            sent, tripped, due = (int(word) for word in await server.event("reaction"))
            assert due <= sent < tripped
        assert await server.event("cycle") == ["end"]
        await _close(writer)


async def _ask(proxy: FaultProxy, wait_s: float = 1.0) -> bytes:
    reader, writer = await _connect(proxy.port)
    try:
        async with asyncio.timeout(wait_s):
            writer.write(READ)
            return await reader.read(100)
    finally:
        await _close(writer)


async def test_proxy_breaks_what_it_is_told(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with ModbusServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        good = await _ask(proxy)
        assert len(good) == 13

        proxy.down.delay_s = 0.1
        begin = loop.time()
        assert await _ask(proxy) == good
        assert loop.time() - begin >= 0.1

        proxy.heal()
        proxy.down.mutate = ((1, 0xFF),)
        assert (await _ask(proxy))[:2] == bytes((good[0], good[1] ^ 0xFF))

        proxy.heal()
        proxy.down.duplicate = True
        assert await _ask(proxy) in {good, good + good}

        proxy.heal()
        proxy.down.cut_at = 5
        proxy.down.cut_how = "fin"
        assert await _ask(proxy) == good[:5]

        proxy.heal()
        proxy.down.cut_at = 0
        proxy.down.cut_how = "rst"
        with pytest.raises(ConnectionResetError):
            await _ask(proxy)

        for order in ("frozen", "drop"):
            proxy.heal()
            setattr(proxy.down, order, True)
            with pytest.raises(TimeoutError):
                await _ask(proxy, 0.1)

        proxy.heal()
        proxy.mode = "black_hole"
        with pytest.raises(TimeoutError):
            await _ask(proxy, 0.1)

        proxy.heal()
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await _ask(proxy)
        await proxy.refuse(refused=False)
        assert await _ask(proxy) == good


async def test_proxy_dribbles_and_limits() -> None:
    async with ModbusServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        reader, writer = await _connect(proxy.port)
        proxy.down.dribble_s = 0.001
        writer.write(READ)
        assert len(await reader.read(100)) < 13
        await reader.read(100)
        await _close(writer)

        proxy.heal()
        proxy.down.skip, proxy.down.limit, proxy.down.drop = 1, 1, True
        reader, writer = await _connect(proxy.port)
        for tid in (1, 2, 3):
            writer.write(struct.pack(">HHHBBHH", tid, 0, 6, 1, 4, 100, 2))
        got = await reader.readexactly(26)
        assert [got[1], got[14]] == [1, 3]
        await _close(writer)
