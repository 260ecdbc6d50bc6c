"""A file of an older version is brought forward: a copy beside it, then one transaction.

Constraints:
- a kill at any moment leaves the old version, whole, and the next start begins again;
- the copy is made by SQLite's own backup, named only once it is whole and on the disk, readable by
  the owner alone; where the disk has no room for it the file is brought forward without one, since
  a gateway that does not start is worse;
- a step sees the file as the step before left it, and changes nothing but the database.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from aiosqlite import Connection

_LOGGER = logging.getLogger(__name__)

COPIES_MAX: Final = 2  # the newest
SPARE_BYTES: Final = 16 * 1024 * 1024  # that is left on the disk
_MAKING: Final = ".making"

Code = Callable[[Connection], Awaitable[None]]


class Step(NamedTuple):
    """How a file becomes version ``to`` of its schema: the SQL file ``sql``, then ``code``.

    Both run inside the transaction of the whole way, with foreign keys checked at its end.
    """

    to: int
    sql: str = ""
    code: Code | None = None


class StrandedError(Exception):
    """There is no way from the file's version to the present one."""


async def bring_forward(
    connection: Connection, path: Path, steps: tuple[Step, ...], found: int, wanted: int
) -> None:
    """From version ``found`` to ``wanted``. Raises StrandedError, sqlite3.Error or ValueError."""
    way = [step for step in steps if found < step.to <= wanted]
    if [step.to for step in way] != list(range(found + 1, wanted + 1)):
        msg = f"there is no way from schema {found} to {wanted}"
        raise StrandedError(msg)
    copy = await _copy(connection, path, found)
    await connection.execute_fetchall("PRAGMA foreign_keys=OFF")  # heeded outside of one alone
    await connection.execute_fetchall("BEGIN IMMEDIATE")
    try:
        for step in way:
            await _take(connection, step)
        await _check_foreign_keys(connection)
        await connection.execute_fetchall("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error, ValueError):
            if connection.in_transaction:
                await connection.execute_fetchall("ROLLBACK")
        raise
    await connection.execute_fetchall("PRAGMA foreign_keys=ON")
    kept = f"a copy is {copy.name}" if copy else "there was no room for a copy"
    _LOGGER.warning("%s: brought from schema %d to %d; %s", path.name, found, wanted, kept)


def copies(path: Path) -> list[Path]:
    """The copies beside the file, the oldest first."""
    found = path.parent.glob(f"{path.name}.schema-*[0-9]")
    return sorted(found, key=lambda copy: copy.stat().st_mtime_ns)


async def _take(connection: Connection, step: Step) -> None:
    if step.sql:
        text = Path(__file__).with_name(step.sql).read_text("utf-8")
        for statement in statements(text):
            await connection.execute_fetchall(statement)
    if step.code:
        await step.code(connection)
    await connection.execute_fetchall(f"PRAGMA user_version={step.to}")


async def _check_foreign_keys(connection: Connection) -> None:
    for table, row, *_ in await connection.execute_fetchall("PRAGMA foreign_key_check"):
        msg = f"row {row} of {table} belongs to nothing"
        raise ValueError(msg)


def statements(text: str) -> Iterator[str]:
    """The statements of a script one by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


async def _copy(connection: Connection, path: Path, found: int) -> Path | None:
    copy = path.with_name(f"{path.name}.schema-{found}")
    making = copy.with_name(copy.name + _MAKING)
    try:
        await asyncio.to_thread(_prepare, path, making)
        await back_up(connection, making)
        await asyncio.to_thread(_adopt, path, making, copy)
    except (OSError, sqlite3.Error) as error:
        _LOGGER.warning("%s: no copy before the new schema: %s", path.name, error)
        making.unlink(missing_ok=True)
        return None
    return copy


async def back_up(connection: Connection, making: Path) -> None:
    """Copy a database that is open into an empty file, or one to be made. Raises sqlite3.Error."""
    target = sqlite3.connect(making, isolation_level=None, check_same_thread=False)
    try:
        target.execute("PRAGMA synchronous=OFF")  # it is synced once, when it is whole
        await connection.backup(target)
        await asyncio.to_thread(target.execute, "PRAGMA journal_mode=DELETE")
    finally:
        target.close()


def _prepare(path: Path, making: Path) -> None:
    """An empty file for the copy. Raises OSError where the disk has no room for it."""
    needed_bytes = sum(
        part.stat().st_size for part in (path, path.with_name(f"{path.name}-wal")) if part.exists()
    )
    making.unlink(missing_ok=True)  # of a start that was killed: its room is free
    free_bytes = shutil.disk_usage(path.parent).free
    # The transaction itself may write all of it into the -wal, and then into the file.
    if free_bytes < 3 * needed_bytes + SPARE_BYTES:
        msg = f"{free_bytes >> 20} MiB are free, three times {needed_bytes >> 20} MiB are needed"
        raise OSError(msg)
    os.close(os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _adopt(path: Path, making: Path, copy: Path) -> None:
    """Make the copy durable, give it its name, and let the oldest go."""
    for each in (making, path.parent):
        if each != making:
            making.replace(copy)
        descriptor = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for old in copies(path)[:-COPIES_MAX]:
        old.unlink(missing_ok=True)
