"""Reading rows of the history back, from the tail or out of chunks.

Backfill reads a window row by row, so the last few windows are kept unpacked. What is damaged is
left out and counted; the others are not held up by it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from aiosqlite import Connection

from gateway.store.chunks import Chunk, Row, item_of, rows_of, series_of
from gateway.store.history_state import HistoryState
from gateway.store.items import SampleItem

_WINDOWS_KEPT: Final = 4
_DAMAGE: Final = (ValueError, LookupError, TypeError)


class Found(NamedTuple):
    """(sequence, row number) that are in a lane, and the rows that could be read, by number."""

    wanted: list[tuple[int, int]]
    rows: dict[int, Row]


class RowReader:
    """Reads inside the database's task; decodes outside of it."""

    def __init__(self, state: HistoryState) -> None:
        self.damaged = 0  # samples that could not be read
        self._state = state
        self._windows: OrderedDict[int, dict[int, Row]] = OrderedDict()  # by first row
        self._epoch = 0

    def forget(self) -> None:
        """Windows may be gone."""
        self._windows.clear()

    async def lane(
        self, uplink: str, lane: str, after: int, limit: int, connection: Connection
    ) -> Found:
        """The oldest stored rows of a lane above ``after``."""
        stored, tail = await self._state.first_rows(connection)
        wanted = list(self._state.lanes.rows(uplink, lane, after, limit, stored))
        numbers = [number for _, number in wanted]
        unpacked = [number for number in numbers if number >= tail]
        rows: dict[int, Row] = {}
        if unpacked:
            found = await self._state.tail_rows(connection, unpacked[0], unpacked[-1])
            rows.update((row.row, row) for row in found)
        for number in numbers[: len(numbers) - len(unpacked)]:
            window = await self._window(connection, number)
            if number in window:
                rows[number] = window[number]
        return Found(wanted, rows)

    async def span(
        self, groups: Sequence[int], t0_ns: int, t1_ns: int, connection: Connection
    ) -> list[Row]:
        """The rows of these groups that have something of t0 .. t1."""
        found: list[Row] = []
        for chunk in await self._state.span(connection, groups, t0_ns, t1_ns):
            found += self._rows_of(chunk)
        found += await self._state.tail_rows(connection, 0, self._state.lanes.next_row)
        return [
            row
            for row in found
            if row.group_id in groups and row.t_last >= t0_ns and row.t_first <= t1_ns
        ]

    def items(self, found: Found) -> list[SampleItem]:
        """What was found, as it leaves."""
        items = []
        for seq, number in found.wanted:
            row = found.rows.get(number)
            if row is None:
                continue
            try:
                items.append(item_of(seq, row, self._state.group_tags[row.group_id]))
            except _DAMAGE:
                self.damaged += row.n
        return items

    def series(self, rows: Sequence[Row], tag: str) -> list[tuple[int, float, int]]:
        """(UTC ns, value, quality byte) of a tag in these rows, by time."""
        found = []
        for row in rows:
            try:
                found += series_of(row, self._state.group_tags[row.group_id], tag)
            except _DAMAGE:
                self.damaged += row.n
        return sorted(found, key=lambda item: item[0])

    async def _window(self, connection: Connection, number: int) -> dict[int, Row]:
        if self._epoch != self._state.epoch:  # another file: the same numbers, other rows
            self._epoch = self._state.epoch
            self.forget()
        for rows in self._windows.values():
            if number in rows:
                return rows
        chunks = await self._state.window(connection, number)
        rows = {row.row: row for chunk in chunks for row in self._rows_of(chunk)}
        if chunks:
            self._windows[chunks[0].first_row] = rows
            if len(self._windows) > _WINDOWS_KEPT:
                self._windows.popitem(last=False)
        return rows

    def _rows_of(self, chunk: Chunk) -> list[Row]:
        try:
            return rows_of(chunk)
        except _DAMAGE:
            self.damaged += chunk.n
            return []
