"""The five-minute values of a damaged history: taken over after the start, a step at a time.

There may be a year of them, which no start waits for. How far it has come stands in the new file,
so a restart goes on with it, and so does the file that follows where this one is damaged as well.
Those of pieces that were not packed are made with the new file.
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
from gateway.life.descriptors import SPARE_ONES
from gateway.store import tiers
from gateway.store.chunks import Piece, merged
from gateway.store.database import Database
from gateway.store.old_history import OldHistory
from gateway.store.sqlite_file import value_of

_LOGGER = logging.getLogger(__name__)

STEP_BYTES: Final = 512 * 1024
STEPS_PER_CALL: Final = 16
TRIES_MAX: Final = 100  # calls: where an error has not passed by then it counts as damage
_KEY: Final = "five-minute values to take over"


class Rest(msgspec.Struct, frozen=True):
    """What is still to be taken over: lines with ids below one of a file."""

    file: str
    below: int
    had: int | None  # buckets that there were, None: that is not known
    taken: int = 0
    tries: int = 0  # in vain, since something was read
    then: "Rest | None" = None  # of the file before, which was damaged earlier


class _Read(NamedTuple):
    """Lines, by the key and tags of their groups, and the rest behind them.

    ``passing``: it ended with an error that may pass.
    """

    lines: list[tuple[tuple[str, str], tiers.Line]]
    below: int
    passing: bool = False


async def begin(connection: Connection, old: OldHistory, file: str, packed_to: int) -> None:
    """Note what there is to take over: of the windows up to a piece, then what it had to itself."""
    had = await asyncio.to_thread(old.buckets)
    before = _rest_of(await asyncio.to_thread(old.note, _KEY))
    rest = Rest(file, tiers.line_id(packed_to + 1), had, then=before)
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
        with SPARE_ONES.lent():
            read = await asyncio.to_thread(_read, db.path.parent, rest)
        after = await db.transact(partial(_store, rest, read, max_bytes))
        if after is not None and not after.below:
            return after.then is not None, _told(after)
        if read.passing:
            break
    return True, ""


async def _rest(connection: Connection) -> Rest | None:
    return _rest_of(await value_of(connection, "SELECT value FROM meta WHERE key = ?", (_KEY,)))


def _rest_of(text: str | None) -> Rest | None:
    """None, too, where the text makes no sense."""
    try:
        return msgspec.json.decode(text, type=Rest) if text else None
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _read(directory: Path, rest: Rest) -> _Read:
    """The next lines of the damaged file; none where it is gone. Blocking."""
    path, below = directory / rest.file, rest.below
    found: list[tuple[tuple[str, str], tiers.Line]] = []
    patient = rest.tries < TRIES_MAX
    try:
        if not path.is_file():
            return _Read([], 0)
    except OSError:
        return _Read([], below if patient else 0, passing=patient)
    with OldHistory(path) as old:
        old.limit(STEP_BYTES)
        groups = {ident: (key, tags) for ident, key, tags in old.groups()}
        while below and old.may_go_on():
            lines, after = old.lines(below)
            if old.passing and patient:  # the groups, or these: nothing of it is left out yet
                return _Read(found, below, passing=True)
            below = after
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
        tries=rest.tries + 1 if read.passing and read.below == rest.below else 0,
    )
    await _note(connection, after if after.below else after.then)
    return after


async def _note(connection: Connection, rest: Rest | None) -> None:
    """What is to be taken over from now on: older than all that is here."""
    await connection.execute_fetchall("DELETE FROM meta WHERE key = ?", (_KEY,))
    if rest is not None:
        first = await value_of(connection, "SELECT min(id) FROM summary") or rest.below
        rest = msgspec.structs.replace(rest, below=min(rest.below, first))
        await connection.execute_fetchall("INSERT INTO meta VALUES (?, ?)", (_KEY, _text(rest)))


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
