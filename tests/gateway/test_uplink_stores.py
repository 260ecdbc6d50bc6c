"""The pump between the real ledger and history and a platform that keeps what it gets."""

import asyncio
import sqlite3
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from fastpath.messages import SAMPLE
from gateway.errors import UplinkError
from gateway.store import packing
from gateway.store.alert import AlertDraft, Source
from gateway.store.history import History
from gateway.store.items import PollGroup, SampleItem
from gateway.store.ledger import Ledger
from gateway.uplink import message
from gateway.uplink.base import ACCEPTED, GapItem, Outgoing, Refused, Verdict
from gateway.uplink.lane import Lane
from gateway.uplink.lane_source import SampleLane
from gateway.uplink.pump import Pump
from tests.helpers.uplinks import (
    GOOD,
    SENDER,
    T0_NS,
    MemoryHistory,
    MemoryProblems,
    MemoryUplink,
    config_of,
    until,
)

TAGS = ("ch4.t1", "ch4.t2", "air.speed")


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def one_poll_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", len(TAGS))


class Site:
    """Stores in a folder, a pump, a platform."""

    def __init__(self, ledger: Ledger, history: History) -> None:
        self.ledger = ledger
        self.history = history
        self.uplink = MemoryUplink()
        self.problems = MemoryProblems()
        self.time_ns = T0_NS

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator["Site"]:
        ledger = await Ledger.open(folder / "ledger.db", "gw-1", uplinks=["platform"])
        group = PollGroup("plc/1s", TAGS, (0, 1, 2))
        history = await History.open(folder / "history.db", groups=[group], uplinks=["platform"])
        try:
            yield cls(ledger, history)
        finally:
            await history.close()
            await ledger.close()

    async def alert(self, count: int = 1) -> None:
        drafts = [
            AlertDraft(kind="alarm", state="event", source=Source("tag", "ch4.t1"), cause="high")
            for _ in range(count)
        ]
        await self.ledger.append(drafts)

    async def samples(self, polls: int) -> None:
        """So many commits of one poll each."""
        for _ in range(polls):
            self.time_ns += 1_000_000_000
            self.history.add(
                b"".join(
                    SAMPLE.pack(slot, GOOD, 0, 0, slot + self.time_ns % 1e6, 0, self.time_ns)
                    for slot in range(len(TAGS))
                )
            )
            await self.history.commit()

    @asynccontextmanager
    async def pumping(self) -> AsyncIterator[Pump]:
        config = config_of("mqtt://127.0.0.1")
        made = Pump(config, self.uplink, self.ledger, self.history, self.problems, SENDER)
        tasks = [asyncio.create_task(made.run()), asyncio.create_task(self._record(made))]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def drained(self, made: Pump) -> bool:
        backlog = any(made.stats().backlog.values())
        return not backlog and not self.history.stats().unpacked_samples

    async def _record(self, made: Pump) -> None:
        """What the recorder does once a second."""
        while True:
            await asyncio.sleep(0.01)
            await self.history.commit()
            made.nudge()


async def test_an_outage_and_a_restart(tmp_path: Path) -> None:
    async with Site.open(tmp_path) as site:
        await site.alert(30)
        await site.samples(25)
        async with site.pumping() as made:
            await until(lambda: site.drained(made))
            assert made.stats().up
            await site.samples(3)
            await until(lambda: made.stats().sent["live"] == 3)
        lanes = [lane for lane, _seq in site.uplink.taken]
        # a new ledger begins with an alert of its own
        assert lanes == ["alert"] * 31 + ["backfill"] * 25 + ["live"] * 3
        row = site.uplink.sends[-1][1][0]
        assert message.encode(SENDER, "live", row).count(b"ch4.t1") == 1
        assert row.epoch == site.history.epoch
    async with Site.open(tmp_path) as site:  # everything was acknowledged
        await site.samples(2)
        await site.alert(1)
        async with site.pumping() as made:
            await until(lambda: site.drained(made))
        assert site.uplink.taken == [("alert", 32), ("backfill", 26), ("backfill", 27)]


async def test_a_refused_row_and_a_refused_alert(tmp_path: Path) -> None:
    def answer(lane: str, out: Outgoing) -> Verdict:
        poison = (lane, out.item.seq) in {("alert", 2), ("backfill", 3)}
        return Refused("http_422") if poison and not isinstance(out.item, GapItem) else ACCEPTED

    async with Site.open(tmp_path) as site:
        site.uplink.answer = answer
        await site.alert(3)
        await site.samples(5)
        async with site.pumping() as made:
            await until(lambda: site.ledger.head == 6 and site.drained(made))
        assert await site.ledger.cursor("platform", "alert") == 6
        assert await site.history.cursor("platform", "backfill") == 5
        assert site.ledger.stats().letters == {("platform", "http_422"): 2}
        assert site.uplink.of("alert") == [1, 3, 4, -2, 5, 6]
        told = [item.body for item in await site.ledger.alerts(4, 10)]
        assert b"alert item 2 was refused" in told[0]
        assert b"backfill item 3 was refused" in told[1]


async def test_values_come_back_bit_by_bit(tmp_path: Path) -> None:
    async with Site.open(tmp_path) as site:
        await site.samples(4)
        async with site.pumping() as made:
            await until(lambda: made.stats().sent["backfill"] == 4)
        sent = [out.item for lane, outs in site.uplink.sends for out in outs if lane == "backfill"]
        for index, item in enumerate(sent):
            assert isinstance(item, SampleItem)
            time_ns = T0_NS + (index + 1) * 1_000_000_000
            assert item.t0_ns + item.dt_ns[0] == time_ns
            values = [struct.pack("<d", column[0]) for column in item.values]
            assert values == [struct.pack("<d", slot + time_ns % 1e6) for slot in range(3)]


async def test_what_waits_is_weighed_as_it_is_stored(tmp_path: Path) -> None:
    async with Site.open(tmp_path) as site:
        await site.alert(1_500)
        await site.samples(6)
        alerts = [len(item.body) for item in await site.ledger.alerts(0, 2_000)]
        assert await site.ledger.bytes_after(900) == sum(alerts[900:])
        assert await site.ledger.bytes_after(0) == pytest.approx(sum(alerts), rel=0.01)
        whole = await site.history.bytes_since(0)
        assert await site.history.bytes_since(T0_NS + 4_000_000_000) == whole / 2
        assert await site.history.bytes_since(site.time_ns + 1) == 0
    with sqlite3.connect(tmp_path / "history.db") as connection:
        stored = (
            "SELECT sum(length(body)) FROM (SELECT body FROM tail UNION ALL SELECT body FROM chunk)"
        )
        assert connection.execute(stored).fetchone() == (whole,)


async def test_what_is_not_packed_yet_waits_as_well(tmp_path: Path) -> None:
    async with Site.open(tmp_path) as site:
        lane = Lane("platform", "backfill", SampleLane(site.history, "platform", "backfill"))
        await lane.follow()
        assert lane.owed == 0
        await site.samples(6)
        assert (lane.pending, lane.owed) == (0, 6)
        await site.history.pack()
        assert lane.owed == lane.pending > 0


async def test_a_dead_uplink_takes_nothing_from_the_other(tmp_path: Path) -> None:
    """Each has its own cursors; in a full ledger those alerts go that one of them has."""
    room = 3 * 1024 * 1024
    names = ("dead", "fine")
    ledger = await Ledger.open(tmp_path / "ledger.db", "gw-1", uplinks=names, max_bytes=room)
    history = MemoryHistory()
    links = {name: MemoryUplink() for name in names}
    links["dead"].error = UplinkError("cable")
    pumps = {
        name: Pump(
            config_of("mqtt://127.0.0.1", id=name, lanes=("alert",)),
            links[name], ledger, history, MemoryProblems(),
            msgspec.structs.replace(SENDER, uplink=name),
        )
        for name in names
    }  # fmt: skip
    tasks = [asyncio.create_task(one.run()) for one in pumps.values()]
    batch = [
        AlertDraft(kind="alarm", state="event", source=Source("tag", "t"), cause="x" * 1_000)
        for _ in range(500)
    ]
    try:
        for _ in range(14):  # 7 MB
            await ledger.append(batch)
            pumps["fine"].nudge()
            await until(lambda: pumps["fine"].stats().backlog["alert"] == 0)
        assert links["fine"].of("alert") == list(range(1, ledger.head + 1))
        assert pumps["dead"].stats().backlog["alert"] == ledger.head
        shed = ledger.stats().dropped["shed"]
        assert 0 < shed < ledger.head - 1_000
        links["dead"].error = None
        await until(lambda: pumps["dead"].stats().backlog["alert"] == 0, 15)
        assert links["dead"].of("alert") == [-shed, *range(shed + 1, ledger.head + 1)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ledger.close()
