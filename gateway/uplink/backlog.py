"""What waits for one uplink, by lane: how much, how old, and when the first of it would be lost.

The bound of a lane is where its oldest item would have to go: for alerts the ledger's room, for
samples the size at which the history sheds. At 50, 80 and 95 % of it people are told, once for
each step; a step is over once the lane is five points below it: one at the edge is not told twice.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

import msgspec

from gateway.store.alert import Priority
from gateway.uplink.base import Problems
from gateway.uplink.lane import Lane
from gateway.uplink.loop_time import loop_s

LOOK_S: Final = 10.0  # between two weighings
RATE_S: Final = 600.0  # the present rate is that of so long, or since the gateway knows
RATE_S_MIN: Final = 20.0
STEPS: Final[tuple[tuple[int, Priority], ...]] = ((50, "medium"), (80, "high"), (95, "high"))
BELOW: Final = 5  # points below a step at which it is over
KIND: Final = "uplink_backlog"


class Waiting(msgspec.Struct, frozen=True):
    """What waits in one lane."""

    items: int
    oldest_s: float = 0.0  # age of the oldest
    stored_bytes: int | None = None  # None: not known
    fill: float = 0.0  # of the bound, 0 to 1
    full_s: float = inf  # until the bound is reached at the present rate; inf: never


class Backlog:
    """The lanes of one uplink, weighed now and then. ``utc_ns`` is what ages are measured by."""

    def __init__(
        self,
        uplink: str,
        lanes: Sequence[Lane],
        problems: Problems,
        utc_ns: Callable[[], int],
    ) -> None:
        self._problems = problems
        self._utc_ns = utc_ns
        self._scales = [_Scale(uplink, lane) for lane in lanes]

    async def weigh(self) -> None:
        """Weigh every lane once and tell what is to be told."""
        for scale in self._scales:
            await scale.weigh(loop_s())
            scale.tell(self._problems)

    def waiting(self) -> dict[str, Waiting]:
        """By lane, as last weighed."""
        now_ns = self._utc_ns()
        return {scale.lane.name: scale.waiting(now_ns) for scale in self._scales}


class _Scale:
    """One lane's weights."""

    def __init__(self, uplink: str, lane: Lane) -> None:
        self.lane = lane
        self._uplink = uplink
        self._bytes: int | None = None
        self._bound_bytes = 0
        self._past: deque[tuple[float, int]] = deque()  # loop time, bytes

    async def weigh(self, now_s: float) -> None:
        """Ask the store."""
        if not self.lane.pending:
            self._bytes = 0
        elif (weighed := await self.lane.weigh()) is not None:
            self._bytes, self._bound_bytes = weighed
        else:
            return
        self._past.append((now_s, self._bytes))
        while now_s - self._past[0][0] > RATE_S:
            self._past.popleft()

    def waiting(self, now_ns: int) -> Waiting:
        """As last weighed; items and age are those of now."""
        oldest_ns = self.lane.oldest_utc_ns()
        items = self.lane.owed
        return Waiting(
            items=items,
            oldest_s=max(0, now_ns - oldest_ns) / 1e9 if oldest_ns else 0.0,
            stored_bytes=self._bytes if items else 0,
            fill=self._fill() if items else 0.0,
            full_s=self._full_s() if items else inf,
        )

    def tell(self, problems: Problems) -> None:
        """Raise the steps that are reached, clear those that are left behind."""
        if self._bytes is None:
            return
        percent = self._fill() * 100
        for step, priority in STEPS:
            ident = f"{self._uplink}/{self.lane.name}/{step}"
            if percent >= step:
                problems.raised(KIND, ident, self._text(percent), priority=priority)
            elif percent < step - BELOW:
                problems.cleared(KIND, ident, f"{percent:.0f} % of its room is in use")

    def _text(self, percent: float) -> str:
        full_s = self._full_s()
        when = (
            f"full in {full_s / 3600:.1f} h at the present rate" if full_s < inf else "not growing"
        )
        return (
            f"{self.lane.owed} items of {self.lane.name} wait for {self._uplink}: "
            f"{percent:.0f} % of the room, {when}"
        )

    def _fill(self) -> float:
        return (self._bytes or 0) / self._bound_bytes if self._bound_bytes else 0.0

    def _full_s(self) -> float:
        if len(self._past) < 2 or self._bytes is None:
            return inf
        (first_s, first), (last_s, last) = self._past[0], self._past[-1]
        if last_s - first_s < RATE_S_MIN or last <= first:
            return inf
        return max(0, self._bound_bytes - last) * (last_s - first_s) / (last - first)
