"""The history beside a plain table of samples, and beside thingsboard-gateway's event storage.

All take the same signals: half of them walk with three decimals, 30 % stand still, 20 % switch. The
table has a row per sample and an index by tag and time, batches of 1,000 and the same synchronous
setting as the history. thingsboard-gateway is installed from the package index into an environment
of its own; where that fails the report says so.
"""

import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastpath.columns import split_quality
from fastpath.messages import SAMPLE
from gateway.store import packing
from gateway.store.history import History
from gateway.store.items import PollGroup
from tests.helpers import inside
from tests.helpers.harness import ROOT

TAGS: Final = 1_200
PER_GROUP: Final = 100
SECONDS: Final = -(-packing.WINDOW_SAMPLES // TAGS)  # of one window
ROW_SECONDS: Final = 170  # the table's figures do not change with its length
JITTER_MS: Final = 3
BATCH: Final = 1_000
MAX_BYTES: Final = 4_000_000_000
PEER: Final = "thingsboard-gateway==3.8.5"
PEER_NAME: Final = "thingsboard-gateway"
PEER_EVENTS: Final = 600  # of 100 samples each
INSTALL_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What one way of storing came to: samples a second, bytes of the file per sample."""

    per_s: float
    bytes: float


@dataclass(slots=True)
class Density:
    """All of them, a round each."""

    jitter: list[Kept] = field(default_factory=list)
    shared: list[Kept] = field(default_factory=list)
    rows: list[Kept] = field(default_factory=list)
    peer: Kept | str = "left out (--own)"


def median(kept: list[Kept]) -> Kept:
    """Of the rounds."""
    return Kept(statistics.median(k.per_s for k in kept), statistics.median(k.bytes for k in kept))


async def measure(directory: Path, rounds: int, samples: int, *, peer: bool) -> Density:
    """Interleaved, so that what else the machine does is shared.

    About ``samples`` in whole windows, at least one: what waits for the next is no part of it.
    """
    windows = max(1, round(samples / packing.WINDOW_SAMPLES))
    found = Density()
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench", dir=directory) as name:
        for number in range(rounds):
            place = Path(name) / str(number)
            place.mkdir()
            found.jitter.append(await _history(place / "jitter.db", windows, JITTER_MS))
            found.rows.append(await asyncio.to_thread(_rows, place / "rows.db"))
            found.shared.append(await _history(place / "shared.db", windows, 0))
        if peer:
            found.peer = await asyncio.to_thread(_peer, Path(name) / "peer")
    return found


def _signals(jitter_ms: int, seconds: int) -> Iterator[list[bytes]]:
    """Every second the records of each group."""
    base_ms = time.time_ns() // 1_000_000 - 1000 * seconds
    signals = inside.load("signals").Signals(TAGS, PER_GROUP, base_ms, jitter_ms=jitter_ms)
    for _ in range(seconds):
        yield [signals.poll(group, 0) for group in range(signals.groups)]


def _groups() -> list[PollGroup]:
    return [
        PollGroup(f"plc{first}/1", tuple(f"t{i}" for i in indices), indices)
        for first in range(0, TAGS, PER_GROUP)
        if (indices := tuple(range(first, first + PER_GROUP)))
    ]


async def _history(path: Path, windows: int, jitter_ms: int) -> Kept:
    """A commit a second and packing in between, as the gateway does it."""
    data = list(_signals(jitter_ms, windows * SECONDS))
    history = await History.open(path, groups=_groups(), uplinks=["up"], max_bytes=MAX_BYTES)
    try:
        begin = time.monotonic()
        for number, polls in enumerate(data, 1):
            for poll in polls:
                history.add(poll)
            await history.commit()
            if number % SECONDS == 0:
                await history.pack()
        took_s = time.monotonic() - begin
        stats = history.stats()
        expected = windows * SECONDS * TAGS
        if stats.samples != expected or stats.unpacked_samples > 2 * TAGS:
            msg = f"{stats.samples} of {expected} samples, {stats.unpacked_samples} not packed"
            raise RuntimeError(msg)
    finally:
        await history.close()
    return Kept(expected / took_s, _used(path) / expected)


def _used(path: Path) -> int:
    """Bytes of the pages that hold something."""
    with closing(sqlite3.connect(path)) as database:
        pages, free, page = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    used: int = (pages - free) * page
    return used


def _rows(path: Path) -> Kept:
    """A row per sample, as anybody would begin."""
    samples = [
        (utc_ns // 1_000_000, slot, value, split_quality(quality)[0])
        for polls in _signals(JITTER_MS, ROW_SECONDS)
        for poll in polls
        for slot, quality, _, _, value, _, utc_ns in SAMPLE.iter_unpack(poll)
    ]
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for setting in ("journal_mode = WAL", "synchronous = FULL"):
            database.execute(f"PRAGMA {setting}")
        database.execute("CREATE TABLE sample (ts INTEGER, tag INTEGER, value REAL, quality INT)")
        database.execute("CREATE INDEX sample_tag ON sample (tag, ts)")
        begin = time.monotonic()
        for first in range(0, len(samples), BATCH):
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO sample VALUES (?, ?, ?, ?)", samples[first : first + BATCH]
            )
            database.execute("COMMIT")
        took_s = time.monotonic() - begin
    return Kept(len(samples) / took_s, _used(path) / len(samples))


# ---- thingsboard-gateway -------------------------------------------------------------------------


def _peer(directory: Path) -> Kept | str:
    """Its figures, or why there are none."""
    try:
        python = _install()
        events = "\n".join(_events())
        script = Path(__file__).with_name("peer_store.py")
        ended = subprocess.run(
            [str(python), str(script), str(directory)], input=events, capture_output=True,
            text=True, check=True, timeout=INSTALL_S,
        )  # fmt: skip
        took_s = float(ended.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"does not install or run here: {str(said).strip().splitlines()[-1]}"
    samples = PEER_EVENTS * PER_GROUP
    return Kept(samples / took_s, _used(directory / "data.db") / samples)


def _install() -> Path:
    """Its interpreter, in an environment of its own that is made once."""
    place = ROOT / "build" / PEER.replace("==", "-")
    python = place / "bin" / "python"
    if not (place / ".ready").exists():
        place.parent.mkdir(exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(place)],
            [str(python), "-m", "pip", "-q", "--disable-pip-version-check", "install", PEER],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        (place / ".ready").touch()
    return python


def _events() -> Iterator[str]:
    """One event per poll of a group, as its connectors hand them to the storage."""
    names = [f"t{i}" for i in range(TAGS)]
    polls = (poll for second in _signals(0, PEER_EVENTS) for poll in second)
    for _, poll in zip(range(PEER_EVENTS), polls, strict=False):
        records: list[Any] = list(SAMPLE.iter_unpack(poll))
        values = {names[slot]: value for slot, _, _, _, value, _, _ in records}
        telemetry = [{"ts": records[0][6] // 1_000_000, "values": values}]
        yield json.dumps({"deviceName": "plc", "deviceType": "default", "telemetry": telemetry})
