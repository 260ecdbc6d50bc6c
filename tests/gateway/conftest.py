"""What several tests of the uplinks share."""

import pytest

from gateway.uplink import (
    doubts,
    http_answer,
    link_state,
    mqtt_codes,
    settling,
)
from tests.helpers.pumping import Bench


@pytest.fixture
def bench() -> Bench:
    """A pump between stores in memory and a platform."""
    return Bench()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uplinks that wait for milliseconds where they wait for seconds."""
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.01)
    monkeypatch.setattr(link_state, "BACKOFF_S_MAX", 0.04)
    monkeypatch.setattr(settling, "REFUSED_RETRY_S", 0.05)
    monkeypatch.setattr(settling, "STORE_RETRY_S", 0.01)
    monkeypatch.setattr(http_answer, "DENIED_RETRY_S", 0.05)
    monkeypatch.setattr(mqtt_codes, "DENIED_RETRY_S", 0.05)
    monkeypatch.setattr(link_state, "LOOK_S", 0.02)
    monkeypatch.setattr(doubts, "HOLD_S", 0.01)
    monkeypatch.setattr(doubts, "HOLD_S_MAX", 0.04)
    monkeypatch.setattr(doubts, "EVERY_S", 0.05)
