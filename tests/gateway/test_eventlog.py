"""Lines about the guard: loud where people must look, and never a flood."""

from typing import Any

import pytest

from gateway.guard.eventlog import LINES_MAX, SPAN_NS, EventLog
from gateway.store.alert import AlertDraft, Source

TRIP = AlertDraft(
    kind="trip",
    state="raised",
    source=Source("interlock", "face-power-cut"),
    priority="critical",
    cause="2 of 3",
)
BACK = AlertDraft(kind="device", state="cleared", source=Source("device", "plc"), priority="high")


def test_levels_and_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    drafts: list[Any] = [TRIP, None, BACK]
    log = EventLog(lambda _: drafts.pop(0))
    event: Any = None
    for _ in range(3):
        log.observe(event)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "interlock face-power-cut: trip raised: 2 of 3"),
        ("INFO", "device plc: device cleared: "),
    ]


def test_a_storm_is_cut_short_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0]
    log = EventLog(lambda _: TRIP, monotonic_ns=lambda: now[0])
    event: Any = None
    for _ in range(LINES_MAX + 7):
        log.observe(event)
    assert len(caplog.records) == LINES_MAX
    now[0] = SPAN_NS
    log.observe(event)
    assert [record.getMessage() for record in caplog.records[LINES_MAX:]] == [
        "7 lines about the guard were left out",
        "interlock face-power-cut: trip raised: 2 of 3",
    ]
