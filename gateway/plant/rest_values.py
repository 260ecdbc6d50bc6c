"""Where the tags of a site lie while nothing happens: what a simulated device shows of itself.

A value between the tag's limits at which no interlock trips and every permissive holds, as far as
its conditions say so of one tag alone. Where they contradict each other the instrument's range is
what is left: then an interlock trips, and says so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from drivers.signals import PERIOD_NS, Signal
from gateway.logic.conditions import Conditions, conditions_of
from gateway.logic.tree import (
    And,
    Call,
    Compare,
    Expr,
    For,
    Hold,
    Negate,
    Not,
    Number,
    Or,
    TagRef,
    Until,
    Vote,
    Window,
)
from gateway.site.model import Config, Tag
from gateway.site.plausible import band_of

LEVEL_WINDOWS: Final = frozenset(("mean", "lowest", "highest"))
SQUARE_NS: Final = 60_000_000_000
_OPPOSITE: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "<>", "<>": "="}
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


@dataclass(slots=True)
class Room:
    """Where one tag may lie. ``truth`` is of a boolean: None where nothing asks for it."""

    above: list[float] = field(default_factory=list)
    below: list[float] = field(default_factory=list)
    truth: bool | None = None


def rest_signals(config: Config, booleans: Mapping[str, bool]) -> dict[str, Signal]:
    """The signal of every measured tag at rest, by id. ``booleans``: which of them are."""
    rooms = rooms_of(conditions_of(config))
    return {
        tag.id: _boolean_signal(rooms.get(tag.id, Room()))
        if booleans[tag.id]
        else analog_signal(tag, rooms.get(tag.id, Room()))
        for tag in config.tag
        if tag.value is None
    }


def analog_signal(tag: Tag, room: Room) -> Signal:
    """A walk in the middle of what range, limits and conditions leave."""
    low, high = band_of(tag, room.above, room.below)
    return Signal("walk", low, high, PERIOD_NS["walk"])


def _boolean_signal(room: Room) -> Signal:
    if room.truth is None:
        return Signal("square", 0.0, 1.0, SQUARE_NS)
    return Signal("constant", float(room.truth), float(room.truth), PERIOD_NS["constant"])


def rooms_of(conditions: Conditions) -> dict[str, Room]:
    """What causes that are false and permissives that are true ask of each tag."""
    rooms: dict[str, Room] = {}
    wanted = [(tree, False) for tree in conditions.causes.values()]
    wanted += [(tree, True) for tree in conditions.permissives.values()]
    for tree, truth in wanted:
        for ident, op, value in _demands(tree, truth=truth):
            room = rooms.setdefault(ident, Room())
            if op == "is":
                room.truth = bool(value)
            elif op in (">", ">="):
                room.above.append(value)
            elif op in ("<", "<="):
                room.below.append(value)
            elif op == "=":
                room.above.append(value)
                room.below.append(value)
    return rooms


def _demands(tree: Expr, *, truth: bool) -> Iterator[tuple[str, str, float]]:
    """(tag, operator or "is", value) of every leg that says something of one tag alone."""
    match tree:
        case Not(operand=operand):
            yield from _demands(operand, truth=not truth)
        case And(terms=terms) | Or(terms=terms) | Vote(votes=terms):
            for term in terms:
                yield from _demands(term, truth=truth)
        case For(condition=condition) | Hold(condition=condition):
            yield from _demands(condition, truth=truth)
        case Until(condition=condition, op=op, limit=limit):
            yield from _demands(condition, truth=truth)
            if not truth:  # what was true once is over
                yield from _compared(condition.left, op, limit)
        case TagRef(id=ident):
            yield ident, "is", float(truth)
        case Compare(op=op, left=left, right=right):
            yield from _compared(left, op if truth else _OPPOSITE[op], right)
        case _:
            return


def _compared(left: Expr, op: str, right: Expr) -> Iterator[tuple[str, str, float]]:
    value = _number(right)
    if value is None:
        value, left, op = _number(left), right, _MIRRORED[op]
    if value is None:
        return
    for ident in _levels(left):
        yield ident, op, value


def _levels(tree: Expr) -> Iterator[str]:
    """The tags whose own level a term shows."""
    match tree:
        case TagRef(id=ident):
            yield ident
        case Call(arguments=arguments):
            for argument in arguments:
                yield from _levels(argument)
        case Window(name=name, tag=tag) if name in LEVEL_WINDOWS:
            yield tag.id
        case _:
            return


def _number(tree: Expr) -> float | None:
    match tree:
        case Number(value=value):
            return value
        case Negate(operand=Number(value=value)):
            return -value
        case _:
            return None
