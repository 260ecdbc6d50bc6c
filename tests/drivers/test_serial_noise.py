"""Noise on a serial line: no wrong value, in step again with the next frame, nothing torn down.

Each value's second is twice its first plus one, so that a wrong one cannot hide. Instruments
without a checksum are left out: what noise makes of their digits nobody can tell.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from drivers.base import Reading
from drivers.errors import DeviceError, LinkError
from drivers.kind import Surroundings
from drivers.registry import make_driver
from fastpath.codes import Quality
from gateway.site.model import Config, Duration, Point, Site, Tag
from tests.helpers.instruments import MS, Instrument, instrument
from tests.helpers.scanning import Bench
from tests.helpers.unsecret import no_secrets

WITHIN_S = 25.0
FIELDS = {"wind": ("angle", "speed"), "logger": ("i1", "i2"), "gas": ("gas", "temperature")}
LEVELS = (1_000, 10_000, 100_000)  # damaged bytes of a million


def points(kind: str) -> list[Point]:
    scale = 1000.0 if kind == "logger" else 1.0
    return [Point(field=name, scale=scale) for name in FIELDS[kind]]


def driver_of(far: Instrument) -> Any:
    made = [(point, None) for point in points(far.kind)]
    patient = far.device(poll=Duration(3_000 * MS))  # before a stream counts as silent
    return make_driver("serial", patient, made, Surroundings(no_secrets))


def right(batch: list[Reading]) -> bool:
    """Whether two good values belong together."""
    values = [reading.value for reading in batch if reading.quality == Quality.GOOD]
    return len(values) < 2 or round(values[1], 6) == round(2 * values[0] + 1, 6)


@pytest.mark.parametrize("ppm", LEVELS)
@pytest.mark.parametrize("kind", ["wind", "logger"])
async def test_a_stream_under_noise(kind: str, ppm: int, tmp_path: Path) -> None:
    wanted = {1_000: 400, 10_000: 300, 100_000: 40}[ppm]
    async with instrument(kind, tmp_path / "tty", period_us=1_000, seed=ppm) as far:
        await far.tell("cycle 1")
        driver = driver_of(far)
        await driver.connect()
        try:
            batches = driver.readings()
            async with asyncio.timeout(WITHIN_S):
                await anext(batches)  # listening
                before, clean, _ = await far.count()
                await far.tell(f"errors {ppm}")
                good = 0
                async for batch in batches:
                    assert right(batch), (batch, driver.stats())
                    good += 1
                    if good == wanted:
                        break
                sent, damaged, _ = await far.count()
                # A damaged delimiter joins two lines; no damage costs more than two.
                lost = (sent - before) - driver.stats()["good"]
                assert lost <= 2 * (damaged - clean) + 5
                assert driver.stats()["bad_checksum"] > 0
                assert "lost" not in driver.stats()
                await far.tell("errors 0")
                follows = [await anext(batches) for _ in range(20)]
                assert all(right(batch) for batch in follows)
            await batches.aclose()
        finally:
            await driver.close()


@pytest.mark.parametrize("ppm", LEVELS)
async def test_an_instrument_that_is_asked_under_noise(ppm: int, tmp_path: Path) -> None:
    """Both ways: damaged requests are not answered, damaged answers not taken."""
    polls = {1_000: 100, 10_000: 40, 100_000: 10}[ppm]
    async with instrument("gas", tmp_path / "tty", seed=ppm) as far:
        await far.tell("cycle 1")
        driver = driver_of(far)
        driver._timeout_s = 0.05
        plan = driver.plan([0, 1])
        await driver.connect()
        try:
            good = 0
            await far.tell(f"errors {ppm}")
            await far.tell(f"heard {ppm}")
            for _ in range(polls):
                with contextlib.suppress(DeviceError, LinkError):
                    batch = await driver.read(plan)
                    assert right(batch), batch
                    good += 1
            assert good >= {1_000: 0.85, 10_000: 0.5, 100_000: 0}[ppm] * polls
            await far.tell("errors 0")
            await far.tell("heard 0")
            await driver.read(plan)  # the very next poll
        finally:
            await driver.close()


async def test_noise_tears_no_connection_down(tmp_path: Path) -> None:
    """As a site runs it: under errors of 1 % values come, and the port stays open."""
    async with instrument("gas", tmp_path / "tty") as far:
        await far.tell("cycle 1")
        await far.tell("errors 10000")
        tags = tuple(
            Tag(id=f"t{n}", device="dut", point=point, poll=Duration(20 * MS),
                stale_after=Duration(2000 * MS), record="all")
            for n, point in enumerate(points("gas"))
        )  # fmt: skip
        config = Config(site=Site(id="s"), device=(far.device(),), tag=tags)
        bench = Bench(config)
        async with asyncio.timeout(WITHIN_S), bench.scanning():
            await bench.until(lambda: len(bench.samples) >= 50)
            stats = bench.scanner.stats().devices["dut"]
            assert stats.connects == 1
            assert stats.up
        assert {sample[1] for sample in bench.samples} == {Quality.GOOD}
