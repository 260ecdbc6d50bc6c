"""Tables and lines for people: rich on a terminal, plain aligned text anywhere else."""

import codecs
import io
import json
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec

# Control characters of names and texts are shown, never sent to the terminal.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


def show_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One table; without rows one line that says so."""
    if not rows:
        print(f"{title}: none")
        return
    cells = [[cell_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(title, headings, cells)
    else:
        _plain_table(title, headings, cells)


def show_json(value: Any) -> None:
    """One JSON document, indented, with a line's end; NaN is null."""
    print(_json_text(msgspec.json.format(msgspec.json.encode(value), indent=2)))


def show_json_line(value: Any) -> None:
    """One JSON document on a line of its own, at once; NaN is null."""
    print(_json_text(msgspec.json.encode(value)), flush=True)


def data_output() -> TextIO:
    """Standard output for what programs read: UTF-8 as in a file, whatever the terminal has."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="strict")
    return sys.stdout


def cell_text(value: object) -> str:
    """A value as people read it; "-" for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(str(value))


def moment(stamp: str | None) -> str:
    """Seconds are enough for people."""
    return f"{stamp[:19]}Z" if stamp else "-"


def plain(text: str) -> str:
    """The text with its control characters shown as escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"sitewarden: {plain(text)}", file=sys.stderr)


def _json_text(document: bytes) -> str:
    """As the terminal's code page can take it: JSON has an escape of its own for every letter."""
    text = document.decode()
    if codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8":
        return text
    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _plain_table(title: str, headings: Sequence[str], rows: list[list[str]]) -> None:
    widths = [max(map(_cells, column)) for column in zip(headings, *rows, strict=True)]
    print(f"{title}:")
    for row in [list(headings), *rows]:
        padded = [
            cell + " " * (width - _cells(cell)) for cell, width in zip(row, widths, strict=True)
        ]
        line = "  ".join(padded)
        print(f"  {line}".rstrip())


def _cells(text: str) -> int:
    """What it takes of a terminal's line: a Chinese letter two cells."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _rich_table(title: str, headings: Sequence[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    room = console.width - 2 * len(headings) + 1  # a blank and a divider between columns
    widths = _widths(list(zip(headings, *rows, strict=True)), room)
    if sum(widths) > room:
        _plain_table(title, headings, rows)
        return
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, width=width, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console.print(table)


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """So wide that no word is broken: a value in two halves is misread. More where there is room.

    Who lacks least gets it first; it is too little where the sum is above ``room``.
    """
    widths = [max(_cells(word) for cell in column for word in (cell.split() or [""]))
              for column in columns]  # fmt: skip
    lacks = [
        max(map(_cells, column)) - width for column, width in zip(columns, widths, strict=True)
    ]
    spare = max(room - sum(widths), 0)
    for place in sorted(range(len(lacks)), key=lacks.__getitem__):
        more = min(lacks[place], spare)
        widths[place] += more
        spare -= more
    return widths


_STYLES: Final = {
    "TRIPPED": "bold red", "TRIPPING": "bold red", "TRIP_FAILED": "bold white on red",
    "READY_TO_RESET": "yellow", "PENDING": "yellow", "HELD": "yellow", "RELEASING": "yellow",
    "BAD": "bold red", "UNCERTAIN": "yellow", "NORMAL": "green", "RELEASED": "green",
    "GOOD": "green",
}  # fmt: skip


def _style(cell: str) -> str:
    return _STYLES.get(cell, "")
