"""A device that is not ours (libmodbus) is tripped, whatever the gateway is doing."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text
from tests.helpers.hog import read_report
from tests.helpers.modbus_server import ModbusServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

REACTION_NS_MAX = 500_000_000  # far above what it takes, far below what a hung gateway would
HOLD_NS = 50_000_000


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    """A libmodbus server with a closed breaker and clean air."""
    async with ModbusServer(tmp_path / "requests") as server:
        server.set("c", COIL, 1)
        server.link(COIL, CONTACT, ms=10)
        server.set_float("ir", GAS, 0.3)
        await server.sync()
        yield server


async def _trip(device: ModbusServer) -> int:
    return await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)


@pytest.mark.alone
async def test_trips_beside_a_held_lock_and_a_busy_loop(
    device: ModbusServer, tmp_path: Path
) -> None:
    report = tmp_path / "hogs"
    async with Site(tmp_path, site_text([device.address])) as site:
        await site.start(hogs=["--report", str(report)])
        await site.protecting(wait_s=40)
        reactions = []
        for _ in range(5):
            reactions.append(await _trip(device))
            device.set_float("ir", GAS, 0.3)
            await site.reset()
            await site.protecting()
        assert max(reactions) < REACTION_NS_MAX
    measured = read_report(report)
    assert measured.hold_ns_max >= HOLD_NS, "the lock was not held long enough to prove anything"
    assert measured.busy_runs > 0


async def test_trips_while_the_gateway_is_stopped_and_after_it_is_killed(
    device: ModbusServer, tmp_path: Path
) -> None:
    async with Site(tmp_path, site_text([device.address])) as site:
        await site.start()
        await site.ready()
        await site.protecting()
        assert site.process is not None
        site.process.send_signal(signal.SIGSTOP)
        assert await _trip(device) < REACTION_NS_MAX
        os.kill(site.process.pid, signal.SIGCONT)
        device.set_float("ir", GAS, 0.3)
        await site.reset()
        await site.protecting()

        await site.kill_gateway()
        assert await _trip(device) < REACTION_NS_MAX
        assert len(await device.edges(COIL)) == 3  # trip, reset, trip

        await site.start()
        await site.ready()
        status = await site.cli("status", "--json")
        assert status.json()["guard"]["alive"] is True
        trips = [alert for alert in site.alerts() if alert["kind"] == "trip"]
        assert len(trips) == 2
