"""Trip reaction of clients of the same device, under each load.

The device (libmodbus) puts the trip value into a read reply that is about to leave and takes the
time until the coil write arrives; it then puts the good value back, waits for the coil to return,
and goes on after a random pause of up to one poll period. The demand's own moment is the end of
that pause: from there to the coil is the total.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from fastpath.codes import OutputState, ResultCode
from tests.benchmarks import loads
from tests.benchmarks.loads import GAP_MS, HOLD_MS, IDLE, START_S, STORM, process
from tests.helpers.build import build
from tests.helpers.harness import Site, until
from tests.helpers.hog import read_report
from tests.helpers.modbus_server import ModbusServer

PERIODS_US = (10_000, 5_000)  # the second is the shortest that a site file may say: back to back
GAS, REGISTERS, COIL = 100, 2, 16
LOW, HIGH, LIMIT = 0.3, 2.0, 1.5
WARMUP = 5  # trips of a cell's round that are not counted
DEVICE_PRIORITY = 60  # above every client: it takes the times
CLIENT_PRIORITY = 40  # the guard's own
HOLD_NS_MIN = 50_000_000

SITEWARDEN, BARE, PLAIN = "Sitewarden", "bare C", "asyncio+pymodbus"
CLIENTS = (SITEWARDEN, BARE, PLAIN)

SITE = """
[site]
id = "bench"

[view]
listen = "127.0.0.1:0"

[[device]]
id = "plc"
driver = "modbus-tcp"
address = "{address}"
fast = true
poll = "{poll_us}us"
timeout = "200ms"

[[tag]]
id = "gas"
device = "plc"
point = {{ address = "ir:{gas}", type = "float32" }}
unit = "%CH4"
range = [0, 4]
stale_after = "2s"

[[output]]
id = "power"
device = "plc"
address = "c:{coil}"
trip = false
normal = true

[[interlock]]
id = "cut"
cause = "gas >= {limit} until < 1.0"
effects = ["power"]
response = "5s"
latch = false
armed = true
"""


@dataclass
class Cell:
    """One client at one period under one load: its trips, one list per round."""

    rounds: list[list[int]] = field(default_factory=list)  # reactions, ns
    totals: list[int] = field(default_factory=list)  # demand to coil, ns
    scheduling: set[str] = field(default_factory=set)
    hold_ns_max: int = 0
    drained: int = 0  # messages that the platform took meanwhile
    disk_full: bool = False

    @property
    def reactions(self) -> list[int]:
        """Of all rounds, in ns."""
        return [ns for trips in self.rounds for ns in trips]


def clients_of(load: str) -> tuple[str, ...]:
    """Who is measured under this load: the plain loop under the storm would tell nothing new."""
    return CLIENTS if load != STORM else (SITEWARDEN, BARE)


def realtime_allowed() -> bool:
    """Whether this process may ask for SCHED_FIFO."""
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, policy, param)
    return True


def scheduling_of(pid: int) -> str:
    """``fifo N`` where a thread of the process has that class, else ``other``."""
    for entry in Path(f"/proc/{pid}/task").iterdir():
        thread = int(entry.name)
        if os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO:
            return f"fifo {os.sched_getparam(thread).sched_priority}"
    return "other"


@dataclass(frozen=True)
class Measurement:
    """What one round of one cell is: at most ``trips`` within ``limit_s``."""

    client: str
    load: str
    period_us: int
    trips: int
    limit_s: float
    fifo: int  # of bare C

    async def run(self, cell: Cell) -> None:
        """Measure it into the cell."""
        device_priority = DEVICE_PRIORITY if realtime_allowed() else 0
        with tempfile.TemporaryDirectory(prefix="sitewarden-bench") as name:
            directory = Path(name)
            report = directory / "hog" if self.load != IDLE else None
            async with ModbusServer(fifo=device_priority) as device:
                device.set("c", COIL, 1)
                device.set_float("ir", GAS, LOW)
                await device.sync()
                async with self._client(cell, device, directory, report) as scheduling:
                    cell.scheduling.add(scheduling)
                    await self.cycle(cell, device)
            if report is not None:
                cell.hold_ns_max = max(cell.hold_ns_max, read_report(report).hold_ns_max)

    def _client(
        self, cell: Cell, device: ModbusServer, directory: Path, report: Path | None
    ) -> contextlib.AbstractAsyncContextManager[str]:
        if self.client == SITEWARDEN:
            return _sitewarden(self, cell, device, directory, report)
        if self.client == BARE:
            return _bare(self, device, report)
        return _plain(self, device, report)

    async def cycle(self, cell: Cell, device: ModbusServer) -> None:
        wanted = WARMUP + self.trips
        device.send(f"cycle {wanted} ir {GAS} {LOW} {HIGH} {COIL} 0 {self.period_us}")
        found: list[tuple[int, int]] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limit_s):
                while len(found) < wanted:
                    words = await device.event("reaction", self.limit_s)
                    sent, tripped, due = (int(word) for word in words)
                    found.append((tripped - sent, tripped - due))
        cell.rounds.append([reaction for reaction, _ in found[WARMUP:]])
        cell.totals += [total for _, total in found[WARMUP:]]


@contextlib.asynccontextmanager
async def _sitewarden(
    what: Measurement, cell: Cell, device: ModbusServer, directory: Path, report: Path | None
) -> AsyncIterator[str]:
    text = SITE.format(
        address=device.address, gas=GAS, coil=COIL, limit=LIMIT, poll_us=what.period_us
    )
    async with contextlib.AsyncExitStack() as stack:
        storm = None
        if what.load == STORM:
            storm = await stack.enter_async_context(loads.backlog())
            text += storm.site
        site = await stack.enter_async_context(Site(directory, text))
        disk = stack.enter_context(loads.small_disk()) if storm else None
        if disk is not None:
            site.state = disk / "state"
        if storm is not None:
            await storm.place(site.file, site.state)
        hogs = None
        if report is not None:
            hogs = ["--report", str(report), "--busy-ms", "0"]
            hogs += ["--hold-ms", str(HOLD_MS), "--hold-gap-ms", str(GAP_MS)]
            hogs += ["--hold-from", str(directory / "hold")]
        await site.start(hogs=hogs)
        stack.push_async_callback(_ended, site, hogs is not None)
        await site.ready(START_S)
        # Nothing shows where the final element is: a person says so, once.
        await until("output held", lambda: site.outputs(1) == [OutputState.HELD], START_S)
        await _released(site)
        await site.protecting(wait_s=START_S)
        pid = site.guard_pid()
        if pid is None:
            raise RuntimeError(f"no guard:\n{site.log_text()}")
        if storm is not None:
            if disk is not None:
                await asyncio.to_thread(loads.fill, disk)
                cell.disk_full = True
            await storm.drain()
            await stack.enter_async_context(loads.cpu_hogs())
        if report is not None:
            (directory / "hold").touch()
            await until("the hog", lambda: read_report(report).holds > 0)
        before = storm.taken if storm else 0
        yield scheduling_of(pid)
        if storm is not None:
            cell.drained += storm.taken - before


async def _ended(site: Site, held: bool) -> None:
    """With the lock held its ordered end would take as long as its start."""
    if held:
        await site.kill_gateway()


async def _released(site: Site) -> None:
    """Ask until the guard knows that the cause is false."""
    async with asyncio.timeout(START_S):
        while True:
            _, answer = await site.post("/release", {"id": "power", "reason": "bench"})
            if answer.get("exit_code") == 0:
                return
            if answer.get("code") != ResultCode.CAUSE_UNKNOWN:
                raise RuntimeError(f"not released: {answer}")


@contextlib.asynccontextmanager
async def _bare(what: Measurement, device: ModbusServer, report: Path | None) -> AsyncIterator[str]:
    program = str(await asyncio.to_thread(build, "bare_loop"))
    words = [program, device.port, what.period_us, GAS, REGISTERS, LIMIT, COIL, what.fifo]
    async with contextlib.AsyncExitStack() as stack:
        if report is not None:
            await stack.enter_async_context(loads.lock_hog(report))
        if what.load == STORM:
            await stack.enter_async_context(loads.cpu_hogs())
        said = await stack.enter_async_context(process(words))
        yield f"{said} {what.fifo}" if said == "fifo" else said


@contextlib.asynccontextmanager
async def _plain(
    what: Measurement, device: ModbusServer, report: Path | None
) -> AsyncIterator[str]:
    words = [sys.executable, "-m", "tests.benchmarks.plain_loop", device.port, what.period_us]
    words += [GAS, REGISTERS, LIMIT, COIL, HOLD_MS if report else 0, GAP_MS, report or "-"]
    async with process(words) as said:
        yield said
