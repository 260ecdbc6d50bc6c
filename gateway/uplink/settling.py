"""What becomes of what was sent: the verdicts, and nothing lost by any of them.

An item that is refused is set aside as a dead letter only once the other end has shown that it
takes something: the numbered gap marker sent in the item's place, or another item of the same
send. Where it refuses the marker, too, it refuses everything, and the lane is retried slowly like
one that is denied. Where it fails over the marker ``TRIES`` times in a row, by no verdict, that is
no proof, but holds nothing that is proven otherwise. The letter and the alert about it are durable
before the cursor moves.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.errors import StoreError, UplinkError
from gateway.uplink import message
from gateway.uplink.base import (
    Accepted,
    GapItem,
    Item,
    Outgoing,
    Problems,
    Refused,
    Retry,
    UnansweredError,
    Verdict,
)
from gateway.uplink.doubts import TRIES
from gateway.uplink.lane import Lane
from gateway.uplink.letters import ONE_EVERY_S, Letters, marker_of, printable
from gateway.uplink.link_state import LinkState
from gateway.uplink.loop_time import loop_s

_LOGGER = logging.getLogger(__name__)

STORE_RETRY_S: Final = 1.0
REFUSED_RETRY_S: Final = 30.0

Send = Callable[[Lane, Sequence[Outgoing]], Awaitable[list[Verdict]]]


class Settling:
    """The verdicts on one uplink's items.

    ``send`` is the pump's, for markers; ``went_up`` is called when something was taken.
    """

    def __init__(
        self,
        uplink: str,
        lanes: Sequence[Lane],
        link: LinkState,
        letters: Letters,
        problems: Problems,
        send: Send,
        went_up: Callable[[], None],
        utc_ns: Callable[[], int],
    ) -> None:
        self._uplink = uplink
        self._lanes = lanes
        self._link = link
        self._letters = letters
        self._problems = problems
        self._send = send
        self._went_up = went_up
        self._utc_ns = utc_ns
        self.refused = 0
        self.taken_s = float("-inf")  # loop time at which something was accepted last
        self.fruitless = False  # something was sent in this session, nothing was accepted
        self.barren = 0  # such sessions in a row

    async def settle(
        self, lane: Lane, outs: Sequence[Outgoing], verdicts: Sequence[Verdict]
    ) -> None:
        """Act on one send's verdicts. Raises StoreError where a letter is not kept."""
        accepted = 0
        refused: list[tuple[Outgoing, Refused]] = []
        retry: Retry | None = None
        for out, verdict in zip(outs, verdicts, strict=True):
            if isinstance(verdict, Accepted):
                lane.doubts.accepted(_key_of(out.item), loop_s())
                lane.done(out.item)
                accepted += 1
            elif isinstance(verdict, Refused):
                refused.append((out, verdict))
                lane.refused[out.item.seq] = verdict
            else:
                lane.retried += 1
                if retry is None or verdict.denied or not retry.denied:
                    retry = verdict  # one that is denied says more than one that is not known
        lane.sent += accepted
        lane.singly = max(0, lane.singly - accepted - len(refused))
        self.refused += len(refused)
        if accepted:
            self._taken(lane)
        try:
            if refused:
                lane.vouched = accepted > 0
                await self.set_aside(lane, refused, proven=accepted > 0)
        finally:
            self._wait(lane, outs, retry, accepted)

    def _wait(self, lane: Lane, outs: Sequence[Outgoing], why: Retry | None, accepted: int) -> None:
        """``why`` some are to be sent again."""
        if why is None:
            return
        if len(outs) == 1:
            if not self.failed(lane, outs[0], why):
                self.pause(lane, why, accepted)
        elif why.denied and why.fault:
            lane.singly = len(outs)  # whether it is all of them or one is seen by one alone
        else:
            self.pause(lane, why, accepted)

    def failed(self, lane: Lane, out: Outgoing, why: Retry) -> bool:
        """It was sent alone and nobody says whose fault it is. True: no other lane need wait."""
        if not why.fault:
            return False
        now_s, doubts, seq = loop_s(), lane.doubts, _key_of(out.item)
        marker = isinstance(out.item, GapItem)
        stamp_ns = message.stamp_ns(out)
        doubts.failed(seq, why.fault, why.reason, stamp_ns, now_s, marker=marker, denied=why.denied)
        if doubts.vain:
            text = printable(why.reason)
            _LOGGER.warning("%s: a gap marker of %s is left out: %s", self._uplink, lane.name, text)
            lane.done(out.item)
            return True
        if seq in doubts.parked:
            doubts.postpone(seq, now_s + why.after_s)
            return True
        if why.denied:
            return doubts.probe() > 0 and lane.waiting > 1  # that one at once, then the hold
        if doubts.stuck:
            lane.hold_until_s = now_s + why.after_s + doubts.hold_s()
            self._link.hold_until_s = max(self._link.hold_until_s, now_s + why.after_s)
        return doubts.stuck

    def may_set_aside(self) -> bool:
        """Whether there is a letter left."""
        return self._letters.left(loop_s()) > 0

    async def set_aside(
        self, lane: Lane, refused: Sequence[tuple[Outgoing, Refused]], *, proven: bool
    ) -> None:
        """Markers in the place of what is refused, then the letters; all or none of it.

        ``proven``: it has taken something of the lane, and need not take the markers. Raises
        StoreError where a letter is not kept, UnansweredError where the markers end the session.
        """
        refused = refused[: self._letters.left(loop_s())]
        if not refused:
            lane.hold_until_s = loop_s() + ONE_EVERY_S
            return
        markers = [marker_of(out, why, self._utc_ns()) for out, why in refused]
        cut: UnansweredError | None = None
        try:
            verdicts = await self._send(lane, markers)
        except UnansweredError as error:
            cut, verdicts = error, [Retry(reason=str(error), fault=error.fault)]
        if wait := _wait_for_markers(lane, verdicts):
            self.pause(lane, wait)
        else:
            await self._put_away(lane, refused, verdicts, proven=proven)
        if cut:
            raise cut

    async def _put_away(
        self,
        lane: Lane,
        refused: Sequence[tuple[Outgoing, Refused]],
        verdicts: Sequence[Verdict],
        *,
        proven: bool,
    ) -> None:
        """The letters, where it was shown that something is taken. ``verdicts``: on the markers."""
        if any(isinstance(verdict, Accepted) for verdict in verdicts):
            lane.doubts.accepted(0, loop_s())
        elif not proven:
            lane.refused.clear()  # they are tried again, in company: one that passes is a proof
            lane.doubted = True
            why = refused[0][1]
            text = f"it refuses everything in {lane.name}: {why.reason} {why.detail}"
            self.pause(lane, Retry(REFUSED_RETRY_S, text, denied=True))
            return
        try:
            for out, why in refused:
                await self._letters.keep(lane.name, out, why)
                lane.done(out.item)
        except StoreError:
            lane.hold_until_s = loop_s() + STORE_RETRY_S
            raise
        finally:
            self._link.progress()
            self._went_up()

    def pause(self, lane: Lane, why: Retry, accepted: int = 0) -> None:
        """``denied`` holds the lane alone, anything else the whole link."""
        if not why.denied:
            until_s = loop_s() + max(why.after_s, self._link.backoff_s())
            self._link.hold_until_s = max(self._link.hold_until_s, until_s)
            if not accepted:
                self._link.went_down(UplinkError(why.reason or "it asks us to wait"))
            return
        # Held over the end of the session, too: some brokers end it after every refused publish.
        lane.denied = printable(why.reason)
        lane.hold_until_s = loop_s() + self._link.slowly_s(why.after_s)
        self._problems.raised("uplink", f"{self._uplink}/{lane.name}", lane.denied)
        if all(other.denied for other in self._lanes):
            self._link.went_down(UplinkError(lane.denied))

    def _taken(self, lane: Lane) -> None:
        """The other end takes what this lane has."""
        self.taken_s = lane.taken_s = loop_s()
        for other in self._lanes:
            lonely = other.doubts.stuck and other.waiting <= 1
            if other is not lane and lonely and not other.doubts.denied:
                other.doubts.park(self.taken_s, proven=False)
        self.fruitless = False
        self.barren = 0
        self._link.progress()
        lane.doubted = False
        if lane.denied:
            lane.denied = ""
            self._problems.cleared("uplink", f"{self._uplink}/{lane.name}", "is taken again")
        self._went_up()


def _wait_for_markers(lane: Lane, verdicts: Sequence[Verdict]) -> Retry | None:
    """Why markers are to be sent again; None where they have their verdicts, or never will."""
    retries = [verdict for verdict in verdicts if isinstance(verdict, Retry)]
    if any(isinstance(verdict, Accepted) for verdict in verdicts):
        lane.marker_faults = 0
    asked = next((retry for retry in retries if not retry.fault), None)
    if asked or not retries:
        return asked
    lane.marker_faults += 1
    return None if lane.marker_faults >= TRIES else retries[0]


def _key_of(item: Item) -> int:
    return item.first if isinstance(item, GapItem) else item.seq
