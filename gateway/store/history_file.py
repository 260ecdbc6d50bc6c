"""history.db read by another than the gateway: ``export`` and the history query.

Constraints:
- nothing is written, created or checkpointed, and every read is short: the one connection that
  writes is the gateway's;
- where the gateway has stopped in order there is no -wal: the file is read as it lies, and no -shm
  is made that its next start would find;
- one block of samples is in memory at a time.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec

from fastpath.columns import ABSENT, FIELDS, Block
from gateway.errors import StoreError
from gateway.store.chunks import tags_of
from gateway.store.history_state import HistoryState
from gateway.store.tiers import Line, Part, block_of_line, line_id, parts_of

VERSION: Final = HistoryState.schema.version
BUSY_S: Final = 2.0
_STORED: Final = "members, t_first, t_last, n, codec, crc32, body"
_LINE: Final = "id, group_id, t_first, t_last, n, crc32, body"
_BLOCK: Final = {
    "chunk": f"SELECT {_STORED} FROM chunk WHERE id = ?",  # noqa: S608
    "tail": f"SELECT {_STORED} FROM tail WHERE piece = ?",  # noqa: S608
}
_DAMAGE: Final = (ValueError, LookupError, TypeError)

Sample = tuple[int, str, float, int]  # UTC ns, tag, value, quality byte


class Group(NamedTuple):
    """One poll group as it was under one site file."""

    id: int
    tags: list[str]


class Stored(NamedTuple):
    """A chunk, or a piece of the tail."""

    members: bytes
    t_first: int
    t_last: int
    n: int
    codec: int
    crc32: int
    body: bytes


class Place(NamedTuple):
    """Where a line, a chunk or a piece stands; ``last_piece``: of a chunk's window."""

    t_first: int
    table: str
    id: int
    last_piece: int


class HistoryFile:
    """Open until closed. Every method may raise StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._still = False
        with self._told():
            self._still = not self._wal.exists()  # nobody has it open
            there = path.is_file()
        if not there:
            msg = f"there is no history: {path} does not exist"
            raise StoreError(msg)
        self.damaged = 0  # samples, or buckets of a line, that could not be read
        uri = f"{path.absolute().as_uri()}?mode=ro" + "&immutable=1" * self._still
        with self._told():
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            self._check_version()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def groups(self) -> list[Group]:
        """Every poll group that has ever been, the oldest first."""
        rows = self._rows("SELECT id, tags FROM poll_group ORDER BY id")
        return [Group(ident, msgspec.json.decode(tags, type=list[str])) for ident, tags in rows]

    def count(self, group: Group, t0_ns: int, t1_ns: int) -> int:
        """About how many samples the group has there: whole blocks, all tags."""
        span = (group.id, t0_ns, t1_ns)
        where = "group_id = ? AND t_last >= ? AND t_first <= ?"
        tail = "piece > (SELECT packed_to FROM progress)"
        found = self._rows(f"SELECT sum(n) FROM chunk WHERE {where}", span)  # noqa: S608
        found += self._rows(f"SELECT sum(n) FROM tail WHERE {where} AND {tail}", span)  # noqa: S608
        return sum(n or 0 for (n,) in found)

    def samples(
        self, group: Group, wanted: frozenset[str], t0_ns: int, t1_ns: int
    ) -> Iterator[list[Sample]]:
        """The wanted tags' samples of t0 .. t1 in parts; those of one tag rise in time."""
        for stored in self._raw(group, t0_ns, t1_ns):
            yield from self.samples_in(stored, group, wanted, t0_ns, t1_ns)

    def samples_in(
        self, stored: Stored, group: Group, wanted: frozenset[str], t0_ns: int, t1_ns: int
    ) -> Iterator[list[Sample]]:
        """What of a block is wanted."""
        try:
            yield from _parts(stored, group, wanted, t0_ns, t1_ns)
        except _DAMAGE:
            self.damaged += stored.n

    def five_minutes_places(self, group: Group, t0_ns: int, t1_ns: int) -> list[Place]:
        """Lines of the windows whose raw samples have gone, and the others' samples.

        By first times, as it is at this moment; every sample is in one of them.
        """
        where = "group_id = ?1 AND t_last >= ?2 AND t_first <= ?3"
        return [
            Place(*row)
            for row in self._rows(
                f"SELECT t_first, 'summary', id, 0 FROM summary WHERE {where} AND NOT EXISTS "  # noqa: S608
                "(SELECT 1 FROM chunk WHERE last_piece = summary.id / ?4 AND group_id = ?1) "
                f"UNION ALL SELECT t_first, 'chunk', id, last_piece FROM chunk WHERE {where} "
                f"UNION ALL SELECT t_first, 'tail', piece, 0 FROM tail WHERE {where} "
                "AND piece > (SELECT packed_to FROM progress) ORDER BY 1, 2, 3",
                (group.id, t0_ns, t1_ns, line_id(1)),
            )
        ]

    def five_minutes_at(
        self, place: Place, group: Group, t0_ns: int, t1_ns: int
    ) -> list[Line | Stored] | None:
        """What is there; None: it was packed meanwhile, and the places are others."""
        if place.table == "summary":
            rows = self._rows(f"SELECT {_LINE} FROM summary WHERE id = ?", (place.id,))  # noqa: S608
            return [Line(*row) for row in rows]
        rows = self._rows(_BLOCK[place.table], (place.id,))
        if rows:
            return [Stored(*row) for row in rows]
        if place.table == "tail":
            return None
        return [
            Line(*row)  # it was shed meanwhile
            for row in self._rows(
                f"SELECT {_LINE} FROM summary WHERE group_id = ? AND t_last >= ? "  # noqa: S608
                "AND t_first <= ? AND +id >= ? AND +id < ? ORDER BY id",
                (group.id, t0_ns, t1_ns, line_id(place.last_piece), line_id(place.last_piece + 1)),
            )
        ]

    def parts_in(
        self, line: Line, group: Group, wanted: frozenset[str], t0_ns: int, t1_ns: int
    ) -> Iterator[tuple[str, list[Part]]]:
        """What of a line is wanted, by tag; the parts of a tag rise in time."""
        try:
            block = block_of_line(line, len(group.tags))
            for place, tag in enumerate(group.tags):
                if tag in wanted:
                    yield tag, parts_of(block, place, (t0_ns, t1_ns))
        except _DAMAGE:
            self.damaged += line.n // FIELDS

    def begins(self, group: Group, from_ns: int) -> int | None:
        """About when the first of a group is that is stored from a time on, None: nothing is."""
        found = []
        for table in ("summary", "chunk", "tail"):
            sql = f"SELECT min(t_first) FROM {table} WHERE group_id = ? AND t_last >= ?"  # noqa: S608
            found += self._rows(sql, (group.id, from_ns))
        return min((max(first, from_ns) for (first,) in found if first is not None), default=None)

    def series(
        self, tag: str, t0_ns: int, t1_ns: int, *, limit: int, within_s: float
    ) -> tuple[list[Sample], int | None]:
        """The first samples of a tag by time, about ``limit`` at most, and where to go on.

        None: that was all. Where to go on is later than ``t0_ns`` however little time there is;
        samples of one time are not torn apart.
        """
        end = time.monotonic() + within_s
        found: list[Sample] = []
        next_ns: int | None = None
        for group in self.groups():
            if tag in group.tags:
                own, group_next_ns = self._first(group, tag, (t0_ns, t1_ns), limit, end)
                found += own
                next_ns = min(next_ns or t1_ns, group_next_ns) if group_next_ns else next_ns
        found.sort(key=lambda sample: sample[0])
        if len(found) > limit:
            cut_ns = found[limit][0] + (found[limit][0] == found[0][0])
            next_ns = cut_ns if next_ns is None else min(cut_ns, next_ns)
        if next_ns is not None:
            found = [sample for sample in found if sample[0] < next_ns]
        return found, next_ns

    # ---- inside ------------------------------------------------------------------------------

    def _check_version(self) -> None:
        version = self._rows("PRAGMA user_version")[0][0]
        if version < VERSION:
            msg = (
                f"{self._path}: an older version wrote it; a start of the gateway brings it forward"
            )
            raise StoreError(msg)
        if version > VERSION:
            msg = f"{self._path}: a newer version wrote it (schema {version}, known {VERSION})"
            raise StoreError(msg)

    def _first(
        self, group: Group, tag: str, span: tuple[int, int], limit: int, end: float
    ) -> tuple[list[Sample], int | None]:
        """Every sample before the time that is given, more than ``limit`` where there are as many.

        Blocks are taken by their first times, which are not in the order of storing where a clock
        was set back. Those that begin by the start of the span are read however long it takes.
        """
        own: list[Sample] = []
        for t_first, table, ident in self._places(group, *span):
            if t_first > span[0] and (time.monotonic() > end or _reaches(own, limit, t_first)):
                return own, t_first
            rows = self._rows(_BLOCK[table], (ident,))
            if not rows and table == "tail":  # packed meanwhile
                return self._first(group, tag, span, limit, end)
            for stored in (Stored(*row) for row in rows):  # a chunk may be shed meanwhile
                for part in self.samples_in(stored, group, frozenset((tag,)), *span):
                    own += part
        return own, None

    def _places(self, group: Group, t0_ns: int, t1_ns: int) -> list[tuple[int, str, int]]:
        """(first time, table, number) of the blocks that have something of that time, by time."""
        where = "group_id = ?1 AND t_last >= ?2 AND t_first <= ?3"
        return self._rows(
            f"SELECT t_first, 'chunk', id FROM chunk WHERE {where} UNION ALL "  # noqa: S608
            f"SELECT t_first, 'tail', piece FROM tail WHERE {where} "
            "AND piece > (SELECT packed_to FROM progress) ORDER BY 1, 2, 3",
            (group.id, t0_ns, t1_ns),
        )

    def _raw(self, group: Group, t0_ns: int, t1_ns: int) -> Iterator[Stored]:
        """In the order of storing. What is packed meanwhile is neither left out nor given twice."""
        last = 0  # the last piece that was given
        while True:
            for ident, last_piece in self._chunks(group, last, t0_ns, t1_ns):
                rows = self._rows(_BLOCK["chunk"], (ident,))
                yield from (Stored(*row) for row in rows)  # it may be shed meanwhile
                last = last_piece
            rest = self._rest(group, last, t0_ns, t1_ns)
            if rest is not None:
                yield from rest
                return

    def _chunks(self, group: Group, after: int, t0_ns: int, t1_ns: int) -> list[tuple[int, int]]:
        """(id, last piece) of the chunks behind a piece that have something of that time."""
        return self._rows(
            "SELECT id, last_piece FROM chunk WHERE group_id = ? AND first_piece > ? "
            "AND t_last >= ? AND t_first <= ? ORDER BY first_piece, id",
            (group.id, after, t0_ns, t1_ns),
        )

    def _rest(self, group: Group, after: int, t0_ns: int, t1_ns: int) -> list[Stored] | None:
        """What is not packed, read at one moment; None where more was packed until then."""
        with self._moment():
            if self._chunks(group, after, t0_ns, t1_ns):
                return None
            rows = self._rows(
                f"SELECT {_STORED} FROM tail WHERE group_id = ? "  # noqa: S608
                "AND piece > (SELECT packed_to FROM progress) "
                "AND t_last >= ? AND t_first <= ? ORDER BY piece",
                (group.id, t0_ns, t1_ns),
            )
        return [Stored(*row) for row in rows]

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Everything that is read within is of one moment."""
        with self._told():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._told():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raises StoreError."""
        try:
            if self._still and self._wal.exists():
                msg = f"{self._path}: the gateway was started meanwhile; try again"
                raise StoreError(msg)
            yield
        except (OSError, OverflowError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            msg = f"{self._path}: cannot be read: {reason}"
            raise StoreError(msg) from error


def _reaches(samples: list[Sample], limit: int, t_ns: int) -> bool:
    """Whether more than ``limit`` of them are before that time."""
    if len(samples) <= limit:
        return False
    samples.sort(key=lambda sample: sample[0])
    return samples[limit][0] < t_ns


def _parts(
    stored: Stored, group: Group, wanted: frozenset[str], t0_ns: int, t1_ns: int
) -> Iterator[list[Sample]]:
    """What of a block is wanted. Raises one of _DAMAGE."""
    if zlib.crc32(stored.body) != stored.crc32:
        msg = "the checksum is wrong"
        raise ValueError(msg)
    tags = tags_of(stored.members, group.tags)
    block = Block(stored.codec, stored.body, len(tags))
    if len(wanted.intersection(tags)) * 2 < len(tags):
        for place, tag in enumerate(tags):
            if tag in wanted:
                yield [(at, tag, value, q) for at, value, q in block.series(place, t0_ns, t1_ns)]
        return
    for index in range(block.messages()):
        times, places, values, qualities = block.message(index)
        yield [
            (times[j], tags[place], values[i][j], qualities[i][j])
            for j in range(len(times))
            if t0_ns <= times[j] <= t1_ns
            for i, place in enumerate(places)
            if qualities[i][j] != ABSENT and tags[place] in wanted
        ]
