"""The receiving platform's SQLite file: one connection, one transaction per answer, synced.

Constraints:
- a commit is on the disk when it returns (WAL, synchronous=FULL): only then is anything answered;
- without a file the same tables are in memory, and the oldest alerts go;
- ``samples = False`` counts the samples and keeps their sequence, not their content.
"""

import contextlib
import sqlite3
import time
import zlib
from importlib import resources
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from gateway.errors import GatewayError
from gateway.receiver.arrival import Alert, Gap, Item, Samples, Status
from gateway.receiver.ranges import Ranges
from gateway.receiver.stream import Key, Stream

VERSION: Final = 1
APPLICATION_ID: Final = 0x53575243
ALERTS_IN_MEMORY_MAX: Final = 20_000
DIFFERING_MAX: Final = 1_000
BUSY_S: Final = 5.0
WAL_BYTES: Final = 4 * 1024 * 1024
_LEVEL: Final = 1  # of zlib: the receiver keeps up with a backlog


class Archive:
    """Every method may raise sqlite3.Error; used by one thread at a time."""

    def __init__(self, path: Path | None, *, samples: bool = True) -> None:
        self._path = path
        self._samples = samples and path is not None
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Self:
        """What an open connection has, for reading."""
        archive = cls(None)
        archive._connection = connection
        return archive

    @property
    def connection(self) -> sqlite3.Connection:
        """For reading. Raises GatewayError while it is closed."""
        if self._connection is None:
            msg = "the receiver's file is closed"
            raise GatewayError(msg)
        return self._connection

    def open(self) -> None:
        """Open or begin the file. Raises GatewayError."""
        try:
            self._connection = self._connect()
            self._prepare(self._connection)
        except sqlite3.Error as error:
            self.close()
            msg = f"{self._path}: cannot be used: {error}"
            raise GatewayError(msg) from error
        except GatewayError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def client_id(self) -> str:
        """A name of this file's own, the same for ever: the broker keeps its session by it."""
        row = self.connection.execute("SELECT value FROM property WHERE name = 'client'").fetchone()
        return str(row[0])

    def begin(self) -> None:
        """What follows is done as a whole, or not at all."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """It is durable when this returns."""
        if self._path is None:
            self._forget_alerts()
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Never raises."""
        with contextlib.suppress(sqlite3.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    # ---- what is kept ------------------------------------------------------------------------

    def streams(self) -> dict[Key, Stream]:
        """Everything that is known of sequences."""
        run = self.connection.execute
        came: dict[int, list[tuple[int, int]]] = {}
        for ident, first, last in run("SELECT * FROM came ORDER BY stream, first"):
            came.setdefault(ident, []).append((first, last))
        gaps: dict[int, dict[tuple[int, int], str]] = {}
        for ident, first, last, reason in run("SELECT * FROM gap"):
            gaps.setdefault(ident, {})[first, last] = reason
        found = {}
        for ident, gateway, uplink, epoch, lane, *counts in run("SELECT * FROM stream"):
            key = Key(gateway, uplink, epoch, lane)
            numbers = Ranges(came.get(ident, []))
            found[key] = Stream(ident, key, tuple(counts), numbers, gaps.get(ident, {}))
        return found

    def new_stream(self, key: Key) -> Stream:
        """A sequence that begins."""
        row = self.connection.execute(
            "INSERT INTO stream VALUES (NULL, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0) RETURNING id", key
        ).fetchone()
        return Stream(row[0], key)

    def put(self, stream: Stream, item: Item) -> bool:
        """Keep an item; False for an alert whose id another sequence number has."""
        if isinstance(item.head, Alert):
            return self._put_alert(stream, item.head, item)
        if self._samples:
            self._put_samples(stream, item.head, item)
        return True

    def gap(self, stream: Stream, gap: Gap) -> None:
        """Keep what will not come."""
        self.connection.execute(
            "INSERT OR IGNORE INTO gap VALUES (?, ?, ?, ?)",
            (stream.id, gap.first, gap.last, gap.reason),
        )

    def stored(self, stream: Stream, item: Item) -> tuple[bytes, bytes] | None:
        """(digest, JSON) of what has that identity; None where its content is not kept."""
        run = self.connection.execute
        if isinstance(item.head, Alert):
            query = "SELECT digest, body FROM alert WHERE id = ?"
            return run(query, (item.head.id,)).fetchone()  # type: ignore[no-any-return]
        query = "SELECT digest, body FROM message WHERE stream = ? AND seq = ?"
        row = run(query, (stream.id, item.head.seq)).fetchone()
        return (row[0], zlib.decompress(row[1])) if row else None

    def differing(self, stream: Stream, item: Item) -> None:
        """Keep a double with other content, while there are few."""
        self.connection.execute(
            "INSERT INTO differing SELECT NULL, ?, ?, ? WHERE (SELECT count(*) FROM differing) < ?",
            (stream.id, item.head.seq, item.body, DIFFERING_MAX),
        )

    def save(self, stream: Stream) -> None:
        """Counts and ranges as they are now."""
        run = self.connection.execute
        run(
            "UPDATE stream SET messages = ?, samples = ?, doubles = ?, differing = ?, "
            "t_first = ?, t_last = ? WHERE id = ?",
            (*stream.counts, stream.id),
        )
        for first in stream.came.touched:
            last = stream.came.last_of(first)
            if last is None:
                run("DELETE FROM came WHERE stream = ? AND first = ?", (stream.id, first))
            else:
                run("INSERT OR REPLACE INTO came VALUES (?, ?, ?)", (stream.id, first, last))

    def status(self, status: Status) -> None:
        """What a gateway says of itself."""
        self.connection.execute(
            "INSERT OR REPLACE INTO gateway VALUES (?, ?, ?, ?)",
            (status.gateway, status.uplink, status.state, time.time_ns()),
        )

    def refused(self, reason: str) -> None:
        """Count what was not taken."""
        self.connection.execute(
            "INSERT INTO refused VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            (reason,),
        )

    # ---- inside ------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path or ":memory:",
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not ours and not (empty and version == 0):
            msg = f"{self._path}: not a file of sitewarden receive; name another one"
            raise GatewayError(msg)
        if version > VERSION:
            msg = f"{self._path}: written by a newer version (schema {version})"
            raise GatewayError(msg)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if empty:
            self._begin_file(connection)

    def _begin_file(self, connection: sqlite3.Connection) -> None:
        tables = resources.files("gateway.receiver").joinpath("receiver_v1.sql").read_text("utf-8")
        connection.executescript(f"BEGIN IMMEDIATE; {tables}")
        name = f"sitewarden-receive-{uuid4().hex[:12]}"
        connection.execute("INSERT INTO property VALUES ('client', ?)", (name,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")

    def _put_alert(self, stream: Stream, alert: Alert, item: Item) -> bool:
        values: tuple[Any, ...] = (
            alert.id, stream.id, alert.seq, alert.kind, alert.state, alert.ref, alert.time,
            item.digest(), item.body,
        )  # fmt: skip
        done = self.connection.execute(
            "INSERT OR IGNORE INTO alert VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values
        )
        return done.rowcount == 1

    def _put_samples(self, stream: Stream, head: Samples, item: Item) -> None:
        body = zlib.compress(item.body, _LEVEL)
        values = (stream.id, head.seq, *head.span_ns, head.count(), item.digest(), body)
        self.connection.execute("INSERT INTO message VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)

    def _forget_alerts(self) -> None:
        self.connection.execute(
            "DELETE FROM alert WHERE arrival <= (SELECT max(arrival) FROM alert) - ?",
            (ALERTS_IN_MEMORY_MAX,),
        )
