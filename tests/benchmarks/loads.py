"""What else the machine does while a reaction is measured.

Idle: nothing. Lock held: a thread takes the interpreter's lock whenever it is free and keeps it,
and the event loop is blocked with it. Storm: that, and two busy processes a core, and a gateway
that drains a backlog of ten million samples to mosquitto with its disk full.
"""

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt

from fastpath.columns import remap
from gateway.build import poll_groups
from gateway.check import check_site
from gateway.store.history import History
from tests.helpers import inside
from tests.helpers.harness import ROOT, until
from tests.helpers.hog import read_report
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.mosquitto import Mosquitto

IDLE, HELD, STORM = "idle", "lock held", "storm"
LOADS = (IDLE, HELD, STORM)
HOLD_MS, GAP_MS = 60.0, 0.0  # whenever somebody lets go of the lock, it is gone for so long
HOGS_PER_CORE = 2
DISK_MIB = 256
BACKLOG_TAGS, BACKLOG_SECONDS = 1_000, 10_000  # at 1 Hz
COMMIT_EVERY, PACK_EVERY = 10, 500  # seconds of the backlog, while it is made
MAX_BYTES = 1_000_000_000  # nothing is shed
START_S = 60.0
PUBLISHED = "$SYS/broker/publish/messages/received"

BACKLOG = """
[[uplink]]
id = "platform"
kind = "mqtt"
url = "{url}"

[[device]]
id = "wide"
driver = "modbus-tcp"
address = "{address}"
poll = "1s"
timeout = "1s"
record = "all"
"""
BACKLOG_TAG = """
[[tag]]
id = "w{i}"
device = "wide"
point = {{ address = "hr:{i}" }}
"""


@contextlib.asynccontextmanager
async def process(words: list[object]) -> AsyncIterator[str]:
    """A program that says one line when it works; gives that line, ends the program."""
    running = await asyncio.create_subprocess_exec(
        *(str(word) for word in words), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        line = await asyncio.wait_for(running.stdout.readline(), START_S)
        if not line:
            raise RuntimeError(f"{words[:3]} ended at once")
        yield line.decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.stdout.read()
        await running.wait()


async def output_of(words: list[object]) -> str:
    """What a program says that ends by itself."""
    running = await asyncio.create_subprocess_exec(
        *(str(word) for word in words), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(running.communicate(), START_S)
    if running.returncode != 0:
        raise RuntimeError(f"{words[:3]} ended with {running.returncode}")
    return out.decode()


@contextlib.asynccontextmanager
async def lock_hog(report: Path) -> AsyncIterator[None]:
    """The held lock for a program that has no interpreter: in a process beside it."""
    code = (
        "import sys; from pathlib import Path; from tests.helpers.hog import Recorder, hold_lock\n"
        "recorder = Recorder(Path(sys.argv[1]))\n"
        "print('holding', flush=True)\n"
        "hold_lock(recorder, float(sys.argv[2]), float(sys.argv[3])).join()"
    )
    async with process([sys.executable, "-c", code, report, HOLD_MS, GAP_MS]):
        await until("the hog", lambda: read_report(report).holds > 0)
        yield


@contextlib.asynccontextmanager
async def cpu_hogs() -> AsyncIterator[None]:
    """Busy processes of the ordinary class."""
    code = "print('busy', flush=True)\nwhile True: pass"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(HOGS_PER_CORE * (os.cpu_count() or 1)):
            await stack.enter_async_context(process([sys.executable, "-c", code]))
        yield


@contextlib.contextmanager
def small_disk() -> Iterator[Path | None]:
    """A tmpfs for a state directory; None where this user cannot mount one."""
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench") as name:
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "sitewarden-bench", name]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], capture_output=True, check=True)


def fill(directory: Path) -> None:
    """Leave no room on this file system."""
    block = bytes(1 << 20)
    with (directory / "full").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            if file.write(block) < len(block):
                return


@dataclass
class Backlog:
    """A broker that is down until ``drain``, and a device that goes on meanwhile."""

    broker: Mosquitto
    device: ModbusServer
    _watch: asyncio.Task[None] | None = None
    _taken: int = 0

    @property
    def site(self) -> str:
        """What the site file needs of it."""
        head = BACKLOG.format(url=self.broker.url, address=self.device.address)
        return head + "".join(BACKLOG_TAG.format(i=i) for i in range(BACKLOG_TAGS))

    async def place(self, site: Path, state: Path) -> None:
        """Put what waits into a state directory, before the gateway starts on it."""
        state.mkdir(mode=0o750, exist_ok=True)
        prepared = _folder() / "history.db"
        if not prepared.exists():
            await _prepare(prepared, site)
        await asyncio.to_thread(shutil.copyfile, prepared, state / "history.db")

    async def drain(self) -> None:
        """The link is back, and the first message has passed."""
        await self.broker.start()
        self._watch = asyncio.create_task(self._count())
        await until("the first message", lambda: self._taken > 0, START_S)

    @property
    def taken(self) -> int:
        """Messages that the broker has taken, as it says once a second."""
        return self._taken

    async def end(self) -> None:
        """The broker first: the gateway may be too busy to take leave."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self.broker.stop()

    async def _count(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self.broker.port) as client:
            await client.subscribe(PUBLISHED)
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                self._taken = int(message.payload)


@functools.cache
def _folder() -> Path:
    """Where the backlog is kept for all cells of a run: it takes a while to make."""
    folder = Path(tempfile.mkdtemp(prefix="sitewarden-bench"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


async def _prepare(path: Path, site: Path) -> None:
    """A history as an outage leaves it: chunks, and the last of it in the tail."""
    config = (await asyncio.to_thread(check_site, site)).config
    (group,) = (group for group in poll_groups(config) if group.key.startswith("wide/"))
    base_ms = time.time_ns() // 1_000_000 - 1000 * BACKLOG_SECONDS
    signals: Any = inside.load("signals").Signals(BACKLOG_TAGS, BACKLOG_TAGS, base_ms)
    own = array("I", group.indices)
    half = path.with_name("half.db")
    history = await History.open(
        half, groups=[group], uplinks=["platform"], max_bytes=MAX_BYTES, reserve_bytes=0
    )
    try:
        for second in range(1, BACKLOG_SECONDS + 1):
            history.add(remap(signals.poll(0, second), own))
            if second % COMMIT_EVERY == 0:
                await history.commit()
            if second % PACK_EVERY == 0:
                await history.pack()
        waiting = history.stats().samples
    finally:
        await history.close()
    if waiting != BACKLOG_SECONDS * BACKLOG_TAGS:
        raise RuntimeError(f"{waiting} samples in the backlog")
    half.rename(path)


@contextlib.asynccontextmanager
async def backlog() -> AsyncIterator[Backlog]:
    """A broker of its own; whoever is subscribed there, the gateway does not know."""
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench") as name:
        broker = Mosquitto(Path(name), lines=["sys_interval 1"])
        async with ModbusServer() as device:
            device.count("hr", 0, BACKLOG_TAGS)
            found = Backlog(broker, device)
            try:
                yield found
            finally:
                await found.end()
