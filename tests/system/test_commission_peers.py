"""``read``, ``write``, ``watch`` and ``scan`` over serial ports, serial servers and TLS.

The far ends are libmodbus on a pty and ``openssl s_server``; each mistake is one line.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.helpers.certificates import issue, make_authority
from tests.helpers.commands import Shell
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.openssl_server import openssl_server
from tests.helpers.serial_bench import Peer, mangler, rtu_server
from tests.helpers.tcp_bridges import serial_server, tls_end, tls_server

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

UNIT = 7
CELLS = 100
BAUD = 19_200
PEM = {"ca.pem": "ca.pem", "client.pem": "cert.pem", "client-key.pem": "key.pem"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@asynccontextmanager
async def on_a_line() -> AsyncIterator[tuple[Peer, str]]:
    """A libmodbus device, and the tty that leads to it."""
    async with (
        mangler(1) as (_, near, far),
        rtu_server(far, unit=UNIT, baud=BAUD, cells=CELLS) as server,
    ):
        server.send("hr 5 1 2")
        server.send("c 3 1")
        await server.ask("get hr 5 2")
        yield server, near


async def refused(shell: Shell, words: str, code: int, *said: str) -> None:
    """A command that fails in one line with these words in it."""
    answer = await shell.run(words)
    assert (answer.code, answer.out) == (code, ""), (words, answer)
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    for each in said:
        assert each in lines[0], (words, answer.err)


@pytest.mark.alone  # write and scan ask of every guard on the machine
async def test_a_serial_port(shell: Shell) -> None:
    async with on_a_line() as (server, near):
        line, port = f"?baud={BAUD}", f"rtu://{near}/{UNIT}"
        answer = await shell.run(f"read {port}{line} hr:5-6 --as uint16,uint32:ABCD --json")
        assert [one["decoded"]["uint16"] for one in answer.json()] == [1, 2]
        assert answer.json()[0]["decoded"]["uint32:ABCD"] == 0x1_0002
        answer = await shell.run(f"write {port}/hr:6:uint16{line} 77 --yes")
        assert (answer.code, "2 -> 77, read back 77" in answer.out) == (0, True)
        assert (await shell.run(f"write {port}/c:3{line} off --yes")).code == 0
        assert await server.ask("get hr 6 1") == ["got", "77"]
        assert await server.ask("get c 3 1") == ["got", "0"]
        answer = await shell.run(f"watch {port}/hr:6:uint16{line} --every 50ms --for 100ms --json")
        assert [json.loads(text)["value"] for text in answer.out.splitlines()] == [77.0]
        # libmodbus takes the frame behind another unit's request for that unit's reply, and drops
        # it: a scan asks twice on a line, and whatever else speaks to it here comes before.
        answer = await shell.run(f"read {port}/hr:{CELLS}:uint16{line}")
        assert answer.code == 1
        assert f"hr:{CELLS} is refused: exception 2 (illegal data address)" in answer.out
        answer = await shell.run(f"write {port}/hr:{CELLS}:uint16{line} 5 --yes")
        assert (answer.code, "exception 2 (illegal data address)" in answer.err) == (1, True)
        answer = await shell.run(
            f"scan rtu://{near}{line}&timeout=200ms --units 6-7 --registers 0-9 --tables hr --json"
        )
        assert [(one["unit"], one["blocks"][0]["last"]) for one in answer.json()] == [(UNIT, 9)]
        other = f"read rtu://{near}/8/hr:5:uint16{line}&timeout=200ms"
        await refused(shell, other, 1, "no reply within 0.2 s", "is it unit 8", f"{BAUD} baud")


NONE = "/dev/ttyUSB99"


@pytest.mark.alone  # write and scan ask of every guard on the machine
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (f"read rtu://{NONE}/1/hr:0", 1, f"{NONE}: No such file or directory; "),
        (f"scan rtu://{NONE}", 1, f"{NONE}: No such file or directory; "),
        (f"serial listen {NONE}", 1, f"{NONE}: No such file or directory; "),
        ("read rtu:///dev/null/1/hr:0", 1, "/dev/null: it is no serial port"),
        ("read rtu://dev/ttyUSB0/1/hr:0", 2, "three slashes such as rtu:///dev/ttyUSB0"),
        ("read rtu:///dev/ttyS0/1/hr:0?boud=9600", 2, 'did you mean "baud"?'),
        ("read rtu+tcp://127.0.0.1:1/1/hr:0?baud=9600", 2, "modbus-rtu-tcp does not take"),
        ("read rtu+tcp://127.0.0.1/1/hr:0", 2, 'found "127.0.0.1", expected host:port'),
    ],
)
def test_what_is_no_port(
    words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err


async def test_a_port_that_another_program_has_open(shell: Shell) -> None:
    async with on_a_line() as (_, near):
        first = await shell.start(f"watch rtu://{near}/{UNIT}/hr:5:uint16?baud={BAUD}")
        assert first.stdout is not None
        assert b"GOOD" in await first.stdout.readline()
        words = f"read rtu://{near}/{UNIT}/hr:5?baud={BAUD}"
        await refused(shell, words, 1, f"{near}: another program has it open")
        first.terminate()
        await first.communicate()


@pytest.mark.alone  # write and scan ask of every guard on the machine
async def test_a_serial_server(shell: Shell) -> None:
    async with on_a_line() as (server, near), serial_server(near) as port, ModbusServer() as plc:
        url = f"rtu+tcp://127.0.0.1:{port}"
        answer = await shell.run(f"write {url}/{UNIT}/hr:6:uint16 78 --yes")
        assert (answer.code, "2 -> 78, read back 78" in answer.out) == (0, True)
        assert await server.ask("get hr 6 1") == ["got", "78"]
        answer = await shell.run(f"read {url}/{UNIT} hr:6:uint16 hr:{CELLS}:uint16 --json")
        assert [(one["value"], one["quality"]) for one in answer.json()] == [
            (78.0, "GOOD"), (None, "BAD"),
        ]  # fmt: skip
        late, silent = "?timeout=200ms", "no reply within 0.2 s"
        await refused(shell, f"read {url}/9/hr:5{late}", 1, silent, "is there a unit 9?")
        words = f"read rtu+tcp://{plc.address}/1/hr:5{late}"
        await refused(shell, words, 1, silent, "a server that speaks Modbus TCP wants tcp://")
        words = f"read tcp://127.0.0.1:{port}/1/hr:5{late}"
        await refused(shell, words, 1, silent, "wants rtu+tcp://")
    await refused(shell, f"read {url}/1/hr:5", 1, f"127.0.0.1:{port}: Connection refused")


def keep(folder: Path, name: str, ca: Path, own: Path) -> None:
    """Credentials that trust ``ca`` and show the client certificate of ``own``."""
    place = folder / name
    place.mkdir(mode=0o700, parents=True)
    for theirs, called in PEM.items():
        source = ca if theirs == "ca.pem" else own
        (place / called).write_bytes((source / theirs).read_bytes())
        (place / called).chmod(0o600)


@pytest.mark.alone  # write and scan ask of every guard on the machine
async def test_tls(shell: Shell, tmp_path: Path) -> None:
    made, other = make_authority(tmp_path / "made"), make_authority(tmp_path / "other")
    issue(made, "elsewhere", host="10.9.9.9")
    issue(made, "expired", since=timedelta(days=-9), until=timedelta(days=-1))
    held = tmp_path / "held"
    keep(held, "good", made, made)
    keep(held, "foreign", other, other)
    keep(held, "stranger", made, other)
    where = f"--credentials-dir {held}"
    async with ModbusServer() as plc, tls_end(plc.port, lambda: tls_server(made)) as port:
        url = f"tls://127.0.0.1:{port}/1/hr:6:uint16"
        answer = await shell.run(f"write {url}?credentials=good 79 --yes {where}")
        assert (answer.code, "0 -> 79, read back 79" in answer.out) == (0, True)
        assert await plc.get("hr", 6) == [79]
        await refused(shell, f"read {url} {where}", 2, "expected the name of credentials")
        words = f"read {url}?credentials=good"
        await refused(shell, words, 1, '"good": no directory, give --credentials-dir')
        words = f"read {url}?credentials=gone {where}"
        await refused(shell, words, 1, '"gone": nothing of that name in')
        words = f"read {url}?credentials=foreign {where}"
        await refused(shell, words, 1, "the device's certificate is not accepted: self-signed")
        words = f"read tls://{plc.address}/1/hr:0?credentials=good {where}"
        await refused(shell, words, 1, f"{plc.address}: it speaks no TLS")
        words = f"read tcp://127.0.0.1:{port}/1/hr:0"
        await refused(shell, words, 1, "closed the connection; a Modbus TLS port does so: tls://?")
    for name, options, holder, said in (
        ("elsewhere", (), "good", "not accepted: IP address mismatch"),
        ("expired", (), "good", "not accepted: certificate has expired"),
        ("server", ("-Verify", "1"), "stranger", "refuses our certificate: TLSV1_ALERT_UNKNOWN_CA"),
    ):
        async with openssl_server(made, name, *options) as port:
            words = f"read tls://127.0.0.1:{port}/1/hr:0?credentials={holder} {where}"
            await refused(shell, words, 1, f"127.0.0.1:{port}", said)
