"""The pump of one uplink: stores -> platform, alerts first, then live rows, then the backlog.

Each lane has a worker. A worker sends only while no lane before it has anything to send, a window
at a time; what the backlog has under way is kept so small that a live row waits about a quarter of
a second behind it. Live rows that the link is too slow for are made backlog: what is committed from
then on is, until the lane is empty. The pump alone moves cursors, by the verdicts (``settling``).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.errors import StoreError, UplinkError
from gateway.uplink import backlog, settling
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
    SampleSource,
    SuspectError,
    Uplink,
    Verdict,
    Watched,
)
from gateway.uplink.faults import session_error
from gateway.uplink.lane import AlertLane, Lane, SampleLane
from gateway.uplink.letters import Letters
from gateway.uplink.link_state import LinkState
from gateway.uplink.resending import Resending
from gateway.uplink.settling import Settling

if TYPE_CHECKING:
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

_LOGGER = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # with nothing to do: is there really nothing?
QUIET_S: Final = 1.0  # sends under way end at once when the session does; no longer than this
BARREN_SESSIONS: Final = 2  # then singly: a broker may end the session after refusing one item
BACKFILL_SEND_S: Final = 0.2  # what one send of the backlog should take
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
        self._window = config.window
        self._alerts = config.window * config.group  # that are sent at once
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
        self._resending = Resending(config.id, config.lanes, ledger)
        self._resend = asyncio.Event()
        self._backlog = Backlog(config.id, self._lanes, problems, utc_ns)
        self._fresh_after = 0  # alerts up to here are historical
        self._one_by_one = 0  # items to send singly, after one of them cost a session
        self._alone = asyncio.Lock()
        self._chunk = 1  # of the backlog
        self._sending = 0
        self._quiet = asyncio.Event()  # nothing is being sent
        self._quiet.set()
        self._connects = 0
        self._store_failed = False

    async def run(self) -> None:
        """Send, for ever; ends by cancellation, with the session closed and the cursors saved."""
        self._link.begin()
        weighing = asyncio.create_task(self._look_after(), name=f"{self._id}/backlog")
        try:
            while True:
                error = await self._session()
                self._settling.barren += self._settling.fruitless
                self._link.went_down(error)
                await self._wait_out(error)
        finally:
            weighing.cancel()
            await self._uplink.close()
            for lane in self._lanes:
                await lane.save()

    def nudge(self) -> None:
        """There may be something new to send."""
        self._resend.set()
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
            connects=self._connects,
            certificate_not_after_utc_ns=getattr(self._uplink, "certificate_not_after_utc_ns", 0),
        )

    # One session

    async def _session(self) -> UplinkError:
        """Connect and send until the link fails; gives what it failed of."""
        self._settling.fruitless = False
        try:
            self._connects += 1
            answered = await self._uplink.connect()
            self._fresh_after = self._ledger.head
            if answered:
                self._went_up()
            self._link.notice(self._uplink)
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(self._work(lane), name=f"{self._id}/{lane.name}")
                group.create_task(self._work_letters(), name=f"{self._id}/letters")
                if isinstance(self._uplink, Watched):
                    group.create_task(self._watch(self._uplink), name=f"{self._id}/watch")
        except Exception as error:  # noqa: BLE001  a fault in one uplink must not end the gateway
            return session_error(error)
        finally:
            await self._uplink.close()
        return UplinkError("ended")

    async def _watch(self, uplink: Watched) -> None:
        """Notice the session's end; what is known of sends under way comes first."""
        try:
            await uplink.lost()
        except UplinkError:
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._quiet.wait()
            except TimeoutError:
                _LOGGER.debug("%s: a send goes on after the session", self._id)
            raise

    async def _wait_out(self, error: UplinkError) -> None:
        """Between two sessions."""
        if isinstance(error, SuspectError) or self._settling.barren >= BARREN_SESSIONS:
            self._one_by_one = self._alerts
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

    async def _work_letters(self) -> None:
        """Letters that people queued, where nothing but the backlog waits."""
        first = [lane for lane in self._lanes if lane.name != BACKFILL]
        while True:
            self._resend.clear()
            now_s = _now_s()
            busy = now_s < self._link.hold_until_s or any(_ready(lane, now_s) for lane in first)
            if self._resending.pending and not busy and await self._send_letters():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._resend.wait()

    async def _send_letters(self) -> bool:
        """True where there may be more to do at once."""
        now_s = _now_s()
        held = {lane.name for lane in self._lanes if now_s < lane.hold_until_s}
        try:
            name, outs = await self._resending.next(1 if self._one_by_one else self._window, held)
            if not outs:
                return False
            (lane,) = (lane for lane in self._lanes if lane.name == name)
            verdicts = await self._send(lane, outs)
            retry = await self._resending.settle(name, outs, verdicts)
        except StoreError as error:
            self._store_trouble(error)
            return False
        if retry:
            # The lane may be free for all that, and the next try must not hold it up again.
            after_s = max(retry.after_s, settling.REFUSED_RETRY_S)
            self._resending.hold(name, self._link.slowly_s(after_s), retry.reason)
            if not retry.denied:
                self._settling.pause(lane, retry)
        return retry is None

    def _may_send(self, lane: Lane) -> bool:
        now_s = _now_s()
        if now_s < self._link.hold_until_s or not _ready(lane, now_s):
            return False
        before = self._lanes[: self._lanes.index(lane)]
        return not any(_ready(other, now_s) for other in before)

    def _until_next_try_s(self, lane: Lane) -> float:
        held_s = max(self._link.hold_until_s, lane.hold_until_s) - _now_s()
        return min(held_s, LOOK_S) if held_s > 0 else LOOK_S

    async def _send_some(self, lane: Lane) -> None:
        try:
            outs = await lane.next(
                self._limit(lane),
                utc_ns=self._utc_ns(),
                fresh_after=self._fresh_after,
                audit_head=self._ledger.audit_head,
            )
        except StoreError as error:
            self._store_trouble(error)
            outs = []
        if not outs:
            lane.hold_until_s = _now_s() + settling.STORE_RETRY_S
            return
        self._store_failed = False
        known = [(out, lane.refused[out.item.seq]) for out in outs if out.item.seq in lane.refused]
        try:
            if known:
                await self._settling.set_aside(lane, known, proven=False)
            else:
                await self._send_and_settle(lane, outs)
        except StoreError as error:
            self._store_trouble(error)
        if not lane.pending or _now_s() - lane.saved_s >= SAVE_S:
            await lane.save()

    async def _send_and_settle(self, lane: Lane, outs: Sequence[Outgoing]) -> None:
        started_s = _now_s()
        verdicts = await self._send(lane, outs)
        if lane.name == BACKFILL:
            self._pace(_now_s() - started_s)
        self._one_by_one = max(0, self._one_by_one - len(outs))
        await self._settling.settle(lane, outs, verdicts)

    async def _send(self, lane: Lane, outs: Sequence[Outgoing]) -> list[Verdict]:
        self._sending += 1
        self._quiet.clear()
        self._settling.fruitless = True
        try:
            if not self._one_by_one:
                return await self._uplink.send(lane.name, outs)
            async with self._alone:
                return await self._uplink.send(lane.name, outs)
        finally:
            self._sending -= 1
            if not self._sending:
                self._quiet.set()

    def _limit(self, lane: Lane) -> int:
        asking = lane.denied and not lane.doubted  # with one, so that the rest keeps its order
        if self._one_by_one or asking:
            return 1
        if lane.name == ALERT:
            return self._alerts
        return self._chunk if lane.name == BACKFILL else self._window

    def _pace(self, took_s: float) -> None:
        if took_s < BACKFILL_SEND_S / 2:
            self._chunk = min(self._window, self._chunk * 2)
        elif took_s > BACKFILL_SEND_S:
            self._chunk = max(1, self._chunk // 2)

    async def _look_after(self) -> None:
        """What is to be seen and told whether or not there is a session."""
        while True:
            await self._backlog.weigh()
            self._link.notice(self._uplink)
            await asyncio.sleep(backlog.LOOK_S)

    def _keep_live(self, live: Lane) -> None:
        """A link that is too slow for the live rows gets them as backlog until it has caught up."""
        if not live.pending:
            self._link.keep_up(behind=False)
            return
        oldest_ns = live.oldest_utc_ns()
        old = bool(oldest_ns) and self._utc_ns() - oldest_ns > LIVE_AGE_NS_MAX
        if old or live.pending > LIVE_ITEMS_MAX:
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


def _ready(lane: Lane, now_s: float) -> bool:
    return now_s >= lane.hold_until_s and lane.pending > 0


def _now_s() -> float:
    return asyncio.get_running_loop().time()
