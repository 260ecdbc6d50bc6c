"""Where in a TOML text each key stands: ``tomllib`` gives values, people want lines.

The text must be one that ``tomllib`` has read: the scanner here only follows its structure.
"""

import re
from bisect import bisect_right
from typing import Final, NamedTuple

Path = tuple[str | int, ...]

_KEY: Final = re.compile(r"[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INLINE_BLANK: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[^,\]\}\r\n#]+")
_BASIC: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL: Final = re.compile(r"'[^'\n]*'")
_LONG_BASIC: Final = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL)
_LONG_LITERAL: Final = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)
_STRINGS: Final = ((_LONG_BASIC, 3), (_LONG_LITERAL, 3), (_BASIC, 1), (_LITERAL, 1))


class TableLines(NamedTuple):
    """One table with a header: its path, the header's line and the last line before the next."""

    path: Path
    first: int
    last: int


class LineIndex:
    """Lines by path, such as ``("device", 0, "heartbeat", "every")``."""

    def __init__(self) -> None:
        self._lines: dict[Path, int] = {}
        self._texts: dict[Path, tuple[int, int]] = {}
        self.tables: list[TableLines] = []

    def line(self, path: Path) -> int:
        """The line of ``path`` or of the nearest thing around it; 1 for the document."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def place(self, path: Path, text: str, offset: int) -> tuple[int, int]:
        """Line and column (from 1) of a character of a string value, ``offset`` into ``text``.

        Exact unless the string has escapes before it on the same line.
        """
        line, column = self._texts.get(path, (self.line(path), 1))
        before = text[:offset]
        breaks = before.count("\n")
        if breaks:
            return line + breaks, len(before) - before.rindex("\n")
        return line, column + len(before)

    def note(self, path: Path, line: int) -> None:
        """Remember where ``path`` stands; the first place of a table stays."""
        self._lines.setdefault(path, line)

    def note_text(self, path: Path, line: int, column: int) -> None:
        """Remember where the first character of a string value stands."""
        self._texts[path] = (line, column)


def index_lines(text: str) -> LineIndex:
    """Index a TOML text that ``tomllib`` reads."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.index = LineIndex()
        self.counts: dict[Path, int] = {}  # arrays of tables: how many so far
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def run(self) -> LineIndex:
        table: Path = ()
        first = 0
        self._skip(_BLANK)
        while self.at < len(self.text):
            start = self.at
            line = self._line()
            if self.text[self.at] == "[":
                if table:
                    self._end_table(table, first, line - 1)
                table, first = self._header(line), line
            else:
                self._pair(table)
            self._skip(_BLANK)
            if self.at == start:  # not a text that tomllib reads: end rather than hang
                break
        if table:
            self._end_table(table, first, self.text.count("\n") + 1)
        return self.index

    def _end_table(self, path: Path, first: int, last: int) -> None:
        self.index.tables.append(TableLines(path, first, last))

    def _header(self, line: int) -> Path:
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        keys = self._keys()
        self.at += 2 if many else 1
        path: Path = ()
        for number, key in enumerate(keys):
            path += (key,)
            self.index.note(path, line)
            if many and number == len(keys) - 1:
                self.counts[path] = self.counts.get(path, -1) + 1
            if path in self.counts:
                path += (self.counts[path],)
            self.index.note(path, line)
        return path

    def _keys(self) -> list[str]:
        keys = []
        while (match := _KEY.match(self.text, self.at)) is not None:
            keys.append(next(group for group in match.groups() if group is not None))
            self.at = match.end()
            if not self.text.startswith(".", self.at):
                break
            self.at += 1
        return keys

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path += (key,)
            self.index.note(path, line)
        self.at += 1  # the equals sign
        self._skip(_INLINE_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in ('"', "'"):
            self._string(path)
        else:
            self._skip(_BARE)

    def _array(self, path: Path) -> None:
        self.at += 1
        number = 0
        self._skip(_BLANK)
        while self.at < len(self.text) and self.text[self.at] != "]":
            start = self.at
            if self.text[self.at] != ",":
                self.index.note((*path, number), self._line())
                self._value((*path, number))
                number += 1
            else:
                self.at += 1
            self._skip(_BLANK)
            if self.at == start:
                return
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        self._skip(_INLINE_BLANK)
        while self.at < len(self.text) and self.text[self.at] != "}":
            start = self.at
            if self.text[self.at] == ",":
                self.at += 1
            else:
                self._pair(path)
            self._skip(_INLINE_BLANK)
            if self.at == start:
                return
        self.at += 1

    def _string(self, path: Path) -> None:
        matches = ((pattern.match(self.text, self.at), quotes) for pattern, quotes in _STRINGS)
        match, quotes = next((pair for pair in matches if pair[0] is not None), (None, 1))
        self.at += quotes
        if match is None:
            return
        if quotes == 3 and self.text.startswith(("\n", "\r\n"), self.at):
            self.at = self.text.index("\n", self.at) + 1  # TOML leaves out this line break
        begin = self.text.rfind("\n", 0, self.at) + 1
        self.index.note_text(path, self._line(), self.at - begin + 1)
        self.at = match.end()

    def _line(self) -> int:
        return bisect_right(self.starts, self.at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
