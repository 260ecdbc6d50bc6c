"""How far each uplink has the alerts.

An uplink that was ever in the site file is known by its cursor, also before it has any alert: so
one that is taken out of the file with alerts unsent is noticed.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aiosqlite import Connection

from gateway.errors import StoreError

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.store.ledger_state import LedgerState

ALERT = "alert"


class Cursors:
    """The cursors of a ledger. Every coroutine may raise StoreError; then nothing is done."""

    def __init__(self, database: "Database", state: "LedgerState") -> None:
        self._db = database
        self._state = state

    def of(self, uplink: str, lane: str) -> int:
        """As committed."""
        return self._state.cursors.get((uplink, lane), 0)

    def owed(self) -> dict[str, int]:
        """Alerts that each uplink does not have yet, those that the site has no more included."""
        head = self._state.head
        return {
            uplink: max(0, head - seq)
            for (uplink, lane), seq in self._state.cursors.items()
            if lane == ALERT
        }

    async def move(self, uplink: str, lane: str, seq: int, epoch: int) -> None:
        """Move one of this epoch forward, durably.

        Raises ValueError for a step back or beyond the last alert, StoreError where the ledger is
        of another epoch by then: its alerts have other numbers.
        """
        if epoch != self._state.epoch:
            raise of_another_epoch(uplink, lane, epoch)
        before, head = self.of(uplink, lane), self._state.head
        if not before <= seq <= head:
            msg = f"cursor of {uplink}/{lane} from {before} to {seq}, last alert {head}"
            raise ValueError(msg)
        if seq == before:
            return

        async def body(connection: Connection) -> None:
            if epoch != self._state.epoch or seq > self._state.head:
                raise of_another_epoch(uplink, lane, epoch)
            await connection.execute_fetchall(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)", (uplink, lane, epoch, seq)
            )

        def then(_: None) -> None:
            self._state.cursors[uplink, lane] = seq

        await self._db.transact(body, then)

    async def begin(self, uplinks: Sequence[str]) -> None:
        """These are uplinks of the site that get alerts: known from now on."""
        missing = [uplink for uplink in uplinks if (uplink, ALERT) not in self._state.cursors]
        if not missing:
            return

        async def body(connection: Connection) -> None:
            await begin_cursors(connection, missing, self._state.epoch)

        def then(_: None) -> None:
            for uplink in missing:  # the very job may have opened the file, and read what it holds
                self._state.cursors.setdefault((uplink, ALERT), 0)

        await self._db.transact(body, then)

    async def forget(self, uplink: str) -> None:
        """The site has this uplink no more: nothing is kept for it."""

        async def body(connection: Connection) -> None:
            await connection.execute_fetchall("DELETE FROM cursor WHERE uplink = ?", (uplink,))

        def then(_: None) -> None:
            for key in [key for key in self._state.cursors if key[0] == uplink]:
                del self._state.cursors[key]

        await self._db.transact(body, then)


def of_another_epoch(uplink: str, lane: str, epoch: int) -> StoreError:
    """A cursor of numbers that the file has no more: it was replaced in the meantime."""
    return StoreError(f"cursor of {uplink}/{lane} is of epoch {epoch}, which is over")


async def read_cursors(connection: Connection, epoch: int) -> dict[tuple[str, str], int]:
    """As stored."""
    return {
        (uplink, lane): seq
        for uplink, lane, seq in await connection.execute_fetchall(
            "SELECT uplink, lane, seq FROM cursor WHERE epoch = ?", (epoch,)
        )
    }


async def begin_cursors(connection: Connection, uplinks: Iterable[str], epoch: int) -> None:
    """One for each uplink that has none in this epoch."""
    await connection.execute_fetchall("DELETE FROM cursor WHERE epoch <> ?", (epoch,))
    await connection.executemany(
        "INSERT OR IGNORE INTO cursor VALUES (?, ?, ?, 0)",
        [(uplink, ALERT, epoch) for uplink in uplinks],
    )
