"""An outage of any length, accelerated, and the drain after it: everything that is measured there.

The gateway is ``run`` with the signals at its scanner's door (``door``), the broker is mosquitto,
the platform behind it compares every sample (``verifying``); paho publishes one sample per message
to the same broker and platform, before and after, for comparison.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.helpers.door import Client
from tests.helpers.harness import ROOT, Site, until
from tests.helpers.mosquitto import Mosquitto
from tests.helpers.process_use import private_bytes, written_bytes
from tests.helpers.verifying import Told

TAGS, PER_GROUP, JITTER_MS, SEED = 1_200, 100, 3, 1
GROUPS: Final = TAGS // PER_GROUP
SWITCH_FOR_S: Final = 50  # how long a switch of the signals stands, on average
ALERTS: Final = 10_000  # that the alarms on switches make during the outage
LOOKS: Final = 60  # at the memory, during the outage
BASELINE_MESSAGES: Final = 20_000
LOOK_S: Final = 0.05
LIVE_MIN: Final = 100  # live messages, for a quantile of them
START_S: Final = 60.0


@dataclass
class Figures:
    """What was measured. ``verdict``: of the platform, over everything that was delivered."""

    seconds: int = 0  # of the outage
    feed_s: float = 0.0
    file_bytes: int = 0  # history.db with its -wal, at the end of the outage
    written_bytes: int = 0  # in the outage, as the gateway tells it of its stores
    disk_bytes: int = 0  # and as the kernel counts it of the gateway
    private: list[int] = field(default_factory=list)  # of the gateway, over the outage
    private_draining: list[int] = field(default_factory=list)
    alarms: int = 0  # recorded in the outage
    alarms_end: int = 0  # until the end
    alerts_s: float = 0.0  # from the link's return to the last of them
    alerts_first: int = 0  # that came before the first of the backlog
    first_backfill_s: float = 0.0
    drain_s: float = 0.0  # from the first of the backlog until the broker has acknowledged all
    platform_s: float = 0.0  # and until the platform behind it has read and compared all
    drained: int = 0  # samples
    # Of live polls, arrival to acknowledgement: those that came while the outage's alerts left, and
    # those that came while the backlog did.
    beside_alerts_ns: list[int] = field(default_factory=list)
    latencies_ns: list[int] = field(default_factory=list)
    baselines: list[float] = field(default_factory=list)  # paho, messages a second
    told: Told = field(default_factory=Told)
    verdict: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Of the outage."""
        return self.seconds * TAGS

    @property
    def bytes_per_sample(self) -> float:
        """On disk, everything in the file included."""
        return self.file_bytes / self.samples

    @property
    def drain_per_s(self) -> float:
        """Samples of the backlog a second."""
        return self.drained / self.drain_s

    @property
    def ratio(self) -> float:
        """Drain over paho with one sample a message."""
        return self.drain_per_s / statistics.mean(self.baselines)

    def latency_s(self, part: float) -> float:
        """Quantile of live latency."""
        ordered = sorted(self.latencies_ns)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] / 1e9

    def slope(self) -> float:
        """How much more private memory the outage's last third had than its second, as part."""
        third = len(self.private) // 3
        before, after = self.private[third : 2 * third], self.private[2 * third :]
        return statistics.median(after) / statistics.median(before) - 1

    def lines(self) -> list[str]:
        """For people."""
        mb = 1e6
        beside_s = max(self.beside_alerts_ns, default=0) / 1e9
        a_day = 86_400 / self.seconds * self.written_bytes
        per_s, commits_per_s = self.samples / self.feed_s, self.seconds / self.feed_s
        return [
            f"Outage of {self.seconds / 3600:.2f} h of {TAGS} sensors at 1 Hz, {self.samples:,} "
            f"samples, taken and stored in {self.feed_s:.0f} s "
            f"({per_s / 1000:,.0f}k samples/s, {commits_per_s:,.0f} commits/s)",
            f"  on disk: {self.file_bytes / mb:.1f} MB, {self.bytes_per_sample:.2f} bytes/sample",
            f"  written to the disk: {self.written_bytes / mb:.0f} MB, of which the kernel knows "
            f"{self.disk_bytes / mb:.0f} MB: {a_day / mb:,.0f} MB a day",
            f"  private memory of the gateway: at most {max(self.private) / mb:.1f} MB in the "
            f"outage, last third over the second {self.slope():+.1%}, at most "
            f"{max(self.private_draining, default=0) / mb:.1f} MB in the drain",
            f"  link back: {self.alarms:,} alerts recorded in the outage were out after "
            f"{self.alerts_s:.1f} s, {self.alerts_first:,} of them before the first of the backlog "
            f"({self.first_backfill_s:.1f} s)",
            f"  drain: {self.drained:,} samples in {self.drain_s:.1f} s (the platform has compared "
            f"them after {self.platform_s:.1f} s), "
            f"{self.drain_per_s / 1000:,.0f}k samples/s; paho with one sample a message "
            f"{', '.join(f'{rate / 1000:.1f}k' for rate in self.baselines)}/s; ratio "
            f"{self.ratio:.0f}",
            f"  live meanwhile: arrival to acknowledgement p50 {self.latency_s(0.5):.2f} s, p99 "
            f"{self.latency_s(0.99):.2f} s, max {self.latency_s(1):.2f} s of "
            f"{len(self.latencies_ns)} polls; at most {beside_s:.2f} s of "
            f"{len(self.beside_alerts_ns)} that came while the outage's alerts went first",
            f"  at the platform: {self.told.messages:,} messages, {self.told.bytes / mb:.0f} MB, "
            f"{self.told.doubles} doubles, {self.told.gaps} gaps; {self.verdict}",
        ]


class Platform:
    """The verifying process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.told = Told()
        self.verdict: dict[str, Any] = {}
        self._process = process
        self._came = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def until(self, what: str, true: Callable[[Told], bool], wait_s: float) -> Told:
        """Wait for what arrives. Raises TimeoutError."""
        try:
            async with asyncio.timeout(wait_s), self._came:
                await self._came.wait_for(lambda: self._reader.done() or true(self.told))
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {wait_s} s: {self.told}") from None
        if not true(self.told):
            raise RuntimeError(f"the platform has ended: {self.told}")
        return self.told

    async def end(self, seconds: int) -> dict[str, Any]:
        """So many seconds were made; what it says of them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n".encode())
        await self._reader
        await self._process.wait()
        return self.verdict

    async def kill(self) -> None:
        """Whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._reader
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            async with self._came:
                if line.startswith(b'{"connected"'):
                    self.told = msgspec.json.decode(line, type=Told)
                else:
                    self.verdict = json.loads(line)
                self._came.notify_all()
        async with self._came:
            self._came.notify_all()


@contextlib.asynccontextmanager
async def platform(port: int, base_ms: int) -> AsyncIterator[Platform]:
    """A platform that verifies what comes from this broker."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.helpers.verifying",
        *map(str, (port, TAGS, PER_GROUP, base_ms, JITTER_MS, SEED)), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    found = Platform(process)
    try:
        yield found
    finally:
        await found.kill()


def site_text(broker: str, alarms: int) -> str:
    """1,200 tags of 12 devices; so many switches have an alarm."""
    parts = [
        '[site]\nid = "test-site"\n[view]\nlisten = "127.0.0.1:0"\n',
        f'[[uplink]]\nid = "platform"\nkind = "mqtt"\nurl = "{broker}"\n',
    ]
    for group in range(GROUPS):
        parts.append(
            f'[[device]]\nid = "d{group}"\ndriver = "modbus-tcp"\naddress = "127.0.0.1:1"\n'
            f'unit = {group + 1}\nrecord = "all"\n'
        )
    alarmed = set(switches(alarms))
    for tag in range(TAGS):
        limit = "limits = { high = 1 }\n" if tag in alarmed else ""
        parts.append(
            f'[[tag]]\nid = "t{tag}"\ndevice = "d{tag // PER_GROUP}"\n'
            f'point = {{ address = "hr:{tag % PER_GROUP}" }}\n{limit}'
        )
    return "\n".join(parts)


def switches(count: int) -> list[int]:
    """So many of the tags that switch."""
    return [tag for tag in range(TAGS) if tag % 10 >= 8][:count]


def _alarms_for(seconds: int) -> int:
    """Switches that together change some more than ALERTS times."""
    return min(TAGS // 5, -(-int(ALERTS * 1.05) * SWITCH_FOR_S // seconds))


async def measure(directory: Path, seconds: int, live_min: int = LIVE_MIN) -> Figures:
    """The whole of it: baseline, outage, link back, drain beside live samples, baseline.

    ``live_min``: live polls to be measured, 12 a second, also where the drain is through before.
    """
    figures = Figures(seconds=seconds)
    base_ms = time.time_ns() // 1_000_000 - 1000 * seconds
    (directory / "broker").mkdir()
    broker = Mosquitto(
        directory / "broker",
        lines=["persistence true", f"persistence_location {directory / 'broker'}/",
               "max_queued_messages 0"],
    )  # fmt: skip
    alarms = _alarms_for(seconds)
    async with contextlib.AsyncExitStack() as stack:
        await broker.start()
        stack.push_async_callback(broker.stop)
        receiver = await stack.enter_async_context(platform(broker.port, base_ms))
        await receiver.until("the platform", lambda told: told.connected, START_S)
        figures.baselines.append(await _baseline(broker.port, receiver))
        await broker.stop()
        site = await stack.enter_async_context(Site(directory, site_text(broker.url, alarms)))
        # Not in the runtime directory: what is there is the gateway's.
        socket = directory / "door.sock"
        options = ["--socket", str(socket), "--base-ms", str(base_ms), "--tags", str(TAGS)]
        options += ["--per-group", str(PER_GROUP), "--jitter-ms", str(JITTER_MS)]
        await site.start(through=["tests.helpers.door", *options, "--seed", str(SEED)])
        await site.ready(START_S)
        await until("the door", socket.exists)
        door = await stack.enter_async_context(Client(socket))
        await _outage(figures, site, door, alarms)
        await _drain(figures, site, door, broker, receiver, live_min)
        end = await door.ask("stop", switches=switches(alarms))
        figures.alarms_end = end["toggles"]
        await receiver.until(
            "the last samples",
            lambda told: told.samples >= end["seconds"] * TAGS and told.alarms >= end["toggles"],
            START_S,
        )
        await site.stop()
        figures.baselines.append(await _baseline(broker.port, receiver))
        figures.verdict = await receiver.end(end["seconds"])
        figures.told = receiver.told
    return figures


async def _outage(figures: Figures, site: Site, door: Client, alarms: int) -> None:
    assert site.process is not None
    pid, began_s = site.process.pid, time.monotonic()
    written, disk = await _written(site), written_bytes(pid)
    step = max(1, figures.seconds // LOOKS)
    for first in range(0, figures.seconds, step):
        await door.ask("feed", seconds=min(step, figures.seconds - first))
        figures.private.append(private_bytes(pid))
    answer = await door.ask("catch up", switches=switches(alarms))
    figures.seconds = answer["seconds"]
    figures.feed_s = time.monotonic() - began_s
    figures.alarms = answer["toggles"]
    await until("the alarms", lambda: _alarms_of(site) >= figures.alarms, START_S)
    figures.written_bytes = await _written(site) - written
    figures.disk_bytes = written_bytes(pid) - disk
    files = [site.state / f"history.db{end}" for end in ("", "-wal")]
    figures.file_bytes = sum(file.stat().st_size for file in files if file.exists())


async def _written(site: Site) -> int:
    stores = (await site.get("/status"))["stores"]
    return sum(store["written"] for store in stores)


async def _drain(
    figures: Figures,
    site: Site,
    door: Client,
    broker: Mosquitto,
    receiver: Platform,
    live_min: int,
) -> None:
    assert site.process is not None
    await door.ask("live")
    await broker.start()
    back_ns = time.monotonic_ns()
    watch = asyncio.create_task(_watch(figures.private_draining, site.process.pid))
    try:
        limit_s = START_S + figures.samples / 50_000
        told = await receiver.until("alerts", lambda t: t.alarms >= figures.alarms, limit_s)
        figures.alerts_s = (told.last_alert_ns - back_ns) / 1e9
        began_ns = (
            await receiver.until("backlog", lambda t: t.first_backfill_ns > 0, limit_s)
        ).first_backfill_ns
        figures.first_backfill_s = (began_ns - back_ns) / 1e9
        figures.alerts_first = receiver.told.alerts_before_backfill
        drained = False
        alerts_out_ns = back_ns + figures.alerts_s * 1e9
        async with asyncio.timeout(limit_s):
            while not drained or len(figures.latencies_ns) < live_min:
                await asyncio.sleep(LOOK_S)
                look = await door.ask("look")
                for came_ns, latency_ns in look["taken"]:
                    after = came_ns > alerts_out_ns
                    (figures.latencies_ns if after else figures.beside_alerts_ns).append(latency_ns)
                if not drained and not look["backlog"]["backfill"]:
                    drained = True
                    figures.drain_s = (time.monotonic_ns() - began_ns) / 1e9
        told = await receiver.until(
            "the backlog", lambda t: t.backfill_samples >= figures.samples, limit_s
        )
        figures.drained = told.backfill_samples
        figures.platform_s = (told.last_backfill_ns - began_ns) / 1e9
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _watch(found: list[int], pid: int) -> None:
    while True:
        found.append(private_bytes(pid))
        await asyncio.sleep(0.5)


def _alarms_of(site: Site) -> int:
    query = "SELECT count(*) FROM alert WHERE json_extract(body, '$.kind') LIKE 'alarm%'"
    return int(site.ledger(query)[0][0])


async def _baseline(port: int, receiver: Platform) -> float:
    before = receiver.told.baseline
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.helpers.publishing", str(port), str(BASELINE_MESSAGES),
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    await receiver.until(
        "the baseline", lambda told: told.baseline >= before + BASELINE_MESSAGES, START_S
    )
    return float(out)
