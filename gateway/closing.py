"""The end of the two databases, which a disk that hangs must not hold."""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.life.problems import Problems
    from gateway.store.history import History
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

STORES_STOP_S: Final = 0.8


class Closing:
    """Closes ledgers and histories; what was told last goes into the ledger before."""

    def __init__(self, problems: "Problems") -> None:
        self._problems = problems
        self.tasks: set[asyncio.Task[None]] = set()  # stores that the disk has not let go of

    async def close(self, ledger: "Ledger", history: "History") -> None:
        """In ``STORES_STOP_S`` at most: where the disk takes longer, it goes on by itself."""
        ends = (self._close_ledger(ledger), history.close())
        closing = {asyncio.create_task(end, name="store closes") for end in ends}
        self.tasks |= closing
        for task in closing:
            task.add_done_callback(self._closed)
        _, late = await asyncio.wait(closing, timeout=STORES_STOP_S)
        if late:
            _LOGGER.error("the databases do not close in time; they are safe as they are")

    def _closed(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOGGER.error("a database was not closed in order", exc_info=error)

    async def _close_ledger(self, ledger: "Ledger") -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORES_STOP_S / 2):
                await self._problems.flush(ledger)
        await ledger.close()
