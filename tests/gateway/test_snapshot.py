"""The JSON of the commands, field by field, from a real guard."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from fastpath.codes import InterlockState, OutputState
from gateway.guard.board import GuardBoard
from gateway.guard.program_text import Programs
from gateway.view import live, snapshot
from gateway.view.instant import Instant, rfc3339
from gateway.view.shapes import InterlockRow, OutputRow, Status, TagRow
from tests.helpers.gateway_parts import gateway_of
from tests.helpers.live_guard import FAN, GAS, LiveGuard
from tests.helpers.modbus_server import ModbusServer


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[LiveGuard]:
    async with ModbusServer() as server, LiveGuard.at(tmp_path, server) as running:
        yield running


def board_of(guard: LiveGuard) -> GuardBoard:
    board = GuardBoard.read(guard.map(), Programs(guard.blob))
    assert board is not None
    return board


def by_id(rows: list[InterlockRow]) -> dict[str, InterlockRow]:
    return {row.id: row for row in rows}


async def test_interlocks(guard: LiveGuard) -> None:
    rows = by_id(snapshot.interlock_rows(board_of(guard), Instant.now()))
    assert set(rows) == {"gas-high", "fan-stopped", "watch-gas"}
    quiet = rows["gas-high"]
    assert (quiet.state, quiet.armed, quiet.generation, quiet.reason) == ("NORMAL", True, 0, None)
    assert not rows["watch-gas"].armed

    guard.server.set_float("ir", GAS, 2.5)
    await guard.state_of("gas-high", InterlockState.TRIPPED)
    rows = by_id(snapshot.interlock_rows(board_of(guard), Instant.now()))
    tripped = rows["gas-high"]
    assert (tripped.state, tripped.generation, tripped.reason) == ("TRIPPED", 1, "cause")
    assert tripped.first_out
    (leg,) = tripped.legs
    assert (leg.text, leg.result, leg.value) == ("gas >= 1.5 until < 1.0", "true", 2.5)
    assert tripped.since is not None
    since = datetime.fromisoformat(tripped.since)
    assert abs(since.timestamp() - time.time()) < 60
    assert rows["watch-gas"].state == "TRIPPED"  # it would have
    exact = {
        "id", "state", "armed", "bypassed", "withheld", "generation", "since", "first_out", "legs",
        "reason",
    }  # fmt: skip
    assert exact <= set(msgspec.to_builtins(tripped))
    assert set(msgspec.to_builtins(leg)) == {"text", "result", "value"}


async def test_outputs(guard: LiveGuard) -> None:
    rows = {row.id: row for row in snapshot.output_rows(board_of(guard), Instant.now())}
    power = OutputRow(id="power", state="RELEASED", wanted=True, readback=True, confirmed=True)
    assert rows["power"] == power
    assert rows["siren"].readback is None  # it has none

    guard.server.set("di", FAN, 0)
    await guard.output_of("power", OutputState.TRIPPED)
    rows = {row.id: row for row in snapshot.output_rows(board_of(guard), Instant.now())}
    tripped = OutputRow(
        id="power", state="TRIPPED", wanted=False, readback=False, confirmed=True,
        held_by=["fan-stopped"],
    )  # fmt: skip
    assert rows["power"] == tripped
    assert {"id", "state", "wanted", "readback", "confirmed"} <= set(msgspec.to_builtins(tripped))


async def test_a_held_output_wants_nothing(tmp_path: Path) -> None:
    async with (
        ModbusServer() as server,
        LiveGuard.at(tmp_path, server, release=False) as guard,
    ):
        rows = {row.id: row for row in snapshot.output_rows(board_of(guard), Instant.now())}
        assert (rows["siren"].state, rows["siren"].wanted) == ("HELD", None)


async def test_tags_of_a_live_gateway(guard: LiveGuard) -> None:
    rows = {row.id: row for row in live.tags_of(live.Moment.of(gateway_of(guard)))}
    gas = rows["gas"]
    assert gas.value == pytest.approx(0.3)
    assert (gas.device, gas.unit, gas.quality, gas.reason) == ("plc", "%CH4", "GOOD", None)
    assert gas.time is not None
    assert gas.time.endswith("Z")
    assert rows["wind"].value == 7.25
    never = rows["rain"]
    assert (never.value, never.quality, never.reason, never.time) == (None, "BAD", "never_read",
                                                                      None)  # fmt: skip
    assert set(msgspec.to_builtins(gas)) == {
        "id", "device", "value", "unit", "quality", "reason", "time", "source_time", "bypass",
        "substitution", "text",
    }  # fmt: skip
    assert (never.text, gas.text) == ("DN 200", None)


async def test_tags_out_of_range_are_bad_with_the_reason(guard: LiveGuard) -> None:
    guard.server.set_float("ir", GAS, 9.0)
    await guard.state_of("gas-high", InterlockState.TRIPPED)
    rows = {row.id: row for row in live.tags_of(live.Moment.of(gateway_of(guard)))}
    assert (rows["gas"].quality, rows["gas"].reason) == ("BAD", "out_of_range")


async def test_status_of_a_live_gateway(guard: LiveGuard) -> None:
    status = live.status_of(live.Moment.of(gateway_of(guard)))
    assert (status.site, status.gateway) == ("bench", "bench-gw")
    assert status.guard.alive
    assert status.guard.program == guard.map().header().program.hex()
    assert status.guard.scan > 0
    assert status.guard.pid == guard.process.pid if guard.process else False
    assert status.gateway_process.alive
    devices = {row.id: row for row in status.devices}
    assert devices["plc"].up
    assert devices["plc"].fast
    assert (devices["weather"].requests, devices["weather"].failed) == (12, 2)
    assert status.uplinks is not None
    (uplink,) = status.uplinks
    assert (uplink.backlog.alerts, uplink.backlog.backfill, uplink.oldest_s) == (3, 40, 12.5)
    assert status.alarms is not None
    assert [alarm["priority"] for alarm in status.alarms] == ["critical", "high"]
    fields = set(msgspec.to_builtins(status))
    assert {
        "site", "gateway", "epoch", "guard", "gateway_process", "devices", "interlocks", "outputs",
        "alarms", "uplinks",
    } <= fields  # fmt: skip
    assert {"alive", "realtime", "scan", "program", "since"} <= set(
        msgspec.to_builtins(status.guard)
    )
    assert msgspec.json.decode(msgspec.json.encode(status), type=Status) == status


async def test_status_without_a_gateway_says_since_when(guard: LiveGuard) -> None:
    status = snapshot.offline_status(guard.map(), board_of(guard), Instant.now(), "no gateway runs")
    assert (status.site, status.gateway) == ("bench", "bench-gw")
    assert not status.gateway_process.alive
    assert status.gateway_process.since is not None  # the guard heard our link
    assert status.alarms is None
    assert status.uplinks is None
    assert {row.id for row in status.interlocks} == {"gas-high", "fan-stopped", "watch-gas"}
    assert status.notes == ["no gateway runs"]


async def test_status_without_names_says_so(guard: LiveGuard) -> None:
    status = snapshot.offline_status(guard.map(), None, Instant.now(), "no gateway runs")
    assert status.interlocks == []
    assert "names are not known" in status.notes[1]


async def test_status_of_a_dead_guard_says_when_it_scanned_last(guard: LiveGuard) -> None:
    guard.end()
    status = snapshot.offline_status(guard.map(), board_of(guard), Instant.now(), "")
    assert not status.guard.alive
    assert not status.guard.realtime
    assert status.guard.since is not None
    assert status.guard.pid == 0
    assert snapshot.GUARD_DEAD in status.notes
    assert not status.devices[0].up
    rows = snapshot.guard_tag_rows(board_of(guard), Instant.now(), alive=False)
    assert {(row.quality, row.reason) for row in rows} == {("BAD", "stale")}
    status = live.status_of(live.Moment.of(gateway_of(guard)))
    assert snapshot.GUARD_DEAD in status.notes
    assert not next(row for row in status.devices if row.id == "plc").up


async def test_the_guards_tags_without_a_gateway(guard: LiveGuard) -> None:
    rows = {
        row.id: row for row in snapshot.guard_tag_rows(board_of(guard), Instant.now(), alive=True)
    }
    assert rows["gas"].unit == "%CH4"
    assert rows["gas"].device == "plc"
    assert rows["gas"].quality == "GOOD"
    assert msgspec.json.decode(msgspec.json.encode(list(rows.values())), type=list[TagRow])


def test_times() -> None:
    assert rfc3339(0) is None
    assert rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    now = Instant.now()
    stamp = now.of_boot(now.boot_ns - 1_000_000_000)
    assert stamp is not None
    age = datetime.fromtimestamp(now.utc_ns / 1e9, UTC) - datetime.fromisoformat(stamp)
    assert age.total_seconds() == pytest.approx(1.0, abs=0.001)
    assert now.of_process(2**30) is None
