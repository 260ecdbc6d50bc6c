"""Items that one lane's other end may fail over, where it gives no verdict on them alone.

A status 5xx, a session that ends, silence: such a failure is the platform's, and is tried again.
But where a parser crashes over one item, that item would hold its lane for ever. So an item that
failed ``ALONE`` times, sent alone, is doubted, and others are tried beside it: another lane's or
the next ones of its own. Where one of them is taken it is parked: the others pass it, the cursor
does not. It is tried again, alone, every ``EVERY_S``, and a try counts only where the same lane
took something since the one before. After ``TRIES`` of them, which is ``SPAN_S`` at least, and once
more something taken, it is condemned: refused, as if the other end had said so.

Why so long: ten minutes outlive a restart, a deployment, and a load balancer that finds out that
one of its servers is broken, and nothing waits for it meanwhile. Why so few: each try may cost the
platform its process. Why proofs from the same lane: another one has another address there, which
may be well while this one is broken for whatever comes. A lane that takes what it had failed over
begins every count anew: it fails now and then, whatever is sent. All of this is in memory: after a
restart it begins anew, and what had passed a parked item is sent once more.

An item that is denied (no rights, no such address) says nothing of itself as long as its lane takes
nothing else: the rights are missing. So the next one is tried at once, and only where that one is
taken the first is parked, in the same way: something on the way there dislikes this one. Another
lane proves nothing here, it has rights of its own.

Where ``PARKED_MAX`` are parked, a further one stays the oldest; those behind it pass it one by one.

A marker holds nothing that could be lost, and the next sequence shows the same hole. It is not
parked: after ``TRIES`` that count, as fast as the lane's holds allow, it is left out.
"""

from typing import Final

import msgspec

ALONE: Final = 2  # failures in a row, sent alone, before others are tried beside it
TRIES: Final = 5
SPAN_S: Final = 600.0
EVERY_S: Final = SPAN_S / (TRIES - 1)
PARKED_MAX: Final = 20  # at once; past a further one the others go one by one
PASSED_MAX: Final = 20_000  # items that pass one that is parked, all to be sent again after a crash
PROBES: Final = 8  # following items that are tried in turn: the next one may be as bad
HOLD_S: Final = 0.5  # of the lane after a failure, doubled by each
HOLD_S_MAX: Final = 10.0


class Parked(msgspec.Struct):
    """One that others pass. Times are the loop's."""

    fault: str  # the reason it will be refused for
    detail: str
    utc_ns: int  # when it came into being, 0 where it does not say
    due_s: float
    tries: int = 0  # that count
    proven: bool = True  # the lane has taken something since it was tried


class Doubts:
    """Those of one lane. ``seq`` is an item's sequence, ``now_s`` loop time."""

    def __init__(self) -> None:
        self.parked: dict[int, Parked] = {}
        self._seq = 0  # that is doubted and not parked, 0: none
        self._fails = 0
        self._probes = 0  # that were tried since
        self._turn = False  # a probe's
        self._marker = False  # it is one
        self._denied = False  # it was, when it failed last
        self._tries = 0  # of a marker; the lane took something before each of them
        self._proven = False  # and since the last
        self._since_s = 0.0
        self._what = ("", "", 0)

    @property
    def troubled(self) -> bool:
        """Whether the oldest item has failed, alone."""
        return self._seq > 0

    @property
    def stuck(self) -> bool:
        """Whether it has failed so often that others are tried."""
        return self.troubled and self._fails >= ALONE

    @property
    def proven(self) -> bool:
        """Whether some are parked, and the lane has taken something since each was tried."""
        return bool(self.parked) and all(found.proven for found in self.parked.values())

    @property
    def denied(self) -> bool:
        """Whether the oldest item has failed for want of rights, which another lane may have."""
        return self.troubled and self._denied

    @property
    def since_s(self) -> float:
        """When it failed first."""
        return self._since_s

    @property
    def vain(self) -> bool:
        """Whether it is a marker that has failed so often that it is to be left out."""
        return self._marker and self._tries >= TRIES

    def probe(self) -> int:
        """Which item is to be tried now: 0 the oldest, n the one that many places behind it."""
        return 1 + self._probes % PROBES if self.stuck and self._turn else 0

    def hold_s(self) -> float:
        """How long the lane is to wait after a failure."""
        return min(HOLD_S_MAX, HOLD_S * 2.0 ** min(self._fails, 10))

    def failed(
        self,
        seq: int,
        fault: str,
        detail: str,
        utc_ns: int,
        now_s: float,
        *,
        marker: bool = False,
        denied: bool = False,
    ) -> None:
        """It was sent alone, and nothing is known of it; ``fault``: of a small fixed set.

        ``marker``: ``seq`` is the first that it stands for; the last may grow. ``denied``: the
        other end has answered, for want of rights; another item is tried at once.
        """
        found = self.parked.get(seq)
        if found is not None:
            found.due_s = now_s + EVERY_S
            found.tries += found.proven
            found.proven = False
        elif self.stuck and seq != self._seq:
            self._probes += 1
            self._turn = False
        else:
            if seq != self._seq:
                self._forget_trouble()
                self._since_s = now_s
            self._seq, self._what = seq, (fault, detail, utc_ns)
            self._marker = marker
            self._denied = denied
            self._fails = max(ALONE, self._fails + 1) if denied else self._fails + 1
            self._tries += self._proven
            self._proven = False
            # Where there is no other one the same comes in its turn: not again at once.
            self._turn = not (denied and self._turn)

    def accepted(self, seq: int, now_s: float) -> None:
        """The other end has taken it; 0: a marker."""
        if (self.troubled and seq == self._seq) or seq in self.parked:
            self.forget(seq)
            for found in self.parked.values():  # it fails now and then, whatever is sent
                found.tries = 0
        elif self.stuck:
            self.park(now_s)
        for found in self.parked.values():
            if not found.proven and (not found.tries or found.tries >= TRIES):
                found.due_s = now_s
            found.proven = True

    def park(self, now_s: float, *, proven: bool = True) -> None:
        """Something else was taken: the stuck one waits aside, where there is room for it."""
        if self.stuck and self._marker:
            self._proven |= proven
            self._turn = False
            return
        if not self.stuck or len(self.parked) >= PARKED_MAX:
            return
        due_s = now_s if proven else now_s + EVERY_S
        self.parked[self._seq] = Parked(*self._what, due_s, proven=proven)
        self._forget_trouble()

    def due(self, now_s: float) -> int:
        """A parked one that is to be tried again, or to be refused; 0: none."""
        return next((seq for seq, found in self.parked.items() if found.due_s <= now_s), 0)

    def postpone(self, seq: int, due_s: float) -> None:
        """Not before then."""
        if found := self.parked.get(seq):
            found.due_s = max(found.due_s, due_s)

    def condemned(self, seq: int) -> Parked | None:
        """What it is to be refused for, where it is so."""
        found = self.parked.get(seq)
        return found if found and found.proven and found.tries >= TRIES else None

    def forget(self, seq: int) -> None:
        """It is settled, or gone."""
        self.parked.pop(seq, None)
        if seq == self._seq:
            self._forget_trouble()

    def clear(self) -> None:
        """Another store."""
        self.parked.clear()
        self._forget_trouble()

    def _forget_trouble(self) -> None:
        self._seq = self._fails = self._probes = self._tries = 0
        self._turn = self._marker = self._denied = self._proven = False
