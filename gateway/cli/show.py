"""``status``, ``tags``, ``interlocks``, ``alarms``: what is, as a table or as JSON.

The gateway answers where it lives; where not, guard.shm and the names in the state directory do.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from gateway.cli.bypass_table import print_bypasses, print_proofs, print_substitutions
from gateway.cli.client import NotReached, get, process_runs, running_pid
from gateway.cli.options import add_directories, add_json, paths_of
from gateway.cli.table import complain, moment, plain, show_json, show_table
from gateway.cli.tag_files import add_tag_files, tag_files
from gateway.orders.outcome import Exit
from gateway.paths import Paths
from gateway.view.shapes import DeviceRow, InterlockRow, OutputRow, Status, TagRow, WaitingRow

if TYPE_CHECKING:
    from fastpath.journal import GuardView
    from gateway.guard.board import GuardBoard

SIMULATED_TEXT: Final = "SIMULATED: no device and no output is real"

_T = TypeVar("_T")
Offline = Callable[["GuardView", "GuardBoard | None", str], _T]  # the map, its names, why


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    for name, text, run in (
        ("status", "everything at a glance, also with the gateway dead", status),
        ("tags", "newest value and quality of every tag", tags),
        ("interlocks", "state, legs and latch of every interlock", interlocks),
        ("alarms", "what was raised and has not ended", alarms),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        add_json(parser)
        add_directories(parser)
        parser.set_defaults(run=run)
        if run is tags:
            add_tag_files(parser)


def status(args: argparse.Namespace) -> int:
    """Print the status; 3 where no guard runs."""
    paths = paths_of(args)
    found = _ask(paths, "/status", Status, partial(_offline_status, paths))
    if args.json:
        show_json(found)
    else:
        _print_status(found)
    return Exit.DONE if found.guard.alive else Exit.NOT_REACHED


def tags(args: argparse.Namespace) -> int:
    """Print every tag; or read and write lists of them."""
    if args.import_file or args.export:
        return tag_files(args)
    rows = _ask(paths_of(args), "/tags", list[TagRow], _offline_tags)
    if args.json:
        show_json(rows)
    else:
        _tell_simulated(args)
        headings = ("tag", "device", "value", "unit", "quality", "reason", "time", "notes")
        cells = [(r.id, r.device, r.value if r.text is None else r.text, r.unit, r.quality,
                  r.reason, moment(r.time), _tag_notes(r)) for r in rows]  # fmt: skip
        show_table("tags", headings, cells)
        print_substitutions((row.id, row.value, row.substitution) for row in rows)
        print_bypasses((row.id, row.bypass) for row in rows)
    return Exit.DONE


def interlocks(args: argparse.Namespace) -> int:
    """Print every interlock with its legs."""
    rows = _ask(paths_of(args), "/interlocks", list[InterlockRow], _offline_interlocks)
    if args.json:
        show_json(rows)
        return Exit.DONE
    _tell_simulated(args)
    _print_interlocks(rows)
    cells = [(row.id, leg.text, leg.result, leg.value) for row in rows for leg in row.legs]
    show_table("legs", ("interlock", "leg", "result", "value"), cells)
    print_bypasses((row.id, row.bypass) for row in rows)
    print_proofs(rows)
    return Exit.DONE


def alarms(args: argparse.Namespace) -> int:
    """Print what is raised; only a gateway knows it."""
    rows = msgspec.json.decode(get(paths_of(args), "/alarms"), type=list[dict[str, Any]])
    if args.json:
        show_json(rows)
    else:
        _tell_simulated(args)
        _print_alarms(rows)
    return Exit.DONE


def _tell_simulated(args: argparse.Namespace) -> None:
    if paths_of(args).simulated:
        print(SIMULATED_TEXT)


def _ask(paths: Paths, target: str, kind: type[_T], offline: "Offline[_T]") -> _T:
    """The gateway's answer, else what can be known without it. Raises NotReached."""
    try:
        return msgspec.json.decode(get(paths, target), type=kind)
    except NotReached as error:
        why = str(error)
    from gateway.cli.offline import guard_view, programs_of
    from gateway.guard.board import GuardBoard

    with guard_view(paths) as view:
        return offline(view, GuardBoard.read(view, programs_of(paths)), why)


def _offline_status(
    paths: Paths, view: "GuardView", board: "GuardBoard | None", why: str
) -> Status:
    from gateway.life.lives import look
    from gateway.view.instant import Instant
    from gateway.view.snapshot import offline_status

    seen = look(paths.lives, process_runs)
    found = offline_status(view, board, Instant.now(), why, running_pid(paths) or seen.pid)
    process = msgspec.structs.replace(found.gateway_process, unclean_ends=seen.unclean)
    return msgspec.structs.replace(found, simulated=paths.simulated, gateway_process=process)


def _offline_tags(view: "GuardView", board: "GuardBoard | None", why: str) -> list[TagRow]:
    from gateway.view.instant import Instant
    from gateway.view.snapshot import guard_tag_rows

    complain(f"{why}; these are the tags that the guard holds")
    return guard_tag_rows(_known(board), Instant.now(), alive=view.guard_alive())


def _offline_interlocks(
    view: "GuardView", board: "GuardBoard | None", why: str
) -> list[InterlockRow]:
    from gateway.view.instant import Instant
    from gateway.view.snapshot import GUARD_DEAD, interlock_rows

    complain(why if view.guard_alive() else f"{why}; {GUARD_DEAD}")
    return interlock_rows(_known(board), Instant.now())


def _known(board: "GuardBoard | None") -> "GuardBoard":
    if board is None:
        text = "the running program's names are not in the state directory: is --state-dir right?"
        raise NotReached(text)
    return board


def _print_status(found: Status) -> None:
    guard, process = found.guard, found.gateway_process
    if found.simulated:
        print(SIMULATED_TEXT)
    print(plain(f"site {found.site or '?'}, gateway {found.gateway or '?'}"))
    print(f"guard: {_guard_words(found)}")
    if process.alive:
        print(f"gateway: running, pid {process.pid}, since {moment(process.since)}")
    else:
        state = f"NOT ANSWERING, pid {process.pid}" if process.pid else "NOT RUNNING"
        print(f"gateway: {state}, last heard by the guard {moment(process.since)}")
    if process.unclean_ends:
        times = "once" if process.unclean_ends == 1 else f"{process.unclean_ends} times"
        print(f"note: the gateway has ended {times} without being told to since its last stop")
    if guard.alive and not guard.realtime:
        print("note: the guard runs without real-time scheduling; its tail is the machine's")
    for note in found.notes:
        print(plain(f"note: {note}"))
    for problem in found.problems or []:
        words = f"problem: {problem.kind} {problem.id}: {problem.text}"
        print(plain(f"{words} (since {moment(problem.since)})"))
    unarmed = sum(not row.armed for row in found.interlocks)
    if unarmed:
        print(f"note: {unarmed} of {len(found.interlocks)} interlocks are unarmed")
    cells = [(d.id, d.up, d.state, d.fast, d.requests, d.failed, moment(d.since),
              _device_notes(d)) for d in found.devices]  # fmt: skip
    headings = ("device", "up", "state", "fast", "requests", "failed", "since", "notes")
    show_table("devices", headings, cells)
    _print_interlocks(found.interlocks)
    print_bypasses((row.id, row.bypass) for row in found.interlocks)
    print_bypasses((row.id, row.bypass) for row in found.bypassed_tags)
    _print_outputs(found.outputs)
    _print_uplinks(found)
    _print_stores(found)
    if found.alarms is not None:
        _print_alarms(found.alarms)


def _guard_words(found: Status) -> str:
    guard = found.guard
    program = guard.program[:12] or "none"
    if not guard.alive:
        return f"NOT RUNNING, last scan {moment(guard.since)}, program {program}"
    kind = "real-time" if guard.realtime else "not real-time"
    kind += "" if guard.cpu is None else f" on CPU {guard.cpu}"
    locked = "locked in memory" if guard.locked else "not locked in memory"
    return (
        f"running, pid {guard.pid}, since {moment(guard.since)}, scan {guard.scan}, "
        f"{guard.overruns} overruns, {kind}, {locked}, program {program}"
    )


def _print_interlocks(rows: list[InterlockRow]) -> None:
    cells = []
    for row in rows:
        notes = [word for word, so in (
            ("UNARMED", not row.armed), ("BYPASSED", row.bypassed),
            ("WOULD HAVE TRIPPED", row.withheld and row.state == "TRIPPED"),
            ("first out", row.first_out), ("starting", row.starting)) if so]  # fmt: skip
        cells.append(
            (row.id, row.state, row.generation, moment(row.since), row.reason, ", ".join(notes))
        )
    headings = ("interlock", "state", "generation", "since", "reason", "notes")
    show_table("interlocks", headings, cells)


def _print_outputs(rows: list[OutputRow]) -> None:
    cells = [
        (r.id, r.state, r.wanted, r.readback, r.confirmed, ", ".join(r.held_by), _output_notes(r))
        for r in rows
    ]
    headings = ("output", "state", "wanted", "read-back", "confirmed", "held by", "notes")
    show_table("outputs", headings, cells)


def _output_notes(row: OutputRow) -> str:
    notes = []
    if row.silenced_until:
        notes.append(f"silenced until {moment(row.silenced_until)}")
    if row.unverified:
        notes.append("UNVERIFIED: nobody hears of it")
    if row.via != "guard":
        notes.append(f"via {row.via}")
    return ", ".join(notes)


def _tag_notes(row: TagRow) -> str:
    words = (("BYPASSED", row.bypass), ("BY HAND", row.substitution))
    return ", ".join(word for word, so in words if so)


def _device_notes(row: DeviceRow) -> str:
    return ", ".join(
        word
        for word, so in (
            ("HEARTBEAT WITHHELD", row.heartbeat_withheld),
            ("ANOTHER GUARD OWNS ITS OUTPUTS", row.lease_lost),
            ("WATCHDOG REGISTERS WRONG", row.watchdog_wrong),
        )
        if so
    )


def _print_uplinks(found: Status) -> None:
    if found.uplinks is None:
        return
    cells = [
        (
            u.id, u.up, u.backlog.alerts, u.backlog.live, u.backlog.backfill, f"{u.oldest_s:.0f} s",
            *_room(u.waiting.values()),
        )
        for u in found.uplinks
    ]  # fmt: skip
    headings = ("uplink", "up", "alerts", "live", "backfill", "oldest", "room used", "full in")
    show_table("uplinks (waiting)", headings, cells)


def _print_stores(found: Status) -> None:
    if found.stores is None:
        return
    cells = [
        (
            store.id, store.ok, f"{store.bytes / 1e6:,.1f} MB", f"{store.written / 1e6:,.1f} MB",
            "-" if store.written_per_day is None else f"{store.written_per_day / 1e6:,.0f} MB",
        )
        for store in found.stores
    ]  # fmt: skip
    show_table("stores", ("store", "ok", "on disk", "written", "in a day"), cells)


def _room(waiting: Iterable[WaitingRow]) -> tuple[str, str]:
    """How much of its room the fullest lane uses, and when the first one is full."""
    rows = list(waiting)
    used = max((row.fill for row in rows), default=0.0)
    times_s = [row.full_s for row in rows if row.full_s is not None]
    return f"{used:.0%}", f"{min(times_s) / 3600:.1f} h" if times_s else "-"


def _print_alarms(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        source = row.get("source") or {}
        what = f"{source.get('kind', '')} {source.get('id', '')}"
        cells.append(
            (moment(row.get("time")), row.get("kind"), row.get("priority"), what,
             row.get("value"), row.get("cause") or row.get("guidance"))
        )  # fmt: skip
    headings = ("time", "kind", "priority", "source", "value", "cause")
    show_table("raised", headings, cells)
