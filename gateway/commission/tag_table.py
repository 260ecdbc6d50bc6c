"""A spreadsheet's list of points, as vendors and engineers write it, as the site file's CSV has it.

Headings in English or Chinese by many names, ``40101`` addresses, words such as REAL: each row
becomes the columns of ``tags_csv``, and what was translated is noted.
"""

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.commission.words import address_of, column_of, order_of, type_of
from gateway.site.complaints import Complaints, shown
from gateway.site.formulas import guarded
from gateway.site.model import IDENT_PATTERN
from gateway.site.spreadsheet import text_of_csv
from gateway.site.tags_csv import HEADINGS, TEXTS, text_of

SEPARATORS: Final = ",;\t|"
TITLE_ROWS_MAX: Final = 10  # above the headings

_RANGE: Final = re.compile(
    r"\s*(?P<low>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(?:-|–|—|~|～|\.\.|…|to|至|到|,)\s*"
    r"(?P<high>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*"
)


@dataclass(slots=True)
class TagRow:
    """One row: its cells by column, only those columns that the list has."""

    number: int  # in the file, the first row being 1
    cells: dict[str, str]
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class TagTable:
    """A whole list. ``left_out`` are headings that mean nothing here."""

    file: str
    rows: list[TagRow] = field(default_factory=list)
    chinese: bool = False  # its headings
    columns: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def read_table(file: str, data: bytes, complaints: Complaints) -> TagTable:
    """Every row as it stands, under the columns of ``tags_csv``."""
    text = text_of_csv(file, data, complaints)
    if text is None:
        return TagTable(file)
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for number, row in enumerate(reader, start=1):
            line = number + 1
            if any(cell.strip() for cell in row):
                rows.append((number, row))
    except csv.Error as error:
        complaints.at_line(file, line, "", f"found a broken row ({error}), expected CSV")
    return _table(file, rows, separator, complaints)


def translated(row: TagRow, *, modbus: Callable[[str], int | None], device: str = "") -> TagRow:
    """The row in the site file's words. ``modbus``: the base of a Modbus device, None for others.

    ``device`` stands where the row names none.
    """
    cells, notes = dict(row.cells), list(row.notes)
    if device and not cells.get("device"):
        cells["device"] = device
    if "range" in cells:
        _part_range(cells)
    changes = {"id": _ident(_narrow(cells.get("id", "")))}
    kind = type_of(_narrow(cells.get("type", "")))
    base = modbus(cells.get("device", ""))
    if base is not None:  # a node of OPC UA is its server's own text
        address, numeric = _narrow(cells.get("address", "")), kind not in ("", "bool")
        changes["address"] = address_of(address, base, numeric=numeric)
    changes["type"] = kind
    changes["order"] = order_of(_narrow(cells.get("order", "")))
    for name, good in changes.items():
        given = cells.get(name, "")
        if good != given:
            cells[name] = good
            notes.append(f"{given} is {good}")
    if cells.get("type") == "bool" and base is not None:
        _plain_bool(cells)
    return TagRow(row.number, cells, notes)


def write_table(rows: Iterable[dict[str, str]], columns: Sequence[str], *, chinese: bool) -> bytes:
    """A CSV that spreadsheets open right: UTF-8 with its mark, every column under its heading.

    A text that they would take for a formula is guarded; readers take that off again.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([HEADINGS[name] if chinese else name for name in columns])
    writer.writerows([_cell(name, cells.get(name, "")) for name in columns] for cells in rows)
    return codecs.BOM_UTF8 + text.getvalue().encode()


def _cell(column: str, text: str) -> str:
    return guarded(text) if column in TEXTS else text


def _separator(text: str) -> str:
    """Whichever gives the most known headings in one of the first rows."""

    def known(separator: str) -> int:
        lines = text.splitlines()[:TITLE_ROWS_MAX]
        cells = [line.split(separator) for line in lines]
        return max((sum(_column(cell) is not None for cell in row) for row in cells), default=0)

    return max(SEPARATORS, key=known)


def _column(cell: str) -> str | None:
    return column_of(cell.strip().strip('"'))


def _table(
    file: str, rows: list[tuple[int, list[str]]], separator: str, complaints: Complaints
) -> TagTable:
    """The rows below the first that has headings; a title may stand above."""
    for at in range(min(TITLE_ROWS_MAX, len(rows))):
        columns = _columns(rows[at][1])
        if "id" in columns.values() and len(columns) > 1:
            return _below(TagTable(file), columns, rows[at:], separator, complaints)
    first = shown(", ".join(rows[0][1])) if rows else "nothing"
    text = f"found {first}, expected headings such as id, device, address (位号, 设备, 地址)"
    complaints.at_line(file, 1, "", text)
    return TagTable(file)


def _columns(heading: list[str]) -> dict[int, str]:
    return {at: name for at, cell in enumerate(heading) if (name := _column(cell))}


def _below(
    table: TagTable,
    columns: dict[int, str],
    rows: list[tuple[int, list[str]]],
    separator: str,
    complaints: Complaints,
) -> TagTable:
    number, heading = rows[0]
    names = list(columns.values())
    for place, (at, name) in enumerate(list(columns.items())):
        if name in names[:place]:
            text = f"found {shown(heading[at])}, a second heading for {name}, expected one"
            complaints.at_line(table.file, number, "", text)
    table.columns = tuple(dict.fromkeys(names))
    table.chinese = not any(heading[at].isascii() for at in columns)
    table.left_out = tuple(
        cell.strip() for at, cell in enumerate(heading) if at not in columns and cell.strip()
    )
    for row_number, row in rows[1:]:
        cells = {
            name: text_of(name, "".join(row[at : at + 1]), separator)
            for at, name in columns.items()
        }
        if any(cell.strip() for cell in row[len(heading) :]):
            text = "found more cells than headings, expected one per heading"
            complaints.at_line(table.file, row_number, "", text)
        table.rows.append(TagRow(row_number, cells))
    return table


def _narrow(text: str) -> str:
    """Full-width letters, digits and signs, as Chinese keyboards give them, as the usual ones."""
    return unicodedata.normalize("NFKC", text)


def _ident(text: str) -> str:
    """The id in small letters without blanks, where that makes it one."""
    if re.fullmatch(IDENT_PATTERN, text):
        return text
    plain = re.sub(r"[\s/\\]+", "_", text.strip().lower())
    return plain if re.fullmatch(IDENT_PATTERN, plain) else text


def _part_range(cells: dict[str, str]) -> None:
    """``0-100`` in one cell as low and high; what cannot be parted is told as the low one."""
    text = cells.pop("range")
    match = _RANGE.fullmatch(text)
    if match:
        cells["low"], cells["high"] = match["low"], match["high"]
    elif text:
        cells["low"] = cells["high"] = text


def _plain_bool(cells: dict[str, str]) -> None:
    """A boolean has no scale; lists for all types fill 1 and 0 in."""
    for name, neutral in (("scale", 1.0), ("offset", 0.0)):
        try:
            if cells.get(name) and float(cells[name]) == neutral:
                cells[name] = ""
        except ValueError:
            continue
