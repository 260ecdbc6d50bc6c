"""Problems: said once, kept for a ledger that cannot take them, and cleared."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.life import problems as problems_module
from gateway.life.problems import Problems
from gateway.store.alert import AlertDraft
from gateway.store.ledger import Ledger


class FakeLedger:
    """Takes alerts, unless it is ``full``."""

    def __init__(self) -> None:
        self.full = False
        self.drafts: list[AlertDraft] = []
        self.tried = asyncio.Event()

    async def append(self, drafts: Sequence[AlertDraft]) -> list[int]:
        self.tried.set()
        if self.full:
            raise StoreError("disk full")
        self.drafts += drafts
        return list(range(1, len(drafts) + 1))


async def test_said_once_and_cleared_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    problems, ledger = Problems(utc_ns=lambda: 5), FakeLedger()
    problems.raised("view", "127.0.0.1:9750", "port in use by pid 4")
    problems.raised("view", "127.0.0.1:9750", "port in use by pid 5")
    [active] = problems.active()
    assert (active.text, active.since_utc_ns) == ("port in use by pid 5", 5)
    problems.cleared("view", "127.0.0.1:9750", "bound")
    problems.cleared("view", "127.0.0.1:9750", "bound")
    assert problems.active() == []
    assert await problems.flush(ledger)
    raised, cleared = ledger.drafts
    assert (raised.kind, raised.state, raised.cause) == (
        "gateway",
        "raised",
        "port in use by pid 4",
    )
    assert (raised.source.kind, raised.source.id) == ("view", "127.0.0.1:9750")
    assert (cleared.state, cleared.subject) == ("cleared", raised.subject)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_what_was_logged_already_is_not_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    problems = Problems()
    problems.raised("device", "plc", "no connection", logged=True)
    assert len(problems.active()) == 1
    problems.cleared("device", "plc", "answers again", logged=True)
    assert caplog.records == []


async def test_what_an_earlier_life_raised_is_cleared() -> None:
    problems, ledger = Problems(), FakeLedger()
    problems.cleared("device", "plc", "answers")
    problems.cleared("device", "plc", "answers")
    await problems.flush(ledger)
    assert [(draft.kind, draft.state) for draft in ledger.drafts] == [("device", "cleared")]


async def test_an_event_has_no_subject() -> None:
    problems, ledger = Problems(), FakeLedger()
    problems.event("gateway", "gateway", "started")
    problems.event("gateway", "gateway", "started")
    await problems.flush(ledger)
    assert [(draft.state, draft.subject) for draft in ledger.drafts] == [("event", "")] * 2
    assert problems.active() == []


async def test_alerts_wait_for_a_full_disk_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems_module, "LEDGER_RETRY_S", 0.01)
    monkeypatch.setattr(problems_module, "_BATCH_MAX", 2)
    problems, ledger = Problems(), FakeLedger()
    stored = asyncio.Event()
    problems.on_stored = lambda: stored.set() if not problems._waiting else None
    ledger.full = True
    task = asyncio.create_task(problems.run(ledger))
    for number in range(5):
        problems.raised("device", f"plc-{number}", "no connection")
    await ledger.tried.wait()
    assert ledger.drafts == []
    ledger.full = False
    await stored.wait()
    assert [draft.source.id for draft in ledger.drafts] == [f"plc-{n}" for n in range(5)]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems_module, "WAITING_ALERTS_MAX", 3)
    problems = Problems()
    for number in range(5):
        problems.event("device", f"plc-{number}", "seen")
    assert problems.dropped == {"alerts_full": 2}


async def test_what_found_no_place_to_wait_is_told_in_its_newest_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(problems_module, "WAITING_ALERTS_MAX", 2)
    problems, ledger = Problems(), FakeLedger()
    problems.follow([])
    for ident in ("early", "full", "stays", "gone"):
        problems.raised("device", ident, "no connection")
    problems.cleared("device", "early", "answers")
    problems.cleared("device", "gone", "answers")
    assert len(problems.active()) == 2
    while problems._waiting:
        assert await problems.flush(ledger)
    assert [(draft.source.id, draft.state) for draft in ledger.drafts] == [
        ("early", "raised"),
        ("full", "raised"),
        ("stays", "raised"),
        ("early", "cleared"),
    ]
    assert problems.dropped == {"alerts_full": 2}  # of the one that came and went


async def test_an_event_is_stored_once_by_a_task_that_is_stopped_meanwhile(
    tmp_path: Path,
) -> None:
    """The ledger goes on with what a cancelled caller asked for; a stop tells what waits."""
    ledger = await Ledger.open(tmp_path / "ledger.db", "gw")
    problems = Problems()
    problems.event("gateway", "gw", "started")
    task = asyncio.create_task(problems.run(ledger))
    while not ledger._appends._waiting:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert await problems.flush(ledger)
    causes = [json.loads(item.body)["cause"] for item in await ledger.alerts(0, 10)]
    assert causes[1:] == ["started"]  # the first is the ledger's own
    await ledger.close()
