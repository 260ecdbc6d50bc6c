"""A full disk: the ledger lives on its reserve, the history sheds its oldest, both heal.

On a small tmpfs of its own; where mounting is refused the tests are skipped, visibly.
"""

import asyncio
import errno
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store import database, owned_file
from gateway.store.alert import AlertDraft, LegNote, OutputNote, Source
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import RESERVE_BYTES, Ledger
from gateway.store.reserve import Reserve
from gateway.store.room import PINCH_BYTES
from tests.gateway.samples import samples_of
from tests.helpers.audits import audit_entries
from tests.helpers.small_disk import small_disk

MIB = 1024 * 1024
DISK_MIB = 80
SECONDS = 900
HEAL_S = 10.0  # within which a disk that takes writes again must be in use
TAGS = tuple(f"tag{i}" for i in range(20))
GROUP = PollGroup("plc/1s", TAGS, tuple(range(20)))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "HOUSEKEEPING_S", 0.2)
    monkeypatch.setattr(owned_file, "REOPEN_NS", 200_000_000)


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1024 * getattr(request, "param", DISK_MIB)) as mounted:
        yield mounted


class Filler:
    """Takes every free byte of a disk, and gives it back."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017

    def keep(self, size_bytes: int) -> None:
        os.truncate(self._path, size_bytes)

    def free(self) -> None:
        self._path.unlink()


def drafts(count: int, text_bytes: int = 320) -> list[AlertDraft]:
    text = "a condition as long as those of a real site are, with its legs and values; " * 20
    source = Source("interlock", "face-power-cut")
    return [
        AlertDraft(kind="trip", state="event", source=source, cause=text[:text_bytes])
        for _ in range(count)
    ]


def real(number: int) -> AlertDraft:
    """A trip as a site with several legs tells it: 1.2 to 2 KB, evenly."""
    legs = tuple(LegNote(f"ch4-{i}.value > 1.5 %CH4 for 2 s", "true", 1.5 + i) for i in range(4))
    outputs = tuple(OutputNote(f"breaker-{i}", "TRIPPED", 9_000_000) for i in range(4))
    guidance = "Leave the face by the intake side, report to the control room, wait. " * 20
    return AlertDraft(
        kind="trip",
        state="raised",
        source=Source("interlock", "face-power-cut"),
        subject=f"interlock:{number % 50}",
        repeat=True,
        cause="two of three methane transmitters of the face are above their limit",
        legs=legs,
        outputs=outputs,
        guidance=guidance[: 180 + number * 37 % 830],
        value=1.52,
        limit=1.5,
        unit="%CH4",
        level="red",
        reaction_ns=412_000,
        program="ab" * 32,
    )


async def open_ledger(disk: Path, reserve_bytes: int, **options: Any) -> Ledger:
    path = disk / "ledger.db"
    return await Ledger.open(
        path, "shaft", uplinks=("platform",), reserve_bytes=reserve_bytes, **options
    )


async def until(condition: Any, within_s: float = HEAL_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def whole(ledger: Ledger) -> list[int]:
    return [json.loads(item.body)["seq"] for item in await ledger.alerts(0, 1_000_000)]


async def test_the_ledger_lives_on_its_reserve(disk: Path) -> None:
    reserve_bytes = 32 * MIB
    ledger = await open_ledger(disk, reserve_bytes)
    filler = Filler(disk)
    try:
        await until(lambda: ledger.stats().reserve_bytes == reserve_bytes)
        filler.fill()
        stored = 0
        with pytest.raises(StoreError):  # noqa: PT012
            while True:
                await ledger.append(drafts(100))
                stored += 100
        share = (reserve_bytes - PINCH_BYTES) / (RESERVE_BYTES - PINCH_BYTES)
        assert stored >= 100_000 * share
        assert not ledger.ok
        assert ledger.head == stored + 1
        assert await whole(ledger) == list(range(1, stored + 2))
        with pytest.raises(StoreError):  # noqa: PT012
            for _ in range(1_000):  # what is small may still find a place
                await ledger.command("uid 0", "reset", "face", {"reason": "x" * 2_000})

        filler.free()
        await until(lambda: ledger.ok)  # nobody asks it anything meanwhile
        assert await ledger.append(drafts(2)) == [stored + 2, stored + 3]
        await until(lambda: ledger.stats().reserve_bytes == reserve_bytes)
        assert audit_entries(ledger) > 0
    finally:
        await ledger.close()


async def test_a_quota_that_is_used_up_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = Reserve(tmp_path / "x.reserve", MIB)
    assert reserve.fill()
    assert not reserve.short()
    assert reserve.held_bytes == (tmp_path / "x.reserve").stat().st_size == MIB

    def refuse(*_: int) -> None:
        raise OSError(errno.EDQUOT, "over quota")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert reserve.short()
    assert reserve.give(MIB)
    assert (tmp_path / "x.reserve").stat().st_size == 0


async def test_the_ledger_grows_again_before_its_whole_reserve_is_back(disk: Path) -> None:
    reserve_bytes = 40 * MIB
    ledger = await open_ledger(disk, reserve_bytes)
    filler = Filler(disk)
    try:
        await until(lambda: ledger.stats().reserve_bytes == reserve_bytes)
        filler.fill()
        with pytest.raises(StoreError):  # noqa: PT012
            while True:
                await ledger.append(drafts(500))
        filler.keep(20 * MIB)
        await until(lambda: ledger.ok and ledger.stats().reserve_bytes >= PINCH_BYTES)
        head = ledger.head
        await ledger.append(drafts(3_000))
        assert ledger.head == head + 3_000
        assert ledger.stats().reserve_bytes < reserve_bytes
    finally:
        await ledger.close()


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("disk", [512], indirect=True)
async def test_the_whole_reserve_takes_100_000_alerts(disk: Path) -> None:
    ledger = await open_ledger(disk, RESERVE_BYTES)
    try:
        await until(lambda: ledger.stats().reserve_bytes == RESERVE_BYTES)
        Filler(disk).fill()
        for first in range(0, 100_000, 100):
            await ledger.append([real(number) for number in range(first, first + 100)])
        sizes = [len(item.body) for item in await ledger.alerts(1, 1_000)]
        assert min(sizes) > 1_150
        assert max(sizes) > 1_950
        assert ledger.head == 100_001
        held_mib = ledger.stats().reserve_bytes / MIB
        print(f"{sum(sizes) / len(sizes):.0f} bytes each; {held_mib:.0f} MiB of reserve are left")
    finally:
        await ledger.close()


async def test_fill_and_free_again_and_again(disk: Path) -> None:
    ledger = await open_ledger(disk, 2 * MIB)
    filler = Filler(disk)
    try:
        position, refused = 0, 0
        for _ in range(6):
            filler.fill()
            try:
                for _ in range(30):
                    await ledger.append(drafts(100), journal=(7, position + 100))
                    position += 100
            except StoreError:
                refused += 1
                assert await ledger.journal_position(7) == (position or None)
            filler.free()
            await until(lambda: ledger.ok)
            await ledger.append(drafts(1))
        assert refused
        assert position + 6 + 1 == ledger.head
        assert await whole(ledger) == list(range(1, ledger.head + 1))
        assert audit_entries(ledger) == 1
    finally:
        await ledger.close()


async def test_a_ledger_that_cannot_be_begun_begins_later(disk: Path) -> None:
    filler = Filler(disk)
    filler.fill()
    ledger = await open_ledger(disk, MIB)
    try:
        assert not ledger.ok
        assert (ledger.epoch, ledger.head) == (0, 0)
        with pytest.raises(StoreError):
            await ledger.append(drafts(1))
        filler.free()
        await until(lambda: ledger.ok)
        assert await ledger.append(drafts(1)) == [2]
        assert ledger.epoch > 0
    finally:
        await ledger.close()


async def test_an_existing_ledger_opens_on_a_full_disk(disk: Path) -> None:
    ledger = await open_ledger(disk, 2 * MIB)
    await ledger.append(drafts(10))
    epoch = ledger.epoch
    await ledger.close()
    Filler(disk).fill()
    ledger = await open_ledger(disk, 2 * MIB)
    try:
        assert (ledger.epoch, ledger.head) == (epoch, 11)
        assert await ledger.append(drafts(1)) == [12]
    finally:
        await ledger.close()


async def open_history(disk: Path, **options: Any) -> History:
    return await History.open(disk / "history.db", groups=[GROUP], uplinks=("platform",), **options)


async def take_second(history: History, second: int, per_s: int = 200) -> None:
    noise = random.Random(second)  # which no codec makes small
    points = [
        (tag, noise.random(), second * 1000 + k * 1000 // per_s)
        for k in range(per_s)
        for tag in range(len(TAGS))
    ]
    history.add(samples_of(points))
    await history.commit((9, (second + 1) * per_s * len(TAGS)))


async def test_the_history_sheds_its_oldest_on_a_full_disk(disk: Path) -> None:
    history = await open_history(disk)
    try:
        for second in range(100):
            await take_second(history, second)
        await history.pack()
        Filler(disk).fill()
        for second in range(100, SECONDS):
            await take_second(history, second)
        stats = history.stats()
        assert stats.samples == SECONDS * 4_000
        assert 0 < stats.shed_samples < stats.samples
        head = history.lane_head("platform", "backfill")
        items = await history.items("platform", "backfill", 0, 10_000)
        assert [item.seq for item in items] == list(range(head - len(items) + 1, head + 1))
        assert stats.shed_unsent == {("platform", "backfill"): head - len(items)}
        kept = stats.samples - stats.shed_samples
        sent = sum(len(item.tags) * len(item.dt_ns) for item in items)
        assert sent + stats.unpacked_samples == kept
        series = await history.read(TAGS[0], 0, 2**62)
        assert len(series) == kept // len(TAGS)
        assert series[-1][0] // 10**9 == SECONDS - 1
    finally:
        await history.close()


async def test_rows_wait_for_a_disk_that_takes_none(disk: Path) -> None:
    filler = Filler(disk)
    filler.fill()
    history = await open_history(disk, reserve_bytes=0)
    try:
        for second in range(5):
            with pytest.raises(StoreError):
                await take_second(history, second)
        assert history.stats().waiting_pieces >= 5
        filler.free()
        await until(lambda: history.ok)
        await take_second(history, 5)
        stats = history.stats()
        assert (stats.samples, stats.waiting_pieces) == (24_000, 0)
        assert await history.sample_position(9) == 24_000
    finally:
        await history.close()


async def test_a_history_within_its_bounds_sheds_by_size(disk: Path) -> None:
    history = await open_history(disk, max_bytes=8 * MIB, reserve_bytes=0)
    try:
        for second in range(400):
            await take_second(history, second)
            if second % 50 == 0:
                await history.pack()
                await history.shed()
        await history.shed()
        stats = history.stats()
        assert stats.bytes <= 8 * MIB
        assert stats.shed_samples > 0
        assert stats.dropped["store"] == 0
        gone = stats.shed_unsent["platform", "backfill"]
        await history.move_cursor("platform", "backfill", gone)  # the gap is told
        await history.pack()
        items = await history.items("platform", "backfill", gone, 1)
        assert items[0].seq == gone + 1
    finally:
        await history.close()


@pytest.mark.parametrize("fails", ["fsync", "statvfs"])
async def test_a_disk_that_refuses_what_is_beside_sqlite_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Opening syncs the directory; a failure of the disk asks how full it is."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    async def broken(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_WRITE"
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, refuse)
        if fails == "statvfs":
            patch.setattr(owned_file.OwnedFile, "transaction", broken)
        history = await open_history(tmp_path, reserve_bytes=0)
        try:
            tried = history._db._file._retry_at_ns
            await until(lambda: history._db._file._retry_at_ns > tried)  # by the housekeeping
            assert not history.ok
            with pytest.raises(StoreError, match=r"history\.db"):
                await take_second(history, 0, 10)
        except BaseException:
            await history.close()
            raise
    try:
        await until(lambda: history.ok)
        await take_second(history, 1, 10)
        assert history.stats().samples == 2 * 10 * len(TAGS)
    finally:
        await history.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
async def test_a_wal_that_cannot_be_written_anew_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(owned_file, "renew_wal", refuse)
        ledger = await open_ledger(tmp_path, 0)
        try:
            assert ledger.stats().trouble == f"ledger.db-wal: {os.strerror(number)}"
            with pytest.raises(StoreError, match=os.strerror(number)):
                await ledger.append(drafts(1))
        except BaseException:
            await ledger.close()
            raise
    try:
        await until(lambda: ledger.ok)
        assert not ledger.stats().trouble
    finally:
        await ledger.close()


async def test_the_reserve_makes_room_for_writing_a_wal_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy-on-write disk that is full has none even for what is there already."""
    ledger = await open_ledger(tmp_path, 8 * MIB)
    await until(lambda: ledger.stats().reserve_bytes == 8 * MIB)
    await ledger.close()
    reserve = tmp_path / "ledger.db.reserve"

    def refuse(_: Path) -> None:
        if reserve.stat().st_size == 8 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owned_file, "renew_wal", refuse)
    ledger = await open_ledger(tmp_path, 8 * MIB)
    try:
        assert ledger.ok
        assert await ledger.append(drafts(1)) == [2]
    finally:
        await ledger.close()
