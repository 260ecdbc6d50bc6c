"""``read``, ``watch`` and ``write`` as an engineer uses them on the first day, mbpoll beside."""

import asyncio
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.helpers.commands import Shell
from tests.helpers.harness import ROOT, Site, site_text
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.programs import find

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

FLOAT_AT = 200
VALUE = 21.5


@pytest_asyncio.fixture
async def device() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as server:
        high, low = struct.unpack(">HH", struct.pack(">f", VALUE))
        server.set("hr", FLOAT_AT, low, high)  # CDAB
        server.set("hr", 5, 0x8000)
        server.set("c", 3, 1)
        server.set_float("ir", 0, 0.25)
        await server.sync()
        yield server


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


async def mbpoll(server: ModbusServer, *arguments: str) -> str:
    """What mbpoll says of the server, zero-based."""
    process = await asyncio.create_subprocess_exec(
        find("mbpoll"), "-m", "tcp", "-0", "-1", "-q", "-p", str(server.port), *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


async def test_read_shows_every_order_and_mbpoll_agrees(device: ModbusServer, shell: Shell) -> None:
    url = f"tcp://{device.address}/1"
    answer = await shell.run(f"read {url}/hr:{FLOAT_AT}-{FLOAT_AT + 1} --json")
    assert answer.code == 0
    first, second = answer.json()
    assert first["decoded"]["float32:CDAB"] == VALUE
    raw = re.findall(
        r"0x([0-9A-F]{4})",
        await mbpoll(device, "-t", "4:hex", "-r", str(FLOAT_AT), "-c", "2", "127.0.0.1"),
    )
    assert [first["decoded"]["hex"], second["decoded"]["hex"]] == [f"0x{word}" for word in raw]
    for order, data in {
        "ABCD": "".join(raw), "CDAB": "".join(reversed(raw)),
        "BADC": "".join(word[2:] + word[:2] for word in raw),
        "DCBA": "".join(word[2:] + word[:2] for word in reversed(raw)),
    }.items():  # fmt: skip
        assert first["decoded"][f"float32:{order}"] == struct.unpack(">f", bytes.fromhex(data))[0]
    answer = await shell.run(
        f"read {url} hr:{FLOAT_AT}:REAL:CDAB hr:5:int16 c:3 ir:0:float32 hr:5.15"
    )
    assert answer.code == 0
    assert [line.split()[1] for line in answer.out.splitlines()[2:]] == [
        "21.5", "-32768", "1", "0.25", "1",
    ]  # fmt: skip


async def test_a_site_file_names_devices_and_tags(
    device: ModbusServer, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "site.toml"
    file.write_text(site_text([device.address]))
    device.set_float("ir", 100, 0.75)
    await device.sync()
    answer = await shell.run(f"read plc0 gas0 hr:5 --site {file} --json")
    assert answer.code == 0
    gas, register = answer.json()
    assert (gas["value"], gas["unit"], gas["quality"]) == (0.75, "%CH4", "GOOD")
    assert register["decoded"]["uint16"] == 0x8000
    device.set_float("ir", 100, 7.0)  # beyond the tag's range
    await device.sync()
    answer = await shell.run(f"read gas0 --site {file} --json")
    assert answer.code == 1
    assert answer.json()[0]["reason"] == "out_of_range"


async def test_what_the_device_refuses_is_said_of_the_point(
    device: ModbusServer, shell: Shell
) -> None:
    answer = await shell.run(f"read tcp://{device.address}/1 hr:65535 hr:0 --json")
    assert answer.code == 0  # a register behind the last is no value of the user's
    last = answer.json()[0]["decoded"]
    assert last["float32:ABCD"] is None
    assert last["uint16"] == 0


def test_every_wrong_point_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.__main__ import main

    assert main(["read", "tcp://h/1", "hr:1", "hr:2:text", "hr:70000", "foo"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for part, line in zip(("hr:2:text", "hr:70000", "foo"), lines, strict=True):
        assert part in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("read", "the following arguments are required"),
        ("read plc hr:1", "--site"),
        ("read plc hr:1 --site {site}", 'found "plc", expected one of its devices'),
        ("read plc0 gas --site {site}", 'did you mean "gas0"'),
        ("read plc0 --site {site}", "found no point"),
        ("read plc0 gas0 --site missing.toml", "cannot be read"),
        ("read tcp://h/1/40101", 'did you mean "hr:100"'),
        ("read tpc://h/1/hr:0", 'did you mean "tcp"'),
        ("read tcp://h/256/hr:0", "unit: found 256"),
        ("read tcp://h/1/hr:70000", "expected a number from 0 to 65535"),
        ("read tcp://h/1/hr:9-3", "hr:100-109"),
        ("read tcp://h/1/hr:0-65000", "more than 2000 points"),
        ("read tcp://h/1/hr:0:flaot", "expected one of int16"),
        ("read tcp://h/1/hr:0 --as foo", "--as: found"),
        ("read tcp://h/1/hr:0?timeot=1s", 'did you mean "timeout"'),
        ("read tcp://h:1:2/1/hr:0", "expected host:port"),
        ("read tcp://[::1/1/hr:0", "Invalid IPv6"),
        ("watch tcp://h/1/hr:0 --every soon", "expected a duration"),
        ("watch tcp://h/1/hr:0 --every 1ms", "expected 50ms or more"),
        ("write tcp://h/1/ir:0 7 --yes", "lets nobody write"),
        ("write tcp://h/1/hr:5.3 1 --yes", "cannot be written alone"),
        ("write tcp://h/1/hr:5 70000 --yes", "cannot hold 70000: uint16 0..65535"),
        ("write tcp://h/1/c:5 2 --yes", "takes 0 or 1"),
        ("write tcp://h/1/hr:5 nan --yes", "expected a number"),
        ("write tcp://h/1/hr:5-9 1 --yes", "found 5 points"),
        ("write tcp://h/1 1 --yes", "found no point"),
        ("write tcp://h/1/hr:5 1", "say --yes"),
        ("write tcp://h/1/hr:5?address=10.0.0.5:502 1 --yes", "the address itself says it"),
        ("write tcp://h/1/hr:5?driver=modbus-tls 1 --yes", "the address itself says it"),
    ],
)
def test_bad_input_is_one_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gateway.__main__ import main

    site = tmp_path / "site.toml"
    site.write_text(site_text(["127.0.0.1:1"]))
    argv = [word.format(site=site) for word in words.split()]
    try:
        code = main(argv)
    except SystemExit as end:  # argparse's own refusal
        code = int(str(end.code))
    err = capsys.readouterr().err
    assert code == 2
    assert said in err
    assert "Traceback" not in err


async def test_a_device_that_is_away(shell: Shell) -> None:
    async with ModbusServer() as gone:
        address = gone.address
    for words in (f"read tcp://{address}/1/hr:0", f"watch tcp://{address}/1/hr:0"):
        answer = await shell.run(words)
        assert (answer.code, answer.out) == (1, "")
        assert "Connection refused" in answer.err


async def test_watch_shows_changes_and_ends_by_ctrl_c(device: ModbusServer, shell: Shell) -> None:
    process = await shell.start(
        f"watch tcp://{device.address}/1 hr:9:uint16 c:3 --every 50ms --json"
    )
    assert process.stdout is not None

    async def line() -> dict[str, object]:
        assert process.stdout is not None
        found: dict[str, object] = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        return found

    first = [await line(), await line()]
    assert [(one["point"], one["value"], one["rate"]) for one in first] == [
        ("hr:9:uint16", 0.0, None), ("c:3", 1.0, None),
    ]  # fmt: skip
    device.set("hr", 9, 40)
    changed = await line()
    assert (changed["point"], changed["value"], changed["quality"]) == ("hr:9:uint16", 40.0, "GOOD")
    assert isinstance(changed["rate"], float)
    assert 0 < changed["rate"] < 40 / 0.02
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_watch_goes_on_when_the_device_comes_back(shell: Shell) -> None:
    async with ModbusServer() as first:
        process = await shell.start(f"watch tcp://{first.address}/1/hr:9:uint16 --every 50ms")
        assert process.stdout is not None
        assert b"  0  GOOD" in await asyncio.wait_for(process.stdout.readline(), 20)
        port = first.port
    assert process.stderr is not None
    assert b"trying again" in await asyncio.wait_for(process.stderr.readline(), 20)
    async with ModbusServer(port=port) as second:
        second.set("hr", 9, 3)
        assert b"  3  GOOD" in await asyncio.wait_for(process.stdout.readline(), 20)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130


def _chain(path: Path) -> list[dict[str, Any]]:
    """The entries of the local audit, its hash chain computed anew."""
    before = ""
    entries = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        entry = line["entry"]
        assert entry["prev"] == before
        body = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        before = hashlib.sha256(body.encode()).hexdigest()
        assert before == line["hash"]
        entries.append(entry)
    return entries


@pytest.mark.alone
async def test_write_reads_back_and_is_audited(device: ModbusServer, shell: Shell) -> None:
    url = f"tcp://{device.address}/1"
    answer = await shell.run(f"write {url} hr:{FLOAT_AT}:float32:CDAB -3.125 --yes --reason tuning")
    assert answer.code == 0
    assert "21.5 -> -3.125, read back -3.125" in answer.out
    audit = shell.state / "writes.jsonl"
    assert f"audited in {audit}" in answer.out
    words = await device.get("hr", FLOAT_AT, 2)
    assert struct.unpack(">f", struct.pack(">HH", *reversed(words)))[0] == -3.125
    read = await mbpoll(device, "-t", "4:float", "-r", str(FLOAT_AT), "127.0.0.1")
    assert "-3.125" in read  # mbpoll's own order is CDAB
    assert (await shell.run(f"write {url} c:3 off --yes")).code == 0
    assert await device.get("c", 3) == [0]
    first, result, *rest = _chain(audit)
    assert (first["action"], first["target"]) == ("write", f"{url} hr:{FLOAT_AT}:float32:CDAB")
    assert first["detail"] == {"old": "21.5", "new": -3.125, "reason": "tuning"}
    assert (result["ref"], result["detail"]["code"]) == (1, 1)
    assert [entry["seq"] for entry in rest] == [3, 4]


@pytest.mark.alone
async def test_without_a_terminal_nothing_is_asked_and_nothing_written(
    device: ModbusServer, shell: Shell
) -> None:
    answer = await shell.run(f"write tcp://{device.address}/1/hr:5 7")
    assert answer.code == 2
    assert await device.get("hr", 5) == [0x8000]
    assert not shell.state.exists()


@pytest.mark.parametrize(("reply", "code", "left"), [("n", 1, 0x8000), ("y", 0, 7)])
@pytest.mark.alone
async def test_the_question_on_a_terminal(
    device: ModbusServer, shell: Shell, reply: str, code: int, left: int
) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "write", f"tcp://{device.address}/1/hr:5", "7",
        cwd=ROOT, env=shell.environment, stdin=theirs,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, f"{reply}\n".encode())
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    os.close(ours)
    assert process.returncode == code
    assert b"now 32768, to write: 7" in out
    assert await device.get("hr", 5) == [left]


@pytest.mark.alone
async def test_a_value_that_does_not_stay_is_told(shell: Shell) -> None:
    async with ModbusServer() as device:
        device.count("hr", 9, 1)  # every reading of it changes it
        await device.sync()
        answer = await shell.run(f"write tcp://{device.address}/1/hr:9 100 --yes")
        assert answer.code == 0  # the first reading back is still what was written
        device.count("hr", 9, 2)
        device.ramp("hr", 20, 1.0, 2.0, 1.0)
        await device.sync()
        answer = await shell.run(f"write tcp://{device.address}/1/hr:20:float32 5 --yes")
        assert answer.code == 6
        assert "but it reads back 2" in answer.err


@pytest_asyncio.fixture
async def site(tmp_path: Path, device: ModbusServer) -> AsyncIterator[Site]:
    device.set("c", 16, 1)
    device.link(16, 5)
    extra = f"""
[[device]]
id = "slow"
driver = "modbus-tcp"
address = "localhost:{device.port}"
unit = 9

[[output]]
id = "siren"
device = "slow"
address = "c:40"
trip = true
normal = false
via = "gateway"

[[interlock]]
id = "sound"
cause = "gas0 >= 3"
effects = ["siren"]
response = "30s"
armed = true
"""
    async with Site(tmp_path, site_text([device.address], extra=extra)) as one:
        await one.start()
        await one.ready()
        await one.protecting()
        yield one


@pytest.mark.alone
async def test_what_a_running_site_holds_is_not_written(
    site: Site, device: ModbusServer, shell: Shell
) -> None:
    """The shell's own directories are others: the site is found by its guard."""
    await device.sync()
    cases = [
        (f"tcp://[::ffff:127.0.0.1]:{device.port}/255/c:16", "on", "output power0"),
        (f"tcp://{device.address}/1/hr:91", "3", "heartbeat of plc0"),
        (f"tcp://{device.address}/9/c:40", "on", "output siren"),
    ]
    for url, value, what in cases:
        answer = await shell.run(f"write {url} {value} --yes")
        assert answer.code == 4, (url, answer)
        assert f"it is the {what} of the running site test-site" in answer.err
    assert await device.get("c", 40) == [0]
    # Beside it everything may be written, and stands in the ledger of that site.
    answer = await shell.run(f"write tcp://{device.address}/1/hr:92 3 --yes --json")
    assert answer.code == 0, answer
    assert answer.json()["details"]["audit"] == "the ledger of the running site test-site"
    assert not shell.state.exists()
    assert await device.get("hr", 92) == [3]
    rows = site.ledger(
        "SELECT kind, action, body ->> 'target', body ->> 'who', body ->> 'detail' FROM audit "
        "WHERE action = 'write'"
    )
    assert [row[:3] for row in rows] == [("command", "write", f"tcp://{device.address}/1 hr:92")]
    assert rows[0][3].startswith("uid:")
    assert json.loads(rows[0][4])["new"] == 3


@pytest.mark.alone
async def test_the_guard_alone_is_enough_to_refuse(
    site: Site, device: ModbusServer, shell: Shell
) -> None:
    await site.kill_gateway()
    answer = await shell.run(f"write tcp://{device.address}/1/c:16 on --yes")
    assert answer.code == 4
    assert "output power0" in answer.err
    # Where the siren is only the gateway knows: nothing is written past that either.
    answer = await shell.run(f"write tcp://{device.address}/9/c:40 on --yes")
    assert answer.code == 4
    assert "siren" in answer.err
    # A guard whose program nobody finds here holds everything.
    with tempfile.TemporaryDirectory() as aside:
        shutil.move(site.state / "programs", aside)
        shutil.move(site.state / "guard" / "last-good", aside)
        answer = await shell.run(f"write tcp://{device.address}/1/hr:92 3 --yes")
        assert answer.code == 4
        assert "cannot be learned" in answer.err


@pytest.mark.alone
async def test_a_site_file_that_does_not_run_holds_its_places_too(
    device: ModbusServer, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "other.toml"
    file.write_text(site_text([device.address]))
    answer = await shell.run(f"write plc0 c:16 on --yes --site {file}")
    assert answer.code == 4
    assert "output power0 of the site file test-site" in answer.err
