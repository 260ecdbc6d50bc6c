"""A SQLite file as we use it: how it is opened, checked and closed.

Constraints: the options are those of every open (none is left to a file's own memory), and nothing
here opens the file behind SQLite's back while a connection of this process is open.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import aiosqlite
from aiosqlite import Connection

from gateway.store.file_parts import sync_directory
from gateway.store.migration import Step, StrandedError, bring_forward
from gateway.store.sqlite_errors import name_of

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

PAGE_BYTES: Final = 4096
CACHE_KIB: Final = 512  # rows are appended and read once: a larger one only costs memory
BUSY_S: Final = 1.0  # a reader of another process keeps its reads shorter
CHECK_S_MAX: Final = 4.0  # what quick_check has not seen by then is met when it is read
_FOREIGN: Final = "it is not one of ours"
_MENDED: Final = frozenset({(3, 50, 7), (3, 44, 6)})

# secure_delete is on in some builds: what is deleted would be written once more, as zeros.
_PRAGMAS: Final = f"""
PRAGMA page_size={PAGE_BYTES};
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA busy_timeout={int(BUSY_S * 1000)};
PRAGMA temp_store=MEMORY;
PRAGMA cache_size=-{CACHE_KIB};
PRAGMA mmap_size=0;
PRAGMA foreign_keys=ON;
PRAGMA secure_delete=OFF;
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
PRAGMA wal_autocheckpoint=1000;
PRAGMA journal_size_limit={4 * 1024 * 1024};
"""
_HOT_JOURNAL: Final = "SQLITE_READONLY_ROLLBACK"


class Schema(NamedTuple):
    """Which tables a file has: ``name_vN.sql``, and the id that says that it is one of ours.

    ``steps``: how files of older versions come to this one, one by one.
    """

    name: str
    application_id: int
    version: int
    steps: tuple[Step, ...] = ()


class DamagedError(Exception):
    """The file is not what it was: the text says why."""


class NewerError(Exception):
    """The file was written by a newer version."""


async def open_file(path: Path, schema: Schema, *, fresh: bool, begun: bool = True) -> Connection:
    """Open, and make or check. Raises DamagedError, NewerError, sqlite3.Error, OSError.

    ``begun``: something was committed to it once, so one without any table is damaged; else it was
    being made when the power went.
    """
    if not fresh:
        await asyncio.to_thread(_peek, path, schema, begun=begun)
    connection = await aiosqlite.connect(
        path, isolation_level=None, timeout=BUSY_S, check_same_thread=False
    )
    try:
        await connection.executescript(_PRAGMAS)
        await _check_wal(connection)
        if fresh or not (begun or await _has_tables(connection)):
            await connection.executescript(_sql(schema))
        else:
            await _verify(connection, path, schema)
        await asyncio.to_thread(sync_directory, path.parent)  # also one that was made before
    except BaseException:
        await close_file(connection)
        raise
    return connection


async def close_file(connection: Connection) -> None:
    """Close; an error of the last checkpoint leaves the -wal for the next start."""
    with contextlib.suppress(sqlite3.Error):
        await connection.close()


def thread_ended(connection: Connection) -> bool:
    """Whether the thread is gone that runs everything of this connection, one after the other."""
    return not connection._thread.is_alive()  # noqa: SLF001  nothing else tells it


async def in_its_thread(connection: Connection, work: Callable[..., _T], *arguments: Any) -> _T:
    """Blocking work beside the connection's own; it raises what the work does.

    That thread waits for the disk anyway. Each further one that allocates keeps a heap of its own:
    with two hops a write through the loop's pool the gateway had 2 MB more.
    """
    done: _T = await connection._execute(work, *arguments)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return done


async def give_up(connection: Connection) -> None:
    """Close what a thread that ended has left; calls on the connection fail from now on."""
    left, connection._connection = connection._connection, None  # noqa: SLF001
    if left is not None:
        with contextlib.suppress(sqlite3.Error):
            await asyncio.to_thread(left.close)


async def roll_back(connection: Connection) -> None:
    """End a failed transaction. SQLite has done so already on some errors; twice is an error."""
    with contextlib.suppress(sqlite3.Error, ValueError):
        if connection.in_transaction:
            await connection.execute_fetchall("ROLLBACK")


async def value_of(connection: Connection, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
    """The first column of the first row, None where there is no row."""
    for row in await connection.execute_fetchall(sql, parameters):
        return row[0]
    return None


def sqlite_outdated(version: tuple[int, int, int]) -> bool:
    """Whether two connections that write may spoil a -wal when it begins anew.

    Mended in SQLite 3.51.3, and in 3.50.7 and 3.44.6 of the older lines. Here one connection
    writes and checkpoints; nothing else may.
    """
    return version < (3, 51, 3) and version not in _MENDED


def _peek(path: Path, schema: Schema, *, begun: bool) -> None:
    """Look whose file it is before any connection that may write: closing one checkpoints.

    A -wal of another database would go over what can still be read. One that has a hot journal can
    only be read by who rolls it back: the power went while it was being made, before its -wal was.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as connection:
        try:
            found = connection.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.OperationalError as error:
            if name_of(error) == _HOT_JOURNAL:
                return
            raise
        if found != schema.application_id and begun:
            raise DamagedError(_FOREIGN)


async def _check_wal(connection: Connection) -> None:
    if await value_of(connection, "PRAGMA journal_mode") != "wal":
        msg = "write-ahead logging is not possible on this file system"
        raise sqlite3.OperationalError(msg)


async def _has_tables(connection: Connection) -> bool:
    return bool(await value_of(connection, "SELECT count(*) FROM sqlite_master"))


async def _verify(connection: Connection, path: Path, schema: Schema) -> None:
    """What it is, whether it is whole, and its version: an older one is brought forward."""
    if await value_of(connection, "PRAGMA application_id") != schema.application_id:
        raise DamagedError(_FOREIGN)
    version = await value_of(connection, "PRAGMA user_version")
    if version > schema.version:
        msg = (
            f"{path.name} in {path.parent}: found schema {version}, expected {schema.version} or "
            "older: a newer version wrote it; run that one, or name another --state-dir"
        )
        raise NewerError(msg)
    await _quick_check(connection, path.name)
    if version < schema.version:
        try:
            await bring_forward(connection, path, schema.steps, version, schema.version)
        except (StrandedError, LookupError, TypeError, ValueError) as error:
            raise DamagedError(str(error)) from error


async def _quick_check(connection: Connection, name: str) -> None:
    deadline = time.monotonic() + CHECK_S_MAX
    await connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 10_000)
    try:
        found = await value_of(connection, "PRAGMA quick_check(1)")
    except sqlite3.OperationalError as error:
        if not name_of(error).startswith("SQLITE_INTERRUPT"):
            raise
        _LOGGER.info("%s is large: checked for %s s only", name, CHECK_S_MAX)
        return
    finally:
        await connection.set_progress_handler(lambda: 0, 0)
    if found != "ok":
        raise DamagedError(str(found).replace("\n", " "))


def _sql(schema: Schema) -> str:
    """The whole schema as one transaction, with its version in the file's header."""
    text = Path(__file__).with_name(f"{schema.name}_v{schema.version}.sql").read_text("utf-8")
    return (
        f"BEGIN IMMEDIATE;\n{text}\n"
        f"PRAGMA application_id={schema.application_id};\n"
        f"PRAGMA user_version={schema.version};\nCOMMIT;"
    )
