"""What the daemon makes of a reload whose parts cannot be built, and of a guard that is foreign."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import daemon as daemons
from gateway.daemon import Daemon
from gateway.errors import ConfigError
from gateway.guard.link import LinkState
from gateway.paths import prepare, site_paths
from gateway.store.alert import AlertDraft, Source
from gateway.store.history import History
from gateway.store.ledger import Ledger


async def _endless() -> None:
    await asyncio.Event().wait()


class Failing:
    """Stands for ``_start_parts``: fails so many times, having started a task or not."""

    def __init__(self, daemon: Any, times: int) -> None:
        self.daemon = daemon
        self.times = times
        self.calls = 0
        self.left: list[frozenset[str]] = []

    async def __call__(self, *, decided: bool) -> Any:
        assert decided  # the guard runs the new site file by then
        self.calls += 1
        self.left.append(frozenset(self.daemon._tasks.names))
        if self.calls > 1:  # the first fails before it has started anything
            self.daemon._tasks.start("part", _endless)
        if self.calls <= self.times:
            message = "no room on the disk"
            raise OSError(message)
        return SimpleNamespace(config=SimpleNamespace(site=SimpleNamespace(id="mine", name="")))


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(daemons, "REBUILD_S", 0.01)
    monkeypatch.setattr(daemons, "EXCHANGE_S", 0.0)
    monkeypatch.setattr(daemons, "gateway_name", lambda config: config.site.id)
    paths = site_paths(tmp_path / "run", tmp_path / "state")
    prepare(paths)
    checked: Any = SimpleNamespace(warnings=())
    made = Daemon(tmp_path / "site.toml", checked, paths, None)
    made._tasks.start("guard", _endless)
    yield made
    await made._tasks.stop(1.0)


async def test_parts_that_cannot_be_built_are_tried_again_and_told(
    daemon: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Failing(daemon, 2)
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(daemon, "_start_parts", parts)
    monkeypatch.setattr(
        daemon._problems, "raised", lambda *words, **_: told.append(("raised", words[2]))
    )
    monkeypatch.setattr(
        daemon._problems, "cleared", lambda *words, **_: told.append(("cleared", words[2]))
    )
    daemon._exchange_soon(SimpleNamespace(warnings=()))
    await asyncio.wait_for(daemon._exchanging, 5.0)
    assert parts.calls == 3
    assert [how for how, _ in told] == ["raised", "raised", "cleared"]
    assert "no room on the disk" in told[0][1]
    # What a failed try had started was ended, and the guard is watched all the time.
    assert parts.left == [frozenset({"guard"})] * 3
    assert caplog.text.count("the gateway cannot be built anew") == 2


async def test_a_later_reload_takes_the_place_of_one_that_cannot_be_built(
    daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Failing(daemon, 1000)
    monkeypatch.setattr(daemon, "_start_parts", parts)
    daemon._exchange_soon(SimpleNamespace(warnings=()))
    async with asyncio.timeout(5.0):
        while parts.calls < 2:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    first = daemon._exchanging
    parts.times = 0
    daemon._exchange_soon(SimpleNamespace(warnings=()))
    await asyncio.wait_for(daemon._exchanging, 5.0)
    assert first.cancelled()


async def test_what_the_end_of_the_old_parts_adds_for_an_uplink_that_goes_is_given_up(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload found nothing owed to it; the last alert came when that was decided."""
    folder = tmp_path / "stores"
    folder.mkdir()

    async def opened(*_: Any, **__: Any) -> Any:
        ledger = await Ledger.open(folder / "ledger.db", "gw", uplinks=["idle"])
        return ledger, await History.open(folder / "history.db", groups=[], uplinks=["idle"])

    async def started(*_: Any) -> None:
        return

    config = SimpleNamespace(site=SimpleNamespace(id="mine", discard_uplinks=()), uplink=[])
    monkeypatch.setattr(daemons, "open_stores", opened)
    monkeypatch.setattr(
        daemons, "build_gateway", lambda *_, **__: SimpleNamespace(config=config, reloader=None)
    )
    monkeypatch.setattr(daemons, "ViewServer", lambda *_: None)
    monkeypatch.setattr(daemon, "_start_tasks", started)
    source = Source("tag", "t")
    daemon._stores = await opened()
    await daemon._stores[0].append(
        [AlertDraft(kind="alarm", state="event", source=source, cause="late")]
    )
    await daemon._stop_parts()
    daemon._checked = SimpleNamespace(config=config, warnings=())
    with pytest.raises(ConfigError, match="'idle' any more"):
        await daemon._start_parts()  # as a start from cold does
    await daemon._close_stores()
    daemon._exchange_soon(daemon._checked)
    await asyncio.wait_for(daemon._exchanging, 5.0)
    ledger, history = daemon._stores
    assert "idle" not in ledger.cursors.owed()
    assert not history.owed()
    await daemon._close_stores()
    with sqlite3.connect(folder / "ledger.db") as connection:
        sql = "SELECT body FROM audit WHERE kind = 'command' AND action = 'discard uplink'"
        ((body,),) = connection.execute(sql)
    assert json.loads(body)["target"] == "idle"
    assert json.loads(body)["detail"]["alerts"] >= 1


async def test_a_guard_of_another_version_is_told_until_one_answers_that_is_understood(
    daemon: Any,
) -> None:
    def told() -> list[str]:
        return [f"{problem.kind} {problem.text}" for problem in daemon._problems.active()]

    daemon._linked(LinkState(False, False, None, "the guard speaks version 3"))
    assert told() == ["guard the guard speaks version 3"]
    daemon._linked(LinkState(False, True, None, "the guard closed the link"))
    assert told() == ["guard the guard speaks version 3"], "away is not understood"
    daemon._linked(LinkState(True, True, None, "connected"))
    assert told() == []
