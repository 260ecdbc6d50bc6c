"""Types, units and names of a condition.

A condition is checked against a :class:`Scope` of tags; literals in another unit than their tag
become literals of the tag's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.logic import tree, units
from gateway.logic.build import Flaw
from gateway.logic.canonical import canonical
from gateway.logic.kinds import Conversion, Kind, Scale, Scope, Typed, difference_only, sum_scale
from gateway.logic.tree import Expr
from gateway.logic.units import number_text
from gateway.site.complaints import did_you_mean, nearest, shown
from gateway.site.durations import exact_duration

_UP: Final = (">", ">=")
_DOWN: Final = ("<", "<=")
_WITHIN_RANGE: Final = ("mean", "lowest", "highest")  # windows that stay within their tag's range
_TRUTHS: Final = (
    tree.Not, tree.And, tree.Or, tree.Vote, tree.For, tree.Hold, tree.Until, tree.Compare,
    tree.Quality,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    """A condition with its literals in their tags' units, and everything that is wrong with it."""

    tree: Expr
    flaws: Sequence[Flaw]
    conversions: Sequence[Conversion]
    kind: Kind = Kind.TRUTH
    unit: str | None = None


def resolve(condition: Expr, scope: Scope, *, number: bool = False) -> Checked:
    """Check a condition and convert its literals. With ``number`` it may be a number, too."""
    checker = _Checker(scope)
    typed = checker.anything(condition) if number else checker.truth(condition)
    found = checker.conversions

    def converted(node: Expr) -> Expr:
        conversion = found.get(id(node)) if isinstance(node, tree.Number) else None
        if conversion is None:
            return node
        return tree.Number(conversion.value, conversion.unit, at=node.at, end=node.end)

    return Checked(
        tree.mapped(condition, converted),
        sorted(set(checker.flaws)),
        sorted(found.values(), key=lambda item: item.at),
        typed.kind,
        typed.unit,
    )


class _Checker:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.flaws: list[Flaw] = []
        self.conversions: dict[int, Conversion] = {}  # by id of the literal
        self._odd: set[int] = set()  # literals whose unit was refused

    def flaw(self, node: Expr, text: str) -> None:
        self.flaws.append(Flaw(node.at, text))

    # ---- conditions

    def anything(self, node: Expr) -> Typed:
        """Check a number or a condition; a boolean tag stays one."""
        if isinstance(node, _TRUTHS):
            return self.truth(node)
        return self.value(node)

    def truth(self, node: Expr) -> Typed:
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
                self._stands_alone(node)
        return Typed(Kind.TRUTH)

    def _stands_alone(self, node: Expr) -> None:
        """A tag or a number where a condition is due."""
        typed = self.value(node)
        if typed.kind is Kind.NUMBER:
            text = canonical(node)
            self.flaw(
                node,
                f"found {shown(text)}, which is a number, expected a condition such as {text} > 1",
            )

    def compare(self, node: tree.Compare) -> None:
        left, right = self.number(node.left), self.number(node.right)
        if left.kind is Kind.BOOLEAN or right.kind is Kind.BOOLEAN:
            self._boolean_compared(node, left)
            return
        self.same_unit(node, (node.left, left), (node.right, right))
        if not any(isinstance(below, tree.TagRef) for below in tree.walk(node)):
            self.flaw(node, f"found {canonical(node)}, expected a tag in the comparison")
            return
        self._can_be_true(node)

    def _boolean_compared(self, node: tree.Compare, left: Typed) -> None:
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
        if symbol is None or symbol.range is None or id(node.right) in self._odd:
            return
        low, high = symbol.range
        limit = self._number_of(node.right)
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
        self.same_unit(node, (left, self._quietly(left)), (node.limit, limit))
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
        if {id(right), id(limit)} & self._odd:
            return
        begin, end = self._number_of(right), self._number_of(limit)
        both = set_op in (">=", "<=") and clear_op in (">=", "<=") and begin == end
        over = end > begin if set_op in _UP else end < begin
        if over or both:
            side = "below" if set_op in _UP else "above"
            self.flaw(
                limit,
                f"found {clear_op} {number_text(end)}, which is true together with "
                f"{set_op} {number_text(begin)}, expected a limit {side} it",
            )

    def quality(self, node: tree.Quality) -> None:
        typed = self.value(node.operand)
        if typed.kind is Kind.TRUTH:
            name = "bad" if node.bad else "good"
            self.flaw(node.operand, f"found a condition in {name}(…), expected a tag")
        if isinstance(node.operand, tree.TagRef) and typed.kind is Kind.BOOLEAN:
            self._measured(node.operand)

    def _measured(self, node: tree.TagRef) -> None:
        """A computed condition has no quality of its own: it is true, false or unknown."""
        symbol = self.scope.symbols.get(node.id)
        if symbol is not None and symbol.computed:
            text = f"found {shown(node.id)}, which is a computed condition, expected a measured tag"
            self.flaw(node, text)

    # ---- numbers

    def number(self, node: Expr) -> Typed:
        """Check a node that must be a number; a boolean tag is the caller's to refuse."""
        typed = self.value(node)
        if typed.kind is Kind.TRUTH:
            text = f"found a condition, {shown(canonical(node))}, expected a number"
            self.flaw(node, text)
            return Typed(Kind.ANY)
        return typed

    def value(self, node: Expr) -> Typed:
        match node:
            case tree.Number():
                return Typed(Kind.NUMBER, node.unit)
            case tree.TagRef():
                return self.tag(node)
            case tree.Negate():
                return difference_only(self.operand(node.operand))
            case tree.Call():
                return self.call(node)
            case tree.Window():
                return self.window(node)
            case tree.Arithmetic():
                return self.arithmetic(node)
            case _:
                self.truth(node)
                return Typed(Kind.TRUTH)

    def operand(self, node: Expr) -> Typed:
        """An operand of arithmetic: a number, and no boolean tag."""
        typed = self.number(node)
        if typed.kind is Kind.BOOLEAN:
            text = f"found {shown(canonical(node))}, which is a boolean tag, expected a number"
            self.flaw(node, text)
            return Typed(Kind.ANY)
        return typed

    def call(self, node: tree.Call) -> Typed:
        typed = [self.operand(argument) for argument in node.arguments]
        kind = Kind.ANY if any(each.kind is Kind.ANY for each in typed) else Kind.NUMBER
        pairs = list(zip(node.arguments, typed, strict=True))
        with_unit = [pair for pair in pairs if pair[1].unit is not None]
        measured = [pair for pair in with_unit if not isinstance(pair[0], tree.Number)]
        lead = next(iter(measured or with_unit), None)
        if lead is None:
            return Typed(kind)
        for pair in pairs:
            if pair is not lead:
                self.same_unit(pair[0], lead, pair)
        scales = {each.scale for node, each in pairs if not isinstance(node, tree.Number)}
        same = replace(lead[1], kind=kind, scale=scales.pop() if len(scales) == 1 else None)
        return difference_only(same) if node.name == "abs" else same

    def window(self, node: tree.Window) -> Typed:
        symbol = self.scope.symbols.get(node.tag.id)
        if symbol is not None and symbol.computed:
            text = (
                f"found {shown(node.tag.id)}, which is computed, expected a measured tag in "
                f"{node.name}(…)"
            )
            self.flaw(node.tag, text)
            return Typed(Kind.ANY)
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
            unit = f"{typed.unit}/s" if typed.unit else None
            return Typed(typed.kind, unit, Scale.DIFFERENCE, typed.molar_mass)
        if node.name in _WITHIN_RANGE:
            return typed
        return replace(typed, scale=Scale.DIFFERENCE if node.name == "delta" else None)

    def arithmetic(self, node: tree.Arithmetic) -> Typed:
        left, right = self.operand(node.left), self.operand(node.right)
        kind = Kind.ANY if Kind.ANY in (left.kind, right.kind) else Kind.NUMBER
        if node.op in ("+", "-"):
            self._added(node, left, right)
            lead = right if left.unit is None or isinstance(node.left, tree.Number) else left
            if lead.unit is None:
                lead = left
            return replace(lead, kind=kind, scale=sum_scale(node, left, right))
        if node.op == "*":
            plain = left.unit is None or right.unit is None
            lead = left if left.unit is not None else right
            unit = lead.unit if plain and kind is Kind.NUMBER else None
            return replace(difference_only(lead), kind=kind, unit=unit)
        unit = left.unit if right.unit is None else None
        return replace(difference_only(left), kind=kind, unit=unit)

    def _added(self, node: tree.Arithmetic, left: Typed, right: Typed) -> None:
        """A literal beside a reading is a step from it, but for ``reading - literal``: unclear."""
        for literal, other in ((node.left, right), (node.right, left)):
            if isinstance(literal, tree.Number) and other.scale is Scale.READING:
                scale = Scale.DIFFERENCE if node.op == "+" else None
                if literal is node.left:
                    right = replace(right, scale=scale)
                else:
                    left = replace(left, scale=scale)
        self.same_unit(node, (node.left, left), (node.right, right))

    def tag(self, node: tree.TagRef) -> Typed:
        symbol = self.scope.symbols.get(node.id)
        if symbol is not None:
            return Typed(symbol.kind, symbol.unit, Scale.READING, symbol.molar_mass)
        if node.id in self.scope.refused:
            self.flaw(node, f"found {shown(node.id)}, {self.scope.refused[node.id]}")
        elif node.id not in self.scope.lost and not self.scope.open:
            self.flaw(node, f"found {shown(node.id)}, expected a tag{self._near(node.id)}")
        return Typed(Kind.ANY)

    def _near(self, ident: str) -> str:
        for place, sign in enumerate(ident):
            if sign == "-" and ident[:place] in self.scope.symbols:
                return f"; a minus has blanks around it: {ident[:place]} - {ident[place + 1 :]}"
        return did_you_mean(ident, self.scope.symbols)

    def _quietly(self, node: Expr) -> Typed:
        """The type of a node that was checked already."""
        flaws, self.flaws = self.flaws, []
        typed = self.value(node)
        self.flaws = flaws
        return typed

    def _number_of(self, node: tree.Number) -> float:
        """The literal's number in its tag's unit."""
        conversion = self.conversions.get(id(node))
        return node.value if conversion is None else conversion.value

    # ---- units

    def same_unit(self, node: Expr, *sides: tuple[Expr, Typed]) -> None:
        """Two operands of one unit; a literal of another is converted where that is exact."""
        (left_node, left), (right_node, right) = sides
        if left.unit is None or right.unit is None or left.unit == right.unit:
            return
        for literal, own, other_node, other in (
            (left_node, left, right_node, right),
            (right_node, right, left_node, left),
        ):
            if isinstance(literal, tree.Number) and not isinstance(other_node, tree.Number):
                self._converted(literal, own.unit or "", other_node, other)
                return
        odd = self._odd_literal(node, left.unit, right.unit)
        if odd is None and "" in (left.unit, right.unit):
            return  # a tag whose unit nobody wrote down
        if odd is None:
            text = f"found {_unit(left.unit)} beside {_unit(right.unit)}, expected one unit"
            self.flaw(node, text)
            return
        other_unit = left.unit if odd.unit == right.unit else right.unit
        self.flaw(odd, f"found the unit {shown(odd.unit)}, expected {_unit(other_unit)}")

    def _converted(self, literal: tree.Number, unit: str, node: Expr, other: Typed) -> None:
        """Convert a literal into the unit of what stands beside it, or say why not."""
        target = other.unit or ""
        value: float | None = None
        missing = ""
        if units.needs_molar_mass(unit, target):
            missing = _declare(f"molar_mass = … (g/mol), by which {unit} converts", node)
            if other.molar_mass is not None:
                value = units.convert_gas(literal.value, unit, target, other.molar_mass)
        elif units.has_offset(unit, target) and other.scale is None:
            missing = ": here it may be a reading or a difference"
        else:
            difference = other.scale is Scale.DIFFERENCE
            value = units.convert(literal.value, unit, target, difference=difference)
        if value is None:
            if not missing and target:
                missing = _near_unit(unit, target)
            missing = missing or ("" if target else _declare(f'unit = "{unit}"', node))
            text = f"found the unit {shown(unit)}, expected {_unit(target)}{missing}"
            self.flaw(literal, text)
            self._odd.add(id(literal))
            return
        written = f"{number_text(literal.value)} {unit}"
        self.conversions[id(literal)] = Conversion(literal.at, written, value, target)

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


def _near_unit(unit: str, target: str) -> str:
    """``; did you mean "kPa"?``; nothing where the tag's own unit, told already, is as near."""
    near = nearest(unit, [target, *units.names_like(target)])
    return f'; did you mean "{near}"?' if near not in (None, target) else ""


def _declare(key: str, node: Expr) -> str:
    """`` (or unit = "m" on tag x)``: what a site file may add so that a literal can stand."""
    tags = tree.tags_of(node)
    return f" (or {key}, on tag {tags[0]})" if tags else ""


def _unit(unit: str) -> str:
    return shown(unit) if unit else "no unit"
