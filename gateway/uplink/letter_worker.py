"""The worker of one uplink's queued letters: they go where nothing but the backlog waits."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from gateway.errors import StoreError
from gateway.uplink import link_state, settling
from gateway.uplink.base import BACKFILL, Outgoing, Retry, UnansweredError, Verdict
from gateway.uplink.batch import Batch
from gateway.uplink.lane import Lane
from gateway.uplink.link_state import LinkState
from gateway.uplink.loop_time import loop_s
from gateway.uplink.resending import Resending
from gateway.uplink.settling import Settling


class Send(Protocol):
    """The pump's; ``alone``: with nothing else under way."""

    def __call__(
        self, lane: Lane, outs: Sequence[Outgoing], *, alone: bool = False
    ) -> Awaitable[list[Verdict]]:
        """A verdict on each, in their order. Raises UplinkError."""


class LetterWorker:
    """Sends what ``resending`` has, by ``send``; ``trouble`` is told of a store that fails."""

    def __init__(
        self,
        resending: Resending,
        lanes: Sequence[Lane],
        link: LinkState,
        batch: Batch,
        settle: Settling,
        send: Send,
        trouble: Callable[[StoreError], None],
    ) -> None:
        self._resending = resending
        self._lanes = lanes
        self._link = link
        self._batch = batch
        self._settling = settle
        self._send = send
        self._trouble = trouble
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def run(self) -> None:
        """For ever. Raises UplinkError where a letter may have cost the session."""
        first = [lane for lane in self._lanes if lane.name != BACKFILL]
        while True:
            self._wake.clear()
            now_s = loop_s()
            busy = now_s < self._link.hold_until_s or any(lane.ready(now_s) for lane in first)
            if self._resending.pending and not busy and await self._send_some():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(link_state.LOOK_S):
                    await self._wake.wait()

    async def _send_some(self) -> bool:
        """True where there may be more to do at once."""
        now_s = loop_s()
        held = {lane.name for lane in self._lanes if now_s < lane.hold_until_s}
        limit = 1 if self._batch.singly else self._batch.window
        try:
            name, outs = await self._resending.next(limit, held)
            if not outs:
                return False
            (lane,) = (lane for lane in self._lanes if lane.name == name)
            verdicts, cut = await self._try(lane, outs)
            retry = await self._resending.settle(
                name, outs, verdicts, self._settling.taken_s, lane.taken_s
            )
        except StoreError as error:
            self._trouble(error)
            return False
        if retry:
            self._wait(lane, retry, cut)
        return retry is None

    async def _try(
        self, lane: Lane, outs: Sequence[Outgoing]
    ) -> tuple[list[Verdict], UnansweredError | None]:
        """The verdicts, and what ended the session where something did over these."""
        alone = self._batch.singly or self._resending.singly(lane.name)
        try:
            return await self._send(lane, outs, alone=alone), None
        except UnansweredError as error:
            return [Retry(reason=str(error), fault=error.fault)] * len(outs), error

    def _wait(self, lane: Lane, why: Retry, cut: UnansweredError | None) -> None:
        """The lane may be free for all that, and the next try must not hold it up again."""
        after_s = max(why.after_s, settling.REFUSED_RETRY_S)
        self._resending.hold(lane.name, self._link.slowly_s(after_s), why.reason)
        if cut:
            raise cut
        if not why.denied:
            self._settling.pause(lane, why)
