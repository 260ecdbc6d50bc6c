"""A simulated plant as masters that are not ours see it: mbpoll and pymodbus's own client."""

import asyncio
import contextlib
import json
import math
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pymodbus.client import AsyncModbusTcpClient

from drivers.plant import (
    HeartbeatText,
    OutputText,
    Plant,
    PlantText,
    RegisterText,
    ServerText,
    TagText,
)
from drivers.plant_server import PlantServers
from drivers.plant_unit import Unit
from drivers.points import parse_point
from drivers.signals import parse_signal
from tests.helpers.programs import find

MS = 1_000_000
ROOT = Path(__file__).parent.parent.parent


def tag(ident: str, address: str, kind: str = "", signal_text: str = "", **more: Any) -> TagText:
    unit = more.pop("unit", 1)
    place = parse_point(address, kind, **more)
    return TagText(
        id=ident, unit=unit, place=place, signal=parse_signal(signal_text, more.get("limits"))
    )


def plant() -> PlantText:
    permit = OutputText(
        id="power", unit=1, place=parse_point("c:16"), trip=0, normal=1, readback="closed",
        follow_ns=40 * MS,
    )  # fmt: skip
    siren = OutputText(
        id="siren", unit=2, place=parse_point("hr:7", "uint16"), trip=3, normal=0,
        readback="silent", inverted=True, follow_ns=0,
    )  # fmt: skip
    tags = (
        tag("gas", "ir:100", "float32", "constant 0.5", order="CDAB", limits=(0.0, 4.0)),
        tag("level", "ir:102", "uint16", "constant 12.5", scale=0.1, limits=(0.0, 100.0)),
        tag("run", "di:3", "", "constant 1"),
        tag("bit", "hr:30.4", "", "constant 1"),
        tag("set", "hr:40", "int32", "constant -7"),
        tag("closed", "di:1"),
        tag("silent", "di:2", unit=2),
    )
    server = ServerText(
        name="plc",
        tags=tags,
        outputs=(permit, siren),
        heartbeats=(HeartbeatText(unit=1, address=90, watchdog_ns=100 * MS),),
        registers=(RegisterText(unit=1, place=parse_point("hr:4096", "uint16"), value=50),),
    )
    return PlantText(site="test", servers=(server,))


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000 * MS

    def __call__(self) -> int:
        return self.now_ns


class Bench:
    """The plant behind its server, a clock that is turned by hand, and a foreign master."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.servers = PlantServers(plant(), monotonic_ns=self.clock)
        self.port = 0
        self.client = AsyncModbusTcpClient("127.0.0.1")

    def do(self, **command: Any) -> dict[str, Any]:
        return self.servers.obey(msgspec.json.encode(command))

    async def registers(self, address: int, count: int, unit: int = 1) -> list[int]:
        answer = await self.client.read_input_registers(address, count=count, device_id=unit)
        assert not answer.isError(), answer
        return list(answer.registers)

    async def contact(self, address: int, unit: int = 1) -> bool:
        answer = await self.client.read_discrete_inputs(address, count=1, device_id=unit)
        assert not answer.isError(), answer
        return bool(answer.bits[0])


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.port = int((await bench.servers.start())["plc"])
    bench.client = AsyncModbusTcpClient("127.0.0.1", port=bench.port, timeout=2, retries=0)
    assert await bench.client.connect()
    try:
        yield bench
    finally:
        bench.client.close()
        await bench.servers.close()


async def test_a_foreign_master_reads_every_kind_of_place() -> None:
    async with running() as bench:
        low, high, level = await bench.registers(100, 3)
        assert struct.unpack(">f", struct.pack(">HH", high, low))[0] == 0.5
        assert level == 125
        assert await bench.contact(3) is True
        held = await bench.client.read_holding_registers(30, count=12, device_id=1)
        assert held.registers[0] == 1 << 4
        assert struct.unpack(">i", struct.pack(">HH", *held.registers[10:12]))[0] == -7
        preset = await bench.client.read_holding_registers(4096, count=1, device_id=1)
        assert preset.registers == [50]
        assert await bench.registers(0, 125) == [0] * 100 + [low, high, level] + [0] * 22


async def test_what_is_written_stays_and_its_tag_shows_it() -> None:
    async with running() as bench:
        client = bench.client
        assert not (await client.write_registers(40, [0x0001, 0x0002], device_id=1)).isError()
        held = await client.read_holding_registers(40, count=2, device_id=1)
        assert held.registers == [1, 2]
        assert not (await client.write_coils(20, [True, False, True], device_id=1)).isError()
        assert (await client.read_coils(20, count=3, device_id=1)).bits[:3] == [True, False, True]
        bench.do(do="drive", tag="set", value=9)
        held = await client.read_holding_registers(40, count=2, device_id=1)
        assert held.registers == [0, 9], "who drives a tag drives it over what was written"


async def test_a_read_back_follows_its_output() -> None:
    async with running() as bench:
        assert await bench.contact(1) is True
        await bench.client.write_coil(16, value=False, device_id=1)
        assert await bench.contact(1) is True, "not yet"
        bench.clock.now_ns += 40 * MS
        assert await bench.contact(1) is False
        await bench.client.write_coil(16, value=True, device_id=1)
        bench.clock.now_ns += 40 * MS
        assert await bench.contact(1) is True
        assert await bench.contact(2, unit=2) is True, "silent while the siren is not at its trip"
        await bench.client.write_register(7, 3, device_id=2)
        assert await bench.contact(2, unit=2) is False


async def test_a_stuck_element_does_not_move() -> None:
    async with running() as bench:
        assert "does not move" in bench.do(do="stick", output="power")["text"]
        await bench.client.write_coil(16, value=False, device_id=1)
        bench.clock.now_ns += 1_000 * MS
        assert await bench.contact(1) is True
        bench.do(do="stick", output="power", stuck=False)
        assert await bench.contact(1) is False


async def test_the_devices_own_watchdog_trips_its_outputs() -> None:
    async with running() as bench:
        bench.clock.now_ns += 10_000 * MS
        assert await bench.contact(1) is True, "a heartbeat that was never seen is not missed"
        for beat in range(1, 4):
            await bench.client.write_registers(90, [beat, 7], device_id=1)
            bench.clock.now_ns += 90 * MS
            assert await bench.contact(1) is True
        await bench.client.write_registers(90, [3, 7], device_id=1)  # the same again
        bench.clock.now_ns += 20 * MS
        await bench.contact(1)
        bench.clock.now_ns += 40 * MS
        assert await bench.contact(1) is False


async def test_driving_a_tag() -> None:
    async with running() as bench:
        do = bench.do
        assert do(do="drive", tag="level", value=20)["text"] == "level is driven to 20"
        assert await bench.registers(102, 1) == [200]
        do(do="drive", tag="level", value=40, over_s=1)
        bench.clock.now_ns += 500 * MS
        assert await bench.registers(102, 1) == [300]
        bench.clock.now_ns += 500 * MS
        assert await bench.registers(102, 1) == [400]
        do(do="drive", tag="level", value=1e9)
        assert await bench.registers(102, 1) == [65_535], "no further than its place can hold"
        assert do(do="driven")["driven"] == ["level"]
        do(do="end", tag="level")
        assert await bench.registers(102, 1) == [125]
        assert do(do="driven")["driven"] == []


async def test_a_bad_tag_is_bad_as_its_place_can_say_it() -> None:
    async with running() as bench:
        assert "not a number" in bench.do(do="bad", tag="gas")["text"]
        low, high = await bench.registers(100, 2)
        assert math.isnan(struct.unpack(">f", struct.pack(">HH", high, low))[0])
        assert "out of its range" in bench.do(do="bad", tag="level")["text"]
        assert await bench.registers(102, 1) == [2_000]
        assert "refuses" in bench.do(do="bad", tag="run")["text"]
        answer = await bench.client.read_discrete_inputs(0, count=8, device_id=1)
        assert answer.isError()
        assert answer.exception_code == 4
        assert bench.do(do="value", tag="gas") == {"value": None}
        bench.do(do="end", tag="run")
        assert await bench.contact(3) is True


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"do": "drive", "tag": "nobody", "value": 1}, "no measured tag nobody"),
        ({"do": "drive", "tag": "gass", "value": 1}, "did you mean gas?"),
        ({"do": "drive", "tag": "run", "value": 2}, "0 or 1"),
        ({"do": "stick", "output": "nobody"}, "no output nobody"),
        ({"do": "fault", "device": "nobody", "fault": "silent"}, "no device nobody"),
        ({"do": "dance"}, "Invalid enum value"),
        ({"do": "end", "tag": "gas", "why": 1}, "unknown field"),
    ],
)
def test_what_cannot_be_done_is_said(command: dict[str, Any], words: str) -> None:
    assert words in PlantServers(plant()).obey(json.dumps(command).encode())["error"]


def test_a_line_that_is_no_json_is_said() -> None:
    assert "error" in PlantServers(plant()).obey(b"{nonsense")


async def test_faults_of_a_device() -> None:
    async with running() as bench:
        bench.do(do="fault", device="plc", fault="busy")
        answer = await bench.client.read_coils(0, count=1, device_id=1)
        assert answer.exception_code == 6
        bench.do(do="fault", device="plc", fault="none")
        missing = await bench.client.read_coils(0, count=1, device_id=9)
        assert missing.exception_code == 11
        bench.do(do="fault", device="plc", fault="cut")
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        got = b"nothing yet"
        with contextlib.suppress(ConnectionResetError):
            got = await reader.read()
        assert got in (b"", b"nothing yet"), "it ends, and says nothing"
        writer.close()
        bench.do(do="fault", device="plc", fault="silent")
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(bytes.fromhex("0001 0000 0006 01 01 0000 0001"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        bench.do(do="fault", device="plc", fault="none")
        writer.write(bytes.fromhex("0002 0000 0006 01 01 0010 0001"))
        assert await reader.readexactly(10) == bytes.fromhex("0002 0000 0004 01 01 01 01")
        writer.close()


@pytest.mark.parametrize(
    ("request_pdu", "reply"),
    [
        ("03 0000 0000", "83 03"),
        ("03 0000 007e", "83 03"),
        ("01 0000 07d1", "81 03"),
        ("03 ffff 0002", "83 02"),
        ("05 0010 1234", "85 03"),
        ("07", "87 01"),
        ("03 00", "83 03"),
        ("10 0000 0002 04 0001", "90 03"),
        ("0f 0000 0009 01 ff", "8f 03"),
    ],
)
def test_what_modbus_forbids_is_refused(request_pdu: str, reply: str) -> None:
    server = plant().servers[0]
    unit = Unit(1, server, Plant(plant(), 0))
    assert unit.answer(bytes.fromhex(request_pdu), 0) == bytes.fromhex(reply)


async def test_mbpoll_reads_the_process(tmp_path: Path) -> None:
    program = find("mbpoll")
    description = tmp_path / "plant.json"
    description.write_bytes(msgspec.json.encode(plant()))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.sim", "plant", str(description), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    port = json.loads(await process.stdout.readline())["ports"]["plc"]
    process.stdin.write(b'{"do": "drive", "tag": "gas", "value": 1.25}\n')
    assert "gas is driven" in json.loads(await process.stdout.readline())["text"]
    reading = await asyncio.create_subprocess_exec(
        program, "-0", "-1", "-a", "1", "-t", "3:float", "-r", "100", "-p", str(port), "127.0.0.1",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await reading.communicate()
    assert b"[100]: \t1.25" in out, out
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 5) == 0, "it ends with whoever holds its stdin"


async def test_it_becomes_another_plant_behind_the_same_connection(tmp_path: Path) -> None:
    before = plant().servers[0]
    moved = tag("level", "ir:202", "uint16", "constant 12.5", scale=0.1, limits=(0.0, 100.0))
    changed = msgspec.structs.replace(
        before,
        tags=(*(each for each in before.tags if each.id not in ("run", "level")), moved),
        registers=(),
    )
    other = ServerText(name="pump", tags=(tag("flow", "ir:0", "uint16", "constant 7"),))
    file = tmp_path / "next.json"
    file.write_bytes(msgspec.json.encode(PlantText(site="test", servers=(changed, other))))
    async with running() as bench:
        bench.do(do="drive", tag="level", value=50.0)
        bench.do(do="stick", output="siren")
        await bench.client.write_coil(16, value=False, device_id=1)
        bench.clock.now_ns += 50 * MS
        ports = bench.do(do="become", description=str(file))["ports"]
        assert ports["plc"] == bench.port
        assert await bench.registers(202, 1) == [500], "it is still driven, in its new place"
        assert await bench.registers(102, 1) == [0]
        assert await bench.contact(1) is False, "the final element stays where it was put"
        assert await bench.contact(3) is False, "a tag that is gone is 0"
        fresh = AsyncModbusTcpClient("127.0.0.1", port=ports["pump"], timeout=2, retries=0)
        assert await fresh.connect()
        assert (await fresh.read_input_registers(0, count=1, device_id=1)).registers == [7]
        file.write_bytes(msgspec.json.encode(plant()))
        assert bench.do(do="become", description=str(file))["ports"] == {"plc": bench.port}
        fresh.close()
        assert await bench.registers(102, 1) == [500]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", ports["pump"])
        assert "no description" in bench.do(do="become", description=str(tmp_path))["error"]


async def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "plant.json"
    broken.write_text('{"servers": [{"tags": 5}]}')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.sim", "plant", str(broken), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"no description of a plant" in err
    assert b"Traceback" not in err
