"""Trip reaction of three clients of the same device, each idle and with the lock held.

The device (libmodbus) puts the trip value into a read reply that is about to leave and takes the
time until the coil write arrives; it then puts the good value back, waits for the coil to return,
and goes on after a random pause of up to one poll period.
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
from tests.helpers.build import build
from tests.helpers.harness import ROOT, Site, until
from tests.helpers.hog import read_report
from tests.helpers.modbus_server import ModbusServer

PERIOD_US = 10_000
GAS, REGISTERS, COIL = 100, 2, 16
LOW, HIGH, LIMIT = 0.3, 2.0, 1.5
WARMUP = 5  # trips of a cell's round that are not counted
DEVICE_PRIORITY = 60  # above every client: it takes the times
CLIENT_PRIORITY = 40  # the guard's own
HOLD_MS, GAP_MS = 60.0, 0.0  # whenever somebody lets go of the lock, it is gone for so long
HOLD_NS_MIN = 50_000_000
START_S = 60.0

SITEWARDEN, BARE, PLAIN = "Sitewarden", "bare C", "asyncio+pymodbus"
CLIENTS = (SITEWARDEN, BARE, PLAIN)
IDLE, HELD = "idle", "lock held"
LOADS = (IDLE, HELD)

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
poll = "10ms"
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
    """One client under one load: its reactions, one list per round."""

    rounds: list[list[int]] = field(default_factory=list)  # ns
    scheduling: set[str] = field(default_factory=set)
    hold_ns_max: int = 0

    @property
    def reactions(self) -> list[int]:
        """Of all rounds, in ns."""
        return [ns for trips in self.rounds for ns in trips]


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


async def measure(
    cell: Cell, client: str, load: str, trips: int, limit_s: float, fifo: int
) -> None:
    """One round of one cell: at most ``trips`` within ``limit_s``; ``fifo`` is for bare C."""
    device_priority = DEVICE_PRIORITY if realtime_allowed() else 0
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench") as name:
        directory = Path(name)
        report = directory / "hog"
        async with ModbusServer(fifo=device_priority) as device:
            device.set("c", COIL, 1)
            device.set_float("ir", GAS, LOW)
            await device.sync()
            held = load == HELD
            if client == SITEWARDEN:
                running = _sitewarden(device, directory, report if held else None)
            elif client == BARE:
                running = _bare(device, report if held else None, fifo)
            else:
                running = _plain(device, report if held else None)
            async with running as scheduling:
                cell.scheduling.add(scheduling)
                cell.rounds.append(await _cycle(device, trips, limit_s))
        if held:
            cell.hold_ns_max = max(cell.hold_ns_max, read_report(report).hold_ns_max)


async def _cycle(device: ModbusServer, trips: int, limit_s: float) -> list[int]:
    wanted = WARMUP + trips
    device.send(f"cycle {wanted} ir {GAS} {LOW} {HIGH} {COIL} 0 {PERIOD_US}")
    found: list[int] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while len(found) < wanted:
                sent, tripped = await device.event("reaction", limit_s)
                found.append(int(tripped) - int(sent))
    return found[WARMUP:]


@contextlib.asynccontextmanager
async def _sitewarden(
    device: ModbusServer, directory: Path, report: Path | None
) -> AsyncIterator[str]:
    text = SITE.format(address=device.address, gas=GAS, coil=COIL, limit=LIMIT)
    async with Site(directory, text) as site:
        hogs = None
        if report is not None:
            hogs = ["--report", str(report), "--busy-ms", "0"]
            hogs += ["--hold-ms", str(HOLD_MS), "--hold-gap-ms", str(GAP_MS)]
            hogs += ["--hold-from", str(directory / "hold")]
        await site.start(hogs=hogs)
        await site.ready(START_S)
        # Nothing shows where the final element is: a person says so, once.
        await until("output held", lambda: site.outputs(1) == [OutputState.HELD], START_S)
        await _released(site)
        await site.protecting(wait_s=START_S)
        pid = site.guard_pid()
        if pid is None:
            raise RuntimeError(f"no guard:\n{site.log_text()}")
        if report is not None:
            (directory / "hold").touch()
            await until("the hog", lambda: read_report(report).holds > 0)
        yield scheduling_of(pid)
        if report is not None:
            await site.kill_gateway()  # its ordered end would take as long as its start


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
async def _bare(device: ModbusServer, report: Path | None, fifo: int) -> AsyncIterator[str]:
    program = str(await asyncio.to_thread(build, "bare_loop"))
    words = [program, device.port, PERIOD_US, GAS, REGISTERS, LIMIT, COIL, fifo]
    async with contextlib.AsyncExitStack() as stack:
        if report is not None:
            await stack.enter_async_context(_hog(report))
        said = await stack.enter_async_context(_process(words))
        yield f"{said} {fifo}" if said == "fifo" else said


@contextlib.asynccontextmanager
async def _plain(device: ModbusServer, report: Path | None) -> AsyncIterator[str]:
    words = [sys.executable, "-m", "tests.benchmarks.plain_loop", device.port, PERIOD_US]
    words += [GAS, REGISTERS, LIMIT, COIL, HOLD_MS if report else 0, GAP_MS, report or "-"]
    async with _process(words) as said:
        yield said


@contextlib.asynccontextmanager
async def _hog(report: Path) -> AsyncIterator[None]:
    """The same load for a program that has no interpreter: in a process beside it."""
    code = (
        "import sys; from pathlib import Path; from tests.helpers.hog import Recorder, hold_lock\n"
        "recorder = Recorder(Path(sys.argv[1]))\n"
        "print('holding', flush=True)\n"
        "hold_lock(recorder, float(sys.argv[2]), float(sys.argv[3])).join()"
    )
    async with _process([sys.executable, "-c", code, report, HOLD_MS, GAP_MS]):
        await until("the hog", lambda: read_report(report).holds > 0)
        yield


@contextlib.asynccontextmanager
async def _process(words: list[object]) -> AsyncIterator[str]:
    """A program that says one line when it works; gives that line, ends the program."""
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in words), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        if not line:
            raise RuntimeError(f"{words[:3]} ended at once")
        yield line.decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.stdout.read()
        await process.wait()
