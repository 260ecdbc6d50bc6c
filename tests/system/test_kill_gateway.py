"""kill -9 of the gateway at random moments: no trip is lost, doubled or out of sequence."""

import random
from pathlib import Path

import pytest

from tests.helpers.harness import (
    COIL,
    CONTACT,
    GAS,
    Site,
    evidence_gaps,
    site_text,
    until,
)
from tests.helpers.kills import Ranges, near, plan, provoke
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform

pytestmark = pytest.mark.system

RANGES = Ranges(behind=0.003, after=0.035, about=0.02, any=0.5)


async def _run(kills: int, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    killed: list[int] = []
    async with (
        ModbusServer(tmp_path / "requests", reads=False) as device,
        Platform() as platform,
        Site(tmp_path, site_text([device.address], url=platform.url)) as site,
    ):
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=5)
        device.set_float("ir", GAS, 0.3)
        await site.start()
        await site.ready()
        await site.protecting()
        for moment in plan(kills, chance):
            told = await provoke(device, moment, RANGES, chance)
            killed.append(await site.kill_gateway())
            if not told:
                await device.event("trip")
            await site.start()
            await site.ready()
            device.set_float("ir", GAS, 0.3)
            await site.reset()
            await site.protecting()
        edges = await device.edges(COIL)
        trips = [edge.ns for edge in edges if edge.value == 0]
        await until("every trip in the ledger", lambda: site.trips_recorded() >= len(trips))
        await platform.wait_for({alert["id"] for alert in site.alerts()})
        await site.stop()  # what it says at its end is sent, too, or waits in the ledger
        alerts = [alert for alert in site.alerts() if alert["id"] in platform.unique()]
        assert len(trips) == kills
        wrong = evidence_gaps(edges, alerts, platform.unique())
        assert not wrong, (wrong, f"seed {seed}")
    assert near(killed, trips) * 2 >= kills, f"too few kills near a trip, seed {seed}"


@pytest.mark.timeout(240)
async def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    await _run(20, tmp_path, seed=random.randrange(1 << 30))


@pytest.mark.campaign
@pytest.mark.timeout(3000)
async def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    await _run(200, tmp_path, seed=random.randrange(1 << 30))
