"""The state as a running gateway knows it: what guard.shm says, and what its own parts say.

A :class:`Moment` is taken on the event loop, where the parts' counts belong; the rows are made of
it anywhere.
"""

import os
import time
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

import msgspec

from gateway.guard.board import GuardBoard
from gateway.times import boot_ns
from gateway.view.instant import Instant, rfc3339
from gateway.view.shapes import (
    BacklogRow,
    DeviceRow,
    GatewayRow,
    InterlockRow,
    ProblemRow,
    Status,
    StoreRow,
    SubstitutionRow,
    TagRow,
    UplinkRow,
    WaitingRow,
)
from gateway.view.snapshot import (
    GUARD_DEAD,
    NO_GUARD,
    Background,
    bypassed_tags,
    fast_device_rows,
    guard_row,
    interlock_rows,
    output_rows,
    tag_bypass_rows,
    tag_row,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drivers.session import SessionStats
    from fastpath.journal import GuardView
    from gateway.life.problems import Problem
    from gateway.orders.substitutions import Substitution
    from gateway.parts import Gateway
    from gateway.store.alert import ActiveAlert
    from gateway.store.history import HistoryStats
    from gateway.store.ledger import LedgerStats
    from gateway.store.recorder import RecorderStats
    from gateway.uplink.pump import PumpStats

_PRIORITIES = ("critical", "high", "medium", "low")


@dataclass(frozen=True, slots=True)
class Moment:
    """What only the event loop may read, at one moment."""

    gateway: "Gateway"
    now: Instant
    view: "GuardView | None"
    epoch: int
    devices: "Mapping[str, SessionStats]"
    active: "Sequence[ActiveAlert]"
    pumps: "Sequence[PumpStats]"
    problems: "Sequence[Problem]"
    ledger: "LedgerStats"
    history: "HistoryStats"
    recorder: "RecorderStats"
    connected: bool
    background: Background
    writes: "Mapping[tuple[str, str], int]"  # (output, result), of those that we write
    dropped: "Mapping[tuple[str, str], int]"  # (part, reason)
    substitutions: "Mapping[str, Substitution]"  # by tag
    texts: "Mapping[str, str]"  # by tag, of text tags

    @classmethod
    def of(cls, gateway: "Gateway") -> Self:
        """Take it; on the loop."""
        scanner = gateway.scanner.stats()
        ledger, history = gateway.ledger.stats(), gateway.history.stats()
        recorder, link = gateway.recorder.stats(), gateway.link.stats()
        parts: dict[str, Mapping[str, int]] = {
            "scanner": scanner.dropped,
            "link": link.dropped,
            "recorder": recorder.dropped,
            "ledger": ledger.dropped,
            "history": history.dropped,
            "problems": gateway.problems.dropped,
            "outputs": gateway.slow_outputs.dropped,
        }
        dropped = {(p, reason): n for p, counts in parts.items() for reason, n in counts.items()}
        return cls(
            gateway=gateway,
            now=Instant.now(),
            view=gateway.view(),
            epoch=gateway.ledger.epoch,
            devices=scanner.devices,
            active=gateway.ledger.active(),
            pumps=[pump.stats() for pump in gateway.pumps],
            problems=gateway.problems.active(),
            ledger=ledger,
            history=history,
            recorder=recorder,
            connected=gateway.link.state().connected,
            background=_background(gateway),
            writes=gateway.slow_outputs.stats(),
            dropped=dropped | gateway.dropped,
            substitutions=gateway.substitutions.live() if gateway.substitutions else {},
            texts=scanner.texts,
        )

    def alerts(self) -> list[dict[str, Any]]:
        """The active alerts as they were written."""
        return [msgspec.json.decode(item.body) for item in self.active]

    def board(self) -> GuardBoard | None:
        """guard.shm with the names of the program that runs there."""
        commands = self.gateway.commands
        return GuardBoard.read(self.view, commands.programs) if commands else None


def status_of(moment: Moment) -> Status:
    """``status --json``."""
    gateway, now = moment.gateway, moment.now
    board = moment.board()
    view = moment.view
    guard = guard_row(view, view.header(), now) if view else NO_GUARD
    notes = [] if board else ["the guard's state cannot be read, or its program is not known"]
    return Status(
        site=gateway.config.site.id,
        gateway=gateway.config.site.gateway or gateway.config.site.id,
        epoch=moment.epoch or None,
        guard=guard,
        gateway_process=_process(gateway),
        devices=_device_rows(moment, board, alive=guard.alive),
        interlocks=interlock_rows(board, now, moment.background) if board else [],
        outputs=output_rows(board, now) if board else [],
        alarms=alarms_of(moment),
        uplinks=[_uplink_row(stats) for stats in moment.pumps],
        stores=_store_rows(moment),
        problems=[
            ProblemRow(
                kind=problem.kind,
                id=problem.ident,
                text=problem.text,
                since=rfc3339(problem.since_utc_ns),
            )
            for problem in moment.problems
        ],
        notes=notes if guard.alive else [*notes, GUARD_DEAD],
        bypassed_tags=tag_bypass_rows(board, now, moment.background) if board else [],
        simulated=gateway.simulation is not None,
    )


def tags_of(moment: Moment) -> list[TagRow]:
    """``tags --json``: every tag of the site file, in its order."""
    table = moment.gateway.tags
    values = table.read_all(moment.view, time.monotonic_ns())
    board = moment.board()
    bypassed = bypassed_tags(board, moment.now, moment.background) if board else {}
    rows = [
        tag_row(tag.id, tag.device, tag.unit, value, bypassed.get(tag.id))
        for tag, value in zip(moment.gateway.config.tag, values, strict=True)
    ]
    texts = moment.texts
    rows = [
        msgspec.structs.replace(row, text=texts[row.id], value=None) if row.id in texts else row
        for row in rows
    ]
    by_hand = moment.substitutions
    return [
        msgspec.structs.replace(row, substitution=_by_hand(by_hand[row.id], moment.now))
        if row.id in by_hand
        else row
        for row in rows
    ]


def interlocks_of(moment: Moment) -> list[InterlockRow]:
    """``interlocks --json``: those of the program that the guard runs."""
    board = moment.board()
    return interlock_rows(board, moment.now, moment.background) if board else []


def alarms_of(moment: Moment) -> list[dict[str, Any]]:
    """``alarms --json``: every raise that nothing has ended yet, the most urgent first."""
    rank = {priority: i for i, priority in enumerate(_PRIORITIES)}
    return sorted(
        moment.alerts(), key=lambda a: (rank.get(a.get("priority", ""), 9), a.get("time", ""))
    )


def _background(gateway: "Gateway") -> Background:
    """On the loop: what the ledger knows of bypasses and proof tests."""
    audit = gateway.ledger.audit
    every = {item.id: int(item.test_every) for item in gateway.config.interlock if item.test_every}
    return Background(audit.order, audit.proofs(), every)


def _by_hand(made: "Substitution", now: Instant) -> SubstitutionRow:
    return SubstitutionRow(
        until=now.of_boot(made.until_ns),
        since=now.of_boot(made.since_ns),
        left_s=max(0, made.until_ns - boot_ns()) // 1_000_000_000,
        by=made.by,
        reason=made.reason,
    )


def _uplink_row(stats: "PumpStats") -> UplinkRow:
    backlog = BacklogRow(
        alerts=stats.backlog.get("alert", 0),
        live=stats.backlog.get("live", 0),
        backfill=stats.backlog.get("backfill", 0),
    )
    waiting = {
        lane: WaitingRow(
            items=found.items,
            oldest_s=found.oldest_s,
            bytes=found.stored_bytes,
            fill=found.fill,
            full_s=found.full_s if isfinite(found.full_s) else None,
        )
        for lane, found in stats.waiting.items()
    }
    return UplinkRow(
        id=stats.id, up=stats.up, backlog=backlog, oldest_s=stats.oldest_s, waiting=waiting
    )


def _store_rows(moment: Moment) -> list[StoreRow]:
    now_s = moment.now.mono_ns / 1e9
    return [
        StoreRow(
            id=name,
            ok=stats.ok,
            bytes=stats.bytes,
            written=stats.bytes_written,
            written_per_day=moment.gateway.paces[name].per_day(now_s, stats.bytes_written),
        )
        for name, stats in (("ledger", moment.ledger), ("history", moment.history))
    ]


def _process(gateway: "Gateway") -> GatewayRow:
    return GatewayRow(
        alive=True,
        pid=os.getpid(),
        since=rfc3339(gateway.started_utc_ns),
        unclean_ends=gateway.lives.unclean if gateway.lives else None,
    )


def _device_rows(moment: Moment, board: GuardBoard | None, *, alive: bool) -> list[DeviceRow]:
    """The guard's devices and ours, in the order of the site file."""
    found = fast_device_rows(board, moment.now, alive=alive) if board else []
    fast = {row.id: row for row in found}
    rows = []
    for device in moment.gateway.config.device:
        if device.id in fast:
            rows.append(fast.pop(device.id))
        elif device.id in moment.devices:
            rows.append(_slow_row(device.id, moment.devices[device.id]))
    return [*rows, *fast.values()]


def _slow_row(ident: str, stats: "SessionStats") -> DeviceRow:
    requests = sum(stats.requests.values())
    return DeviceRow(
        id=ident,
        fast=False,
        up=stats.up,
        state=stats.state.stage.name,
        since=None,
        requests=requests,
        failed=requests - stats.requests.get("good", 0),
        results=dict(stats.requests),
        error=stats.error or None,
        polls_missed=stats.polls_missed,
        round_trip_ms=stats.round_trip_ns / 1e6 if stats.round_trip_ns else None,
        lateness_ms=stats.lateness_ns / 1e6,
        lateness_ms_max=stats.lateness_ns_max / 1e6,
        address=stats.facts.address,
    )
