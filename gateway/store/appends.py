"""Alerts that wait for the ledger's next transaction: many callers, one commit.

Whoever comes while a transaction is under way shares the next one, in the order of coming. Each
call is still all or nothing: where one of a group cannot be written at all (not for want of room),
each gets a transaction of its own.

A commit that failed may be in the file all the same. A draft is one event: who appends it again
after that gets the number that it has, not another one.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from aiosqlite import Connection

from gateway.errors import StoreError
from gateway.store.alert import AlertDraft
from gateway.store.batch import Batch
from gateway.store.ledger_state import LedgerState
from gateway.store.unsure import Unsure

if TYPE_CHECKING:
    from gateway.store.database import Database

GROUP_MAX: Final = 500  # alerts of one transaction, unless one call has more: ~15 ms of the loop


@dataclass(slots=True, eq=False)
class _Call:
    drafts: Sequence[AlertDraft]
    journal: tuple[int, int] | None
    samples: tuple[int, int] | None
    epoch: int  # 0: any
    done: "asyncio.Future[list[int]]"
    seqs: list[int] = field(default_factory=list)


class Appends:
    """The state adopts what is committed before anybody is told."""

    def __init__(self, database: "Database", state: LedgerState) -> None:
        self._db = database
        self._state = state
        self._unsure = Unsure()
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def put(
        self,
        drafts: Sequence[AlertDraft],
        journal: tuple[int, int] | None,
        samples: tuple[int, int] | None,
        epoch: int = 0,
    ) -> list[int]:
        """The sequences of the drafts, durable. Raises StoreError; then nothing is done.

        ``epoch``: that of the ledger which they are for, 0: any.
        """
        if self._closed:
            msg = "the ledger is closed"
            raise StoreError(msg)
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_looked_at)
        self._waiting.append(_Call(drafts, journal, samples, epoch, done))
        self._begin()
        return await asyncio.shield(done)  # a caller that goes away takes nothing back

    async def close(self) -> None:
        """Take no more, and wait for what is there."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait({self._task})

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._carry(), name="ledger appends")

    async def _carry(self) -> None:
        """Cancelled, it goes on until all are answered: a task after it would outlive its loop."""
        while self._waiting:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.create_task(self._commit([]), name="ledger commit"))

    async def _commit(self, group: list[_Call]) -> None:
        try:
            await self._db.transact(partial(self._write, group), self._take)
        except StoreError as error:
            for call in group or self._take_waiting():
                _fail(call, error)
        except Exception as error:  # noqa: BLE001  told to whoever it belongs to
            if len(group) > 1:
                for call in group:
                    await self._commit([call])
                return
            for call in group or self._take_waiting():
                _fail(call, error)
        else:
            for call in group:
                if not call.done.done():
                    call.done.set_result(call.seqs)

    async def _write(self, group: list[_Call], connection: Connection) -> Batch:
        if not group:  # else the transaction runs once more, for the same
            group.extend(self._take_waiting())
        for call in [each for each in group if each.epoch not in {0, self._state.epoch}]:
            group.remove(call)
            _fail(call, StoreError("the ledger was begun anew"))
        await self._unsure.look(connection, self._state.epoch)
        batch = self._state.batch(self._unsure.told)
        for call in group:
            first = len(batch.seqs)
            self._state.fill(batch, call.drafts, call.journal, call.samples)
            call.seqs = batch.seqs[first:]
        await self._state.write(connection, batch)
        self._unsure.trying(batch, [draft for call in group for draft in call.drafts])
        return batch

    def _take(self, batch: Batch) -> None:
        self._state.take(batch)
        self._unsure.settle()

    def _take_waiting(self) -> list[_Call]:
        """The oldest calls, at least one."""
        count, alerts = 0, 0
        for call in self._waiting:
            alerts += len(call.drafts)
            if count and alerts > GROUP_MAX:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken


def _fail(call: _Call, error: Exception) -> None:
    if not call.done.done():
        call.done.set_exception(error)


def _looked_at(done: "asyncio.Future[list[int]]") -> None:
    """A caller that was cancelled does not come for its answer."""
    if not done.cancelled():
        done.exception()
