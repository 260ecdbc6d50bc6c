"""What a lossy path does to a TCP connection, as its two ends see it.

A proxy in user space can lose no packet: what it has read is acknowledged. This is what loss looks
like from above TCP: bytes in order that come late by a retransmission timeout, 200 ms and doubled
by each further loss, while everything behind them waits; and now and then a connection that is
reset. It is not loss itself: no congestion window shrinks, nothing is retransmitted fast, and the
ends' own timers, keepalives and retransmissions see a perfect loopback.
"""

import random
from dataclasses import dataclass, field

SEGMENT_BYTES = 1460
RTO_S = 0.2  # Linux' shortest
RTO_S_MAX = 3.2


@dataclass
class Loss:
    """Of one direction. ``share``: of the segments; each ``reset_every``th ends the connection."""

    share: float
    reset_every: int = 0  # 0: none does
    seed: int = 1
    segments: int = 0
    stalls: int = 0
    resets: int = 0
    longest_s: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def stall_s(self) -> float | None:
        """How late the next segment comes; None: never, the connection is reset."""
        self.segments += 1
        if self.reset_every and self.segments % self.reset_every == 0:
            self.resets += 1
            return None
        late_s, rto_s = 0.0, RTO_S
        while self._random.random() < self.share and rto_s <= RTO_S_MAX:
            late_s += rto_s
            rto_s *= 2
        self.stalls += late_s > 0
        self.longest_s = max(self.longest_s, late_s)
        return late_s
