"""Limits of tags -> the gateway's alarm program: the guard's evaluator over the gateway's image.

``high = 1.0, deadband = 0.05, delay = "2s"`` is ``(x >= 1.0 until < 0.95) for 2s``. Quality comes
with the samples, so nothing goes stale in this program by itself.
"""

from dataclasses import dataclass
from typing import Final

from fastpath import blob
from fastpath.codes import NONE_U32, Owner, TagFlag
from gateway.logic import tree
from gateway.logic.compile import check_sizes
from gateway.logic.emit import Emitter
from gateway.logic.layout import Keyed
from gateway.logic.tree import Expr
from gateway.site.model import Config, Limits, Tag

# limit: raised at, cleared at, and the deadband's direction
_LIMITS: Final = {
    "low_low": ("<=", ">", 1.0),
    "low": ("<=", ">", 1.0),
    "high": (">=", "<", -1.0),
    "high_high": (">=", "<", -1.0),
}


@dataclass(frozen=True, slots=True)
class AlarmDef:
    """One limit of one tag. ``register`` is its truth register in the alarm program."""

    id: str  # ch4.t1.high
    tag: str
    kind: str  # low_low, low, high, high_high
    limit: float
    deadband: float
    delay_ns: int
    register: int
    priority: str
    level: str | None
    guidance: str
    unit: str


@dataclass(frozen=True, slots=True)
class AlarmProgram:
    """What ``alarms/limits.py`` runs. ``slots`` are the tags' places in its own image."""

    blob: bytes
    slots: dict[str, int]
    alarms: tuple[AlarmDef, ...]


def compile_alarms(config: Config) -> AlarmProgram:
    """The alarm program of a site that ``check`` found good. Raises TooLargeError."""
    limited = [tag for tag in config.tag if tag.limits is not None]
    order = Keyed("tag", (tag.id for tag in limited))
    program = blob.Program(
        site_key=blob.key_of("site", config.site.id),
        tick_ns=config.site.tick,
        start_within_ns=config.site.start_within,
        tags=[
            blob.Tag(
                key=order.keys[ident],
                owner=int(Owner.GATEWAY),
                flags=int(TagFlag.UNCERTAIN_USE),  # alarms take UNCERTAIN for good
            )
            for ident in order.ids
        ],
        names={"tags": order.ids},
    )
    emitter = Emitter(order.index, program.code, program.nodes, program.windows)
    alarms: list[AlarmDef] = []
    for tag in limited:
        alarms += _alarms_of(tag, emitter)
    check_sizes(program)
    return AlarmProgram(blob.build(program), order.index, tuple(alarms))


def _alarms_of(tag: Tag, emitter: Emitter) -> list[AlarmDef]:
    limits = tag.limits
    if limits is None:
        return []
    alarms = []
    for kind in _LIMITS:
        limit: float | None = getattr(limits, kind)
        if limit is None:
            continue
        ident = f"{tag.id}.{kind}"
        emitter.begin(ident, NONE_U32)
        register = emitter.truth(_condition(tag.id, kind, limit, limits))
        alarms.append(
            AlarmDef(
                id=ident,
                tag=tag.id,
                kind=kind,
                limit=limit,
                deadband=limits.deadband,
                delay_ns=int(limits.delay),
                register=register,
                priority=limits.priority,
                level=limits.level,
                guidance=limits.guidance,
                unit=tag.unit,
            )
        )
    return alarms


def _condition(ident: str, kind: str, limit: float, limits: Limits) -> Expr:
    raised, cleared, direction = _LIMITS[kind]
    condition: Expr = tree.Compare(raised, tree.TagRef(ident), tree.Number(limit))
    if limits.deadband > 0.0 and isinstance(condition, tree.Compare):
        end = tree.Number(limit + direction * limits.deadband)
        condition = tree.Until(condition, cleared, end)
    return tree.For(condition, int(limits.delay)) if limits.delay else condition
