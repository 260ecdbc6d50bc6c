"""What the guard takes at 10,000 tags: memory of its own, the shared file, faults."""

import asyncio
from dataclasses import dataclass

from fastpath.codes import RecordMode
from tests.benchmarks.polling import guard_of, program_of
from tests.helpers.blobs import MS
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.process_use import major_faults, private_bytes

DEVICES, REQUESTS, FLOATS = 20, 25, 20  # 10,000 tags
POLL_NS = 1000 * MS
WATCH_S = 3.0


@dataclass(frozen=True)
class Memory:
    """Bytes, and page faults that had to wait for a disk after the start."""

    tags: int
    private: int
    shared_file: int  # allocated, not its length
    major_faults: int


async def measure(seconds_max: float) -> Memory:
    """A guard that polls 10,000 values a second."""
    async with ModbusServer() as device:
        program = program_of([device.port] * DEVICES, REQUESTS, FLOATS, POLL_NS, RecordMode.CHANGE)
        async with guard_of(program) as guard:
            assert guard.process is not None
            assert guard.view is not None
            view, pid = guard.view, guard.process.pid
            await guard.until(lambda: view.device(DEVICES - 1).requests >= REQUESTS)
            before = major_faults(pid)
            await asyncio.sleep(min(WATCH_S, seconds_max))  # the measurement itself
            blocks = (guard.runtime / "guard.shm").stat().st_blocks
            return Memory(
                len(program.tags), private_bytes(pid), 512 * blocks, major_faults(pid) - before
            )
