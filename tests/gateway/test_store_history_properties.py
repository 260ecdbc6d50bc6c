"""Every sample to every uplink once, whatever the order of commits, lanes, packing and kills.

A state machine on the real history. A crash copies the files while it is open: what kill -9 leaves.
The model knows which samples were committed, to whom in which lane, and what each message held.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fastpath.columns import ABSENT
from gateway.store import chunks, packing, shedding
from gateway.store.history import History
from gateway.store.items import PollGroup, SampleItem
from tests.gateway.samples import samples_of

_T = TypeVar("_T")
GROUPS = (PollGroup("plc/1s", ("a", "b"), (0, 1)), PollGroup("slow/1s", ("c",), (2,)))
TAGS = ("a", "b", "c")
UPLINKS = ("up", "other")
LANES = ("live", "backfill")


class Sample(NamedTuple):
    """One that was committed; its value is found once."""

    tag: str
    ms: int
    value: float


class HistoryMachine(RuleBasedStateMachine):
    """``owed`` is what each uplink and lane must get, ``held`` what each message held."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="history-"))
        self.directory = self.root / "0"
        self.directory.mkdir()
        self.ms = 0
        self.count = 0
        self.position = 0
        self.crashes = 0
        self.committed: set[Sample] = set()
        self.owed: dict[tuple[str, str], set[Sample]] = {
            (uplink, lane): set() for uplink in UPLINKS for lane in LANES
        }
        self.cursors: Counter[tuple[str, str]] = Counter()
        self.delivered: dict[tuple[str, str], set[Sample]] = {key: set() for key in self.owed}
        self.gaps: Counter[tuple[str, str]] = Counter()
        self.held: dict[tuple[str, str, int], frozenset[Sample]] = {}

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.history = self.run(self.open())
        self.epoch = self.history.epoch

    async def open(self) -> History:
        return await History.open(
            self.directory / "history.db",
            groups=GROUPS,
            uplinks=UPLINKS,
            reserve_bytes=0,
            utc_ns=lambda: 1_000 * 10**9,
        )

    # ---- what may happen

    @rule(commits=st.lists(st.sets(st.sampled_from(range(3)), max_size=3), min_size=1, max_size=6))
    def commit(self, commits: list[set[int]]) -> None:
        for tags in commits:
            self._commit(tags)

    @rule(back_ms=st.integers(1, 3_000))
    def clock_back(self, back_ms: int) -> None:
        self.ms = max(0, self.ms - back_ms)

    @rule(uplink=st.sampled_from(UPLINKS), lane=st.sampled_from(LANES))
    def link(self, uplink: str, lane: str) -> None:
        self.history.set_lane(uplink, lane)
        self._commit({0, 2})

    @rule(uplink=st.sampled_from(UPLINKS), lane=st.sampled_from(LANES), limit=st.integers(1, 9))
    def look(self, uplink: str, lane: str, limit: int) -> None:
        """Messages that are read and not acknowledged."""
        self._read(uplink, lane, self.cursors[uplink, lane], limit)

    @rule(uplink=st.sampled_from(UPLINKS), lane=st.sampled_from(LANES), limit=st.integers(1, 9))
    def deliver(self, uplink: str, lane: str, limit: int) -> None:
        self._deliver(uplink, lane, limit)

    @rule()
    def pack(self) -> None:
        self.run(self.history.pack())

    @rule()
    def pack_everything(self) -> None:
        self._pack_everything()

    @precondition(lambda self: self.committed)
    @rule()
    def shed(self) -> None:
        then = self.run(self.history._db.transact(self.history._state.make_room))
        if then:
            then()
        self.history._reader.forget()

    @rule()
    def restart(self) -> None:
        self.run(self.history.close())
        self.history = self.run(self.open())

    @precondition(lambda self: self.crashes < 8)
    @rule()
    def crash(self) -> None:
        """kill -9: what is in the files is all there is."""
        self.crashes += 1
        after = self.root / str(self.crashes)
        after.mkdir()
        for part in self.directory.glob("history.db*"):
            shutil.copy(part, after / part.name)
        self.run(self.history.close())
        self.directory = after
        self.history = self.run(self.open())

    @rule()
    def drain(self) -> None:
        self._pack_everything()
        for uplink in UPLINKS:
            for lane in LANES:
                self._deliver(uplink, lane, 1_000)
                self._check_drained(uplink, lane)

    # ---- what must be so

    @invariant()
    def numbers_stand(self) -> None:
        if not hasattr(self, "history"):
            return
        assert self.history.epoch == self.epoch
        assert self.run(self.history.sample_position(7)) == (self.position or None)
        stats = self.history.stats()
        assert stats.samples == len(self.committed)
        for uplink, lane in self.owed:
            cursor = self.run(self.history.cursor(uplink, lane))
            assert cursor == self.cursors[uplink, lane] <= self.history.lane_head(uplink, lane)

    def teardown(self) -> None:
        if hasattr(self, "history"):
            self.drain()
            self.run(self.history.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)

    def _check_drained(self, uplink: str, lane: str) -> None:
        """What did not come was shed; every number that is missing is counted."""
        there = {sample for tag in TAGS for sample in self._stored(tag)}
        stats = self.history.stats()
        assert there <= self.committed
        assert len(there) == len(self.committed) - stats.shed_samples
        assert self.owed[uplink, lane] - self.delivered[uplink, lane] <= self.committed - there
        assert self.gaps[uplink, lane] == stats.shed_unsent.get((uplink, lane), 0)

    def _stored(self, tag: str) -> Iterator[Sample]:
        series = self.run(self.history.read(tag, -(2**62), 2**62))
        assert [item[0] for item in series] == sorted(item[0] for item in series)
        for time_ns, value, _quality in series:
            yield Sample(tag, time_ns // 1_000_000, value)

    # ---- steps

    def _commit(self, tags: set[int]) -> None:
        self.ms += 500
        points = []
        for tag in sorted(tags):
            self.count += 1
            points.append((tag, float(self.count), self.ms + tag))
        self.history.add(samples_of(points))
        self.position += 1
        heads = {uplink: self.history.lane_head(uplink, "live") for uplink in UPLINKS}
        pieces = self.run(self.history.commit((7, self.position)))
        if not pieces:
            self.position -= 1
            return
        new = {Sample(TAGS[tag], ms, value) for tag, value, ms in points}
        self.committed |= new
        for uplink, head in heads.items():
            live = self.history.lane_head(uplink, "live") - head
            assert live in {0, pieces}
            self.owed[uplink, "live" if live else "backfill"] |= new

    def _read(self, uplink: str, lane: str, after: int, limit: int) -> list[SampleItem]:
        items = self.run(self.history.items(uplink, lane, after, limit))
        seqs = [item.seq for item in items]
        assert seqs == sorted(set(seqs))
        for item in items:
            assert after < item.seq <= self.history.lane_head(uplink, lane)
            content = frozenset(_samples(item))
            assert content <= self.owed[uplink, lane]
            assert self.held.setdefault((uplink, lane, item.seq), content) == content
        return items

    def _deliver(self, uplink: str, lane: str, limit: int) -> None:
        cursor = self.cursors[uplink, lane]
        items = self._read(uplink, lane, cursor, limit)
        end = items[-1].seq if items else self.history.lane_head(uplink, lane)
        for item in items:
            content = self.held[uplink, lane, item.seq]
            assert not content & self.delivered[uplink, lane]
            self.delivered[uplink, lane] |= content
        self.gaps[uplink, lane] += end - cursor - len(items)
        self.cursors[uplink, lane] = end
        self.run(self.history.move_cursor(uplink, lane, end))

    def _pack_everything(self) -> None:
        state = self.history._state
        before, state.monotonic_ns = state.monotonic_ns, count(2**61, 2**45).__next__
        for _ in range(1_000):
            if not self.run(self.history.pack()):
                break
        state.monotonic_ns = before
        assert self.history.stats().unpacked_samples == 0


def _samples(item: SampleItem) -> Iterator[Sample]:
    for tag, values, qualities in zip(item.tags, item.values, item.qualities, strict=True):
        for dt_ns, value, quality in zip(item.dt_ns, values, qualities, strict=True):
            if quality != ABSENT:
                yield Sample(tag, (item.t0_ns + dt_ns) // 1_000_000, value)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 7)
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 3)
    monkeypatch.setattr(shedding, "ROOM_PIECES", 3)


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
