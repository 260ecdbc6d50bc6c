"""Serial instruments on a pty: units, states, several on a line, loss and return, odd adapters."""

import asyncio
import contextlib
import os
import threading
import tty
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import serial

from drivers import serial_port
from drivers.base import Reading
from drivers.checksums import CHECKSUMS
from drivers.errors import DeviceError, LinkError, RequestError
from drivers.kind import Surroundings
from drivers.registry import make_driver
from drivers.serial_kind import streams
from drivers.serial_line import SerialAsker, SerialStream
from drivers.serial_port import DOUBLE_S, Marks, Settings, open_port
from drivers.serial_tables import SerialField, SerialProtocol
from fastpath.codes import Quality, Reason
from gateway.site.model import Device, Line, Point
from gateway.site.serial_templates import templates
from tests.helpers.instruments import TEMPLATES, device_of, instrument
from tests.helpers.unsecret import no_secrets

WITHIN_S = 10.0
GOOD = (Quality.GOOD, 0)
FAILED = (Quality.BAD, Reason.DEVICE_FAILURE)


def around() -> Surroundings:
    return Surroundings(no_secrets)


def made(device: Device, points: Sequence[Point], near: Surroundings | None = None) -> Any:
    return make_driver(device.driver, device, [(p, None) for p in points], near or around())


def by_point(readings: Sequence[Reading]) -> dict[int, tuple[float, tuple[int, int]]]:
    return {r.point: (r.value, (r.quality, r.reason)) for r in readings}


@asynccontextmanager
async def opened(driver: Any) -> AsyncIterator[Any]:
    try:
        async with asyncio.timeout(WITHIN_S):
            await driver.connect()
            yield driver
    finally:
        await driver.close()


async def pushed(driver: SerialStream, count: int) -> list[Sequence[Reading]]:
    """The next so many batches."""
    found = []
    async with asyncio.timeout(WITHIN_S):
        async with contextlib.aclosing(driver.readings()) as batches:
            async for batch in batches:
                found.append(batch)
                if len(found) == count:
                    return found
    return found


async def newest(driver: SerialStream) -> dict[int, tuple[float, tuple[int, int]]]:
    """What is sent from now on; what was under way is passed over."""
    return by_point((await pushed(driver, 3))[-1])


async def test_units_and_states_of_a_wind_sensor(tmp_path: Path) -> None:
    points = [Point(field="angle"), Point(field="speed"), Point(field="speed", scale=3.6),
              Point(field="true-speed")]  # fmt: skip
    async with instrument("wind", tmp_path / "tty") as far:
        await far.tell("set 0 214.8")
        await far.tell("set 1 36.0")
        async with opened(made(far.device(), points)) as driver:
            for unit, speed in (("K", 10.0), ("M", 36.0), ("N", 18.52), ("S", 16.09344)):
                await far.tell(f"unit {unit}")
                said = await newest(driver)
                assert said[0] == (214.8, GOOD)
                assert said[1][1] == GOOD
                assert said[1][0] == pytest.approx(speed)
                assert said[2][0] == pytest.approx(3.6 * speed)
                assert 3 not in said, "the sentence is of the relative wind"
            await far.tell("word V")
            assert (await newest(driver))[1][1] == FAILED
            assert set(driver.stats()) == {"good"}


async def test_states_of_a_scale(tmp_path: Path) -> None:
    points = [Point(field="gross"), Point(field="net")]
    async with instrument("scale", tmp_path / "tty") as far:
        await far.tell("set 0 1234.5")
        await far.tell("set 1 -7.25")
        async with opened(made(far.device(), points)) as driver:
            said = {key: value for batch in await pushed(driver, 4) for key, value in
                    by_point(batch).items()}  # fmt: skip
            assert said == {0: (1234.5, GOOD), 1: (-7.25, GOOD)}
            await far.tell("word US")
            assert {q for _, q in (await newest(driver)).values()} == {
                (Quality.UNCERTAIN, Reason.DEVICE_FAILURE)
            }
            await far.tell("word OL")
            assert {q for _, q in (await newest(driver)).values()} == {FAILED}
            await far.tell("word ST")
            await far.tell("unit lb")
            batches = await pushed(driver, 4)
            assert by_point(batches[-1] if 0 in by_point(batches[-1]) else batches[-2])[0][
                0
            ] == pytest.approx(1234.5 * 0.45359237)


async def test_a_frame_with_its_own_start_within_is_whole(tmp_path: Path) -> None:
    """The logger's third current is AA 55, as a frame begins."""
    points = [Point(field="i1"), Point(field="i2"), Point(at=8, type="uint16"),
              Point(at=8, type="uint16", order="DCBA"), Point(at=3, type="bool"),
              Point(at=8, type="int8"), Point(at=8, type="uint8")]  # fmt: skip
    async with instrument("logger", tmp_path / "tty") as far:
        await far.tell("set 0 4000")
        await far.tell("set 1 20500")
        async with opened(made(far.device(), points)) as driver:
            said = await newest(driver)
            assert [said[i][0] for i in range(7)] == [4.0, 20.5, 0xAA55, 0x55AA, 0, -86, 170]
            await far.tell("word 01")
            assert {q for _, q in (await newest(driver)).values()} == {
                (Quality.UNCERTAIN, Reason.DEVICE_FAILURE)
            }
            await far.tell("word 40")
            assert {q for _, q in (await newest(driver)).values()} == {FAILED}


async def test_stations_of_one_line_take_turns_and_a_dead_one_disturbs_none(
    tmp_path: Path,
) -> None:
    near = around()
    async with instrument("gas", tmp_path / "tty") as far, contextlib.AsyncExitStack() as stack:
        for station in range(1, 5):
            await far.tell(f"set {2 * station} {station}")
        await far.tell("mute 3")
        drivers = [
            await stack.enter_async_context(
                opened(made(far.device(station=f"0{n}"), [Point(field="gas")], near))
            )
            for n in range(1, 5)
        ]
        plans = [driver.plan([0]) for driver in drivers]

        async def ask(number: int) -> float | None:
            try:
                return float((await drivers[number].read(plans[number]))[0].value)
            except (DeviceError, LinkError):
                return None

        for _ in range(3):
            found = await asyncio.gather(*(ask(number) for number in range(4)))
            assert found == [1.0, 2.0, None, 4.0]
        assert drivers[2].stats() == {"timeout": 3}
        await far.tell("mute 0")
        assert await ask(2) == 3.0
        assert len(near.shared) == 1, "one port, opened once"
    assert not near.shared


async def test_a_late_answer_is_never_the_next_ones(tmp_path: Path) -> None:
    """Answers that name no station: the line is left alone until none can come."""
    protocol = templates()["ascii-gas"].protocol
    bare = SerialProtocol(
        kind="line", delimiter="\r", request=protocol.request, checksum="sum8",
        pattern=">[0-9]{2},(?P<gas>[0-9.]*),(?P<temperature>[0-9.]*),OK",
    )  # fmt: skip
    near = around()
    async with instrument("gas", tmp_path / "tty") as far, contextlib.AsyncExitStack() as stack:
        await far.tell("set 2 1")
        await far.tell("set 4 2")
        drivers = [
            await stack.enter_async_context(
                opened(made(far.device(station=f"0{n}", protocol=bare), [Point(field="gas")], near))
            )
            for n in (1, 2)
        ]
        wrong = timeouts = 0
        for late_us in (140_000, 160_000, 200_000, 0):
            await far.tell(f"late {late_us}")
            for number, driver in enumerate(drivers, start=1):
                try:
                    [reading] = await driver.read(driver.plan([0]))
                    wrong += reading.value != number
                except (DeviceError, LinkError):
                    timeouts += 1
        assert wrong == 0
        assert timeouts >= 4


async def test_an_answer_that_comes_twice_is_not_the_next_ones() -> None:
    """Answers that name no station: what an adapter holds back of one is left to pass."""
    master, slave = os.openpty()
    tty.setraw(slave)
    loop = asyncio.get_running_loop()

    def put(text: bytes) -> None:
        os.write(master, text)

    def reply() -> None:
        if os.read(master, 100) == b"A":
            put(b"1\r\n")
            loop.call_later(DOUBLE_S / 2, put, b"1\r\n")
        else:
            loop.call_later(1.5 * DOUBLE_S, put, b"2\r\n")

    loop.add_reader(master, reply)
    near = around()
    try:
        async with contextlib.AsyncExitStack() as stack:
            drivers = []
            for request in ("A", "B"):
                bare = SerialProtocol(kind="line", separator=",", request=request)
                device = device_of("gas", os.ttyname(slave), protocol=bare, station=None, fields=())
                driver = made(device, [Point(field=1)], near)
                drivers.append(await stack.enter_async_context(opened(driver)))
            for number, driver in enumerate(drivers, start=1):
                [reading] = await driver.read(driver.plan([0]))
                assert reading.value == number
    finally:
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)


async def test_a_late_answer_of_the_same_station_is_not_taken_either(tmp_path: Path) -> None:
    """Else each poll would get the answer to the one before, for ever."""
    async with (
        instrument("gas", tmp_path / "tty") as far,
        opened(made(far.device(), [Point(field="gas")])) as driver,
    ):
        await far.tell("late 200000")
        for _ in range(2):
            with pytest.raises(DeviceError):
                await driver.read(driver.plan([0]))
        assert "good" not in driver.stats()


async def test_what_came_before_the_request_is_no_answer() -> None:
    """An answer waits in the port already when the question is asked."""
    sums = CHECKSUMS["sum8"]

    def answer(gas: bytes) -> bytes:
        body = b">01,%b,20.0,OK" % gas
        return body + sums.written(body) + b"\r"

    master, slave = os.openpty()
    tty.setraw(slave)
    loop = asyncio.get_running_loop()

    def reply() -> None:
        if os.read(master, 100):
            os.write(master, answer(b"1.00"))

    loop.add_reader(master, reply)
    try:
        driver = made(device_of("gas", os.ttyname(slave)), [Point(field="gas")])
        async with opened(driver):
            for _ in range(5):
                os.write(master, answer(b"9.00"))
                assert (await driver.read(driver.plan([0])))[0].value == 1.0
    finally:
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)


async def test_echoes(tmp_path: Path) -> None:
    """Found out by themselves where a line is the request; taken off where it is said."""
    async with instrument("gas", tmp_path / "tty") as far:
        await far.tell("set 2 7")
        await far.tell("echo 1")
        async with opened(made(far.device(), [Point(field="gas")])) as driver:
            for _ in range(3):
                assert (await driver.read(driver.plan([0])))[0].value == 7.0
            assert driver.stats()["good"] == 3
        said = templates()["ascii-gas"].protocol
        echoing = SerialProtocol(
            kind="line", delimiter="\r", request=said.request, pattern=said.pattern,
            checksum="sum8", echo=True,
        )  # fmt: skip
        async with opened(made(far.device(protocol=echoing), [Point(field="gas")])) as driver:
            for _ in range(3):
                assert (await driver.read(driver.plan([0])))[0].value == 7.0
            assert driver.stats() == {"good": 3}
            await far.tell("echo 0")
            with pytest.raises(DeviceError, match="second master"):
                await driver.read(driver.plan([0]))
            assert driver.stats()["echo"] == 1


async def test_what_another_master_says_is_no_answer(tmp_path: Path) -> None:
    answer, asked = b">02,99.00,1.0,OK", b"#02"
    sums = CHECKSUMS["sum8"]
    others = b"%b%b\r%b%b\r" % (answer, sums.written(answer), asked, sums.written(asked))
    async with instrument("gas", tmp_path / "tty") as far:
        await far.tell("set 2 7")
        async with opened(made(far.device(), [Point(field="gas")])) as driver:
            await far.tell(f"raw {others.hex()}")
            assert (await driver.read(driver.plan([0])))[0].value == 7.0
            await far.tell("silent")
            reading = asyncio.create_task(driver.read(driver.plan([0])))
            await asyncio.sleep(0.02)
            await far.tell(f"raw {others.hex()}")
            with pytest.raises(DeviceError, match="no good answer"):
                await reading


async def test_silence_reopens_the_port_and_noise_does_not(tmp_path: Path) -> None:
    async with (
        instrument("gas", tmp_path / "tty") as far,
        opened(made(far.device(), [Point(field="gas")])) as driver,
    ):
        await far.tell("silent")
        for error in (DeviceError, DeviceError, LinkError):
            with pytest.raises(error, match="no answer within"):
                await driver.read(driver.plan([0]))
        assert driver.stats() == {"timeout": 3}


async def test_a_stream_that_says_nothing_readable_ends(tmp_path: Path) -> None:
    async with (
        instrument("wind", tmp_path / "tty") as far,
        opened(made(far.device(), [Point(field="speed")])) as driver,
    ):
        await far.tell("silent")
        await far.tell(f"raw {b'$GPGLL,,*00'.hex()}0d0a{b'noise'.hex()}")
        with pytest.raises(LinkError, match="nothing readable"):
            await pushed(driver, 10_000)


async def test_a_second_opener_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with instrument("wind", tmp_path / "tty") as far:
        settings = Settings.of(Line())
        port = await open_port(str(far.path), settings, lambda _: None, lambda _: None, 1.0)
        try:
            driver = made(far.device(), [Point(field="speed")])
            with pytest.raises(LinkError, match="another program has it open"):
                await driver.connect()
            assert driver.stats() == {"connect": 1}
        finally:
            await port.close(1.0)
        async with opened(driver):
            pass


async def test_two_devices_must_agree_on_the_line(tmp_path: Path) -> None:
    near = around()
    async with (
        instrument("gas", tmp_path / "tty") as far,
        opened(made(far.device(), [Point(field="gas")], near)),
    ):
        other = far.device(line=Line(baud=1200), station="02")
        with pytest.raises(LinkError, match="other settings"):
            await made(other, [Point(field="gas")], near).connect()


async def test_a_port_that_comes_back_under_its_name_is_read_again(tmp_path: Path) -> None:
    """Pulled out and in again, ten times: a new tty each time, under the same name."""
    async with instrument("gas", tmp_path / "tty") as far:
        await far.tell("set 2 5")
        driver = made(far.device(), [Point(field="gas")])
        for _ in range(10):
            async with opened(driver):
                assert (await driver.read(driver.plan([0])))[0].value == 5.0
                asked = asyncio.create_task(driver.read(driver.plan([0])))
                await far.tell("silent")
                await far.tell("unplug")
                with contextlib.suppress(DeviceError, LinkError):
                    await asked
                with contextlib.suppress(DeviceError, LinkError):
                    await driver.read(driver.plan([0]))
                with pytest.raises(LinkError):
                    await driver.read(driver.plan([0]))
            await far.tell("plug")
            await far.tell("talk")


async def test_an_open_that_hangs_is_left_and_begun_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver of an adapter may hang: the deadline holds, and only one thread waits."""
    go, closed = threading.Event(), threading.Event()
    opens = []

    class Stuck:
        def close(self) -> None:
            closed.set()

    def hang(path: str, _settings: Settings) -> Any:
        opens.append(path)
        go.wait(WITHIN_S)
        return Stuck()

    monkeypatch.setattr(serial_port, "_opened", hang)
    device = device_of("gas", str(tmp_path / "tty"))
    driver = made(device, [Point(field="gas")])
    try:
        with pytest.raises(LinkError, match="cannot be opened within"):
            await driver.connect()
        for _ in range(3):
            with pytest.raises(LinkError, match="its open has not returned"):
                await driver.connect()
        assert len(opens) == 1
    finally:
        go.set()
    assert await asyncio.to_thread(closed.wait, WITHIN_S), "what nobody waits for is closed"


async def test_rs485_that_the_driver_lacks_is_said(tmp_path: Path) -> None:
    """A pty has none."""
    async with instrument("gas", tmp_path / "tty") as far:
        driver = made(far.device(line=Line(rs485=True)), [Point(field="gas")])
        with pytest.raises(LinkError, match="RS-485"):
            await driver.connect()


async def test_rs485_is_set_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(
        serial.Serial, "rs485_mode", property(lambda _: None, lambda _, mode: modes.append(mode))
    )
    async with instrument("gas", tmp_path / "tty") as far:
        async with opened(made(far.device(line=Line(rs485=True)), [Point(field="gas")])):
            [mode] = modes
        assert mode.rts_level_for_tx is True
        async with opened(made(far.device(), [Point(field="gas")])):
            assert len(modes) == 1


async def test_a_file_that_is_no_port_and_none_at_all(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for path in (plain, tmp_path / "none"):
        with pytest.raises(LinkError):
            await made(device_of("gas", str(path)), [Point(field="gas")]).connect()


async def test_bytes_of_all_values_arrive_as_they_are() -> None:
    """FF is marked by the kernel and unmarked by us; a parity error would be FF 00."""
    master, slave = os.openpty()
    tty.setraw(slave)
    heard: list[bytes | None] = []
    path = os.ttyname(slave)
    try:
        lost: list[LinkError] = []
        port = await open_port(path, Settings.of(Line()), heard.append, lost.append, 1.0)
        try:
            every = bytes(range(256)) + b"\xff\xff\x00\xff"
            os.write(master, every)
            async with asyncio.timeout(WITHIN_S):
                while sum(map(len, filter(None, heard))) < len(every):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert b"".join(filter(None, heard)) == every
            assert None not in heard
        finally:
            await port.close(1.0)
    finally:
        os.close(slave)
        os.close(master)


def test_marks_of_bad_bytes() -> None:
    for pieces in ([b"ab\xff\0xc\xff\xff"], [b"ab\xff", b"\0", b"xc\xff", b"\xff"]):
        marks = Marks()
        got = [piece for raw in pieces for piece in marks.feed(raw)]
        merged: list[bytes | None] = []
        for piece in got:
            if piece is not None and merged and merged[-1] is not None:
                merged[-1] += piece
            else:
                merged.append(piece)
        assert merged == [b"ab", None, b"c\xff"]


async def test_an_instrument_takes_no_value(tmp_path: Path) -> None:
    device = device_of("gas", str(tmp_path / "tty"))
    driver = made(device, [Point(field="gas")])
    with pytest.raises(RequestError, match="takes no value"):
        await driver.write(0, 1.0)


def test_who_sends_and_who_is_asked() -> None:
    for kind in TEMPLATES:
        device = device_of(kind, "/dev/x")
        first = device.fields[0].name
        driver = made(device, [Point(field=first)])
        assert isinstance(driver, SerialStream if streams(device) else SerialAsker)
        assert streams(device) == (kind != "gas")


def test_words_and_separators(tmp_path: Path) -> None:
    protocol = SerialProtocol(kind="line", separator=";")
    fields = (
        SerialField(name="pump", group=2, words={"ON": 1, "OFF": 0}, type="bool"),
        SerialField(name="level", group=1, scale=0.01),
        SerialField(name="far", group=9),
    )
    device = device_of("wind", str(tmp_path), protocol=protocol, fields=fields)
    points = [Point(field="pump"), Point(field="level", scale=2.0, offset=1.0), Point(field="far")]
    driver = made(device, points)
    read = driver._readings
    assert [(r.point, r.value, r.quality) for r in read(b" 250 ;ON")] == [(0, 1, 2), (1, 6, 2)]
    assert [(r.point, r.value, r.quality) for r in read(b"1e2;OFF;")] == [(0, 0, 2), (1, 3, 2)]
    assert [r[2:4] for r in read(b"x;on")] == [(Quality.BAD, Reason.NOT_A_NUMBER)] * 2
    assert [r[2:4] for r in read(b";;;;;;;;")] == [FAILED] * 3
    assert [r[2:4] for r in read(b"1e999;ON")][1] == (Quality.BAD, Reason.NOT_A_NUMBER)
    assert driver.stats() == {"good": 5, "unknown_field": 4}
