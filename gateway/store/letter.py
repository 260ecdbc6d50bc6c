"""Dead letters: what an uplink has refused for good, and what people have done with it since.

A letter is dead, queued (somebody wants it sent again), resent (and taken then) or discarded. It is
never forgotten; its body goes when nobody needs it any more.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiosqlite import Connection
from msgspec import Struct

if TYPE_CHECKING:
    from gateway.store.database import Database

DEAD: Final = "dead"
QUEUED: Final = "queued"
RESENT: Final = "resent"
DISCARDED: Final = "discarded"
SEND_MAX: Final = 100  # given to a pump at once

THESE: Final = "WHERE id IN (SELECT value FROM json_each(?))"
QUEUED_ONE: Final = "WHERE uplink = ? AND lane = ? AND epoch = ? AND seq = ? AND state = 'queued'"
READ: Final = (
    "SELECT id, uplink, lane, epoch, seq, reason, utc_ns, state, changed_ns, note, {body} "
    "FROM letter "
)


class Letter(Struct, frozen=True):
    """One letter; ``body`` is the item's JSON as it was refused, empty once nobody needs it."""

    id: int
    uplink: str
    lane: str
    epoch: int  # of the store that numbered it
    seq: int
    reason: str
    utc_ns: int
    state: str
    changed_ns: int
    note: str
    body: bytes = b""


class LetterCount:
    """How many letters there are, as committed."""

    def __init__(self) -> None:
        self.by_reason: Counter[tuple[str, str]] = Counter()  # (uplink, reason): ever
        self.by_state: Counter[tuple[str, str]] = Counter()  # (uplink, state): now

    async def load(self, connection: Connection) -> None:
        """Count them."""
        for uplink, reason, state, count in await connection.execute_fetchall(
            "SELECT uplink, reason, state, count(*) FROM letter GROUP BY uplink, reason, state"
        ):
            self.by_reason[uplink, reason] += count
            self.by_state[uplink, state] += count

    def came(self, uplink: str, reason: str) -> None:
        """A new one."""
        self.by_reason[uplink, reason] += 1
        self.by_state[uplink, DEAD] += 1

    def moved(self, letter: Letter, state: str) -> None:
        """One has another state now."""
        self.by_state[letter.uplink, letter.state] -= 1
        self.by_state[letter.uplink, state] += 1


class LetterBox:
    """The letters of a ledger. Every coroutine may raise StoreError; then nothing is done."""

    def __init__(
        self, database: "Database", count: Callable[[], LetterCount], utc_ns: Callable[[], int]
    ) -> None:
        self._db = database
        self._count = count
        self._utc_ns = utc_ns

    def queued(self, uplink: str) -> int:
        """How many of an uplink are to be sent again."""
        return self._count().by_state[uplink, QUEUED]

    async def to_send(self, uplink: str) -> list[Letter]:
        """The oldest of those, at most ``SEND_MAX``."""
        where = "WHERE uplink = ? AND state = ? ORDER BY id LIMIT ?"
        return await self._db.query(reading(where, (uplink, QUEUED, SEND_MAX)))

    async def page(self, after: int, limit: int, *, every: bool) -> list[Letter]:
        """Letters above an id, without their bodies; ``every``: those that are settled, too."""
        return await self._db.query(reading(*listing(after, limit, every=every), body=False))

    async def some(self, idents: Sequence[int], *, body: bool = False) -> list[Letter]:
        """Those of these ids that there are."""
        ids = msgspec.json.encode(list(idents)).decode()
        return await self._db.query(reading(THESE, (ids,), body=body))

    async def mark(self, idents: Sequence[int]) -> list[Letter]:
        """Have dead letters sent again; those that were dead."""
        ids = msgspec.json.encode(list(idents)).decode()
        return await self.settle(f"{THESE} AND state = 'dead'", (ids,), QUEUED)

    async def discard(self, idents: Sequence[int], reason: str) -> list[Letter]:
        """Give letters up; those that were dead or queued."""
        ids = msgspec.json.encode(list(idents)).decode()
        return await self.settle(
            f"{THESE} AND state IN ('dead', 'queued')", (ids,), DISCARDED, reason
        )

    async def settle(
        self, where: str, parameters: Sequence[Any], state: str, note: str = ""
    ) -> list[Letter]:
        """Bring the letters of a condition into another state; they as they were before."""

        async def body(connection: Connection) -> list[Letter]:
            found = await reading(where, tuple(parameters))(connection)
            now_ns = self._utc_ns()
            await connection.executemany(
                "UPDATE letter SET state = ?, changed_ns = ?, note = ? WHERE id = ?",
                [(state, now_ns, note or letter.note, letter.id) for letter in found],
            )
            if state in (RESENT, DISCARDED):
                await connection.executemany(
                    "UPDATE letter SET body = x'' WHERE id = ?", [(each.id,) for each in found]
                )
            return found

        def then(found: list[Letter]) -> None:
            for letter in found:
                self._count().moved(letter, state)

        return await self._db.transact(body, then)


def listing(after: int, limit: int, *, every: bool) -> tuple[str, tuple[Any, ...]]:
    """The condition for a page of letters, and its parameters."""
    if every:
        return "WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    where = "WHERE id > ? AND state IN (?, ?) ORDER BY id LIMIT ?"
    return where, (after, DEAD, QUEUED, limit)


def reading(
    where: str, parameters: tuple[Any, ...], *, body: bool = True
) -> Callable[[Connection], Awaitable[list[Letter]]]:
    """What reads the letters of a condition."""
    sql = READ.format(body="body" if body else "x''") + where

    async def read(connection: Connection) -> list[Letter]:
        return [Letter(*row) for row in await connection.execute_fetchall(sql, parameters)]

    return read
