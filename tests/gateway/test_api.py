"""The sockets as a client that is not ours sees them."""

import asyncio
import grp
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastpath.codes import InterlockState
from gateway.parts import Gateway
from gateway.view.listener import unix_listener
from gateway.view.reactions import Reactions
from gateway.view.server import ViewServer, base_url
from tests.helpers.gateway_parts import gateway_of
from tests.helpers.live_guard import LiveGuard
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.ports import free_port

WAIT_S = 10.0


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[LiveGuard]:
    async with ModbusServer() as server, LiveGuard.at(tmp_path, server) as running:
        yield running


@asynccontextmanager
async def served(gateway: Gateway) -> AsyncIterator[ViewServer]:
    server = ViewServer(gateway, Reactions())
    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield server
    finally:
        ready.cancel()
        task.cancel()
        await asyncio.wait({task, ready})


@asynccontextmanager
async def unix_client(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(os.fspath(gateway.paths.gateway_sock))
    async with aiohttp.ClientSession("http://gateway", connector=connector) as session:
        yield session


async def test_reads(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    async with served(gateway), unix_client(gateway) as client:
        status = await (await client.get("/status")).json()
        assert status["site"] == "bench"
        assert status["guard"]["alive"]
        tags = await (await client.get("/tags")).json()
        assert {tag["id"] for tag in tags} == {"gas", "fan.running", "wind", "rain"}
        interlocks = await (await client.get("/interlocks")).json()
        assert {row["id"] for row in interlocks} == {"gas-high", "fan-stopped", "watch-gas"}
        alarms = await (await client.get("/alarms")).json()
        assert [alarm["kind"] for alarm in alarms] == ["alarm", "device"]


async def test_commands_are_audited_with_the_peers_name(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    async with served(gateway), unix_client(gateway) as client:
        outcome = await (await client.post("/trip", json={"id": "gas-high"})).json()
        assert (outcome["exit_code"], outcome["code"], outcome["confirmed"]) == (0, 1, True)
        await guard.state_of("gas-high", InterlockState.READY_TO_RESET)
        outcome = await (
            await client.post("/reset", json={"id": "gas-high", "generation": 1})
        ).json()
        assert outcome["exit_code"] == 0, outcome
        outcome = await (await client.post("/release", json={"id": "siren"})).json()
        assert outcome["exit_code"] == 5
        outcome = await (await client.post("/trip", json={"id": "nonsense"})).json()
        assert outcome["exit_code"] == 2
    ledger: Any = gateway.ledger
    import pwd

    me = f"uid:{pwd.getpwuid(os.getuid()).pw_name}"
    assert ledger.commands[:2] == [(me, "trip", "gas-high"), (me, "reset", "gas-high")]


async def test_the_head_of_an_answer_comes_before_the_outputs(tmp_path: Path) -> None:
    async with (
        ModbusServer() as server,
        LiveGuard.at(tmp_path, server, stuck=True) as guard,
    ):
        gateway = gateway_of(guard)
        async with served(gateway), unix_client(gateway) as client:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            async with client.post("/trip", json={"id": "gas-high"}) as response:
                head = loop.time() - begun
                body = json.loads(await response.read())
                whole = loop.time() - begun
        assert body["exit_code"] == 6
        assert whole - head > 0.25  # the outputs' time, waited for after the head


async def test_a_command_that_lay_too_long_is_not_carried_out(guard: LiveGuard) -> None:
    """The gateway stood still; whoever sent it was told that it was not reached."""
    gateway = gateway_of(guard)
    past_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 1
    async with served(gateway), unix_client(gateway) as client:
        for target in ("/trip", "/reset"):
            response = await client.post(target, json={"id": "gas-high", "not_after_ns": past_ns})
            assert response.status == 408
            assert "too late" in (await response.json())["error"]
    ledger: Any = gateway.ledger
    assert ledger.commands == []


async def test_guard_ends_only_for_a_reason(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    async with served(gateway), unix_client(gateway) as client:
        response = await client.post("/stop", json={"guard": True, "reason": "  "})
        assert response.status == 400
        assert "reason" in (await response.json())["error"]
        response = await client.post("/stop", json={"guard": True, "reason": "valve work"})
        outcome = await response.json()
        assert (outcome["exit_code"], outcome["details"]["guard_alive"]) == (0, False)


async def test_stop_is_audited_and_ends_the_process(
    guard: LiveGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    monkeypatch.setattr("gateway.view.actions.os.kill", lambda *_: ended.set())
    gateway = gateway_of(guard)
    async with served(gateway), unix_client(gateway) as client:
        outcome = await (await client.post("/stop", json={})).json()
        assert (outcome["exit_code"], outcome["details"]["pid"]) == (0, os.getpid())
        await asyncio.wait_for(ended.wait(), WAIT_S)
    ledger: Any = gateway.ledger
    (command,) = ledger.commands
    assert command[1:] == ("stop", "gateway")


async def test_bad_requests_are_told(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    async with served(gateway), unix_client(gateway) as client:
        for body in (b"", b"{", b"[]", b'{"id": 5}', b'{"id": "x", "surprise": 1}'):
            response = await client.post("/trip", data=body)
            assert response.status == 400
            assert "error" in await response.json()
        response = await client.post("/trip", data=b"x" * 100_000)
        assert response.status == 413
        response = await client.post("/reset", json={"id": "gas-high", "reason": "x" * 501})
        assert response.status == 400
        response = await client.get("/../etc/passwd")
        assert response.status == 404
        response = await client.get("/trip")
        assert response.status == 405
        gateway.commands = None
        response = await client.post("/trip", json={"id": "gas-high"})
        assert response.status == 503
    ledger: Any = gateway.ledger
    assert ledger.commands == []


async def test_tcp_is_read_only(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    async with served(gateway), aiohttp.ClientSession() as client:
        assert gateway.http.startswith("http://127.0.0.1:")
        response = await client.get(f"{gateway.http}/metrics")
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b"sitewarden_guard_up 1.0" in await response.read()
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Server"] == "sitewarden"
        for path in ("/", "/status", "/tags", "/stop"):
            response = await client.get(f"{gateway.http}{path}")
            assert response.status == 404
            assert "/metrics" in (await response.json())["error"]
            assert "Content-Security-Policy" in response.headers
        for path in ("/trip", "/reset", "/stop"):
            assert (await client.post(f"{gateway.http}{path}", json={})).status == 404
        assert (await client.post(f"{gateway.http}/metrics", json={})).status == 405
    assert gateway.http == ""


async def test_health(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    async with served(gateway), aiohttp.ClientSession() as client:
        response = await client.get(f"{gateway.http}/healthz")
        assert response.status == 200
        body = await response.json()
        assert (body["healthy"], body["reasons"], body["guard_alive"]) == (True, [], True)
        guard.end()
        response = await client.get(f"{gateway.http}/healthz")
        assert response.status == 503
        assert (await response.json())["reasons"] == ["the guard is not running"]


async def test_health_sees_a_recorder_that_stands_still(guard: LiveGuard) -> None:
    from gateway.view.health import HealthWatch

    gateway = gateway_of(guard)
    clock = [0]
    header = guard.map().header()
    clock[0] = header.scan_mono_ns
    watch = HealthWatch(gateway, lambda: clock[0])
    assert watch.look().healthy
    clock[0] += 11_000_000_000
    reasons = watch.look().reasons
    assert any("recorder" in reason for reason in reasons)
    gateway.recorder.rounds = 2
    assert not any("recorder" in reason for reason in watch.look().reasons)
    gateway.stopping = True
    assert "the gateway is stopping" in watch.look().reasons
    gateway.view = lambda: None
    assert "no guard.shm: no guard has started" in watch.look().reasons


async def test_a_port_in_use_is_a_problem_and_heals(
    guard: LiveGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.view.server.RETRY_S_FIRST", 0.02)
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        gateway = gateway_of(guard, listen)
        async with served(gateway), unix_client(gateway) as client:
            (problem,) = gateway.problems.active()
            assert (problem.kind, problem.ident) == ("view", listen)
            assert "in use" in problem.text
            assert gateway.http == ""
            text = await (await client.get("/metrics")).text()  # the metric is still to be had
            assert f'sitewarden_problem{{id="{listen}",kind="view"}} 1.0' in text
            other.close()
            await until(lambda: gateway.http == f"http://{listen}")
            assert gateway.problems.active() == []


async def test_a_client_that_says_nothing_is_let_go(
    guard: LiveGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.view.server.HEADER_S", 0.2)
    gateway = gateway_of(guard)
    async with served(gateway):
        host, port = gateway.http.removeprefix("http://").split(":")
        for said in (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            writer.close()
            await writer.wait_closed()


def test_the_sockets_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_name: str) -> grp.struct_group:
        raise KeyError

    def somebody(name: str) -> grp.struct_group:
        assert name == "sitewarden-operators"
        return grp.struct_group((name, "x", os.getgid(), []))

    path = tmp_path / "gateway.sock"
    for lookup, mode in ((nobody, 0o600), (somebody, 0o660), (nobody, 0o600)):
        monkeypatch.setattr("gateway.view.listener.grp.getgrnam", lookup)
        with unix_listener(path, lambda: 0):  # the one before is left behind, as after a kill
            status = path.lstat()
            assert stat.S_IMODE(status.st_mode) == mode
            assert status.st_gid == os.getgid()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    path.write_text("not ours")
    with pytest.raises(OSError, match="in use"):
        unix_listener(path, lambda: 0)
    assert path.read_text() == "not ours"


def test_addresses() -> None:
    assert base_url(("127.0.0.1", 80)) == "http://127.0.0.1:80"
    assert base_url(("0.0.0.0", 80)) == "http://127.0.0.1:80"
    assert base_url(("::", 80, 0, 0)) == "http://[::1]:80"


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
