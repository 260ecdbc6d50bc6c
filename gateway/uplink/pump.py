"""The pump of one uplink: stores -> platform, alerts first, then live rows, then the backlog.

Each lane has a worker. A worker sends only while no lane before it has anything to send, a window
at a time; what the backlog has under way is kept so small that a live row waits about a quarter of
a second behind it. The pump alone moves cursors, by the verdicts.

An item that is refused is set aside as a dead letter only once the other end has shown that it
takes something: the numbered gap marker sent in the item's place, or another item of the same
send. Where it refuses the marker, too, it refuses everything, and the lane is retried slowly like
one that is denied. The letter and the alert about it are durable before the cursor moves.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.errors import StoreError, UplinkError
from gateway.uplink.base import (
    ALERT,
    BACKFILL,
    LANES,
    Accepted,
    AlertSource,
    LinkRefusedError,
    Outgoing,
    Problems,
    Refused,
    Retry,
    SampleSource,
    SuspectError,
    Uplink,
    Verdict,
    Watched,
)
from gateway.uplink.faults import session_error
from gateway.uplink.lane import AlertLane, Lane, SampleLane
from gateway.uplink.letters import ONE_EVERY_S, Letters, marker_of, printable
from gateway.uplink.link_state import LinkState

if TYPE_CHECKING:
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

_LOGGER = logging.getLogger(__name__)

STORE_RETRY_S: Final = 1.0
REFUSED_RETRY_S: Final = 30.0
LOOK_S: Final = 1.0  # with nothing to do: is there really nothing?
QUIET_S: Final = 1.0  # sends under way end at once when the session does; no longer than this
BARREN_SESSIONS: Final = 2  # then singly: a broker may end the session after refusing one item
BACKFILL_SEND_S: Final = 0.2  # what one send of the backlog should take


class PumpStats(msgspec.Struct, frozen=True):
    """What is shown of an uplink. Counters since the start of the process."""

    id: str
    up: bool
    reason: str  # why it is not up, or what it does not take; "" where all is well
    backlog: dict[str, int]  # by lane
    oldest_s: float  # age of the oldest item that waits
    sent: dict[str, int]  # by lane
    retried: int
    refused: int
    letters: dict[str, int]  # by reason
    connects: int
    certificate_not_after_utc_ns: int  # of the server, 0 where there is none


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
        self._uplink = uplink
        self._ledger = ledger
        self._problems = problems
        self._utc_ns = utc_ns
        self._lanes = _lanes(config, ledger, history)
        self._wakes = {lane.name: asyncio.Event() for lane in self._lanes}
        self._link = LinkState(config.id, config.lanes, history, problems, jitter=jitter)
        self._letters = Letters(ledger, sender)
        self._hold_until_s = 0.0  # the whole link pauses
        self._fresh_after = 0  # alerts up to here are historical
        self._one_by_one = 0  # items to send singly, after one of them cost a session
        self._fruitless = False  # something was sent in this session, nothing was accepted
        self._barren = 0  # such sessions in a row
        self._alone = asyncio.Lock()
        self._chunk = 1  # of the backlog
        self._sending = 0
        self._quiet = asyncio.Event()  # nothing is being sent
        self._quiet.set()
        self._refused = 0
        self._connects = 0
        self._store_failed = False

    async def run(self) -> None:
        """Send, for ever; ends by cancellation, with the session closed and the cursors saved."""
        self._link.begin()
        try:
            while True:
                error = await self._session()
                self._barren += self._fruitless
                self._link.went_down(error)
                await self._wait_out(error)
        finally:
            await self._uplink.close()
            for lane in self._lanes:
                await lane.save()

    def nudge(self) -> None:
        """There may be something new to send."""
        for wake in self._wakes.values():
            wake.set()

    def stats(self) -> PumpStats:
        """The state now."""
        stamps = [stamp for lane in self._lanes if (stamp := lane.oldest_utc_ns())]
        denied = [lane.denied for lane in self._lanes if lane.denied]
        return PumpStats(
            id=self._id,
            up=self._link.up,
            reason=self._link.reason or "; ".join(denied),
            backlog={lane.name: lane.pending for lane in self._lanes},
            oldest_s=max(0, self._utc_ns() - min(stamps)) / 1e9 if stamps else 0.0,
            sent={lane.name: lane.sent for lane in self._lanes},
            retried=sum(lane.retried for lane in self._lanes),
            refused=self._refused,
            letters=dict(self._letters.kept),
            connects=self._connects,
            certificate_not_after_utc_ns=getattr(self._uplink, "certificate_not_after_utc_ns", 0),
        )

    # One session

    async def _session(self) -> UplinkError:
        """Connect and send until the link fails; gives what it failed of."""
        self._fruitless = False
        try:
            self._connects += 1
            answered = await self._uplink.connect()
            self._fresh_after = self._ledger.head
            if answered:
                self._went_up()
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(self._work(lane), name=f"{self._id}/{lane.name}")
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
        if isinstance(error, SuspectError) or self._barren >= BARREN_SESSIONS:
            self._one_by_one = self._window
        for lane in self._lanes:
            try:
                await lane.follow()
            except StoreError as trouble:
                self._store_trouble(trouble)
            await lane.look()
            await lane.save()
        if isinstance(error, LinkRefusedError):
            await asyncio.sleep(self._link.slowly_s(REFUSED_RETRY_S))
        else:
            await asyncio.sleep(self._link.backoff_s())

    # Workers

    async def _work(self, lane: Lane) -> None:
        wake = self._wakes[lane.name]
        while True:
            wake.clear()
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
        now_s = _now_s()
        if now_s < self._hold_until_s or not _ready(lane, now_s):
            return False
        before = self._lanes[: self._lanes.index(lane)]
        return not any(_ready(other, now_s) for other in before)

    def _until_next_try_s(self, lane: Lane) -> float:
        held_s = max(self._hold_until_s, lane.hold_until_s) - _now_s()
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
            lane.hold_until_s = _now_s() + STORE_RETRY_S
            return
        self._store_failed = False
        known = [(out, lane.refused[out.item.seq]) for out in outs if out.item.seq in lane.refused]
        if known:
            await self._set_aside(lane, known, proven=False)
        else:
            started_s = _now_s()
            verdicts = await self._send(lane, outs)
            if lane.name == BACKFILL:
                self._pace(_now_s() - started_s)
            await self._settle(lane, outs, verdicts)
        await lane.save()

    async def _send(self, lane: Lane, outs: Sequence[Outgoing]) -> list[Verdict]:
        self._sending += 1
        self._quiet.clear()
        self._fruitless = True
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
        return self._chunk if lane.name == BACKFILL else self._window

    def _pace(self, took_s: float) -> None:
        if took_s < BACKFILL_SEND_S / 2:
            self._chunk = min(self._window, self._chunk * 2)
        elif took_s > BACKFILL_SEND_S:
            self._chunk = max(1, self._chunk // 2)

    # Verdicts

    async def _settle(
        self, lane: Lane, outs: Sequence[Outgoing], verdicts: Sequence[Verdict]
    ) -> None:
        accepted = 0
        refused: list[tuple[Outgoing, Refused]] = []
        retry: Retry | None = None
        for out, verdict in zip(outs, verdicts, strict=True):
            if isinstance(verdict, Accepted):
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
        self._refused += len(refused)
        self._one_by_one = max(0, self._one_by_one - len(outs))
        if accepted:
            self._taken(lane)
        if refused:
            await self._set_aside(lane, refused, proven=accepted > 0)
        if retry:
            self._pause(lane, retry, accepted)

    def _taken(self, lane: Lane) -> None:
        """The other end takes what this lane has."""
        self._fruitless = False
        self._barren = 0
        self._link.progress()
        lane.doubted = False
        if lane.denied:
            lane.denied = ""
            self._problems.cleared("uplink", f"{self._id}/{lane.name}", "is taken again")
        self._went_up()

    def _went_up(self) -> None:
        if self._link.went_up(sum(lane.pending for lane in self._lanes)):
            self._fresh_after = self._ledger.head

    def _pause(self, lane: Lane, why: Retry, accepted: int = 0) -> None:
        """``denied`` holds the lane alone, anything else the whole link."""
        if not why.denied:
            self._hold_until_s = _now_s() + max(why.after_s, self._link.backoff_s())
            if not accepted:
                self._link.went_down(UplinkError(why.reason or "it asks us to wait"))
            return
        # Held over the end of the session, too: some brokers end it after every refused publish.
        lane.denied = printable(why.reason)
        lane.hold_until_s = _now_s() + self._link.slowly_s(why.after_s)
        self._problems.raised("uplink", f"{self._id}/{lane.name}", lane.denied)
        if all(other.denied for other in self._lanes):
            self._link.went_down(UplinkError(lane.denied))

    async def _set_aside(
        self, lane: Lane, refused: Sequence[tuple[Outgoing, Refused]], *, proven: bool
    ) -> None:
        """Markers in the place of what is refused, then the letters; all or none of it."""
        refused = refused[: self._letters.left(_now_s())]
        if not refused:
            lane.hold_until_s = _now_s() + ONE_EVERY_S
            return
        markers = [marker_of(out, why, self._utc_ns()) for out, why in refused]
        verdicts = await self._send(lane, markers)
        for verdict in verdicts:
            if isinstance(verdict, Retry):
                self._pause(lane, verdict)
                return
        if not proven and not any(isinstance(verdict, Accepted) for verdict in verdicts):
            lane.refused.clear()  # they are tried again, in company: one that passes is a proof
            lane.doubted = True
            why = refused[0][1]
            text = f"it refuses everything in {lane.name}: {why.reason} {why.detail}"
            self._pause(lane, Retry(REFUSED_RETRY_S, text, denied=True))
            return
        try:
            for out, why in refused:
                await self._letters.keep(lane.name, out, why)
                lane.done(out.item)
        except StoreError as error:
            self._store_trouble(error)
            lane.hold_until_s = _now_s() + STORE_RETRY_S
        self._link.progress()
        self._went_up()

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
        )
        for name in LANES
        if name in config.lanes
    ]


def _ready(lane: Lane, now_s: float) -> bool:
    return now_s >= lane.hold_until_s and lane.pending > 0


def _now_s() -> float:
    return asyncio.get_running_loop().time()
