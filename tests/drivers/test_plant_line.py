"""Simulated serial lines: Modbus RTU as mbpoll sees it, instruments as data sheets have them."""

import asyncio
import functools
import operator
import os
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from drivers.errors import PointError
from drivers.instrument import Instrument, InstrumentTag, InstrumentText
from drivers.kind import Surroundings
from drivers.plant import PlantText, ServerText, TagText
from drivers.plant_server import PlantServers
from drivers.points import parse_point
from drivers.registry import make_driver
from drivers.serial_tables import SerialField, SerialProtocol
from drivers.signals import parse_signal
from gateway.site.model import Device, Duration, Line, Point
from gateway.site.serial_templates import templates
from tests.helpers.programs import find
from tests.helpers.unsecret import no_secrets

NAN = float("nan")


def tag(ident: str, value: float, address: str = "ir:0", unit: int = 1) -> TagText:
    kind = "float64" if address.startswith("ir") else ""
    place = parse_point(address, kind)
    return TagText(id=ident, unit=unit, place=place, signal=parse_signal(f"constant {value}", None))


def of_template(name: str, *fields: str, station: str | None = None, **more: Any) -> InstrumentText:
    template = templates()[name]
    return InstrumentText(
        protocol=template.protocol,
        fields=template.fields,
        station=station,
        tags=tuple(InstrumentTag(id=field, field=field) for field in fields),
        **more,
    )


@asynccontextmanager
async def line(server: ServerText) -> AsyncIterator[tuple[PlantServers, str]]:
    servers = PlantServers(PlantText(servers=(server,)))
    try:
        yield servers, str((await servers.start())[server.name])
    finally:
        await servers.close()


def nmea(body: str) -> str:
    return f"{functools.reduce(operator.xor, body.encode()):02X}"


async def test_mbpoll_reads_and_writes_units_of_one_line() -> None:
    program = find("mbpoll")
    server = ServerText(
        name="bus",
        kind="rtu",
        tags=(tag("a", 12.5, unit=1), tag("b", 7.25, unit=2), tag("c", 1, "di:4", unit=2)),
    )
    async with line(server) as (_, path):
        base = [program, "-m", "rtu", "-b", "9600", "-P", "none", "-0", "-1", "-o", "0.5"]

        async def run(*arguments: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                *base, *arguments,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await process.communicate()
            return process.returncode or 0, out.decode()

        for unit, value in ((1, 12.5), (2, 7.25)):
            _, out = await run("-a", str(unit), "-t", "3:hex", "-r", "0", "-c", "4", path)
            words = [int(word, 16) for word in re.findall(r"0x([0-9A-F]{4})", out)]
            assert struct.unpack(">d", struct.pack(">4H", *words))[0] == value
        assert re.search(r"\[4\]:\s+1", (await run("-a", "2", "-t", "1", "-r", "4", path))[1])
        code, out = await run("-a", "2", "-t", "4", "-r", "9", path, "4711")
        assert (code, "Written 1 references" in out) == (0, True), out
        assert "4711" in (await run("-a", "2", "-t", "4", "-r", "9", path))[1]
        code, out = await run("-a", "3", "-t", "4", "-r", "9", path)
        assert code != 0, "nobody answers for a unit that is not there"
        assert "timed out" in out


async def test_a_damaged_request_is_not_answered() -> None:
    server = ServerText(name="bus", kind="rtu", tags=(tag("a", 1.0),))
    async with line(server) as (_, path):
        port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.write(port, bytes.fromhex("01 04 0000 0001 0000"))
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                os.read(port, 100)
            os.write(port, bytes.fromhex("01 04 0000 0001 31CA"))
            await asyncio.sleep(0.05)
            assert os.read(port, 100)[:3] == bytes.fromhex("01 04 02")
        finally:
            os.close(port)


def test_a_wind_sensor_sends_a_sentence_for_each_reference() -> None:
    text = of_template("nmea0183-wind", "angle", "speed", "true-speed")
    values = {"angle": 214.8, "speed": 10.0, "true-speed": 5.0}
    relative, true = (message.decode() for message in Instrument(text).messages(values))
    found = re.fullmatch(r"\$(..MWV,([\d.]+),R,([\d.]+),K,A)\*(..)\r\n", relative)
    assert found, relative
    assert float(found[2]) == 214.8
    assert float(found[3]) == pytest.approx(36.0)  # km/h
    assert nmea(found[1]) == found[4]
    assert re.fullmatch(r"\$..MWV,[\d.]*,T,18\.0+,K,A\*..\r\n", true), true
    (nothing, _) = Instrument(text).messages(values | {"speed": NAN})
    assert b",R,,K,A*" in nothing


def test_a_scale_and_an_analyser_say_it_in_their_own_form() -> None:
    (weight,) = Instrument(of_template("ascii-scale", "net")).messages({"net": 12.34})
    assert re.fullmatch(rb"ST,NT,12\.34\d*kg\r\n", weight)
    gas = Instrument(of_template("ascii-gas", "gas", "temperature", station="01"))
    (answer,) = gas.messages({"gas": 0.52, "temperature": 21.3})
    body, checksum = answer[:-3], answer[-3:-1]
    assert re.fullmatch(rb">01,0\.52\d*,21\.3\d*,OK", body)
    assert checksum == b"%02X" % (sum(body) & 0xFF)
    assert gas.request == b"#01%02X\r" % (sum(b"#01") & 0xFF)


def test_a_logger_sends_a_frame() -> None:
    text = of_template("logger-4-20ma", "i1", "i2", "i4")
    (frame,) = Instrument(text).messages({"i1": 4.0, "i2": 12.0, "i4": 3.5})
    assert frame == bytes.fromhex("AA55 0E 00 0FA0 2EE0 0000 0DAC") + frame[-2:]
    crc = 0xFFFF
    for byte in frame[:-2]:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    assert frame[-2:] == struct.pack("<H", crc)


@pytest.mark.parametrize(
    ("protocol", "field", "message"),
    [
        ({"separator": ";"}, 2, b"0;5.500\r\n"),
        ({"pattern": r"[A-F]{2}\d(?P<x>[0-9.]+)(?:kg|lb)[^a]x?"}, "x", b"AA05.500kg \r\n"),
        ({"pattern": r"W(?P<x>[0-9]{3})", "delimiter": "\n"}, "x", b"W006\n"),
        ({"pattern": r"(\w),([+-][0-9.]{4,})"}, 2, b"0,+5.50\r\n"),
    ],
)
def test_a_line_is_made_of_its_own_pattern(
    protocol: dict[str, Any], field: str | int, message: bytes
) -> None:
    text = InstrumentText(
        protocol=SerialProtocol(kind="line", **protocol),
        tags=(InstrumentTag(id="x", field=field),),
    )
    made = Instrument(text).messages({"x": 5.5})[0]
    assert len(made) == len(message)
    pattern = protocol.get("pattern")
    assert made == message or (pattern and re.fullmatch(pattern, made.decode().strip("\r\n")))


def test_words_and_frames_of_every_type() -> None:
    words = SerialField(name="state", words={"ON": 1.0, "OFF": 0.0})
    text = InstrumentText(
        protocol=SerialProtocol(kind="line", pattern="<(?P<state>ON|OFF)>"),
        fields=(words,),
        tags=(InstrumentTag(id="s", field="state", type="bool"),),
    )
    assert Instrument(text).messages({"s": 1.0}) == [b"<ON>\r\n"]
    frame = InstrumentText(
        protocol=SerialProtocol(kind="frame", start="02", length=12, checksum="xor8"),
        tags=(
            InstrumentTag(id="a", at=1, type="int8"),
            InstrumentTag(id="b", at=2, type="float32", order="DCBA"),
            InstrumentTag(id="c", at=6, type="uint16", scale=0.5, offset=1.0),
            InstrumentTag(id="d", at=8, type="int16"),
        ),
    )
    (made,) = Instrument(frame).messages({"a": -3.0, "b": 1.5, "c": 11.0, "d": -99_999.0})
    assert made[:11] == bytes.fromhex("02 FD 0000C03F 0014 8000 00")
    assert made[11] == functools.reduce(operator.xor, made[:11])


def test_a_line_that_cannot_be_made_is_refused() -> None:
    text = InstrumentText(
        protocol=SerialProtocol(kind="line", pattern="(?P<x>[a-z]+)"),
        tags=(InstrumentTag(id="x", field="x"),),
    )
    with pytest.raises(PointError, match="no line of this pattern"):
        Instrument(text)


async def test_instruments_of_one_line_answer_their_own_stations() -> None:
    server = ServerText(
        name="bus",
        kind="serial",
        tags=(tag("one", 0.5, "ir:0"), tag("two", 7.5, "ir:4")),
        instruments=tuple(
            msgspec.structs.replace(
                of_template("ascii-gas", "gas", station=station),
                tags=(InstrumentTag(id=ident, field="gas"),),
            )
            for station, ident in (("01", "one"), ("02", "two"))
        ),
    )
    template = templates()["ascii-gas"]
    async with line(server) as (servers, path):
        around = Surroundings(no_secrets)
        for station, value in (("01", 0.5), ("02", 7.5)):
            device = Device(
                id=station, driver="serial", address=path, station=station, line=Line(),
                protocol=template.protocol, fields=template.fields,
                timeout=Duration(1_000_000_000),
            )  # fmt: skip
            driver = make_driver("serial", device, [(Point(field="gas"), None)], around)
            await driver.connect()
            assert [r.value for r in await driver.read(driver.plan([0]))] == [value]
            await driver.close()
        assert servers.obey(b'{"do": "fault", "device": "bus", "fault": "silent"}')["text"]
