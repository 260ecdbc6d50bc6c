"""The kernel makes the disk read-only under a running gateway; somebody mends and mounts it again.

Real ext4, a real error: what is open stays open and fails at the next write, and stays so until the
file system is unmounted, which nothing of ours may prevent.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from tests.helpers.machine import COUNTER, READS
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform, readings
from tests.helpers.small_disk import FailingDisk, failing_disk

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

HEAL_S = 10.0
DISK_MIB = 400


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """Where the state directory will be."""
    with failing_disk(tmp_path / "state", DISK_MIB) as found:
        found.mount.chmod(0o750)
        yield found


def told(platform: Platform, state: str) -> list[dict[str, Any]]:
    """The platform's alerts about the ledger, in one state."""
    wanted = {"kind": "store", "id": "ledger"}
    return [a for a in platform.unique().values() if (a["source"], a["state"]) == (wanted, state)]


def counted(platform: Platform) -> list[float]:
    """The readings of the counter that have arrived."""
    return readings("reads0", platform.samples)


async def says(site: Site, text: str) -> bool:
    """Whether status says so of the ledger."""
    problems = (await site.get("/status"))["problems"]
    return any(problem["id"] == "ledger" and text in problem["text"] for problem in problems)


async def is_recorded(site: Site, platform: Platform) -> bool:
    """Whether everything that the guard has told is in the ledger and at the platform."""
    view = site.view()
    assert view is not None
    try:
        header = view.header()
    finally:
        view.close()
    alerts = {alert["id"] for alert in site.alerts()}
    return header.event_tail == header.event_head and alerts <= platform.unique().keys()


async def test_what_happens_while_the_disk_is_read_only_is_told_afterwards(
    tmp_path: Path, disk: FailingDisk
) -> None:
    async with ModbusServer(tmp_path / "requests") as device, Platform() as platform:
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=10)
        device.set_float("ir", GAS, 0.3)
        device.count("hr", READS, 1)
        await device.sync()
        text = site_text([device.address], url=platform.url, latch=False) + COUNTER
        async with Site(tmp_path, text) as site:
            await site.start()
            await site.ready()
            await site.protecting()
            await until("all is recorded", lambda: is_recorded(site, platform))
            known = len(platform.unique())
            disk.fail()
            await until("it is said", lambda: says(site, "ledger.db"))
            await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
            device.set_float("ir", GAS, 0.3)
            await site.protecting()
            await until("nothing of ours is open there", disk.is_let_go)
            assert len(platform.unique()) == known, "an alert was sent that is nowhere"
            disk.check()
            await until("it is missed", lambda: says(site, "not mounted"))
            assert not list(disk.mount.iterdir()), "something was written where the disk was"
            disk.put_in()
            healing = time.monotonic()
            await until("its end is told", lambda: bool(told(platform, "cleared")), HEAL_S)
            assert time.monotonic() - healing <= HEAL_S
            assert told(platform, "raised")
            await until("all is recorded", lambda: is_recorded(site, platform))
            received = platform.unique()
            alerts = site.alerts()  # there may be more by now
            await platform.wait_for({alert["id"] for alert in alerts})
            received |= {alert["id"]: alert for alert in alerts}
            assert not evidence_gaps(await device.edges(COIL), alerts, received)
            assert len({alert["epoch"] for alert in alerts}) == 1
            reads = (await device.get("hr", READS))[0]
            await platform.wait_until(lambda: max(counted(platform), default=0) >= reads)
            holes = [(a, b) for a, b in itertools.pairwise(counted(platform)) if b - a != 1]
            assert not holes
            assert "Traceback" not in site.log_text()
