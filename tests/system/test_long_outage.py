"""The link is down for hours, 1,200 sensors go on at 1 Hz, and then it is back.

Accelerated: hours of samples at the scanner's door, through all that ``run`` has behind it, to
mosquitto and a platform that compares every single sample with the one that was made.
"""

from pathlib import Path

import pytest

from tests.helpers.outage import ALERTS, Figures, measure

HOUR_S = 3_600
pytestmark = [pytest.mark.system, pytest.mark.alone]


def _nothing_is_lost(figures: Figures) -> None:
    verdict = figures.verdict
    assert verdict["missing"] == []
    assert verdict["faults"] == []
    assert (verdict["wrong"], verdict["backwards"], verdict["bad"]) == (0, 0, 0)
    assert verdict["samples"] >= figures.samples
    assert figures.told.gaps == 0
    assert figures.told.alarms == figures.alarms_end


def _alerts_come_first(figures: Figures) -> None:
    assert figures.alarms >= ALERTS
    assert figures.alerts_first >= figures.alarms
    assert figures.alerts_s <= 60


@pytest.mark.timeout(120)
async def test_an_outage_loses_and_invents_nothing(tmp_path: Path) -> None:
    figures = await measure(tmp_path, HOUR_S // 12)
    print("\n".join(figures.lines()))
    _nothing_is_lost(figures)
    assert figures.alerts_first >= figures.alarms
    assert figures.alarms > 0
