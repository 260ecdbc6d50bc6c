"""What the grammar found -> tree, with the rules that a grammar cannot explain to people.

The binding of ``until``, ``for`` and ``hold``, and the arguments of calls. Flaws are collected; the
tree is built all the same, so that later stages find theirs too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lark import Token, Tree

from gateway.logic import tree
from gateway.logic.tree import FUNCTIONS, VOTES_MAX, WINDOWS, Expr
from gateway.site.complaints import did_you_mean, shown
from gateway.site.durations import DURATION_NS_MAX, DURATION_UNITS, format_duration, parse_duration

DEPTH_MAX: Final = 64  # levels of a tree
SPAN_NS_MIN: Final = 100_000_000  # of a window: 64 buckets of a few milliseconds
SPAN_NS_MAX: Final = 366 * DURATION_UNITS["d"]
QUALITIES: Final = ("bad", "good")
OTHER_NAMES: Final = {  # what other tools call them
    "avg": "mean", "average": "mean", "minimum": "min", "maximum": "max", "sum": "total",
    "slope": "rate", "derivative": "rate", "roc": "rate", "change": "delta", "diff": "delta",
    "low": "lowest", "high": "highest", "isbad": "bad", "isgood": "good", "quality": "good",
}  # fmt: skip
CALLS: Final = (*FUNCTIONS, *QUALITIES, *WINDOWS)

Node = Tree[Token] | Token | None


@dataclass(frozen=True, slots=True, order=True)
class Flaw:
    """One error in a condition: its place in the text (from 0) and what to say."""

    at: int
    text: str


@dataclass(frozen=True, slots=True)
class _Bound:
    """A built node with its place in the text, and what may follow it."""

    expr: Expr
    at: int
    end: int
    group: bool = False  # in parentheses
    closed: bool = False  # a call or in parentheses, also with ``for`` or ``hold`` behind it
    until_at: int = -1  # where a loose ``until`` begins
    delay_at: int = -1  # where a loose ``for`` or ``hold`` begins

    @property
    def loose(self) -> bool:
        """Whether it ends in a word that follows no call and no parenthesis."""
        return self.until_at >= 0 or self.delay_at >= 0


class Builder:
    """Builds one condition; ``flaws`` has what is wrong afterwards."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.flaws: list[Flaw] = []
        self._rules: dict[str, Callable[[Tree[Token], int, int], _Bound]] = {
            "number": self._number,
            "tag": self._tag,
            "group": self._group,
            "call": self._call,
            "vote": self._vote,
            "negate": self._negate,
            "arithmetic": self._arithmetic,
            "compare": self._compare,
            "until": self._until,
            "delay": self._delay,
            "hold": self._delay,
            "negation_not": self._not,
            "conjunction": self._chain,
            "disjunction": self._chain,
        }

    def build(self, parsed: Node) -> Expr:
        """The tree of what the grammar found."""
        return self._bound(parsed).expr

    def _bound(self, node: Node) -> _Bound:
        if not isinstance(node, Tree):
            msg = f"the grammar gave {node!r} where a rule was due"
            raise TypeError(msg)
        return self._rules[str(node.data)](node, node.meta.start_pos, node.meta.end_pos)

    def _flaw(self, at: int, text: str) -> None:
        self.flaws.append(Flaw(at, text))

    # ---- operands

    def _number(self, node: Tree[Token], at: int, end: int) -> _Bound:
        digits, _, unit = _token(node, 0).partition(" ")
        value = float(digits)
        if not math.isfinite(value):
            self._flaw(at, f"found {digits}, expected a smaller number")
            value = 0.0
        return _Bound(tree.Number(value, unit or None, at=at, end=end), at, end)

    def _tag(self, node: Tree[Token], at: int, end: int) -> _Bound:
        return _Bound(tree.TagRef(str(_token(node, 0)), at=at, end=end), at, end)

    def _group(self, node: Tree[Token], at: int, end: int) -> _Bound:
        inner = self._bound(node.children[0])
        return _Bound(inner.expr, at, end, group=True, closed=True)

    def _negate(self, node: Tree[Token], at: int, end: int) -> _Bound:
        inner = self._bound(node.children[1]).expr
        if isinstance(inner, tree.Number):
            return _Bound(tree.Number(-inner.value, inner.unit, at=at, end=end), at, end)
        return _Bound(tree.Negate(inner, at=at, end=end), at, end)

    def _arithmetic(self, node: Tree[Token], at: int, end: int) -> _Bound:
        left, right = self._bound(node.children[0]), self._bound(node.children[2])
        sign = _token(node, 1)
        place = sign.start_pos or 0
        if sign == "-" and not (
            self.text[place - 1].isspace() and self.text[place + 1 : place + 2].isspace()
        ):
            self._flaw(place, 'found "-" without blanks around it, expected a - b (a-b is an id)')
        expr = tree.Arithmetic(str(sign), left.expr, right.expr, at=at, end=end)
        return _Bound(expr, at, end)

    # ---- calls

    def _call(self, node: Tree[Token], at: int, end: int) -> _Bound:
        name = _token(node, 0)
        if name in WINDOWS:
            return self._window(node, name, at, end)
        inner = self._arguments(node.children[1], name)
        if name in QUALITIES:
            self._check_count(name, len(inner), (1, 1))
            operand = inner[0] if inner else tree.Number(0.0)
            return _Bound(
                tree.Quality(name == "bad", operand, at=at, end=end), at, end, closed=True
            )
        if name not in FUNCTIONS:
            near = did_you_mean(OTHER_NAMES.get(name.lower(), name), CALLS)
            known = near or f" ({', '.join(CALLS)}, 2oo3)"
            self._flaw(at, f"found {shown(str(name))}, expected a known call{known}")
        else:
            self._check_count(name, len(inner), FUNCTIONS[name])
        expr = tree.Call(str(name), tuple(inner), at=at, end=end)
        return _Bound(expr, at, end, closed=True)

    def _window(self, node: Tree[Token], name: Token, at: int, end: int) -> _Bound:
        """``mean(x, 60s)``: one tag, one span."""
        wanted = f"expected {name}(x, 60s)"
        children = node.children[1].children if isinstance(node.children[1], Tree) else []
        if len(children) != 2:
            self._flaw(at, f"found {_operands(len(children))} of {name}, {wanted}")
        spans = [item for item in children if isinstance(item, Tree) and item.data == "window"]
        inner = [self._bound(item).expr for item in children if item not in spans]
        tag = inner[0] if inner else None
        if len(children) == 2 and (len(spans) != 1 or children[1] is not spans[0]):
            place = children[1].meta.start_pos if isinstance(children[1], Tree) else at
            self._flaw(place, f"found no duration there, {wanted}")
        elif tag is not None and not isinstance(tag, tree.TagRef):
            self._flaw(tag.at, f"found an expression in {name}(…), expected a measured tag")
        if not isinstance(tag, tree.TagRef) or not spans:
            return _Bound(tag or tree.Number(0.0, at=at, end=end), at, end, closed=True)
        span = _token(spans[0], 0)
        span_at = span.start_pos or 0
        ns = self._duration(span, SPAN_NS_MIN, SPAN_NS_MAX)
        expr = tree.Window(str(name), tag, ns, at=at, end=end, span_at=span_at)
        return _Bound(expr, at, end, closed=True)

    def _duration(self, token: Token, low: int = 1, high: int = DURATION_NS_MAX) -> int:
        """Nanoseconds within bounds; 0 where a flaw was told."""
        try:
            ns = int(parse_duration(token))
        except ValueError:
            ns = 0
        if low <= ns <= high:
            return ns
        top = "ten years" if high == DURATION_NS_MAX else format_duration(high)
        self._flaw(token.start_pos or 0, f"found {token}, expected {format_duration(low)} to {top}")
        return 0

    def _check_count(self, name: Token, count: int, bounds: tuple[int, int]) -> None:
        low, high = bounds
        if not low <= count <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            found = f"found {_operands(count)} of {name}, expected {wanted}"
            self._flaw(name.start_pos or 0, found)

    def _vote(self, node: Tree[Token], at: int, end: int) -> _Bound:
        name = _token(node, 0)
        needed, _, total = name.partition("oo")
        votes = self._arguments(node.children[1], name)
        if not (len(needed) <= 2 and len(total) <= 2 and 1 <= int(needed) <= int(total)):
            self._flaw(at, f"found {name}, expected MooN with 1 <= M <= N <= {VOTES_MAX}")
        elif int(total) > VOTES_MAX:
            self._flaw(at, f"found {name}, expected at most {VOTES_MAX} votes")
        elif int(total) != len(votes):
            self._flaw(at, f"found {len(votes)} votes in {name}, expected {int(total)}")
        needed_count = int(needed[-2:])
        return _Bound(tree.Vote(needed_count, tuple(votes), at=at, end=end), at, end, closed=True)

    def _arguments(self, node: Node, name: Token) -> list[Expr]:
        if not isinstance(node, Tree):
            return []
        found = []
        for child in node.children:
            if isinstance(child, Tree) and child.data == "window":
                span = _token(child, 0)
                if name in CALLS or name[0].isdigit():
                    text = f"found {shown(str(span))} in {name}(…), expected a tag or a number"
                    self._flaw(span.start_pos or 0, text)
            else:
                found.append(self._bound(child).expr)
        return found

    # ---- conditions

    def _compare(self, node: Tree[Token], at: int, end: int) -> _Bound:
        left, right = self._bound(node.children[0]), self._bound(node.children[2])
        expr = tree.Compare(str(_token(node, 1)), left.expr, right.expr, at=at, end=end)
        return _Bound(expr, at, end)

    def _until(self, node: Tree[Token], at: int, end: int) -> _Bound:
        base = self._bound(node.children[0])
        limit = self._bound(node.children[2]).expr
        place = self._word_behind(base)
        if base.group or not isinstance(base.expr, tree.Compare):
            self._flaw(
                place,
                'found "until", expected it right behind a comparison, as in x >= 5 until < 3',
            )
            return base
        expr = tree.Until(base.expr, str(_token(node, 1)), limit, at=at, end=end)
        return _Bound(expr, at, end, until_at=place)

    def _delay(self, node: Tree[Token], at: int, end: int) -> _Bound:
        base = self._bound(node.children[0])
        ns = self._duration(_token(node, 1))
        make = tree.For if node.data == "delay" else tree.Hold
        delay_at = base.delay_at if base.delay_at >= 0 else self._word_behind(base)
        return _Bound(
            make(base.expr, ns, at=at, end=end),
            at,
            end,
            closed=base.closed,
            until_at=base.until_at,
            delay_at=-1 if base.closed else delay_at,
        )

    def _word_behind(self, base: _Bound) -> int:
        rest = self.text[base.end :]
        return base.end + len(rest) - len(rest.lstrip())

    # ---- and, or, not

    def _not(self, node: Tree[Token], at: int, end: int) -> _Bound:
        operand = self._bound(node.children[0])
        if operand.loose:
            head, tail = self._parts(operand)
            readings = [f"not ({self._source(operand)})"]
            if tail:
                readings.append(f"(not {head}) {tail}")
            self._loose(operand, "not", readings)
        return _Bound(tree.Not(operand.expr, at=at, end=end), at, end)

    def _chain(self, node: Tree[Token], at: int, end: int) -> _Bound:
        word = "and" if node.data == "conjunction" else "or"
        terms = [self._bound(child) for child in node.children]
        for number, term in enumerate(terms):
            if term.loose:
                self._loose(term, word, self._readings(terms, number, word))
        exprs = tuple(term.expr for term in terms)
        if word == "and":
            return _Bound(tree.And(exprs, at=at, end=end), at, end)
        return _Bound(tree.Or(exprs, at=at, end=end), at, end)

    def _readings(self, terms: Sequence[_Bound], number: int, word: str) -> list[str]:
        """The ways in which people could read a loose word among the terms of a chain."""
        texts = [self._source(term) for term in terms]
        before, own, after = texts[:number], texts[number], texts[number + 1 :]
        joined = f" {word} "
        readings = [joined.join([*before, f"({own})", *after])]
        head, tail = self._parts(terms[number])
        if before and tail:
            inner = joined.join([*before, head])
            readings.append(joined.join([f"({inner}) {tail}", *after]))
        return readings

    def _parts(self, bound: _Bound) -> tuple[str, str]:
        """What stands before a ``for`` or ``hold``, and from it on (empty where there is none)."""
        if bound.delay_at < 0:
            return self._source(bound), ""
        head = _one_line(self.text[bound.at : bound.delay_at])
        tail = _one_line(self.text[bound.delay_at : bound.end])
        return (f"({head})" if bound.until_at >= 0 else head), tail

    def _source(self, bound: _Bound) -> str:
        return _one_line(self.text[bound.at : bound.end])

    def _loose(self, bound: _Bound, word: str, readings: list[str]) -> None:
        place = bound.until_at if bound.until_at >= 0 else bound.delay_at
        found = self.text[place:].split(maxsplit=1)[0]
        either = "either " if len(readings) > 1 else ""
        self._flaw(
            place,
            f'found "{found}" in an operand of "{word}", expected parentheses: '
            f"{either}{' or '.join(f'`{reading}`' for reading in readings)}",
        )


def _token(node: Tree[Token], number: int) -> Token:
    child = node.children[number]
    if not isinstance(child, Token):
        msg = f"the grammar gave {child!r} where a word was due"
        raise TypeError(msg)
    return child


def _operands(count: int) -> str:
    return "1 operand" if count == 1 else f"{count} operands"


def _one_line(text: str) -> str:
    return " ".join(text.split())
