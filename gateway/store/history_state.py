"""What the history holds, as committed: numbers, groups, lanes, cursors, how much was shed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from aiosqlite import Connection

from gateway.store.chunks import Chunk, Row, pack_rows
from gateway.store.items import PollGroup
from gateway.store.lanes import Lanes, Range
from gateway.store.owner import Opened
from gateway.store.sqlite_file import Schema, value_of

ROOM_ROWS: Final = 256  # tail rows that go at once where there is no chunk
_ROW_FIELDS: Final = "row, group_id, members, t_first, t_last, n, codec, crc32, body"
_CHUNK_FIELDS: Final = "first_row, last_row, group_id, t_first, t_last, n, codec, crc32, rows, body"
_SIGN: Final = 1 << 63


class Shed(NamedTuple):
    """What was deleted to stay within the bounds; ``unsent``: rows that an uplink still wanted."""

    rows: int = 0
    samples: int = 0
    unsent: int = 0
    tail_bytes: int = 0  # of bodies that were not packed

    def plus(self, other: "Shed") -> "Shed":
        """Both together."""
        return Shed(*(mine + its for mine, its in zip(self, other, strict=True)))


class Oldest(NamedTuple):
    """What goes first: a window of chunks, or the first rows of the tail."""

    first_row: int
    last_row: int
    samples: int
    t_last: int
    tail_bytes: int  # 0: it is packed


@dataclass(slots=True)
class Commit:
    """What one transaction adds."""

    ranges: list[Range]
    rows: int
    samples: int
    body_bytes: int
    position: tuple[int, int] | None = None
    cursors: dict[tuple[str, str], int] = field(default_factory=dict)


class HistoryState:
    """The owner of a history file (``owner.Owner``)."""

    schema = Schema("history", 0x53574831, 1)

    def __init__(
        self,
        groups: Sequence[PollGroup],
        uplinks: Sequence[str],
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.epoch = 0
        self.lanes = Lanes(uplinks)
        self.samples = 0
        self.shed = Shed()
        self.position: tuple[int, int] | None = None
        self.cursors: dict[tuple[str, str], int] = {}
        self.group_ids: list[int] = []  # by place in the site's groups
        self.group_tags: dict[int, tuple[str, ...]] = {}
        self.tail_bytes = 0
        self._groups = tuple(groups)
        self.utc_ns = utc_ns

    def mark(self) -> tuple[int, int]:
        """(epoch, rows ever given a number)."""
        return self.epoch, self.lanes.next_row - 1

    # ---- the file ------------------------------------------------------------------------------

    async def load(self, connection: Connection, opened: Opened) -> None:
        """Read everything; a file without an epoch is begun."""
        epoch = await value_of(connection, "SELECT value FROM meta WHERE key = 'epoch'")
        if epoch is None:
            epoch = max(self.utc_ns(), opened.epoch_min + 1)
            await connection.execute_fetchall("INSERT INTO meta VALUES ('epoch', ?)", (epoch,))
            await connection.execute_fetchall(
                "INSERT INTO progress VALUES (1, 1, 0, 0, 0, NULL, NULL)"
            )
        self.epoch = int(epoch)
        await self._load_progress(connection)
        await self._load_groups(connection)
        self.cursors = {
            (uplink, lane): seq
            for uplink, lane, seq in await connection.execute_fetchall(
                "SELECT uplink, lane, seq FROM cursor WHERE epoch = ?", (self.epoch,)
            )
        }
        self.tail_bytes = await value_of(
            connection, "SELECT ifnull(sum(length(body)), 0) FROM tail"
        )

    async def make_room(self, connection: Connection) -> Callable[[], None] | None:
        """Delete the oldest window, or the oldest rows where nothing is packed."""
        oldest = await self.oldest(connection)
        if oldest is None:
            return None
        shed = await self.delete(connection, oldest)
        return lambda: self.take_shed(shed)

    async def _load_progress(self, connection: Connection) -> None:
        rows = await connection.execute_fetchall(
            "SELECT next_row, samples, shed_rows, shed_samples, journal_id, next_sample "
            "FROM progress"
        )
        next_row, self.samples, shed_rows, shed_samples, journal_id, next_sample = next(iter(rows))
        self.shed = Shed(shed_rows, shed_samples)
        self.position = None if journal_id is None else (journal_id % (1 << 64), next_sample)
        ranges = await connection.execute_fetchall("SELECT * FROM lane_range")
        self.lanes.load((Range(*item) for item in ranges), next_row)

    async def _load_groups(self, connection: Connection) -> None:
        for group in self._groups:
            await connection.execute_fetchall(
                "INSERT OR IGNORE INTO poll_group (group_key, tags) VALUES (?, ?)", _key(group)
            )
        self.group_tags = {}
        ids = {}
        for ident, key, tags in await connection.execute_fetchall("SELECT * FROM poll_group"):
            self.group_tags[ident] = tuple(msgspec.json.decode(tags, type=list[str]))
            ids[key, tags] = ident
        self.group_ids = [ids[_key(group)] for group in self._groups]

    # ---- rows ----------------------------------------------------------------------------------

    async def write(
        self, connection: Connection, rows: Sequence[Row], position: tuple[int, int] | None
    ) -> Commit:
        """Number the rows and give them to lanes; one transaction with the ring's position."""
        first = self.lanes.next_row
        numbered = [row._replace(row=first + i) for i, row in enumerate(rows)]
        commit = Commit(
            ranges=self.lanes.changes(),
            rows=len(rows),
            samples=sum(row.n for row in rows),
            body_bytes=sum(len(row.body) for row in rows),
            position=position or self.position,
        )
        await connection.executemany(
            f"INSERT INTO tail ({_ROW_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            numbered,
        )
        if commit.ranges:
            await connection.executemany(
                "INSERT OR REPLACE INTO lane_range VALUES (?, ?, ?, ?, ?)", commit.ranges
            )
        journal_id, next_sample = commit.position or (None, None)
        await connection.execute_fetchall(
            "UPDATE progress SET next_row = ?, samples = ?, journal_id = ?, next_sample = ?",
            (first + len(rows), self.samples + commit.samples, _signed(journal_id), next_sample),
        )
        return commit

    def take(self, commit: Commit) -> None:
        """Adopt what was committed."""
        self.lanes.take(commit.ranges, commit.rows)
        self.samples += commit.samples
        self.tail_bytes += commit.body_bytes
        self.position = commit.position

    async def first_rows(self, connection: Connection) -> tuple[int, int]:
        """The oldest row that is stored, the oldest in the tail; next_row where there is none."""
        none = self.lanes.next_row
        tail = await value_of(connection, "SELECT min(row) FROM tail") or none
        return await value_of(connection, "SELECT min(first_row) FROM chunk") or tail, tail

    async def tail_rows(self, connection: Connection, first: int, last: int) -> list[Row]:
        """Rows first .. last of the tail."""
        sql = f"SELECT {_ROW_FIELDS} FROM tail WHERE row BETWEEN ? AND ? ORDER BY row"  # noqa: S608
        return [Row(*row) for row in await connection.execute_fetchall(sql, (first, last))]

    async def newest(self, connection: Connection) -> int:
        """The last time of all rows, 0 where there is none."""
        tail = await value_of(connection, "SELECT max(t_last) FROM tail") or 0
        return max(tail, await value_of(connection, "SELECT max(t_last) FROM chunk") or 0)

    async def window(self, connection: Connection, row: int) -> list[Chunk]:
        """The chunks among which a packed row is."""
        return await self._chunks(
            connection,
            "first_row = (SELECT max(first_row) FROM chunk WHERE first_row <= ?)",
            (row,),
        )

    async def span(
        self, connection: Connection, group_ids: Sequence[int], t0: int, t1: int
    ) -> list[Chunk]:
        """The chunks of these groups that have something of t0 .. t1."""
        found = []
        for group_id in group_ids:
            found += await self._chunks(
                connection, "group_id = ? AND t_last >= ? AND t_first <= ?", (group_id, t0, t1)
            )
        return found

    async def _chunks(
        self, connection: Connection, where: str, parameters: tuple[int, ...]
    ) -> list[Chunk]:
        sql = f"SELECT {_CHUNK_FIELDS} FROM chunk WHERE {where} ORDER BY id"  # noqa: S608
        rows = await connection.execute_fetchall(sql, parameters)
        return [Chunk(*row) for row in rows]

    # ---- packing and shedding ------------------------------------------------------------------

    async def pack(self, connection: Connection, window_bytes: int) -> tuple[int, int]:
        """Replace the oldest rows of the tail by chunks; gives (rows, bytes of their bodies)."""
        last = await value_of(
            connection,
            "SELECT max(row) FROM (SELECT row, sum(length(body)) OVER (ORDER BY row) AS size "
            "FROM tail) WHERE size <= ?",
            (window_bytes,),
        )
        rows = await self.tail_rows(connection, 0, last) if last else []
        if not rows:
            return 0, 0
        await connection.executemany(
            f"INSERT INTO chunk ({_CHUNK_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            pack_rows(rows[0].row, rows[-1].row, rows),
        )
        await connection.execute_fetchall("DELETE FROM tail WHERE row <= ?", (last,))
        return len(rows), sum(len(row.body) for row in rows)

    async def oldest(self, connection: Connection) -> Oldest | None:
        """What goes first, None where nothing is stored."""
        packed = await connection.execute_fetchall(
            "SELECT first_row, last_row, sum(n), max(t_last), 0 FROM chunk "
            "WHERE first_row = (SELECT min(first_row) FROM chunk) HAVING count(*) > 0"
        )
        tail = await connection.execute_fetchall(
            "SELECT min(row), max(row), sum(n), max(t_last), sum(size) FROM "
            "(SELECT row, n, t_last, length(body) AS size FROM tail ORDER BY row LIMIT ?) "
            "HAVING count(*) > 0",
            (ROOM_ROWS,),
        )
        for row in [*packed, *tail]:
            return Oldest(*row)
        return None

    async def delete(self, connection: Connection, oldest: Oldest) -> Shed:
        """Delete it and count it."""
        last = (oldest.last_row,)
        rows = oldest.last_row - oldest.first_row + 1
        unsent = self.unsent(oldest)
        await connection.execute_fetchall("DELETE FROM chunk WHERE last_row <= ?", last)
        if oldest.tail_bytes:
            await connection.execute_fetchall("DELETE FROM tail WHERE row <= ?", last)
        await connection.execute_fetchall(
            "UPDATE progress SET shed_rows = shed_rows + ?, shed_samples = shed_samples + ?",
            (rows, oldest.samples),
        )
        return Shed(rows, oldest.samples, unsent, oldest.tail_bytes)

    def unsent(self, oldest: Oldest) -> int:
        """Its rows that some uplink still wants."""
        return self.lanes.count(oldest.first_row, oldest.last_row, self.cursors)

    def take_shed(self, shed: Shed) -> None:
        """Adopt what was deleted."""
        self.shed = self.shed.plus(shed)
        self.tail_bytes -= shed.tail_bytes


def _key(group: PollGroup) -> tuple[str, str]:
    return group.key, msgspec.json.encode(group.tags).decode()


def _signed(journal_id: Any) -> Any:
    """SQLite's integers are signed."""
    return journal_id - (1 << 64) if journal_id is not None and journal_id >= _SIGN else journal_id
