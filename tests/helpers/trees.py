"""Conditions made up at random, and what they mean, told by their trees alone.

The evaluator reads a tree as a person would: it knows no program, no register and no slot.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import strategies as st

from gateway.logic import tree
from gateway.logic.tree import WINDOWS, Expr

NUMBERS = ("n1", "n2", "n3-x")
BOOLEANS = ("b1", "b2.on")
COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")

Truth = tuple[bool, bool]  # with every unknown taken for false, and for true
Values = Mapping[str, float | None]  # None: bad


@dataclass(slots=True)
class Oracle:
    """Evaluates one condition scan by scan."""

    condition: Expr
    until: dict[int, Truth] = field(default_factory=dict)
    since: dict[tuple[int, bool], int] = field(default_factory=dict)

    def evaluate(self, values: Values, now_ns: int) -> bool | None:
        """True, false, or None: unknown."""
        low, high = self._truth(self.condition, values, now_ns)
        return low if low == high else None

    def _truth(self, node: Expr, values: Values, now_ns: int) -> Truth:
        below = [self._truth(each, values, now_ns) for each in _truths_below(node)]
        match node:
            case tree.Not():
                return (not below[0][1], not below[0][0])
            case tree.And():
                return (all(low for low, _ in below), all(high for _, high in below))
            case tree.Or():
                return (any(low for low, _ in below), any(high for _, high in below))
            case tree.Vote():
                surely = sum(low for low, _ in below)
                maybe = sum(high for _, high in below)
                return (surely >= node.needed, maybe >= node.needed)
            case tree.Until():
                clear = _compared(node.op, node.condition.left, node.limit, values)
                return self._hysteresis(node, below[0], clear)
            case tree.For():
                return self._delayed(node, below[0], now_ns)
            case tree.Compare():
                return _compared(node.op, node.left, node.right, values)
            case tree.Quality():
                known = (number(node.operand, values) is None) == node.bad
                return (known, known)
        value = number(node, values)
        return (False, True) if value is None else (value != 0, value != 0)

    def _hysteresis(self, node: Expr, begin: Truth, clear: Truth) -> Truth:
        low, high = self.until.get(id(node), (False, False))
        state = (begin[0] or (low and not clear[1]), begin[1] or (high and not clear[0]))
        self.until[id(node)] = state
        return state

    def _delayed(self, node: tree.For, inner: Truth, now_ns: int) -> Truth:
        runs = []
        for which, running in zip((False, True), inner, strict=True):
            key = (id(node), which)
            if not running:
                self.since.pop(key, None)
                runs.append(False)
            else:
                begin = self.since.setdefault(key, now_ns)
                runs.append(now_ns - begin >= node.duration_ns)
        return (runs[0], runs[1])


def number(node: Expr, values: Values) -> float | None:
    """The value of a number, None where it is bad."""
    if isinstance(node, tree.Number):
        return node.value
    if isinstance(node, tree.TagRef):
        return values[node.id]
    operands = [number(each, values) for each in node.operands]
    known = [each for each in operands if each is not None]
    if len(known) < len(operands):
        return None
    value = _calculated(node, known)
    return value if math.isfinite(value) else None


def _calculated(node: Expr, known: list[float]) -> float:
    match node:
        case tree.Negate():
            return -known[0]
        case tree.Call(name="abs"):
            return abs(known[0])
        case tree.Call(name="min"):
            return min(known)
        case tree.Call(name="max"):
            return max(known)
        case tree.Arithmetic(op="+"):
            return known[0] + known[1]
        case tree.Arithmetic(op="-"):
            return known[0] - known[1]
        case tree.Arithmetic(op="*"):
            return known[0] * known[1]
    return known[0] / known[1] if known[1] else math.nan


def _truths_below(node: Expr) -> tuple[Expr, ...]:
    if isinstance(node, tree.Compare | tree.Quality):
        return ()
    return (node.condition,) if isinstance(node, tree.Until) else node.operands


def _compared(op: str, left: Expr, right: Expr, values: Values) -> Truth:
    a, b = number(left, values), number(right, values)
    if a is None or b is None:
        return (False, True)
    result = {
        "=": a == b, "<>": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b,
    }[op]  # fmt: skip
    return (result, result)


# ---- strategies ----------------------------------------------------------------------------------
#
# ``truths`` and ``numbers`` have no windows and no ``hold``; ``conditions`` makes what is asked.

SPANS_NS = tuple(n * 1_000_000 for n in (100, 250, 1_000, 1_500, 10_000, 600_000))

literals = st.builds(
    tree.Number, st.one_of(st.integers(-5, 9).map(float), st.sampled_from([0.5, 1e-7, 2.25e30]))
)
number_tags = st.sampled_from(NUMBERS).map(tree.TagRef)
boolean_tags = st.sampled_from(BOOLEANS).map(tree.TagRef)
durations_ns = st.integers(1, 9).map(lambda n: n * 1_000_000)
windows_over_time = st.builds(
    tree.Window, st.sampled_from(WINDOWS), number_tags, st.sampled_from(SPANS_NS)
)


def _more_numbers(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.one_of(
        st.builds(tree.Arithmetic, st.sampled_from("+-*/"), inner, inner),
        st.builds(tree.Negate, inner.filter(lambda node: not isinstance(node, tree.Number))),
        st.builds(tree.Call, st.just("abs"), st.tuples(inner)),
        st.builds(
            tree.Call,
            st.sampled_from(("min", "max")),
            st.lists(inner, min_size=2, max_size=4).map(tuple),
        ),
    )


def number_trees(*, windows: bool) -> st.SearchStrategy[Expr]:
    """Numbers: tags, literals, arithmetic, calls, and windows where they are asked for."""
    single: list[st.SearchStrategy[Expr]] = [number_tags, literals]
    return st.recursive(
        st.one_of(*single, *([windows_over_time] if windows else [])), _more_numbers, max_leaves=4
    )


@st.composite
def _votes(draw: st.DrawFn, inner: st.SearchStrategy[Expr]) -> Expr:
    votes = draw(st.lists(inner, min_size=1, max_size=4))
    return tree.Vote(draw(st.integers(1, len(votes))), tuple(votes))


def conditions(
    *,
    windows: bool = True,
    hold: bool = True,
    max_leaves: int = 6,
    lasting_ns: st.SearchStrategy[int] = durations_ns,
) -> st.SearchStrategy[Expr]:
    """Conditions of every kind of node; typed right, but for limits that may make no sense.

    ``lasting_ns``: of ``for`` and ``hold``.
    """
    inner_numbers = number_trees(windows=windows)
    compares = st.builds(tree.Compare, st.sampled_from(COMPARISONS), inner_numbers, inner_numbers)
    leaves: st.SearchStrategy[Expr] = st.one_of(
        boolean_tags,
        compares,
        st.builds(tree.Until, compares, st.sampled_from(COMPARISONS), inner_numbers),
        st.builds(tree.Quality, st.booleans(), st.one_of(inner_numbers, boolean_tags)),
    )

    def more(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        terms = st.lists(inner, min_size=2, max_size=3).map(tuple)
        grown = [
            st.builds(tree.Not, inner),
            st.builds(tree.And, terms),
            st.builds(tree.Or, terms),
            _votes(inner),
            st.builds(tree.For, inner, lasting_ns),
        ]
        return st.one_of(*grown, *([st.builds(tree.Hold, inner, lasting_ns)] if hold else []))

    return st.recursive(leaves, more, max_leaves=max_leaves)


numbers: st.SearchStrategy[Expr] = number_trees(windows=False)
truths: st.SearchStrategy[Expr] = conditions(windows=False, hold=False)
