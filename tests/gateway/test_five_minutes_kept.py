"""Five minutes read from outside: from what was kept where the raw samples have gone, once each."""

import asyncio
import csv
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.__main__ import main
from gateway.store import packing
from gateway.store.five_minutes import Summary, summaries, together
from gateway.store.history import History
from gateway.store.history_file import HistoryFile
from gateway.store.items import PollGroup
from gateway.store.tiers import SPAN_NS, Line
from gateway.view import history_query
from gateway.view.history_query import HistoryQuery
from tests.gateway.test_store_history import pack_everything
from tests.gateway.test_store_tiers import BAD, BEGIN_NS, GOOD, SECOND, Sample, opened, record

TAGS = "abc"
SECONDS = 3_000
ALWAYS = (0, 2**63 - 1)
Rows = dict[str, list[Summary]]


class Plant:
    """A history of windows that end within five minutes, the newest samples not packed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ns = BEGIN_NS + SECONDS * SECOND
        self.samples: dict[str, list[Sample]] = {tag: [] for tag in TAGS}
        self.history: History

    async def start(self, *, back_s: int = 0) -> None:
        """Fill it; for 100 s in the middle the clock is so much behind."""
        chance = random.Random(1)
        self.history = await opened(
            self.path, utc_ns=lambda: self.now_ns, max_age_ns=SECONDS * SECOND
        )
        for second in range(SECONDS):
            for place, own in enumerate(self.samples.values()):
                odd = chance.random()
                value = math.nan if odd < 0.01 else round(chance.gauss(20, 3), 2)
                at_ns = BEGIN_NS + second * SECOND + place
                if 1_500 <= second < 1_600:
                    at_ns -= back_s * SECOND + SECOND // 2 * bool(back_s)
                own.append((at_ns, value, BAD if odd > 0.9 else GOOD))
                self.history.add(record(place, own[-1]))
            if second % 50 == 0:
                await self.history.commit()
                await self.history.pack()
        await self.history.commit()
        assert 0 < self.history.stats().unpacked_samples < SECONDS

    async def age(self, seconds: int) -> None:
        """Raw samples of so many of the first seconds go, by whole windows."""
        self.now_ns = BEGIN_NS + (SECONDS + seconds) * SECOND
        await self.history.shed()

    def expected(self, tag: str) -> list[tuple[Any, ...]]:
        """(begin, n, min, mean, max, last) in plain Python."""
        found = []
        for begin in range(BEGIN_NS, BEGIN_NS + SECONDS * SECOND, SPAN_NS):
            values = [
                value
                for at_ns, value, quality in sorted(self.samples[tag])
                if begin <= at_ns < begin + SPAN_NS and quality & 3 and math.isfinite(value)
            ]
            mean = pytest.approx(math.fsum(values) / len(values), rel=1e-6)
            found.append((begin, len(values), min(values), mean, max(values), values[-1]))
        return found

    def bad(self, tag: str, begin: int) -> int:
        """Samples without a number of five minutes."""
        own = [s for s in self.samples[tag] if begin <= s[0] < begin + SPAN_NS]
        return sum(not quality & 3 or not math.isfinite(value) for _, value, quality in own)


@pytest_asyncio.fixture
async def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plant]:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 700)
    made = Plant(tmp_path / "history.db")
    await made.start()
    yield made
    await made.history.close()


def read(path: Path, span: tuple[int, int] = ALWAYS) -> Rows:
    found: Rows = {}
    with HistoryFile(path) as file:
        for groups in together(file.groups(), frozenset(TAGS)):
            for rows, _ in summaries(file, groups, frozenset(TAGS), *span):
                for row in rows:
                    found.setdefault(row.tag, []).append(row)
        assert not file.damaged
    return found


def numbers(rows: list[Summary]) -> list[tuple[Any, ...]]:
    return [(r.time_ns, r.n, r.lowest, r.mean, r.highest, r.last) for r in rows]


@pytest.mark.parametrize("gone_s", [0, 1, 700, 1_500, 2_990])
async def test_every_sample_counts_once_whether_its_raw_form_is_there(
    plant: Plant, gone_s: int
) -> None:
    await plant.age(gone_s)
    shed = plant.history.stats().shed_samples
    assert bool(shed) == (gone_s > 500)
    found = read(plant.path)
    for tag in TAGS:
        assert numbers(found[tag]) == plant.expected(tag)
    for row in found["a"]:
        assert row.bad in (None, plant.bad("a", row.time_ns))
    unknown = [row.bad is None for row in found["a"]]
    assert unknown == sorted(unknown, reverse=True)  # the older ones
    assert any(unknown) == bool(shed)
    some = read(plant.path, (BEGIN_NS + SPAN_NS + 1, BEGIN_NS + 3 * SPAN_NS))
    assert numbers(some["c"]) == plant.expected("c")[1:4]


async def test_what_goes_between_two_reads_is_read_as_what_stays(plant: Plant) -> None:
    await plant.age(700)
    rows: list[Summary] = []
    read_raw, kept = 0, 0
    with HistoryFile(plant.path) as file:
        group = next(group for group in file.groups() if "a" in group.tags)
        for part, count in summaries(file, [group], frozenset("a"), *ALWAYS):
            rows += part
            read_raw += bool(count)
            kept += not (part or count)
            if read_raw == 1:
                assert kept
                kept = 0
                await pack_everything(plant.history)  # and what it has not come to yet
                await plant.age(2_000)
                read_raw += 1
    assert kept, "lines of what went"
    assert numbers(rows) == plant.expected("a")


async def test_places_that_are_not_there_any_more(plant: Plant) -> None:
    with HistoryFile(plant.path) as file:
        group = next(group for group in file.groups() if "a" in group.tags)
        places = file.five_minutes_places(group, *ALWAYS)
        assert {place.table for place in places} == {"chunk", "tail"}
        await pack_everything(plant.history)
        await plant.age(2_990)
        for place in places:
            found = file.five_minutes_at(place, group, *ALWAYS)
            if place.table == "tail":
                assert found is None
            else:
                assert [(type(line), line.t_first) for line in found or ()] == [
                    (Line, place.t_first // SPAN_NS * SPAN_NS)
                ]


@pytest.mark.parametrize("gone_s", [0, 700, 1_300])
async def test_five_minutes_that_a_clock_went_through_twice_are_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone_s: int
) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 150)
    plant = Plant(tmp_path / "history.db")
    await plant.start(back_s=1_000)
    try:
        await plant.age(gone_s)
        found = read(plant.path)
        for tag in TAGS:
            assert numbers(found[tag]) == plant.expected(tag)
        some = read(plant.path, (BEGIN_NS + SPAN_NS + 1, BEGIN_NS + 3 * SPAN_NS))
        assert numbers(some["c"]) == plant.expected("c")[1:4]
    finally:
        await plant.history.close()


async def test_five_minutes_within_which_a_group_was_changed_are_one_row(plant: Plant) -> None:
    """A device that is given one more tag is another group from then on."""
    await plant.history.close()
    tags = ("a", "b", "d")
    plant.history = await History.open(
        plant.path, groups=[PollGroup("plc/1", tags, (0, 1, 3))], utc_ns=lambda: plant.now_ns
    )
    for place, tag in enumerate("ab"):  # in the last five minutes that are there
        sample = (BEGIN_NS + SECONDS * SECOND - SECOND // 2, 20.5, GOOD)
        plant.samples[tag].append(sample)
        plant.history.add(record(place, sample))
    plant.history.add(record(3, (BEGIN_NS + SECONDS * SECOND, 1.0, GOOD)))
    await plant.history.commit()
    found = read(plant.path)
    for tag in TAGS:
        assert numbers(found[tag]) == plant.expected(tag)
    with HistoryFile(plant.path) as file:
        groups = file.groups()
    assert [len(own) for own in together(groups, frozenset("abcd"))] == [1, 2]
    assert [len(own) for own in together(groups, frozenset("d"))] == [1]


async def test_a_page_has_also_what_a_clock_that_was_set_back_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 150)
    monkeypatch.setattr(history_query, "WITHIN_S", 0.0)
    plant = Plant(tmp_path / "history.db")
    await plant.start(back_s=1_000)
    try:
        for gone_s in (0, 700):
            await plant.age(gone_s)
            rows = await paged(plant, "b")
            assert [row["n"] for row in rows] == [row[1] for row in plant.expected("b")]
            assert [row["last"] for row in rows] == [row[-1] for row in plant.expected("b")]
    finally:
        await plant.history.close()


async def paged(plant: Plant, tag: str) -> list[dict[str, Any]]:
    """The five minutes of all pages."""
    words = {"tag": tag, "from": "1970-01-01", "to": "9999-01-01", "limit": "3"}
    rows: list[dict[str, Any]] = []
    for _ in range(30):
        answer = await HistoryQuery(plant.path).answer(words | {"resolution": "5m"})
        assert len(answer["five_minutes"]) <= 3
        rows += answer["five_minutes"]
        if answer["complete"]:
            return rows
        words["from"] = answer["next"]
    pytest.fail("it does not end")


@pytest.mark.parametrize("within_s", [0.0, 60.0])
@pytest.mark.parametrize("gone_s", [0, 1_500])
async def test_an_answer_is_bounded_and_goes_on(
    plant: Plant, gone_s: int, within_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant.age(gone_s)
    monkeypatch.setattr(history_query, "WITHIN_S", within_s)
    rows = await paged(plant, "b")
    names = ("n", "min", "mean", "max", "last")
    expected = plant.expected("b")
    assert [tuple(row[name] for name in names) for row in rows] == [row[1:] for row in expected]
    assert rows[0]["bad"] == (None if gone_s else plant.bad("b", BEGIN_NS))
    assert rows[1]["time"] == "2025-06-15T15:15:00.000000000Z"


async def test_the_command_gives_what_stays(plant: Plant, tmp_path: Path) -> None:
    await plant.age(2_990)
    output = tmp_path / "out.csv"
    words = ["export", "c", "--resolution", "5m", "--output", str(output)]
    words += ["--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    assert await asyncio.to_thread(main, words) == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [(int(row["n"]), float(row["max"])) for row in rows] == [
        (n, highest) for _, n, _, _, highest, _ in plant.expected("c")
    ]
    assert rows[0]["bad"] == ""
