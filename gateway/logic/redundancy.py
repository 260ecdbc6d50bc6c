"""What hides a cause: inputs that stand still at harmless values while the plant goes on.

A value is kept low (a condition: untrue) or high (true). Which of the two hides depends on the way
up to the cause: ``not``, ``<`` and a minus turn it round, and so ``a > 5 or b > 5`` needs two
inputs to hide it, ``not (a or b)`` and ``min(a, b) > 5`` a single one.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass

from gateway.logic import tree
from gateway.logic.tree import Expr, tags_of


def hides(cause: Expr, stuck: Iterable[str], measured: Iterable[str]) -> bool:
    """Whether the cause cannot come true while ``stuck`` stand still at harmless values.

    What is none of ``measured`` (system tags, numbers) neither hides nor keeps from hiding.
    """
    return _Stuck(frozenset(stuck), frozenset(measured)).keeps(cause, low=True)


@dataclass(frozen=True, slots=True)
class _Stuck:
    stuck: Set[str]
    measured: Set[str]

    def keeps(self, node: Expr, *, low: bool) -> bool:
        """Whether they keep the node from rising (``low``), or else from falling."""
        match node:
            case tree.TagRef():
                return node.id in self.stuck & self.measured
            case tree.Not() | tree.Negate():
                return self.keeps(node.operand, low=not low)
            case tree.And() | tree.Or():
                return self._one_of(node.terms, low, every=isinstance(node, tree.Or) == low)
            case tree.Call(name="min" | "max"):
                return self._one_of(node.arguments, low, every=(node.name == "max") == low)
            case tree.Vote():
                least = len(node.votes) - node.needed + 1 if low else node.needed
                return sum(self.keeps(vote, low=low) for vote in node.votes) >= least
            case tree.Compare(op=">" | ">="):
                return self.keeps(node.left, low=low) or self.keeps(node.right, low=not low)
            case tree.Compare(op="<" | "<="):
                return self.keeps(node.left, low=not low) or self.keeps(node.right, low=low)
            case tree.Arithmetic(op="+" | "-"):
                right = low if node.op == "+" else not low
                return self.keeps(node.left, low=low) or self.keeps(node.right, low=right)
            case tree.Until() | tree.For() | tree.Hold():
                return self.keeps(node.condition, low=low)
        # A product, a ratio, abs, equality, a window, a quality: any one of its inputs.
        return any(self.keeps(each, low=side) for each in node.operands for side in (True, False))

    def _one_of(self, nodes: Iterable[Expr], low: bool, *, every: bool) -> bool:
        """Whether they keep one of the nodes, or every one that reads anything measured."""
        kept = [self.keeps(each, low=low) for each in nodes if self.measured & set(tags_of(each))]
        return bool(kept) and (all(kept) if every else any(kept))
