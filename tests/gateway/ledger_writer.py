"""Writes into a ledger as fast as it can and says what was acknowledged: to be killed by a test.

Run as ``python -m tests.gateway.ledger_writer DIRECTORY``. A line is printed after each commit.
"""

import asyncio
import sys
from pathlib import Path

from gateway.store.alert import AlertDraft, Source
from gateway.store.ledger import Ledger

JOURNAL = 11
BATCH = 3


async def main(directory: Path) -> None:
    ledger = await Ledger.open(directory / "ledger.db", "shaft", reserve_bytes=0)
    record = await ledger.journal_position(JOURNAL) or 1
    while True:
        drafts = [
            AlertDraft(
                kind="trip",
                state="raised",
                source=Source("interlock", "face"),
                cause=f"record {record + i}",
                subject=f"interlock:{(record + i) % 7}",
                repeat=True,
                journal_seq=record + i,
            )
            for i in range(BATCH)
        ]
        record += BATCH
        await ledger.append(drafts, journal=(JOURNAL, record))
        sys.stdout.write(f"alert {ledger.head} {record}\n")
        if record % 2:
            seq = await ledger.command("uid 0", "reset", "face", {"record": record})
            sys.stdout.write(f"command {seq}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
