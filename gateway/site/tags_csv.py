"""Tags from a spreadsheet's CSV, with English or Chinese headings in any order."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gateway.site.complaints import Complaints, Origin, did_you_mean, shown
from gateway.site.formulas import unguarded
from gateway.site.spreadsheet import text_of_csv

HEADINGS: Final = {
    "id": "位号",
    "device": "设备",
    "address": "地址",
    "type": "类型",
    "order": "字节序",
    "unit": "单位",
    "low": "下限",
    "high": "上限",
    "scale": "倍率",
    "offset": "偏移",
    "poll": "周期",
    "stale_after": "失效时间",
    "description": "描述",
}
NUMBERS: Final = ("low", "high", "scale", "offset")
TEXTS: Final = ("address", "unit", "description")  # of foreign origin: guarded in a CSV
POINT: Final = ("address", "type", "order", "scale", "offset")
SEPARATORS: Final = ",;\t"

_COMMA_NUMBER: Final = re.compile(r"[-+]?[0-9]+,[0-9]+")
_COLUMNS: Final = {word: name for name, chinese in HEADINGS.items() for word in (name, chinese)}


class Row(NamedTuple):
    """One tag's row as the table that TOML would have given; ``bad`` keys were told already."""

    origin: Origin
    table: dict[str, Any]
    bad: set[str]


def read(file: str, data: bytes, complaints: Complaints) -> Iterator[Row]:
    """Every tag of a CSV, the heading being row 1."""
    text = text_of_csv(file, data, complaints)
    if text is None:
        return
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    rows = _rows(file, text, separator, complaints)
    columns = _columns(file, next(rows, []), complaints)
    if columns is None:
        return
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = {
            name: text_of(name, row[at], separator) for at, name in columns.items() if at < len(row)
        }
        where = f"tag[{cells.get('id') or f'#{number}'}]"
        origin = Origin(file, where, row=number)
        if any(cell.strip() for cell in row[max(columns) + 1 :]):
            complaints.add(origin, (), "found more cells than headings, expected one per heading")
        yield row_of(cells, origin, complaints)


def _rows(file: str, text: str, separator: str, complaints: Complaints) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 0
    try:
        for number, row in enumerate(reader, start=1):  # noqa: B007 - told when it fails
            yield row
    except csv.Error as error:
        complaints.at_line(file, number + 1, "", f"found a broken row ({error}), expected CSV")


def _columns(file: str, heading: list[str], complaints: Complaints) -> dict[int, str] | None:
    columns: dict[int, str] = {}
    for at, cell in enumerate(heading):
        word = cell.strip()
        name = _COLUMNS.get(word) or _COLUMNS.get(word.lower())
        if name is None:
            if word:
                near = did_you_mean(word, _COLUMNS) or f" ({', '.join(HEADINGS)})"
                text = f"found {shown(word)}, expected a known heading{near}"
                complaints.at_line(file, 1, "", text)
        elif name in columns.values():
            text = f"found the heading {shown(word)} a second time, expected it once"
            complaints.at_line(file, 1, "", text)
        else:
            columns[at] = name
    if "id" not in columns.values():
        complaints.at_line(file, 1, "", 'found no heading "id" (位号), expected one')
        return None
    return columns


def text_of(column: str, cell: str, separator: str = ",") -> str:
    """What a cell says, without the blanks around it and what guards it.

    Where commas do not part the cells, a number's comma is its decimal one.
    """
    text = cell.strip()
    if column in NUMBERS and separator != "," and _COMMA_NUMBER.fullmatch(text):
        return text.replace(",", ".")
    return unguarded(text) if column in TEXTS else text


def row_of(cells: dict[str, str], origin: Origin, complaints: Complaints) -> Row:
    """The table of a row's cells by column."""
    values: dict[str, Any] = {}
    bad: set[str] = set()
    for name, cell in cells.items():
        if name not in NUMBERS:
            values[name] = cell
        elif cell:
            try:
                values[name] = float(cell)
            except ValueError:
                complaints.add(origin, (name,), f"found {shown(cell)}, expected a number")
                bad.add("range" if name in ("low", "high") else f"point.{name}")
    table: dict[str, Any] = {"id": values.get("id", "")}
    table["point"] = {name: values[name] for name in POINT if values.get(name, "") != ""}
    for name in ("device", "poll", "stale_after", "unit", "description"):
        if values.get(name):
            table[name] = values[name]
    if "low" in values and "high" in values:
        table["range"] = [values["low"], values["high"]]
    elif bool(cells.get("low")) != bool(cells.get("high")):
        given = "low" if cells.get("low") else "high"
        complaints.add(origin, (given,), f"found {given} alone, expected low and high")
        bad.add("range")
    return Row(origin, table, bad)
