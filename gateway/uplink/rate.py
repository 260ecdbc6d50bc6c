"""How fast an uplink may send: messages and bytes a second. Alerts do not wait behind samples."""

import asyncio
from typing import Final

from gateway.uplink.base import ALERT
from gateway.uplink.loop_time import loop_s

_LOOK_S: Final = 0.05  # how soon a sample looks again while alerts wait


class RateLimit:
    """One uplink's. None: no limit. A message takes the time that it would at the limit; no bursts.

    In each of the two classes, alerts and samples, first come, first served.
    """

    def __init__(self, messages_per_s: float | None, bytes_per_s: int | None) -> None:
        self._message_s = 1 / messages_per_s if messages_per_s else 0.0
        self._byte_s = 1 / bytes_per_s if bytes_per_s else 0.0
        self._free_s = 0.0  # loop time at which the next one may leave
        self._alerts = 0  # that wait
        self._turns = {True: asyncio.Lock(), False: asyncio.Lock()}

    async def pay(self, lane: str, size: int) -> None:
        """Returns when a message of ``size`` bytes may leave."""
        cost_s = max(self._message_s, size * self._byte_s)
        if not cost_s:
            return
        urgent = lane == ALERT
        self._alerts += urgent
        try:
            async with self._turns[urgent]:
                while (wait_s := self._wait_s(urgent=urgent)) > 0:  # noqa: ASYNC110  time is it
                    await asyncio.sleep(wait_s)
                self._free_s = max(self._free_s, loop_s()) + cost_s
        finally:
            self._alerts -= urgent

    def _wait_s(self, *, urgent: bool) -> float:
        left_s = self._free_s - loop_s()
        return max(left_s, _LOOK_S) if self._alerts and not urgent else left_s
