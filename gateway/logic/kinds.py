"""What conditions are made of, as far as types go: kinds, units, scales, and the tags of a site."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from gateway.logic import tree
from gateway.logic.units import number_text

SPAN_NS_MAX: Final = 600_000_000_000  # of a window that the guard keeps


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
    molar_mass: float | None = None  # g/mol
    computed: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """The tags of a site. ``lost`` may be tags too; ``refused`` says why an id cannot be used."""

    symbols: Mapping[str, Symbol]
    lost: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    open: bool = False  # there may be tags that nobody could read
    span_ns_max: int | None = SPAN_NS_MAX  # of windows; None: a computed tag's, of any span


@dataclass(frozen=True, slots=True)
class Conversion:
    """A literal as it was written, and its number in the tag's unit."""

    at: int
    written: str
    value: float
    unit: str

    @property
    def text(self) -> str:
        """``5 kPa = 0.005 MPa``."""
        return f"{self.written} = {number_text(self.value)} {self.unit}"


class Scale(Enum):
    """What a number tells: it decides how degrees convert."""

    READING = 1
    DIFFERENCE = 2


@dataclass(frozen=True, slots=True)
class Typed:
    """Kind and unit; a unit of None goes with every other. ``scale`` None: neither, or unclear."""

    kind: Kind
    unit: str | None = None
    scale: Scale | None = None
    molar_mass: float | None = None


def difference_only(typed: Typed) -> Typed:
    """What is left of a scale once a number was turned or multiplied."""
    return replace(typed, scale=typed.scale if typed.scale is Scale.DIFFERENCE else None)


def sum_scale(node: tree.Arithmetic, left: Typed, right: Typed) -> Scale | None:
    """Reading - reading is a difference, reading + difference a reading; a literal is unclear."""
    a = Scale.DIFFERENCE if isinstance(node.left, tree.Number) else left.scale
    b = Scale.DIFFERENCE if isinstance(node.right, tree.Number) else right.scale
    if a is None or b is None:
        return None
    if node.op == "-" and b is Scale.READING:
        return Scale.DIFFERENCE if a is Scale.READING else None
    if a is b:
        return a if a is Scale.DIFFERENCE else None
    return Scale.READING
