"""``scan`` against a libmodbus device with few units, holes in a table, a limit of its own."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from drivers.modbus_dial import TcpDial
from drivers.points import Area
from gateway.check import check_site
from gateway.cli.scan import _alike
from gateway.commission.scan import Block, Scan, UnitFound
from tests.helpers.commands import Shell
from tests.helpers.harness import Site, site_text, until
from tests.helpers.modbus_server import ModbusServer, Request

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

RATE_MAX = 5.0  # requests a second


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests") as server:
        server.send("only 2 9")
        server.send("window hr 0 11")
        server.send("window hr 37 52")
        server.set("hr", 3, 7)
        server.set("hr", 40, 8, 9)
        await server.sync()
        yield server


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def rate(requests: list[Request]) -> float:
    """Requests a second, between the first and the last."""
    times = [request.ns for request in requests if request.kind == "r"]
    return (len(times) - 1) / ((times[-1] - times[0]) / 1e9)


@pytest.mark.alone  # it asks of every guard on the machine
async def test_units_blocks_and_a_site_file(
    device: ModbusServer, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "found.toml"
    answer = await shell.run(
        f"scan tcp://{device.address}?timeout=300ms --units 1-3 --registers 0-59 --tables hr "
        f"--json --emit {file}"
    )
    assert answer.code == 0, answer
    assert f"written to {file}" in answer.out
    found = json.loads(answer.out[: answer.out.rindex("]") + 1])
    assert [unit["unit"] for unit in found] == [2]
    for unit in found:
        blocks = [(one["area"], one["first"], one["last"]) for one in unit["blocks"]]
        assert blocks == [("hr", 0, 11), ("hr", 37, 52)]
        assert unit["blocks"][1]["values"][3:5] == [8, 9]
    requests = await device.requests()
    assert not [request for request in requests if request.kind == "w"]
    assert rate(requests) <= RATE_MAX
    opened = [request.ns for request in requests if request.kind == "open"]
    closed = [request.ns for request in requests if request.kind == "close"]
    assert len(opened) == 3  # one more after each of the silent units 1 and 3
    assert all(gone < again for gone, again in zip(closed, opened[1:], strict=False))
    config = check_site(file).config
    assert [(one.id, one.unit, one.address) for one in config.device] == [
        ("unit-2", 2, device.address),
    ]  # fmt: skip
    assert [tag.point.address for tag in config.tag if tag.point and tag.device == "unit-2"] == [
        "hr:3", "hr:40", "hr:41",
    ]  # fmt: skip
    again = await shell.run(f"scan tcp://{device.address} --emit {file}")
    assert again.code == 2
    assert "is there already" in again.err


@pytest.mark.alone  # it asks of every guard on the machine
async def test_a_device_that_gives_only_short_reads(
    device: ModbusServer, shell: Shell, tmp_path: Path
) -> None:
    device.send("longest 10")
    await device.sync()
    answer = await shell.run(
        f"scan tcp://{device.address} --units 9 --registers 0-11 --tables hr --emit"
    )
    assert answer.code == 0
    assert "# hr:0-11 can be read, 1 not zero" in answer.out
    file = tmp_path / "site.toml"
    file.write_text(f'[site]\nid = "x"\n{answer.out}')
    assert [tag.id for tag in check_site(file).config.tag] == ["u9.hr3"]


@pytest.mark.alone  # it asks of every guard on the machine
async def test_ctrl_c_prints_what_there_is(device: ModbusServer, shell: Shell) -> None:
    process = await shell.start(f"scan tcp://{device.address} --units 2,3-250 --json")

    async def unit_3_was_silent() -> bool:
        return "close" in {request.kind for request in await device.requests()}

    await until("the first silent unit", unit_3_was_silent)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert [unit["unit"] for unit in json.loads(out)] == [2]
    assert b"interrupted while looking for unit" in err
    assert b"Traceback" not in err


@pytest.mark.alone  # it asks of every guard on the machine
async def test_a_running_site_is_asked_about_first(shell: Shell, tmp_path: Path) -> None:
    async with ModbusServer(tmp_path / "log") as plc, Site(tmp_path, site_text([plc.address])) as s:
        await s.start()
        await s.ready()
        before = {r.connection for r in await plc.requests()}
        answer = await shell.run(f"scan tcp://localhost:{plc.port} --units 1")
        assert answer.code == 2
        assert "belongs to the running site test-site" in answer.err
        assert "--yes" in answer.err
        # The guard's own connections may come and go; none reads a single hr:0, as a scan does.
        new = [r for r in await plc.requests() if r.connection not in before]
        assert not [r for r in new if (r.function, r.address, r.count) == (3, 0, 1)]
        answer = await shell.run(f"scan tcp://localhost:{plc.port} --units 1 --yes")
        assert (answer.code, "answers" in answer.out) == (0, True)


@pytest.mark.alone  # it asks of every guard on the machine
async def test_an_address_with_a_unit_is_of_that_one(device: ModbusServer, shell: Shell) -> None:
    answer = await shell.run(f"scan tcp://{device.address}/9 --json")
    assert [unit["unit"] for unit in answer.json()] == [9]
    requests = [request for request in await device.requests() if request.kind == "r"]
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("others", "alike"),
    [
        ([[7, 0, 40], [7, 0, 40]], True),
        ([[7, 0, 41]], False),  # an equal device that measures something else
        ([[7, 0]], False),
        ([[7, 0, 40], [8, 1, 2]], False),
    ],
)
def test_equal_devices_are_not_taken_for_one(others: list[list[int]], alike: bool) -> None:
    scanning = Scan(TcpDial("127.0.0.1", 1), 1.0, lambda _: None)
    for unit, values in enumerate([[7, 0, 40], *others], start=1):
        block = Block(Area.HOLDING_REGISTER, 100, values)
        scanning.found.append(UnitFound(unit, "answers", [block]))
    assert _alike(scanning) is alike


@pytest.mark.alone  # it asks of every guard on the machine
async def test_nothing_there(shell: Shell) -> None:
    async with ModbusServer() as server:
        server.send("only 200")
        await server.sync()
        url = f"tcp://{server.address}?timeout=200ms"
        answer = await shell.run(f"scan {url} --units 1-2")
        assert answer.code == 1
        assert "none" in answer.out
        assert "nothing answered; a server that passes serial frames wants rtu+tcp://" in answer.err
    answer = await shell.run(f"scan {url} --units 1-2")
    assert answer.code == 1
    assert "Connection refused" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tcp://h --units 0-256", "--units: found"),
        ("tcp://h --units x", "--units: found"),
        ("tcp://h --registers 5-1", "--registers: found"),
        ("tcp://h --registers --tables hx", "--tables: found"),
        ("plc", "--site"),
        ("tcp://h --emit /dev/null", "is there already"),
        ("tcp://h --emit /nowhere/site.toml", "but /nowhere is no directory"),
        ("rtu:///dev/null --units 248", "--units: found"),
        ("rtu:///dev/null --units 0-3", "expected numbers from 1 to 247"),
        ("tcp://h/1/hr:0", "found the point hr:0, expected an address alone"),
    ],
)
def test_bad_input_is_one_line(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.__main__ import main

    assert main(["scan", *words.split()]) == 2
    assert said in capsys.readouterr().err
