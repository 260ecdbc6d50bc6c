"""A damaged history: a new one begins with what can be read, and says what is lost."""

import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fastpath.columns import ABSENT
from gateway.store import packing, tier_salvage
from gateway.store.five_minutes import summaries, together
from gateway.store.history import History
from gateway.store.history_file import HistoryFile
from gateway.store.items import PollGroup, SampleItem
from gateway.store.reserve import Mark
from gateway.store.tiers import Bucket
from tests.gateway.samples import samples_of
from tests.gateway.test_store_tiers import same

GROUPS = (PollGroup("plc/1s", ("a", "b"), (0, 1)), PollGroup("slow/1s", ("c",), (2,)))
TAGS = ("a", "b", "c")
UPLINKS = ("up", "other", "down")
LANES = ("live", "backfill")
SECONDS = 120
JOURNAL = 2**64 - 9
DAMAGES = 30
START_S_MAX = 10.0

Sample = tuple[str, int, float]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 40)


async def opened(directory: Path, **options: Any) -> History:
    return await History.open(
        directory / "history.db",
        groups=GROUPS,
        uplinks=UPLINKS,
        reserve_bytes=0,
        **({"utc_ns": lambda: 1_000 * 10**9} | options),
    )


async def fill(directory: Path) -> set[Sample]:
    """A history that was in use, as kill -9 leaves it; the samples in it."""
    live = directory / "live"
    live.mkdir()
    history = await opened(live)
    committed = set()
    for at in range(SECONDS):
        if at in {20, 70, 100}:
            history.set_lane("up", "backfill" if at == 70 else "live")
        if at == 50:
            history.set_lane("other", "live")
        points = [(tag, at + tag / 4, at * 1000 + tag) for tag in range(3)]
        history.add(samples_of(points))
        await history.commit((JOURNAL, at + 1))
        committed |= {(TAGS[tag], ms, value) for tag, value, ms in points}
        if at % 10 == 9 and at < 110:
            await history.pack()
    for uplink, lane, share in (("up", "live", 3), ("up", "backfill", 2), ("other", "live", 2)):
        seq = history.lane_head(uplink, lane) // share
        await history.move_cursor(uplink, lane, seq)
    for part in live.glob("history.db*"):
        shutil.copy(part, directory / part.name)
    await history.close()
    shutil.rmtree(live)
    return committed


def behind(directory: Path) -> None:
    """Its mark says that commits are missing: it is set aside, and is whole."""
    mark = Mark(directory / "history.db.mark")
    epoch, _ = mark.read()
    mark.write(epoch, 100_000)
    mark.close()


async def owed(history: History) -> dict[tuple[str, str], set[Sample]]:
    """What each uplink gets from where it stands, packed and not."""
    found = {}
    for uplink in UPLINKS:
        for lane in LANES:
            cursor = await history.cursor(uplink, lane)
            items = await history.items(uplink, lane, cursor, 10_000)
            seqs = [item.seq for item in items]
            assert seqs == sorted(set(seqs))
            assert not seqs or seqs[-1] <= history.lane_head(uplink, lane)
            samples = [sample for item in items for sample in samples_in(item)]
            assert len(samples) == len(set(samples))
            found[uplink, lane] = set(samples)
    return found


def samples_in(item: SampleItem) -> list[Sample]:
    return [
        (tag, (item.t0_ns + dt) // 1_000_000, value)
        for tag, values, qualities in zip(item.tags, item.values, item.qualities, strict=True)
        for dt, value, quality in zip(item.dt_ns, values, qualities, strict=True)
        if quality != ABSENT
    ]


async def stored(history: History) -> set[Sample]:
    return {
        (tag, time_ns // 1_000_000, value)
        for tag in TAGS
        for time_ns, value, _ in await history.read(tag, 0, 2**62)
    }


async def pack_everything(history: History) -> None:
    hours = count(2**61, 2**45)
    before, history._state.monotonic_ns = history._state.monotonic_ns, hours.__next__
    for _ in range(1_000):
        if not await history.pack():
            break
    history._state.monotonic_ns = before


async def test_of_a_file_that_can_be_read_nothing_is_lost(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    committed = await fill(before)
    shutil.copytree(before, after)
    behind(after)
    history = await opened(before)
    epoch = history.epoch
    await pack_everything(history)
    wanted = await owed(history)
    await history.close()
    assert len(set.union(*wanted.values())) == len(committed)

    history = await opened(after)
    try:
        assert history.epoch > epoch
        assert f"{len(committed)} of {len(committed)} samples" in history.take_damage()
        assert not history.take_damage()
        assert await stored(history) == committed
        assert await owed(history) == wanted
        assert await history.sample_position(JOURNAL) == SECONDS
        for uplink in UPLINKS:  # numbers begin again, without a gap
            for lane in LANES:
                items = await history.items(uplink, lane, 0, 10_000)
                assert [item.seq for item in items] == list(range(1, len(items) + 1))
                assert history.lane_head(uplink, lane) == len(items)
        history.add(samples_of([(0, 1.0, 500_000)]))
        await history.commit((JOURNAL, SECONDS + 1))
        await pack_everything(history)
        assert ("a", 500_000, 1.0) in (await owed(history))["down", "backfill"]
    finally:
        await history.close()
    again = await opened(after)
    assert not again.take_damage()
    await again.close()


async def test_what_is_owed_to_whom_is_lost(tmp_path: Path) -> None:
    """Then all that was backfill is owed to all."""
    committed = await fill(tmp_path)
    connection = sqlite3.connect(tmp_path / "history.db")
    connection.execute("DROP TABLE cursor")
    connection.close()
    history = await opened(tmp_path)
    try:
        assert await stored(history) == committed
        found = await owed(history)
        assert found["down", "backfill"] == committed == found["up", "backfill"]
        assert found["down", "live"] == set()
    finally:
        await history.close()


async def test_a_chunk_that_is_not_what_its_checksum_says_is_left_out(tmp_path: Path) -> None:
    committed = await fill(tmp_path)
    connection = sqlite3.connect(tmp_path / "history.db")
    connection.execute("UPDATE chunk SET body = x'00' WHERE id = 3")
    connection.execute("UPDATE tail SET body = x'00' WHERE piece = (SELECT max(piece) FROM tail)")
    connection.commit()
    connection.close()
    behind(tmp_path)
    history = await opened(tmp_path)
    try:
        kept = await stored(history)
        assert 0 < len(committed) - len(kept) < 80
        assert f"{len(kept)} of {len(committed)} samples" in history.take_damage()
        assert await history.sample_position(JOURNAL) is None  # the ring may still have them
        assert (await owed(history))["down", "backfill"] == kept
    finally:
        await history.close()


async def five_minutes(history: History) -> dict[str, list[Bucket]]:
    return {tag: await history.buckets(tag, 0, 2**62) for tag in TAGS}


async def fill_hours(directory: Path) -> dict[str, list[Bucket]]:
    """A history of 80 windows of five minutes, half of which have no raw samples any more."""
    now_ns = 0
    history = await opened(directory, max_age_ns=1, utc_ns=lambda: now_ns)
    for at in range(-85 * 12, 0):
        now_ns = (100_000_000 + at * 25_000 + 10) * 1_000_000
        points = [(tag, at % 7 + tag / 4, 100_000_000 + at * 25_000 + tag) for tag in range(3)]
        if at % 3:  # some have not all of a group's tags
            del points[0]
        history.add(samples_of(points))
        if at % 4 == 3:
            await history.commit((JOURNAL, 2_000 + at))
        if at % 12 == 11 and at < -60:
            await pack_everything(history)
            if at < -40 * 12:
                await history.move_cursor("up", "backfill", history.lane_head("up", "backfill"))
                for uplink in UPLINKS[1:]:
                    await history.forget(uplink)
                await history.shed()
    assert history.stats().shed_samples > 400
    assert history.stats().unpacked_samples > 100, history.stats()
    found = await five_minutes(history)
    await history.close()
    return found


def told(path: Path) -> dict[str, list[tuple[int, int]]]:
    """What another process reads: (begin, samples)."""
    found: dict[str, list[tuple[int, int]]] = {}
    with HistoryFile(path / "history.db") as file:
        for groups in together(file.groups(), frozenset(TAGS)):
            for rows, _ in summaries(file, groups, frozenset(TAGS), 0, 2**62):
                for row in rows:
                    found.setdefault(row.tag, []).append((row.time_ns, row.n))
    return found


async def test_the_five_minute_values_follow_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some at a time, also over a restart; new ones come in between."""
    monkeypatch.setattr(tier_salvage, "STEP_BYTES", 1_000)
    monkeypatch.setattr(tier_salvage, "STEPS_PER_CALL", 1)
    wanted = await fill_hours(tmp_path)
    assert min(map(len, wanted.values())) >= 84
    behind(tmp_path)
    history = await opened(tmp_path)
    try:
        assert "samples were taken over" in history.take_damage()
        steps = 0
        while await history.take_over():
            steps += 1
            if steps == 2:
                history.add(samples_of([(0, -1.0, 200_000_000)]))
                await history.commit((JOURNAL, 3_000))
                await pack_everything(history)
                await history.close()
                history = await opened(tmp_path)
        assert steps > 3
        assert not history.take_damage(), "nothing was lost"
        found = await five_minutes(history)
        assert found["a"].pop().minimum == -1.0
        for tag in TAGS:
            same(found[tag], wanted[tag])
        other = told(tmp_path)
        assert other["a"].pop()[1] == 1
        assert other == {tag: [(b.t_ns, b.samples) for b in own] for tag, own in wanted.items()}
        assert not await history.take_over()
    finally:
        await history.close()


async def test_five_minute_values_outlive_a_second_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What of the first file was not taken over yet comes after that of the second."""
    monkeypatch.setattr(tier_salvage, "STEP_BYTES", 1_000)
    monkeypatch.setattr(tier_salvage, "STEPS_PER_CALL", 1)
    wanted = await fill_hours(tmp_path)
    for _ in range(2):
        behind(tmp_path)
        history = await opened(tmp_path)
        for _ in range(2):
            assert await history.take_over()
        await history.close()
    assert len(list(tmp_path.glob("*.damaged-*[0-9]"))) == 2
    history = await opened(tmp_path)
    try:
        while await history.take_over():
            pass
        assert not history.take_damage(), "nothing was lost"
        for tag, found in (await five_minutes(history)).items():
            same(found, wanted[tag])
    finally:
        await history.close()


FAILURES = [
    ("", "SQLITE_CANTOPEN"),
    ("summary", "SQLITE_IOERR_READ"),
    ("poll_group", "SQLITE_NOMEM"),
]


@contextmanager
def failing_reads(monkeypatch: pytest.MonkeyPatch, table: str, name: str) -> Iterator[None]:
    """Nothing can be read of a table of the file that was set aside; "": nor can it be opened."""

    def fail() -> NoReturn:
        error = sqlite3.OperationalError("it may pass")
        error.sqlite_errorname = name
        raise error

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            return fail() if table in sql else super().execute(sql, *rest)

    real = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        return real(*args, **options, factory=Failing) if table else fail()

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        yield


async def test_errors_that_pass_cost_no_five_minute_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await fill_hours(tmp_path)
    behind(tmp_path)
    history = await opened(tmp_path)
    try:
        history.take_damage()
        for failure in FAILURES:
            with failing_reads(monkeypatch, *failure):
                for _ in range(3):
                    assert await history.take_over()
        while await history.take_over():
            pass
        assert not history.take_damage(), "nothing was lost"
        for tag, found in (await five_minutes(history)).items():
            same(found, wanted[tag])
    finally:
        await history.close()


async def test_an_error_that_never_passes_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_salvage, "TRIES_MAX", 3)
    await fill_hours(tmp_path)
    behind(tmp_path)
    history = await opened(tmp_path)
    try:
        history.take_damage()
        with failing_reads(monkeypatch, *FAILURES[1]):
            assert [await history.take_over() for _ in range(4)] == [True] * 3 + [False]
        assert history.take_damage().startswith("0 of ")
    finally:
        await history.close()


async def test_of_damaged_five_minute_values_the_others_are_taken_over(tmp_path: Path) -> None:
    wanted = await fill_hours(tmp_path)
    path = tmp_path / "history.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sql = "SELECT pageno FROM dbstat WHERE name = 'summary' AND pagetype = 'leaf'"
    pages = [page for (page,) in connection.execute(sql)]
    connection.execute("UPDATE summary SET body = x'00' WHERE id = (SELECT max(id) FROM summary)")
    connection.commit()
    connection.close()
    assert len(pages) > 4
    with path.open("r+b") as file:
        file.seek((pages[len(pages) // 2] - 1) * 4096)
        file.write(bytes(4096))
    behind(tmp_path)
    history = await opened(tmp_path)
    try:
        history.take_damage()
        assert not await history.take_over()
        found = await five_minutes(history)
        assert 60 <= len(found["a"]) < len(wanted["a"])
        assert {b.t_ns for b in found["a"]} < {b.t_ns for b in wanted["a"]}
        assert found["a"][0] == wanted["a"][0]
        assert "five-minute values" in history.take_damage()
    finally:
        await history.close()


async def test_a_group_whose_tags_are_none_is_left_out(tmp_path: Path) -> None:
    committed = await fill(tmp_path)
    connection = sqlite3.connect(tmp_path / "history.db")
    connection.execute("UPDATE poll_group SET tags = '[' WHERE id = 1")
    connection.commit()
    connection.close()
    history = await opened(tmp_path)
    try:
        assert history.ok
        assert await stored(history) == {sample for sample in committed if sample[0] == "c"}
    finally:
        await history.close()


def hurt(directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = [directory / "history.db", directory / "history.db-wal"]
    path = rng.choice([part for part in parts if part.exists() and part.stat().st_size])
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "cut", "zero"])
    if kind == "flip":
        for _ in range(rng.choice([1, 8, 200])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    else:
        at = rng.randrange(len(data)) // 4096 * 4096
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    path.write_bytes(data)


async def test_random_damage(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    committed = await fill(original)
    taken_over = 0
    for seed in range(DAMAGES):
        directory = tmp_path / str(seed)
        shutil.copytree(original, directory)
        if seed % 2:
            connection = sqlite3.connect(directory / "history.db")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        hurt(directory, seed)
        started_s = time.monotonic()
        history = await opened(directory)
        try:
            kept = await stored(history)
            history.add(samples_of([(0, -1.0, 900_000)]))
            await history.commit((JOURNAL, 1_000))
            assert time.monotonic() - started_s < START_S_MAX
            assert kept <= committed
            while await history.take_over():
                pass
            for tag, found in (await five_minutes(history)).items():
                assert sum(bucket.samples for bucket in found) <= SECONDS + (tag == "a"), tag
            for samples in (await owed(history)).values():
                assert samples <= committed | {("a", 900_000, -1.0)}
            await pack_everything(history)
            assert await stored(history) == kept | {("a", 900_000, -1.0)}
            taken_over += bool(kept) and bool(list(directory.glob("*.damaged-*")))
        finally:
            await history.close()
        shutil.rmtree(directory)
    assert taken_over > DAMAGES // 10
