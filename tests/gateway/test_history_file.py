"""history.db read beside the gateway that writes it: everything once, nothing touched."""

import asyncio
import csv
import io
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fastpath.codes import Quality, Reason
from fastpath.columns import quality_byte
from gateway.__main__ import main
from gateway.errors import StoreError
from gateway.site.formulas import guarded
from gateway.store.five_minutes import FiveMinutes
from gateway.store.history import History
from gateway.store.history_file import HistoryFile, Sample
from gateway.times import utc_ns_of
from gateway.view.export_rows import Rows
from gateway.view.history_query import HistoryQuery
from tests.gateway.test_store_history import open_history, pack_everything, second

ALWAYS = (0, 2**63 - 1)
S = 10**9


@pytest_asyncio.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    opened = await open_history(tmp_path)
    yield opened
    await opened.close()


def read(
    file: HistoryFile, tags: str = "abcd", span: tuple[int, int] = ALWAYS
) -> dict[str, list[Sample]]:
    """By tag, in the order in which they came."""
    found: dict[str, list[Sample]] = {}
    for group in file.groups():
        wanted = frozenset(tags) & frozenset(group.tags)
        for part in file.samples(group, wanted, *span) if wanted else ():
            for sample in part:
                found.setdefault(sample[1], []).append(sample)
    return found


def times(samples: list[Sample]) -> list[int]:
    return [at for at, *_ in samples]


@pytest.mark.parametrize("lane", ["live", "backfill"])  # live: pieces stay beside their chunk
@pytest.mark.parametrize("packed", [0, 10, 20])
async def test_chunks_and_tail_once_each_as_the_history_itself_reads_them(
    history: History, tmp_path: Path, packed: int, lane: str
) -> None:
    history.set_lane("up", lane)
    for at in range(20):
        await second(history, at, value=at / 4)
        if at + 1 == packed:
            await pack_everything(history)
    with HistoryFile(tmp_path / "history.db") as file:
        whole, some = read(file), read(file, "ad", (5 * S, 9 * S))
        assert sum(file.count(group, *ALWAYS) for group in file.groups()) == 20 * 7
    assert sum(len(samples) for samples in whole.values()) == 20 * 7
    for tag, samples in whole.items():
        assert [(at, value, q) for at, _, value, q in samples] == await history.read(tag, *ALWAYS)
        assert times(samples) == sorted(times(samples))
    assert times(some["a"]) == [at * S // 2 for at in range(10, 19)]
    assert times(some["d"]) == [at * S for at in range(5, 10)]


async def test_what_is_packed_between_two_reads_comes_once(
    history: History, tmp_path: Path
) -> None:
    for at in range(5):
        await second(history, at)
    await pack_everything(history)
    for at in range(5, 10):
        await second(history, at)
    with HistoryFile(tmp_path / "history.db") as file:
        parts = file.samples(file.groups()[0], frozenset("abc"), *ALWAYS)
        seen = next(parts)
        await pack_everything(history)
        for at in range(10, 12):
            await second(history, at)
        for part in parts:
            seen += part
    assert sorted(times([s for s in seen if s[1] == "b"])) == [n * S // 2 for n in range(24)]


async def test_what_is_damaged_is_left_out_and_counted(history: History, tmp_path: Path) -> None:
    for at in range(10):
        await second(history, at)
        if at == 4:
            await pack_everything(history)
    await history.close()
    path = tmp_path / "history.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE chunk SET body = zeroblob(length(body)) WHERE group_id = 1")
        database.commit()
    with HistoryFile(path) as file:
        found = read(file)
        assert file.damaged == 30
    assert len(found["a"]) == 10
    assert len(found["d"]) == 10
    arguments = ["export", "--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    output = tmp_path / "out.csv"
    assert await asyncio.to_thread(main, [*arguments, "--output", str(output)]) == 1
    assert len(output.read_text().splitlines()) == 1 + 40


async def test_a_file_at_rest_stays_as_it_is(history: History, tmp_path: Path) -> None:
    await second(history, 1)
    await history.close()
    path = tmp_path / "history.db"
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with HistoryFile(path) as file:
        assert len(read(file)["a"]) == 2
        assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
        (tmp_path / "history.db-wal").touch()  # as a gateway that starts
        with pytest.raises(StoreError, match="meanwhile"):
            read(file)


@pytest.mark.parametrize("version", [0, 1, 99])
async def test_other_versions_are_refused(history: History, tmp_path: Path, version: int) -> None:
    await history.close()
    with closing(sqlite3.connect(tmp_path / "history.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(StoreError, match="version"):
        HistoryFile(tmp_path / "history.db")


async def test_an_answer_is_bounded_and_says_where_to_go_on(
    history: History, tmp_path: Path
) -> None:
    for at in range(30):
        await second(history, at, value=at)
        if at % 10 == 5:
            await pack_everything(history)
    query = HistoryQuery(tmp_path / "history.db")
    words = {"tag": "a", "from": "1970-01-01", "to": "1970-01-02", "limit": "7"}
    values: list[float] = []
    for _ in range(20):
        answer = await query.answer(words)
        assert len(answer["samples"]) <= 7
        values += [row["value"] for row in answer["samples"]]
        if answer["complete"]:
            break
        words["from"] = answer["next"]
    assert values == [float(at) for at in range(30) for _ in range(2)]
    assert answer["samples"][-1] == {
        "time": "1970-01-01T00:00:29.500000000Z", "value": 29.0, "quality": "GOOD", "reason": None,
    }  # fmt: skip


@pytest.mark.parametrize("within_s", [60.0, 0.0])
@pytest.mark.parametrize("limit", [1, 3, 7, 25])
async def test_a_clock_that_was_set_back_leaves_nothing_out_of_the_pages(
    history: History, tmp_path: Path, limit: int, within_s: float
) -> None:
    for number, at in enumerate((*range(10, 20), *range(4, 16))):
        await second(history, at, value=number)
        if number in (3, 9, 13):
            await pack_everything(history)
    pages: list[Sample] = []
    with HistoryFile(tmp_path / "history.db") as file:
        after: int | None = 0
        while after is not None:
            start = after
            found, after = file.series("a", start, ALWAYS[1], limit=limit, within_s=within_s)
            assert after is None or after > start
            pages += found
    whole = await history.read("a", *ALWAYS)
    assert times(pages) == times(sorted(pages))
    assert sorted((at, value, q) for at, _, value, q in pages) == sorted(whole)
    assert len(whole) == 2 * 22


async def test_what_is_packed_while_a_page_is_read_comes_once(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(6):
        await second(history, at)
    with HistoryFile(tmp_path / "history.db") as file:
        places = [file._places(group, *ALWAYS) for group in file.groups()]
        await pack_everything(history)
        places += [file._places(group, *ALWAYS) for group in file.groups()]
        monkeypatch.setattr(file, "_places", lambda *_: places.pop(0))
        del places[1]  # only the first group has the tag: as it was, then as it is
        samples, after = file.series("a", *ALWAYS, limit=100, within_s=60.0)
    assert after is None
    assert len(places) == 1
    assert times(samples) == [at * S // 2 for at in range(12)]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"tag": "z"}, LookupError),
        ({}, LookupError),
        ({"tag": "a", "from": "yesterday"}, ValueError),
        ({"tag": "a", "limit": "0"}, ValueError),
        ({"tag": "a", "limit": "10001"}, ValueError),
        ({"tag": "a", "limit": "-1"}, ValueError),
        ({"tag": "a", "resolution": "1h"}, ValueError),
    ],
)
async def test_a_question_that_is_none(
    history: History, tmp_path: Path, words: dict[str, str], error: type[Exception]
) -> None:
    await second(history, 1)
    with pytest.raises(error):
        await HistoryQuery(tmp_path / "history.db").answer(words)


ROWS: list[Sample] = [
    (1_764_000_000_123 * 10**6, "ch4.t1", 0.1, quality_byte(Quality.GOOD, 0)),
    (1_764_000_001_000 * 10**6, "ch4.t1", -3.0, quality_byte(Quality.UNCERTAIN, Reason.STUCK)),
    (1_764_000_001_001 * 10**6, "=x+1", math.nan, quality_byte(Quality.BAD, Reason.STALE)),
]


def test_rows_for_spreadsheets() -> None:
    rows = Rows("csv", {"ch4.t1": "%CH4", "=x+1": "@SUM(A1)"})
    text = rows.begin() + rows.text(ROWS)
    assert list(csv.reader(io.StringIO(text))) == [
        ["time", "tag", "value", "unit", "quality", "reason"],
        ["2025-11-24T16:00:00.123Z", "ch4.t1", "0.1", "%CH4", "GOOD", ""],
        ["2025-11-24T16:00:01.000Z", "ch4.t1", "-3", "%CH4", "UNCERTAIN", "stuck"],
        ["2025-11-24T16:00:01.001Z", "'=x+1", "", "'@SUM(A1)", "BAD", "stale"],
    ]


def test_cells_with_commas_and_quotes_come_back() -> None:
    unit = '1,5"\r\n=2'
    rows = Rows("csv", {"a": unit})
    text = rows.text([(0, "a", 1.5, 2), (0, "b", 1.5, 2)])
    assert next(csv.reader(io.StringIO(text, newline="")))[3] == unit
    assert text.endswith("1970-01-01T00:00:00.000Z,b,1.5,,GOOD,\r\n")


def test_rows_for_programs() -> None:
    text = Rows("ndjson", {"ch4.t1": "%CH4"}).text(ROWS)
    assert [json.loads(line) for line in text.splitlines()] == [
        {"time": "2025-11-24T16:00:00.123Z", "tag": "ch4.t1", "value": 0.1, "unit": "%CH4",
         "quality": "GOOD", "reason": None},
        {"time": "2025-11-24T16:00:01.000Z", "tag": "ch4.t1", "value": -3, "unit": "%CH4",
         "quality": "UNCERTAIN", "reason": "stuck"},
        {"time": "2025-11-24T16:00:01.001Z", "tag": "=x+1", "value": None, "unit": None,
         "quality": "BAD", "reason": "stale"},
    ]  # fmt: skip


def test_five_minutes_of_each_tag() -> None:
    five, minute = FiveMinutes(), 60 * S
    good, bad = quality_byte(Quality.GOOD, 0), quality_byte(Quality.BAD, Reason.STALE)
    samples: list[Sample] = [
        (at * minute, tag, float(at), good) for tag in "ab" for at in (*range(12), 8, 12, 30)
    ]  # minute 8 comes again
    samples += [(31 * minute, "a", math.nan, good), (37 * minute, "b", 1.0, bad)]
    five.add(samples)
    done = five.before(11 * minute)
    assert len(done) == 6
    done += five.before(60 * minute)
    assert five.before(60 * minute) == []
    whole = [
        (0, 5, 0, 0.0, 2.0, 4.0, 4.0),
        (5, 6, 0, 5.0, 43 / 6, 9.0, 9.0),
        (10, 3, 0, 10.0, 11.0, 12.0, 12.0),
    ]
    assert [(row[0] // minute, *row[2:]) for row in done if row.tag == "a"] == [
        *whole, (30, 1, 1, 30.0, 30.0, 30.0, 30.0),
    ]  # fmt: skip
    assert [(row[0] // minute, *row[2:]) for row in done if row.tag == "b"] == [
        *whole, (30, 1, 0, 30.0, 30.0, 30.0, 30.0), (35, 0, 1, None, None, None, None),
    ]  # fmt: skip
    text = Rows("csv", {"b": "mm"}).summaries(done[-1:])
    assert text == "1970-01-01T00:35:00.000Z,b,0,1,,,,,mm\r\n"
    assert json.loads(Rows("ndjson", {}).summaries(done[-1:])) == {
        "time": "1970-01-01T00:35:00.000Z", "tag": "b", "n": 0, "bad": 1, "min": None,
        "mean": None, "max": None, "last": None, "unit": None,
    }  # fmt: skip


async def test_the_command_gives_five_minutes(history: History, tmp_path: Path) -> None:
    for at in range(0, 900, 30):
        await second(history, at, value=float(at))
    output = tmp_path / "out.csv"
    arguments = ["export", "d", "--resolution", "5m", "--output", str(output), "--to", "1970-01-02"]
    arguments += ["--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    assert await asyncio.to_thread(main, arguments) == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [(row["time"], row["n"], row["min"], row["max"], row["last"]) for row in rows] == [
        ("1970-01-01T00:00:00.000Z", "10", "-270", "-0", "-270"),
        ("1970-01-01T00:05:00.000Z", "10", "-570", "-300", "-570"),
        ("1970-01-01T00:10:00.000Z", "10", "-870", "-600", "-870"),
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@A1", "\tx", "\rx", "=cmd|' /C calc'!A0"])
def test_no_cell_is_a_formula(cell: str) -> None:
    assert guarded(cell) == f"'{cell}"
    ((written,),) = csv.reader(io.StringIO(f'"{guarded(cell)}"', newline=""))
    assert written[0] == "'"


@pytest.mark.parametrize(
    ("text", "utc_ns"),
    [
        ("2026-11-22T14:00:00Z", 1_795_356_000 * S),
        ("2026-11-22T15:00:00.5+01:00", 1_795_356_000 * S + S // 2),
        ("2026-11-22", 1_795_305_600 * S),
        ("90s", 10 * S),
    ],
)
def test_times(text: str, utc_ns: int) -> None:
    assert utc_ns_of(text, 100 * S) == utc_ns


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--from", "yesterday"], 2),
        (["--format", "xml"], 2),
        (["nonsense"], 1),
        (["a", "--output", "/nowhere/at/all.csv"], 1),
        (["missing.toml"], 2),
    ],
)
async def test_refusals_of_the_command(
    history: History, tmp_path: Path, words: list[str], code: int, capsys: Any
) -> None:
    await second(history, 1)
    arguments = ["export", *words, "--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    assert await asyncio.to_thread(_ended, arguments) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_an_export_is_the_same_on_every_terminal(
    history: History, tmp_path: Path, form: str
) -> None:
    await second(history, 1)
    site, output = tmp_path / "site.toml", tmp_path / "out"
    computed = '[site]\nid = "s"\n[[tag]]\nid = "a"\nvalue = "b * 2"\nunit = "m²/s"\n'
    site.write_text(computed, encoding="utf-8")
    words = [str(site), "a", "--format", form, "--runtime-dir", str(tmp_path)]
    command = [sys.executable, "-m", "gateway", "export", *words, "--state-dir", str(tmp_path)]
    around = os.environ | {"PYTHONIOENCODING": "ascii"}

    def run(*more: str) -> bytes:
        return subprocess.check_output([*command, *more], env=around)

    shown = await asyncio.to_thread(run)
    await asyncio.to_thread(run, "--output", str(output))
    assert shown == output.read_bytes()
    assert ("m²/s" if form == "csv" else r"m\u00b2/s") in shown.decode()


def _ended(arguments: list[str]) -> int | str | None:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse's own
        return end.code
