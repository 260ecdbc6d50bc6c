"""Computed tags: each one's expression over measured tags alone.

A computed tag may be made of others, but not of itself. What the guard can keep is written out
into the conditions that name it; one that looks back further than the guard's windows stays a tag
that the gateway feeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.logic import infer, tree
from gateway.logic.build import Flaw
from gateway.logic.canonical import canonical
from gateway.logic.kinds import SPAN_NS_MAX, Conversion, Kind, Scope, Symbol
from gateway.logic.parse import read
from gateway.logic.tree import Expr
from gateway.site.complaints import shown

PARTS_MAX: Final = 4_096  # nodes of an expression once all others are written out in it

Tell = Callable[[str, Flaw], None]  # (id of the computed tag, what is wrong with its value)


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed tag. ``tree`` reads measured tags alone; ``written`` is its own text as a tree."""

    written: Expr
    tree: Expr
    kind: Kind  # NUMBER or BOOLEAN
    unit: str
    conversions: tuple[Conversion, ...] = ()

    @property
    def far(self) -> bool:
        """Whether it looks back further than the guard: the gateway feeds it to the guard."""
        spans = [node.span_ns for node in tree.walk(self.tree) if isinstance(node, tree.Window)]
        return max(spans, default=0) > SPAN_NS_MAX

    @property
    def symbol(self) -> Symbol:
        """What conditions see of it."""
        unit = self.unit if self.kind is Kind.NUMBER else ""
        return Symbol(self.kind, unit or None, computed=True)


@dataclass(slots=True)
class ComputedTags:
    """The computed tags of a site, each behind those that it is made of."""

    tags: dict[str, Computed] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # told; nothing more is said of them

    def scope(self, scope: Scope) -> Scope:
        """A scope with these tags in it."""
        symbols = {ident: each.symbol for ident, each in self.tags.items()}
        symbols |= dict.fromkeys(self.broken, Symbol(Kind.ANY, computed=True))
        return replace(scope, symbols={**scope.symbols, **symbols})

    def inlined(self, node: Expr, *, all_of_them: bool = False) -> Expr:
        """A condition with computed tags written out, but for those that the gateway feeds."""

        def written_out(below: Expr) -> Expr:
            found = self.tags.get(below.id) if isinstance(below, tree.TagRef) else None
            if found is None or (found.far and not all_of_them):
                return below
            return found.tree

        return tree.mapped(node, written_out)


def computed_tags(
    values: Mapping[str, str], units: Mapping[str, str], scope: Scope, tell: Tell
) -> ComputedTags:
    """Read the ``value`` of each computed tag over a scope of measured tags; tell every flaw."""
    found = ComputedTags()
    waiting: dict[str, Expr] = {}
    for ident, text in values.items():
        reading = read(text)
        for flaw in reading.flaws:
            tell(ident, flaw)
        if reading.tree is None or reading.flaws:
            found.broken.add(ident)
        if reading.tree is not None:
            waiting[ident] = reading.tree
    while waiting:
        ready = [
            ident
            for ident, node in waiting.items()
            if not any(name in waiting for name in tree.tags_of(node))
        ]
        if not ready:
            _tell_circles(waiting, tell)
            found.broken |= set(waiting)
            break
        for ident in ready:
            _add(found, ident, waiting.pop(ident), units.get(ident, ""), scope, tell)
    return found


def _add(found: ComputedTags, ident: str, node: Expr, unit: str, scope: Scope, tell: Tell) -> None:
    """Check one whose parts are known, and write them out in it."""
    checked = infer.resolve(node, replace(found.scope(scope), span_ns_max=None), number=True)
    flaws = [*checked.flaws]
    parts = sum(
        _size(found.tags[below.id].tree)
        if isinstance(below, tree.TagRef) and below.id in found.tags
        else 1
        for below in tree.walk(node)
    )
    if parts > PARTS_MAX:
        flaws.append(Flaw(0, f"found {parts} parts, expected at most {PARTS_MAX}"))
    if not tree.tags_of(node):
        flaws.append(Flaw(0, f"found {canonical(node)}, expected a tag in it"))
    if unit and checked.unit and unit != checked.unit and checked.kind is Kind.NUMBER:
        text = f"found a value in {shown(checked.unit)}, expected {shown(unit)}, the tag's own unit"
        flaws.append(Flaw(0, text))
    for flaw in flaws:
        tell(ident, flaw)
    if flaws or checked.kind is Kind.ANY or ident in found.broken:
        found.broken.add(ident)
        return
    found.tags[ident] = Computed(
        checked.tree,
        found.inlined(checked.tree, all_of_them=True),
        Kind.NUMBER if checked.kind is Kind.NUMBER else Kind.BOOLEAN,
        unit or checked.unit or "",
        tuple(checked.conversions),
    )


def _size(node: Expr) -> int:
    return sum(1 for _ in tree.walk(node))


def _tell_circles(waiting: Mapping[str, Expr], tell: Tell) -> None:
    """Each tag of a circle, with the way round; those that only wait for it are silent."""
    for ident in waiting:
        path = _way_round(ident, waiting)
        if path is None:
            continue
        second = path[1]
        at = next(
            node.at
            for node in tree.walk(waiting[ident])
            if isinstance(node, tree.TagRef) and node.id == second
        )
        way = " -> ".join(path)
        tell(ident, Flaw(at, f"found {shown(second)}, expected no circle ({way})"))


def _way_round(ident: str, waiting: Mapping[str, Expr]) -> list[str] | None:
    """The shortest way from a tag back to itself."""
    paths = [[ident]]
    seen = set()
    while paths:
        path = paths.pop(0)
        for name in tree.tags_of(waiting[path[-1]]):
            if name == ident:
                return [*path, name]
            if name in waiting and name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return None
