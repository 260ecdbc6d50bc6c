"""Dead letters in people's hands: listed, shown, sent again, given up; every order in the audit."""

import asyncio
import contextlib
import json
import os
import pwd
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.orders.commands import Commands
from gateway.store.ledger import Ledger
from gateway.view.reactions import Reactions
from gateway.view.server import ViewServer
from tests.gateway.test_cli import Terminal
from tests.helpers.audits import audit_entries
from tests.helpers.gateway_parts import gateway_of
from tests.helpers.live_guard import LiveGuard
from tests.helpers.modbus_server import ModbusServer

if TYPE_CHECKING:
    from gateway.parts import Gateway

ALERT = {"id": "shaft/1/1", "kind": "trip", "cause": "瓦斯超限"}
SAMPLES = {"seq": 17, "tags": ["a"], "v": [[1.5]]}


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Ledger]:
    directory.mkdir(parents=True, exist_ok=True)
    ledger = await Ledger.open(directory / "ledger.db", "shaft", reserve_bytes=0)
    try:
        yield ledger
    finally:
        await ledger.close()


async def fill(ledger: Ledger) -> None:
    """Letters 1 (an alert), 2 (samples), 3 to 5."""
    await ledger.letter("platform", "alert", 1, "payload", json.dumps(ALERT).encode())
    await ledger.letter("platform", "live", 17, "too_large", json.dumps(SAMPLES).encode(), epoch=9)
    for seq in (3, 4, 5):
        await ledger.letter("archive", "alert", seq, "payload", b"{}")


def states(ledger: Ledger) -> dict[tuple[str, str], int]:
    return {key: count for key, count in ledger.stats().letter_states.items() if count}


async def test_one_that_is_sent_again_and_taken_is_marked_and_never_forgotten(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as ledger:
        await fill(ledger)
        assert ledger.letters_marked("platform") == 0
        assert await ledger.letters_to_send("platform") == []
        assert len(await ledger.letters.mark([1, 2])) == 2
        assert ledger.letters_marked("platform") == 2
        first, second = await ledger.letters_to_send("platform")
        assert (first.lane, first.epoch, first.seq) == ("alert", ledger.epoch, 1)
        assert json.loads(first.body) == ALERT
        assert (second.lane, second.epoch, json.loads(second.body)) == ("live", 9, SAMPLES)
        await ledger.letter_sent("platform", "alert", ledger.epoch, 1)
        await ledger.letter_refused("platform", "live", 9, 17, "still too large")
        assert await ledger.letters_to_send("platform") == []
    async with opened(tmp_path) as ledger:
        assert states(ledger) == {
            ("platform", "resent"): 1, ("platform", "dead"): 1, ("archive", "dead"): 3
        }  # fmt: skip
        one, two = await ledger.letters.some([1, 2], body=True)
        assert (one.state, one.body) == ("resent", b"")
        assert (two.state, two.note, json.loads(two.body)) == ("dead", "still too large", SAMPLES)
        assert not await ledger.letter("platform", "alert", 1, "payload", b"{}")
        assert ledger.stats().letters["platform", "payload"] == 1


async def test_what_an_uplink_says_of_letters_that_nobody_marked_changes_nothing(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as ledger:
        await fill(ledger)
        await ledger.letter_sent("platform", "alert", ledger.epoch, 1)
        await ledger.letter_refused("archive", "alert", ledger.epoch, 3, "no")
        assert states(ledger) == {("platform", "dead"): 2, ("archive", "dead"): 3}


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[LiveGuard]:
    async with ModbusServer() as server, LiveGuard.at(tmp_path, server) as running:
        yield running


@contextlib.asynccontextmanager
async def served(guard: LiveGuard, ledger: Ledger) -> AsyncIterator[list[str]]:
    """A gateway with a real ledger; gives the nudges of its pump."""
    nudges: list[str] = []
    gateway: Gateway = gateway_of(guard)
    gateway.ledger = ledger
    gateway.commands = Commands(ledger, guard.link, guard.map, guard.blob)
    pump: Any = SimpleNamespace(nudge=lambda: nudges.append("nudge"))
    gateway.pumps = (pump,)
    server = ViewServer(gateway, Reactions())
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.ready.wait(), 10)
    try:
        yield nudges
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_people_list_show_resend_and_discard(
    guard: LiveGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(guard, capsys)
    async with opened(guard.paths.state) as ledger, served(guard, ledger) as nudges:
        assert (await terminal.run("letters"))[1] == "letters: none\n"
        await fill(ledger)
        code, out, _ = await terminal.run("letters")
        assert (code, out.count("payload"), out.count("dead")) == (0, 4, 5)
        code, rows = await terminal.json("letters list --limit 2 --after 1")
        assert [(row["id"], row["lane"], row["epoch"], row["seq"]) for row in rows] == [
            (2, "live", 9, 17), (3, "alert", ledger.epoch, 3)
        ]  # fmt: skip
        code, out, _ = await terminal.run("letters show 1")
        assert code == 0
        assert "瓦斯超限" in out

        code, said = await terminal.json("letters resend 1 3-4 --reason 'the platform was mended'")
        assert (code, said["details"]["letters"]) == (0, [1, 3, 4])
        assert nudges
        assert (await terminal.run("letters resend 1"))[0] == 5
        code, out, _ = await terminal.run("letters discard 2 3 --reason 'not wanted any more'")
        assert (code, out) == (0, "2 letters discarded\n")
        assert states(ledger) == {
            ("platform", "queued"): 1, ("platform", "discarded"): 1,
            ("archive", "queued"): 1, ("archive", "discarded"): 1, ("archive", "dead"): 1,
        }  # fmt: skip
        assert "discarded since" in (await terminal.run("letters show 2"))[1]

        refused = {
            "letters show 99": 2, "letters resend 99 5": 2, "letters resend 2": 1,
            "letters discard 2 --reason x": 5, "letters discard 5 --reason ' '": 1,
        }  # fmt: skip
        for words, expected in refused.items():
            assert (await terminal.run(words))[0] == expected, words
        assert states(ledger)["archive", "dead"] == 1, "an order is for all of its letters or none"
        for words in ("letters discard 5", "letters resend 9-1", "letters resend one"):
            with pytest.raises(SystemExit) as wrong:
                await terminal.run(words)
            assert wrong.value.code == 2
        assert audit_entries(ledger) == 1 + 2 * 2

        me = f"uid:{pwd.getpwuid(os.getuid()).pw_name}"
        code, entries = await terminal.json("audit show")
        assert [(e["who"], e["action"], e["target"], e["detail"]) for e in entries[1::2]] == [
            (me, "letters resend", "archive,platform",
             {"letters": [1, 3, 4], "reason": "the platform was mended"}),
            (me, "letters discard", "archive,platform",
             {"letters": [2, 3], "reason": "not wanted any more"}),
        ]  # fmt: skip


async def test_looking_works_without_a_gateway_and_orders_say_that_it_is_not_there(
    guard: LiveGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(guard, capsys)
    async with opened(guard.paths.state) as ledger:
        await fill(ledger)
        await ledger.letters.discard([5], "old")
    code, rows = await terminal.json("letters")
    assert (code, [row["id"] for row in rows]) == (0, [1, 2, 3, 4])
    code, rows = await terminal.json("letters list --all")
    assert [row["state"] for row in rows][3:] == ["dead", "discarded"]
    code, row = await terminal.json("letters show 2")
    assert (code, row["body"]) == (0, SAMPLES)
    assert (await terminal.run("letters resend 1"))[0] == 3
    assert (await terminal.run("letters discard 1 --reason x"))[0] == 3
    connection = sqlite3.connect(guard.paths.state / "ledger.db")
    (dead,) = connection.execute("SELECT count(*) FROM letter WHERE state = 'dead'").fetchone()
    connection.close()
    assert dead == 4
