"""What is compared of two guards: latches, results, and of each record what both of them tell."""

from typing import Any

from fastpath import blob as blobs
from fastpath.codes import (
    EventFlag,
    EventType,
    InterlockLatchFlag,
    MessageType,
    OutputDemand,
    OutputState,
)
from fastpath.records import Event, legs_of, payload_of
from tests.helpers.histories import DEVICES, INTERLOCKS, OUTPUTS, POLLED, SLOW, SYSTEM

IDS = {
    blobs.key_of(kind, name): name
    for kind, found in (
        ("interlock", INTERLOCKS), ("output", OUTPUTS), ("tag", (*POLLED, SLOW, *SYSTEM)),
        ("device", [each.id for each in DEVICES]),
    )
    for name in found
}  # fmt: skip


ASKED = (
    OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED, OutputState.RELEASING,
)  # fmt: skip


class Difference(AssertionError):
    """The two guards disagree."""


def same(what: str, found: Any, wanted: Any) -> None:
    """Raise Difference where the guard's is not the reference's."""
    if found == wanted:
        return
    if isinstance(found, dict):
        odd = {k for k in {*found, *wanted} if found.get(k) != wanted.get(k)}
        found = {k: found.get(k) for k in odd}
        wanted = {k: wanted.get(k) for k in odd}
    message = f"{what}: the guard {found}\nthe reference {wanted}"
    raise Difference(message)


def record_seen(event: Event, legs: dict[str, int]) -> tuple[str, str, dict[str, Any]]:
    """A record of the guard; ``legs``: how many each interlock has."""
    kind, name = EventType(event.type).name, IDS.get(event.key, "")
    return kind, name, _fields(kind, event, legs.get(name, 0))


def output_seen(view: Any, wish: int, *, by_gateway: bool) -> tuple[Any, ...]:
    """An output's latch and its wish."""
    demand = OutputDemand(view.demands) & ~OutputDemand.FIRST_HOLD
    asked = view.state in ASKED and by_gateway
    return (
        OutputState(view.state).name, demand, view.generation, view.confirmed, wish,
        float(view.commanded) if asked else None,
        view.silence_until_ns if demand & OutputDemand.SILENCED else None,
    )  # fmt: skip


def output_told(one: Any) -> tuple[Any, ...]:
    """The same of the reference's."""
    return (
        OutputState(one.state).name, one.demand, one.generation, int(one.confirmed), one.wish,
        one.commanded if one.by_gateway else None,
        None if one.silence is None else one.silence.until_boot_ns,
    )  # fmt: skip


def interlock_seen(view: Any, legs: int) -> tuple[Any, ...]:
    flags = InterlockLatchFlag(view.flags)
    return (
        view.state, view.generation, view.reason, view.demands, view.since_ns,
        bool(flags & InterlockLatchFlag.ARMED), bool(flags & InterlockLatchFlag.FIRST_OUT),
        bool(flags & InterlockLatchFlag.SAME_SCAN), bool(flags & InterlockLatchFlag.STARTING),
        tuple(legs_of(view.legs, legs)), bool(flags & InterlockLatchFlag.WITHHELD),
        view.bypass_until_ns if flags & InterlockLatchFlag.BYPASSED else None,
        view.withheld_demands,
    )  # fmt: skip


def interlock_told(one: Any) -> tuple[Any, ...]:
    return (
        one.state, one.generation, one.reason, one.demands, one.since_boot_ns,
        one.armed, one.first_out, one.same_scan, one.starting, one.legs,
        one.withheld, None if one.bypass is None else one.bypass.until_ns, one.withheld_demands,
    )  # fmt: skip


def results_seen(results: dict[bytes, Any]) -> dict[bytes, tuple[int, int, int]]:
    return {ident: (r.code, r.generation, r.detail) for ident, r in results.items()}


def _fields(kind: str, event: Event, legs: int) -> dict[str, Any]:
    """Of a record what the reference tells too."""
    p, flags = payload_of(event), EventFlag(event.flags)
    unarmed, late = bool(flags & EventFlag.UNARMED), bool(flags & EventFlag.LATE)
    withheld = bool(flags & EventFlag.WITHHELD)
    if kind == "TRIP":
        return {
            "withheld": withheld,
            "generation": p["generation"], "reason": p["reason"], "first_out": p["first_out"],
            "legs": tuple(legs_of(p["legs"], legs)), "retrip": bool(flags & EventFlag.RETRIP),
            "same_scan": bool(flags & EventFlag.SAME_SCAN), "unarmed": unarmed,
        }  # fmt: skip
    if kind in ("READY", "NOT_READY", "PENDING", "PENDING_END"):
        found = tuple(legs_of(p["legs"], legs))
        return {
            "generation": p["generation"], "permissive": p["permissive"], "legs": found,
            "unarmed": unarmed, "withheld": withheld,
        }  # fmt: skip
    if kind in ("RESET", "RETURN"):
        names = ("generation", "ledger_seq", "under_bypass")
        return {name: p[name] for name in names} | {"unarmed": unarmed, "withheld": withheld}
    if kind.startswith("BYPASS"):
        of_bypass = ("kind", "cause", "until_ns", "left_ns", "ledger_seq")
        return {name: p[name] for name in of_bypass} | {"unarmed": unarmed, "withheld": withheld}
    if kind.startswith("OUT_"):
        return {"generation": p["generation"], "code": p["code"], "late": late}
    if kind == "COMMAND":
        sort = MessageType(p["type"]).name
        return {"kind": sort, "code": p["code"], "detail": p["detail"]}
    if kind == "PROGRAM":
        return {"kept": p["kept"], "changed": p["changed"]}
    if kind == "TAG_QUALITY":
        return {"quality": p["quality"], "reason": p["reason"]}
    if kind == "PAUSE":
        return {"gap_ns": p["took_ns"]}
    return {}


def by_owner(told: list[tuple[str, str, dict[str, Any]]]) -> dict[str, list[Any]]:
    """Outputs, tags and interlocks each in their own order; in one what is not of one alone."""
    out: dict[str, list[Any]] = {}
    for kind, name, fields in told:
        own = kind.startswith(("OUT_", "BYPASS", "HEARTBEAT")) or kind == "TAG_QUALITY"
        if own or name in INTERLOCKS:
            out.setdefault(name, []).append((kind, name, fields))
        if not own:
            out.setdefault("", []).append((kind, name, fields))
    return out
