"""What is wrong with a site file: one finished line each, sorted, every one of them.

``site.toml:41: device[plc-face].poll: found "50 parsecs", expected a duration such as "50ms"``
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from gateway.site.lines import LineIndex

SHOWN_MAX: Final = 60  # characters of a value that a line shows
NEAR_CUTOFF: Final = 0.6

Key = str | int
Path = tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a table came from: the lines of its keys and its name for people."""

    file: str
    where: str  # device[plc-face], "" for the file itself
    path: Path = ()  # in the TOML document
    index: LineIndex | None = None
    row: int = 0  # of a CSV; there it is every key's line

    def line(self, keys: Path = ()) -> int:
        """The line of a key, or of the nearest thing around it that has one."""
        return self.index.line(self.path + keys) if self.index else self.row

    def name(self, keys: Path = ()) -> str:
        """``device[plc-face].heartbeat.every``; places in a list are left out."""
        names = [self.where, *(key for key in keys if isinstance(key, str))]
        return ".".join(name for name in names if name)


@dataclass(frozen=True, slots=True, order=True)
class _Complaint:
    order: int  # of the file
    line: int
    name: str
    text: str
    file: str

    def __str__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"{self.file}:{self.line}: {name}{self.text}"


class Complaints:
    """Collects complaints of one site file and the files beside it."""

    def __init__(self, file: str) -> None:
        self._files = [file]
        self._items: set[_Complaint] = set()

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, origin: Origin, keys: Path, text: str) -> None:
        """Complain about a key of a table (``()``: about the table)."""
        self.at_line(origin.file, origin.line(keys), origin.name(keys), text)

    def at_line(self, file: str, line: int, name: str, text: str) -> None:
        """Complain about a line that belongs to no table."""
        if file not in self._files:
            self._files.append(file)
        self._items.add(_Complaint(self._files.index(file), line, name, text, file))

    def lines(self) -> list[str]:
        """Finished lines, by file and line."""
        return [str(item) for item in sorted(self._items)]


def shown(value: Any) -> str:
    """A value as the site file writes it, on one line, cut where it is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{_clean(value)}"'
    if isinstance(value, list | tuple):
        return _cut(f"[{', '.join(shown(item) for item in value)}]")
    if isinstance(value, dict):
        return _cut(
            "{ " + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + " }"
        )
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return _clean(str(value))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?``, or nothing where no known word is near."""
    near = nearest(word, known)
    return f'; did you mean "{near}"?' if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest, or None where none is near."""
    words = list(known)
    same = [item for item in words if item.lower() == word.lower()]
    near = same or difflib.get_close_matches(word, words, n=5, cutoff=NEAR_CUTOFF)
    if not near:
        return None
    matcher = difflib.SequenceMatcher(b=word)
    ratios = {item: _ratio(matcher, item) for item in near}
    return max((item for item in words if item in ratios), key=lambda item: ratios[item])


def _ratio(matcher: difflib.SequenceMatcher[str], word: str) -> float:
    matcher.set_seq1(word)
    return matcher.ratio()


def _clean(text: str) -> str:
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return _cut(printable)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
