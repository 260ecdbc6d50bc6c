"""kill -9 at every start: the guard goes on at once, heavy work waits longer, people are told."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

KILLS = 4


class Manager:
    """A service manager's socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.lines: list[str] = []

    def told(self, begin: str) -> bool:
        """Whether any line that begins so has come."""
        while True:
            try:
                self.lines += self._socket.recv(1000).decode().splitlines()
            except BlockingIOError:
                return any(line.startswith(begin) for line in self.lines)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as listening:
        yield listening


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests") as server:
        server.set("c", COIL, 1)
        server.link(COIL, CONTACT, ms=10)
        server.set_float("ir", GAS, 0.3)
        await server.sync()
        yield server


def counted(lives: Path, count: int) -> bool:
    """Whether the newest life has counted those before it."""
    return bool(json.loads(lives.read_bytes())["unclean"] == count)


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
            await site.start()
            await until("a life", partial(counted, lives, count))

        await until("a pause", lambda: manager.told("STATUS=waits for"))
        assert manager.told("EXTEND_TIMEOUT_USEC=")
        assert site.guard_pid() == guard
        answer = await site.cli("status", "--json")
        assert site.process is not None
        assert answer.json()["gateway_process"]["pid"] == site.process.pid
        assert answer.json()["gateway_process"]["unclean_ends"] == KILLS
        await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)  # while it waits
        assert not manager.told("READY=1")
        await site.ready()
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
