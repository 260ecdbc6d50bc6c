"""What the guard takes at 10,000 tags: memory of its own, the shared file, faults."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastpath.codes import RecordMode
from tests.benchmarks.polling import guard_of, program_of
from tests.helpers.blobs import MS
from tests.helpers.modbus_server import ModbusServer

DEVICES, REQUESTS, FLOATS = 20, 25, 20  # 10,000 tags
POLL_NS = 1000 * MS
WATCH_S = 3.0
KIB = 1024


@dataclass(frozen=True)
class Memory:
    """Bytes, and page faults that had to wait for a disk after the start."""

    tags: int
    private: int
    shared_file: int  # allocated, not its length
    major_faults: int


def private_bytes(pid: int) -> int:
    """Resident memory that no other process shares and that is not the shared file."""
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    status = _fields(Path(f"/proc/{pid}/status"))
    shared = rollup["Shared_Clean"] + rollup["Shared_Dirty"]
    # Pages of guard.shm that nobody else has touched yet count as private.
    return (rollup["Rss"] - max(shared, status["RssShmem"])) * KIB


def major_faults(pid: int) -> int:
    """Of all threads since the start of the process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1])
        for words in lines
        if len(words) > 1 and words[1].isdigit()
    }


async def measure() -> Memory:
    """A guard that polls 10,000 values a second."""
    async with ModbusServer() as device:
        program = program_of([device.port] * DEVICES, REQUESTS, FLOATS, POLL_NS, RecordMode.CHANGE)
        async with guard_of(program) as guard:
            assert guard.process is not None
            assert guard.view is not None
            view, pid = guard.view, guard.process.pid
            await guard.until(lambda: view.device(DEVICES - 1).requests >= REQUESTS)
            before = major_faults(pid)
            await asyncio.sleep(WATCH_S)  # the measurement itself
            blocks = (guard.runtime / "guard.shm").stat().st_blocks
            return Memory(
                len(program.tags), private_bytes(pid), 512 * blocks, major_faults(pid) - before
            )
