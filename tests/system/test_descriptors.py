"""No descriptor is left: callers of the page wait; the guard, the ledger and trips do not."""

import asyncio
import contextlib
import errno
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from fastpath.codes import InterlockState
from tests.helpers.disk import Recorded
from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

CALLERS = 70  # more than are served at a time
FEW_LINES = 40
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: site\r\n"  # an end is missing


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests") as server:
        server.set("c", COIL, 1)
        server.link(COIL, CONTACT, ms=10)
        server.set_float("ir", GAS, 0.3)
        await server.sync()
        yield server


class Callers:
    """Clients of the page that come again as soon as they are sent away."""

    def __init__(self, site: Site) -> None:
        self._path = str(site.runtime / "gateway.sock")

    async def call(self) -> None:
        """One of them, for ever."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(REQUEST)
                    await reader.read()
                finally:
                    writer.close()
            await asyncio.sleep(0.05)


@asynccontextmanager
async def exhausted(site: Site) -> AsyncIterator[None]:
    """While inside the gateway gets no other descriptor, and many want one."""
    assert site.process is not None
    pid = site.process.pid
    had = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(number for number in range(len(held) + 1) if number not in held)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, had[1]))
    callers = [asyncio.create_task(Callers(site).call()) for _ in range(CALLERS)]
    try:
        yield
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, had)


async def serves(site: Site) -> bool:
    """Whether the page answers."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(1.0):
            return bool(await site.get("/tags"))
    return False


def states(site: Site, ident: str) -> list[str]:
    """Of the alerts about something of the gateway's."""
    return [alert["state"] for alert in site.alerts() if alert["source"]["id"] == ident]


async def protecting(site: Site) -> None:
    await site.start()
    await site.ready()
    await site.protecting()


async def test_the_page_waits_and_trips_and_the_ledger_go_on(
    tmp_path: Path, device: ModbusServer
) -> None:
    async with Site(tmp_path, site_text([device.address])) as site:
        await protecting(site)
        async with exhausted(site):
            await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
            await until("the trip", lambda: site.interlock() == InterlockState.TRIPPED)
            await until("its alert", lambda: site.trips_recorded() == 1)
            await until("people are told", lambda: states(site, "descriptors") == ["raised"])
        await until("the page is back", partial(serves, site))
        await until("its end is told", lambda: states(site, "descriptors") == ["raised", "cleared"])
        assert site.log_text().count("callers of the page wait") <= FEW_LINES
        assert "Traceback" not in site.log_text()


async def test_a_killed_guard_is_started_again_and_met_again(
    tmp_path: Path, device: ModbusServer
) -> None:
    async with Site(tmp_path, site_text([device.address])) as site:
        await protecting(site)
        async with exhausted(site):
            first = site.guard_pid()
            site.kill_guard()
            await until("another guard", lambda: site.guard_pid() not in (None, first))
            await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
            await until("its alert", lambda: site.trips_recorded() == 1)
        assert "Traceback" not in site.log_text()


async def test_a_ledger_that_failed_is_opened_again(
    tmp_path: Path, device: ModbusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, site_text([device.address]))
    with Recorded(tmp_path, site.state) as disk:
        for name, value in disk.environment.items():
            monkeypatch.setenv(name, value)
        async with site:
            await protecting(site)
            async with exhausted(site):
                disk.faults("/state/ledger", sync_errno=errno.EIO)
                await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
                await until("it fails", lambda: disk.count("syncs_failed") > 1)
                disk.faults("")
                await until("its alert", lambda: site.trips_recorded() == 1)
                await until("its end", lambda: states(site, "ledger") == ["raised", "cleared"])
            assert "Traceback" not in site.log_text()
