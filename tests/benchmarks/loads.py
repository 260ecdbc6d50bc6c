"""What else the machine does while a reaction is measured.

Idle: nothing. Lock held: a thread takes the interpreter's lock whenever it is free and keeps it,
and the event loop is blocked with it. Storm: that, and two busy processes a core, and a gateway
that drains a backlog to its platform with its disk full.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.harness import ROOT, until
from tests.helpers.hog import read_report
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform

IDLE, HELD, STORM = "idle", "lock held", "storm"
LOADS = (IDLE, HELD, STORM)
HOLD_MS, GAP_MS = 60.0, 0.0  # whenever somebody lets go of the lock, it is gone for so long
HOGS_PER_CORE = 2
DISK_MIB = 256
BACKLOG_TAGS, BACKLOG_S = 1_000, 4.0
START_S = 60.0

BACKLOG = """
[[uplink]]
id = "platform"
kind = "http"
url = "{url}"

[[device]]
id = "wide"
driver = "modbus-tcp"
address = "{address}"
poll = "100ms"
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
    """A platform that is down until ``drain``, and a device with much to tell it."""

    platform: Platform
    device: ModbusServer

    @property
    def site(self) -> str:
        """What the site file needs of it."""
        head = BACKLOG.format(url=self.platform.url, address=self.device.address)
        return head + "".join(BACKLOG_TAG.format(i=i) for i in range(BACKLOG_TAGS))

    async def grow(self) -> None:
        """Let it come together."""
        await until("a refused message", lambda: self.platform.refused > 0, START_S)
        await asyncio.sleep(BACKLOG_S)  # how much there is to drain is a matter of time

    async def drain(self) -> None:
        """The link is back, and the first message has passed."""
        self.platform.down = False
        await until("the first message", lambda: len(self.platform.samples) > 0, START_S)


@contextlib.asynccontextmanager
async def backlog() -> AsyncIterator[Backlog]:
    """The platform runs in this process: what it costs is part of the load."""
    async with Platform() as platform, ModbusServer() as device:
        platform.down = True
        device.count("hr", 0, BACKLOG_TAGS)
        yield Backlog(platform, device)
