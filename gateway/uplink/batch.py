"""How many items an uplink sends at once: a window, or one by one where one of them is at fault."""

from math import inf
from typing import Final

from gateway.uplink.base import ALERT, BACKFILL
from gateway.uplink.lane import Lane

BACKFILL_SEND_S: Final = 0.2  # what a send of the backlog may take beyond the least that one takes
LEAST_GROWS: Final = 1.02  # by each send: the way may have become a longer one
BARREN: Final = 2  # sends, or sessions, in a row that nothing came of: then singly


class Batch:
    """``window``: messages under way at most; ``group``: alerts in one of them."""

    def __init__(self, window: int, group: int) -> None:
        self.window = window
        self._alerts = window * group
        self._chunk = 1  # of the backlog
        self._least_s = inf  # that a send of it takes, however short: the way there and back
        self._singly = 0  # items to send singly, after one of them cost an answer
        self._failed = 0  # sends in a row

    @property
    def singly(self) -> bool:
        """Whether items are sent one by one, with nothing else under way."""
        return self._singly > 0

    def begin(self) -> None:
        """A session begins, perhaps by another way: how long that is has to be learnt anew."""
        self._least_s = inf
        self._chunk = 1

    def limit(self, lane: Lane) -> int:
        """For the lane's next send."""
        asking = lane.denied and not lane.doubted  # with one, so that the rest keeps its order
        if self.singly or lane.singly or asking or lane.doubts.troubled:
            return 1
        if lane.name == ALERT:
            return self._alerts
        return self._chunk if lane.name == BACKFILL else self.window

    def pace(self, took_s: float) -> None:
        """A send of the backlog took so long.

        What counts is what it waited in queues, where a live row waits behind it. A way by
        satellite takes its time for one message as for a hundred.
        """
        self._least_s = min(took_s, self._least_s * LEAST_GROWS)
        queued_s = took_s - self._least_s
        if queued_s < BACKFILL_SEND_S / 2:
            self._chunk = min(self.window, self._chunk * 2)
        elif queued_s > BACKFILL_SEND_S:
            self._chunk = max(1, self._chunk // 2)

    def search(self) -> None:
        """One of the next items cost a session."""
        self._singly = self._alerts

    def known(self, count: int) -> None:
        """So many have their verdicts."""
        self._failed = 0
        self._singly = max(0, self._singly - count)

    def failed(self, count: int) -> None:
        """Nothing is known of any of so many, and it may be the fault of one."""
        self._failed += 1
        if self._failed >= BARREN:
            self._singly = max(self._singly, count)
