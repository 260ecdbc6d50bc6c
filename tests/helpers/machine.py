"""A machine whose power is cut: gateway and guard end at once, tmpfs is empty, the disk is legal.

The device, the platform and what the commands answered are outside of it: from them comes what must
be found again.
"""

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from fastpath.codes import EventType
from gateway.errors import StoreError
from gateway.orders.outcome import Exit
from gateway.store.alert import rfc3339
from gateway.store.ledger import Ledger
from tests.helpers.audits import audit_entries
from tests.helpers.disk import Disk, Record, Recorded
from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform, readings
from tests.helpers.spawner import Spawner

START_S = 10.0
KEPT = (Exit.DONE, Exit.REFUSED, Exit.ALREADY, Exit.UNCONFIRMED)  # by the ledger, first of all
READS = 10  # hr: goes up by one with every reading
COUNTER = """
[[tag]]
id = "reads0"
device = "plc0"
point = { address = "hr:10" }
record = "all"
"""
OF_SENDING = ("historical", "audit_head")  # may differ when an alert is sent again


@dataclass
class Promised:
    """What somebody outside knows of, and since when (CLOCK_MONOTONIC ns)."""

    alerts: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    commands: list[tuple[int, str]] = field(default_factory=list)
    trips: list[tuple[int, str]] = field(default_factory=list)  # their time as alerts have it

    def before(self, ns: int) -> "Promised":
        """What was promised by then."""
        return Promised(
            {ident: each for ident, each in self.alerts.items() if each[0] < ns},
            [each for each in self.commands if each[0] < ns],
            [each for each in self.trips if each[0] < ns],
        )


class Machine:
    """One site that lives from cut to cut; an async context manager. ``wrong`` says what failed."""

    def __init__(self, directory: Path, seed: int, *, careless: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.chance = random.Random(seed)
        self.promised = Promised()
        self.cuts: list[int] = []  # ns
        self.starts_s: list[float] = []
        self.doubled = 0  # readings that came twice
        self.moments = 0  # of cuts, those that were only tried on paper among them
        self.wrong: list[str] = []
        self.platform = Platform()
        self.device = ModbusServer(directory / "requests")
        self._directory = directory
        self.recorded = Recorded(directory, directory / "state")
        self._spawner = Spawner(self.recorded.environment, careless=careless)
        self._numbers = itertools.count()
        self.site: Site

    async def __aenter__(self) -> "Machine":
        await self.device.__aenter__()
        await self.platform.__aenter__()
        await self._spawner.__aenter__()
        device = self.device
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=2)
        device.set_float("ir", GAS, 0.3)
        device.count("hr", READS, 1)
        text = site_text([device.address], url=self.platform.url, latch=False) + COUNTER
        self.site = Site(self._directory, text, self._spawner)
        self.site.state.mkdir(mode=0o750)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.site.__aexit__()
        await self._spawner.__aexit__()
        await self.platform.__aexit__()
        await self.device.__aexit__()
        self.recorded.__exit__()

    async def live(self, during: Callable[[], Awaitable[None]], papers: int = 0) -> None:
        """Start, work until ``during`` has ended, have the power cut.

        ``papers`` more moments are tried on copies.
        """
        disk = Disk(self.site.state)
        await self.start()
        work = asyncio.create_task(self._work())
        orders = asyncio.create_task(self._order())
        try:
            await during()
        finally:
            for task in (work, orders):
                task.cancel()
            await asyncio.gather(work, orders, return_exceptions=True)
        await self._end()
        await self._drain_device()
        self._acknowledged()
        self._seen()
        news = self.recorded.news()
        await self._papers(disk, news, papers)
        shutil.rmtree(self.site.runtime)
        self.site.runtime.mkdir(mode=0o700)
        shutil.rmtree(self.site.state)
        disk.cut(self.site.state, self.chance)
        await self.check(self.site.state, self.promised)

    async def start(self) -> None:
        """Until it is ready."""
        began = time.monotonic()
        await self.site.start()
        await self.site.ready(START_S)
        self.starts_s.append(time.monotonic() - began)

    async def check(self, state: Path, promised: Promised) -> None:
        """Compare a state directory with what was promised, on a copy of it."""
        self.moments += 1
        with tempfile.TemporaryDirectory(dir=self._directory) as name:
            copy = Path(name)
            for path in state.glob("ledger.db*"):
                if not path.name.endswith(".reserve"):
                    shutil.copy(path, copy)
            ledger = await Ledger.open(copy / "ledger.db", "test-site", reserve_bytes=0)
            try:
                audit_entries(ledger)
            except StoreError as error:
                self.wrong.append(str(error))
            finally:
                await ledger.close()
            if aside := list(copy.glob("*damaged-*")):
                self.wrong.append(f"taken for damaged: {aside[0].name}")
            with closing(sqlite3.connect(copy / "ledger.db")) as database:
                self._compare(database, promised)

    def _compare(self, database: sqlite3.Connection, promised: Promised) -> None:
        rows = database.execute("SELECT seq, body FROM alert ORDER BY seq").fetchall()
        found = {alert["id"]: alert for alert in (json.loads(body) for _, body in rows)}
        for ident, (_, data) in promised.alerts.items():
            same = {key: value for key, value in data.items() if key not in OF_SENDING}
            if found.get(ident) != same:
                state = "another" if ident in found else "not there"
                self.wrong.append(f"alert {ident} was seen and is {state}")
        if [seq for seq, _ in rows] != list(range(1, len(rows) + 1)):
            self.wrong.append("the sequence has gaps")
        times = {alert["time"] for alert in found.values() if alert["kind"] == "trip"}
        for _, at in promised.trips:
            if at not in times:
                self.wrong.append(f"the trip of {at} was acknowledged to the guard: not there")
        details = [detail for (detail,) in database.execute("SELECT CAST(body AS TEXT) FROM audit")]
        for _, reason in promised.commands:
            if not any(reason in detail for detail in details):
                self.wrong.append(f"command {reason!r} was answered and is not there")

    async def _papers(self, disk: Disk, news: Sequence[Record], papers: int) -> None:
        places = {self.chance.randrange(len(news)) for _ in range(papers)} if news else set()
        for place, record in enumerate(news):
            if place in places:
                with tempfile.TemporaryDirectory(dir=self._directory) as name:
                    disk.cut(Path(name), self.chance)
                    if (Path(name) / "ledger.db").exists() or self.cuts[1:]:
                        await self.check(Path(name), self.promised.before(record.ns))
            disk.play(record)

    async def _end(self) -> None:
        """Everything that runs on the machine ends; tmpfs is still to be looked at."""
        guard = self.site.guard_pid()
        self.cuts.append(await self.site.kill_gateway())
        if guard is not None:
            os.kill(guard, signal.SIGKILL)
            while Path(f"/proc/{guard}").exists():  # noqa: ASYNC110  not our child
                await asyncio.sleep(0.002)

    def _acknowledged(self) -> None:
        """The guard was told that its records are durable: their trips must be in the ledger."""
        view = self.site.view()
        if view is None:
            return
        try:
            header = view.header()
            events = view.events(1, header.event_head)
        finally:
            view.close()
        self.promised.trips += [
            (self.cuts[-1], rfc3339(event.utc_ns))
            for event in events
            if event.seq < header.event_tail and event.type == EventType.TRIP
        ]

    def _seen(self) -> None:
        for ident, data in self.platform.unique().items():
            self.promised.alerts.setdefault(ident, (self.platform.arrived_ns[ident], data))

    async def _work(self) -> None:
        """Gas that comes and goes. What a cut has left tripped is held: a person releases it."""
        self.device.set_float("ir", GAS, 0.3)
        while (await self.device.get("c", COIL))[0] != 1:
            await self.site.post("/release", {"id": "power0", "reason": "the power is back"})
            await asyncio.sleep(0.02)
        for gas, coil in itertools.cycle(((LIMIT + 0.5, 0), (0.3, 1))):
            self.device.set_float("ir", GAS, gas)
            while (await self.device.get("c", COIL))[0] != coil:  # noqa: ASYNC110
                await asyncio.sleep(0.003)
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))

    async def lost_samples_s(self) -> list[float]:
        """After the last start: per cut, the age of the oldest reading that is not delivered."""
        last = (await self.device.get("hr", READS))[0]
        await self.platform.wait_until(
            lambda: max(readings("reads0", self.platform.samples), default=0) >= last
        )
        while await self._owed():  # noqa: ASYNC110  the backlog leaves after what is live
            await asyncio.sleep(0.05)
        found = [int(value) for value in readings("reads0", self.platform.samples)]
        delivered = sorted(set(found))
        self.doubled = len(found) - len(delivered)
        asked = [r for r in await self.device.requests() if r.kind == "r" and r.function == 3]
        read_ns = [r.reply_ns for r in asked if r.address <= READS < r.address + r.count]
        gaps = [(a, b) for a, b in itertools.pairwise(delivered) if b - a != 1]
        lost_s = [0.0] * len(self.cuts)
        for a, b in gaps:
            between = [i for i, cut in enumerate(self.cuts) if read_ns[a] < cut < read_ns[b]]
            if not between or b <= a:
                self.wrong.append(f"readings from {a} to {b}, and no cut between them")
                continue
            cut = between[0]
            lost_s[cut] = max(0.0, (self.cuts[cut] - read_ns[a + 1]) / 1e9)
        return lost_s

    async def _owed(self) -> int:
        """Samples of the backlog that the platform does not have."""
        uplinks = (await self.site.get("/status"))["uplinks"]
        return sum(uplink["backlog"]["backfill"] for uplink in uplinks)

    async def _drain_device(self) -> None:
        """An answer that nobody waited for must not be taken for the next one."""
        await self.device.sync()
        self.device.forget("got")

    async def _order(self) -> None:
        """Orders that must be written down before they are carried out or refused."""
        while True:
            reason = f"order {next(self._numbers)}"
            try:
                _, answer = await self.site.post("/reset", {"id": "cut0", "reason": reason})
            except (aiohttp.ClientError, OSError):
                return
            if answer["exit_code"] in KEPT:
                self.promised.commands.append((time.monotonic_ns(), reason))
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))
