"""A machine that starts in another year, and is told the time later."""

import json
import mmap
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from tests.helpers.build import build
from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform
from tests.helpers.spawner import Spawner

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

YEAR_NS = 365 * 86_400 * 10**9


class Clock:
    """The wall clock of what is started with ``environment``; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._page = directory / "clock"
        self._page.write_bytes(struct.pack("<qq", 0, 1))
        self._file = self._page.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()
        self._file.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(build("libclock.so")), "SITEWARDEN_CLOCK": str(self._page)}

    def set(self, off_ns: int, *, synced: bool) -> None:
        """So much ahead of this machine's; kept by somebody or not."""
        self._map[:] = struct.pack("<qq", off_ns, int(synced))


def corrections(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [alert for alert in alerts if alert["source"] == {"kind": "gateway", "id": "clock"}]


def year(alert: dict[str, Any]) -> int:
    return datetime.fromisoformat(alert["time"][:19]).replace(tzinfo=UTC).year


async def test_times_before_the_clock_is_set_are_marked_and_corrected_once(tmp_path: Path) -> None:
    this_year = datetime.now(UTC).year
    with Clock(tmp_path) as clock:
        clock.set(-10 * YEAR_NS, synced=False)
        async with (
            Spawner(clock.environment) as spawner,
            ModbusServer(tmp_path / "requests", reads=False) as device,
            Platform() as platform,
        ):
            device.set("c", COIL, 1)
            device.link(COIL, CONTACT, ms=2)
            device.set_float("ir", GAS, 0.3)
            text = site_text([device.address], url=platform.url, latch=False)
            async with Site(tmp_path, text, spawner) as site:
                await site.start()
                await site.ready()
                await site.protecting()
                await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
                await until("the trip", lambda: site.trips_recorded() == 1)
                file = site.state / "clock.json"
                await until("a note of it", file.exists)
                await site.kill_gateway()  # which must not forget that its times are wrong
                clock.set(-11 * YEAR_NS, synced=False)  # and back by another year
                await site.start()
                await site.ready()
                device.set_float("ir", GAS, 0.3)
                await site.protecting()
                await until(
                    "the second span", lambda: len(json.loads(file.read_text())["spans"]) == 2
                )
                await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
                await until("the trip", lambda: site.trips_recorded() == 2)
                before = site.alerts()
                clock.set(0, synced=True)
                await until("the correction", lambda: len(corrections(site.alerts())) == 2)
                await until("the note gone", lambda: not file.exists())
                device.set_float("ir", GAS, 0.3)
                await site.protecting()
                await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
                await until("the trip", lambda: site.trips_recorded() == 3)
                await site.kill_gateway()
                await site.start()
                await site.ready()
                await until("alerts of this life", lambda: len(site.alerts()) > len(before) + 4)
                alerts = site.alerts()
                await platform.wait_for({alert["id"] for alert in alerts})
    told = corrections(alerts)
    assert len(told) == 2, "each span is corrected once"
    assert [alert["seq"] for alert in alerts] == list(range(1, len(alerts) + 1))
    assert len({alert["epoch"] for alert in alerts}) == 1
    assert not any(alert["clock_synced"] for alert in before)
    spans = [alert["correction"] for alert in told]
    assert spans[0]["last_seq"] + 1 == spans[1]["first_seq"]
    assert spans[1]["last_seq"] >= before[-1]["seq"]
    for span, years in zip(spans, (10, 11), strict=True):
        assert abs(span["offset_ns"] - years * YEAR_NS) < 2 * 10**9
        inside = [a for a in before if span["first_seq"] <= a["seq"] <= span["last_seq"]]
        trips = [alert for alert in inside if alert["kind"] == "trip"]
        assert len(trips) == 1
        at_ns = datetime.fromisoformat(trips[0]["time"][:19] + "+00:00").timestamp() * 1e9
        assert span["from_utc_ns"] - 5e9 <= at_ns <= span["to_utc_ns"]
        assert datetime.fromtimestamp((at_ns + span["offset_ns"]) / 1e9, UTC).year == this_year
    last = [alert for alert in alerts if alert["kind"] == "trip"][-1]
    assert last["clock_synced"]
    assert year(last) == this_year
