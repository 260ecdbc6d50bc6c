"""A disk that fails in the middle and comes back, under load, and then the power goes.

What anybody was told of meanwhile must be found after the cut: a sync that has failed is not tried
again and believed, and nothing is acknowledged while the disk takes nothing.
"""

import asyncio
import errno
import random
import time
from pathlib import Path

import pytest

from tests.helpers.harness import until
from tests.helpers.machine import Machine

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

HEAL_S = 10.0
FAULTS = {
    "every sync fails": {"sync_errno": errno.EIO},
    "every write fails": {"write_errno": errno.EIO},
    "over quota": {"write_errno": errno.EDQUOT},
    "read-only": {"write_errno": errno.EROFS, "open_errno": errno.EROFS},
}
COUNTS = ("syncs_failed", "writes_failed")


class Faulty(Machine):
    """Its disk fails for a while."""

    healed_s = 0.0

    def ledger_alerts(self, state: str) -> list[str]:
        """The platform's alerts about the ledger."""
        return [
            data["id"]
            for data in self.platform.unique().values()
            if (data["source"]["kind"], data["source"]["id"]) == ("store", "ledger")
            and data["state"] == state
        ]

    async def fail(self, **faults: int) -> None:
        """Until it is noticed, a moment longer, and until it is in use again."""
        await asyncio.sleep(self.chance.uniform(0.2, 0.6))
        self.recorded.faults("/state/", **faults)
        await until("it is noticed", self._down)
        answered = len(self.promised.commands)
        await asyncio.sleep(self.chance.uniform(0.5, 1.5))
        assert len(self.promised.commands) <= answered + 1, "an order was taken without a ledger"
        self.recorded.faults("")
        healing = time.monotonic()
        await until("its end is told", lambda: bool(self.ledger_alerts("cleared")), HEAL_S)
        self.healed_s = time.monotonic() - healing
        await asyncio.sleep(self.chance.uniform(0.0, 0.3))

    async def _down(self) -> bool:
        status = await self.site.get("/status")
        return any(problem["id"] == "ledger" for problem in status["problems"])


@pytest.mark.parametrize("how", FAULTS)
async def test_a_disk_that_fails_is_told_and_heals_and_nothing_known_is_lost(
    tmp_path: Path, how: str
) -> None:
    seed = random.randrange(1 << 30)
    machine = Faulty(tmp_path / "machine", seed)
    async with machine:
        await machine.live(lambda: machine.fail(**FAULTS[how]), papers=4)
        assert sum(map(machine.recorded.count, COUNTS)) >= 3, "too few faults"
        assert machine.ledger_alerts("raised")
        await machine.start()
        lost_s = await machine.lost_samples_s()
        assert not machine.wrong, (machine.wrong, f"seed {seed}")
        assert max(lost_s) < 2.0, (lost_s, f"seed {seed}")
        assert len(machine.promised.commands) >= 3


async def test_a_sync_of_five_seconds_blocks_nobody_and_loses_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", random.randrange(1 << 30))
    async with machine:

        async def slow() -> None:
            await asyncio.sleep(0.3)
            machine.recorded.faults("/state/", sync_ms=5_000)
            await until("a slow sync", lambda: machine.recorded.count("syncs_slow") > 1)
            for _ in range(10):
                began = time.monotonic()
                await machine.site.get("/status")
                assert time.monotonic() - began < 2.0  # not the five of the disk
                await asyncio.sleep(0.1)
            machine.recorded.faults("")
            before = len(machine.platform.unique())
            await until("alerts go on", lambda: len(machine.platform.unique()) > before + 10)

        await machine.live(slow, papers=2)
        await machine.start()
        await machine.lost_samples_s()
        assert not machine.wrong
