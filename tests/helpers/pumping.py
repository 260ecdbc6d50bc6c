"""A pump between stores in memory and a platform, for tests of what becomes of its items."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.uplink.pump import Pump
from gateway.uplink.registry import make_uplink
from tests.helpers.uplinks import (
    SENDER,
    T0_NS,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    MemoryUplink,
    config_of,
)

NOW_NS = T0_NS + 100_000_000_000


@dataclass
class Bench:
    """A pump and what it is between."""

    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    history: MemoryHistory = field(default_factory=MemoryHistory)
    problems: MemoryProblems = field(default_factory=MemoryProblems)
    uplink: MemoryUplink = field(default_factory=MemoryUplink)

    def make(self, uplink: Any = None, url: str = "", **changes: Any) -> Pump:
        """To ``uplink``, to the platform at ``url``, or to ``self.uplink``."""
        kind = "http" if url.startswith("http") else "mqtt"
        config = config_of(url or "mqtt://127.0.0.1", kind=kind, **changes)
        uplink = uplink or (make_uplink(config, SENDER) if url else self.uplink)
        return Pump(
            config, uplink, self.ledger, self.history, self.problems, SENDER,
            utc_ns=lambda: NOW_NS, jitter=lambda: 0.5,
        )  # fmt: skip

    @asynccontextmanager
    async def running(
        self, uplink: Any = None, url: str = "", **changes: Any
    ) -> AsyncIterator[Pump]:
        """The pump, while it runs."""
        made = self.make(uplink, url, **changes)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def cursor(self, lane: str = "alert") -> int:
        """The stored cursor of a lane."""
        if lane == "alert":
            return self.ledger.cursors.get(("platform", lane), 0)
        return self.history.cursors.get(lane, 0)
