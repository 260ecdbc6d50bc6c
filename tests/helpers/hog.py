"""Something that keeps the interpreter's lock, and something that keeps the event loop.

Both measure themselves into a small mapped file, which survives a kill of the process.
"""

import asyncio
import ctypes
import json
import mmap
import struct
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.build import build

LAYOUT = struct.Struct("<qqqq")


class Report(NamedTuple):
    """What the hogs measured of themselves so far; times in ns."""

    hold_ns_max: int = 0
    holds: int = 0
    busy_ns_max: int = 0
    busy_runs: int = 0


def read_report(path: Path) -> Report:
    """The report of a launcher, dead or alive."""
    data = path.read_bytes()
    return Report(*LAYOUT.unpack_from(data)) if len(data) >= LAYOUT.size else Report()


class Recorder:
    """The mapped file, written by the hogs."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), LAYOUT.size)
        self._report = Report()

    def held(self, ns: int) -> None:
        """The lock was kept for so long."""
        r = self._report
        self._write(r._replace(hold_ns_max=max(r.hold_ns_max, ns), holds=r.holds + 1))

    def busy(self, ns: int) -> None:
        """The loop was kept for so long."""
        r = self._report
        self._write(r._replace(busy_ns_max=max(r.busy_ns_max, ns), busy_runs=r.busy_runs + 1))

    def _write(self, report: Report) -> None:
        self._report = report
        LAYOUT.pack_into(self._map, 0, *report)


def hold_lock(
    recorder: Recorder, hold_ms: float, gap_ms: float, begin: Path | None = None
) -> threading.Thread:
    """A thread that keeps the interpreter's lock for ``hold_ms``, again and again.

    ``begin``: not before this file is there.
    """
    library = ctypes.PyDLL(str(build("libhold.so")))
    library.hold.argtypes = (ctypes.c_int64,)
    library.hold.restype = ctypes.c_int64

    def run() -> None:
        while begin is not None and not begin.exists():
            time.sleep(0.01)
        while True:
            recorder.held(library.hold(int(hold_ms * 1e6)))
            time.sleep(gap_ms / 1000)

    thread = threading.Thread(target=run, name="hog", daemon=True)
    thread.start()
    return thread


def keep_loops_busy(recorder: Recorder, busy_ms: float, gap_ms: float) -> None:
    """Every event loop that runs from now on has a callback that burns ``busy_ms``."""
    samples = [{"tag": f"t{i}", "value": i * 0.1, "quality": "GOOD"} for i in range(100)]
    original = asyncio.BaseEventLoop.run_forever

    def burn(loop: asyncio.AbstractEventLoop) -> None:
        begin = time.monotonic_ns()
        while time.monotonic_ns() - begin < busy_ms * 1e6:
            json.loads(json.dumps(samples))
        recorder.busy(time.monotonic_ns() - begin)
        loop.call_later(gap_ms / 1000, burn, loop)

    def run_forever(self: Any) -> None:
        self.call_soon(burn, self)
        original(self)

    asyncio.BaseEventLoop.run_forever = run_forever  # type: ignore[method-assign]
