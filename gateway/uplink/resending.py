"""Dead letters that people want sent again: out of the ledger, behind the items of the lanes.

A letter has its old number, so no cursor moves. Taken, it is settled; refused, it is a dead letter
as before; with a link that fails it stays queued. One that is to wait holds the letters of its lane
alone, and for long: nothing that people sent again may keep what comes anew.
"""

import asyncio
import logging
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

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
from gateway.uplink.letters import printable

if TYPE_CHECKING:
    from gateway.store.letter import Letter

_LOGGER = logging.getLogger(__name__)

_NO_LANE = "its lane is not sent to this uplink any more"


class Resending:
    """The queued letters of one uplink, which has ``lanes``. Coroutines may raise StoreError."""

    def __init__(self, uplink: str, lanes: Sequence[str], ledger: AlertSource) -> None:
        self._uplink = uplink
        self._lanes = lanes
        self._ledger = ledger
        self._hold_until_s: dict[str, float] = {}  # by lane; loop time

    @property
    def pending(self) -> int:
        """How many wait."""
        return self._ledger.letters_marked(self._uplink)

    def hold(self, lane: str, seconds: float, why: str) -> None:
        """Send none of this lane's for so long."""
        _LOGGER.info("%s: letters of %s wait: %s", self._uplink, lane, printable(why))
        self._hold_until_s[lane] = _now_s() + seconds

    async def next(self, limit: int, held: Container[str] = ()) -> tuple[str, list[Outgoing]]:
        """A lane and the oldest of its letters, at most ``limit``; none where none may be sent.

        ``held``: lanes that are to wait themselves.
        """
        now_s = _now_s()
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
        own = [letter for letter in letters if letter.lane == lane][:limit]
        return lane, [_out(letter, self._ledger.audit_head) for letter in own]

    async def settle(
        self, lane: str, outs: Sequence[Outgoing], verdicts: Sequence[Verdict]
    ) -> Retry | None:
        """Write down what became of them; gives why to wait, where one asks for that."""
        retry: Retry | None = None
        for out, verdict in zip(outs, verdicts, strict=True):
            if isinstance(verdict, Accepted):
                await self._ledger.letter_sent(self._uplink, lane, out.epoch, out.item.seq)
            elif isinstance(verdict, Refused):
                await self._ledger.letter_refused(
                    self._uplink, lane, out.epoch, out.item.seq, verdict.reason
                )
            else:
                retry = verdict
        return retry

    async def _refuse(self, letter: "Letter", reason: str) -> None:
        await self._ledger.letter_refused(
            self._uplink, letter.lane, letter.epoch, letter.seq, reason
        )


def _out(letter: "Letter", audit_head: str) -> Outgoing:
    kind = AlertItem if letter.lane == ALERT else KeptItem
    item = kind(letter.seq, letter.body)
    return Outgoing(item, epoch=letter.epoch, historical=True, audit_head=audit_head)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
