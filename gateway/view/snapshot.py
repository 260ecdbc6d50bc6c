"""The state of everything as rows: from guard.shm and the program's names, and the parts that live.

Used by the API, and by the command line when no gateway answers. What only a gateway knows is null
then, never empty.
"""

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from fastpath.codes import (
    NONE_U32,
    Counter,
    DeviceState,
    DeviceStatsFlag,
    InterlockLatchFlag,
    OutputState,
    Quality,
    Reason,
    Refusal,
    TripReason,
    Truth,
)
from gateway.guard.board import (
    LATCHED,
    BypassState,
    GuardBoard,
    interlock_word,
    output_confirmed,
    output_word,
    quality_word,
    reason_word,
)
from gateway.orders.proof_tests import due_utc_ns
from gateway.view.instant import Instant, rfc3339
from gateway.view.shapes import (
    BypassRow,
    DeviceRow,
    GatewayRow,
    GuardRow,
    InterlockRow,
    LegRow,
    OutputRow,
    ProofRow,
    Status,
    TagBypassRow,
    TagRow,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastpath.journal import DeviceView, GuardView, Header, SlotView
    from gateway.guard.program_text import OutputText
    from gateway.plant.tags import TagValue
    from gateway.store.audit_memory import Order, ProofTest

TRUTH_WORDS: Final = {
    Truth.TRUE: "true",
    Truth.FALSE: "false",
    Truth.UNKNOWN: "unknown",
    Truth.ABSTAIN: "abstains",
}
GUARD_DEAD: Final = "no guard runs: devices, interlocks and outputs are as it left them"
NO_GUARD: Final = GuardRow(alive=False, realtime=False, scan=0, program="", since=None)


class Background(NamedTuple):
    """What only a gateway's ledger and site file know; empty where none runs."""

    order: "Callable[[bytes], Order | None]" = lambda _ident: None
    proofs: "Mapping[str, ProofTest] | None" = None  # None: not known
    test_every_ns: "Mapping[str, int]" = MappingProxyType({})


NO_BACKGROUND: Final = Background()


def guard_row(view: "GuardView", header: "Header", now: Instant) -> GuardRow:
    """The guard itself."""
    alive = view.guard_alive()
    started = now.of_process(header.pid) if alive else None
    return GuardRow(
        alive=alive,
        realtime=alive and bool(header.counters[Counter.REALTIME]),
        scan=header.scan,
        program=header.program.hex(),
        since=started or now.of_mono(header.scan_mono_ns),
        locked=alive and bool(header.counters[Counter.LOCKED]),
        pid=header.pid if alive else 0,
        overruns=header.overruns,
        scans_late=header.counters[Counter.SCANS_LATE],
        cpu=header.counters[Counter.CPU] - 1 if alive and header.counters[Counter.CPU] else None,
    )


def interlock_rows(
    board: GuardBoard, now: Instant, background: Background = NO_BACKGROUND
) -> list[InterlockRow]:
    """Every interlock of the running program."""
    count = len(board.text.interlocks)
    return [_interlock_row(board, i, now, background) for i in range(count)]


def bypassed_tags(
    board: GuardBoard, now: Instant, background: Background = NO_BACKGROUND
) -> dict[str, BypassRow]:
    """The live bypasses of tags, by tag."""
    return {
        board.text.tags[slot]: _bypass_row(found, now, background)
        for slot, found in board.tag_bypasses().items()
    }


def tag_bypass_rows(
    board: GuardBoard, now: Instant, background: Background = NO_BACKGROUND
) -> list[TagBypassRow]:
    """The same as rows."""
    found = bypassed_tags(board, now, background)
    return [TagBypassRow(id=ident, bypass=row) for ident, row in found.items()]


def output_rows(board: GuardBoard, now: Instant) -> list[OutputRow]:
    """Every output of the running program."""
    rows = []
    for i, text in enumerate(board.text.outputs):
        latch = board.output(i)
        confirmed = output_confirmed(latch)
        rows.append(
            OutputRow(
                id=text.id,
                state=output_word(latch.state),
                wanted=_wanted(text, latch.state),
                readback=board.readback(text),
                confirmed=confirmed,
                via="gateway" if text.via_gateway else "guard",
                held_by=board.holders(i) + board.stands_in_for(i),
                silenced_until=now.of_boot(board.silenced_until_ns(i)),
                unverified=latch.state == OutputState.TRIPPED and not confirmed,
            )
        )
    return rows


def fast_device_rows(board: GuardBoard, now: Instant, *, alive: bool) -> list[DeviceRow]:
    """Every device that the guard polls; none is up without it."""
    rows = []
    for i, text in enumerate(board.text.devices):
        device = board.view.device(i)
        rows.append(
            DeviceRow(
                id=text.id,
                fast=True,
                up=alive and device.state == DeviceState.UP,
                state=_device_word(device.state if alive else DeviceState.DOWN),
                since=now.of_boot(device.since_ns),
                requests=device.requests,
                failed=device.timeouts + sum(device.refused),
                results=device_results(device),
                polls_missed=device.polls_missed,
                round_trip_ms=device.rtt_ns_last / 1e6 if device.rtt_ns_last else None,
                heartbeat_withheld=bool(device.flags & DeviceStatsFlag.HEARTBEAT_WITHHELD),
                lease_lost=bool(device.flags & DeviceStatsFlag.LEASE_LOST),
                watchdog_wrong=bool(device.flags & DeviceStatsFlag.WATCHDOG_WRONG),
            )
        )
    return rows


def device_results(device: "DeviceView") -> dict[str, int]:
    """The guard's counts under the words that the gateway's devices have."""
    refused = device.refused
    exceptions = sum(refused[Refusal.EXCEPTION_ADDRESS :])
    mangled = sum(refused[Refusal.TRANSACTION : Refusal.EXCEPTION_ADDRESS])
    good = device.requests - device.timeouts - exceptions - mangled
    return {
        "connect": refused[Refusal.CONNECT],
        "exception": exceptions,
        "good": max(good, 0),
        "refused": mangled,
        "timeout": device.timeouts,
    }


def guard_tag_rows(board: GuardBoard, now: Instant, *, alive: bool) -> list[TagRow]:
    """The tags that the guard holds: what is left when no gateway answers."""
    text = board.text
    bypassed = bypassed_tags(board, now)
    rows = []
    for i, seen in enumerate(board.view.slots(len(text.tags))):
        limit_ns = text.stale_after_ns[i]
        old = limit_ns and now.mono_ns - seen.mono_ns > limit_ns
        if seen.mono_ns and (old or not alive):
            seen = seen._replace(quality=Quality.BAD, reason=Reason.STALE)
        if not text.tags[i].startswith("sys."):
            bypass = bypassed.get(text.tags[i])
            rows.append(tag_row(text.tags[i], text.tag_devices[i], text.units[i], seen, bypass))
    return rows


def tag_row(
    ident: str,
    device: str | None,
    unit: str | None,
    seen: "TagValue | SlotView",
    bypass: BypassRow | None = None,
) -> TagRow:
    """One tag as it stands; a value that was never read is null."""
    known = seen.mono_ns != 0
    return TagRow(
        id=ident,
        device=device,
        value=seen.value if known else None,
        unit=unit,
        quality=quality_word(seen.quality),
        reason=reason_word(seen.quality, seen.reason),
        time=rfc3339(seen.utc_ns) if known else None,
        source_time=rfc3339(seen.source_utc_ns),
        bypass=bypass,
    )


def offline_status(
    view: "GuardView", board: GuardBoard | None, now: Instant, why: str, pid: int | None = None
) -> Status:
    """What guard.shm says when no gateway answers, and ``why``; ``pid``: of one that hangs."""
    header = view.header()
    guard = guard_row(view, header, now)
    notes = [why] if guard.alive else [why, GUARD_DEAD]
    if board is None:
        notes.append(f"no program blob {header.program.hex()} found: names are not known")
    return Status(
        site=(board.text.site or None) if board else None,
        gateway=(board.text.gateway or None) if board else None,
        epoch=None,
        guard=guard,
        gateway_process=GatewayRow(
            alive=False, pid=pid, since=now.of_mono(header.last_message_mono_ns)
        ),
        devices=fast_device_rows(board, now, alive=guard.alive) if board else [],
        interlocks=interlock_rows(board, now) if board else [],
        outputs=output_rows(board, now) if board else [],
        alarms=None,
        uplinks=None,
        notes=notes,
        bypassed_tags=tag_bypass_rows(board, now) if board else [],
    )


def _bypass_row(found: BypassState, now: Instant, background: Background) -> BypassRow:
    order = background.order(found.ident)
    return BypassRow(
        until=now.of_boot(found.until_ns),
        since=now.of_boot(found.from_ns),
        left_s=-(-max(0, found.until_ns - now.boot_ns) // 1_000_000_000),
        by=order.who if order else None,
        reason=order.reason if order else None,
    )


def _proof_row(ident: str, now: Instant, background: Background) -> ProofRow | None:
    """None where it is not known, or nothing was made and nothing is asked for."""
    if background.proofs is None:
        return None
    proof, every_ns = background.proofs.get(ident), background.test_every_ns.get(ident, 0)
    if proof is None and not every_ns:
        return None
    due_ns = due_utc_ns(proof, every_ns) if every_ns else 0
    return ProofRow(
        made=proof.made if proof else 0,
        last=rfc3339(proof.utc_ns) if proof else None,
        last_passed=rfc3339(proof.passed_utc_ns) if proof else None,
        passed=proof.passed if proof else False,
        due=rfc3339(due_ns),
        overdue=bool(every_ns) and now.utc_ns >= due_ns,
    )


def _interlock_row(
    board: GuardBoard, index: int, now: Instant, background: Background
) -> InterlockRow:
    text = board.text.interlocks[index]
    bypass = board.bypass(index)
    latch = board.interlock(index)
    flags = InterlockLatchFlag(latch.flags & _KNOWN_FLAGS)
    return InterlockRow(
        id=text.id,
        state=interlock_word(latch.state),
        armed=text.armed,
        bypassed=bool(flags & InterlockLatchFlag.BYPASSED),
        withheld=bool(flags & InterlockLatchFlag.WITHHELD),
        generation=latch.generation,
        since=now.of_boot(latch.since_ns),
        first_out=bool(flags & InterlockLatchFlag.FIRST_OUT),
        legs=[
            LegRow(
                text=leg.text,
                result=TRUTH_WORDS[leg.truth],
                value=leg.slot.value if leg.slot and leg.slot.mono_ns else None,
            )
            for leg in board.legs(index)
        ],
        reason=_trip_reason(latch.state, latch.reason),
        starting=bool(flags & InterlockLatchFlag.STARTING),
        group=board.text.groups[text.group].id if text.group != NONE_U32 else None,
        bypass=_bypass_row(bypass, now, background) if bypass else None,
        demands=latch.demands,
        withheld_demands=latch.withheld_demands,
        proof=_proof_row(text.id, now, background),
    )


_KNOWN_FLAGS: Final = sum(InterlockLatchFlag)


def _trip_reason(state: int, reason: int) -> str | None:
    if state not in LATCHED:
        return None
    try:
        return TripReason(reason).name.lower()
    except ValueError:
        return TripReason.RESTORED.name.lower()


def _wanted(text: "OutputText", state: int) -> bool | int | None:
    if state == OutputState.HELD:
        return None
    normal = state in (OutputState.RELEASED, OutputState.RELEASING)
    value = text.normal if normal else text.trip
    return bool(value) if text.coil and value is not None else value


def _device_word(state: int) -> str:
    try:
        return DeviceState(state).name
    except ValueError:
        return DeviceState.DOWN.name
