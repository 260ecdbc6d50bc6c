"""What an error of SQLite means for who uses the file."""

import sqlite3
from pathlib import Path
from typing import Final

_DAMAGE: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_FULL: Final = "SQLITE_FULL"
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


def name_of(error: sqlite3.Error) -> str:
    """SQLite's own name of it, "" where there is none."""
    return getattr(error, "sqlite_errorname", "") or ""


def is_damage(error: sqlite3.Error) -> bool:
    """The content is wrong: it will not get better."""
    return name_of(error).startswith(_DAMAGE)


def is_full(error: sqlite3.Error) -> bool:
    """No room, on the disk or under ``max_page_count``."""
    return name_of(error).startswith(_FULL)


def is_disk(error: sqlite3.Error) -> bool:
    """The file system failed: nothing that this connection believes of the file is sure."""
    return name_of(error).startswith(_DISK)


def is_foreign(error: sqlite3.Error, path: Path) -> bool:
    """The header says that only a newer SQLite may write it. Blocking; the file is closed.

    SQLite says READONLY of a disk that takes no writes, too: that one gets better.
    """
    if name_of(error) != "SQLITE_READONLY":
        return False
    try:
        with path.open("rb") as file:
            header = file.read(_WRITE_VERSION_AT + 1)
    except OSError:
        return False
    return len(header) > _WRITE_VERSION_AT and header[_WRITE_VERSION_AT] > _WRITE_VERSION_MAX


def is_wrong(error: sqlite3.Error) -> bool:
    """A table or column that the schema has is not there, or the header makes no sense."""
    return name_of(error) == "SQLITE_ERROR"
