"""Types, units and names of a condition, and its one canonical text.

A condition is checked against a :class:`Scope` of tags. The canonical text is fully
parenthesised, says the same whoever wrote it, and parses to the same tree again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.logic import tree
from gateway.logic.build import Flaw
from gateway.logic.tree import Expr
from gateway.site.complaints import did_you_mean, shown
from gateway.site.durations import exact_duration

SPAN_NS_MAX: Final = 600_000_000_000  # of a window that the guard keeps

_UP: Final = (">", ">=")
_DOWN: Final = ("<", "<=")
_WITHIN_RANGE: Final = ("mean", "lowest", "highest")  # windows that stay within their tag's range
_SINGLE: Final = (tree.TagRef, tree.Number, tree.Call, tree.Window, tree.Quality, tree.Vote)


class Kind(Enum):
    """What an expression is. ANY: an error told already, or a tag whose table has one."""

    NUMBER = "a number"
    BOOLEAN = "a boolean tag"  # a tag; as a condition it is what it is
    TRUTH = "a condition"
    ANY = "anything"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A tag as conditions see it. ``unit`` and ``range`` None: not known."""

    kind: Kind
    unit: str | None = None
    range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """The tags of a site. ``lost`` may be tags too; ``refused`` says why an id cannot be used."""

    symbols: Mapping[str, Symbol]
    lost: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    open: bool = False  # there may be tags that nobody could read
    span_ns_max: int | None = SPAN_NS_MAX  # of windows; None: a computed tag's, of any span


@dataclass(frozen=True, slots=True)
class _Typed:
    """Kind and unit; a unit of None goes with every other."""

    kind: Kind
    unit: str | None = None


def check(condition: Expr, scope: Scope) -> list[Flaw]:
    """Everything that is wrong with a condition's names, types and units."""
    checker = _Checker(scope)
    checker.truth(condition)
    return sorted(set(checker.flaws))


def canonical(node: Expr) -> str:
    """The text that every way of writing this condition has in common."""
    match node:
        case tree.Not():
            return f"not {_closed(node.operand)}"
        case tree.And() | tree.Or():
            word = " and " if isinstance(node, tree.And) else " or "
            return word.join(_closed(term) for term in node.terms)
        case tree.Vote():
            votes = ", ".join(canonical(vote) for vote in node.votes)
            return f"{node.needed}oo{len(node.votes)}({votes})"
        case tree.For():
            return f"{_closed(node.condition)} for {exact_duration(node.duration_ns)}"
        case tree.Hold():
            return f"{_closed(node.condition)} hold {exact_duration(node.duration_ns)}"
        case tree.Window():
            return f"{node.name}({node.tag.id}, {exact_duration(node.span_ns)})"
        case tree.Until():
            return f"{canonical(node.condition)} until {node.op} {_closed(node.limit)}"
        case tree.Compare() | tree.Arithmetic():
            return f"{_closed(node.left)} {node.op} {_closed(node.right)}"
        case tree.Negate():
            return f"-{_closed(node.operand)}"
        case tree.Call():
            return f"{node.name}({', '.join(canonical(item) for item in node.arguments)})"
        case tree.Quality():
            return f"{'bad' if node.bad else 'good'}({canonical(node.operand)})"
        case tree.TagRef():
            return node.id
        case tree.Number():
            return number_text(node.value)
    msg = f"no text for {node!r}"
    raise TypeError(msg)


def number_text(value: float) -> str:
    """A number as short as it can be and still be the same number."""
    text = repr(value)
    return text.removesuffix(".0")


def _closed(node: Expr) -> str:
    """The text of an operand, in parentheses unless nothing can come between its parts."""
    text = canonical(node)
    single = isinstance(node, _SINGLE)
    return text if single else f"({text})"


class _Checker:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.flaws: list[Flaw] = []

    def flaw(self, node: Expr, text: str) -> None:
        self.flaws.append(Flaw(node.at, text))

    # ---- conditions

    def truth(self, node: Expr) -> None:
        """Check a node that must be true or false."""
        match node:
            case tree.Not() | tree.And() | tree.Or() | tree.Vote():
                for operand in node.operands:
                    self.truth(operand)
            case tree.For() | tree.Hold():
                self.truth(node.condition)
            case tree.Until():
                self.until(node)
            case tree.Compare():
                self.compare(node)
            case tree.Quality():
                self.quality(node)
            case _:
                typed = self.value(node)
                if typed.kind is Kind.NUMBER:
                    text = canonical(node)
                    self.flaw(
                        node,
                        f"found {shown(text)}, which is a number, expected a condition such as "
                        f"{text} > 1",
                    )

    def compare(self, node: tree.Compare) -> None:
        left, right = self.number(node.left), self.number(node.right)
        if left.kind is Kind.BOOLEAN or right.kind is Kind.BOOLEAN:
            self._boolean_compared(node, left, right)
            return
        self.same_unit(node, left, right)
        if not any(isinstance(below, tree.TagRef) for below in tree.walk(node)):
            self.flaw(node, f"found {canonical(node)}, expected a tag in the comparison")
            return
        self._can_be_true(node)

    def _boolean_compared(self, node: tree.Compare, left: _Typed, right: _Typed) -> None:
        side = node.left if left.kind is Kind.BOOLEAN else node.right
        other = node.right if left.kind is Kind.BOOLEAN else node.left
        name = canonical(side)
        if node.op in ("=", "<>") and isinstance(other, tree.Number) and other.value in (0.0, 1.0):
            wanted = (node.op == "=") == (other.value == 1.0)
            near = name if wanted else f"not {name}"
            hint = f'; did you mean "{near}"?'
        else:
            hint = f"; it stands as it is: {name}, or not {name}"
        self.flaw(side, f"found {shown(name)}, which is a boolean tag, expected a number{hint}")

    def _can_be_true(self, node: tree.Compare) -> None:
        """A comparison that the tag's range never lets happen protects nobody."""
        within = node.left
        if isinstance(within, tree.Window) and within.name in _WITHIN_RANGE:
            within = within.tag
        if not isinstance(within, tree.TagRef) or not isinstance(node.right, tree.Number):
            return
        symbol = self.scope.symbols.get(within.id)
        if symbol is None or symbol.range is None:
            return
        low, high = symbol.range
        limit = node.right.value
        never = {
            ">": limit >= high,
            ">=": limit > high,
            "<": limit <= low,
            "<=": limit < low,
            "=": not low <= limit <= high,
        }.get(node.op, False)
        if never:
            bounds = f"[{number_text(low)}, {number_text(high)}]"
            self.flaw(
                node.right,
                f"found {number_text(limit)}, which {within.id} never reaches within its range "
                f"{bounds}, expected a limit that it can reach",
            )

    def until(self, node: tree.Until) -> None:
        self.compare(node.condition)
        limit = self.number(node.limit)
        if limit.kind is Kind.BOOLEAN:
            self.flaw(node.limit, f"found {canonical(node.limit)}, expected a number")
            return
        left = node.condition.left
        if not any(isinstance(below, tree.TagRef) for below in tree.walk(left)):
            text = (
                f"found {canonical(left)} on the left, expected the tag there (until compares it)"
            )
            self.flaw(left, text)
            return
        self.same_unit(node, self._quietly(left), limit)
        self._band(node)

    def _band(self, node: tree.Until) -> None:
        """The two comparisons must not both be true, and must look in opposite directions."""
        set_op, clear_op = node.condition.op, node.op
        opposite = {**dict.fromkeys(_UP, _DOWN), **dict.fromkeys(_DOWN, _UP)}.get(set_op)
        if opposite is None:
            self.flaw(node, f'found "until" behind "{set_op}", expected it behind <, <=, > or >=')
            return
        if clear_op not in opposite:
            wanted = " or ".join(opposite)
            self.flaw(node.limit, f'found "until {clear_op}" behind "{set_op}", expected {wanted}')
            return
        right, limit = node.condition.right, node.limit
        if not isinstance(right, tree.Number) or not isinstance(limit, tree.Number):
            return
        both = set_op in (">=", "<=") and clear_op in (">=", "<=") and right.value == limit.value
        over = limit.value > right.value if set_op in _UP else limit.value < right.value
        if over or both:
            side = "below" if set_op in _UP else "above"
            self.flaw(
                limit,
                f"found {clear_op} {number_text(limit.value)}, which is true together with "
                f"{set_op} {number_text(right.value)}, expected a limit {side} it",
            )

    def quality(self, node: tree.Quality) -> None:
        typed = self.value(node.operand)
        if typed.kind is Kind.TRUTH:
            name = "bad" if node.bad else "good"
            self.flaw(node.operand, f"found a condition in {name}(…), expected a tag")

    # ---- numbers

    def number(self, node: Expr) -> _Typed:
        """Check a node that must be a number; a boolean tag is the caller's to refuse."""
        typed = self.value(node)
        if typed.kind is Kind.TRUTH:
            text = f"found a condition, {shown(canonical(node))}, expected a number"
            self.flaw(node, text)
            return _Typed(Kind.ANY)
        return typed

    def value(self, node: Expr) -> _Typed:
        match node:
            case tree.Number():
                return _Typed(Kind.NUMBER, node.unit)
            case tree.TagRef():
                return self.tag(node)
            case tree.Negate():
                return self.operand(node.operand)
            case tree.Call():
                return self.call(node)
            case tree.Window():
                return self.window(node)
            case tree.Arithmetic():
                return self.arithmetic(node)
            case _:
                self.truth(node)
                return _Typed(Kind.TRUTH)

    def operand(self, node: Expr) -> _Typed:
        """An operand of arithmetic: a number, and no boolean tag."""
        typed = self.number(node)
        if typed.kind is Kind.BOOLEAN:
            text = f"found {shown(canonical(node))}, which is a boolean tag, expected a number"
            self.flaw(node, text)
            return _Typed(Kind.ANY)
        return typed

    def call(self, node: tree.Call) -> _Typed:
        unit: str | None = None
        kind = Kind.NUMBER
        for argument in node.arguments:
            typed = self.operand(argument)
            if typed.kind is Kind.ANY:
                kind = Kind.ANY
            self.same_unit(argument, _Typed(Kind.NUMBER, unit), typed)
            unit = unit or typed.unit
        return _Typed(kind, unit)

    def window(self, node: tree.Window) -> _Typed:
        typed = self.operand(node.tag)
        longest = self.scope.span_ns_max
        if longest is not None and node.span_ns > longest:
            self.flaws.append(
                Flaw(
                    node.span_at,
                    f"found {exact_duration(node.span_ns)}, expected at most "
                    f"{exact_duration(longest)} in an interlock (a computed tag may look back "
                    f"further)",
                )
            )
        if node.name == "rate":
            return _Typed(typed.kind, f"{typed.unit}/s" if typed.unit else None)
        return typed

    def arithmetic(self, node: tree.Arithmetic) -> _Typed:
        left, right = self.operand(node.left), self.operand(node.right)
        kind = Kind.ANY if Kind.ANY in (left.kind, right.kind) else Kind.NUMBER
        if node.op in ("+", "-"):
            self.same_unit(node, left, right)
            return _Typed(kind, left.unit or right.unit)
        if node.op == "*":
            plain = left.unit is None or right.unit is None
            unit = left.unit if left.unit is not None else right.unit
            return _Typed(kind, unit if plain and kind is Kind.NUMBER else None)
        return _Typed(kind, left.unit if right.unit is None else None)

    def tag(self, node: tree.TagRef) -> _Typed:
        symbol = self.scope.symbols.get(node.id)
        if symbol is not None:
            return _Typed(symbol.kind, symbol.unit)
        if node.id in self.scope.refused:
            self.flaw(node, f"found {shown(node.id)}, {self.scope.refused[node.id]}")
        elif node.id not in self.scope.lost and not self.scope.open:
            self.flaw(node, f"found {shown(node.id)}, expected a tag{self._near(node.id)}")
        return _Typed(Kind.ANY)

    def _near(self, ident: str) -> str:
        for place, sign in enumerate(ident):
            if sign == "-" and ident[:place] in self.scope.symbols:
                return f"; a minus has blanks around it: {ident[:place]} - {ident[place + 1 :]}"
        return did_you_mean(ident, self.scope.symbols)

    def _quietly(self, node: Expr) -> _Typed:
        """The type of a node that was checked already."""
        flaws, self.flaws = self.flaws, []
        typed = self.value(node)
        self.flaws = flaws
        return typed

    def same_unit(self, node: Expr, left: _Typed, right: _Typed) -> None:
        if left.unit is None or right.unit is None or left.unit == right.unit:
            return
        literal = self._odd_literal(node, left.unit, right.unit)
        if literal is None and "" in (left.unit, right.unit):
            return  # a tag whose unit nobody wrote down
        if literal is None:
            text = f"found {_unit(left.unit)} beside {_unit(right.unit)}, expected one unit"
            self.flaw(node, text)
            return
        other = left.unit if literal.unit == right.unit else right.unit
        self.flaw(literal, f"found the unit {shown(literal.unit)}, expected {_unit(other)}")

    def _odd_literal(self, node: Expr, *units: str) -> tree.Number | None:
        """The literal that brought in one of two units that do not go together."""
        literals = [
            below
            for below in tree.walk(node)
            if isinstance(below, tree.Number) and below.unit in units
        ]
        symbols = (self.scope.symbols.get(name) for name in tree.tags_of(node))
        measured = {symbol.unit for symbol in symbols if symbol is not None}
        odd = [literal for literal in literals if literal.unit not in measured]
        return next(iter(odd or literals), None)


def _unit(unit: str) -> str:
    return shown(unit) if unit else "no unit"
