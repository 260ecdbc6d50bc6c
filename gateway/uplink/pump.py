"""The pump of one uplink: stores -> platform, alerts first, then live rows, then the backlog.

Each lane has a worker. A worker sends only while no lane before it has anything to send, a window
at a time; the backlog also while live rows wait for their answer alone. What it has under way is
kept so small that a live row waits about a quarter of a second behind it. Live rows that the link
is too slow for are made backlog: what is committed from then on is, until the lane is empty. The
pump alone moves cursors, by the verdicts (``settling``).
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.errors import StoreError, UplinkError
from gateway.uplink import backlog, batch, link_state, settling
from gateway.uplink.backlog import Backlog, Waiting
from gateway.uplink.base import (
    ALERT,
    BACKFILL,
    LANES,
    LIVE,
    AlertSource,
    LinkRefusedError,
    Outgoing,
    Problems,
    Refused,
    Retry,
    SampleSource,
    SuspectError,
    UnansweredError,
    Uplink,
    Verdict,
)
from gateway.uplink.batch import Batch
from gateway.uplink.gate import Gate
from gateway.uplink.lane import Lane
from gateway.uplink.lane_source import AlertLane, SampleLane
from gateway.uplink.letter_worker import LetterWorker
from gateway.uplink.letters import Letters
from gateway.uplink.link_state import LinkState
from gateway.uplink.loop_time import loop_s
from gateway.uplink.resending import Resending
from gateway.uplink.sessions import Job, Sessions
from gateway.uplink.settling import Settling

if TYPE_CHECKING:
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

_LOGGER = logging.getLogger(__name__)

SAVE_S: Final = 0.2  # a cursor lags no longer; a synced write for each send halves the rate
LIVE_ITEMS_MAX: Final = 10_000  # that wait; beyond, or older than this, new ones are backlog
LIVE_AGE_NS_MAX: Final = 60_000_000_000


class PumpStats(msgspec.Struct, frozen=True):
    """What is shown of an uplink. Counters since the start of the process."""

    id: str
    up: bool
    reason: str  # why it is not up, or what it does not take; "" where all is well
    waiting: dict[str, Waiting]  # by lane
    sent: dict[str, int]  # by lane
    retried: int
    refused: int
    letters: dict[str, int]  # by reason
    connects: int
    certificate_not_after_utc_ns: int  # of the server, 0 where there is none

    @property
    def backlog(self) -> dict[str, int]:
        """Items that wait, by lane."""
        return {lane: waiting.items for lane, waiting in self.waiting.items()}

    @property
    def oldest_s(self) -> float:
        """Age of the oldest item that waits, 0 where none does."""
        return max((waiting.oldest_s for waiting in self.waiting.values()), default=0.0)


class Pump:
    """Moves what the stores hold to one platform."""

    def __init__(
        self,
        config: "UplinkConfig",
        uplink: Uplink,
        ledger: AlertSource,
        history: SampleSource,
        problems: Problems,
        sender: "Sender",
        *,
        utc_ns: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._id = config.id
        self._batch = Batch(config.window, config.group)
        self._uplink = uplink
        self._ledger = ledger
        self._utc_ns = utc_ns
        self._lanes = _lanes(config, ledger, history)
        self._wakes = {lane.name: asyncio.Event() for lane in self._lanes}
        self._link = LinkState(config.id, config.lanes, history, problems, jitter=jitter)
        self._letters = Letters(ledger, sender)
        self._settling = Settling(
            config.id,
            self._lanes,
            self._link,
            self._letters,
            problems,
            self._send,
            self._went_up,
            utc_ns,
        )
        self._letter_worker = LetterWorker(
            Resending(config.id, config.lanes, ledger),
            self._lanes,
            self._link,
            self._batch,
            self._settling,
            self._send,
            self._store_trouble,
        )
        self._backlog = Backlog(config.id, self._lanes, problems, utc_ns)
        self._fresh_after = 0  # alerts up to here are historical
        self._gate = Gate()
        jobs: dict[str, Job] = {lane.name: partial(self._work, lane) for lane in self._lanes}
        jobs["letters"] = self._letter_worker.run
        self._sessions = Sessions(self._id, uplink, self._gate, self, jobs)
        self._store_failed = False

    async def run(self) -> None:
        """Send, for ever; ends by cancellation, with the session closed and the cursors saved."""
        self._link.begin()
        parts = [
            asyncio.create_task(self._look_after(), name=f"{self._id}/backlog"),
            asyncio.create_task(self._sessions.run(), name=f"{self._id}/sessions"),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
            await self._uplink.close()
            for lane in self._lanes:
                await lane.save()

    def nudge(self) -> None:
        """There may be something new to send."""
        self._letter_worker.nudge()
        for wake in self._wakes.values():
            wake.set()

    def stats(self) -> PumpStats:
        """The state now."""
        denied = [lane.denied for lane in self._lanes if lane.denied]
        return PumpStats(
            id=self._id,
            up=self._link.up,
            reason=self._link.reason or "; ".join(denied),
            waiting=self._backlog.waiting(),
            sent={lane.name: lane.sent for lane in self._lanes},
            retried=sum(lane.retried for lane in self._lanes),
            refused=self._settling.refused,
            letters=dict(self._letters.kept),
            connects=self._sessions.count,
            certificate_not_after_utc_ns=getattr(self._uplink, "certificate_not_after_utc_ns", 0),
        )

    # Of a session (SessionListener)

    def connecting(self) -> None:
        """A session is to begin."""
        self._batch.begin()
        self._settling.fruitless = False

    def connected(self, *, answered: bool) -> None:
        """It has begun; alerts that are there already are historical."""
        self._fresh_after = self._ledger.head
        if answered:
            self._went_up()
        self._link.notice(self._uplink)

    async def ended(self, error: UplinkError) -> None:
        """It is over: say so, make ready for the next one and wait until its time has come."""
        self._settling.barren += self._settling.fruitless
        self._link.went_down(error)
        if isinstance(error, SuspectError) or self._settling.barren >= batch.BARREN:
            self._batch.search()
        self._link.notice(self._uplink)
        for lane in self._lanes:
            lane.rewind()
            try:
                await lane.follow()
            except StoreError as trouble:
                self._store_trouble(trouble)
            await lane.look()
            await lane.save()
        if isinstance(error, LinkRefusedError):
            await asyncio.sleep(self._link.slowly_s(settling.REFUSED_RETRY_S))
        else:
            await asyncio.sleep(self._link.backoff_s())

    # Workers

    async def _work(self, lane: Lane) -> None:
        wake = self._wakes[lane.name]
        while True:
            wake.clear()
            if lane.name == LIVE:
                self._keep_live(lane)
            if self._may_send(lane):
                await self._send_some(lane)
                self.nudge()
                continue
            await lane.save()
            await lane.look()
            try:
                async with asyncio.timeout(self._until_next_try_s(lane)):
                    await wake.wait()
            except TimeoutError:
                continue

    def _may_send(self, lane: Lane) -> bool:
        now_s = loop_s()
        if now_s < self._link.hold_until_s or not lane.ready(now_s):
            return False
        before = [other for other in self._lanes[: self._lanes.index(lane)] if other.ready(now_s)]
        if lane.name == BACKFILL:
            # On a long way new live rows are there before the last ones are acknowledged, always.
            before = [other for other in before if other.name != LIVE or other.has_more]
        return not before

    def _until_next_try_s(self, lane: Lane) -> float:
        held_s = max(self._link.hold_until_s, lane.hold_until_s) - loop_s()
        return min(held_s, link_state.LOOK_S) if held_s > 0 else link_state.LOOK_S

    async def _send_some(self, lane: Lane) -> None:
        try:
            if seq := lane.doubts.due(loop_s()):
                await self._try_parked(lane, seq)
            else:
                await self._send_next(lane)
            self._store_failed = False
        except StoreError as error:
            self._store_trouble(error)
            lane.hold_until_s = max(lane.hold_until_s, loop_s() + settling.STORE_RETRY_S)
        if not lane.pending or loop_s() - lane.saved_s >= SAVE_S:
            await lane.save()

    async def _send_next(self, lane: Lane) -> None:
        """Those whose turn it is. Raises StoreError."""
        place = self._probe(lane)
        outs = await lane.next(
            self._batch.limit(lane) + place,
            utc_ns=self._utc_ns(),
            fresh_after=self._fresh_after,
            audit_head=self._ledger.audit_head,
        )
        if not outs:
            lane.hold_until_s = loop_s() + settling.STORE_RETRY_S
            return
        if place:
            outs = outs[-1:]
        known = [(out, lane.refused[out.item.seq]) for out in outs if out.item.seq in lane.refused]
        if known:
            await self._settling.set_aside(lane, known, proven=lane.vouched)
        else:
            alone = self._batch.singly or lane.doubts.troubled
            await self._send_and_settle(lane, outs, alone=alone)

    async def _try_parked(self, lane: Lane, seq: int) -> None:
        """An item that others pass: once more, or it is set aside. Raises StoreError."""
        out = await lane.only(
            seq, fresh_after=self._fresh_after, audit_head=self._ledger.audit_head
        )
        if out is None:
            return
        why = lane.doubts.condemned(seq)
        if why is None:
            await self._send_and_settle(lane, [out], alone=True)
            return
        lane.doubts.postpone(seq, loop_s() + settling.REFUSED_RETRY_S)
        if self._settling.may_set_aside():
            refused = Refused(why.fault, why.detail)
            await self._settling.set_aside(lane, [(out, refused)], proven=True)

    async def _send_and_settle(self, lane: Lane, outs: Sequence[Outgoing], *, alone: bool) -> None:
        started_s = loop_s()
        lane.under_way = len(outs)
        if lane.name == LIVE and BACKFILL in self._wakes:
            self._wakes[BACKFILL].set()  # its turn, where nothing else waits
        try:
            verdicts = await self._send(lane, outs, alone=alone)
        except UnansweredError as error:
            if len(outs) == 1:
                self._settling.failed(lane, outs[0], Retry(0.0, str(error), fault=error.fault))
            raise
        finally:
            lane.under_way = 0
        if lane.name == BACKFILL:
            self._batch.pace(loop_s() - started_s)
        open_ = [verdict for verdict in verdicts if isinstance(verdict, Retry)]
        if len(open_) < len(outs):
            self._batch.known(len(outs) - len(open_))
        elif len(outs) > 1 and any(retry.fault and not retry.denied for retry in open_):
            self._batch.failed(len(outs))
        await self._settling.settle(lane, outs, verdicts)

    async def _send(
        self, lane: Lane, outs: Sequence[Outgoing], *, alone: bool = False
    ) -> list[Verdict]:
        async with self._gate.passing(alone=alone):
            self._settling.fruitless = True
            return await self._uplink.send(lane.name, outs)

    def _probe(self, lane: Lane) -> int:
        """How many places behind its oldest item the lane tries: the platform may take others.

        Another lane is the better probe, where one may send: it keeps this one's order.
        """
        place = lane.doubts.probe()
        others = any(self._is_free(other) for other in self._lanes if other is not lane)
        if others and not lane.doubts.denied and self._settling.taken_s < lane.doubts.since_s:
            return 0
        return min(place, lane.waiting - 1)

    def _is_free(self, lane: Lane) -> bool:
        """Whether it has something that the platform may take now."""
        held = lane.denied or lane.doubts.stuck or not lane.ready(loop_s())
        return lane.waiting > 0 and not held

    async def _look_after(self) -> None:
        """What is to be seen and told whether or not there is a session."""
        while True:
            await self._backlog.weigh()
            self._link.notice(self._uplink)
            await asyncio.sleep(backlog.LOOK_S)

    def _keep_live(self, live: Lane) -> None:
        """A link that is too slow for the live rows gets them as backlog until it has caught up."""
        if not live.waiting:
            self._link.keep_up(behind=False)
            return
        oldest_ns = live.oldest_waiting_utc_ns()
        old = bool(oldest_ns) and self._utc_ns() - oldest_ns > LIVE_AGE_NS_MAX
        if old or live.waiting > LIVE_ITEMS_MAX:
            self._link.keep_up(behind=True)

    def _went_up(self) -> None:
        if self._link.went_up(sum(lane.pending for lane in self._lanes)):
            self._fresh_after = self._ledger.head

    def _store_trouble(self, error: StoreError) -> None:
        if not self._store_failed:
            _LOGGER.warning("%s: the store does not answer: %s", self._id, error)
        self._store_failed = True


def _lanes(config: "UplinkConfig", ledger: AlertSource, history: SampleSource) -> list[Lane]:
    """Those of the site file, in the order in which they are served."""
    return [
        Lane(
            config.id,
            name,
            AlertLane(ledger, config.id) if name == ALERT else SampleLane(history, config.id, name),
            keep_s=config.keep_after_ack / 1e9,
        )
        for name in LANES
        if name in config.lanes
    ]
