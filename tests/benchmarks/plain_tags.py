"""One request per tag, plain asyncio + pymodbus: ``python -m tests.benchmarks.plain_tags PORT
DEVICES TAGS SECONDS``. Prints "READS CPU_NS RSS_BYTES"; each device's tags are due once a second.
"""

import asyncio
import resource
import sys
import time

from pymodbus.client import AsyncModbusTcpClient


async def _poll(client: AsyncModbusTcpClient, tags: int, end: float, values: list[float]) -> int:
    reads = 0
    due = time.monotonic()
    while time.monotonic() < end:
        for tag in range(tags):
            reply = await client.read_input_registers(2 * tag, count=2)
            values[tag] = client.convert_from_registers(reply.registers, client.DATATYPE.FLOAT32)  # type: ignore[assignment]
            reads += 1
        due = max(due + 1.0, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
    return reads


async def _run(port: int, devices: int, tags: int, seconds: float) -> None:
    clients = [AsyncModbusTcpClient("127.0.0.1", port=port) for _ in range(devices)]
    for client in clients:
        await client.connect()
    cpu = time.process_time_ns()
    end = time.monotonic() + seconds
    reads = await asyncio.gather(*(_poll(c, tags, end, [0.0] * tags) for c in clients))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(sum(reads), time.process_time_ns() - cpu, rss)


if __name__ == "__main__":
    _port, _devices, _tags = (int(word) for word in sys.argv[1:4])
    asyncio.run(_run(_port, _devices, _tags, float(sys.argv[4])))
