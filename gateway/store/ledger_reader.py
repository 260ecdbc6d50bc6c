"""A ledger read from outside of the gateway, whether that runs or not: by the command line.

Constraints: it never writes, checkpoints or keeps a read open, so the gateway's one connection is
never held up. Texts are taken as the disk has them: an edited byte must be found, not stumbled on.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from gateway.errors import StoreError
from gateway.store.audit import PAGE, ROWS
from gateway.store.ledger_state import LedgerState
from gateway.store.letter import READ, Letter, listing
from gateway.store.sqlite_file import BUSY_S

_SCHEMA: Final = LedgerState.schema


class LedgerReader:
    """To be used in a ``with``. Everything may raise StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._open()
        self._check()
        self.gateway: Final = str(self._meta("gateway"))
        self.epoch: Final = int(self._meta("epoch"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def audit_rows(self, after: int = 0) -> Iterator[tuple[Any, ...]]:
        """The rows of the audit above an entry, as ``audit.Chain`` takes them."""
        while rows := self._rows(ROWS, (after, PAGE)):
            yield from rows
            after = rows[-1][0]

    def audit_entries(self) -> int:
        """The last entry's number."""
        return int(self._rows("SELECT ifnull(max(seq), 0) FROM audit", ())[0][0])

    def letters(self, after: int, limit: int, *, every: bool) -> list[Letter]:
        """Letters above an id, without their bodies; ``every``: those that are settled, too."""
        where, parameters = listing(after, limit, every=every)
        return [Letter(*row) for row in self._rows(READ.format(body="x''") + where, parameters)]

    def letter(self, ident: int) -> Letter | None:
        """One letter with its body."""
        rows = self._rows(READ.format(body="body") + "WHERE id = ?", (ident,))
        return Letter(*rows[0]) if rows else None

    def _open(self) -> sqlite3.Connection:
        try:
            there = self._path.exists()
        except OSError as error:  # a directory that this user may not enter
            raise self._unreadable(error) from error
        if not there:
            msg = f"there is no {self._path.name} in {self._path.parent}; is --state-dir right?"
            raise StoreError(msg)
        try:
            return self._connect("mode=ro")
        except sqlite3.Error as error:
            wal = self._path.with_name(f"{self._path.name}-wal")
            try:
                if wal.exists() and wal.stat().st_size:
                    raise self._unreadable(error) from error
                return self._connect("mode=ro&immutable=1")  # a copy where nothing may be written
            except (OSError, sqlite3.Error):
                raise self._unreadable(error) from error

    def _connect(self, options: str) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?{options}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)
        try:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _check(self) -> None:
        ident = self._rows("PRAGMA application_id", ())[0][0]
        version = self._rows("PRAGMA user_version", ())[0][0]
        if ident == _SCHEMA.application_id and version == _SCHEMA.version:
            return
        self._connection.close()
        if ident != _SCHEMA.application_id:
            msg = f"{self._path} is no ledger"
        elif version < _SCHEMA.version:
            msg = (
                f"{self._path}: found schema {version}, expected {_SCHEMA.version}; "
                "start the gateway of this version once: it brings the file forward"
            )
        else:
            msg = f"{self._path}: found schema {version}, expected {_SCHEMA.version}; use the newer"
        raise StoreError(msg)

    def _meta(self, key: str) -> Any:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else 0

    def _rows(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StoreError:
        reason = error.strerror if isinstance(error, OSError) else error
        return StoreError(f"{self._path} cannot be read: {reason}")
