"""``serial listen``: shows what comes, proposes what reads it, writes nothing."""

import asyncio
import contextlib
import json
import os
import random
import signal
import struct
import threading
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from gateway.check import check_site
from gateway.cli import serial as serial_command
from gateway.commission.hints import port_hint
from gateway.commission.modbus_heard import modbus_units
from gateway.commission.serial_guess import guess
from gateway.site.model import Line
from gateway.site.serial_templates import SerialTemplate, templates
from tests.drivers.test_framing import own_checksum
from tests.helpers.commands import Shell
from tests.helpers.instruments import TEMPLATES, instrument
from tests.helpers.programs import find
from tests.helpers.serial_bench import rtu_server
from tests.helpers.serial_device import crc16

SITE = '[site]\nid = "s"\n\n[[uplink]]\nid = "u"\nkind = "http"\nurl = "https://p.example"\n\n'


def checked(stanza: str, path: Path) -> None:
    """The stanza as it is, in a site file: no error."""
    site = path / "site.toml"
    site.write_text(SITE + stanza)
    checked = check_site(site)
    assert checked.config.device[0].id == "instrument"
    assert checked.config.tag


@pytest.mark.parametrize("kind", ["wind", "scale", "logger"])
async def test_a_known_instrument_is_recognised(kind: str, tmp_path: Path) -> None:
    async with instrument(kind, tmp_path / "tty", period_us=20_000) as far:
        await far.tell("set 0 12.5")
        answer = await Shell(tmp_path).run(f"serial listen {far.path} --for 800ms")
        assert answer.code == 0, answer.err
        shown, _, stanza = answer.out.partition("For a site file:")
        assert f'template = "{TEMPLATES[kind]}"' in stanza
        assert f'address = "{far.path}"' in stanza
        assert len(shown.splitlines()) > 10
        checked(stanza, tmp_path)


async def test_a_line_is_shown_as_text_and_in_hexadecimal_digits(tmp_path: Path) -> None:
    async with instrument("wind", tmp_path / "tty", period_us=20_000) as far:
        answer = await Shell(tmp_path).run(f"serial listen {far.path} --for 500ms")
    text, digits = answer.out.splitlines()[3:5]
    assert "$WIMWV,0.0,R,0.0,M,A*" in text
    assert digits.strip().startswith("24 57 49 4d 57 56 2c")
    assert digits.endswith("0d 0a")


async def test_a_reader_that_leaves_early_ends_it(tmp_path: Path) -> None:
    """As ``serial listen PORT | head -1``: no traceback for each line that comes."""
    async with instrument("wind", tmp_path / "tty", period_us=20_000) as far:
        process = await Shell(tmp_path).start(f"serial listen {far.path}")
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]
        err = await process.stderr.read()
        assert (await process.wait(), err) == (1, b"")


async def test_nothing_is_written(tmp_path: Path) -> None:
    """Not a byte arrives at the other side, whatever is listened for."""
    async with far_end(b"noise \x01\x02 that is nothing ") as (path, heard):
        answer = await Shell(tmp_path).run(f"serial listen {path} --for 300ms")
        assert answer.code == 1
        assert heard() == b""
    async with instrument("gas", tmp_path / "tty") as far:
        answer = await Shell(tmp_path).run(f"serial listen {far.path} --for 300ms --json")
        assert answer.code == 1
        assert json.loads(answer.out) == {
            "bytes": 0,
            "line_errors": 0,
            "stanza": None,
            "modbus_units": [],
        }
        assert (await far.count())[2] == 0


async def test_what_has_no_template_becomes_a_protocol(tmp_path: Path) -> None:
    lines = iter(f"{i % 7};{20 + i / 10:.1f};{i * 3};OK\n".encode() for i in range(10_000))
    async with far_end(lambda: next(lines)) as (path, _):
        answer = await Shell(tmp_path).run(f"serial listen {path} --for 600ms --json")
    assert answer.code == 0, answer.err
    *shown, last = map(json.loads, answer.out.splitlines())
    assert all(set(line) == {"at_s", "text", "hex"} for line in shown)
    assert 'separator = ";"' in last["stanza"]
    assert "{ field = 3 }" in last["stanza"]
    checked(last["stanza"], tmp_path)


async def test_find_tries_the_usual_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pty has no speed: what it says comes with the third setting alone, noise before."""
    monkeypatch.setattr(serial_command, "TRY_S", 0.15)
    tried: list[int] = []
    heard_with = serial_command._hear

    async def hear(path: str, line: Line, ear: serial_command.Ear, *rest: object) -> None:
        tried.append(line.baud)
        await heard_with(path, line, ear, *rest)  # type: ignore[arg-type]
        if len(tried) < 3:
            ear.heard[:] = bytes(byte ^ 0xA5 for byte in ear.heard)

    monkeypatch.setattr(serial_command, "_hear", hear)
    async with instrument("wind", tmp_path / "tty", period_us=5_000) as far:
        line = await serial_command._find(str(far.path), asyncio.Event())
    assert tried == [9600, 4800, 19200]
    assert line == Line(baud=19200)
    assert capsys.readouterr().out == ""


async def test_a_port_that_is_taken_or_gone_or_none(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for name, code, said in (("ttyUSB0", 2, "expected a serial port"),
                             (str(tmp_path / "none"), 1, "No such file")):  # fmt: skip
        answer = await shell.run(f"serial listen {name} --for 1s")
        assert (answer.code, said in answer.err) == (code, True), answer.err
    async with instrument("wind", tmp_path / "tty") as far:
        first = await shell.start(f"serial listen {far.path}")
        assert first.stdout is not None
        await first.stdout.readline()
        answer = await shell.run(f"serial listen {far.path} --for 1s")
        assert answer.code == 1
        assert "another program has it open" in answer.err
        first.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(first.communicate(), 20)
        assert b"nmea0183-wind" in out
        assert first.returncode == 0
        gone = await shell.start(f"serial listen {far.path}")
        assert gone.stdout is not None
        await gone.stdout.readline()
        await far.tell("unplug")
        _, err = await asyncio.wait_for(gone.communicate(), 20)
        assert b"the port has gone" in err or b"Input/output error" in err
        await far.tell("plug")


def test_a_port_that_hangs_when_it_is_opened_is_not_opened_for_a_hint(tmp_path: Path) -> None:
    port = tmp_path / "tty"
    os.mkfifo(port)  # whose open waits for a writer
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(port_hint(str(port))), daemon=True)
    asking.start()
    asking.join(10)
    assert said == [""]


# ---- guesses


def streams() -> Iterator[tuple[str, bytes, str]]:
    numbers = random.Random(5)
    yield "bare", b"".join(b"%.2f kg\r\n" % (i / 7) for i in range(20)), "(?P<v1>"
    yield "stx", b"".join(b"\x02'%5d kg\r\n" % i for i in range(20)), r"'\x02\x27"
    sums = b"".join(
        text + own_checksum("sum8", text).hex().upper().encode() + b"\r"
        for text in (b"%d,%d,%d" % (i, i * i, 7) for i in range(30))
    )
    yield "sum8", sums, 'checksum = "sum8"'
    sentences = b"".join(
        b"$" + text + b"*" + own_checksum("nmea", text).hex().upper().encode() + b"\r\n"
        for text in (b"WIXDR,C,%d.5,C,TEMP" % i for i in range(20))
    )
    yield "nmea", sentences, 'checksum = "nmea"'
    fixed = b"".join(
        body + crc16(body)
        for body in (b"\x7e\x01" + struct.pack(">HHI", i, 3 * i, i * i) for i in range(40))
    )
    yield "fixed", fixed, 'length = 12, checksum = "crc16-modbus"'
    varied = b"".join(
        body + own_checksum("crc16-ccitt", body)
        for size in (numbers.randrange(4, 30) for _ in range(40))
        for body in [b"\xc0\x0f" + bytes((size,)) + numbers.randbytes(size)]
    )
    yield "varied", varied, "length_at = { at = 2, add = 5 }"


@pytest.mark.parametrize(("name", "heard", "said"), list(streams()), ids=lambda x: str(x)[:8])
def test_guesses_read_what_was_heard(name: str, heard: bytes, said: str, tmp_path: Path) -> None:
    made = guess(heard)
    assert made is not None, name
    stanza = made.stanza("instrument", "/dev/ttyS9", Line(baud=19200, parity="even"))
    assert said in stanza
    assert 'line = { baud = 19200, parity = "even" }' in stanza
    checked(stanza, tmp_path)


def test_noise_is_recognised_as_nothing() -> None:
    numbers = random.Random(3)
    for size in (0, 10, 1_000, 20_000):
        assert guess(numbers.randbytes(size)) is None
    assert guess(b"one line\r\n") is None


@pytest.mark.parametrize("name", templates())
def test_every_template_reads_its_example(name: str) -> None:
    """Those that are asked are known by their request."""
    template: SerialTemplate = templates()[name]
    example = template.example.encode("latin-1")
    if template.protocol.kind == "frame":
        example = bytes.fromhex(template.example)
    made = guess(example * 6)
    if template.protocol.request is None:
        assert made is not None
        assert made.settings == (f'template = "{name}"',)
        assert made.points
    assert template.description
    assert all(field.unit for field in template.fields)


@asynccontextmanager
async def far_end(
    says: bytes | Callable[[], bytes],
) -> AsyncIterator[tuple[str, Callable[[], bytes]]]:
    """(a tty, what was written to it); the other side says something every 10 ms."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    written = bytearray()

    async def talk() -> None:
        while True:
            with contextlib.suppress(BlockingIOError):
                os.write(master, says if isinstance(says, bytes) else says())
            with contextlib.suppress(BlockingIOError):
                written.extend(os.read(master, 4096))
            await asyncio.sleep(0.01)

    talking = asyncio.create_task(talk())
    try:
        yield os.ttyname(slave), lambda: bytes(written)
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        os.close(master)
        os.close(slave)


@contextmanager
def tapped_line() -> Iterator[tuple[str, str, str]]:
    """The ttys of a master, of a device, and of one who hears both."""
    loop, pairs = asyncio.get_running_loop(), [os.openpty() for _ in range(3)]
    for _, slave in pairs:
        tty.setraw(slave)
    (one, _), (other, _), (tap, _) = pairs

    def pass_on(source: int, target: int) -> None:
        data = os.read(source, 4096)
        os.write(target, data)
        os.write(tap, data)

    loop.add_reader(one, pass_on, one, other)
    loop.add_reader(other, pass_on, other, one)
    try:
        yield os.ttyname(pairs[0][1]), os.ttyname(pairs[1][1]), os.ttyname(pairs[2][1])
    finally:
        for master, slave in pairs:
            loop.remove_reader(master)
            os.close(master)
            os.close(slave)


async def test_a_line_with_a_modbus_master_is_told_as_such(tmp_path: Path) -> None:
    with tapped_line() as (near, far, tap):
        async with rtu_server(far, unit=7, baud=9600) as server:
            server.send("hr 0 260 13 10 2573")  # bytes that look like ends of lines
            await server.ask("get hr 0 4")
            mbpoll = await asyncio.create_subprocess_exec(
                find("mbpoll"), "-m", "rtu", "-b", "9600", "-P", "none", "-a", "7", "-0",
                "-r", "0", "-c", "4", "-l", "50", near,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                answer = await Shell(tmp_path).run(f"serial listen {tap} --for 800ms")
                told = await Shell(tmp_path).run(f"serial listen {tap} --find --for 800ms --json")
            finally:
                mbpoll.terminate()
                await mbpoll.wait()
    assert answer.code == 1
    assert "Modbus RTU frames of unit 7: a master speaks here already" in answer.err
    assert f"sitewarden scan 'rtu://{tap}?baud=9600&parity=none'" in answer.err
    assert json.loads(told.out.splitlines()[-1])["modbus_units"] == [7]
    assert told.err.startswith("9600 baud, 8 bits, parity none, 1 stop: ")


def test_no_modbus_in_what_instruments_and_noise_send() -> None:
    noise = random.Random(3)
    for heard in (
        noise.randbytes(50_000),
        b"$WIMWV,12.5,R,0.0,M,A*16\r\n" * 50,
        bytes.fromhex("aa550e00000c0000aa554e204753") * 50,
    ):
        assert not modbus_units(heard)


async def test_find_on_a_silent_port_says_that_nothing_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serial_command, "TRY_S", 0.02)
    async with instrument("gas", tmp_path / "tty", period_us=20_000) as far:
        assert await serial_command._find(str(far.path), asyncio.Event()) is None
    *tried, last = capsys.readouterr().err.splitlines()
    assert len(tried) == len(serial_command.USUAL)
    assert tried[0] == "9600 baud, 8 bits, parity none, 1 stop: 0 bytes"
    assert last.endswith(
        "nothing came: does the instrument send by itself, and is it the right port?"
    )
