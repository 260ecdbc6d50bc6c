"""One lane of one uplink: its cursor, and what the other end has taken above it.

Constraints:
- the cursor is the highest contiguous sequence that needs no sending any more; it only grows;
- it is moved in memory first and in the store after: a store that refuses (a full disk) costs
  doubles after a restart, never an item, and never stops the sending;
- what the other end may fail over is passed by the items behind it (``doubts``), not by the cursor;
- sequences that the store no longer has (rows shed unsent) are one numbered gap marker;
- with a grace (``keep_after_ack``) the stored cursor follows that much later, and when a session
  ends in the meantime what it has not passed yet is sent once more: the other end may have had it
  in its memory alone. Once only (twice for what was acknowledged above a hole), or a link that
  comes and goes would send the same for ever.
"""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from gateway.errors import StoreError
from gateway.uplink import message
from gateway.uplink.base import ALERT, GapItem, Item, Outgoing, Refused
from gateway.uplink.doubts import PASSED_MAX, Doubts
from gateway.uplink.lane_source import LaneSource
from gateway.uplink.loop_time import loop_s

_LOGGER = logging.getLogger(__name__)

SHED: Final = "shed"  # a gap's reason: the history was full before the link came back


class Lane:
    """What a pump knows of one lane. ``keep_s``: the grace after an acknowledgement."""

    def __init__(self, uplink: str, name: str, source: LaneSource, *, keep_s: float = 0.0) -> None:
        self.uplink = uplink
        self.name = name
        self.cursor = 0
        self.hold_until_s = 0.0  # loop time before which nothing of this lane is sent
        self.denied = ""  # why the other end does not take this lane at all
        self.singly = 0  # items that go one by one: one of them was denied, or all
        self.taken_s = float("-inf")  # loop time at which one of its items was accepted last
        self.doubted = False  # it refused whatever was sent: who is at fault is not known
        self.refused: dict[int, Refused] = {}  # not yet set aside, by sequence
        self.vouched = False  # something was taken beside those
        self.marker_faults = 0  # in a row, over markers in their place
        self.doubts = Doubts()
        self.sent = 0
        self.retried = 0
        self.under_way = 0  # items of the send that is not answered yet
        self._source = source
        self._epoch = 0
        self._saved = 0
        self.saved_s = 0.0  # loop time of the last try to store it
        self._done: dict[int, int] = {}  # first -> last, above the cursor
        self._front = (0, 0)  # up to where all are done or parked, and how many of _done those are
        self._keep_s = keep_s
        self._settled = 0  # the cursor of so long ago
        self._again = 0  # up to here it was acknowledged before a session ended
        self._again_above: set[int] = set()  # likewise, above a hole: the first of each item
        self._taken: deque[tuple[float, int]] = deque()  # loop time, cursor
        self._oldest = (0, 0)  # sequence, UTC ns
        self._store_failed = False

    @property
    def pending(self) -> int:
        """Items that the other end does not have yet."""
        if self._epoch != self._source.epoch():
            return self._source.head()  # of a store whose cursor is not read yet
        return max(0, self._source.head() - self.cursor - len(self._done))

    @property
    def owed(self) -> int:
        """With those that cannot be sent yet."""
        return self.pending + self._source.unnumbered()

    @property
    def epoch(self) -> int:
        """Of the store that numbers the items."""
        return self._source.epoch()

    @property
    def waiting(self) -> int:
        """Pending items that may be sent in their turn: what is parked has its own time."""
        if len(self._done) > PASSED_MAX and self.doubts.proven:
            return 0  # but where a try counts only after one more has passed, it does
        return max(0, self.pending - len(self.doubts.parked))

    @property
    def has_more(self) -> bool:
        """Whether items wait beyond those that are under way."""
        return self.waiting > self.under_way

    def ready(self, now_s: float) -> bool:
        """Whether there is something to send."""
        free = now_s >= self.hold_until_s
        return free and (self.waiting > 0 or self.doubts.due(now_s) > 0)

    def oldest_utc_ns(self) -> int:
        """When the oldest pending item came into being; 0: none, or not known."""
        stamps = [parked.utc_ns for parked in self.doubts.parked.values()]
        stamps.append(self.oldest_waiting_utc_ns())
        return min((stamp_ns for stamp_ns in stamps if stamp_ns), default=0)

    def oldest_waiting_utc_ns(self) -> int:
        """The same of those that wait for their turn."""
        seq, stamp_ns = self._oldest
        return stamp_ns if self.waiting and seq > self.cursor and seq not in self._done else 0

    async def follow(self) -> None:
        """Read the cursor where the store is another one than before. Raises StoreError.

        A store that was opened, or set aside and begun anew, has cursors of its own.
        """
        epoch = self._source.epoch()
        if epoch == self._epoch:
            return
        cursor = await self._source.load()
        self.cursor = self._saved = self._settled = self._again = cursor
        self._again_above.clear()
        self._taken.clear()
        self._done.clear()
        self._front = (0, 0)
        self.refused.clear()
        self.doubts.clear()
        self._oldest = (0, 0)
        self._epoch = epoch

    async def next(
        self, limit: int, *, utc_ns: int, fresh_after: int = 0, audit_head: str = ""
    ) -> list[Outgoing]:
        """The oldest items that wait, at most ``limit``. Raises StoreError.

        ``fresh_after``: alerts up to this sequence are historical.
        """
        while True:
            await self.follow()
            head = self._source.head()  # before the rows: what is above it may still come
            front = self._look_front()
            known = len(self._done) - self._front[1] + len(self.doubts.parked)
            rows = await self._source.fetch(front, limit + known)
            if self._source.epoch() == self._epoch:
                break  # else the read found damage: these are another store's rows, or none
        items = [item for item in self._with_gaps(front, rows, head, utc_ns) if not self._has(item)]
        outs = [self._out(item, fresh_after, audit_head) for item in items[:limit]]
        if outs:
            self._oldest = (outs[0].item.seq, message.stamp_ns(outs[0]))
        return outs

    async def only(
        self, seq: int, *, fresh_after: int = 0, audit_head: str = ""
    ) -> Outgoing | None:
        """A parked item; None, and it is parked no more, where the store has it no longer.

        Raises StoreError.
        """
        await self.follow()
        for item in await self._source.fetch(seq - 1, 1):
            if item.seq == seq > self.cursor and self._source.epoch() == self._epoch:
                return self._out(item, fresh_after, audit_head)
        self.doubts.forget(seq)
        self._front = (0, 0)
        return None

    async def weigh(self) -> tuple[int, int] | None:
        """Bytes that wait and bytes at which the oldest would go; None where that is not known."""
        oldest_utc_ns = self.oldest_utc_ns()
        if not oldest_utc_ns or self._epoch != self._source.epoch():
            return None
        try:
            return await self._source.weigh(self.cursor, oldest_utc_ns)
        except StoreError:
            return None

    async def look(self) -> None:
        """Learn how old the oldest pending item is, where nothing is being sent."""
        if not self.pending or self.oldest_utc_ns():
            return
        try:
            await self.next(1, utc_ns=0)
        except StoreError:
            return

    def done(self, item: Item) -> None:
        """The other end has it, or never will."""
        first = item.first if isinstance(item, GapItem) else item.seq
        self._done[first] = item.seq
        self.refused.pop(item.seq, None)
        self.doubts.forget(item.seq)
        self.doubts.forget(first)
        self._front = (0, 0) if first <= self._front[0] else self._front
        if first > self.cursor + 1:
            return
        before = self.cursor
        self._advance()
        if self.cursor != before:
            self._taken.append((loop_s(), self.cursor))

    def rewind(self) -> None:
        """The session has ended: what was acknowledged within the grace is sent once more."""
        settled = self._look_settled()
        if self._keep_s == 0:
            return
        # What is above the cursor waits behind a hole, and may be lost just the same.
        twice = {first for first in self._done if first <= self._again}
        twice |= self._done.keys() & self._again_above
        once = self._done.keys() - twice
        self._again, self.cursor = max(self._again, self.cursor), settled
        self._front = (0, 0)
        self._again_above = {first for first in self._again_above | once if first > self._again}
        self._done = {first: self._done[first] for first in twice}
        self._taken.clear()

    async def save(self) -> None:
        """Bring the cursor into the store; where that fails it is tried again by the next call."""
        cursor = self._look_settled()
        self.saved_s = loop_s()
        if cursor == self._saved or self._epoch != self._source.epoch():
            return
        try:
            await self._source.save(cursor, self._epoch)
        except StoreError as error:
            if not self._store_failed:
                _LOGGER.warning("%s: cursor of %s not stored: %s", self.uplink, self.name, error)
            self._store_failed = True
            return
        self._saved = cursor
        self._store_failed = False

    def _advance(self) -> None:
        """Carry the cursor over what is done; nothing that it has passed stays behind it.

        A gap may hold items that were taken one by one before their rows were shed.
        """
        while True:
            while self.cursor + 1 in self._done:
                self.cursor = self._done.pop(self.cursor + 1)
            passed = [first for first in self._done if first <= self.cursor]
            if not passed:
                return
            self.cursor = max(self.cursor, *(self._done.pop(first) for first in passed))

    def _look_settled(self) -> int:
        """The highest sequence that needs no sending any more, whatever becomes of the session."""
        now_s = loop_s()
        while self._taken and now_s - self._taken[0][0] >= self._keep_s:
            self._settled = self._taken.popleft()[1]
        self._settled = max(self._settled, min(self.cursor, self._again))
        return self._settled

    def _out(self, item: Item, fresh_after: int, audit_head: str) -> Outgoing:
        historical = self.name == ALERT and item.seq <= fresh_after
        return Outgoing(item, epoch=self._epoch, historical=historical, audit_head=audit_head)

    def _look_front(self) -> int:
        """The last of those behind the cursor that are all done or parked: nothing to fetch."""
        front, known = self._front if self._front[0] > self.cursor else (self.cursor, 0)
        while True:
            if front + 1 in self._done:
                front, known = self._done[front + 1], known + 1
            elif front + 1 in self.doubts.parked:
                front += 1
            else:
                break
        self._front = (front, known)
        return front

    def _with_gaps(self, after: int, rows: Sequence[Item], head: int, utc_ns: int) -> list[Item]:
        items: list[Item] = []
        expected = after + 1
        for row in rows:
            if row.seq > expected and expected not in self._done:
                items.append(GapItem(expected, row.seq - 1, SHED, utc_ns))
            items.append(row)
            expected = row.seq + 1
        if not rows and head >= expected:
            items.append(GapItem(expected, head, SHED, utc_ns))
        return items

    def _has(self, item: Item) -> bool:
        if isinstance(item, GapItem):
            return item.first in self._done
        return item.seq in self._done or item.seq in self.doubts.parked
