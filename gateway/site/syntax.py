"""Read TOML past its syntax errors, so that one slip does not hide the other errors.

``tomllib`` stops at the first error. Here the statement at fault is told, taken out line by line
(so that every other line keeps its number), and the rest read again.
"""

import re
import tomllib
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.site.complaints import SHOWN_MAX, shown
from gateway.site.durations import near_duration

ERRORS_MAX: Final = 50  # then the file is something else than a site file
_NEAR_STATEMENTS: Final = 32

_HEADER: Final = re.compile(r"\s*\[\[?\s*([A-Za-z0-9_-]+)[^=]*$")
_STATEMENT: Final = re.compile(
    r"\s*(?:\[\[?\s*[A-Za-z0-9_.\"' -]+\]\]?\s*(?:#.*)?$|[\w.\"'-]+\s*=)"
)
_BROKEN_HEADER: Final = re.compile(r"\s*\[+\s*([A-Za-z0-9_-]+)")
_ID: Final = re.compile(r"\s*id\s*=\s*[\"']?([A-Za-z][A-Za-z0-9_.-]*)")
_BOOLEANS: Final = {
    "true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false",
}  # fmt: skip
_AT: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(slots=True)
class TomlText:
    """What could be read. ``text`` is the file without its broken statements."""

    data: dict[str, Any]
    text: str
    errors: list[tuple[int, str]] = field(default_factory=list)  # line, text
    lost_lines: set[int] = field(default_factory=set)
    lost_ids: dict[str, set[str]] = field(default_factory=dict)  # by the name of the table


def read_toml(text: str) -> TomlText:
    """Read ``text``, telling every syntax error that can be told apart."""
    text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    result = TomlText({}, "")
    while len(result.errors) < ERRORS_MAX:
        current = "\n".join(lines)
        try:
            result.data = tomllib.loads(current)
        except (ValueError, RecursionError) as error:  # also of endless digits and nesting
            if not _take_out(lines, str(error), result):
                return result
        else:
            result.text = current
            return result
    return result


def _take_out(lines: list[str], message: str, result: TomlText) -> bool:
    """Blank the statement at fault. False: nothing is left to take out."""
    match = _AT.search(message)
    line = int(match[1]) if match and match[1] else len(lines)
    column = int(match[2]) if match and match[2] else 1
    first = _statement_start(lines, min(line, len(lines)))
    last = _statement_end(lines, first)
    said = _said(message[: match.start()] if match else message, lines, (first, line, column))
    result.errors.append((first, said))
    if not any(lines[first - 1 : last]):
        return False
    _salvage_ids(lines, first, last, result)
    for i in range(first, last + 1):
        if lines[i - 1]:
            result.lost_lines.add(i)
        lines[i - 1] = ""
    return True


def _statement_start(lines: list[str], line: int) -> int:
    """The line where the statement at fault begins: all before it can be read."""
    if _reads(lines, line):
        return line
    starts = [i for i in range(1, line) if _STATEMENT.match(lines[i - 1])]
    for start in reversed(starts[-_NEAR_STATEMENTS:]):
        if _reads(lines, start):
            return start
    # Far above, as with a text that is never closed: doubling steps up, then halving them.
    step = _NEAR_STATEMENTS
    while step < len(starts) and not _reads(lines, starts[-step]):
        step *= 2
    far = starts[max(0, len(starts) - step) :]
    index = bisect_left(far, True, key=lambda start: not _reads(lines, start))
    return far[index - 1] if index else 1


def _reads(lines: list[str], before: int) -> bool:
    """Whether everything before a line can be read."""
    try:
        tomllib.loads("\n".join(lines[: before - 1]))
    except (ValueError, RecursionError):
        return False
    return True


def _statement_end(lines: list[str], first: int) -> int:
    """The last line of the statement: a header's goes on to the next header."""
    opening = lines[first - 1]
    pattern = _HEADER if opening.lstrip().startswith("[") else _STATEMENT
    open_braces = opening.count("{") - opening.count("}")
    for line in range(first + 1, len(lines) + 1):
        if pattern.match(lines[line - 1]) and open_braces <= 0:
            return line - 1
        open_braces += lines[line - 1].count("{") - lines[line - 1].count("}")
        if _HEADER.match(lines[line - 1]):
            return line - 1
    return len(lines)


def _salvage_ids(lines: list[str], first: int, last: int, result: TomlText) -> None:
    """A table that is lost, or its id alone, still gives the id to those that name it."""
    for line in range(first, last + 1):
        match = _ID.match(lines[line - 1])
        if match is None:
            continue
        for above in range(line, 0, -1):
            header = _HEADER.match(lines[above - 1]) or _BROKEN_HEADER.match(lines[above - 1])
            if header:
                result.lost_ids.setdefault(header[1], set()).add(match[1])
                break


def _said(message: str, lines: list[str], place: tuple[int, int, int]) -> str:
    first, line, column = place
    statement = lines[first - 1].strip(" \t")
    if message.startswith("Cannot "):
        return f"found {_code(statement)} a second time, expected it once"
    if message.startswith(("Unterminated", "Illegal character", "Unclosed")):
        return f"found {_code(statement)} without its end, expected a closing quote or bracket"
    if message.startswith("Expected '='"):
        return f"found {_code(statement)}, expected key = value"
    if statement.startswith("["):
        return f"found {_code(statement)}, expected a heading such as [[device]]"
    value = statement.partition("=")[2].strip()
    if value.count("{") > value.count("}"):
        return f"found {_code(value)} over several lines, expected {{ … }} on one line"
    if message.startswith("Exceeds the limit"):
        return f"found {_code(value)}, expected a smaller number"
    if message.startswith("maximum recursion"):
        return f"found {_code(value)}, expected a value that is not nested so deep"
    if message.startswith(("Invalid value", "Expected newline")):
        return f"found {_code(value)}, expected a value{_value_hint(value)}"
    where = f" at column {column}" if line == first else ""
    return f"found {_code(statement)}, expected TOML: {message[:1].lower()}{message[1:]}{where}"


def _value_hint(value: str) -> str:
    word = value.partition("#")[0].strip()
    if not word:
        return ' such as "text", 12.5 or true'
    duration = near_duration(word)
    if duration:
        return f' in quotes; did you mean "{duration}"?'
    if word.lower() in _BOOLEANS:
        return f"; did you mean {_BOOLEANS[word.lower()]}?"
    if '"' not in word and "'" not in word and len(word) <= SHOWN_MAX:
        return f' such as "text", 12.5 or true; did you mean "{word}"?'
    return ' such as "text", 12.5 or true'


def _code(text: str) -> str:
    return shown(text)[1:-1] if text else "nothing"
