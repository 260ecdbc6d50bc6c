"""Power cuts under load, on a disk that keeps, drops or tears whatever was not synced.

What was once seen by the platform, answered to a person or acknowledged to the guard is there after
the cut; of the samples at most the last second is missing.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.machine import START_S, Machine

pytestmark = pytest.mark.system

MACHINES = 2  # side by side
SAMPLES_S = 1.0
LATE_S = 1.0  # by which a commit may be late on a machine that is busy with tests


def _for(span_s: float) -> Callable[[], Awaitable[None]]:
    return partial(asyncio.sleep, span_s)


async def _cuts(machine: Machine, cuts: int, papers: int) -> list[float]:
    """The machine's life over so many cuts; seconds of samples lost at each."""
    async with machine:
        while len(machine.cuts) < cuts:
            await machine.live(_for(machine.chance.uniform(0.1, 1.4)), papers)
        await machine.start()
        return await machine.lost_samples_s()


async def _run(tmp_path: Path, cuts: int, papers: int) -> None:
    seed = random.randrange(1 << 30)
    share = -(-cuts // MACHINES)
    machines = [Machine(tmp_path / str(i), seed + i) for i in range(MACHINES)]
    lost_s = await asyncio.gather(*(_cuts(machine, share, papers) for machine in machines))
    for machine, lost in zip(machines, lost_s, strict=True):
        told = f"seed {seed}, lost {lost}, starts {machine.starts_s}"
        assert not machine.wrong, (machine.wrong, told)
        assert not machine.doubled, told
        assert max(machine.starts_s) < START_S, told
        assert max(lost) <= SAMPLES_S + LATE_S, told
        assert sorted(lost)[len(lost) // 2] <= SAMPLES_S, told
        assert machine.moments >= share, told
        starts_s = max(machine.starts_s)
        print(f"{machine.moments} cuts: {max(lost):.2f} s lost, {starts_s:.1f} s to start at most")
        promised = machine.promised
        loads = (len(promised.alerts), len(promised.commands), len(promised.trips))
        assert min(loads) >= 2 * share, f"too little load {loads}, {told}"


@pytest.mark.timeout(240)
async def test_twenty_power_cuts_lose_nothing_that_anybody_knew(tmp_path: Path) -> None:
    await _run(tmp_path, cuts=20, papers=2)


@pytest.mark.campaign
@pytest.mark.timeout(3000)
async def test_two_hundred_power_cuts_lose_nothing_that_anybody_knew(tmp_path: Path) -> None:
    await _run(tmp_path, cuts=200, papers=10)


@pytest.mark.timeout(120)
async def test_without_syncs_something_is_missed(tmp_path: Path) -> None:
    """The same with ``synchronous=OFF``: proof that such a loss would be noticed."""
    machine = Machine(tmp_path / "careless", random.randrange(1 << 30), careless=True)
    async with machine:
        for _ in range(10):
            await machine.live(_for(machine.chance.uniform(0.3, 1.0)), papers=3)
            if machine.wrong:
                return
    pytest.fail("nothing was lost without any sync")
