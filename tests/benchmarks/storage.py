"""Samples from the image to the history: how many a second, and what each costs on disk.

Two measurements: the gateway's own storing path driven as fast as it goes, and a whole site
(device, guard, guard.shm, recorder) at a rate that is offered and either kept up with or not.
"""

import asyncio
import math
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from fastpath.codes import Quality
from fastpath.image import TagImage
from fastpath.messages import SAMPLE
from gateway.store import packing
from gateway.store.history import History
from gateway.store.items import PollGroup
from tests.helpers.harness import Site, until
from tests.helpers.modbus_server import ModbusServer

TAGS = 1_200
TAGS_PER_GROUP = 100
BATCHES = (1, 10)  # scans of all tags per commit: 1 Hz and 10 Hz with a commit a second
SECOND = 1_000_000_000
MAX_BYTES = 4_000_000_000  # nothing is shed
LIVE_TAGS = 500
LIVE_PERIOD_S = 0.01


@dataclass(frozen=True)
class Speed:
    """One run of the storing path."""

    samples_per_commit: int
    per_s: float
    commit_ns: list[int]


@dataclass(frozen=True)
class Cost:
    """Bytes per sample: of the rows themselves, and of the file with everything in it."""

    body: float
    file: float


@dataclass(frozen=True)
class Live:
    """A whole site that is offered samples at a fixed rate."""

    offered_per_s: float
    stored_per_s: float
    lost: str  # what /metrics says was dropped
    gateway_cpu: float  # part of one core
    guard_cpu: float


@dataclass(frozen=True)
class Storage:
    """Everything that this file measures."""

    speeds: list[Speed]
    tail: Cost
    packed: Cost
    filesystem: str


def groups() -> list[PollGroup]:
    """The poll groups of a site of 12 devices with 100 tags each."""
    found = []
    for first in range(0, TAGS, TAGS_PER_GROUP):
        indices = tuple(range(first, first + TAGS_PER_GROUP))
        found.append(PollGroup(f"plc{first}/1", tuple(f"tag{i}" for i in indices), indices))
    return found


def scans(count: int, per_s: int) -> Iterator[bytes]:
    """SAMPLE records of all tags: half walk, 30 % stand still, 20 % switch. One time per scan."""
    chance = random.Random(1)
    values = [chance.uniform(0, 100) for _ in range(TAGS)]
    begin_ns = time.time_ns()
    for number in range(count):
        at_ns = begin_ns + number * SECOND // per_s
        records = []
        for i in range(TAGS):
            kind = i % 10
            if kind < 5:
                values[i] += chance.gauss(0, 0.1)
            elif kind >= 8:
                values[i] = float(chance.random() < 0.5)
            records.append(SAMPLE.pack(i, Quality.GOOD, 0, 0, values[i], at_ns, at_ns))
        yield b"".join(records)


async def measure(directory: Path, samples: int, rounds: int) -> Storage:
    """Image, accumulator and commits with synchronous=FULL, as the recorder drives them."""
    speeds = []
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench", dir=directory) as name:
        for number in range(rounds):
            for batch in BATCHES:
                path = Path(name) / f"{number}-{batch}.db"
                data = list(scans(max(batch, samples // TAGS), batch))
                speeds.append(await _run(path, data, batch))
        tail, packed = await _cost(Path(name) / "cost.db", samples)
        return Storage(speeds, tail, packed, filesystem_of(Path(name)))


async def _run(path: Path, data: list[bytes], batch: int) -> Speed:
    history = await History.open(path, groups=groups(), uplinks=["up"], max_bytes=MAX_BYTES)
    image = TagImage(TAGS)
    commits = []
    try:
        begin = time.monotonic_ns()
        for first in range(0, len(data), batch):
            for scan in data[first : first + batch]:
                image.apply(scan)
                history.add(scan)
            before = time.monotonic_ns()
            await history.commit()
            commits.append(time.monotonic_ns() - before)
        took_ns = time.monotonic_ns() - begin
        if history.stats().samples != len(data) * TAGS:
            raise RuntimeError(f"stored {history.stats().samples} of {len(data) * TAGS} samples")
    finally:
        await history.close()
    return Speed(batch * TAGS, len(data) * TAGS * SECOND / took_ns, commits)


async def _cost(path: Path, samples: int) -> tuple[Cost, Cost]:
    """Bytes per sample before and after packing, at 1 Hz with a commit a second."""
    history = await History.open(path, groups=groups(), uplinks=["up"], max_bytes=MAX_BYTES)
    try:
        for scan in scans(max(samples, packing.WINDOW_SAMPLES) // TAGS + 1, 1):
            history.add(scan)
            await history.commit()
        tail = _look(path, "tail", "length(body) + length(members)")
        while await history.pack():
            pass
        packed = _look(path, "chunk", "length(body) + length(members)")
    finally:
        await history.close()
    return tail, packed


def _look(path: Path, table: str, size: str) -> Cost:
    """NaN where the table holds nothing."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        stored, body = database.execute(f"SELECT sum(n), sum({size}) FROM {table}").fetchone()  # noqa: S608
        (everything,) = database.execute("SELECT samples FROM progress").fetchone()
        pages, free, page = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    if not stored:
        return Cost(math.nan, math.nan)
    return Cost(body / stored, (pages - free) * page / everything)


def filesystem_of(directory: Path) -> str:
    """``TYPE on DEVICE`` of the mount that holds it."""
    best, found = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        device, mount, kind, *_ = line.split()
        inside = str(directory.resolve()).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, found = mount, f"{kind} on {device}"
    return found


# ---- end to end ----------------------------------------------------------------------------------


def _site_text(address: str) -> str:
    lines = ['[site]\nid = "bench"\n[view]\nlisten = "127.0.0.1:0"\n[[device]]\nid = "plc"']
    lines.append(f'driver = "modbus-tcp"\naddress = "{address}"\nfast = true\npoll = "10ms"')
    for i in range(LIVE_TAGS):
        lines.append(f'[[tag]]\nid = "t{i}"\ndevice = "plc"')
        lines.append(f'point = {{ address = "hr:{i}", type = "uint16" }}\nrecord = "all"')
    return "\n".join(lines)


async def live(directory: Path, seconds: float) -> Live:
    """Every read of a register gives another value; the guard polls all of them 100 times a s."""
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench", dir=directory) as name:
        async with ModbusServer() as device, _site(device, Path(name)) as site:
            device.count("hr", 0, LIVE_TAGS)
            await site.start()
            await site.ready()
            await until("samples in the history", lambda: samples_stored(site) > 0)
            guard, gateway = site.guard_pid(), site.process
            assert guard is not None
            assert gateway is not None
            await _next_commit(site)
            before, begin = _state(site, gateway.pid, guard), time.monotonic()
            await asyncio.sleep(seconds)
            await _next_commit(site)
            after, took = _state(site, gateway.pid, guard), time.monotonic() - begin
            stored, span, gateway_s, guard_s = (b - a for a, b in zip(before, after, strict=True))
            lost = await _lost(site)
    offered = LIVE_TAGS / LIVE_PERIOD_S
    return Live(offered, stored / span, lost, gateway_s / took, guard_s / took)


def _site(device: ModbusServer, directory: Path) -> Site:
    return Site(directory, _site_text(device.address))


def _state(site: Site, gateway: int, guard: int) -> tuple[float, ...]:
    """Samples stored, up to when in s, and CPU seconds of both processes."""
    stored, newest_ns = _progress(site)
    return float(stored), newest_ns / SECOND, cpu_s(gateway), cpu_s(guard)


def samples_stored(site: Site) -> int:
    """How many the history has."""
    return _progress(site)[0]


def _progress(site: Site) -> tuple[int, int]:
    """Samples stored, and the newest one's UTC ns."""
    path = site.state / "history.db"
    if not path.exists():
        return 0, 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            row = database.execute(
                "SELECT samples, (SELECT max(t_last) FROM tail) FROM progress"
            ).fetchone()
        except sqlite3.OperationalError:  # the schema is not there yet
            return 0, 0
    return (int(row[0]), int(row[1] or 0)) if row else (0, 0)


async def _next_commit(site: Site) -> None:
    before = samples_stored(site)
    await until("a commit", lambda: samples_stored(site) > before)


def cpu_s(pid: int) -> float:
    """Of all threads that live now, to the nanosecond (stat counts in ticks)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def _lost(site: Site) -> str:
    """Every counter of drops in /metrics that is not zero."""
    connector = aiohttp.UnixConnector(str(site.runtime / "gateway.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://site/metrics") as answer,
    ):
        text = await answer.text()
    drops = [line for line in text.splitlines() if line.startswith("sitewarden_dropped_total")]
    return ", ".join(line for line in drops if float(line.rpartition(" ")[2])) or "none"


def median_speed(storage: Storage, samples_per_commit: int) -> tuple[float, float]:
    """(samples a second, slowest but one per cent of commits in ms) of one batch, over rounds."""
    chosen = [speed for speed in storage.speeds if speed.samples_per_commit == samples_per_commit]
    commits = sorted(ns for speed in chosen for ns in speed.commit_ns)
    slow = commits[min(len(commits) - 1, len(commits) * 99 // 100)]
    return statistics.median(speed.per_s for speed in chosen), slow / 1e6
