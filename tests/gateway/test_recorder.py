"""The recorder on real stores: each record once, samples to their tags, disks that come back."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytest_asyncio
from aiosqlite import Connection

from fastpath import blob
from fastpath.codes import BypassKind, EventType, RecordMode
from fastpath.image import TagImage
from fastpath.recording import Recording
from fastpath.records import Event
from gateway.alarms.alerts import EventWords
from gateway.alarms.programs import KnownPrograms
from gateway.errors import StoreError
from gateway.logic.computing import NO_COMPUTED_TAGS
from gateway.plant.computed import ComputedValues
from gateway.site.model import Config, Site
from gateway.store import recorder as recorder_module
from gateway.store.active import crc_of
from gateway.store.alert import AlertDraft, Source
from gateway.store.comparison import AGAIN
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from gateway.store.owned_file import OwnedFile
from gateway.store.recorder import Recorder
from gateway.store.reserve import Mark
from tests.gateway.guard_records import INTERLOCK, FakeGuard, number, program
from tests.gateway.samples import samples_of

SITE = Config(site=Site(id="shaft"))
TAGS = ("ch4.t1", "ch4.t2", "slow", "spare")
GROUPS = (PollGroup("plc/50ms", TAGS[:2], (0, 1)), PollGroup("slow/1s", TAGS[2:], (2, 3)))


class Alarm:
    """Limits with one alarm per tag at 10; what the recorder needs of them."""

    def __init__(self) -> None:
        self.fed = b""
        self.raised: set[int] = set()
        self.restored: list[str] = []
        self.advanced = 0

    def restore(self, subjects: Sequence[str]) -> None:
        self.restored = [subject for subject in subjects if subject.startswith("alarm:")]
        self.raised |= {int(subject.split(":")[1]) for subject in self.restored}

    def orphans(self) -> list[AlertDraft]:
        return []

    def feed(self, samples: bytes) -> list[AlertDraft]:
        self.fed += samples
        drafts = []
        for at in range(0, len(samples), 32):
            slot = int.from_bytes(samples[at : at + 4], "little")
            over = memoryview(samples[at + 8 : at + 16]).cast("d")[0] >= 10.0
            if over != (slot in self.raised):
                self.raised ^= {slot}
                drafts.append(
                    AlertDraft(
                        kind="alarm" if over else "alarm_end",
                        state="raised" if over else "cleared",
                        source=Source("alarm", str(slot)),
                        subject=f"alarm:{slot}",
                        cause=f"tag {slot}",
                    )
                )
        return drafts

    def advance(self, mono_ns: int, utc_ns: int) -> list[AlertDraft]:
        self.advanced += 1
        return []


class Bench:
    """A recorder with everything around it."""

    def __init__(self, directory: Path, guard: FakeGuard | None) -> None:
        self.directory = directory
        self.guard = guard
        self.image = TagImage(len(TAGS))
        self.limits = Alarm()
        self.rules = [(int(RecordMode.ALL), 0.0, 0)] * len(TAGS)
        self.observed: list[int] = []
        self.stored = asyncio.Event()
        self.programs = KnownPrograms(
            directory, directory / "last-good", {tag: i for i, tag in enumerate(TAGS)}
        )
        if guard:
            self.programs.add(guard.data)
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.ledger = await Ledger.open(self.directory / "ledger.db", "shaft", reserve_bytes=0)
        self.history = await History.open(
            self.directory / "history.db", groups=GROUPS, uplinks=("up",), reserve_bytes=0
        )
        self.recorder = Recorder(
            lambda: self.guard,  # type: ignore[arg-type, return-value]
            self.ledger,
            self.history,
            image=self.image,
            limits=self.limits,
            computed=ComputedValues(NO_COMPUTED_TAGS, SITE, None, None),  # type: ignore[arg-type]
            recording=Recording(self.rules),
            words=EventWords(SITE, self.programs),
            programs=self.programs,
            ack=self.ack,
            on_stored=self.stored.set,
            observers=[lambda event: self.observed.append(event.seq)],
        )
        self.task = asyncio.create_task(self.recorder.run())

    def ack(self, journal_id: int, tail: int) -> None:
        assert self.guard is not None
        self.guard.ack(journal_id, tail)

    async def stop(self) -> None:
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None
        await self.history.close()
        await self.ledger.close()

    async def kill(self) -> None:
        """End without the last commits, as kill -9 does."""
        assert self.task is not None

        async def nothing() -> None:
            return

        self.recorder._finish = nothing  # type: ignore[method-assign]
        await self.stop()

    async def until(self, condition: Callable[[], Any]) -> None:
        self.recorder.nudge()
        async with asyncio.timeout(5.0):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def alerts(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(item.body) for item in await self.ledger.alerts(1, 100_000)]
        return [alert for alert in found if kind in {None, alert["kind"]}]

    def drained(self) -> bool:
        assert self.guard is not None
        return self.guard.tail == len(self.guard.events_written) + 1


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "COMMIT_S", 0.05)
    monkeypatch.setattr(recorder_module, "KEEP_S", 0.05)
    monkeypatch.setattr(recorder_module, "RETRY_S_MAX", 0.05)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, FakeGuard(program()))
    await made.start()
    yield made
    await made.stop()


async def again(bench: Bench) -> Bench:
    """Another life of the gateway over the same files and the same guard."""
    made = Bench(bench.directory, bench.guard)
    await made.start()
    return made


def guard_of(bench: Bench) -> FakeGuard:
    assert bench.guard is not None
    return bench.guard


async def test_each_trip_is_one_alert_and_is_acknowledged_after(bench: Bench) -> None:
    guard = guard_of(bench)
    for _ in range(5):
        guard.trip()
        guard.write(EventType.READY)
        guard.write(EventType.RESET, key=guard.events_written[0].key)
    await bench.until(bench.drained)
    trips, ends = await bench.alerts("trip"), await bench.alerts("trip_end")
    assert len(trips) == len(ends) == 5
    assert [end["ref"] for end in ends] == [trip["id"] for trip in trips]
    assert bench.observed == list(range(1, 16))
    assert await bench.ledger.journal_position(guard.journal_id) == 16
    assert bench.stored.is_set()
    assert bench.recorder.stats().events == 15


async def test_records_that_are_no_alert_move_the_position_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.event_drain.QUIET_NS", 1)
    guard_of(bench).write(EventType.PENDING)
    await bench.until(bench.drained)
    assert await bench.alerts() == []


async def test_a_gateway_that_is_killed_records_nothing_twice(bench: Bench) -> None:
    guard = guard_of(bench)
    guard.trip()
    await bench.until(bench.drained)
    guard.tail = 1  # the acknowledgement was lost
    guard.trip()
    await bench.kill()
    guard.trip()
    second = await again(bench)
    try:
        await second.until(second.drained)
        assert len(await second.alerts("trip")) == 3
    finally:
        await second.stop()


async def test_a_ledger_that_takes_nothing_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guard_of(bench)
    guard.trip()
    await bench.until(bench.drained)
    append = bench.ledger.append
    refused = 0

    async def refuse(*args: Any, **options: Any) -> list[int]:
        nonlocal refused
        refused += 1
        if refused % 2:  # committed, but the answer says no: as a failed fsync may
            await append(*args, **options)
        msg = "no"
        raise StoreError(msg)

    monkeypatch.setattr(bench.ledger, "append", refuse)
    for _ in range(4):
        guard.trip()
        bench.recorder.take(samples_of([(2, 11.0, 5)]), b"")
        before = refused
        await bench.until(lambda: refused > before)  # noqa: B023
    monkeypatch.setattr(bench.ledger, "append", append)
    await bench.until(bench.drained)
    await bench.until(lambda: not bench.recorder.stats().alarms_waiting)
    assert len(await bench.alerts("trip")) == 5
    assert len(await bench.alerts("alarm")) == 1
    assert bench.observed == sorted(set(bench.observed))
    assert bench.recorder.stats().store_failures > 0


async def test_alarms_whose_storing_is_cancelled_are_stored_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the middle of an append: the append goes on, and the stop stores the rest."""
    append, begun, go_on = bench.ledger.append, asyncio.Event(), asyncio.Event()

    async def slow(drafts: Sequence[AlertDraft], **options: Any) -> list[int]:
        whole = asyncio.create_task(append(drafts, **options))
        if not any(draft.kind == "gap" for draft in drafts):
            return await whole
        begun.set()
        await go_on.wait()
        return await asyncio.shield(whole)

    monkeypatch.setattr(bench.ledger, "append", slow)
    bench.recorder.take(samples_of([(2, 11.0, 5)]), b"")
    bench.recorder._tell_gap("this one is told whenever it is")
    await begun.wait()
    assert bench.task is not None
    bench.task.cancel()
    bench.recorder._tell_gap("and this one after it")
    asyncio.get_running_loop().call_later(0.1, go_on.set)
    with contextlib.suppress(asyncio.CancelledError):
        await bench.task
    causes = [alert["cause"] for alert in await bench.alerts("gap")]
    assert causes == ["this one is told whenever it is", "and this one after it"]
    assert len(await bench.alerts("alarm")) == 1
    assert bench.recorder.stats().alarms_waiting == 0


async def test_records_whose_storing_is_cancelled_are_observed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the middle of an append: each line of the log, and each count, is there once."""
    append, begun, go_on = bench.ledger.append, asyncio.Event(), asyncio.Event()

    async def slow(drafts: Sequence[AlertDraft], **options: Any) -> list[int]:
        whole = asyncio.create_task(append(drafts, **options))
        if drafts:
            begun.set()
            await go_on.wait()
        return await asyncio.shield(whole)

    guard = guard_of(bench)
    await bench.until(lambda: bench.limits.advanced)
    monkeypatch.setattr(bench.ledger, "append", slow)
    guard.write(EventType.PENDING)
    guard.trip()
    bench.recorder.nudge()
    await begun.wait()
    assert bench.task is not None
    bench.task.cancel()
    guard.trip()
    asyncio.get_running_loop().call_later(0.1, go_on.set)
    with contextlib.suppress(asyncio.CancelledError):
        await bench.task
    assert bench.observed == [1, 2, 3]
    assert bench.recorder.stats().events == 3
    assert len(await bench.alerts("trip")) == 2


async def test_a_new_journal_begins_at_its_tail_with_a_gap_record(bench: Bench) -> None:
    guard = guard_of(bench)
    guard.trip()
    await bench.until(bench.drained)
    assert await bench.alerts("gap") == []
    other = FakeGuard(guard.data, journal_id=77)
    other.trip()
    other.trip()
    other.tail = 2
    bench.guard = other
    await bench.until(bench.drained)
    (gap,) = await bench.alerts("gap")
    assert "new journal" in gap["cause"]
    assert len(await bench.alerts("trip")) == 2


def damage(bench: Bench, sql: str) -> None:
    """As the ledger is taken for damaged: it is behind its mark."""
    with contextlib.closing(sqlite3.connect(bench.directory / "ledger.db")) as connection:
        connection.execute(sql)
        connection.commit()
    mark = Mark(bench.directory / "ledger.db.mark")
    mark.write(bench.ledger.epoch, 10_000)
    mark.close()


@pytest.mark.parametrize("known", ["by its record", "by its state"])
@pytest.mark.parametrize("lost", ["raise", "end"])
async def test_what_a_salvaged_ledger_lacks_of_what_stands_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lost: str, known: str
) -> None:
    monkeypatch.setattr("gateway.store.event_drain.QUIET_NS", 1)
    guard = guard_of(bench)
    key = guard.trip().key
    await bench.until(bench.drained)
    ((subject, *rest),) = bench.ledger._state.active.items()
    if lost == "end":
        guard.write(EventType.RESET, key=key)
        await bench.until(bench.drained)
    await bench.stop()
    if lost == "raise":
        damage(bench, "DELETE FROM active")
    else:
        (item,) = rest
        row = f"'{subject}', '{item.id}', x'{item.body.hex()}', {crc_of(item)}"
        damage(bench, f"INSERT INTO active VALUES ({row})")  # noqa: S608
    if known == "by its state":
        guard.first = len(guard.events_written) + 1
    for _ in range(2):
        later = await again(bench)
        try:
            guard.write(EventType.PENDING)
            await later.until(later.drained)
            assert not later.ledger.uncompared
            told = [each for each in await later.alerts() if AGAIN in each["cause"]]
            assert [each["kind"] for each in told] == ["trip" if lost == "raise" else "trip_end"]
            assert [each.subject for each in later.ledger.active()] == [subject] * (lost == "raise")
        finally:
            await later.stop()


@pytest.mark.parametrize("what", ["a record", "a state"])
async def test_what_makes_no_sense_stops_no_comparison_and_nothing_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("gateway.store.event_drain.QUIET_NS", 1)
    guard = guard_of(bench)
    guard.trip()
    guard.write(EventType.PENDING)
    await bench.until(bench.drained)
    await bench.stop()
    damage(bench, "DELETE FROM active")

    def poison(*_: object) -> NoReturn:
        message = "of another version"
        raise ValueError(message)

    def of_some(words: EventWords, event: Event) -> AlertDraft | None:
        return poison() if event.type == EventType.PENDING else draft_of(words, event)

    draft_of = EventWords.draft_of
    if what == "a record":
        monkeypatch.setattr(EventWords, "draft_of", of_some)
    else:
        monkeypatch.setattr(EventWords, "standing", poison)
    later = await again(bench)
    try:
        guard.trip()
        await later.until(later.drained)
        assert not later.ledger.uncompared
        told = [each["cause"] for each in await later.alerts()]
        assert any(AGAIN in cause for cause in told) is (what == "a record")
        assert any("cannot be compared" in cause for cause in told) is (what == "a state")
    finally:
        await later.stop()


async def test_a_comparison_that_finds_no_guard_is_made_once_there_is_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.event_drain.QUIET_NS", 1)
    guard = guard_of(bench)
    guard.trip()
    await bench.until(bench.drained)
    await bench.stop()
    damage(bench, "DELETE FROM active")
    later = Bench(bench.directory, guard)
    position = Ledger.journal_position
    asked = asyncio.Event()

    async def without_a_guard(ledger: Ledger, journal_id: int) -> int | None:
        later.guard = None
        asked.set()
        return await position(ledger, journal_id)

    monkeypatch.setattr(Ledger, "journal_position", without_a_guard)
    await later.start()
    try:
        await asked.wait()
        rounds = later.recorder.rounds
        await later.until(lambda: later.recorder.rounds > rounds + 1)
        assert later.ledger.uncompared
        later.guard = guard
        await later.until(lambda: not later.ledger.uncompared)
        assert [AGAIN in each["cause"] for each in await later.alerts("trip")][-1]
    finally:
        await later.stop()


async def test_records_that_a_ledger_has_lost_while_it_ran_come_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.event_drain.QUIET_NS", 1)
    guard = guard_of(bench)
    guard.trip()
    await bench.until(bench.drained)
    before = {path: path.read_bytes() for path in bench.directory.glob("ledger.db*")}
    guard.trip()
    await bench.until(bench.drained)
    epoch = bench.ledger.epoch
    await bench.ledger._db._file.close()  # as a disk that failed and was mended
    for path, content in before.items():
        path.write_bytes(content)
    bench.ledger._db._file.retry(0)
    guard.trip()
    await bench.until(lambda: bench.ledger.epoch > epoch)
    await bench.until(bench.drained)
    assert len(await bench.alerts("trip")) == 3


@pytest.mark.parametrize("clean", [0, 1])
async def test_bypasses_that_a_new_shared_file_does_not_know_are_over_once(
    bench: Bench, clean: int
) -> None:
    """After a loss of power all of them; a clean stop hands on those of interlocks."""
    guard = guard_of(bench)
    interlock, tag = blob.key_of("interlock", INTERLOCK), blob.key_of("tag", TAGS[0])
    guard.write(EventType.BYPASS, key=interlock, kind=BypassKind.INTERLOCK, left_ns=10**12)
    guard.write(EventType.BYPASS, key=tag, kind=BypassKind.TAG, left_ns=10**12)
    await bench.until(bench.drained)
    assert len(bench.ledger.active()) == 2
    bench.guard = guard = FakeGuard(program(), journal_id=9)
    guard.write(EventType.GUARD_START, starts=1, clean=clean)
    await bench.until(bench.drained)
    await bench.kill()
    guard.tail = 1  # the acknowledgement was lost
    second = await again(bench)
    try:
        guard.write(EventType.GUARD_START, starts=2)
        if clean:
            guard.write(EventType.BYPASS_END, key=interlock, kind=BypassKind.INTERLOCK, cause=1)
        await second.until(second.drained)
        assert second.ledger.active() == []
        told = await second.alerts("bypass")
    finally:
        await second.stop()
    begun = [alert["id"] for alert in told if alert["state"] == "raised"]
    ended = [alert["ref"] for alert in told if alert["state"] == "cleared"]
    assert sorted(ended) == sorted(begun)
    first = next(alert for alert in told if alert["state"] == "cleared")
    assert first["cause"] == "the bypass is over: ended by a start without the state before"


async def test_overwritten_records_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guard_of(bench)
    guard.trip()
    await bench.until(bench.drained)
    await bench.kill()
    for _ in range(5):
        guard.trip()
    del guard.events_written[1:4]
    guard.events_written = [event for event in guard.events_written if event.seq in {1, 5, 6}]
    head = guard.header()._replace(event_head=8)  # record 7 is damaged
    guard.header = lambda: head._replace(event_tail=guard.tail)  # type: ignore[method-assign]
    monkeypatch.setattr(guard, "ack", lambda _journal, tail: setattr(guard, "tail", tail))
    second = await again(bench)
    try:
        await second.until(lambda: guard.tail == 8)
        assert [gap["cause"] for gap in await second.alerts("gap")] == [
            "journal records 2 to 4 were overwritten or are damaged",
            "journal records 7 to 7 were overwritten or are damaged",
        ]
        assert len(await second.alerts("trip")) == 3
        assert second.recorder.stats().dropped["events_lost"] == 4
    finally:
        await second.stop()


async def test_a_record_that_makes_no_sense_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guard_of(bench)
    draft_of = EventWords.draft_of

    def words(self: EventWords, event: Event) -> AlertDraft | None:
        if event.seq == 2:
            raise KeyError(event.seq)
        return draft_of(self, event)

    with caplog.at_level(logging.CRITICAL):
        monkeypatch.setattr(EventWords, "draft_of", words)
        for _ in range(3):
            guard.trip()
        await bench.until(bench.drained)
    assert len(await bench.alerts("trip")) == 2
    (gap,) = await bench.alerts("gap")
    assert "record 2" in gap["cause"]


async def rows(bench: Bench) -> list[tuple[str, float, int]]:
    found = []
    for tag in TAGS:
        found += [(tag, v, t) for t, v, _ in await bench.history.read(tag, 0, 2**62)]
    return sorted(found, key=lambda item: (item[2], item[0]))


async def test_samples_go_to_image_alarms_and_history(bench: Bench) -> None:
    guard = guard_of(bench)
    guard.sample(0, 1.0, 10)
    guard.sample(1, 12.0, 10)
    guard.sample(2, 99.0, 10)  # fed by the gateway: it comes by take() alone
    bench.recorder.take(samples_of([(3, 4.0, 20)]), samples_of([(2, 5.0, 20)]))
    await bench.until(lambda: bench.history.stats().samples == 3)
    assert await rows(bench) == [
        ("ch4.t1", 1.0, 10_000_000),
        ("ch4.t2", 12.0, 10_000_000),
        ("slow", 5.0, 20_000_000),
    ]
    assert [bench.image.get(i)[0] for i in (0, 1, 3)] == [1.0, 12.0, 4.0]
    await bench.until(lambda: bench.ledger.head >= 2)
    (alarm,) = await bench.alerts("alarm")
    assert alarm["cause"] == "tag 1"
    await bench.until(lambda: bench.limits.advanced > 2)


async def test_a_killed_gateway_reads_the_ring_from_where_the_history_ends(bench: Bench) -> None:
    guard = guard_of(bench)
    for ms in range(10):
        guard.sample(0, float(ms), ms)
    await bench.until(lambda: bench.history.stats().samples == 10)
    await bench.kill()
    for ms in range(10, 20):
        guard.sample(0, float(ms), ms)
    second = await again(bench)
    try:
        await second.until(lambda: second.history.stats().samples == 20)
        assert [value for _, value, _ in await rows(second)] == [float(ms) for ms in range(20)]
    finally:
        await second.stop()


async def test_samples_of_the_guard_are_kept_by_exception(tmp_path: Path) -> None:
    guard = FakeGuard(program())
    bench = Bench(tmp_path, guard)
    bench.rules[0] = (int(RecordMode.CHANGE), 0.5, 10_000_000)
    await bench.start()
    try:
        for ms, value in ((0, 1.0), (1, 1.4), (2, 1.6), (3, 1.2), (11, 1.5), (12, 1.5), (13, 9.0)):
            guard.sample(0, value, ms)
            guard.sample(1, value, ms)
        await bench.until(lambda: bench.history.stats().samples == 7 + 4)
        series = await bench.history.read(TAGS[0], 0, 1 << 62)
        assert [value for _, value, _ in series] == [1.0, 1.6, 1.5, 9.0]
        assert bench.recorder.stats().samples == 14  # every one made its alarms
    finally:
        await bench.stop()


async def test_an_alarm_is_not_said_again_by_samples_that_are_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the alarm's commit and that of its samples."""
    guard = guard_of(bench)

    async def never(_position: object = None) -> int:
        return 0

    monkeypatch.setattr(bench.history, "commit", never)
    for ms, value in enumerate([1.0, 11.0, 1.0, 12.0]):
        guard.sample(0, value, ms)
    await bench.until(lambda: bench.ledger.head == 4)
    await bench.kill()
    guard.sample(0, 2.0, 9)
    second = await again(bench)
    try:
        await second.until(lambda: second.ledger.head >= 5)
        kinds = [alert["kind"] for alert in await second.alerts()]
        assert kinds == ["alarm", "alarm_end", "alarm", "alarm_end"]
        assert second.history.stats().samples == 0 or len(await rows(second)) == 5
    finally:
        await second.stop()


async def test_a_short_alarm_is_in_the_ledger_before_its_samples_are_in_the_history(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the history's commit: its samples are never read again."""
    await bench.stop()

    async def never(_recorder: Recorder) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_run_events", never)
        second = await again(bench)
        for ms, value in enumerate([1.0, 11.0, 1.0]):
            guard_of(bench).sample(0, value, ms)
        await second.until(lambda: second.history.stats().samples == 3)
        await second.kill()
    third = await again(bench)
    try:
        await third.until(lambda: third.limits.advanced)
        assert [alert["kind"] for alert in await third.alerts()] == ["alarm", "alarm_end"]
    finally:
        await third.stop()


async def test_values_that_stand_still_are_shown_to_the_alarms_at_the_start(bench: Bench) -> None:
    guard = guard_of(bench)
    guard.sample(0, 11.0, 5)
    await bench.until(lambda: bench.history.stats().samples == 1)
    await bench.kill()
    second = Bench(bench.directory, guard)
    await second.start()
    try:
        await second.until(lambda: second.limits.fed)
        assert second.image.get(0)[0] == 11.0
        assert second.history.stats().samples == 1
    finally:
        await second.stop()


async def test_samples_of_an_older_program_go_to_their_own_tags(bench: Bench) -> None:
    guard = guard_of(bench)
    old, new = guard.data, program(("spare", "ch4.t1"))
    bench.programs.add(new)
    guard.sample(0, 1.0, 10)
    await bench.until(lambda: bench.history.stats().samples == 1)
    guard.sample(1, 2.0, 11)
    swap = guard.write(
        EventType.PROGRAM, old=blob.blob_hash(old)[:16], new=blob.blob_hash(new)[:16]
    )
    guard.events_written[-1] = swap._replace(mono_ns=12_000_000)
    guard.sample(0, 3.0, 13)
    guard.sample(1, 4.0, 13)
    guard.data = new
    await bench.until(lambda: bench.history.stats().samples == 4)
    assert await rows(bench) == [
        ("ch4.t1", 1.0, 10_000_000),
        ("ch4.t2", 2.0, 11_000_000),
        ("ch4.t1", 4.0, 13_000_000),
        ("spare", 3.0, 13_000_000),
    ]


async def test_lost_samples_are_counted_and_told(bench: Bench) -> None:
    guard = guard_of(bench)
    for ms in range(20):
        guard.sample(0, 1.0, ms)
    guard.samples_gone = 15
    await bench.until(lambda: bench.history.stats().samples == 5)
    await bench.until(lambda: bench.ledger.head >= 2)
    (gap,) = await bench.alerts("gap")
    assert gap["cause"].startswith("15 samples")
    assert bench.recorder.stats().dropped["samples_lost"] == 15


async def test_what_a_full_disk_costs_an_uplink_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made inside the transaction that finds none, and the disk stays full."""
    bench.recorder.take(b"", samples_of([(2, 1.0, 5)]))
    await bench.recorder.commit()
    whole, full = OwnedFile.transaction, sqlite3.OperationalError("disk full")
    full.sqlite_errorname = "SQLITE_FULL"

    async def no_room(file: OwnedFile, connection: Connection, body: Any) -> Any:
        if file.path.name == "history.db" and body != bench.history._state.make_room:
            raise full
        return await whole(file, connection, body)

    monkeypatch.setattr(OwnedFile, "transaction", no_room)
    with pytest.raises(StoreError):
        await bench.recorder.keep()
    monkeypatch.undo()
    await bench.until(lambda: not bench.recorder.stats().alarms_waiting)
    (gap,) = await bench.alerts("gap")
    assert "full: 1 messages of samples went unsent" in gap["cause"]
    assert bench.history.stats().shed_unsent == {("up", "backfill"): 1}
    await bench.recorder.keep()
    assert bench.history.take_shed() == 0


async def test_samples_of_a_program_that_is_nowhere_are_counted(tmp_path: Path) -> None:
    made = Bench(tmp_path, None)
    await made.start()
    try:
        await made.until(lambda: made.limits.advanced)  # no guard yet is no trouble
        made.guard = FakeGuard(program())
        made.guard.sample(0, 1.0, 1)
        await made.until(lambda: made.recorder.stats().dropped["unknown_program"] == 1)
    finally:
        await made.stop()


async def test_a_loop_that_is_cancelled_from_inside_ends_the_recorder_and_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given_up() -> None:
        monkeypatch.undo()
        raise asyncio.CancelledError

    monkeypatch.setattr(bench.recorder, "commit", given_up)
    task, bench.task = bench.task, None
    assert task
    done, _ = await asyncio.wait((task,), timeout=5)
    task.cancel()
    assert done, "it runs on, and commits nothing any more"
    error = task.exception()
    assert isinstance(error, ExceptionGroup)
    assert "recorder commits was cancelled from inside" in str(error.exceptions[0])


async def test_a_stop_stores_what_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "COMMIT_S", 60.0)
    second = await again_after(bench)
    guard = guard_of(bench)
    guard.sample(0, 1.0, 1)
    guard.trip()
    guard.write(EventType.PENDING)
    await second.stop()
    third = await again(bench)
    try:
        assert third.history.stats().samples == 1
        assert len(await third.alerts("trip")) == 1
        assert await third.ledger.journal_position(guard.journal_id) == 3
    finally:
        await third.stop()


async def again_after(bench: Bench) -> Bench:
    await bench.stop()
    second = await again(bench)
    await second.until(lambda: second.limits.advanced)
    return second


def test_tables_are_those_of_guard_tags(tmp_path: Path) -> None:
    programs = KnownPrograms(tmp_path, tmp_path / "none", {"ch4.t2": 7, "slow": 8})
    programs.add(program())
    assert programs.table(number(program())) == array("I", [0xFFFFFFFF, 7, 0xFFFFFFFF])
