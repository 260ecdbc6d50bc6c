"""kill -9 of the guard at random moments under load: nothing is lost, nothing invented.

It comes back tripped, trip value first. Three outside observers: the device's own log of writes,
the ledger read with sqlite3, and the platform's alerts. Several sites side by side, each with its
own directories, device and platform.
"""

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from fastpath.codes import InterlockState
from gateway.guard.supervise import RESTART_AT_ONCE_S
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
from tests.helpers.modbus_server import COIL_WRITES, Edge, ModbusServer, Request, edges_of
from tests.helpers.platform import Platform

pytestmark = pytest.mark.system

LOAD_TAGS = 20  # beside the site's own, each kept at every poll of 10 ms: 2,000 samples a second
SAMPLES_PER_KILL = 50  # at least, else there was no load; a life is short
# A guard that dies young twice is started again only after a second, then two, then five. So every
# second one lives long enough to be started again at once, and none is waited for.
LIFE_S = RESTART_AT_ONCE_S + 0.1

RANGES = Ranges(behind=0.003, after=0.003, about=0.02, any=0.3)


def _is_trip(request: Request) -> bool:
    return request.function in COIL_WRITES and request.values[0][1] == 0


def _load() -> str:
    """Tags side by side, read in one request, whose every sample is kept and sent."""
    return "\n".join(
        f'[[tag]]\nid = "load{n}"\ndevice = "plc0"\nrecord = "all"\n'
        f'point = {{ address = "hr:{200 + n}" }}'
        for n in range(LOAD_TAGS)
    )


def _samples(site: Site) -> int:
    """How many the guard ever wrote: its positions go on over its lives."""
    view = site.view()
    assert view is not None
    try:
        return view.samples(1 << 62, 1)[0] if view.guard_alive() else 0
    finally:
        view.close()


@dataclass(frozen=True)
class Found:
    """What one site's outside observers have at its end."""

    killed: list[int]  # moments, ns
    requests: list[Request]
    edges: list[Edge]  # of the coil
    wrong: list[str]  # what does not agree between device, ledger and platform
    samples: int  # written by the guard
    batches: int  # of samples at the platform

    @property
    def trips(self) -> list[int]:
        """When the coil went to the trip value, ns."""
        return [edge.ns for edge in self.edges if edge.value == 0]

    def proven(self) -> list[int]:
        """The kills after a trip that was on the wire already."""
        return [kill for kill in self.killed if self._was_on_the_wire(kill)]

    def first_write_after(self, kill: int) -> Request:
        """The first write on any connection that was opened after the kill."""
        opened = {r.connection for r in self.requests if r.kind == "open" and r.ns > kill}
        return next(r for r in self.requests if r.kind == "w" and r.connection in opened)

    def _was_on_the_wire(self, kill: int) -> bool:
        armed = max((e.ns for e in self.edges if e.value == 1 and e.ns < kill), default=0)
        return any(r.kind == "w" and armed <= r.ns < kill and _is_trip(r) for r in self.requests)


async def _kill(site: Site, device: ModbusServer, kills: int, chance: random.Random) -> list[int]:
    """Kill it so often, each time at the trip of a life that began released; moments in ns."""
    killed: list[int] = []
    for number, moment in enumerate(plan(kills, chance)):
        before = site.guard_pid()
        if number % 2:
            await asyncio.sleep(LIFE_S)  # nothing outside tells what the supervisor counts
        told = await provoke(device, moment, RANGES, chance)
        killed.append(site.kill_guard())
        if not told:
            await device.event("trip")
        await until("a new guard", partial(_is_new, site, before))
        await until("tripped again", lambda: site.interlock() == InterlockState.TRIPPED)
        device.set_float("ir", GAS, 0.3)
        await site.reset()
        await site.protecting()
    return killed


async def _one_site(kills: int, folder: Path, chance: random.Random) -> Found:
    folder.mkdir()
    async with (
        ModbusServer(folder / "requests", reads=False) as device,
        Platform() as platform,
        Site(folder, site_text([device.address], url=platform.url, extra=_load())) as site,
    ):
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=5)
        device.set_float("ir", GAS, 0.3)
        await site.start()
        await site.ready()
        await site.protecting()
        killed = await _kill(site, device, kills, chance)
        requests = await device.requests()
        edges = edges_of(requests, COIL)
        trips = sum(edge.value == 0 for edge in edges)
        await until("every trip in the ledger", lambda: site.trips_recorded() >= trips)
        await platform.wait_for({alert["id"] for alert in site.alerts()})
        samples = _samples(site)
        await site.stop()
        alerts = [alert for alert in site.alerts() if alert["id"] in platform.unique()]
        wrong = evidence_gaps(edges, alerts, platform.unique())
        return Found(killed, requests, edges, wrong, samples, len(platform.samples))


async def _run(kills: int, sites: int, tmp_path: Path, told: pytest.CaptureFixture[str]) -> None:
    seed = random.randrange(1 << 30)
    begun_s = time.monotonic()
    each = kills // sites
    found = await asyncio.gather(
        *(_one_site(each, tmp_path / str(n), random.Random(seed + n)) for n in range(sites))
    )
    proven = sum(len(one.proven()) for one in found)
    closely = sum(near(one.killed, one.trips) for one in found)
    samples = sum(one.samples for one in found)
    with told.disabled():
        sys.stdout.write(
            f"\n{kills} kills at {sites} sites in {time.monotonic() - begun_s:.0f} s: {proven}"
            f" after the trip was on the wire, {closely} within 50 ms of a trip; {samples} samples;"
            f" {sum(len(one.trips) for one in found)} trips seen by the devices;"
            f" {sum(len(one.wrong) for one in found)} things lost or invented\n"
        )
    for one in found:
        assert not one.wrong, (one.wrong, f"seed {seed}")
        assert len(one.killed) == each
        assert one.samples >= SAMPLES_PER_KILL * each, f"too little load: {one.samples} samples"
        assert one.batches, "no samples on the uplink beside the alerts"
        for kill in one.proven():
            first = one.first_write_after(kill)
            assert _is_trip(first), (first, f"seed {seed}")
    assert proven * 2 >= kills, f"too few kills after the trip was on the wire, seed {seed}"
    assert closely * 2 >= kills, f"too few kills near a trip, seed {seed}"


def _is_new(site: Site, before: int | None) -> bool:
    return site.guard_pid() not in {None, before}


@pytest.mark.timeout(120)
async def test_fifty_kills_lose_and_invent_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await _run(50, 2, tmp_path, capsys)


@pytest.mark.campaign
@pytest.mark.timeout(3500)
async def test_a_thousand_kills_lose_and_invent_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await _run(1000, 4, tmp_path, capsys)
