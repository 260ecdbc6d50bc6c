"""One SQLite file: one connection, one task that writes, reads and checkpoints with it.

Constraints:
- WAL with synchronous=FULL; every change is one BEGIN IMMEDIATE .. COMMIT, run by the one task, so
  a cancelled caller never leaves a transaction open and nobody reads what is not committed.
- A failed fsync is never retried on the same connection: it is closed and opened anew, and what is
  known of the file is read from it again.
- A damaged file is renamed (with its -wal) and a new one begun. Nobody has to delete a file.
- A full disk fails the caller with StoreError and heals by itself; before that, the owner makes
  room and the reserve is given back to the disk.
"""

import asyncio
import contextlib
import errno
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from aiosqlite import Connection

from gateway.errors import StoreError
from gateway.life.descriptors import SPARE_ONES
from gateway.store.owned_file import REOPEN_NS, NotOpenError, OwnedFile
from gateway.store.owner import Body, Owner
from gateway.store.room import Room
from gateway.store.sqlite_errors import is_damage, is_disk, is_full
from gateway.store.sqlite_file import PAGE_BYTES, DamagedError, NewerError, value_of
from gateway.store.written import Written

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

QUEUE_MAX: Final = 256
HOUSEKEEPING_S: Final = 2.0
START_S: Final = 8.0  # that a start waits: ten seconds are what the whole of it may take
TRIES_MAX: Final = 64
AGAIN_S: Final = 0.1  # after the task itself has failed
THREAD_LOOK_S: Final = 1.0  # how soon a thread that ended is seen
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_WORKING: Final[dict[Path, "asyncio.Task[None]"]] = {}  # the tasks that have not ended, by file


class _Job(NamedTuple):
    body: Body[Any]
    then: Callable[[Any], None] | None
    write: bool
    done: "asyncio.Future[Any] | None"  # None: the task is to end


class Database:
    """A database file and the one task that works on it.

    ``max_bytes`` bounds the file, ``reserve_bytes`` is kept allocated beside it for a full disk.
    """

    def __init__(self, path: Path, owner: Owner, *, max_bytes: int, reserve_bytes: int) -> None:
        self.path = path
        self.mishaps = (0, "")  # that its task or its file was mended: how often, how the last time
        self._owner = owner
        self._file = OwnedFile(path, owner, max_bytes)
        self._room = Room(self._file, owner, reserve_bytes)
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(QUEUE_MAX)
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closing = False
        self._trouble = ""
        self._nameless = ""  # why the file cannot be put back where it was taken away
        self._writes_fail = False
        self._pages = 0
        self._pages_free = 0
        self._written = Written()
        self._kept = False  # the first housekeeping is done

    @property
    def ok(self) -> bool:
        """False while the file cannot be used."""
        return self._file.connection is not None and not self.trouble

    @property
    def trouble(self) -> str:
        """What is wrong now, for people; "" while nothing is."""
        return self._nameless or self._trouble

    @property
    def begun_anew(self) -> str:
        """How the last damage was met, for people; "" where there was none."""
        return self._file.begun_anew

    @property
    def file_bytes(self) -> int:
        """Size of the file, as the last housekeeping saw it."""
        return self._pages * PAGE_BYTES

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold something."""
        return (self._pages - self._pages_free) * PAGE_BYTES

    @property
    def bytes_written(self) -> int:
        """Bytes written to the disk since the start, as the last housekeeping saw it."""
        return self._written.bytes_written

    @property
    def reserve_bytes(self) -> int:
        """Bytes kept for a full disk now."""
        return self._room.reserve_bytes

    async def start(self) -> None:
        """Start the task and try to open the file; one that cannot be opened is tried for ever.

        Where it takes long (a large file of an older version, or one that the Database before this
        one has not let go of) jobs wait for it, and nobody else. Cancelled, it ends by itself.
        Raises StoreError only where trying does not help: the file is of a newer version.
        """
        before = _WORKING.get(self.path)
        self._task = asyncio.create_task(self._work(before), name=f"store {self.path.name}")
        _WORKING[self.path] = self._task
        self._task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(START_S):
                await self.query(self._look)
        except TimeoutError:
            self._failure(StoreError("it is still being opened, or brought to this version"))
        except StoreError as error:
            if isinstance(error.__cause__, NewerError):
                await self.close()
                raise
        except BaseException:
            self._end()
            raise

    async def close(self) -> None:
        """Finish what is queued and close the file. Safe to call twice.

        It takes as long as the disk does; a caller that is cancelled leaves it going on.
        """
        if self._task is None:
            return
        self._end()
        await asyncio.wait({self._task})

    async def transact(self, body: Body[_T], then: Callable[[_T], None] | None = None) -> _T:
        """Run ``body`` in one transaction; ``then`` takes its result once that is durable.

        The body may run more than once (room was made, the file was opened anew), so it changes
        nothing but the database. Cancelling the caller does not stop it. Raises StoreError, and
        then nothing of it is done.
        """
        return await self._put(body, then, write=True)

    async def query(self, body: Body[_T]) -> _T:
        """Run ``body``, which only reads, between transactions. Raises StoreError."""
        return await self._put(body, None, write=False)

    async def look(self) -> None:
        """Bring the sizes up to date. Raises StoreError."""
        await self.query(self._look)

    async def limit(self, max_bytes: int) -> None:
        """Change the bound of the file (never below what it has). Raises StoreError."""

        async def body(_connection: Connection) -> None:
            await self._file.bound(max_bytes)

        await self.query(body)

    async def _put(self, body: Body[_T], then: Callable[[_T], None] | None, *, write: bool) -> _T:
        if self._closing or self._task is None or self._task.done():
            raise self._closed()
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_looked_at)
        await self._queue.put(_Job(body, then, write, done))
        if self._task.done():
            self._refuse_rest()
        return await asyncio.shield(done)

    def _end(self) -> None:
        """Take no more; the task ends behind what is queued."""
        if not self._closing:
            self._closing = True
            end = _Job(self._look, None, write=False, done=None)
            self._ending = asyncio.create_task(self._queue.put(end), name="store ends")

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if _WORKING.get(self.path) is task:
            del _WORKING[self.path]
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOGGER.error("%s: it was not closed in order", self.path.name, exc_info=error)

    # ---- the one task --------------------------------------------------------------------------

    async def _work(self, before: "asyncio.Task[None] | None") -> None:
        try:
            if before is not None:  # one that the disk has not let go of: two would write
                await asyncio.wait({before})
            while not await self._jobs_done():
                pass
        finally:
            self._closing = True
            await self._file.close()
            self._refuse_rest()

    async def _jobs_done(self) -> bool:
        """Work until the task is to end; False where anything but a job went wrong."""
        try:
            await self._jobs()
        except Exception as error:
            _LOGGER.exception("%s: its task failed", self.path.name)
            text = (
                f"task store {self.path.name} failed and goes on: {type(error).__name__}: {error}"
            )
            self.mishaps = (self.mishaps[0] + 1, text)
            await asyncio.sleep(AGAIN_S)
            return False
        return True

    async def _jobs(self) -> None:
        due = math.inf  # the first housekeeping follows the first job
        while True:
            if time.monotonic() >= due:
                await self._housekeeping()
                due = time.monotonic() + HOUSEKEEPING_S
            job = await self._next(due)
            if job is None:
                continue
            if job.done is None:
                with contextlib.suppress(StoreError):
                    await self._served(self._keep_name())
                return
            await self._answer(job, job.done)
            if not self._kept:
                due = 0.0

    async def _next(self, due: float) -> _Job | None:
        """The next job; None when it is time for the housekeeping."""
        try:
            async with asyncio.timeout(None if due == math.inf else due - time.monotonic()):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def _answer(self, job: _Job, done: "asyncio.Future[Any]") -> None:
        try:
            result = await self._attempts(job.body, job.then, write=job.write)
        except StoreError as error:
            _fail(done, error)
        except Exception as error:
            _LOGGER.exception("%s: a job failed", self.path.name)
            _fail(done, error)
        except BaseException:  # the task is broken off: nobody else would answer
            _fail(done, self._closed())
            raise
        else:
            if not done.done():
                done.set_result(result)

    async def _attempts(
        self, body: Body[_T], then: Callable[[_T], None] | None = None, *, write: bool
    ) -> _T:
        try:
            result = await self._served(self._tries(body, then, write=write))
            if write:
                await self._served(self._file.mark())
        except OSError as error:  # beside SQLite: a directory that cannot be synced or read
            await self._file.close()
            self._file.retry(REOPEN_NS)
            raise self._failure(error) from error
        return result

    async def _served(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Its result. Raises StoreError where the connection's thread has ended."""
        tries = asyncio.create_task(work, name=self.path.name)
        try:
            while True:
                await asyncio.wait({tries}, timeout=THREAD_LOOK_S)
                unserved = self._file.unserved
                if tries.done() and not (unserved and tries.exception()):
                    return tries.result()  # done is done, though the thread has ended since
                if not unserved:
                    continue
                await self._file.give_up()
                self._file.retry(0)
                msg = "its thread has ended"
                raise self._failure(StoreError(msg))
        finally:
            if not tries.done():
                tries.cancel()
                await asyncio.wait({tries})
            elif not tries.cancelled():
                tries.exception()  # looked at

    async def _tries(self, body: Body[_T], then: Callable[[_T], None] | None, *, write: bool) -> _T:
        for _ in range(TRIES_MAX):
            if write:
                await self._check_name()
            try:
                connection = await self._file.get()
                if not write:
                    result = await body(connection)
                else:
                    result = await self._file.transaction(connection, body)
                    if then:
                        await self._adopt(result, then)
            except sqlite3.Error as error:
                self._writes_fail = self._writes_fail or write
                if not await self._mend(error):
                    raise self._failure(error) from error
            except NotOpenError as error:
                if not isinstance(error.__cause__, OSError):
                    raise StoreError(self._trouble or str(error)) from error
                if not await self._mend_wal(error.__cause__):
                    raise self._failure(error) from error
            except UnicodeDecodeError as error:  # a text on the disk is none any more
                await self._mend_damage(error)
            except (DamagedError, NewerError) as error:
                raise self._failure(error) from error
            else:
                self._well(write=write)
                return result
        msg = "no room, and making some did not help"
        raise self._failure(StoreError(msg))

    async def _adopt(self, result: _T, then: Callable[[_T], None]) -> None:
        """What is committed becomes what is known; where that fails, it is read from the file."""
        try:
            then(result)
        except Exception:
            await self._file.close()
            self._file.retry(0)
            raise

    async def _housekeeping(self) -> None:
        """Open what is closed, look at the sizes, fill the reserve."""
        self._kept = True
        try:
            await self._served(self._keep_name())
            await self._attempts(self._look, write=self._writes_fail)
        except StoreError:
            return  # told by _failure
        await self._room.look()

    async def _check_name(self) -> None:
        """Before a write: what goes into a file without a name is gone with it. Raises StoreError.

        One that could not be put back is tried by the housekeeping alone: it may be large.
        """
        if self._nameless:
            raise StoreError(self._nameless)
        await self._keep_name()

    async def _keep_name(self) -> None:
        """Put the file back where somebody took it away. Raises StoreError."""
        try:
            told = await self._put_back()
        except (sqlite3.Error, OSError) as error:
            self._nameless = (
                f"{self.path.name} was deleted or replaced and cannot be put back: {error}"
            )
            raise StoreError(self._nameless) from error
        self._nameless = ""
        if told:
            self.mishaps = (self.mishaps[0] + 1, told)

    async def _put_back(self) -> str:
        while True:
            try:
                return await self._file.keep_name()
            except OSError as error:
                if error.errno not in _NO_ROOM or not await self._room.give():
                    raise

    async def _look(self, connection: Connection) -> None:
        if self._writes_fail:  # so a disk that takes writes again is noticed without any
            version = self._owner.schema.version
            await connection.execute_fetchall(f"PRAGMA user_version={version}")
        self._pages = await value_of(connection, "PRAGMA page_count")
        self._pages_free = await value_of(connection, "PRAGMA freelist_count")
        await self._written.look(connection)

    # ---- when it goes wrong --------------------------------------------------------------------

    async def _mend(self, error: sqlite3.Error) -> bool:
        """True where the same job may be tried again at once. Raises StoreError."""
        try:
            if is_full(error):
                self._file.retry(0)
                return await self._room.make()
        except sqlite3.Error as second:
            raise self._failure(second) from second
        if is_damage(error):
            return await self._mend_damage(error)
        if is_disk(error):
            await self._file.close()
            # What a full disk answers depends on what was being written.
            if await self._room.make_where_short():
                self._file.retry(0)
                return True
            self._file.retry(REOPEN_NS)
        return False

    async def _mend_wal(self, error: OSError) -> bool:
        """True where there was no room to write a -wal anew, which some file systems need."""
        if error.errno in _NO_ROOM and await self._room.make():
            self._file.retry(0)
            return True
        return False

    async def _mend_damage(self, error: Exception) -> bool:
        """Begin a new file; True. Raises StoreError."""
        await self._file.close()
        try:
            with SPARE_ONES.lent():
                await self._file.replace(str(error))
        except (sqlite3.Error, DamagedError, NotOpenError) as second:
            raise self._failure(second) from second
        return True

    def _failure(self, error: Exception) -> StoreError:
        text = str(error)
        if not text.startswith(self.path.name):
            text = f"{self.path.name}: {text}"
        if text != self._trouble:
            _LOGGER.debug("%s", text)  # whoever looks at ``trouble`` tells people
        self._trouble = text
        return StoreError(text)

    def _well(self, *, write: bool) -> None:
        if self._writes_fail and not write:
            return  # reading from a full disk works
        if self._trouble:
            _LOGGER.debug("%s is in use again", self.path.name)
        self._trouble = ""
        self._writes_fail = False

    def _closed(self) -> StoreError:
        return StoreError(f"{self.path.name} is closed")

    def _refuse_rest(self) -> None:
        while not self._queue.empty():
            if done := self._queue.get_nowait().done:
                _fail(done, self._closed())


def _fail(done: "asyncio.Future[Any]", error: Exception) -> None:
    if not done.done():
        done.set_exception(error)


def _looked_at(done: "asyncio.Future[Any]") -> None:
    """A caller that was cancelled does not come for its answer."""
    if not done.cancelled():
        done.exception()
