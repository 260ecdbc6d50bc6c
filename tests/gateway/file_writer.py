"""Runs a pump over a file uplink and kills it by -9, again and again; says what it did.

``python -m tests.gateway.file_writer DIRECTORY ROUNDS SEED``; what is whole is fetched between the
lives, into FETCHED beside it.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from gateway.site.model import Duration, Size
from gateway.store.alert import AlertItem
from gateway.uplink.file import FileUplink
from gateway.uplink.pump import Pump
from tests.helpers.uplinks import (
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    config_of,
)

ALERTS = 100_000_000  # more than all lives can write
ALERTS_AT_ONCE = 20  # so that a thousand lives fill no disk
FETCHED = "fetched"
LIFE_MS = (5, 120)


class Cursors(MemoryLedger):
    """A ledger of many equal alerts, whose cursor outlives the process."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.put(1)
        self._body = self.bodies.pop()  # with the sequence after the last one
        if path.exists():
            self.cursors["platform", "alert"] = int(path.read_text())

    @property
    def head(self) -> int:
        return ALERTS

    async def alerts(self, after: int, limit: int) -> list[AlertItem]:
        return [
            AlertItem(seq, self._body.replace(b"%d" % (ALERTS + 1), b"%d" % seq))
            for seq in range(after + 1, after + 1 + min(limit, ALERTS_AT_ONCE))
        ]

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        await super().move_cursor(uplink, lane, seq, epoch=epoch)
        beside = self._path.with_suffix(".new")
        beside.write_text(str(seq))
        beside.replace(self._path)


async def write(directory: Path, cursor: Path) -> None:
    """For ever."""
    config = config_of(
        f"file://{directory}", kind="file", lanes=("alert",), max_files=100_000,
        rotate_bytes=Size(8_000), rotate_after=Duration(20_000_000),
    )  # fmt: skip
    uplink = FileUplink(config, SENDER)
    ledger, history, problems = Cursors(cursor), MemoryHistory(), MemoryProblems()
    await Pump(config, uplink, ledger, history, problems, SENDER).run()


def main(directory: Path, rounds: int, seed: int) -> None:
    """One life per round, each ended at a moment of its own."""
    chance = random.Random(seed)
    cursor = directory.parent / "cursor"
    fetched = directory.parent / FETCHED
    fetched.mkdir()
    torn = 0
    for _ in range(rounds):
        pid = os.fork()
        if not pid:
            asyncio.run(write(directory, cursor))
        time.sleep(chance.uniform(*LIFE_MS) / 1_000)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        left = list(directory.iterdir())
        whole = [path for path in left if not path.name.endswith(".part")]
        torn += len(whole) < len(left)
        for path in whole:
            path.rename(fetched / path.name)
    acked = int(cursor.read_text()) if cursor.exists() else 0
    print(json.dumps({"kills": rounds, "left_open": torn, "acked": acked}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
