"""The correction of times from before the clock was set, when the ledger does not take it."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.life.clock_watch import SETTLE_NS, ClockWatch
from gateway.store.alert import AlertDraft

STEP_NS = SETTLE_NS + 1


class FakeLedger:
    """Numbers alerts; each try is kept, and the first ``fails`` fail."""

    def __init__(self, fails: int) -> None:
        self.epoch, self.head = 1, 7
        self.fails = fails
        self.tries: list[tuple[AlertDraft, ...]] = []
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def append(self, drafts: Sequence[AlertDraft]) -> None:
        self.tries.append(tuple(drafts))
        self.begun.set()
        if len(self.tries) <= self.fails:
            raise StoreError("disk full")
        await self.go_on.wait()


async def corrected_late(watch: ClockWatch, ledger: FakeLedger) -> None:
    """What is not taken at first."""
    for _ in range(ledger.fails):
        with pytest.raises(StoreError):
            await watch.look()


def watch_of(file: Path, ledger: FakeLedger, synced: list[bool]) -> ClockWatch:
    boot_ns = itertools.count(STEP_NS, STEP_NS)
    utc_ns = itertools.count(10**18, 3 * STEP_NS)  # never twice the same offset
    return ClockWatch(
        file,
        ledger,
        synced=lambda: synced[0],
        utc_ns=lambda: next(utc_ns),
        boot_ns=lambda: next(boot_ns),
        boot="this",
    )


async def test_the_same_correction_is_appended_again(tmp_path: Path) -> None:
    ledger, synced = FakeLedger(2), [False]
    ledger.go_on.set()
    watch = watch_of(tmp_path / "clock", ledger, synced)
    await watch.look()
    synced[0] = True
    await watch.look()  # it is synchronised, and has to stay so for a while
    await corrected_late(watch, ledger)
    await watch.look()
    first, second, third = ledger.tries
    assert [len(first), len(second), len(third)] == [1, 1, 1]
    assert first[0] is second[0] is third[0]
    assert not (tmp_path / "clock").exists()


async def test_a_stop_meanwhile_does_not_tell_it_twice(tmp_path: Path) -> None:
    ledger, synced = FakeLedger(0), [False]
    watch = watch_of(tmp_path / "clock", ledger, synced)
    await watch.look()
    synced[0] = True
    await watch.look()
    look = asyncio.create_task(watch.look())
    await ledger.begun.wait()
    look.cancel()
    await asyncio.wait({look})
    ledger.go_on.set()
    async with asyncio.timeout(5.0):
        while (tmp_path / "clock").exists():  # noqa: ASYNC110  what goes on tells nobody
            await asyncio.sleep(0)
    assert len(ledger.tries) == 1
