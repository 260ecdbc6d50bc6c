"""The parts of a database on the disk: the file, its -wal and -shm, and what was put aside of them.

Constraint: nothing here touches the parts of a database that a connection of this process has open,
but for their names.
"""

import contextlib
import errno
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final

from gateway.store.migration import SPARE_BYTES

# The database last: until then nothing new is begun.
PARTS: Final = ("-wal", "-shm", "-journal", "")
# Every database of ours says so when it was begun.
EPOCH: Final = "SELECT value FROM meta WHERE key = 'epoch'"
ASIDE_MAX: Final = 2  # damaged files that are kept, the newest
_RENEW_BYTES: Final = 1024 * 1024


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


def sync_directory(directory: Path) -> None:
    """Make new names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
