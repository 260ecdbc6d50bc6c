"""A directory of files that others fetch: what a file uplink writes, made safe against crashes.

Constraints:
- a file has its final name only when it is whole; until then it is a hidden ``.part`` that no job
  fetches, and what a crash leaves of it is made whole by the next start, without its torn end;
- bytes count as written after fsync of the file, and of the directory that names it;
- nothing is overwritten and no symbolic link is followed; files are 0640;
- names sort by the time of their beginning, also where the clock is set back.

All calls block; they are made one at a time, in a thread. They raise OSError.
"""

import contextlib
import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

_MODE: Final = 0o640
_RECOUNT_S: Final = 5.0  # a job may have fetched some meanwhile
_TAIL_BYTES: Final = 64 * 1024
_STAMP: Final = r"\d{8}T\d{6}\.\d{9}Z"
_WAIT_S: Final = 5.0  # for a call before that a disk holds up
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NS_PER_S: Final = 1_000_000_000
LINES: Final = ".ndjson"  # the ending of files that are made line by line


class FullError(OSError):
    """As many files or bytes wait to be fetched as the site file allows."""


class Bounds(Struct, frozen=True):
    """Of what waits in the directory."""

    files: int
    bytes: int


class Spool:
    """One directory, as one uplink of one gateway uses it: its files alone are touched."""

    def __init__(
        self,
        directory: Path,
        owner: str,
        bounds: Bounds,
        *,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._directory = directory
        self._owner = re.sub(r"[^A-Za-z0-9_.-]", "_", owner)
        own = re.escape(self._owner)
        self._named = re.compile(rf"({_STAMP})-{own}-[a-z]+\.[a-z0-9]+")
        self._parts = re.compile(rf"\.{own}-({_STAMP}-{own}-[a-z]+\.[a-z0-9]+)\.part")
        self._bounds = bounds
        self._utc_ns = utc_ns
        self._lock = threading.RLock()  # a call that a disk holds up outlives who waited for it
        self._at: int | None = None  # descriptor of the directory
        self._stamp_ns = 0  # of the last name
        self._waiting = (0, 0)  # files, bytes
        self._counted_s = float("-inf")

    def open(self) -> None:
        """Take the directory up, and make whole what a crash has left."""
        with self.alone():
            self.close()
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._at = os.open(self._directory, flags)
            for name in sorted(os.listdir(self._at)):
                if part := self._parts.fullmatch(name):
                    self._recover(name, part[1])
                elif named := self._named.fullmatch(name):
                    self._stamp_ns = max(self._stamp_ns, _stamp_of(named[1]))
            self._count()

    def close(self) -> None:
        """Let the directory go."""
        with self.alone():
            at, self._at = self._at, None
            if at is not None:
                os.close(at)

    def begin(self, ending: str) -> "Part":
        """A new file; its final name ends so. Raises FullError."""
        with self.alone():
            self.check_place()
            self.check_room(0)
            self._stamp_ns = max(self._utc_ns(), self._stamp_ns + 1)
            name = f"{_stamped(self._stamp_ns)}-{self._owner}-{ending}"
            return Part(self, name, f".{self._owner}-{name}.part")

    def check_place(self) -> None:
        """Another disk may have been mounted there, or the directory been made anew."""
        there, here = os.stat(self._directory), os.fstat(self.descriptor())
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            raise OSError(errno.ESTALE, "another directory is there now", str(self._directory))

    def check_room(self, size: int) -> None:
        """Whether so many bytes more may wait. Raises FullError."""
        with self.alone():
            if self._is_full(size) and time.monotonic() - self._counted_s > _RECOUNT_S:
                self._count()
            if self._is_full(size):
                files, total = self._waiting
                text = f"{files} files ({total // 1_000_000} MB) wait to be fetched"
                raise FullError(errno.EDQUOT, text, str(self._directory))

    def take(self, size: int) -> None:
        """So many bytes more wait."""
        files, total = self._waiting
        self._waiting = (files, total + size)

    def publish(self, part: str, name: str) -> None:
        """Give a whole and synced file its final name, durably."""
        with self.alone():
            at = self.descriptor()
            _rename_new(at, part, name)
            os.fsync(at)
            files, total = self._waiting
            self._waiting = (files + 1, total)

    def descriptor(self) -> int:
        """Of the directory."""
        if self._at is None:
            raise OSError(errno.EBADF, "not open", str(self._directory))
        return self._at

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One caller at a time. Raises OSError where the one before does not come to its end."""
        if not self._lock.acquire(timeout=_WAIT_S):
            raise OSError(errno.ETIMEDOUT, "the disk does not answer", str(self._directory))
        try:
            yield
        finally:
            self._lock.release()

    def _is_full(self, size: int) -> bool:
        files, total = self._waiting
        return files >= self._bounds.files or total + size > self._bounds.bytes

    def _count(self) -> None:
        files = total = 0
        with os.scandir(self.descriptor()) as entries:
            for entry in entries:
                named = self._named.fullmatch(entry.name) is not None
                own = named or self._parts.fullmatch(entry.name)
                if own and entry.is_file(follow_symlinks=False):
                    files += named
                    total += entry.stat(follow_symlinks=False).st_size
        self._waiting = (files, total)
        self._counted_s = time.monotonic()

    def _recover(self, part: str, name: str) -> None:
        """Only whole lines were acknowledged; a line without its end was not."""
        at = self.descriptor()
        found = os.stat(part, dir_fd=at, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            return  # none of ours
        whole = 0
        if found.st_nlink == 1 and name.endswith(LINES):
            file = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            try:
                whole = _whole_lines(file, found.st_size)
                os.ftruncate(file, whole)
                os.fsync(file)
            finally:
                os.close(file)
        if whole:
            self.publish(part, name)
        else:
            os.unlink(part, dir_fd=at)  # it has its final name already, or nothing in it counts
            os.fsync(at)


class Part:
    """One file that is being written."""

    def __init__(self, spool: Spool, name: str, part: str) -> None:
        self._spool = spool
        self._name = name
        self._part = part
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(part, flags, _MODE, dir_fd=spool.descriptor())
        self._named = False  # the directory that has its name is synced
        self.size = 0  # bytes that are durable
        self.begun_s = time.monotonic()
        try:
            os.fchmod(self._file, _MODE)
        except OSError:
            self.drop()
            raise

    def append(self, data: bytes) -> None:
        """Durable when this returns; where it raises, nothing of ``data`` counts."""
        with self._spool.alone():
            self._spool.check_place()
            self._spool.check_room(len(data))
            self._trim()
            try:
                _write_all(self._file, data)
                os.fsync(self._file)
                if not self._named:
                    os.fsync(self._spool.descriptor())
                    self._named = True
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self.size)
                raise
            self.size += len(data)
            self._spool.take(len(data))

    def finish(self) -> None:
        """Give it its final name; nothing of it stays where it is empty."""
        with self._spool.alone():
            if not self.size:
                self.drop()
                return
            self._trim()
            self._spool.publish(self._part, self._name)
            self._close()

    def drop(self) -> None:
        """Forget it: nothing in it was acknowledged."""
        with self._spool.alone():
            self._close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part, dir_fd=self._spool.descriptor())

    def leave(self) -> None:
        """Close it as it is; :meth:`Spool.open` makes it whole."""
        with self._spool.alone():
            self._close()

    def _trim(self) -> None:
        """Of a write that failed something may still be there, where it could not be cut off."""
        found = os.fstat(self._file)
        if not found.st_nlink:
            raise FileNotFoundError(errno.ENOENT, "somebody removed it", self._part)
        if found.st_size != self.size:
            os.ftruncate(self._file, self.size)

    def _close(self) -> None:
        """Once: a descriptor's number may be another file's by the second time."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _rename_new(at: int, part: str, name: str) -> None:
    """Rename, but never over a file that is there."""
    try:
        os.link(part, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        os.unlink(part, dir_fd=at)
        return
    # A file system without links (FAT): nobody but us makes names such as this one.
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=at, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    os.rename(part, name, src_dir_fd=at, dst_dir_fd=at)


def _whole_lines(file: int, size: int) -> int:
    """The length up to the last line's end."""
    end = size
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        place = os.pread(file, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


def _stamped(utc_ns: int) -> str:
    seconds, ns = divmod(utc_ns, _NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{ns:09d}Z"


def _stamp_of(text: str) -> int:
    """0 where it is no time; a foreign file may be named so."""
    try:
        moment = datetime.strptime(text[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return 0
    return int(moment.timestamp()) * _NS_PER_S + int(text[16:25])
