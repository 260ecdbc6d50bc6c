"""The values of one scrape, read out of guard.shm and of what the parts counted."""

import functools
import importlib.metadata
import math
import resource
import sqlite3
from collections import Counter as Counted
from typing import TYPE_CHECKING, Final

from fastpath.codes import (
    Counter,
    DeviceState,
    DeviceStatsFlag,
    InterlockLatchFlag,
    OutputState,
    Quality,
)
from gateway.guard.board import GuardBoard, output_confirmed
from gateway.life.clock import synchronised
from gateway.life.descriptors import opened
from gateway.orders.proof_tests import due_utc_ns
from gateway.paths import is_tmpfs
from gateway.store.sqlite_file import sqlite_outdated
from gateway.uplink.certificates import client_not_after_utc_ns
from gateway.view.live import Moment
from gateway.view.snapshot import device_results

if TYPE_CHECKING:
    from fastpath.journal import Header

Row = tuple[tuple[str, ...], float]

# What the guard dropped or refused, by reason.
GUARD_DROPS: Final = {
    "message_bad": Counter.MESSAGE_BAD,
    "sample_slot": Counter.SAMPLE_SLOT,
    "sample_owner": Counter.SAMPLE_OWNER,
    "sample_future": Counter.SAMPLE_FUTURE,
    "sample_old": Counter.SAMPLE_OLD,
    "sample_program": Counter.SAMPLE_PROGRAM,
    "session_refused": Counter.SESSION_REFUSED,
    "poll_missed": Counter.POLLS_MISSED,
    "notify_failed": Counter.NOTIFY_FAILED,
    "lease_lost": Counter.LEASE_LOST,
    "late_reply": Counter.RTU_LATE,
    "serial_noise": Counter.RTU_NOISE,
    "heartbeat_withheld": Counter.HEARTBEATS_WITHHELD,
    "load_refused": Counter.LOADS_REFUSED,
    "output_result": Counter.OUTPUT_RESULT_BAD,
    "window_memory": Counter.WINDOWS_LOST,
}
DEVICE_STATES: Final = {
    "heartbeat_withheld": DeviceStatsFlag.HEARTBEAT_WITHHELD,
    "lease_lost": DeviceStatsFlag.LEASE_LOST,
    "watchdog_registers_wrong": DeviceStatsFlag.WATCHDOG_WRONG,
}
TRIP_STATES: Final = frozenset({OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED})
_STATE_MAX: Final = 4
_STATE_INVALID: Final = 3  # counts as tripped


class Sheet:
    """Rows of (label values, value) by metric."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}

    def put(self, name: str, value: float, *labels: str) -> None:
        """Add one row."""
        self.rows.setdefault(name, []).append((labels, value))


def fill(moment: Moment) -> Sheet:
    """Every value there is; may run in any thread. Raises JournalError when the map was closed."""
    sheet = Sheet()
    _gateway(sheet, moment)
    _tags(sheet, moment)
    _slow_devices(sheet, moment)
    view = moment.view
    sheet.put("guard_connected", moment.connected)
    if view is None:
        sheet.put("guard_up", 0)
    else:
        alive = view.guard_alive()
        _guard(sheet, view.header(), alive=alive)
        board = moment.board()
        if board is not None:
            _fast_devices(sheet, board, alive=alive)
            _interlocks(sheet, board, moment)
            _outputs(sheet, board)
    for (output, result), count in sorted(moment.writes.items()):
        sheet.put("output_writes_total", count, output, result)
    _uplinks(sheet, moment)
    _stores(sheet, moment)
    for (part, reason), count in sorted(moment.dropped.items()):
        sheet.put("dropped_total", count, part, reason)
    return sheet


@functools.cache
def version() -> str:
    """The installed version; "unknown" in a tree that nobody installed."""
    try:
        return importlib.metadata.version("sitewarden")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _gateway(sheet: Sheet, moment: Moment) -> None:
    gateway = moment.gateway
    sheet.put("build_info", 1, version())
    sheet.put("simulated", gateway.simulation is not None)
    sheet.put("start_time_seconds", gateway.started_utc_ns / 1e9)
    if gateway.lives is not None:
        sheet.put("gateway_unclean_ends", gateway.lives.unclean)
    sheet.put("runtime_tmpfs", is_tmpfs(gateway.paths.runtime))
    sheet.put("clock_synchronised", synchronised())
    sheet.put("sqlite_outdated", sqlite_outdated(sqlite3.sqlite_version_info))
    sheet.put("descriptors_open", opened())
    sheet.put("descriptors_max", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for problem in moment.problems:
        sheet.put("problem", 1, problem.kind, problem.ident)
    active = Counted(
        (str(alert.get("kind", "")), str(alert.get("priority", ""))) for alert in moment.alerts()
    )
    for (kind, priority), count in sorted(active.items()):
        sheet.put("alarms_active", count, kind, priority)


def _tags(sheet: Sheet, moment: Moment) -> None:
    table = moment.gateway.tags
    values = table.read_all(moment.view, moment.now.mono_ns)
    for tag, seen in zip(moment.gateway.config.tag, values, strict=True):
        sheet.put("tag_quality", seen.quality, tag.id)
        if seen.quality != Quality.BAD and not math.isnan(seen.value):
            sheet.put("tag_value", seen.value, tag.id, tag.unit)


def _slow_devices(sheet: Sheet, moment: Moment) -> None:
    for ident, stats in moment.devices.items():
        sheet.put("device_up", stats.up, ident)
        for result, count in sorted(stats.requests.items()):
            sheet.put("device_requests_total", count, ident, result)
        sheet.put("device_poll_lateness_seconds", stats.lateness_ns / 1e9, ident)
        sheet.put("device_polls_missed_total", stats.polls_missed, ident)
        if stats.round_trip_ns:
            sheet.put("device_round_trip_seconds", stats.round_trip_ns / 1e9, ident)
        if stats.facts.not_after_utc_ns:
            left_s = (stats.facts.not_after_utc_ns - moment.now.utc_ns) / 1e9
            sheet.put("device_certificate_expiry_seconds", left_s, ident)
        if stats.facts.clock_ahead_ns is not None:
            sheet.put("device_clock_ahead_seconds", stats.facts.clock_ahead_ns / 1e9, ident)
    for device in moment.gateway.config.device:
        if device.backup is not None and device.id in moment.devices:
            on_backup = "backup" in moment.devices[device.id].facts.troubles
            sheet.put("device_on_backup", on_backup, device.id)


def _guard(sheet: Sheet, header: "Header", *, alive: bool) -> None:
    counters = header.counters
    sheet.put("guard_up", alive)
    sheet.put("guard_realtime", alive and counters[Counter.REALTIME] == 1)
    sheet.put("guard_locked", alive and counters[Counter.LOCKED] == 1)
    sheet.put("guard_starts_total", header.guard_starts)
    sheet.put("guard_scans_total", header.scan)
    sheet.put("guard_overruns_total", header.overruns)
    sheet.put("guard_scans_late_total", counters[Counter.SCANS_LATE])
    sheet.put("guard_scan_max_seconds", header.scan_ns_max / 1e9)
    for reason, counter in GUARD_DROPS.items():
        sheet.put("dropped_total", counters[counter], "guard", reason)
    sheet.put("dropped_total", header.events_lost, "guard", "event_lost")
    sheet.put("dropped_total", header.samples_shed, "guard", "sample_shed")


def _fast_devices(sheet: Sheet, board: GuardBoard, *, alive: bool) -> None:
    for i, text in enumerate(board.text.devices):
        device = board.view.device(i)
        sheet.put("device_up", alive and device.state == DeviceState.UP, text.id)
        for result, count in device_results(device).items():
            sheet.put("device_requests_total", count, text.id, result)
        sheet.put("device_polls_missed_total", device.polls_missed, text.id)
        if device.rtt_ns_last:
            sheet.put("device_round_trip_seconds", device.rtt_ns_last / 1e9, text.id)
        for name, flag in DEVICE_STATES.items():
            sheet.put(name, bool(device.flags & flag), text.id)


def _interlocks(sheet: Sheet, board: GuardBoard, moment: Moment) -> None:
    unarmed = 0
    boot_ns = moment.now.boot_ns
    for i, text in enumerate(board.text.interlocks):
        latch = board.interlock(i)
        state = latch.state if 1 <= latch.state <= _STATE_MAX else _STATE_INVALID
        sheet.put("interlock_state", state, text.id)
        sheet.put("interlock_trips_total", latch.demands, text.id)
        unarmed += not text.armed
        bypass = board.bypass(i)
        withheld = bool(latch.flags & InterlockLatchFlag.WITHHELD)
        sheet.put("interlock_withheld_demands_total", latch.withheld_demands, text.id)
        sheet.put("interlock_bypassed", bypass is not None, text.id)
        sheet.put("interlock_withheld", withheld, text.id)
        left_s = max(0, bypass.until_ns - boot_ns) / 1e9 if bypass else 0.0
        sheet.put("interlock_bypass_left_seconds", left_s, text.id)
        _proofs(sheet, text.id, moment)
    sheet.put("interlocks_unarmed", unarmed)
    bypassed = board.tag_bypasses()
    for slot in sorted(board.text.readers):
        sheet.put("tag_bypassed", slot in bypassed, board.text.tags[slot])


def _proofs(sheet: Sheet, interlock: str, moment: Moment) -> None:
    background = moment.background
    proof = (background.proofs or {}).get(interlock)
    every_ns = background.test_every_ns.get(interlock, 0)
    sheet.put("interlock_proof_tests_total", proof.made if proof else 0, interlock)
    if proof or every_ns:
        passed_s = proof.passed_utc_ns / 1e9 if proof else 0
        sheet.put("interlock_proof_test_timestamp_seconds", passed_s, interlock)
    if every_ns:
        overdue = moment.now.utc_ns >= due_utc_ns(proof, every_ns)
        sheet.put("interlock_proof_test_overdue", overdue, interlock)


def _outputs(sheet: Sheet, board: GuardBoard) -> None:
    unconfirmed = 0
    for i, text in enumerate(board.text.outputs):
        latch = board.output(i)
        commanded = latch.state in TRIP_STATES or latch.state == 0
        confirmed = output_confirmed(latch)
        unconfirmed += commanded and not confirmed
        sheet.put("output_state", latch.state, text.id)
        sheet.put("output_silenced", bool(board.silenced_until_ns(i)), text.id)
        sheet.put("output_stands_in", bool(board.stands_in_for(i)), text.id)
        lost = latch.state == OutputState.TRIPPED and not confirmed
        sheet.put("output_unverified", lost, text.id)
    sheet.put("outputs_unconfirmed", unconfirmed)


def _uplinks(sheet: Sheet, moment: Moment) -> None:
    for stats in moment.pumps:
        ident = stats.id
        sheet.put("uplink_up", stats.up, ident)
        for lane, waiting in stats.waiting.items():
            sheet.put("uplink_backlog_items", waiting.items, ident, lane)
            sheet.put("uplink_oldest_seconds", waiting.oldest_s, ident, lane)
            if waiting.stored_bytes is not None:
                sheet.put("uplink_backlog_bytes", waiting.stored_bytes, ident, lane)
                sheet.put("uplink_backlog_ratio", waiting.fill, ident, lane)
                sheet.put("uplink_full_seconds", waiting.full_s, ident, lane)
        for lane, count in stats.sent.items():
            sheet.put("uplink_sent_total", count, ident, lane)
        _certificate(sheet, moment, ident, "server", stats.certificate_not_after_utc_ns)
    for uplink in moment.gateway.config.uplink:
        not_after_ns = client_not_after_utc_ns(uplink, moment.gateway.credentials)
        _certificate(sheet, moment, uplink.id, "client", not_after_ns)


def _certificate(sheet: Sheet, moment: Moment, uplink: str, side: str, not_after_ns: int) -> None:
    if not_after_ns:
        left_s = (not_after_ns - moment.now.utc_ns) / 1e9
        sheet.put("certificate_expiry_seconds", left_s, uplink, side)


def _stores(sheet: Sheet, moment: Moment) -> None:
    for (uplink, reason), count in sorted(moment.ledger.letters.items()):
        sheet.put("letters_total", count, uplink, reason)
    for (uplink, state), count in sorted(moment.ledger.letter_states.items()):
        sheet.put("letters_by_state", count, uplink, state)
    if moment.ledger.audit_entries:
        sheet.put("audit_info", 1, moment.ledger.audit_head)
    sheet.put("audit_entries", moment.ledger.audit_entries)
    for name, stats in (("ledger", moment.ledger), ("history", moment.history)):
        sheet.put("store_up", stats.ok, name)
        sheet.put("store_bytes", stats.bytes, name)
        sheet.put("store_bytes_written_total", stats.bytes_written, name)
    sheet.put("recorder_events_total", moment.recorder.events)
    sheet.put("recorder_samples_total", moment.recorder.samples)
