"""Samples as rows of text: CSV for spreadsheets, NDJSON for programs.

Times are RFC 3339 in UTC with milliseconds. A cell that a spreadsheet would take for a formula gets
an apostrophe before it.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Final, Literal

from fastpath.codes import Quality, Reason
from fastpath.columns import split_quality
from gateway.site.formulas import guarded
from gateway.store.five_minutes import Summary
from gateway.store.history_file import Sample

Format = Literal["csv", "ndjson"]

HEADINGS: Final = ("time", "tag", "value", "unit", "quality", "reason")
SUMMARY_HEADINGS: Final = ("time", "tag", "n", "bad", "min", "mean", "max", "last", "unit")
_NS_PER_MS: Final = 1_000_000
_MS_PER_S: Final = 1_000


class Rows:
    """Makes text of samples. ``units``: of the tags of which one is known."""

    def __init__(self, form: Format, units: Mapping[str, str]) -> None:
        self._form = form
        self._units = units
        self._cells: dict[str, tuple[str, str]] = {}
        self._second = -1
        self._second_text = ""

    def begin(self, headings: Sequence[str] = HEADINGS) -> str:
        """What stands before the first row."""
        return _csv([headings]) if self._form == "csv" else ""

    def summaries(self, summaries: Iterable[Summary]) -> str:
        """The rows of five minutes each."""
        rows = [
            (self._time(one.time_ns), one.tag, one.n, one.bad, one.lowest, one.mean, one.highest,
             one.last, self._units.get(one.tag, ""))
            for one in summaries
        ]  # fmt: skip
        if self._form == "csv":
            return _csv(
                [
                    (at, guarded(tag), str(n), _count(bad), *map(_number, numbers), guarded(unit))
                    for at, tag, n, bad, *numbers, unit in rows
                ]
            )
        return "".join(
            json.dumps(dict(zip(SUMMARY_HEADINGS, (*row[:-1], row[-1] or None), strict=True)))
            + "\n"
            for row in rows
        )

    def text(self, samples: Sequence[Sample]) -> str:
        """The rows of these samples, each with its line's end."""
        if self._form == "csv":
            return "".join([self._csv_line(*sample) for sample in samples])
        return "".join([self._json_line(*sample) for sample in samples])

    def _csv_line(self, at: int, tag: str, value: float, byte: int) -> str:
        name, unit = self._cells.get(tag) or self._new_cells(tag)
        quality, reason = _words(byte)
        return f"{self._time(at)},{name},{_number(value)},{unit},{quality},{reason}\r\n"

    def _json_line(self, at: int, tag: str, value: float, byte: int) -> str:
        name, unit = self._cells.get(tag) or self._new_cells(tag)
        quality, reason = _words(byte)
        return (
            f'{{"time":"{self._time(at)}","tag":{name},"value":{_number(value) or "null"},'
            f'"unit":{unit},"quality":"{quality}","reason":{json.dumps(reason or None)}}}\n'
        )

    def _new_cells(self, tag: str) -> tuple[str, str]:
        """A tag's name and unit as they stand in a row."""
        unit = self._units.get(tag, "")
        if self._form == "csv":
            cells = _csv_cell(guarded(tag)), _csv_cell(guarded(unit))
        else:
            cells = json.dumps(tag), json.dumps(unit or None)
        self._cells[tag] = cells
        return cells

    def _time(self, utc_ns: int) -> str:
        second, ms = divmod(utc_ns // _NS_PER_MS, _MS_PER_S)
        if second != self._second:
            self._second = second
            self._second_text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._second_text}.{ms:03d}Z"


def words_of(byte: int) -> tuple[str, str]:
    """(GOOD UNCERTAIN BAD, the reason or "") of a quality byte."""
    number, reason = split_quality(byte)
    quality = Quality(number)
    if quality is Quality.GOOD:
        return quality.name, ""
    try:
        return quality.name, Reason(reason).name.lower()
    except ValueError:
        return quality.name, str(reason)


_WORDS: Final = {
    quality | reason << 2: words_of(quality | reason << 2)
    for quality in Quality
    for reason in range(len(Reason))
}


def _words(byte: int) -> tuple[str, str]:
    return _WORDS.get(byte) or words_of(byte)


def _number(value: float | None) -> str:
    """As short as it comes back bit by bit; "" where it is none."""
    return repr(value).removesuffix(".0") if value is not None and isfinite(value) else ""


def _count(count: int | None) -> str:
    return "" if count is None else str(count)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _csv_cell(text: str) -> str:
    """As it stands behind a comma."""
    return _csv([("", text)])[1:].removesuffix("\r\n")
