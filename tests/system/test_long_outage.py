"""The link is down for hours, 1,200 sensors go on at 1 Hz, and then it is back.

Accelerated: hours of samples at the scanner's door, through all that ``run`` has behind it, to
mosquitto and a platform that compares every single sample with the one that was made.
"""

from pathlib import Path

import pytest

from tests.helpers.outage import ALERTS, Figures, measure

HOUR_S = 3_600
MEMORY_BYTES_MAX = 64_000_000
BYTES_PER_SAMPLE_MAX = 500_000_000 / 311_040_000
# Drain over paho; in ten seconds of two busy cores less is seen.
RATIO_MIN, RATIO_MIN_SHORT = 50, 20
# What is not packed yet, and the -wal: the same after an hour and a week.
TAIL_BYTES_MAX = 8_000_000
pytestmark = [pytest.mark.system, pytest.mark.alone]


@pytest.mark.timeout(180)
async def test_an_hour_without_a_link_costs_nothing_but_the_wait(tmp_path: Path) -> None:
    figures = await measure(tmp_path, HOUR_S)
    print("\n".join(figures.lines()))
    _holds(figures)
    assert figures.file_bytes <= BYTES_PER_SAMPLE_MAX * figures.samples + TAIL_BYTES_MAX
    assert figures.ratio >= RATIO_MIN_SHORT


@pytest.mark.campaign
@pytest.mark.timeout(5_400)
async def test_three_days_without_a_link_cost_nothing_but_the_wait(tmp_path: Path) -> None:
    """Takes half an hour."""
    figures = await measure(tmp_path, 72 * HOUR_S)
    print("\n".join(figures.lines()))
    _holds(figures)
    assert figures.file_bytes <= BYTES_PER_SAMPLE_MAX * figures.samples
    assert figures.ratio >= RATIO_MIN


def _holds(figures: Figures) -> None:
    _nothing_is_lost(figures)
    _alerts_come_first(figures)
    assert max(figures.private + figures.private_draining) <= MEMORY_BYTES_MAX
    assert abs(figures.slope()) < 0.05
    assert figures.latency_s(0.99) < 1.0
    assert 0.5 < figures.written_bytes / figures.disk_bytes < 2


def _nothing_is_lost(figures: Figures) -> None:
    verdict = figures.verdict
    assert verdict["missing"] == []
    assert verdict["faults"] == []
    assert (verdict["wrong"], verdict["backwards"], verdict["bad"]) == (0, 0, 0)
    assert verdict["samples"] >= figures.samples
    assert figures.drained >= figures.samples
    assert figures.told.gaps == 0
    assert figures.told.alarms == figures.alarms_end


def _alerts_come_first(figures: Figures) -> None:
    assert figures.alarms >= ALERTS
    assert figures.alerts_first >= figures.alarms
    assert figures.alerts_s <= 60
