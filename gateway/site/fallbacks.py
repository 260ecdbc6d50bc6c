"""Which outputs stand in for which: the chains of fallbacks, and the circles among them."""

from collections.abc import Mapping, Sequence
from typing import Final

DEPTH_MAX: Final = 4


def chains(below: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[str]], list[list[str]]]:
    """(the longest chain down from each output that ends, circles written from end to end).

    ``below`` has the fallbacks of every output; each circle is found once, in a component where
    several meet at least one of them.
    """
    left = {ident: len(names) for ident, names in below.items()}
    above: dict[str, list[str]] = {}
    for ident, names in below.items():
        for name in names:
            above.setdefault(name, []).append(ident)
    ends: dict[str, list[str]] = {}
    ready = [ident for ident, count in left.items() if count == 0]
    while ready:
        ident = ready.pop()
        longest = max((ends[name] for name in below[ident]), key=len, default=[])
        ends[ident] = [ident, *longest]
        for parent in above.get(ident, ()):
            left[parent] -= 1
            if left[parent] == 0:
                ready.append(parent)
    return ends, _circles({ident: below[ident] for ident in below if ident not in ends})


def _circles(below: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Follow the first way on from each output until it comes back to one of the same walk."""
    found: list[list[str]] = []
    walked: set[str] = set()
    for start in below:
        walk: list[str] = []
        ident = start
        while ident not in walked:
            walked.add(ident)
            walk.append(ident)
            ident = next(name for name in below[ident] if name in below)
        if ident in walk:
            found.append([*walk[walk.index(ident) :], ident])
    return found
