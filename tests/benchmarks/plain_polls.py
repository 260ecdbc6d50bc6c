"""The plain asyncio + pymodbus poller: ``python -m tests.benchmarks.plain_polls PORT CONNECTIONS
REGISTERS FLOATS SECONDS``. Prints "READS CPU_NS" as bare_polls.c does.
"""

import asyncio
import struct
import sys
import time

from pymodbus.client import AsyncModbusTcpClient


async def _poll(
    client: AsyncModbusTcpClient, registers: int, floats: int, end: float, table: list[float]
) -> int:
    reads = 0
    layout = struct.Struct(f">{2 * floats}H")
    values = struct.Struct(f">{floats}f")
    while time.monotonic() < end:
        reply = await client.read_input_registers(0, count=registers)
        table[:] = values.unpack(layout.pack(*reply.registers[: 2 * floats]))
        reads += 1
    return reads


async def _run(port: int, connections: int, registers: int, floats: int, seconds: float) -> None:
    clients = [AsyncModbusTcpClient("127.0.0.1", port=port) for _ in range(connections)]
    for client in clients:
        await client.connect()
    cpu = time.process_time_ns()
    end = time.monotonic() + seconds
    tables: list[list[float]] = [[] for _ in clients]
    reads = await asyncio.gather(
        *(_poll(c, registers, floats, end, t) for c, t in zip(clients, tables, strict=True))
    )
    print(sum(reads), time.process_time_ns() - cpu)


if __name__ == "__main__":
    _port, _connections, _registers, _floats = (int(word) for word in sys.argv[1:5])
    asyncio.run(_run(_port, _connections, _registers, _floats, float(sys.argv[5])))
