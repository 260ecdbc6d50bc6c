"""What a database file belongs to: the part that knows its tables."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from aiosqlite import Connection

from gateway.store.sqlite_file import Schema

_T = TypeVar("_T")
Body = Callable[[Connection], Awaitable[_T]]


class Opened(NamedTuple):
    """How a file was found. ``aside`` is where a damaged one was put, and why."""

    fresh: bool
    aside: Path | None = None
    reason: str = ""
    epoch_min: int = 0  # a new epoch must be above this


class Owner(Protocol):
    """Whose tables the file has."""

    schema: Schema
    once: bool  # no number is given twice, also where a disk that failed has lost a commit

    async def load(self, connection: Connection, opened: Opened) -> None:
        """Read what the file holds, or begin it; inside a transaction, whenever it is opened."""

    async def make_room(self, connection: Connection) -> Callable[[], None] | None:
        """Delete the oldest that may go; inside a transaction, when there is no room.

        None where nothing may go, else what to do once that is committed.
        """

    def mark(self) -> tuple[int, int]:
        """(epoch, count of numbers ever given) of what is committed."""
