"""One database file with its owner: opened when it is needed, replaced when it is damaged.

Used by the one task of ``Database`` alone.
"""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from aiosqlite import Connection

from gateway.life import directory_lock
from gateway.life.descriptors import SPARE_ONES
from gateway.store.file_parts import EPOCH, adopt, newest_aside, renew_wal, set_aside, unusable
from gateway.store.migration import back_up
from gateway.store.owner import Body, Opened, Owner
from gateway.store.reserve import Mark
from gateway.store.sqlite_errors import is_damage, is_foreign, is_wrong
from gateway.store.sqlite_file import (
    PAGE_BYTES,
    DamagedError,
    close_file,
    give_up,
    in_its_thread,
    open_file,
    roll_back,
    thread_ended,
    value_of,
)

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

Identity = tuple[tuple[int, int] | None, tuple[int, int] | None]  # of the file and its -wal
_UNKNOWN: Final[Identity] = ((0, 0), (0, 0))  # the disk does not say

REOPEN_NS: Final = 1_000_000_000
REPLACE_NS: Final = 60_000_000_000  # a disk that damages every file must not fill with them


class NotOpenError(Exception):
    """The file could not be opened a moment ago, or now: then an OSError is the cause."""


class OwnedFile:
    """The file at ``path``. ``max_bytes`` bounds it."""

    def __init__(self, path: Path, owner: Owner, max_bytes: int) -> None:
        self.path = path
        self.connection: Connection | None = None
        self.begun_anew = ""  # how the last damage was met, for people
        self._owner = owner
        self._mark = Mark(path.with_name(f"{path.name}.mark"))
        self._pages_max = max(1, max_bytes // PAGE_BYTES)
        self._pinched = False
        self._disk: int | None = None  # that the directory was on when the file was open
        self._identity: Identity = _UNKNOWN
        self._come_to = (0, 0)  # the mark, whatever became of its file
        self._retry_at_ns = 0
        self._replace_at_ns = 0

    async def get(self) -> Connection:
        """The open connection. Raises NotOpenError, DamagedError, NewerError or sqlite3.Error."""
        if self.connection is not None:
            return self.connection
        if time.monotonic_ns() < self._retry_at_ns:
            msg = f"{self.path.name} is not open"
            raise NotOpenError(msg)
        self.retry(REOPEN_NS)
        with SPARE_ONES.lent():
            try:
                await self._enter()
                return await self._get()
            finally:
                await self._leave_where_closed()

    def retry(self, after_ns: int) -> None:
        """When to try again to open it."""
        self._retry_at_ns = time.monotonic_ns() + after_ns

    async def close(self) -> None:
        """Close the connection; the file may be opened again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await close_file(connection)
        await self._leave_where_closed()

    @property
    def unserved(self) -> bool:
        """Whether the connection is open and its thread has ended: no call on it would return."""
        return self.connection is not None and thread_ended(self.connection)

    async def give_up(self) -> None:
        """Close a connection that is unserved."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await give_up(connection)
        await self._leave_where_closed()

    async def transaction(self, connection: Connection, body: Body[_T]) -> _T:
        """One BEGIN IMMEDIATE .. COMMIT."""
        try:
            await connection.execute_fetchall("BEGIN IMMEDIATE")
            result = await body(connection)
        except BaseException:
            await roll_back(connection)
            raise
        await self._commit(connection)
        return result

    async def mark(self) -> None:
        """Remember how far it has come; after each commit."""
        self._come_to = self._owner.mark()
        await self._beside(self._mark.write, *self._come_to)

    async def bound(self, max_bytes: int) -> None:
        """Bound the file; below the present size counts as the present size."""
        self._pages_max = max(1, max_bytes // PAGE_BYTES)
        await self._bound()

    async def pinch(self, *, yes: bool) -> None:
        """Let the file grow no more, or as far as its bound again."""
        self._pinched = yes
        await self._bound()

    async def replace(self, reason: str) -> Connection:
        """Put the damaged file aside and begin a new one. Raises DamagedError, sqlite3.Error."""
        if time.monotonic_ns() < self._replace_at_ns:
            raise DamagedError(reason)
        self._replace_at_ns = time.monotonic_ns() + REPLACE_NS
        try:
            await self._enter()
            return await self._replace(reason)
        finally:
            await self._leave_where_closed()

    async def _replace(self, reason: str) -> Connection:
        epoch, _ = await asyncio.to_thread(self._had)
        try:
            aside = await asyncio.to_thread(set_aside, self.path)
        except OSError as error:
            msg = f"damaged ({reason}), and it cannot be set aside: {error}"
            raise DamagedError(msg) from error
        self.begun_anew = f"{self.path.name} is damaged ({reason}): set aside as {aside.name}"
        _LOGGER.error("%s", self.begun_anew)
        return await self._open(Opened(fresh=True, aside=aside, reason=reason, epoch_min=epoch))

    async def keep_name(self) -> str:
        """Put the file back where somebody has deleted or replaced it; what was done, for people.

        What is written to a file without a name is gone with the connection. Raises sqlite3.Error
        or OSError where that cannot be done now.
        """
        if self.connection is None or self.unserved:
            return ""
        now, name = await self._beside(self._identity_now), self.path.name
        if now == self._identity or _UNKNOWN in (now, self._identity):
            return ""
        told = f"{name} was deleted or replaced while it was in use: it is put back as it was"
        if now[0] == self._identity[0]:  # closing brings all of it into the file
            told = f"{name}-wal was deleted or replaced while it was in use: {name} has all of it"
        elif self._disk != await asyncio.to_thread(self._disk_now):
            told = f"another disk is mounted on {self.path.parent}"
        else:
            await self._put_back(self.connection)
        await self.close()
        self.retry(0)
        _LOGGER.error("%s", told)
        return told

    async def _put_back(self, connection: Connection) -> None:
        copy = await asyncio.to_thread(self._rescued)
        needed_bytes = PAGE_BYTES * await value_of(connection, "PRAGMA page_count")
        if (await asyncio.to_thread(shutil.disk_usage, self.path.parent)).free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            await back_up(connection, copy)
            await asyncio.to_thread(adopt, copy, self.path)
        except BaseException:
            await asyncio.to_thread(copy.unlink, missing_ok=True)
            raise

    def _rescued(self) -> Path:
        """Where a copy is made; what a process that was killed has left there is removed."""
        copy = self.path.with_name(f"{self.path.name}.rescued")
        with contextlib.suppress(OSError):  # a disk that takes no writes
            copy.unlink(missing_ok=True)
        return copy

    async def _enter(self) -> None:
        """Make sure that the directory is ours. Raises NotOpenError."""
        directory = self.path.parent
        try:
            await asyncio.to_thread(directory_lock.enter, directory, self)
        except BlockingIOError as error:
            msg = f"{self.path.name}: another gateway has {directory} by now"
            raise NotOpenError(msg) from error
        except OSError as error:
            msg = f"{self.path.name}: {directory}: {error.strerror}"
            raise NotOpenError(msg) from error

    async def _leave_where_closed(self) -> None:
        """Have nothing open there: a disk that takes no writes is mended by being unmounted."""
        if self.connection is None:
            await asyncio.to_thread(self._leave)

    def _leave(self) -> None:
        self._mark.close()
        directory_lock.leave(self.path.parent, self)

    async def _get(self) -> Connection:
        await asyncio.to_thread(self._rescued)
        if reason := await asyncio.to_thread(unusable, self.path):
            return await self.replace(reason)
        try:
            await asyncio.to_thread(renew_wal, self.path)
        except OSError as error:
            msg = f"{self.path.name}-wal: {error.strerror}"
            raise NotOpenError(msg) from error
        found = await asyncio.to_thread(self._found)
        disk = await asyncio.to_thread(self._disk_now)
        if found.fresh and self._disk not in {None, disk}:
            msg = (
                f"the disk of {self.path.parent} is not mounted: it was another one "
                "(if this one is meant, restart the gateway)"
            )
            raise NotOpenError(msg) from OSError(errno.ENODEV, msg)
        try:
            return await self._open(found)
        except DamagedError as error:
            return await self.replace(str(error))
        except sqlite3.Error as error:
            if is_damage(error) or is_wrong(error):
                return await self.replace(str(error))
            if await asyncio.to_thread(is_foreign, error, self.path):
                return await self.replace(f"{error}: the header asks for a newer SQLite")
            raise

    async def _commit(self, connection: Connection) -> None:
        try:
            await connection.execute_fetchall("COMMIT")
        except sqlite3.Error:
            await roll_back(connection)
            raise
        except Exception as error:  # nobody knows what became of it: what is known is read anew
            await self.close()
            self.retry(0)
            msg = f"a commit was not answered: {type(error).__name__}: {error}"
            raise sqlite3.OperationalError(msg) from error
        except BaseException:
            await self.close()
            raise

    def _found(self) -> Opened:
        try:
            fresh = self.path.stat().st_size == 0
        except OSError:
            fresh = True
        return Opened(fresh=fresh, epoch_min=self._had()[0])

    def _had(self) -> tuple[int, int]:
        """How far it had come: what was synced is lost all the same by some disks that fail."""
        found = self._mark.read()
        return max(found, self._come_to) if self._owner.once else found

    async def _open(self, opened: Opened) -> Connection:
        try:
            connection = await open_file(
                self.path, self._owner.schema, fresh=opened.fresh, begun=opened.epoch_min > 0
            )
        except ValueError as error:  # SQLite's own message is no text
            raise DamagedError(str(error)) from error
        self.connection = connection
        try:
            await self._bound()
            await self._load(connection, opened)
            await asyncio.to_thread(self._check_mark)
        except BaseException:
            await self.close()
            raise
        self._disk = await asyncio.to_thread(self._disk_now)
        self._identity = await asyncio.to_thread(self._identity_now)
        await self.mark()
        return connection

    async def _beside(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """What each write needs of the disk beside the connection, off the loop."""
        if self.connection is None or self.unserved:
            return await asyncio.to_thread(work, *arguments)
        return await in_its_thread(self.connection, work, *arguments)

    def _identity_now(self) -> Identity:
        wal = self.path.with_name(f"{self.path.name}-wal")
        try:
            return _identity_of(self.path), _identity_of(wal)
        except OSError:
            return _UNKNOWN

    def _disk_now(self) -> int | None:
        try:
            return self.path.parent.stat().st_dev
        except OSError:
            return None

    async def _load(self, connection: Connection, opened: Opened) -> None:
        async def load(connection: Connection) -> None:
            found = opened
            if opened.epoch_min and await value_of(connection, EPOCH) is None:
                found = await self._not_taken_over(opened)
            await self._owner.load(connection, found)

        try:
            await self.transaction(connection, load)
        except (LookupError, TypeError, ValueError) as error:
            msg = f"what it holds makes no sense: {error}"
            raise DamagedError(msg) from error
        except sqlite3.OperationalError as error:
            if opened.fresh or not is_wrong(error):
                raise
            raise DamagedError(str(error)) from error

    async def _not_taken_over(self, opened: Opened) -> Opened:
        """With the damaged file of which nothing was taken over yet.

        The mark follows the new file's first commit: where it has the epoch of a file that was set
        aside, the power went, or the disk was full, before there was any.
        """
        aside = await asyncio.to_thread(newest_aside, self.path, opened.epoch_min)
        if aside in {None, opened.aside}:
            return opened
        reason = opened.reason or "it was set aside before"
        self.begun_anew = f"{self.path.name} is damaged ({reason}): set aside as {aside.name}"
        return opened._replace(aside=aside, reason=reason)

    def _check_mark(self) -> None:
        had, has = self._had(), self._owner.mark()
        if had > has:
            msg = f"commits are missing: it ends at {has[1]}, it had come to {had[1]}"
            raise DamagedError(msg)

    async def _bound(self) -> None:
        if self.connection is not None:
            pages = 1 if self._pinched else self._pages_max
            await value_of(self.connection, f"PRAGMA max_page_count={pages}")


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
