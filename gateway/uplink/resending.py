"""Dead letters that people want sent again: out of the ledger, behind the items of the lanes.

A letter has its old number, so no cursor moves. Taken, it is settled; refused, it is a dead letter
as before; with a link that fails it stays queued. One that is to wait holds the letters of its lane
alone, and for long: nothing that people sent again may keep what comes anew. Where nothing is known
of any of them (a status 5xx, a session that ends), they go one by one; one that fails ``TRIES``
times, something having been taken between each two, is a dead letter again. So is one that is
denied, where that was something of its own lane; the next letter is tried between.
"""

import logging
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.store.alert import AlertItem
from gateway.uplink.base import (
    ALERT,
    Accepted,
    AlertSource,
    KeptItem,
    Outgoing,
    Refused,
    Retry,
    Verdict,
)
from gateway.uplink.doubts import TRIES
from gateway.uplink.letters import printable
from gateway.uplink.loop_time import loop_s

if TYPE_CHECKING:
    from gateway.store.letter import Letter

_LOGGER = logging.getLogger(__name__)

_NO_LANE: Final = "its lane is not sent to this uplink any more"


class _Doubted(msgspec.Struct):
    """The letter of a lane over which the other end failed last."""

    epoch: int
    seq: int
    tries: int = 0  # that count
    tried_s: float = float("-inf")  # loop time
    rests: bool = False  # it is another one's turn

    def is_(self, letter: "Letter | Outgoing") -> bool:
        """Whether it is that one."""
        seq = letter.item.seq if isinstance(letter, Outgoing) else letter.seq
        return (self.epoch, self.seq) == (letter.epoch, seq)


class Resending:
    """The queued letters of one uplink, which has ``lanes``. Coroutines may raise StoreError."""

    def __init__(self, uplink: str, lanes: Sequence[str], ledger: AlertSource) -> None:
        self._uplink = uplink
        self._lanes = lanes
        self._ledger = ledger
        self._hold_until_s: dict[str, float] = {}  # by lane; loop time
        self._singly: dict[str, int] = {}  # by lane: how many are to go one by one
        self._doubted: dict[str, _Doubted] = {}  # by lane
        self._taken_s = dict.fromkeys(lanes, float("-inf"))  # by lane; loop time

    @property
    def pending(self) -> int:
        """How many wait."""
        return self._ledger.letters_marked(self._uplink)

    def hold(self, lane: str, seconds: float, why: str) -> None:
        """Send none of this lane's for so long."""
        _LOGGER.info("%s: letters of %s wait: %s", self._uplink, lane, printable(why))
        self._hold_until_s[lane] = loop_s() + seconds

    def singly(self, lane: str) -> bool:
        """Whether this lane's go one by one, with nothing else under way."""
        return lane in self._singly

    async def next(self, limit: int, held: Container[str] = ()) -> tuple[str, list[Outgoing]]:
        """A lane and the oldest of its letters, at most ``limit``; none where none may be sent.

        ``held``: lanes that are to wait themselves.
        """
        now_s = loop_s()
        letters = await self._ledger.letters_to_send(self._uplink)
        for letter in letters:
            if letter.lane not in self._lanes:
                await self._refuse(letter, _NO_LANE)
        free = [
            lane
            for lane in self._lanes
            if lane not in held and now_s >= self._hold_until_s.get(lane, 0.0)
        ]
        letters = [letter for letter in letters if letter.lane in free]
        if not letters:
            return "", []
        lane = letters[0].lane
        own = [letter for letter in letters if letter.lane == lane]
        if self.singly(lane):
            own, limit = self._in_turn(lane, own), 1
        own = own[:limit]
        return lane, [_out(letter, self._ledger.audit_head) for letter in own]

    async def settle(
        self,
        lane: str,
        outs: Sequence[Outgoing],
        verdicts: Sequence[Verdict],
        taken_s: float,
        own_taken_s: float,
    ) -> Retry | None:
        """Write down what became of them; gives why to wait, where one asks for that.

        ``taken_s``: loop time at which the other end has taken an item of any lane last;
        ``own_taken_s``: of this lane.
        """
        retry: Retry | None = None
        known = sum(not isinstance(verdict, Retry) for verdict in verdicts)
        self._count_known(lane, known)
        for out, verdict in zip(outs, verdicts, strict=True):
            if isinstance(verdict, Accepted):
                self._taken_s[lane] = loop_s()
                await self._ledger.letter_sent(self._uplink, lane, out.epoch, out.item.seq)
            elif isinstance(verdict, Refused):
                await self._ledger.letter_refused(
                    self._uplink, lane, out.epoch, out.item.seq, verdict.reason
                )
            else:
                retry = verdict
        if retry and retry.fault and not known:
            own_s = max(own_taken_s, self._taken_s[lane])
            any_s = max(taken_s, *self._taken_s.values())
            await self._failed(lane, outs, retry, own_s if retry.denied else any_s)
        return retry

    def _in_turn(self, lane: str, own: list["Letter"]) -> list["Letter"]:
        """Without the one that failed last, where it is another one's turn and there is one."""
        doubted = self._doubted.get(lane)
        if doubted is None or not doubted.rests:
            return own
        doubted.rests = False
        return [letter for letter in own if not doubted.is_(letter)] or own

    def _count_known(self, lane: str, count: int) -> None:
        left = self._singly.pop(lane, 0) - count
        if left > 0:
            self._singly[lane] = left

    async def _failed(
        self, lane: str, outs: Sequence[Outgoing], why: Retry, taken_s: float
    ) -> None:
        """It may be the fault of one of them."""
        self._singly[lane] = max(len(outs), self._singly.get(lane, 0))
        if len(outs) > 1:
            return
        (out,) = outs
        found = self._doubted.get(lane)
        if found is None or not found.is_(out):
            found = self._doubted[lane] = _Doubted(out.epoch, out.item.seq)
        if not found.tries or taken_s > found.tried_s:
            found.tries += 1
        found.tried_s = loop_s()
        found.rests = True
        if found.tries >= TRIES:
            await self._ledger.letter_refused(
                self._uplink, lane, out.epoch, out.item.seq, why.fault
            )
            del self._doubted[lane]
            self._count_known(lane, 1)

    async def _refuse(self, letter: "Letter", reason: str) -> None:
        await self._ledger.letter_refused(
            self._uplink, letter.lane, letter.epoch, letter.seq, reason
        )


def _out(letter: "Letter", audit_head: str) -> Outgoing:
    kind = AlertItem if letter.lane == ALERT else KeptItem
    item = kind(letter.seq, letter.body)
    return Outgoing(item, epoch=letter.epoch, historical=True, audit_head=audit_head)
