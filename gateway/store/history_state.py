"""What the history holds, as committed: numbers, groups, lanes, cursors, how much was shed."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from aiosqlite import Connection

from gateway.store import history_from_v1, shedding, tiers
from gateway.store.chunks import Piece
from gateway.store.file_parts import EPOCH
from gateway.store.history_salvage import take_over
from gateway.store.items import PollGroup
from gateway.store.lanes import BACKFILL, LIVE, Lanes, MessageRange, Range
from gateway.store.migration import Step
from gateway.store.owner import Opened
from gateway.store.sqlite_file import Schema, value_of

_SIGN: Final = 1 << 63
_PARTED: Final = "SELECT value FROM meta WHERE key = ?"


@dataclass(slots=True)
class Unpacked:
    """What of the tail is not in a chunk yet."""

    pieces: int = 0
    samples: int = 0
    bytes: int = 0
    since_ns: int = 0  # monotonic, about when its first piece was committed

    def less(self, pieces: int, samples: int, size: int, now_ns: int) -> None:
        """The first pieces were packed or shed; what follows counts as committed now."""
        self.pieces -= pieces
        self.samples -= samples
        self.bytes -= size
        self.since_ns = now_ns


class Commit(NamedTuple):
    """What one transaction adds."""

    ranges: list[Range]
    pieces: Sequence[Piece]
    samples: int
    bytes: int
    position: tuple[int, int] | None


class HistoryState:
    """The owner of a history file (``owner.Owner``)."""

    once = False  # a message at most is taken for a double; most of the samples would stay behind
    schema = Schema("history", 0x53574831, 2, (Step(to=2, code=history_from_v1.forward),))

    def __init__(
        self,
        groups: Sequence[PollGroup],
        uplinks: Sequence[str],
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.epoch = 0
        self.lanes = Lanes(uplinks)
        self.samples = 0
        self.shed = shedding.Shed()
        self.shed_buckets = 0
        self.shed_unsent: Counter[tuple[str, str]] = Counter()  # messages, by uplink and lane
        self.shed_untold = 0  # messages of these, since somebody asked
        self.position: tuple[int, int] | None = None
        self.cursors: dict[tuple[str, str], int] = {}
        self.group_ids: list[int] = []  # by place in the site's groups
        self.group_tags: dict[int, tuple[str, ...]] = {}
        self.unpacked = Unpacked()
        self.utc_ns = utc_ns
        self.monotonic_ns: Callable[[], int] = time.monotonic_ns
        self.damage = ""  # what was lost with a file that was set aside, to be told once
        self._groups = tuple(groups)

    def mark(self) -> tuple[int, int]:
        """(epoch, pieces and messages ever given a number)."""
        return self.epoch, self.lanes.next_piece + self.lanes.next_message - 2

    # ---- the file ------------------------------------------------------------------------------

    async def load(self, connection: Connection, opened: Opened) -> None:
        """Read everything; a file without an epoch is begun."""
        epoch = await value_of(connection, EPOCH)
        self.epoch = int(epoch) if epoch is not None else await self._begin(connection, opened)
        await self._load_left_behind(connection)
        await self._load_groups(connection)
        await self._load_progress(connection)
        await self._load_lanes(connection)
        await self._load_tail(connection)

    async def _begin(self, connection: Connection, opened: Opened) -> int:
        """Begin the file, with what a damaged one still holds; gives its epoch."""
        epoch = max(self.utc_ns(), opened.epoch_min + 1)
        await connection.execute_fetchall("INSERT INTO meta VALUES ('epoch', ?)", (epoch,))
        await connection.execute_fetchall(
            "INSERT INTO progress VALUES (1, 1, 1, 0, 0, 0, 0, NULL, NULL)"
        )
        if opened.aside:
            salvaged = await take_over(connection, opened.aside, self.lanes.uplinks)
            self.damage = (
                f"the history was damaged ({opened.reason}): {salvaged}, "
                f"the damaged file is {opened.aside.name}"
            )
        return epoch

    async def _load_left_behind(self, connection: Connection) -> None:
        """What bringing an older file forward has cost, once."""
        key = history_from_v1.LEFT_BEHIND
        told = await value_of(connection, "SELECT value FROM meta WHERE key = ?", (key,))
        if told:
            self.damage = str(told)
            await connection.execute_fetchall("DELETE FROM meta WHERE key = ?", (key,))

    async def make_room(self, connection: Connection) -> Callable[[], None] | None:
        """Delete the oldest window, or the oldest pieces where nothing is packed."""
        oldest = await shedding.oldest(connection, self)
        if oldest is None:
            return None
        shed = await shedding.delete(connection, self, oldest)
        return lambda: shedding.take(self, shed)

    async def _load_progress(self, connection: Connection) -> None:
        rows = await connection.execute_fetchall(
            "SELECT next_piece, next_message, packed_to, samples, shed_pieces, shed_samples, "
            "journal_id, next_sample FROM progress"
        )
        next_piece, next_message, packed_to, self.samples, pieces, samples, journal_id, position = (
            next(iter(rows))
        )
        self.shed = shedding.Shed(pieces, samples)
        self.shed_buckets = await tiers.shed_so_far(connection)
        self.shed_unsent = Counter(
            {
                (uplink, lane): messages
                for uplink, lane, messages in await connection.execute_fetchall(
                    "SELECT uplink, lane, messages FROM shed"
                )
            }
        )
        self.position = None if journal_id is None else (journal_id % (1 << 64), position)
        self.cursors = {
            (uplink, lane): seq
            for uplink, lane, seq in await connection.execute_fetchall(
                "SELECT uplink, lane, seq FROM cursor WHERE epoch = ?", (self.epoch,)
            )
        }
        self.lanes.load(
            (next_piece, next_message, packed_to),
            [
                Range(*row)
                for row in await connection.execute_fetchall(
                    "SELECT uplink, lane, first_piece, last_piece, first_seq FROM lane_range"
                )
            ],
            [
                MessageRange(*row)
                for row in await connection.execute_fetchall(
                    "SELECT uplink, first_message, last_message, first_seq FROM message_range"
                )
            ],
            self.cursors,
        )
        for uplink in self.lanes.uplinks:
            for lane in (LIVE, BACKFILL):
                parted = await value_of(connection, _PARTED, (_parted_key(uplink, lane),))
                if parted is not None:  # what it never had between there and its head is a gap
                    self.cursors[uplink, lane] = min(parted, self.cursors[uplink, lane])

    async def _load_lanes(self, connection: Connection) -> None:
        closed = self.lanes.orphans()
        await _store_ranges(connection, closed)
        self.lanes.take(closed, 0)

    async def _load_groups(self, connection: Connection) -> None:
        for group in self._groups:
            await connection.execute_fetchall(
                "INSERT OR IGNORE INTO poll_group (group_key, tags) VALUES (?, ?)", _key(group)
            )
        self.group_tags = {}
        ids = {}
        for ident, key, tags in await connection.execute_fetchall(
            "SELECT id, group_key, tags FROM poll_group"
        ):
            self.group_tags[ident] = tuple(msgspec.json.decode(tags, type=list[str]))
            ids[key, tags] = ident
        self.group_ids = [ids[_key(group)] for group in self._groups]

    async def _load_tail(self, connection: Connection) -> None:
        after = (self.lanes.packed_to,)
        for row in await connection.execute_fetchall(
            "SELECT count(*), ifnull(sum(n), 0), ifnull(sum(length(body)), 0) FROM tail "
            "WHERE piece > ?",
            after,
        ):
            self.unpacked = Unpacked(*row)
        self.unpacked.since_ns = self.monotonic_ns()

    # ---- a commit ------------------------------------------------------------------------------

    async def write(
        self,
        connection: Connection,
        pieces: Sequence[Piece],
        position: tuple[int, int] | None,
    ) -> Commit:
        """Number the pieces and give them to lanes; one transaction with the ring's position."""
        first = self.lanes.next_piece
        commit = Commit(
            ranges=self.lanes.changes(),
            pieces=[piece._replace(piece=first + i) for i, piece in enumerate(pieces)],
            samples=sum(piece.n for piece in pieces),
            bytes=sum(len(piece.body) for piece in pieces),
            position=position or self.position,
        )
        await connection.executemany(
            "INSERT INTO tail (piece, group_id, members, t_first, t_last, n, codec, crc32, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            commit.pieces,
        )
        await _store_ranges(connection, commit.ranges)
        journal_id, next_sample = commit.position or (None, None)
        await connection.execute_fetchall(
            "UPDATE progress SET next_piece = ?, samples = ?, journal_id = ?, next_sample = ?",
            (first + len(pieces), self.samples + commit.samples, _signed(journal_id), next_sample),
        )
        return commit

    def take(self, commit: Commit) -> None:
        """Adopt what was committed."""
        self.lanes.take(commit.ranges, len(commit.pieces))
        self.samples += commit.samples
        self.position = commit.position
        if not self.unpacked.pieces:
            self.unpacked.since_ns = self.monotonic_ns()
        self.unpacked.pieces += len(commit.pieces)
        self.unpacked.samples += commit.samples
        self.unpacked.bytes += commit.bytes

    def take_tier(self, shed: tiers.Shed | None) -> None:
        """Adopt what was shed of the five-minute buckets."""
        self.shed_buckets += shed.buckets if shed else 0

    # ---- cursors -------------------------------------------------------------------------------

    def check_cursor(self, uplink: str, lane: str, seq: int) -> int:
        """The cursor as it stands. Raises ValueError for a step back or beyond the last message."""
        before, head = self.cursors.get((uplink, lane), 0), self.lanes.head(uplink, lane)
        if not before <= seq <= head:
            msg = f"cursor of {uplink}/{lane} from {before} to {seq}, last message {head}"
            raise ValueError(msg)
        return before

    async def move_cursor(
        self, connection: Connection, uplink: str, lane: str, seq: int
    ) -> list[int]:
        """Store it; gives the ranges that are done."""
        done = self.lanes.done(uplink, lane, seq)
        await connection.execute_fetchall(
            "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)", (uplink, lane, self.epoch, seq)
        )
        await connection.execute_fetchall(
            "DELETE FROM meta WHERE key = ?", (_parted_key(uplink, lane),)
        )
        sql = {
            LIVE: f"DELETE FROM lane_range WHERE uplink = ? AND lane = '{LIVE}' "  # noqa: S608
            "AND first_piece = ?",
            BACKFILL: "DELETE FROM message_range WHERE uplink = ? AND first_message = ?",
        }
        await connection.executemany(sql[lane], [(uplink, first) for first in done])
        return done

    async def write_forgotten(
        self, uplink: str, lanes: Sequence[str], connection: Connection
    ) -> None:
        """Delete whatever is owed to an uplink in these lanes.

        Its cursors stay, at the last messages: one that comes back under the name within the epoch
        must not give their numbers to other messages, which a receiver would take for doubles.
        How far it had come is written down: what was given up is a gap then, and told as one.
        """
        for lane in lanes:
            head, cursor = self.lanes.head(uplink, lane), self.cursors.get((uplink, lane), 0)
            if head > cursor:
                await connection.execute_fetchall(
                    "INSERT OR IGNORE INTO meta VALUES (?, ?)", (_parted_key(uplink, lane), cursor)
                )
            for table in ("lane_range", "shed"):
                sql = f"DELETE FROM {table} WHERE uplink = ? AND lane = ?"  # noqa: S608
                await connection.execute_fetchall(sql, (uplink, lane))
            await connection.execute_fetchall(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)",
                (uplink, lane, self.epoch, head),
            )
        if BACKFILL in lanes:
            await connection.execute_fetchall(
                "DELETE FROM message_range WHERE uplink = ?", (uplink,)
            )

    def take_forgotten(self, uplink: str, lanes: Sequence[str]) -> None:
        """Adopt that nothing is owed there any more."""
        self.lanes.forget(uplink, lanes)
        for lane in lanes:
            self.cursors[uplink, lane] = self.lanes.head(uplink, lane)
            self.shed_unsent.pop((uplink, lane), None)

    async def newest(self, connection: Connection) -> int:
        """The last time of everything that is stored, 0 where nothing is."""
        tail = await value_of(connection, "SELECT max(t_last) FROM tail") or 0
        return max(tail, await value_of(connection, "SELECT max(t_last) FROM chunk") or 0)

    async def bytes_since(self, utc_ns: int, connection: Connection) -> int:
        """Bytes of the bodies that have something of this time or later."""
        total = 0
        for table in ("tail", "chunk"):
            sql = f"SELECT ifnull(sum(length(body)), 0) FROM {table} WHERE t_last >= ?"  # noqa: S608
            total += await value_of(connection, sql, (utc_ns,))
        return total


def _parted_key(uplink: str, lane: str) -> str:
    return f"parted/{uplink}/{lane}"


async def _store_ranges(connection: Connection, ranges: Sequence[Range]) -> None:
    if ranges:
        await connection.executemany(
            "INSERT OR REPLACE INTO lane_range VALUES (?, ?, ?, ?, ?)", ranges
        )


def _key(group: PollGroup) -> tuple[str, str]:
    return group.key, msgspec.json.encode(group.tags).decode()


def _signed(journal_id: Any) -> Any:
    """SQLite's integers are signed."""
    return journal_id - (1 << 64) if journal_id is not None and journal_id >= _SIGN else journal_id
