"""A condition's one canonical text.

It is fully parenthesised, says the same whoever wrote it, and parses to the same tree again.
"""

from typing import Final

from gateway.logic import tree
from gateway.logic.tree import Expr
from gateway.logic.units import number_text
from gateway.site.durations import exact_duration

_SINGLE: Final = (tree.TagRef, tree.Number, tree.Call, tree.Window, tree.Quality, tree.Vote)


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


def _closed(node: Expr) -> str:
    """The text of an operand, in parentheses unless nothing can come between its parts."""
    text = canonical(node)
    single = isinstance(node, _SINGLE)
    return text if single else f"({text})"
