"""The guard's records of interlocks: code, legs, effects, and the groups that they belong to."""

from typing import Final

from fastpath import blob
from fastpath.codes import NONE_U32, InterlockFlag, OnBad
from gateway.logic import fingerprint
from gateway.logic.canonical import canonical
from gateway.logic.emit import Emitter, lead_of, legs_of
from gateway.logic.layout import Layout
from gateway.logic.tree import Expr, tags_of
from gateway.site.model import Interlock

_ON_BAD: Final = {"trip": OnBad.TRIP, "hold": OnBad.HOLD, "ignore": OnBad.IGNORE}


def groups(layout: Layout) -> list[blob.Group]:
    """In the order of the layout."""
    bounds = {group.id: group.max_bypassed for group in layout.config.group}
    return [
        blob.Group(layout.group_order.keys[ident], bounds[ident])
        for ident in layout.group_order.ids
    ]


def add_interlocks(layout: Layout, program: blob.Program) -> None:
    """With their code, legs, effects and texts, in the order of the layout."""
    emitter = Emitter(layout.tag_order.index, program.code, program.nodes, program.windows)
    order = {interlock.id: place for place, interlock in enumerate(layout.config.interlock)}
    texts: dict[str, list[str]] = {"legs": [], "causes": [], "permissives": []}
    for number, ident in enumerate(layout.interlock_order.ids):
        interlock, cause = layout.interlocks[ident], layout.causes[ident]
        permissive = layout.permissives[ident]
        emitter.begin(ident, number)
        votes_trip = interlock.bypass_votes == "trip"
        cause_register = emitter.cause(cause, votes_trip=votes_trip)
        legs = [_leg(layout, number, emitter.register_of(leg), leg) for leg in legs_of(cause)]
        texts["legs"] += [canonical(leg) for leg in legs_of(cause)]
        texts["causes"].append(canonical(cause))
        texts["permissives"].append(canonical(permissive) if permissive else "")
        effects = [
            blob.Effect(number, layout.output_order.index[effect.output], int(effect.delay))
            for effect in interlock.effects
        ]
        program.interlocks.append(
            blob.Interlock(
                key=layout.interlock_order.keys[ident],
                fingerprint=_fingerprint(layout, interlock),
                delay_ns=int(interlock.delay),
                bad_for_ns=int(interlock.bad_for),
                hold_max_ns=int(interlock.hold_max or 0),
                min_trip_ns=int(interlock.min_trip),
                response_ns=int(interlock.response),
                bypass_max_ns=int(interlock.bypass_max),
                order=order[ident],
                cause=cause_register,
                permissive=emitter.truth(permissive) if permissive else NONE_U32,
                group=layout.group_order.index[interlock.group] if interlock.group else NONE_U32,
                flags=int(_flags(interlock)),
                on_bad=int(_ON_BAD[interlock.on_bad]),
                legs_first=len(program.legs),
                legs_count=len(legs),
                effects_first=len(program.effects),
                effects_count=len(effects),
            )
        )
        program.legs += legs
        program.effects += effects
    program.names |= texts


def _leg(layout: Layout, interlock: int, register: int, leg: Expr) -> blob.Leg:
    lead = lead_of(leg)
    slot = layout.tag_order.index[lead.tag] if lead.tag is not None else NONE_U32
    return blob.Leg(interlock, register, slot, lead.limit)


def _fingerprint(layout: Layout, interlock: Interlock) -> int:
    cause, permissive = layout.causes[interlock.id], layout.permissives[interlock.id]
    read = sorted({*tags_of(cause), *(tags_of(permissive) if permissive else ())})
    conditions: tuple[str, ...] = (
        canonical(cause),
        canonical(permissive) if permissive else "",
    )
    far = [layout.computed.tags[name].tree for name in read if name in layout.computed.tags]
    read += sorted({name for tree in far for name in tags_of(tree)})
    conditions += tuple(canonical(tree) for tree in far)
    tags = [fingerprint.of_tag(name, layout.tags, layout.devices) for name in read]
    return blob.fingerprint_of([*conditions, *fingerprint.of_interlock(interlock), *tags])


def _flags(interlock: Interlock) -> InterlockFlag:
    flags = InterlockFlag(0)
    if interlock.latch:
        flags |= InterlockFlag.LATCH
    if interlock.armed:
        flags |= InterlockFlag.ARMED
    if interlock.no_bypass:
        flags |= InterlockFlag.NO_BYPASS
    if interlock.bypass_votes == "trip":
        flags |= InterlockFlag.BYPASS_VOTES_TRIP
    return flags
