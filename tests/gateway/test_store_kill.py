"""kill -9 of a process that writes: what was acknowledged is there, nothing is there twice."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.store.ledger import Ledger
from tests.gateway.ledger_writer import JOURNAL
from tests.helpers.audits import audit_entries

ROOT = Path(__file__).parents[2]
KILLS = 6
KILLS_CAMPAIGN = 200


def write_and_kill(directory: Path, lines: int, rng: random.Random) -> tuple[int, int, int]:
    """The last acknowledged (alert, record, command) of a writer that was killed."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.ledger_writer", str(directory)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert writer.stdout is not None
    alert = record = command = 0
    for _ in range(lines):
        words = writer.stdout.readline().split()
        if words[0] == "alert":
            alert, record = int(words[1]), int(words[2])
        else:
            command = int(words[1])
    for _ in range(rng.randrange(20_000)):  # somewhere in what it is doing now
        pass
    writer.kill()
    for line in writer.stdout:  # acknowledged before the kill, read after it
        words = line.split()
        if line.endswith("\n") and words[0] == "alert":
            alert, record = int(words[1]), int(words[2])
        elif line.endswith("\n"):
            command = int(words[1])
    writer.wait()
    writer.stdout.close()
    return alert, record, command


async def kills(directory: Path, count: int) -> None:
    rng = random.Random(count)
    epoch = 0
    for _ in range(count):
        alert, record, command = write_and_kill(directory, rng.randrange(1, 40), rng)
        ledger = await Ledger.open(directory / "ledger.db", "shaft", reserve_bytes=0)
        try:
            assert ledger.epoch == epoch or not epoch
            epoch = ledger.epoch
            position = await ledger.journal_position(JOURNAL)
            assert position is not None
            assert ledger.head >= alert
            assert position >= record
            assert audit_entries(ledger) >= command
            found = [json.loads(item.body) for item in await ledger.alerts(1, 1_000_000)]
            assert [item["seq"] for item in found] == list(range(2, ledger.head + 1))
            causes = [item["cause"] for item in found]
            assert causes == [f"record {i}" for i in range(1, position)]
            assert len(ledger.active()) == min(7, position - 1)
        finally:
            await ledger.close()
    assert not list(directory.glob("*damaged*"))


async def test_kills_of_a_writer(tmp_path: Path) -> None:
    await kills(tmp_path, KILLS)


@pytest.mark.campaign
@pytest.mark.timeout(900)
async def test_kills_of_a_writer_campaign(tmp_path: Path) -> None:
    await kills(tmp_path, KILLS_CAMPAIGN)
