"""kill -9 of the gateway, at its start and at any moment after it: nothing lost, nothing invented.

The guard goes on meanwhile and the device trips several times a second, so that most kills find the
gateway in the middle of something. What the device and the platform saw is compared with what the
ledger says; a register that goes up by one with every reading tells whether a sample is missing.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.harness import (
    COIL,
    CONTACT,
    GAS,
    LIMIT,
    Site,
    evidence_gaps,
    site_text,
    until,
)
from tests.helpers.kills import near
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform, readings
from tests.helpers.spawner import Spawner

pytestmark = pytest.mark.system

SITES = 3  # side by side
AT_START = 0.3  # of the kills come before the gateway is ready
START_S, RUN_S, LONG_S, PAUSE_S = 0.5, 0.35, 1.5, 0.06
LONG = 0.1  # of the kills come after more than a commit of the history
READINGS_MIN = 200
COUNTER = """
[[tag]]
id = "reads{i}"
device = "plc{i}"
point = {{ address = "hr:10" }}
record = "all"
"""


class Plant:
    """One site that is killed and killed again, its device and its platform."""

    def __init__(self, directory: Path, spawner: Spawner, seed: int) -> None:
        directory.mkdir()
        self._directory = directory
        self._spawner = spawner
        self._chance = random.Random(seed)
        self._enough = False
        self.killed: list[int] = []
        self.trips: list[int] = []

    async def live(self, kills: int) -> list[str]:
        """Be killed so often; what does not agree in the end."""
        async with (
            ModbusServer(self._directory / "requests", reads=False) as device,
            Platform() as platform,
        ):
            text = site_text([device.address], url=platform.url, latch=False)
            text += COUNTER.format(i=0)
            device.set("c", COIL, 1)
            device.link(COIL, CONTACT, ms=2)
            device.set_float("ir", GAS, 0.3)
            device.count("hr", 10, 1)
            async with Site(self._directory, text, self._spawner) as site:
                await site.start()
                await site.ready()
                await site.protecting()
                work = asyncio.create_task(self._work(device))
                for _ in range(kills):
                    await self._kill(site)
                await site.ready()
                self._enough = True
                await work
                edges = await device.edges(COIL)
                self.trips = [edge.ns for edge in edges if edge.value == 0]
                await until("every trip", lambda: site.trips_recorded() >= len(self.trips))
                await platform.wait_for({alert["id"] for alert in site.alerts()})
                last = (await device.get("hr", 10))[0]
                with contextlib.suppress(TimeoutError):  # what is missing is told below
                    await platform.wait_until(lambda: _whole(platform, last))
                await site.stop()
                alerts = [alert for alert in site.alerts() if alert["id"] in platform.unique()]
                return [
                    *evidence_gaps(edges, alerts, platform.unique()),
                    *holes(readings("reads0", platform.samples)),
                ]

    async def _kill(self, site: Site) -> None:
        if self._chance.random() < AT_START:
            await asyncio.sleep(self._chance.uniform(0.0, START_S))
        else:
            await site.ready()
            span_s = LONG_S if self._chance.random() < LONG else RUN_S
            await asyncio.sleep(self._chance.uniform(0.0, span_s))
        self.killed.append(await site.kill_gateway())
        await site.start()

    async def _work(self, device: ModbusServer) -> None:
        """Trip and go back to normal, again and again."""
        for gas, coil in itertools.cycle(((LIMIT + 0.5, 0), (0.3, 1))):
            if self._enough and coil == 0:
                return
            device.set_float("ir", GAS, gas)
            while (await device.get("c", COIL))[0] != coil:  # noqa: ASYNC110
                await asyncio.sleep(0.003)
            await asyncio.sleep(self._chance.uniform(0.0, PAUSE_S))


def _whole(platform: Platform, last: float) -> bool:
    """The backlog has come, too: it leaves after what is live."""
    values = readings("reads0", platform.samples)
    return max(values, default=0) >= last and not holes(values)


def holes(values: Sequence[float]) -> list[str]:
    """Readings of a counting register that are missing or came twice."""
    wrong = [f"only {len(values)} readings"] if len(values) < READINGS_MIN else []
    pairs = itertools.pairwise(values)
    return wrong + [f"from reading {a} to {b}" for a, b in pairs if b - a != 1]


async def _run(kills: int, tmp_path: Path, seed: int) -> None:
    async with Spawner() as spawner:
        plants = [Plant(tmp_path / str(i), spawner, seed + i) for i in range(SITES)]
        share = -(-kills // SITES)
        wrong = await asyncio.gather(*(plant.live(share) for plant in plants))
    assert not any(wrong), (wrong, f"seed {seed}")
    killed = sum(len(plant.killed) for plant in plants)
    close = sum(near(plant.killed, plant.trips) for plant in plants)
    trips = sum(len(plant.trips) for plant in plants)
    assert killed >= kills
    assert trips >= 2 * kills, f"too little load, seed {seed}"
    assert close * 3 >= killed, f"too few kills near a trip, seed {seed}"


@pytest.mark.timeout(240)
async def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    await _run(100, tmp_path, seed=random.randrange(1 << 30))


@pytest.mark.campaign
@pytest.mark.timeout(3000)
async def test_a_thousand_kills_lose_nothing(tmp_path: Path) -> None:
    await _run(1_000, tmp_path, seed=random.randrange(1 << 30))
