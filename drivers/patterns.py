"""Regular expressions of site files that no line can make expensive.

``re`` tries again at every choice, so that a pattern with choices inside repeats may take for
ever on the right line. Here each repeat and each alternative is looked at for what may follow it:
where one byte tells what to do there is no choice. What is left multiplies, and is bounded.
"""

import importlib
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, Final

from drivers.errors import PointError
from drivers.framing import LINE_BYTES_MAX

PATTERN_BYTES_MAX: Final = 512
DEPTH_MAX: Final = 8
CHOICES_MAX: Final = 2 * LINE_BYTES_MAX  # ways through one line; each costs at most its length
_END: Final = 256  # the end of the line, beside the 256 bytes
_EMPTY: Final = 257  # a mark: what was looked at may be empty
_ANYTHING: Final = frozenset(range(257))
# The standard library's own parser has no public name; a test holds what is used of it.
_PARSER: Final[Any] = importlib.import_module("re._parser")

Set = frozenset[int]


@lru_cache(256)
def compile_pattern(text: str, key: str) -> re.Pattern[bytes]:
    """The pattern over bytes, for ``fullmatch``. Raises PointError (of ``key``), with the column.

    Lookarounds, back references, conditions and flags are not taken.
    """
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError as error:
        column = error.start + 1
        said = f"found {text[error.start]!r} at column {column}, expected Latin-1 characters"
        raise PointError(key=key, text=said) from None
    if len(raw) > PATTERN_BYTES_MAX:
        said = f"found {len(raw)} characters, expected at most {PATTERN_BYTES_MAX}"
        raise PointError(key=key, text=said)
    try:
        pattern = re.compile(raw)
        parsed = _PARSER.parse(raw)
    except (re.error, OverflowError, RecursionError) as error:
        at = getattr(error, "pos", None)
        place = f" at column {at + 1}" if at is not None else ""
        reason = getattr(error, "msg", str(error))
        said = f"found a pattern that is none{place} ({reason}), expected a regular expression"
        raise PointError(key=key, text=said) from None
    try:
        choices = _Walk(parsed).choices()
    except _RefusedError as refused:
        said = f"found {refused}, expected a pattern without"
        raise PointError(key=key, text=said) from None
    if choices > CHOICES_MAX:
        said = (
            "found a pattern that one line can make expensive (a repeat whose end no character "
            "tells, more than once or inside a repeat), expected classes that exclude what "
            "follows them, such as [^,]* before a comma"
        )
        raise PointError(key=key, text=said)
    return pattern


class _RefusedError(Exception):
    """The pattern has something that is not taken."""


class _Walk:
    """One walk over a parsed pattern, from its end to its begin."""

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed
        self._depth = 0
        allowed = re.compile(b"").flags  # none but what a pattern of bytes has by itself
        if parsed.state.flags & ~allowed:
            text = "flags"
            raise _RefusedError(text)

    def choices(self) -> int:
        """The bound on the ways through one line."""
        return self._sequence(self._parsed, frozenset((_END,)))[1]

    def _sequence(self, items: Iterable[Any], follow: Set) -> tuple[Set, int]:
        """(bytes that may come first, ways); first holds ``follow`` where it may be empty."""
        first, ways = follow, 1
        for item in reversed(list(items)):
            first, more = self._item(item, first)
            ways = min(ways * more, CHOICES_MAX + 1)
        return first, ways

    def _item(self, item: Any, follow: Set) -> tuple[Set, int]:
        name, value = str(item[0]), item[1]
        if name in {"LITERAL", "NOT_LITERAL", "ANY", "IN"}:
            return _bytes_of(name, value), 1
        if name == "AT":
            return follow, 1  # takes nothing, and only forbids
        if name == "SUBPATTERN":
            _, add, remove, inner = value
            if add or remove:
                text = "flags"
                raise _RefusedError(text)
            return self._sequence(inner, follow)
        if name == "ATOMIC_GROUP":
            return self._sequence(value, follow)
        if name == "BRANCH":
            return self._branch(value[1], follow)
        if name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            least, most, inner = value
            return self._repeat(least, most, inner, follow)
        text = f"{name.lower().replace('_', ' ')} (a look around, a back reference or a condition)"
        raise _RefusedError(text)

    def _branch(self, branches: list[Any], follow: Set) -> tuple[Set, int]:
        firsts, ways, overlap = frozenset[int](), 1, 1
        for branch in branches:
            first, more = self._sequence(branch, follow)
            overlap += bool(firsts & first)
            ways = max(ways, more)
            firsts |= first
        return firsts, ways * overlap

    def _repeat(self, least: int, most: int, inner: Any, follow: Set) -> tuple[Set, int]:
        most = min(int(most), LINE_BYTES_MAX)
        least = min(int(least), most)
        if most == 0:
            return follow, 1
        self._depth += 1
        if self._depth > DEPTH_MAX:
            text = f"repeats within repeats, more than {DEPTH_MAX} deep"
            raise _RefusedError(text)
        first, _ = self._sequence(inner, frozenset((_EMPTY,)))
        empty, first = _EMPTY in first, first - {_EMPTY}
        _, ways = self._sequence(inner, follow if most == 1 else follow | first)
        self._depth -= 1
        # Where what repeats may also follow, each number of times is a way.
        ends = most - least + 1 if empty or first & follow else 1
        total = min(_power(ways, most) * ends, CHOICES_MAX + 1)
        if empty and most > 1:
            total = CHOICES_MAX + 1
        return (first | follow if empty or least == 0 else first), total


def _power(base: int, exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result *= base
        if result > CHOICES_MAX:
            return CHOICES_MAX + 1
    return result


def _bytes_of(name: str, value: Any) -> Set:
    """What one item that takes one byte may take."""
    if name == "LITERAL":
        return frozenset((value,))
    if name == "NOT_LITERAL":
        return _ANYTHING - {value, _END}
    if name == "ANY":
        return _ANYTHING - {0x0A, _END}
    found: set[int] = set()
    negated = False
    for kind, what in value:
        match str(kind):
            case "NEGATE":
                negated = True
            case "LITERAL":
                found.add(what)
            case "RANGE":
                found.update(range(what[0], what[1] + 1))
            case _:
                found |= _category(str(what))
    return _ANYTHING - found - {_END} if negated else frozenset(found)


@cache
def _category(name: str) -> Set:
    """The bytes of the shorthands for digits, blanks, letters, and of what excludes them."""
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[name.rsplit("_", 1)[1]]
    shorthand = letter.upper() if "NOT_" in name else letter
    pattern = re.compile(f"\\{shorthand}".encode())
    return frozenset(byte for byte in range(256) if pattern.match(bytes((byte,))))
