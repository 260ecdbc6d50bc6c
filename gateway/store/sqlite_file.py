"""A SQLite file as we use it: how it is opened, checked, closed and put aside.

Constraints: the options are those of every open (none is left to a file's own memory), and nothing
here opens the file behind SQLite's back while a connection of this process is open.
"""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiosqlite
from aiosqlite import Connection

from gateway.store.migration import SPARE_BYTES, Step, StrandedError, bring_forward

_LOGGER = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096
CACHE_KIB: Final = 512  # rows are appended and read once: a larger one only costs memory
BUSY_S: Final = 1.0  # a reader of another process keeps its reads shorter
CHECK_S_MAX: Final = 4.0  # what quick_check has not seen by then is met when it is read
# The database last: until then nothing new is begun.
PARTS: Final = ("-wal", "-shm", "-journal", "")
_FOREIGN: Final = "it is not one of ours"
_MENDED: Final = frozenset({(3, 50, 7), (3, 44, 6)})
_RENEW_BYTES: Final = 1024 * 1024
EPOCH: Final = "SELECT value FROM meta WHERE key = 'epoch'"
ASIDE_MAX: Final = 2  # damaged files that are kept, the newest

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
_DAMAGE: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_FULL: Final = "SQLITE_FULL"
_HOT_JOURNAL: Final = "SQLITE_READONLY_ROLLBACK"
# SQLite's file format, 1.3.3: 1 is a rollback journal, 2 a -wal, more than that only to be read.
_WRITE_VERSION_AT: Final = 18
_WRITE_VERSION_MAX: Final = 2
_DISK: Final = (
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
    "SQLITE_PERM",
    "SQLITE_PROTOCOL",
    "SQLITE_NOMEM",
)


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


def renew_wal(path: Path) -> None:
    """Write the -wal of a closed file anew and sync it. Raises OSError.

    What a failed sync has not brought to the disk is clean for the kernel: it is read from memory,
    and no later sync brings it. SQLite would believe it until the power goes. Blocking.
    """
    try:
        file = path.with_name(f"{path.name}-wal").open("r+b", buffering=0)
    except FileNotFoundError:
        return
    with file:
        at = 0
        while piece := os.pread(file.fileno(), _RENEW_BYTES, at):
            at += os.pwrite(file.fileno(), piece, at)
        os.fsync(file.fileno())


async def close_file(connection: Connection) -> None:
    """Close; an error of the last checkpoint leaves the -wal for the next start."""
    with contextlib.suppress(sqlite3.Error):
        await connection.close()


def thread_ended(connection: Connection) -> bool:
    """Whether the thread is gone that runs everything of this connection, one after the other."""
    return not connection._thread.is_alive()  # noqa: SLF001  nothing else tells it


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


def set_aside(path: Path) -> Path:
    """Rename a damaged file with its -wal and -shm; only the newest few are kept."""
    for old in sorted(path.parent.glob(f"{path.name}.damaged-*[0-9]"))[: 1 - ASIDE_MAX or None]:
        for suffix in PARTS:
            _remove(old.with_name(old.name + suffix))
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for suffix in PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    sync_directory(path.parent)
    return aside


def adopt(copy: Path, path: Path) -> None:
    """Durably bring a whole copy into the place of a database. Raises OSError; blocking.

    What stands there is put aside; what is left of one that is gone belongs to nothing.
    """
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        set_aside(path)
    for suffix in PARTS[:-1]:
        _remove(path.with_name(path.name + suffix))
    copy.replace(path)
    sync_directory(path.parent)


def newest_aside(path: Path, epoch: int) -> Path | None:
    """The newest damaged file of this epoch beside ``path``; None where none says so. Blocking."""
    for aside in sorted(path.parent.glob(f"{path.name}.damaged-*[0-9]"), reverse=True):
        for mode in ("mode=ro", "immutable=1"):  # the other one: as if there were no -wal
            uri = f"{aside.absolute().as_uri()}?{mode}"
            with (
                contextlib.suppress(sqlite3.Error, UnicodeDecodeError),
                contextlib.closing(sqlite3.connect(uri, uri=True)) as connection,
            ):
                if (epoch,) in connection.execute(EPOCH):
                    return aside
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make new names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_damage(error: sqlite3.Error) -> bool:
    """The content is wrong: it will not get better."""
    return _name_of(error).startswith(_DAMAGE)


def is_full(error: sqlite3.Error) -> bool:
    """No room, on the disk or under ``max_page_count``."""
    return _name_of(error).startswith(_FULL)


def is_disk(error: sqlite3.Error) -> bool:
    """The file system failed: nothing that this connection believes of the file is sure."""
    return _name_of(error).startswith(_DISK)


def is_foreign(error: sqlite3.Error, path: Path) -> bool:
    """The header says that only a newer SQLite may write it. Blocking; the file is closed.

    SQLite says READONLY of a disk that takes no writes, too: that one gets better.
    """
    if _name_of(error) != "SQLITE_READONLY":
        return False
    try:
        with path.open("rb") as file:
            header = file.read(_WRITE_VERSION_AT + 1)
    except OSError:
        return False
    return len(header) > _WRITE_VERSION_AT and header[_WRITE_VERSION_AT] > _WRITE_VERSION_MAX


def is_wrong(error: sqlite3.Error) -> bool:
    """A table or column that the schema has is not there, or the header makes no sense."""
    return _name_of(error) == "SQLITE_ERROR"


def unusable(path: Path) -> str:
    """Why SQLite could not even begin: something else is in the place of a file; "": it can.

    A file that we may not use is made usable where that is possible. Raises OSError where it is
    whole, and somebody has to help. Blocking.
    """
    for suffix in PARTS:
        part = path.with_name(path.name + suffix)
        if not part.exists():
            continue
        if not part.is_file():
            return f"{part.name} is no file"
        if not os.access(part, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK):
            try:
                part.chmod(0o640)
            except OSError:
                if not os.access(part, os.R_OK):
                    return f"{part.name} cannot be read and written by us"
                _make_ours(part)
    return ""


def _make_ours(part: Path) -> None:
    """Put a copy in the place of a file of another user: root has put it back. Raises OSError."""
    copy = part.with_name(f"{part.name}.ours")
    try:
        _copy(part, copy)
        copy.replace(part)
        sync_directory(part.parent)
    except OSError as error:
        copy.unlink(missing_ok=True)
        msg = f"{part.name} is of another user and cannot be copied ({error.strerror}): chown it"
        raise OSError(msg) from error


def _copy(part: Path, copy: Path) -> None:
    """Durably. Raises OSError, also where that would leave others next to no room."""
    copy.unlink(missing_ok=True)  # of a start that was killed
    if shutil.disk_usage(part.parent).free < part.stat().st_size + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    shutil.copyfile(part, copy)
    copy.chmod(0o640)
    with copy.open("rb") as file:
        os.fsync(file.fileno())


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
            if _name_of(error) == _HOT_JOURNAL:
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
        if not _name_of(error).startswith("SQLITE_INTERRUPT"):
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


def _name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "") or ""
