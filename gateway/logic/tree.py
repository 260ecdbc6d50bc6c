"""A condition as a tree: what ``parse`` makes of its text and everything after it reads.

``at`` and ``end`` are places in the text, for errors; trees are compared without them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

VOTES_MAX: Final = 32
WINDOWS: Final = ("mean", "rate", "delta", "lowest", "highest", "total")
FUNCTIONS: Final = {"abs": (1, 1), "min": (2, VOTES_MAX), "max": (2, VOTES_MAX)}  # arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Expr:
    """Root of all nodes."""

    at: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)

    @property
    def operands(self) -> tuple["Expr", ...]:
        """The nodes right below, left to right."""
        found: list[Expr] = []
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Expr):
                found.append(value)
            elif isinstance(value, tuple):
                found.extend(value)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """A literal. ``unit`` is None where none is written."""

    value: float
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class TagRef(Expr):
    """A tag, also ``sys.…``."""

    id: str


@dataclass(frozen=True, slots=True)
class Negate(Expr):
    """Unary minus."""

    operand: Expr


@dataclass(frozen=True, slots=True)
class Arithmetic(Expr):
    """``+ - * /``."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """``abs min max``."""

    name: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Window(Expr):
    """``mean(x, 60s)``: what a measured tag did in the time just past."""

    name: str  # of WINDOWS
    tag: TagRef
    span_ns: int
    span_at: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Quality(Expr):
    """``bad(x)``, or ``good(x)`` where not ``bad``."""

    bad: bool
    operand: Expr


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """``= <> < <= > >=``."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Until(Expr):
    """Hysteresis: what made ``condition`` true stays until its left side is ``op limit``."""

    condition: Compare
    op: str
    limit: Expr


@dataclass(frozen=True, slots=True)
class For(Expr):
    """On-delay: true once ``condition`` was true for the whole duration."""

    condition: Expr
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Hold(Expr):
    """Off-delay: true while ``condition`` is, and for the duration after it last was."""

    condition: Expr
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Not(Expr):
    """``not x``."""

    operand: Expr


@dataclass(frozen=True, slots=True)
class And(Expr):
    """All of two or more."""

    terms: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Expr):
    """Any of two or more."""

    terms: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Vote(Expr):
    """``2oo3(a, b, c)``: at least ``needed`` of the votes."""

    needed: int
    votes: tuple[Expr, ...]


def walk(tree: Expr) -> Iterator[Expr]:
    """Every node, from the root down, left to right; never deeper than Python's own stack."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.operands))


def mapped(tree: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The tree with every node replaced by what ``change`` makes of it, leaves first.

    What ``change`` gives back as it is stays the very same object.
    """
    new: dict[str, Any] = {}
    for each in fields(tree):
        value = getattr(tree, each.name)
        if isinstance(value, Expr):
            other = mapped(value, change)
            if other is not value:
                new[each.name] = other
        elif isinstance(value, tuple):
            items = tuple(mapped(item, change) for item in value)
            if any(a is not b for a, b in zip(items, value, strict=True)):
                new[each.name] = items
    return change(replace(tree, **new) if new else tree)


def tags_of(tree: Expr) -> list[str]:
    """The tags that a tree reads, in the order of their first places."""
    return list(dict.fromkeys(node.id for node in walk(tree) if isinstance(node, TagRef)))
