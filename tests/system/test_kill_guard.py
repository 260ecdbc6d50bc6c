"""kill -9 of the guard at random moments under load: nothing is lost, nothing invented.

It comes back tripped, trip value first. Three outside observers: the device's own log of writes,
the ledger read with sqlite3, and the platform's alerts.
"""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from fastpath.codes import InterlockState
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
from tests.helpers.modbus_server import COIL_WRITES, ModbusServer, Request
from tests.helpers.platform import Platform

pytestmark = pytest.mark.system

LOAD_TAGS = 20  # beside the site's own, each kept at every poll of 10 ms: 2,000 samples a second
SAMPLES_PER_KILL = 50  # at least, else there was no load; a life is short

RANGES = Ranges(behind=0.003, after=0.003, about=0.02, any=0.3)


def _is_trip(request: Request) -> bool:
    return request.function in COIL_WRITES and request.values[0][1] == 0


def _first_write_after(requests: Sequence[Request], killed: int) -> Request:
    """The first write on any connection that was opened after the kill."""
    opened = {r.connection for r in requests if r.kind == "open" and r.ns > killed}
    return next(r for r in requests if r.kind == "w" and r.connection in opened)


def _was_on_the_wire(requests: Sequence[Request], armed: int, killed: int) -> bool:
    return any(r.kind == "w" and armed <= r.ns < killed and _is_trip(r) for r in requests)


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


async def _run(kills: int, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    killed: list[int] = []
    async with (
        ModbusServer(tmp_path / "requests", reads=False) as device,
        Platform() as platform,
        Site(tmp_path, site_text([device.address], url=platform.url, extra=_load())) as site,
    ):
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=5)
        device.set_float("ir", GAS, 0.3)
        await site.start()
        await site.ready()
        await site.protecting()
        for moment in plan(kills, chance):
            before = site.guard_pid()
            told = await provoke(device, moment, RANGES, chance)
            killed.append(site.kill_guard())
            if not told:
                await device.event("trip")
            await until("a new guard", partial(_is_new, site, before))
            await until("tripped again", lambda: site.interlock() == InterlockState.TRIPPED)
            device.set_float("ir", GAS, 0.3)
            await site.reset()
            await site.protecting()
        requests = await device.requests()
        edges = await device.edges(COIL)
        trips = [edge.ns for edge in edges if edge.value == 0]
        await until("every trip in the ledger", lambda: site.trips_recorded() >= len(trips))
        await platform.wait_for({alert["id"] for alert in site.alerts()})
        samples = _samples(site)
        await site.stop()
        alerts = [alert for alert in site.alerts() if alert["id"] in platform.unique()]
        wrong = evidence_gaps(edges, alerts, platform.unique())
        assert not wrong, (wrong, f"seed {seed}")
    assert len(killed) == kills
    assert samples >= SAMPLES_PER_KILL * kills, f"too little load: {samples} samples"
    assert platform.samples, "no samples on the uplink beside the alerts"
    proven = 0
    for kill in killed:
        released = max((e.ns for e in edges if e.value == 1 and e.ns < kill), default=0)
        if _was_on_the_wire(requests, released, kill):
            proven += 1
            first = _first_write_after(requests, kill)
            assert _is_trip(first), (first, f"seed {seed}")
    assert proven * 2 >= kills, f"too few kills after the trip was on the wire, seed {seed}"
    assert near(killed, trips) * 2 >= kills, f"too few kills near a trip, seed {seed}"


def _is_new(site: Site, before: int | None) -> bool:
    return site.guard_pid() not in {None, before}


@pytest.mark.timeout(300)
async def test_fifty_kills_lose_and_invent_nothing(tmp_path: Path) -> None:
    await _run(50, tmp_path, seed=random.randrange(1 << 30))


@pytest.mark.campaign
@pytest.mark.timeout(3500)
async def test_a_thousand_kills_lose_and_invent_nothing(tmp_path: Path) -> None:
    await _run(1000, tmp_path, seed=random.randrange(1 << 30))
