"""The command line as a person or a script uses it: words, JSON, exit codes, and no tracebacks."""

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastpath.codes import InterlockState, OutputState
from gateway.__main__ import main
from gateway.cli.table import cell_text, show_table
from gateway.parts import Gateway
from gateway.paths import Endpoints, write_endpoints
from gateway.view.reactions import Reactions
from gateway.view.server import ViewServer
from tests.helpers.gateway_parts import gateway_of
from tests.helpers.live_guard import GAS, POWER, LiveGuard
from tests.helpers.modbus_server import ModbusServer

Said = tuple[int, str, str]


class Terminal:
    """Runs commands for one site, off the loop."""

    def __init__(self, guard: LiveGuard, capsys: pytest.CaptureFixture[str]) -> None:
        self._guard = guard
        self._capsys = capsys

    async def run(self, words: str, *, state_dir: Path | None = None) -> Said:
        """Exit code, stdout, stderr."""
        self._capsys.readouterr()
        paths = self._guard.paths
        where = ["--runtime-dir", str(paths.runtime), "--state-dir", str(state_dir or paths.state)]
        code = await asyncio.to_thread(main, [*shlex.split(words), *where])
        said = self._capsys.readouterr()
        return code, said.out, said.err

    async def json(self, words: str) -> tuple[int, Any]:
        """Exit code and what ``--json`` gave."""
        code, out, _ = await self.run(f"{words} --json")
        return code, json.loads(out)


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[LiveGuard]:
    async with ModbusServer() as server, LiveGuard.at(tmp_path, server) as running:
        yield running


@pytest.fixture
async def gateway(guard: LiveGuard) -> AsyncIterator[Gateway]:
    parts = gateway_of(guard)
    server = ViewServer(parts, Reactions())
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.ready.wait(), 10)
    yield parts
    task.cancel()
    await asyncio.wait({task})


@pytest.fixture
def terminal(guard: LiveGuard, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(guard, capsys)


async def test_status_and_tables(gateway: Gateway, terminal: Terminal) -> None:
    code, out, err = await terminal.run("status")
    assert (code, err) == (0, "")
    for word in ("site bench", "guard: running", "gas-high", "NORMAL", "power", "RELEASED", "mine",
                 "1 of 3 interlocks are unarmed"):  # fmt: skip
        assert word in out
    assert "\x1b" not in out  # plain text where stdout is no terminal
    code, out, _ = await terminal.run("tags")
    assert code == 0
    assert "never_read" in out
    assert 'm"/s\\\\x0a' in out  # control characters are shown
    code, out, _ = await terminal.run("interlocks")
    assert "gas >= 1.5 until < 1.0" in out
    code, out, _ = await terminal.run("alarms")
    assert "critical" in out
    assert gateway.http


async def test_json_of_the_reads(gateway: Gateway, terminal: Terminal) -> None:
    code, status = await terminal.json("status")
    assert (code, status["site"]) == (0, "bench")
    code, tags = await terminal.json("tags")
    values = {tag["id"]: tag["value"] for tag in tags}
    assert values["wind"] == 7.25
    assert values["rain"] is None
    code, interlocks = await terminal.json("interlocks")
    assert {row["id"]: row["armed"] for row in interlocks} == {
        "gas-high": True, "fan-stopped": True, "watch-gas": False,
    }  # fmt: skip
    code, alarms = await terminal.json("alarms")
    assert [alarm["id"] for alarm in alarms] == ["g/1/2", "g/1/1"]
    assert gateway.http


async def test_trip_reset_release(gateway: Gateway, guard: LiveGuard, terminal: Terminal) -> None:
    code, out, err = await terminal.run("trip gas-high --reason drill")
    assert (code, err) == (0, "")
    assert "power TRIPPED, confirmed" in out
    assert await guard.server.get("c", POWER) == [0]
    await guard.state_of("gas-high", InterlockState.READY_TO_RESET)
    code, out, err = await terminal.run("reset gas-high --reason 'gas is away'")
    assert (code, err) == (0, "")
    assert "saw gas-high READY_TO_RESET, generation 1" in out
    assert "power RELEASED, confirmed" in out
    code, out, err = await terminal.run("release power")
    assert (code, out) == (5, "")
    assert "not held" in err
    code, outcome = await terminal.json("reset gas-high")
    assert (code, outcome["exit_code"], outcome["code"]) == (5, 5, 2)
    assert gateway.http


async def test_a_refused_reset(gateway: Gateway, guard: LiveGuard, terminal: Terminal) -> None:
    guard.server.set_float("ir", GAS, 2.5)
    await guard.state_of("gas-high", InterlockState.TRIPPED)
    code, out, err = await terminal.run("reset gas-high")
    assert code == 4
    assert "saw gas-high TRIPPED, generation 1" in out
    assert "refused by the guard (code 4)" in err
    assert "gas is 2.5 %CH4" in err
    code, _, err = await terminal.run("trip gas-high")
    assert code == 5
    code, _, err = await terminal.run("reset gas-high --generation 77")
    assert code == 4
    assert "--generation 1" in err
    assert gateway.http


async def test_unarmed_and_unknown(gateway: Gateway, terminal: Terminal) -> None:
    code, _, err = await terminal.run("trip watch-gas")
    assert code == 6
    assert "UNARMED: no output was moved" in err
    code, _, err = await terminal.run("reset gas-hig")
    assert code == 2
    assert "did you mean gas-high" in err
    code, _, err = await terminal.run("stop --guard ''")
    assert code == 2
    assert gateway.http


async def test_without_a_gateway(guard: LiveGuard, terminal: Terminal) -> None:
    code, out, err = await terminal.run("status")
    assert (code, err) == (0, "")
    assert "note: no gateway runs in" in out
    assert "gateway: NOT RUNNING, last heard by the guard 20" in out
    assert "gas-high" in out
    code, status = await terminal.json("status")
    assert status["gateway_process"]["alive"] is False
    assert status["gateway_process"]["since"] is not None
    assert (status["site"], status["uplinks"]) == ("bench", None)
    code, tags = await terminal.json("tags")
    assert {tag["id"] for tag in tags} == {"gas", "power.closed", "fan.running"}
    code, rows = await terminal.json("interlocks")
    assert (code, len(rows)) == (0, 3)
    for words in ("alarms", "reset gas-high", "release power", "stop", "stop --guard why"):
        code, _, err = await terminal.run(words)
        assert code == 3, words
        assert "no gateway runs in" in err
        assert "sitewarden run" in err
    code, outcome = await terminal.json("reset gas-high")
    assert (code, outcome["exit_code"], outcome["confirmed"]) == (3, 3, False)


async def test_trip_without_a_gateway(guard: LiveGuard, terminal: Terminal) -> None:
    code, out, err = await terminal.run("trip gas-high")
    assert code == 0
    assert "going straight to the guard" in err
    assert "power TRIPPED, confirmed" in out
    assert await guard.server.get("c", POWER) == [0]
    code, _, err = await terminal.run("trip gas-hihg")
    assert code == 2
    assert "did you mean gas-high" in err
    code, _, err = await terminal.run("trip watch-gas")
    assert code == 6


async def test_trip_beside_a_gateway_that_hangs(guard: LiveGuard, terminal: Terminal) -> None:
    """Something accepts on gateway.sock and never answers: half a second, then the guard."""
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(os.fspath(guard.paths.gateway_sock))
        hung.listen(1)
        write_endpoints(guard.paths.endpoints, Endpoints(os.getpid(), 0, "bench", "", 0))
        begun = asyncio.get_running_loop().time()
        code, out, err = await terminal.run("trip gas-high")
        took = asyncio.get_running_loop().time() - begun
        _, status, _ = await terminal.run("status")
    assert f"gateway: NOT ANSWERING, pid {os.getpid()}" in status
    assert code == 0
    assert f"gateway (pid {os.getpid()}) does not answer" in err
    assert "confirmed" in out
    assert took >= 0.5


async def test_a_stuck_breaker_is_exit_6_without_a_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        ModbusServer() as server,
        LiveGuard.at(tmp_path, server, stuck=True) as guard,
    ):
        code, _, err = await Terminal(guard, capsys).run("trip gas-high")
        assert code == 6
        assert "NOT confirmed in time" in err
        await guard.output_of("power", OutputState.TRIP_FAILED)


async def test_with_the_guard_dead(gateway: Gateway, guard: LiveGuard, terminal: Terminal) -> None:
    guard.end()
    await guard.until(lambda: not guard.link.state().connected)
    code, out, _ = await terminal.run("status")
    assert code == 3
    assert "guard: NOT RUNNING, last scan 20" in out
    for words in ("trip gas-high", "reset gas-high"):
        code, _, err = await terminal.run(words)
        assert code == 3
        assert "guard not reached" in err
    assert gateway.http


async def test_with_nothing_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    for words in (["status"], ["tags"], ["interlocks"], ["trip", "x"], ["reset", "x"]):
        code = await asyncio.to_thread(main, [*words, *where])
        said = capsys.readouterr()
        assert code == 3, words
        assert "Traceback" not in said.err


async def test_the_names_are_in_the_state_directory(
    guard: LiveGuard, terminal: Terminal, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    code, out, _ = await terminal.run("status", state_dir=other)
    assert code == 0
    assert "names are not known" in out
    code, _, err = await terminal.run("interlocks", state_dir=other)
    assert code == 3
    assert "is --state-dir right?" in err
    assert guard.process


async def test_stop_guard(gateway: Gateway, guard: LiveGuard, terminal: Terminal) -> None:
    code, out, err = await terminal.run("stop --guard 'valve work'")
    assert (code, err) == (0, "")
    assert "the guard has ended" in out
    assert await guard.server.get("c", POWER, 2) == [0, 0]
    assert gateway.http


SITE = """
[site]
id = "bench"
[[device]]
id = "plc"
driver = "modbus-tcp"
address = "127.0.0.1:1502"
fast = true
poll = "20ms"
timeout = "200ms"
[[tag]]
id = "gas"
device = "plc"
point = { address = "ir:100", type = "float32" }
unit = "%CH4"
range = [0, 4]
stale_after = "500ms"
[[output]]
id = "power"
device = "plc"
address = "c:16"
trip = false
normal = true
[[interlock]]
id = "gas-high"
cause = "gas >= 1.5 until < 1.0"
effects = ["power"]
response = "2s"
armed = true
"""


def test_check_says_ok_with_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.toml"
    site.write_text(SITE)
    assert main(["check", str(site)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("OK ")
    assert said.err == ""
    for words in ("1 armed", "worst demand", "worst loss", "response 2s", "uplink"):
        assert words in said.out
    assert main(["check", str(site), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["summary"]["armed"], answer["errors"]) == (True, 1, [])
    assert answer["warnings"]


def test_check_lists_every_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.toml"
    site.write_text(SITE.replace('"20ms"', '"20"').replace("gas >= 1.5", "gaz >= 1.5"))
    assert main(["check", str(site)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert "device[plc].poll" in first
    assert 'did you mean "gas"' in second
    assert main(["check", str(site), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["errors"]) == (False, [first, second])


def test_usage_errors_are_exit_2() -> None:
    for words in ([], ["nonsense"], ["reset"], ["reset", "x", "--generation", "many"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["--help"], ["trip", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    assert "claims no SIL" in capsys.readouterr().out


def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.show.get", interrupt)
    assert main(["status", "--runtime-dir", str(tmp_path)]) == 130


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    """As ``sitewarden --help | true``: nothing on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gateway", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode in {0, 1}
    assert done.stderr == b""


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    more = '[[tag]]\nid = "more"\nvalue = "gas * 2"\nunit = "m²/s"\n'
    site.write_text(SITE.replace("%CH4", "m²/s") + more, encoding="utf-8")
    command = [sys.executable, "-m", "gateway", "check", str(site)]
    for encoding in ("gbk", "ascii"):
        around = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(command, env=around, capture_output=True, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert b"m\\xb2/s" in done.stdout


def test_a_terminal_gets_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    show_table("interlocks", ("id", "state"), [("[red]gas[/red]", "TRIPPED")])
    out = capsys.readouterr().out
    assert "[red]gas[/red]" in out  # a name is no markup
    assert "\x1b[" in out


def test_no_value_is_broken_over_two_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal of 80 columns a number in two halves is read as two numbers."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    when, text = "2026-11-22T20:32:24Z", "its proof test is overdue: asked for every 180 d"
    for columns in (5, 9):
        values = [f"-0.00012289{i}" for i in range(columns)]
        headings = [f"float32 {name}" for name in "ABCDEFGHI"[:columns]]
        show_table("unit", ("since", *headings, "note"), [(when, *values, text)])
        out = capsys.readouterr().out
        assert all(word in out for word in (when, *values)), out


def test_wide_letters_are_not_broken_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes two cells of the terminal."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "40")
    words = ("标签", "名称", "回风巷甲烷传感器")
    show_table("tags", words[:2], [("ch4.t1", words[2])])
    out = capsys.readouterr().out
    assert all(word in out for word in words), out
    monkeypatch.undo()
    show_table("tags", ("id", "unit"), [("瓦斯", "%"), ("gas1", "%")])
    assert capsys.readouterr().out == "tags:\n  id    unit\n  瓦斯  %\n  gas1  %\n"


def test_json_is_json_on_every_terminal(tmp_path: Path) -> None:
    site = tmp_path / "Schächte 🏭"
    command = [sys.executable, "-m", "gateway", "check", str(site), "--json"]
    told = {}
    for encoding in ("utf-8", "ascii", "gbk"):
        around = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        done = subprocess.run(command, env=around, capture_output=True, check=False)
        told[encoding] = json.loads(done.stdout.decode(encoding))
    assert "Schächte 🏭" in told["utf-8"]["errors"][0]
    assert told["ascii"] == told["gbk"] == told["utf-8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("receive --listen x", 'such as "127.0.0.1:8080"'),
        ("receive --listen h:70000", 'such as "127.0.0.1:8080"'),
        ("receive --listen=", "nothing to receive on"),
        ("simulate t1 abc", 'found "abc", expected a number'),
        ("export --from 1h --to 2h", "--from is later than --to"),
    ],
)
def test_what_cannot_be_meant_is_exit_2(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words.split())
    except SystemExit as end:  # argparse's own refusal
        code = int(str(end.code))
    assert (code, said in capsys.readouterr().err) == (2, True)


def test_cells_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("t", ("a", "b"), [("x\x1b[31m\n", 1.5), (None, True)])
    out = capsys.readouterr().out
    assert "x\\x1b[31m\\x0a" in out
    assert "1.5" in out
    assert (cell_text(None), cell_text(False), cell_text(2)) == ("-", "no", "2")
