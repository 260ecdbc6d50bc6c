"""kill -9 at every start: the guard goes on at once, heavy work waits longer, people are told."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, WAIT_S, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

KILLS = 5  # then heavy work waits ten seconds: longer than a start takes on a busy machine
PAUSE_S = 10.0
PAUSE = "STATUS=waits for"


class Manager(asyncio.DatagramProtocol):
    """A service manager, which reads at once: some ten lines fill its socket."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def datagram_received(self, data: bytes, _: object) -> None:
        self.lines += data.decode().splitlines()

    def told(self, begin: str) -> bool:
        """Whether any line that begins so has come."""
        return any(line.startswith(begin) for line in self.lines)


@pytest_asyncio.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listening.bind(str(tmp_path / "notify"))
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Manager, sock=listening)
    yield made
    transport.close()


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests") as server:
        server.set("c", COIL, 1)
        server.link(COIL, CONTACT, ms=10)
        server.set_float("ir", GAS, 0.3)
        await server.sync()
        yield server


def record(lives: Path) -> dict[str, int]:
    """What the newest life has written."""
    found: dict[str, int] = json.loads(lives.read_bytes())
    return found


def begun(lives: Path, count: int, worked_ns: int, manager: Manager) -> bool:
    """Whether that life has counted those before it, and works or waits."""
    found = record(lives)
    return found["unclean"] == count and (
        found["worked_boot_ns"] > worked_ns or manager.told(PAUSE)
    )


def restarts(site: Site) -> list[str]:
    """States of the alerts about it."""
    return [a["state"] for a in site.alerts() if a["source"]["id"] == "restarts"]


async def test_kills_at_the_start_are_counted_told_and_spaced_out(
    tmp_path: Path, device: ModbusServer, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Site(tmp_path, site_text([device.address])) as site:
        await site.start()
        await site.ready()
        await site.protecting()
        guard = site.guard_pid()
        lives = site.runtime / "lives.json"
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for count in range(1, KILLS + 1):
            await site.kill_gateway()
            manager.lines.clear()
            worked_ns = record(lives)["worked_boot_ns"]
            await site.start()
            await until("work, or a pause", partial(begun, lives, count, worked_ns, manager))

        assert manager.told(PAUSE)
        assert manager.told("EXTEND_TIMEOUT_USEC=")
        assert site.guard_pid() == guard
        answer = await site.cli("status", "--json")
        assert site.process is not None
        assert answer.json()["gateway_process"]["pid"] == site.process.pid
        assert answer.json()["gateway_process"]["unclean_ends"] == KILLS
        await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)  # while it waits
        assert not manager.told("READY=1")
        await site.ready(PAUSE_S + WAIT_S)
        assert site.guard_pid() == guard

        status = await site.get("/status")
        assert status["gateway_process"]["unclean_ends"] == KILLS
        [problem] = [row for row in status["problems"] if row["id"] == "restarts"]
        assert f"{KILLS} times" in problem["text"]
        await until("its alert", lambda: restarts(site) == ["raised"])
        await until("the trip", lambda: site.trips_recorded() == 1)
        assert await site.stop() == 0

        await site.start()  # at once again
        await site.ready()
        assert (await site.get("/status"))["gateway_process"]["unclean_ends"] == 0
        await until("its end", lambda: restarts(site) == ["raised", "cleared"])
        assert site.log_text().count("the databases are opened in") <= KILLS
