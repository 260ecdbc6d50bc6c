"""One process per directory, by a lock that does not keep the disk under it from being mended.

A file system that the kernel has made read-only comes back by being unmounted alone, which whoever
holds a descriptor there prevents. So the lock is let go while nothing in the directory can be used,
and taken again before the first of it is.
"""

import fcntl
import os
import threading
from pathlib import Path
from typing import Final

_GUARD: Final = threading.Lock()


class DirectoryLock:
    """Of one directory. It is owned from ``acquire`` to ``release``.

    Held all that time but between the last ``leave`` of its users and the next ``enter``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._users: set[object] = set()

    def acquire(self) -> None:
        """Take it. Raises OSError where anybody has it."""
        with _GUARD:
            if self._directory in _OWNED:
                raise BlockingIOError
            self._take()
            _OWNED[self._directory] = self

    def release(self) -> None:
        """Let it go; harmless when it is not owned."""
        with _GUARD:
            if _OWNED.get(self._directory) is self:
                del _OWNED[self._directory]
            self._let_go()

    def enter(self, user: object) -> None:
        """Raises OSError where it was let go and another process has it by now. Blocking."""
        with _GUARD:
            if self._descriptor < 0:
                self._take()
            self._users.add(user)

    def leave(self, user: object) -> None:
        """Harmless where the user has not entered."""
        with _GUARD:
            if user in self._users:
                self._users.remove(user)
                if not self._users:
                    self._let_go()

    def _take(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_OWNED: Final[dict[Path, DirectoryLock]] = {}


def enter(directory: Path, user: object) -> None:
    """``user`` is about to use what is in a directory. Raises OSError; blocking.

    A directory that this process has not locked is everybody's.
    """
    if (lock := _OWNED.get(directory)) is not None:
        lock.enter(user)


def leave(directory: Path, user: object) -> None:
    """``user`` has nothing open there any more."""
    if (lock := _OWNED.get(directory)) is not None:
        lock.leave(user)
