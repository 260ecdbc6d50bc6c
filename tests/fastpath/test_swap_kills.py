"""kill -9 of the guard at random moments of a program's swap; the device is the outside observer.

Whatever moment it is: one of the two programs runs afterwards, the trip that stood is still there
under its generation, and the device never saw anything but the trip value.
"""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import InterlockState, LoadFlag, LoadStep, MessageType, OutputState, ResultCode
from tests.helpers.blobs import MS
from tests.helpers.guard import (
    BREAKER_COIL,
    BREAKER_CONTACT,
    METHANE_AT,
    GuardProcess,
    directories,
    mine,
)
from tests.helpers.modbus_server import ModbusServer

KILLS = 20
AFTER_S = 0.004  # a swap with its fsync and its rename takes about so long


def programs(port: int) -> list[bytes]:
    """Two that differ in what trips, so that the swap has something to move."""
    return [blobs.build(mine(port, delay_ns=n * MS)) for n in range(2)]


async def trip(guard: GuardProcess, server: ModbusServer) -> None:
    """The one trip of this test, on a released output."""
    for address in METHANE_AT:
        server.set_float("ir", address, 0.4)
    await guard.until_output(OutputState.RELEASED)
    for address in METHANE_AT:
        server.set_float("ir", address, 1.8)
    await guard.until_output(OutputState.TRIPPED)


@pytest.mark.timeout(120)
async def test_a_kill_at_any_moment_of_a_swap_keeps_the_trip(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    async with ModbusServer(tmp_path / "requests", reads=False) as server:
        server.link(BREAKER_COIL, BREAKER_CONTACT, 1.0)
        server.set("c", BREAKER_COIL, 1)
        server.set("di", BREAKER_CONTACT, 1)
        both = programs(server.port)
        hashes = [blobs.blob_hash(data) for data in both]
        with directories() as (runtime, state):
            guard = GuardProcess(runtime, state)
            try:
                await guard.start()
                assert guard.load(mine(server.port)).code == ResultCode.DONE
                for data, digest in zip(both, hashes, strict=True):
                    (state / "programs" / digest.hex()).write_bytes(data)
                await trip(guard, server)
                ran = [
                    await _killed_in_a_swap(guard, hashes, chance, answered=n % 4 == 0)
                    for n in range(KILLS)
                ]
            finally:
                await guard.close()
        values = [edge.value for edge in await server.edges(BREAKER_COIL)]
    assert values == [0], (values, f"seed {seed}")
    assert len(set(ran)) == 2, f"every kill left the same program, seed {seed}"


async def _killed_in_a_swap(
    guard: GuardProcess, hashes: list[bytes], chance: random.Random, *, answered: bool
) -> bytes:
    """Ask for the other program, kill, start again; the program that runs then.

    ``answered``: kill only after the guard's word that it runs, so that some swaps are whole.
    """
    view = guard.view
    assert view is not None
    running = view.header().program
    wanted = hashes[1 - hashes.index(running)]
    client = guard.client()
    load = messages.LOAD.pack(wanted, bytes(32), 1, LoadStep.SWAP, LoadFlag.WEAKENS)
    client.send(MessageType.LOAD, load, chance.randbytes(16))
    if answered:
        await asyncio.to_thread(client.receive, MessageType.RESULT)
    else:
        await asyncio.sleep(chance.uniform(0.0, AFTER_S))
    await guard.stop(signal.SIGKILL)
    client.close()
    await guard.start()
    view = guard.view
    assert view is not None
    found = view.header().program
    assert found == wanted if answered else found in {running, wanted}
    latch = view.interlock(0)
    assert (latch.state, latch.generation) == (InterlockState.TRIPPED, 1)
    await guard.until_output(OutputState.TRIPPED)
    return bytes(found)
