"""Two files beside a database: blocks kept for a full disk, and how far the database has been.

Constraints: neither opens the database's own files (closing such a descriptor would drop SQLite's
locks of this whole process). All calls here may wait for the disk.
"""

import contextlib
import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Final

PROBE_BYTES: Final = 64 * 1024
MARGIN_BYTES: Final = 1024 * 1024  # less is next to nothing
# Room that filling the reserve leaves to others: more than makes people hear of a full disk.
SPARE_BYTES: Final = 48 * 1024 * 1024
SPARE_PERCENT: Final = 8  # of a small disk

_MARK: Final = struct.Struct("<QQI")  # epoch, count, crc32


class Reserve:
    """Allocated blocks that are given back to the disk, step by step, when it is full."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._held_bytes = path.stat().st_size if path.exists() else 0

    @property
    def held_bytes(self) -> int:
        """What is allocated now."""
        return self._held_bytes

    @property
    def full(self) -> bool:
        """True where nothing is missing."""
        return self._held_bytes >= self._size_bytes

    def short(self) -> bool:
        """True where the disk has next to nothing left, or our quota of it is used up.

        False where the disk does not even say.
        """
        try:
            free_bytes, _ = self._disk()
        except OSError:
            return False
        return free_bytes <= MARGIN_BYTES or self._over_quota()

    def fill(self) -> bool:
        """Allocate what is missing, as far as there is room; True when nothing is missing then."""
        if self.full:
            return True
        free_bytes, spare_bytes = self._disk()
        wanted_bytes = min(self._size_bytes - self._held_bytes, free_bytes - spare_bytes)
        if wanted_bytes <= 0:
            return False
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(descriptor, self._held_bytes, wanted_bytes)
        except OSError:
            os.ftruncate(descriptor, self._held_bytes)
            return False
        finally:
            self._held_bytes = os.fstat(descriptor).st_size
            os.close(descriptor)
        return self.full

    def give(self, step_bytes: int) -> bool:
        """Give ``step_bytes`` back to the disk; False where nothing was left."""
        if self._held_bytes == 0:
            return False
        self._held_bytes = max(0, self._held_bytes - step_bytes)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, self._held_bytes)
            os.fsync(descriptor)  # some file systems free the blocks only with their own commit
        finally:
            os.close(descriptor)
        return True

    def refill(self, least_bytes: int) -> bool:
        """Fill; True where at least so much is held then, or nothing is missing."""
        return self.fill() or self._held_bytes >= least_bytes

    def _over_quota(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.posix_fallocate(descriptor, self._held_bytes, PROBE_BYTES)
        except OSError as error:
            return error.errno in {errno.EDQUOT, errno.ENOSPC}
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._held_bytes)
            os.close(descriptor)
        return False

    def _disk(self) -> tuple[int, int]:
        """Bytes that are free, and how many of them are to be left to others."""
        room = os.statvfs(self._path.parent)
        disk_bytes = room.f_blocks * room.f_frsize
        spare_bytes = max(MARGIN_BYTES, min(SPARE_BYTES, disk_bytes * SPARE_PERCENT // 100))
        return room.f_bavail * room.f_frsize, spare_bytes


class Mark:
    """The highest (epoch, count) that a database has had.

    A database that is behind its mark has lost commits (its -wal was deleted, an old copy was put
    back): its next numbers were already given to others, so it must not go on. Not synced: after a
    power loss the mark may be behind, never ahead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._written = (0, 0)

    def read(self) -> tuple[int, int]:
        """(epoch, count); zeros where there is none or it is damaged."""
        try:
            raw = self._path.read_bytes()
        except OSError:
            return 0, 0
        if len(raw) != _MARK.size:
            return 0, 0
        epoch, count, crc = _MARK.unpack(raw)
        return (epoch, count) if crc == zlib.crc32(raw[:16]) else (0, 0)

    def write(self, epoch: int, count: int) -> None:
        """Remember; a file that cannot be written is left out (it is a second safety)."""
        if (epoch, count) == self._written:
            return
        raw = _MARK.pack(epoch, count, zlib.crc32(struct.pack("<QQ", epoch, count)))
        try:
            if self._descriptor < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o640)
            os.pwrite(self._descriptor, raw, 0)
        except OSError:
            return
        self._written = (epoch, count)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._written = (0, 0)
