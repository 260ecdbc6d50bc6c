"""What can still be read of a damaged ledger: alerts that are owed, operator state, audit, letters.

It reads the file that was put aside, read-only and bounded in time; whatever cannot be read is left
out. Blocking: to be called in a thread.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from gateway.store.active import STORED, mended
from gateway.store.alert import ActiveAlert
from gateway.store.salvage_audit import AuditFound, read_audit

SALVAGE_S_MAX: Final = 5.0  # until then alerts are read
AUDIT_S_MAX: Final = 1.0
ALERTS_MAX: Final = 100_000
UNOWED_MAX: Final = 1_000  # alerts that are kept for people where there is no uplink
LETTERS_MAX: Final = 10_000
STEP: Final = 1_000  # alerts given at once
_READ: Final = 64  # alerts per read; around a damaged page they are read one by one
_LETTERS: Final = {  # by version, of those that had another table
    1: "SELECT rowid, uplink, lane, epoch, seq, reason, utc_ns, 'dead', utc_ns, '', body "
    "FROM letter ORDER BY rowid {} LIMIT ?",
}
_LETTERS_NOW: Final = (
    "SELECT id, uplink, lane, epoch, seq, reason, utc_ns, state, changed_ns, note, body "
    "FROM letter ORDER BY id {} LIMIT ?"
)


class Salvage:
    """What was found, and the alerts that are owed, a step at a time. Blocking; never raises."""

    def __init__(self) -> None:
        self.epoch = 0
        self.audit = AuditFound()
        self.active: list[ActiveAlert] = []
        self.letters: list[tuple[Any, ...]] = []  # rows of version 2
        self.alerts = 0  # given so far
        self._positions: dict[tuple[int, str], int] = {}
        self._owed = range(0)
        self._pieces: Iterator[bytes] = iter(())
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def of(cls, path: Path, uplinks: Sequence[str]) -> Self:
        """Read what is small. Owed is what not each of ``uplinks`` has."""
        found = cls()
        for mode in ("mode=ro", "immutable=1"):  # the other one: as if there were no -wal
            found.close()
            found = cls()
            try:
                uri = f"{path.absolute().as_uri()}?{mode}"
                found._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            except sqlite3.Error:
                continue
            found._read(found._connection, uplinks, time.monotonic() + SALVAGE_S_MAX)
            if found.epoch:
                break
        return found

    @property
    def owed(self) -> int:
        """Alerts that not each of the uplinks has, as far as that can be known."""
        return len(self._owed)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def next_alerts(self) -> list[bytes]:
        """The bodies of the next ones that are owed; none: that was all, or the time is over."""
        bodies = list(islice(self._pieces, STEP))
        self.alerts += len(bodies)
        return bodies

    def positions(self) -> dict[tuple[int, str], int]:
        """How far journals are recorded; none where alerts are missing: those come again."""
        whole = bool(self._owed.stop > 1) and self.alerts == len(self._owed)
        return self._positions if whole else {}

    def _read(
        self, connection: sqlite3.Connection, uplinks: Sequence[str], deadline_s: float
    ) -> None:
        def rows(sql: str, *parameters: Any) -> list[Any]:
            return list(_whole(connection, sql, *parameters))

        version = next((number for (number,) in rows("PRAGMA user_version")), 0)
        for (epoch,) in rows("SELECT value FROM meta WHERE key = 'epoch'"):
            self.epoch = epoch if isinstance(epoch, int) else 0
        self.audit = read_audit(connection, version, time.monotonic() + AUDIT_S_MAX)
        for row in _both_ends(connection, "SELECT * FROM active ORDER BY subject {}"):
            crc32 = row[3] if len(row) > 3 else None  # of version 3 on
            if all(map(isinstance, row, (str, str, bytes, int))):
                item = mended(ActiveAlert(*row[:3]), crc32, partial(_stored, connection))
                self.active += [item] if item else []
        self.letters = list(_letters(connection, version))
        for journal_id, stream, seq in rows("SELECT journal_id, stream, next_seq FROM journal"):
            if isinstance(journal_id, int) and isinstance(seq, int):
                self._positions[journal_id % (1 << 64), str(stream)] = seq
        head = next((seq for (seq,) in rows("SELECT ifnull(max(seq), 0) FROM alert")), 0)
        sql = "SELECT uplink, seq FROM cursor WHERE lane = 'alert' AND epoch = ?"
        cursors = dict(rows(sql, self.epoch))
        sent = min((cursors.get(uplink, 0) for uplink in uplinks), default=head - UNOWED_MAX)
        if isinstance(head, int) and isinstance(sent, int):
            self._owed = range(max(0, sent) + 1, head + 1)
            self._pieces = _alerts(connection, self._owed, deadline_s)


def _stored(connection: sqlite3.Connection, seq: int) -> tuple[Any, Any] | None:
    return next(_whole(connection, STORED, seq), None)


def _whole(connection: sqlite3.Connection, sql: str, *parameters: Any) -> Iterator[Any]:
    """The rows up to the first that cannot be read."""
    with suppress(sqlite3.Error, UnicodeDecodeError):
        yield from connection.execute(sql, parameters)


def _both_ends(connection: sqlite3.Connection, sql: str, *parameters: Any) -> list[Any]:
    """The rows, by their first column: from the front, and where that breaks off from the back."""
    found = {row[0]: row for row in _whole(connection, sql.format("ASC"), *parameters)}
    for row in _whole(connection, sql.format("DESC"), *parameters):
        if row[0] in found:
            break
        found[row[0]] = row
    return list(found.values())


def _letters(connection: sqlite3.Connection, version: int) -> Iterator[tuple[Any, ...]]:
    """Those whose parts are what they must be, once each."""
    sql = _LETTERS.get(version, _LETTERS_NOW if version else None)
    kinds = (int, str, str, int, int, str, int, str, int, str, bytes)
    seen = set()
    for row in _both_ends(connection, sql, LETTERS_MAX) if sql else ():
        sound = all(map(isinstance, row, kinds))
        if sound and row[1:5] not in seen:
            seen.add(row[1:5])
            yield row


def _alerts(connection: sqlite3.Connection, owed: range, deadline_s: float) -> Iterator[bytes]:
    """Their bodies, by their numbers, as far as the time goes."""
    sql = "SELECT crc32, body FROM alert WHERE seq BETWEEN ? AND ? ORDER BY seq"
    for first in owed[:ALERTS_MAX:_READ]:
        last = min(first + _READ - 1, owed.stop - 1)
        if time.monotonic() > deadline_s:
            return
        try:
            rows = connection.execute(sql, (first, last)).fetchall()
        except sqlite3.Error:  # one by one around a damaged page
            rows = [
                row for seq in range(first, last + 1) for row in _whole(connection, sql, seq, seq)
            ]
        for crc32, body in rows:
            if isinstance(body, bytes) and zlib.crc32(body) == crc32:
                yield body
