"""The five-minute values of a damaged history: taken over after the start, a step at a time.

There may be a year of them, which no start waits for. How far it has come stands in the new file,
so a restart goes on with it. Those of pieces that were not packed are made with the new file.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiosqlite import Connection

from fastpath.columns import FIELDS
from gateway.store import tiers
from gateway.store.chunks import Piece, merged
from gateway.store.database import Database
from gateway.store.old_history import OldHistory
from gateway.store.sqlite_file import value_of

_LOGGER = logging.getLogger(__name__)

STEP_BYTES: Final = 512 * 1024
STEPS_PER_CALL: Final = 16
_KEY: Final = "five-minute values to take over"


class Rest(msgspec.Struct, frozen=True):
    """What is still to be taken over: lines with ids below one of a file."""

    file: str
    below: int
    had: int | None  # buckets that there were, None: that is not known
    taken: int = 0


class _Read(NamedTuple):
    """Lines, by the key and tags of their groups, and the rest behind them."""

    lines: list[tuple[tuple[str, str], tiers.Line]]
    below: int


async def begin(connection: Connection, old: OldHistory, file: str, packed_to: int) -> None:
    """Note what there is to take over: of the windows up to a piece."""
    had = await asyncio.to_thread(old.buckets)
    rest = Rest(file, tiers.line_id(packed_to + 1), had)
    await connection.execute_fetchall("INSERT INTO meta VALUES (?, ?)", (_KEY, _text(rest)))


async def make(
    connection: Connection, pieces: Sequence[Piece], group_tags: Mapping[int, Sequence[str]]
) -> None:
    """Lines of pieces that were not packed, one of each group, in the place of its last piece."""
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.group_id, []).append(piece)
    lines: list[tiers.Line] = []
    for own in groups.values():
        lines += await asyncio.to_thread(_lines_of, own, group_tags)
    await tiers.store(connection, lines)


async def take_over(db: Database, max_bytes: int) -> tuple[bool, str]:
    """Some more of it. Raises StoreError.

    (Whether there is more, and, where it has ended with this, what is lost for good.)
    """
    for _ in range(STEPS_PER_CALL):
        rest = await db.query(_rest)
        if rest is None:
            return False, ""
        read = await asyncio.to_thread(_read, db.path.parent, rest)
        after = await db.transact(partial(_store, rest, read, max_bytes))
        if after is not None and not after.below:
            return False, _told(after)
    return True, ""


async def _rest(connection: Connection) -> Rest | None:
    text = await value_of(connection, "SELECT value FROM meta WHERE key = ?", (_KEY,))
    return msgspec.json.decode(text, type=Rest) if text else None


def _read(directory: Path, rest: Rest) -> _Read:
    """The next lines of the damaged file; none where it is gone. Blocking."""
    path, found, below = directory / rest.file, [], rest.below
    if not path.is_file():
        return _Read([], 0)
    with OldHistory(path) as old:
        old.limit(STEP_BYTES)
        groups = {ident: (key, tags) for ident, key, tags in old.groups()}
        while below and old.may_go_on():
            lines, below = old.lines(below)
            found += [(groups[line.group_id], line) for line in lines if line.group_id in groups]
    return _Read(found, below)


async def _store(rest: Rest, read: _Read, max_bytes: int, connection: Connection) -> Rest | None:
    """Store them; None where the file is another one meanwhile."""
    if await _rest(connection) != rest:
        return None
    ids = {
        (key, tags): ident
        for ident, key, tags in await connection.execute_fetchall(
            "SELECT id, group_key, tags FROM poll_group"
        )
    }
    lines = [line._replace(group_id=ids[key]) for key, line in read.lines if key in ids]
    await tiers.store(connection, lines)
    over = (await value_of(connection, "SELECT bytes FROM tier") or 0) >= max_bytes
    after = msgspec.structs.replace(
        rest,
        below=0 if over else read.below,
        taken=rest.taken + sum(line.n for line in lines) // FIELDS,
    )
    if after.below:
        sql = "UPDATE meta SET value = ?2 WHERE key = ?1"
        await connection.execute_fetchall(sql, (_KEY, _text(after)))
    else:
        await connection.execute_fetchall("DELETE FROM meta WHERE key = ?", (_KEY,))
    return after


def _lines_of(pieces: Sequence[Piece], group_tags: Mapping[int, Sequence[str]]) -> list[tiers.Line]:
    """Of one group."""
    last = pieces[-1].piece
    try:
        return tiers.lines_of(merged((last, last), pieces, group_tags), group_tags)
    except (LookupError, TypeError, ValueError) as error:
        _LOGGER.error("no five-minute values of what was not packed: %s", error)
        return []


def _told(rest: Rest) -> str:
    """What to tell people now that it has ended; "" where nothing is lost."""
    had = "an unknown number" if rest.had is None else str(rest.had)
    text = f"{rest.taken} of {had} five-minute values of {rest.file} were taken over"
    _LOGGER.info("%s", text)
    whole = not rest.taken if rest.had is None else rest.taken >= rest.had
    return "" if whole else text


def _text(rest: Rest) -> str:
    return msgspec.json.encode(rest).decode()
