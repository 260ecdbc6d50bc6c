"""Every inode of the disk is used up: alerts go on, it is told, and heals within ten seconds."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.small_disk import small_disk

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

HEAL_S = 10.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with few inodes where the state directory will be."""
    with small_disk(tmp_path / "state", 400 * 1024, "nr_inodes=200", "mode=750") as mount:
        yield mount


def told(site: Site, state: str) -> list[dict[str, Any]]:
    """The ledger's alerts about the disk, in one state."""
    wanted = {"kind": "store", "id": "disk"}
    return [a for a in site.alerts() if a["source"] == wanted and a["state"] == state]


async def test_used_up_inodes_are_told_and_heal(tmp_path: Path, disk: Path) -> None:
    async with ModbusServer(tmp_path / "requests") as device:
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=10)
        device.set_float("ir", GAS, 0.3)
        await device.sync()
        async with Site(tmp_path, site_text([device.address])) as site:
            await site.start()
            await site.ready()
            await site.protecting()
            others = disk / "of-another-program"
            others.mkdir()
            with contextlib.suppress(OSError):
                for i in range(1000):
                    (others / str(i)).touch()
            await until("it is told", lambda: bool(told(site, "raised")))
            await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
            await until("the trip's alert", lambda: site.trips_recorded() == 1)
            began = time.monotonic()
            for each in others.iterdir():
                each.unlink()
            await until("it has healed", lambda: bool(told(site, "cleared")), HEAL_S)
            assert time.monotonic() - began <= HEAL_S
            assert len(told(site, "raised")) == 1
            assert "Traceback" not in site.log_text()
