"""``sitewarden run`` as people meet it: a process, its signals, its files, what it says."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastpath.codes import InterlockState
from gateway.store.ledger import Ledger
from tests.helpers.harness import CONTACT, GAS, ROOT, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.ports import free_port

STOP_WITHIN_S = 3.0

SLOW_DEVICE = """
[[device]]
id = "weather"
driver = "modbus-tcp"
address = "{address}"
poll = "50ms"
timeout = "100ms"

[[tag]]
id = "wind"
device = "weather"
point = {{ address = "hr:7" }}
"""


@pytest.fixture
async def server() -> AsyncIterator[ModbusServer]:
    async with ModbusServer() as running:
        running.set_float("ir", GAS, 0.2)
        running.set("c", 16, 1)
        running.set("di", CONTACT, 1)
        running.link(16, CONTACT)
        await running.sync()
        yield running


@pytest.fixture
async def site(tmp_path: Path, server: ModbusServer) -> AsyncIterator[Site]:
    async with Site(tmp_path, site_text([server.address])) as made:
        yield made


@pytest.fixture
def taken_port() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(1)
        yield listener


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def causes(site: Site, kind: str, state: str) -> list[str]:
    """The texts of the ledger's alerts of one kind and state."""
    try:
        return [a["cause"] for a in site.alerts() if (a["kind"], a["state"]) == (kind, state)]
    except sqlite3.OperationalError:  # it is being made
        return []


async def alerted(site: Site, kind: str, state: str, text: str) -> None:
    await until(
        f"alert {kind} {state} {text!r}",
        lambda: any(text in cause for cause in causes(site, kind, state)),
    )


async def get(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_start_serve_and_end(site: Site, number: signal.Signals) -> None:
    await site.start()
    await site.ready()
    await site.protecting()
    found, guard = site.endpoints(), site.guard_pid()
    assert found["site"] == "test-site"
    assert found["guard_pid"] == guard
    assert guard is not None
    health = json.loads(await get(found["http"] + "/healthz"))
    assert health["healthy"], health
    assert site.process is not None
    started_s = time.monotonic()
    site.process.send_signal(number)
    assert await site.process.wait() == 0
    assert time.monotonic() - started_s < STOP_WITHIN_S
    assert not alive(guard)
    assert site.endpoints() == {}
    assert (site.state / "guard" / "clean-stop").exists()
    log = site.log_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert causes(site, "gateway", "event") == ["the gateway has started"]


async def test_second_instance_is_told_and_changes_nothing(site: Site) -> None:
    await site.start()
    await site.ready()
    answer = await site.cli("run", str(site.file))
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert f"another gateway (pid {site.endpoints()['pid']}, site test-site)" in answer.err
    assert site.process is not None
    assert site.process.returncode is None


async def test_refused_site_lists_every_error(site: Site) -> None:
    text = site.file.read_text().replace('poll = "10ms"', 'poll = "50 parsecs"')
    site.file.write_text(text.replace('effects = ["power0"]', 'effects = ["nothing"]'))
    answer = await site.cli("run", str(site.file))
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert any("50 parsecs" in line for line in lines)
    assert any("nothing" in line for line in lines)
    assert all(line.startswith(str(site.file)) or "site.toml:" in line for line in lines)
    assert site.guard_pid() is None


async def test_a_newer_ledger_is_not_touched(site: Site) -> None:
    site.state.mkdir()
    ledger = await Ledger.open(site.state / "ledger.db", "test-site", reserve_bytes=0)
    await ledger.close()
    with contextlib.closing(sqlite3.connect(site.state / "ledger.db")) as database:
        database.execute("PRAGMA user_version = 99")
        database.commit()
    answer = await site.cli("run", str(site.file))
    assert answer.code == 1
    lines = [line for line in answer.err.splitlines() if line.startswith("sitewarden: ")]
    assert len(lines) == 1
    assert "ledger.db" in lines[0]
    assert "Traceback" not in answer.err
    assert site.guard_pid() is None


async def test_too_long_a_path_is_refused_with_that_reason(site: Site) -> None:
    command = [sys.executable, "-m", "gateway", "run", str(site.file)]
    command += ["--runtime-dir", str(site.runtime / ("r" * 100)), "--state-dir", str(site.state)]
    answer = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "too long for a Unix socket" in answer.stderr
    assert answer.stderr.count("\n") == 1


async def test_killed_gateway_leaves_a_guard_that_the_next_one_adopts(site: Site) -> None:
    await site.start()
    await site.ready()
    await site.protecting()
    guard = site.guard_pid()
    await site.kill_gateway()
    assert site.guard_pid() == guard
    await site.start()
    await site.ready()
    assert site.endpoints()["guard_pid"] == guard
    await alerted(site, "gateway", "event", "had not ended in order")
    assert await site.stop() == 0
    assert guard is not None
    assert not alive(guard)


async def test_killed_guard_is_started_again_and_told(site: Site) -> None:
    await site.start()
    await site.ready()
    await site.protecting()
    first = site.guard_pid()
    site.kill_guard()
    await until("another guard", lambda: site.guard_pid() not in (None, first))
    await until("endpoints.json", lambda: site.endpoints()["guard_pid"] == site.guard_pid())
    await alerted(site, "guard", "raised", "was ended by SIGKILL")
    await alerted(site, "guard", "cleared", "scans")
    await site.protecting()


async def test_guard_that_was_stopped_by_command_stays_stopped(site: Site) -> None:
    await site.start()
    await site.ready()
    await site.protecting()
    answer = await site.cli("stop", "--guard", "inspection of the shaft")
    assert answer.code == 0, answer
    await until("no guard", lambda: site.guard_pid() is None)
    await alerted(site, "guard", "raised", "on purpose")
    await until("endpoints.json", lambda: site.endpoints()["guard_pid"] == 0)
    assert await site.stop() == 0
    await site.start()
    await site.ready()
    await until("the next run's guard", lambda: site.guard_pid() is not None)


async def test_attached_gateway_neither_starts_nor_ends_a_guard(site: Site) -> None:
    site.file.write_text(site.file.read_text())
    command = [sys.executable, "-m", "gateway", "run", "--attach", str(site.file)]
    command += site.directories
    with site.log.open("ab") as log:
        gateway = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=log, stderr=log)
    await until("endpoints.json", lambda: bool(site.endpoints()))
    assert site.guard_pid() is None
    guard = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fastpath.guard", *site.directories, cwd=ROOT
    )
    await until("its guard", lambda: site.endpoints().get("guard_pid") == guard.pid)
    await site.protecting()
    gateway.terminate()
    assert await gateway.wait() == 0
    assert guard.returncode is None
    assert site.guard_pid() == guard.pid
    guard.terminate()
    assert await guard.wait() == 0


async def test_what_is_missing_is_told_and_stops_nothing(
    tmp_path: Path, server: ModbusServer, taken_port: socket.socket
) -> None:
    listen = f"127.0.0.1:{taken_port.getsockname()[1]}"
    text = site_text([server.address], url="https://127.0.0.1:9/", extra="")
    text = text.replace('listen = "127.0.0.1:0"', f'listen = "{listen}"')
    text = text.replace('kind = "http"', 'kind = "http"\ncredentials = "platform"')
    text += SLOW_DEVICE.format(address=f"127.0.0.1:{free_port()}")
    async with Site(tmp_path, text) as site:
        await site.start()
        await site.ready()
        await site.protecting()
        assert site.endpoints()["http"] == ""
        await alerted(site, "gateway", "raised", "port is in use")
        await alerted(site, "gateway", "raised", 'credentials "platform"')
        await alerted(site, "device", "raised", "no connection")
        log = site.log_text()
        assert log.count("port is in use") == 1
        assert "Traceback" not in log
        taken_port.close()
        await until("the port", lambda: site.endpoints()["http"] == f"http://{listen}")
        metrics = await get(f"http://{listen}/metrics")
        problems = [line for line in metrics.splitlines() if "sitewarden_problem{" in line]
        assert any("weather" in line for line in problems), problems
        assert 'sitewarden_device_up{device="weather"} 0.0' in metrics
        assert 'sitewarden_uplink_up{uplink="platform"} 0.0' in metrics
        await alerted(site, "gateway", "cleared", "listening on")


async def test_refused_program_leaves_the_old_one_running(site: Site, server: ModbusServer) -> None:
    await site.start()
    await site.ready()
    await site.protecting()
    server.set_float("ir", GAS, 2.0)
    await until("the trip", lambda: site.interlock() == InterlockState.TRIPPED)
    await site.kill_gateway()
    text = site.file.read_text()
    site.file.write_text(text.replace('id = "cut0"', 'id = "another"'))
    await site.start()
    await site.ready()
    await alerted(site, "program", "raised", "running program differs from the site file")
    assert site.interlock() == InterlockState.TRIPPED
    assert site.process is not None
    assert site.process.returncode is None


async def test_the_service_manager_is_told(site: Site, tmp_path: Path) -> None:
    words: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))

        def told(word: str) -> bool:
            while True:
                try:
                    words.extend(manager.recv(1000).decode().splitlines())
                except BlockingIOError:
                    return word in words

        environment: dict[str, Any] = dict(os.environ)
        environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        command = [sys.executable, "-m", "gateway", "run", str(site.file), *site.directories]
        with site.log.open("ab") as log:
            gateway = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        await until("READY", lambda: told("READY=1"))
        assert site.endpoints()["pid"] == gateway.pid
        await until("WATCHDOG", lambda: told("WATCHDOG=1"))
        gateway.terminate()
        assert await gateway.wait() == 0
        assert told("STOPPING=1")
    assert words.count("READY=1") == 1  # the guard, its child, has not said it
