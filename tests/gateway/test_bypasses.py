"""Bypasses over a real guard: what is withheld, who may, for how long, and how it ends."""

import asyncio
import dataclasses
import os
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from fastpath import blob
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockFlag,
    InterlockState,
    OutputState,
    ResultCode,
)
from gateway.__main__ import main
from gateway.orders.commands import Commands
from gateway.orders.outcome import Exit
from gateway.parts import Gateway
from gateway.view import live
from gateway.view.reactions import Reactions
from gateway.view.readings import fill
from gateway.view.server import ViewServer
from tests.gateway.test_commands import Ledger, nobody
from tests.helpers.gateway_parts import gateway_of
from tests.helpers.live_guard import GAS, POWER, LiveGuard
from tests.helpers.modbus_server import ModbusServer

WHO = "uid:ann"
SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


def grouped(program: bytes) -> bytes:
    """The bench's interlocks in one group; watch-gas forbids a bypass."""
    parts: dict[str, Any] = {name: blob.section(program, name) for name, _, _ in blob.SECTIONS}
    names = blob.names(program)
    for i, ident in enumerate(names["interlocks"]):
        item = parts["interlocks"][i]
        watch = ident == "watch-gas"
        parts["interlocks"][i] = dataclasses.replace(
            item,
            bypass_max_ns=4 * HOUR,
            group=NONE_U32 if watch else 0,
            flags=item.flags | (InterlockFlag.NO_BYPASS if watch else 0),
        )
    parts["groups"] = [blob.Group(blob.key_of("group", "face"), 1)]
    tick_ns, start_ns = 10_000_000, 500_000_000
    return blob.build(
        blob.Program(7, tick_ns, start_ns, names=names | {"groups": ["face"]}, **parts)
    )


class Guard(LiveGuard):
    async def load(self, program: bytes) -> None:
        await super().load(grouped(program))


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[LiveGuard]:
    async with ModbusServer() as server, Guard.at(tmp_path, server) as running:
        yield running


@pytest.fixture
async def gateway(guard: LiveGuard) -> AsyncIterator[Gateway]:
    parts = gateway_of(guard)
    server = ViewServer(parts, Reactions())
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.ready.wait(), 10)
    yield parts
    task.cancel()
    await asyncio.wait({task})


def commands_of(guard: LiveGuard, ledger: Ledger) -> Commands:
    return Commands(cast("Any", ledger), guard.link, guard.map, guard.blob)


def index_of(guard: LiveGuard, ident: str) -> int:
    return blob.names(guard.program)["interlocks"].index(ident)


async def test_a_bypass_withholds_and_its_end_acts_at_once(guard: LiveGuard) -> None:
    ledger = Ledger()
    bypasses = commands_of(guard, ledger).bypasses
    begun = await bypasses.begin("gas-high", 2 * HOUR, "new sensor", WHO, answered=nobody)
    assert begun.exit_code == Exit.DONE, begun
    assert "gas-high is bypassed until " in begun.text
    assert "(2 h), by uid:ann" in begun.text
    assert "will not be tripped by it" in begun.text
    assert "1 of 1 bypasses of group face are used" in begun.text
    who, action, target, detail = ledger.commands[-1]
    assert (who, action, target) == (WHO, "bypass_start", "gas-high")
    assert detail == {"kind": "interlock", "for_ns": 2 * HOUR, "reason": "new sensor"}

    guard.server.set_float("ir", GAS, 2.5)
    await guard.state_of("gas-high", InterlockState.TRIPPED)
    assert await guard.server.get("c", POWER, 2) == [1, 1]  # it would have
    ended = await bypasses.end("gas-high", "done", WHO, answered=nobody)
    assert ended.exit_code == Exit.DONE, ended
    assert "TRIPPED" in ended.text
    await guard.output_of("power", OutputState.TRIPPED)
    assert await guard.server.get("c", POWER, 2) == [0, 0]
    assert ledger.commands[-1][1:3] == ("bypass_end", "gas-high")

    nothing = await bypasses.end("gas-high", "", WHO, answered=nobody)
    assert nothing.exit_code == Exit.ALREADY
    assert "nothing to end" in nothing.text


async def test_the_time_of_a_bypass_ends_it(guard: LiveGuard) -> None:
    bypasses = commands_of(guard, Ledger()).bypasses
    begun = await bypasses.begin("gas-high", SECOND, "look", WHO, answered=nobody)
    assert begun.exit_code == Exit.DONE, begun
    guard.server.set_float("ir", GAS, 2.5)
    await guard.output_of("power", OutputState.TRIPPED)
    kinds = [event.type for event in guard.map().events(1, 1000)]
    order = [EventType.BYPASS, EventType.BYPASS_ENDING, EventType.BYPASS_END]
    assert [kind for kind in kinds if kind in order] == order


async def test_what_is_refused_names_the_limit(guard: LiveGuard) -> None:
    bypasses = commands_of(guard, Ledger()).bypasses
    long = await bypasses.begin("gas-high", 5 * HOUR, "x", WHO, answered=nobody)
    assert (long.exit_code, long.code) == (Exit.REFUSED, ResultCode.LIMIT)
    assert "its longest bypass is 4 h (bypass_max)" in long.text
    forbidden = await bypasses.begin("watch-gas", HOUR, "x", WHO, answered=nobody)
    assert (forbidden.exit_code, forbidden.code) == (Exit.REFUSED, ResultCode.NOT_ALLOWED)
    assert "no_bypass = true" in forbidden.text

    assert (await bypasses.begin("gas-high", HOUR, "x", WHO, answered=nobody)).exit_code == 0
    again = await bypasses.begin("gas-high", HOUR, "x", WHO, answered=nobody)
    assert (again.exit_code, again.code) == (Exit.ALREADY, ResultCode.ALREADY)
    assert "is bypassed already, until" in again.text
    other = await bypasses.begin("fan-stopped", HOUR, "x", WHO, answered=nobody)
    assert (other.exit_code, other.code) == (Exit.REFUSED, ResultCode.LIMIT)
    assert "group face" in other.text
    assert "used up: gas-high" in other.text


async def test_ids_of_the_wrong_kind_say_what_to_do(guard: LiveGuard) -> None:
    bypasses = commands_of(guard, Ledger()).bypasses
    tag = await bypasses.begin("gas", HOUR, "x", WHO, answered=nobody)
    assert tag.exit_code == Exit.USAGE
    assert "--tag" in tag.text
    interlock = await bypasses.begin("gas-high", HOUR, "x", WHO, tag=True, answered=nobody)
    assert "without --tag" in interlock.text
    near = await bypasses.begin("gas-hihg", HOUR, "x", WHO, answered=nobody)
    assert "did you mean gas-high" in near.text


async def test_a_bypass_of_a_tag_abstains_and_ends(guard: LiveGuard) -> None:
    bypasses = commands_of(guard, Ledger()).bypasses
    forbidden = await bypasses.begin("gas", HOUR, "x", WHO, tag=True, answered=nobody)
    assert (forbidden.exit_code, forbidden.code) == (Exit.REFUSED, ResultCode.NOT_ALLOWED)
    assert "watch-gas: no_bypass" in forbidden.text
    unread = await bypasses.begin("power.closed", HOUR, "x", WHO, tag=True, answered=nobody)
    assert unread.code == ResultCode.NOT_ALLOWED
    assert "no interlock reads power.closed" in unread.text
    begun = await bypasses.begin("fan.running", HOUR, "x", WHO, tag=True, answered=nobody)
    assert begun.exit_code == Exit.DONE, begun
    assert "its comparisons in fan-stopped abstain" in begun.text
    # It is all that the interlock has: unknown, and unknown trips.
    await guard.state_of("fan-stopped", InterlockState.TRIPPED)
    ended = await bypasses.end("fan.running", "", WHO, tag=True, answered=nobody)
    assert ended.exit_code == Exit.DONE, ended
    assert "counts again" in ended.text


async def test_nothing_is_bypassed_without_the_ledger(guard: LiveGuard) -> None:
    ledger = Ledger()
    ledger.full = True
    bypasses = commands_of(guard, ledger).bypasses
    outcome = await bypasses.begin("gas-high", HOUR, "x", WHO, answered=nobody)
    assert outcome.exit_code == Exit.FAILED
    assert "nothing was sent" in outcome.text
    assert guard.map().interlock(index_of(guard, "gas-high")).bypass_until_ns == 0


async def test_a_drill_does_not_end_a_bypass(guard: LiveGuard) -> None:
    commands = commands_of(guard, Ledger())
    await commands.bypasses.begin("gas-high", HOUR, "x", WHO, answered=nobody)
    outcome = await commands.drills.run("gas-high", "", WHO, answered=nobody)
    assert outcome.exit_code == Exit.REFUSED
    assert "end it first" in outcome.text


async def test_views_show_who_why_and_how_long(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    ledger = Ledger()
    await commands_of(guard, ledger).bypasses.begin(
        "gas-high", HOUR, "new sensor", WHO, answered=nobody
    )
    from gateway.store.audit import AuditEntry

    latch = guard.map().interlock(index_of(guard, "gas-high"))
    gateway.ledger.audit.take(
        AuditEntry(2, 1, "command", None, WHO, "bypass_start", "gas-high",
                   f'{{"id": "{latch.bypass_id.hex()}", "reason": "new sensor"}}')
    )  # fmt: skip
    moment = live.Moment.of(gateway)
    row = next(row for row in live.interlocks_of(moment) if row.id == "gas-high")
    assert (row.bypassed, row.withheld, row.group) == (True, True, "face")
    assert row.bypass is not None
    assert (row.bypass.by, row.bypass.reason) == (WHO, "new sensor")
    assert 3500 < row.bypass.left_s <= 3600
    assert row.proof is not None
    assert row.proof.overdue  # of 2023
    rows = {(name, labels): value for name, found in fill(moment).rows.items()
            for labels, value in found}  # fmt: skip
    assert rows["interlock_bypassed", ("gas-high",)] == 1
    assert rows["interlock_withheld", ("gas-high",)] == 1
    assert 3500 < rows["interlock_bypass_left_seconds", ("gas-high",)] <= 3600
    assert rows["interlock_bypassed", ("fan-stopped",)] == 0


async def said(
    guard: LiveGuard, capsys: pytest.CaptureFixture[str], words: str
) -> tuple[int, str, str]:
    capsys.readouterr()
    where = ["--runtime-dir", os.fspath(guard.paths.runtime)]
    where += ["--state-dir", os.fspath(guard.paths.state)]
    code = await asyncio.to_thread(main, [*shlex.split(words), *where])
    found = capsys.readouterr()
    return code, found.out, found.err


async def test_the_command_line(
    gateway: Gateway, guard: LiveGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = await said(guard, capsys, "bypass gas-high --for 2hours")
    assert code == Exit.USAGE
    assert "did you mean 2h?" in err
    assert "needs a reason" in err
    code, _, err = await said(guard, capsys, "bypass gas-high --reason x")
    assert (code, "--for 2h" in err) == (Exit.USAGE, True)
    code, out, err = await said(guard, capsys, "bypass gas-high --for 2h --reason 'new sensor'")
    assert (code, err) == (Exit.DONE, "")
    assert "bypassed until" in out
    code, out, _ = await said(guard, capsys, "interlocks")
    assert "BYPASSED" in out
    code, out, _ = await said(guard, capsys, "status")
    assert "2 h" in out
    code, _, err = await said(guard, capsys, "bypass gas-high --for 1h --reason again")
    assert code == Exit.ALREADY
    code, out, _ = await said(guard, capsys, "bypass gas-high --end --reason done")
    assert code == Exit.DONE
    assert "has ended" in out
    code, _, err = await said(guard, capsys, "bypass gas-high --end")
    assert code == Exit.ALREADY
    assert gateway.http


async def test_the_end_needs_no_gateway(
    guard: LiveGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    await commands_of(guard, Ledger()).bypasses.begin("gas-high", HOUR, "x", WHO, answered=nobody)
    code, _, err = await said(guard, capsys, "bypass gas-high --for 1h --reason more")
    assert code == Exit.NOT_REACHED  # what weakens needs the gateway's ledger
    code, out, err = await said(guard, capsys, "bypass gas-high --end")
    assert code == Exit.DONE, err
    assert "going straight to the guard" in err
    assert "has ended" in out
    assert guard.map().interlock(index_of(guard, "gas-high")).bypass_until_ns == 0
