"""Tree -> instructions of a program: single assignment, equal parts computed once.

What has memory (``until``, ``for``, ``hold``) is never shared: each place remembers for itself.
Windows of one owner over the same tag and span are one: what they remember is the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fastpath import blob
from fastpath.codes import (
    LEGS_PER_INTERLOCK_MAX,
    NONE_U16,
    NONE_U32,
    NodeKind,
    Op,
    WindowKind,
)
from gateway.logic import tree
from gateway.logic.tree import Expr

_COMPARE: Final = {"<": Op.LT, "<=": Op.LE, ">": Op.GT, ">=": Op.GE, "=": Op.EQ, "<>": Op.NE}
_ARITHMETIC: Final = {"+": Op.ADD, "-": Op.SUB, "*": Op.MUL, "/": Op.DIV}
_FOLDED: Final = {"min": Op.MIN, "max": Op.MAX}
_WINDOWS: Final = {
    "mean": WindowKind.MEAN,
    "rate": WindowKind.RATE,
    "delta": WindowKind.DELTA,
    "lowest": WindowKind.LOWEST,
    "highest": WindowKind.HIGHEST,
    "total": WindowKind.TOTAL,
}


@dataclass(frozen=True, slots=True)
class Lead:
    """The tag and the limit that a leg is shown by."""

    tag: str | None = None
    limit: float = 0.0


@dataclass(slots=True)
class Emitter:
    """Grows one program's code. ``slots`` are the tags' places in its image."""

    slots: Mapping[str, int]
    code: list[blob.Instruction] = field(default_factory=list)
    nodes: list[blob.Node] = field(default_factory=list)
    windows: list[blob.Window] = field(default_factory=list)
    _known: dict[tuple[int, int, int, float], int] = field(default_factory=dict)
    _registers: dict[int, int] = field(default_factory=dict)
    _owner: str = ""
    _interlock: int = NONE_U32
    _ordinal: int = 0
    _open_windows: dict[tuple[str, int, int], int] = field(default_factory=dict)
    _votes_trip: bool = False
    _negated: bool = False

    def begin(self, owner: str, interlock: int = NONE_U32) -> None:
        """Start the conditions of one owner, an interlock, alarm or computed tag.

        The keys of nodes and windows are made of ``owner`` and their order.
        """
        self._owner = owner
        self._interlock = interlock
        self._ordinal = 0
        self._registers.clear()
        self._open_windows.clear()

    def cause(self, node: Expr, *, votes_trip: bool = False) -> int:
        """Emit a condition that trips; with ``votes_trip`` a bypassed vote counts as true.

        Only where more votes mean a trip: under a ``not`` a vote that is left out is the stricter.
        """
        self._votes_trip = votes_trip
        register = self.truth(node)
        self._votes_trip = False
        return register

    def truth(self, node: Expr) -> int:
        """Emit a condition; returns its truth register."""
        register = self._truth(node)
        self._registers[id(node)] = register
        return register

    def number(self, node: Expr) -> int:
        """Emit a number; returns its register."""
        return self._number(node)

    def register_of(self, node: Expr) -> int:
        """The register of a part of a condition that was emitted since ``begin``."""
        return self._registers[id(node)]

    def _emit(self, op: Op, a: int = 0, b: int = 0, imm: float = 0.0) -> int:
        key = (int(op), a, b, imm)
        if key not in self._known:
            self._known[key] = self._append(op, a, b, imm)
        return self._known[key]

    def _append(self, op: Op, a: int, b: int, imm: float) -> int:
        self.code.append(blob.Instruction(int(op), len(self.code), a, b, imm))
        return len(self.code) - 1

    def _node(self, op: Op, kind: NodeKind, a: int, b: int = 0, duration_ns: int = 0) -> int:
        key = blob.key_of("node", f"{self._owner}:{self._ordinal}")
        self._ordinal += 1
        self.nodes.append(blob.Node(int(kind), self._interlock, duration_ns, key))
        return self._append(op, a, b, float(len(self.nodes) - 1))

    def _truth(self, node: Expr) -> int:
        match node:
            case tree.Not():
                return self._not(node)
            case tree.And():
                return self._fold(Op.AND, node.terms, self.truth)
            case tree.Or():
                return self._fold(Op.OR, node.terms, self.truth)
            case tree.Vote():
                return self._vote(node)
            case tree.Compare():
                left, right = self._number(node.left), self._number(node.right)
                return self._emit(_COMPARE[node.op], left, right)
            case tree.Until():
                return self._until(node)
            case tree.For():
                inner = self.truth(node.condition)
                return self._node(Op.FOR, NodeKind.FOR, inner, duration_ns=node.duration_ns)
            case tree.Hold():
                inner = self.truth(node.condition)
                return self._node(Op.HOLD, NodeKind.HOLD, inner, duration_ns=node.duration_ns)
            case tree.Quality():
                op = Op.IS_BAD if node.bad else Op.IS_GOOD
                return self._emit(op, self._number(node.operand))
            case _:
                return self._emit(Op.BOOL, self._number(node))

    def _not(self, node: tree.Not) -> int:
        self._negated = not self._negated
        inner = self.truth(node.operand)
        self._negated = not self._negated
        return self._emit(Op.NOT, inner)

    def _until(self, node: tree.Until) -> int:
        begin = self.truth(node.condition)
        left, limit = self._number(node.condition.left), self._number(node.limit)
        clear = self._emit(_COMPARE[node.op], left, limit)
        return self._node(Op.UNTIL, NodeKind.UNTIL, begin, clear)

    def _vote(self, node: tree.Vote) -> int:
        count = NONE_U16
        op = Op.VOTE_TRIP if self._votes_trip and not self._negated else Op.VOTE
        for vote in node.votes:
            count = self._emit(op, count, self.truth(vote))
        return self._emit(Op.MOON, count, node.needed, float(len(node.votes)))

    def _number(self, node: Expr) -> int:
        match node:
            case tree.Number():
                return self._emit(Op.CONST, imm=node.value)
            case tree.TagRef():
                return self._emit(Op.TAG, self.slots[node.id])
            case tree.Negate():
                return self._emit(Op.NEG, self._number(node.operand))
            case tree.Arithmetic():
                left, right = self._number(node.left), self._number(node.right)
                return self._emit(_ARITHMETIC[node.op], left, right)
            case tree.Window():
                return self._window(node)
            case tree.Call(name="abs"):
                return self._emit(Op.ABS, self._number(node.arguments[0]))
            case tree.Call():
                return self._fold(_FOLDED[node.name], node.arguments, self._number)
        msg = f"{node!r} is no number"
        raise TypeError(msg)

    def _window(self, node: tree.Window) -> int:
        place = (node.name, self.slots[node.tag.id], node.span_ns)
        if place not in self._open_windows:
            name, slot, span_ns = place
            key = blob.key_of("window", f"{self._owner}:{len(self._open_windows)}")
            kind = int(_WINDOWS[name])
            self.windows.append(blob.Window(kind, self._interlock, span_ns, slot, key))
            self._open_windows[place] = self._append(Op.WINDOW, len(self.windows) - 1, 0, 0.0)
        return self._open_windows[place]

    def _fold(self, op: Op, items: tuple[Expr, ...], each: Callable[[Expr], int]) -> int:
        register = each(items[0])
        for item in items[1:]:
            register = self._emit(op, register, each(item))
        return register


def legs_of(cause: Expr) -> list[Expr]:
    """The votes and comparisons of a cause that people see, at most 32."""
    for legs in (_flat(cause), list(cause.operands) if _is_split(cause) else [cause]):
        if len(legs) <= LEGS_PER_INTERLOCK_MAX:
            return legs
    return [cause]


def lead_of(leg: Expr) -> Lead:
    """What a leg is shown by: its first tag, and the constant that it is compared with."""
    match leg:
        case tree.For() | tree.Hold() | tree.Until():
            return lead_of(leg.condition)
        case tree.Not():
            return lead_of(leg.operand)
        case tree.Compare():
            for side, other in ((leg.left, leg.right), (leg.right, leg.left)):
                tags = tree.tags_of(side)
                if tags:
                    return Lead(tags[0], other.value if isinstance(other, tree.Number) else 0.0)
    return Lead(next(iter(tree.tags_of(leg)), None))


def _is_split(node: Expr) -> bool:
    return isinstance(node, tree.Or | tree.And | tree.Vote)


def _flat(node: Expr) -> list[Expr]:
    if not _is_split(node):
        return [node]
    return [leg for operand in node.operands for leg in _flat(operand)]
