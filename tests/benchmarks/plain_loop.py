"""The plain asyncio + pymodbus loop that Sitewarden is measured against.

``python -m tests.benchmarks.plain_loop PORT PERIOD_US ADDRESS REGISTERS LIMIT COIL HOLD_MS GAP_MS
REPORT``
The same work as bare_loop.c on the library that everybody would take. With HOLD_MS > 0 a thread
keeps the interpreter's lock for that long, again and again, with GAP_MS between.
"""

import asyncio
import struct
import sys
from pathlib import Path

from pymodbus.client import AsyncModbusTcpClient

from tests.helpers.hog import Recorder, hold_lock


async def _loop(
    port: int, period_s: float, address: int, registers: int, limit: float, coil: int
) -> None:
    reader = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0, reconnect_delay=0)
    writer = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0, reconnect_delay=0)
    await reader.connect()
    await writer.connect()
    sys.stdout.write("other\n")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    due = loop.time()
    tripped = False
    while True:
        reply = await reader.read_input_registers(address, count=registers)
        value = struct.unpack(">f", struct.pack(">HH", *reply.registers[:2]))[0]
        trip = value >= limit
        if trip != tripped:
            await writer.write_coil(coil, not trip)
            tripped = trip
        due = max(due + period_s, loop.time())
        await asyncio.sleep(due - loop.time())


def main(arguments: list[str]) -> None:
    """Work until it is ended."""
    port, period_us, address, registers = (int(word) for word in arguments[:4])
    limit, coil = float(arguments[4]), int(arguments[5])
    hold_ms, gap_ms = float(arguments[6]), float(arguments[7])
    if hold_ms:
        hold_lock(Recorder(Path(arguments[8])), hold_ms, gap_ms)
    asyncio.run(_loop(port, period_us / 1e6, address, registers, limit, coil))


if __name__ == "__main__":
    main(sys.argv[1:])
