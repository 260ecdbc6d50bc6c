"""The site file anew: taken whole or refused whole, with the guard protecting throughout."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.helpers.harness import COIL, CONTACT, GAS, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests", reads=False) as server:
        server.set("c", COIL, 1)
        server.link(COIL, CONTACT, ms=5)
        server.set_float("ir", GAS, 0.3)
        yield server


@pytest_asyncio.fixture
async def site(tmp_path: Path, device: ModbusServer) -> AsyncIterator[Site]:
    async with Site(tmp_path, site_text([device.address])) as one:
        await one.start()
        await one.ready()
        await one.protecting()
        yield one


def _program(site: Site) -> bytes:
    view = site.view()
    assert view is not None
    try:
        return view.header().program
    finally:
        view.close()


def _scanned_ns(site: Site) -> int:
    view = site.view()
    assert view is not None
    try:
        return view.header().scan_mono_ns
    finally:
        view.close()


def _told(site: Site, words: str) -> bool:
    return any(words in str(alert.get("cause", "")) for alert in site.alerts())


async def test_a_broken_file_is_refused_whole(site: Site) -> None:
    program, guard = _program(site), site.guard_pid()
    whole = site.file.read_text()
    site.file.write_text(whole.replace('poll = "10ms"', 'poll = "10 parsecs"') + "[[nonsense]]\n")
    answer = await site.cli("reload")
    assert answer.code == 2
    assert "parsecs" in answer.err
    assert "nonsense" in answer.err
    site.file.write_text(whole[: len(whole) // 2])
    assert (await site.cli("reload")).code == 2
    assert _program(site) == program
    assert site.guard_pid() == guard
    await site.protecting()


async def test_what_weakens_is_named_and_asked_for(site: Site, device: ModbusServer) -> None:
    program, guard = _program(site), site.guard_pid()
    site.file.write_text(site.file.read_text().replace('response = "5s"', 'response = "6s"'))
    answer = await site.cli("reload")
    assert answer.code == 4
    assert "cut0" in answer.err
    assert "--weakens" in answer.err
    assert _program(site) == program
    answer = await site.cli("reload", "--weakens", "a slower valve")
    assert answer.code == 0, answer.err
    assert _program(site) != program
    assert site.guard_pid() == guard
    # The gateway's own part is back, and records what happens from now on.
    await until("the parts are exchanged", lambda: _told(site, "loaded anew"))
    await site.ready()
    device.set_float("ir", GAS, 3.0)
    await until("the trip is in the ledger", lambda: site.trips_recorded() == 1)


async def test_a_signal_reloads_and_a_trip_is_carried(site: Site, device: ModbusServer) -> None:
    device.set_float("ir", GAS, 3.0)
    await until("the trip is in the ledger", lambda: site.trips_recorded() == 1)
    program = _program(site)
    added = '[[tag]]\nid = "more"\ndevice = "plc0"\npoint = { address = "ir:200" }\n'
    site.file.write_text(site.file.read_text() + added)
    assert site.process is not None
    os.kill(site.process.pid, signal.SIGHUP)
    await until("the guard runs it", lambda: _program(site) != program)
    await until("the parts are exchanged", lambda: _told(site, "loaded anew"))
    assert site.interlock() == 3
    assert site.trips_recorded() == 1


async def test_a_reload_that_would_remove_a_trip_is_refused(
    site: Site, device: ModbusServer
) -> None:
    device.set_float("ir", GAS, 3.0)
    await until("the trip is in the ledger", lambda: site.trips_recorded() == 1)
    program = _program(site)
    site.file.write_text(site.file.read_text().replace('"cut0"', '"other"'))
    answer = await site.cli("reload", "--weakens", "renamed")
    assert answer.code == 4
    assert "would remove trip" in answer.err
    assert _program(site) == program
    assert site.interlock() == 3


async def test_a_kill_in_the_middle_leaves_one_of_both(site: Site) -> None:
    old = _program(site)
    site.file.write_text(site.file.read_text().replace('response = "5s"', 'response = "6s"'))
    assert (await site.cli("reload", "--weakens", "a slower valve")).code == 0
    new = _program(site)
    guard = site.guard_pid()
    await site.kill_gateway()  # while its parts are exchanged
    assert site.guard_pid() == guard
    assert _program(site) == new != old
    await site.start()
    await site.ready()
    await site.protecting()
    assert _program(site) == new


COUNTED = 300  # ir: goes up by one with each reading, so a missing number is a missing sample
COUNTER = f"""
[[tag]]
id = "counted"
device = "plc0"
point = {{ address = "ir:{COUNTED}" }}
record = "all"
"""


def _counted(platform: Platform) -> set[int]:
    """What the platform has of it."""
    return {
        int(value)
        for body in platform.samples
        for batch in body["samples"]
        if "counted" in batch.get("tags", ())
        for value in batch["v"][batch["tags"].index("counted")]
        if value is not None
    }


def _times_loaded(site: Site) -> int:
    return sum("loaded anew" in str(alert.get("cause", "")) for alert in site.alerts())


async def test_no_sample_is_lost_while_the_parts_are_exchanged(tmp_path: Path) -> None:
    async with (
        ModbusServer(tmp_path / "requests", reads=False) as device,
        Platform() as platform,
        Site(tmp_path, site_text([device.address], url=platform.url, extra=COUNTER)) as site,
    ):
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=5)
        device.set_float("ir", GAS, 0.3)
        device.count("ir", COUNTED, 1)
        await site.start()
        await site.ready()
        await site.protecting()
        for number in range(3):
            tag = f'[[tag]]\nid = "more{number}"\ndevice = "plc0"\n'
            site.file.write_text(f'{site.file.read_text()}{tag}point = {{ address = "ir:200" }}\n')
            program, before = _program(site), max(_counted(platform), default=0)
            answer = await site.cli("reload")
            assert answer.code == 0, answer.err
            assert _program(site) != program
            await until("the parts are exchanged", lambda: _times_loaded(site) > number)  # noqa: B023
            await until("it goes on", lambda: max(_counted(platform), default=0) > before + 200)  # noqa: B023
        seen = _counted(platform)
        whole = set(range(min(seen), max(seen) + 1))  # what was held back comes by backfill
        assert len(whole) > 600
        await until("no number is missing", lambda: whole <= _counted(platform))


FED = """
[[device]]
id = "fed"
driver = "modbus-tcp"
address = "{address}"
poll = "100ms"
timeout = "500ms"

[[tag]]
id = "fed.gas"
device = "fed"
point = {{ address = "ir:{gas}", type = "float32" }}
range = [0, 4]
stale_after = "1s"

[[interlock]]
id = "cut-fed"
cause = "fed.gas >= 2"
effects = ["power0"]
response = "10s"
trips_on_gateway_restart = true
armed = true
"""
STALE_NS = 5_000_000_000  # its tag, and what the guard waits besides for a gateway


async def test_an_unchanged_file_is_loaded_without_a_complaint(
    tmp_path: Path, device: ModbusServer
) -> None:
    """The session with the guard is older than its program: what it said then is not what runs."""
    fed = FED.format(address=device.address, gas=GAS)
    async with Site(tmp_path, site_text([device.address], extra=fed)) as site:
        await site.start()
        await site.ready()
        await site.protecting()
        program, trips = _program(site), site.trips_recorded()
        answer = await site.cli("reload")
        assert answer.code == 0, answer.err
        await until("the parts are exchanged", lambda: _told(site, "loaded anew"))
        scan_ns = _scanned_ns(site)
        await until("it would be stale", lambda: _scanned_ns(site) > scan_ns + STALE_NS)
        assert site.trips_recorded() == trips
        assert not _told(site, "was refused")
        assert not _told(site, "differs from the site file")
        assert _program(site) == program
