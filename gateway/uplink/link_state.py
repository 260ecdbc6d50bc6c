"""Whether an uplink is up: said once to the log, the problems and the history's lanes."""

import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from gateway.errors import UplinkError
from gateway.uplink.base import (
    BACKFILL,
    LIVE,
    LinkRefusedError,
    Noticing,
    Problems,
    SampleSource,
    TakenOverError,
)
from gateway.uplink.faults import FaultError
from gateway.uplink.loop_time import loop_s

_LOGGER = logging.getLogger(__name__)

BACKOFF_S: Final = 0.5  # doubled by every failure without progress between
BACKOFF_S_MAX: Final = 10.0
LOOK_S: Final = 1.0  # with nothing to do: is there really nothing?
DOWN_TOLD_AFTER_S: Final = 60.0  # a flapping link is a line in the log, not an alert each time


class LinkState:
    """Up or down, since when and why. ``lanes`` are those that the site gives the uplink."""

    def __init__(
        self,
        uplink: str,
        lanes: Sequence[str],
        history: SampleSource,
        problems: Problems,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._uplink = uplink
        self._lanes = lanes
        self._history = history
        self._problems = problems
        self._jitter = jitter
        self._failures = 0  # in a row, without progress between
        self._down_since_s: float | None = None
        self._told = False  # the problems know, and have logged it
        self._behind = False  # it is too slow for what comes live
        self.hold_until_s = 0.0  # loop time before which nothing is sent: the other end asked so
        self.up = False
        self.reason = "not connected yet"

    def begin(self) -> None:
        """Before the first session: what is recorded now is backlog."""
        self._choose_lane(BACKFILL)

    def went_up(self, waiting: int) -> bool:
        """The other end takes what is sent; True where it did not before."""
        if self.up:
            return False
        self.up = True
        self.reason = ""
        text = f"the link is back, {waiting} items wait"
        if self._down_since_s is not None and not self._told:
            _LOGGER.info("%s: %s", self._uplink, text)
        self._down_since_s = None
        self._told = False
        self._problems.cleared("uplink", self._uplink, text)
        self._choose_lane(BACKFILL if self._behind else LIVE)
        return True

    def keep_up(self, *, behind: bool) -> None:
        """Whether the link is too slow for the live rows, so that new ones are backlog."""
        if behind == self._behind or not {LIVE, BACKFILL} <= set(self._lanes):
            return
        self._behind = behind
        if behind:
            _LOGGER.warning("%s: too slow for live samples, they go to the backlog", self._uplink)
        else:
            _LOGGER.info("%s: live samples are sent live again", self._uplink)
        self._choose_lane(LIVE if self.up and not behind else BACKFILL)

    def went_down(self, error: UplinkError) -> None:
        """It does not, for this reason; said again as often as one likes."""
        now_s = loop_s()
        first = self._down_since_s is None
        since_s = now_s if self._down_since_s is None else self._down_since_s
        self._down_since_s = since_s
        self.up = False
        self.reason = str(error)
        long = now_s - since_s >= DOWN_TOLD_AFTER_S
        refused = isinstance(error, LinkRefusedError) and not isinstance(error, TakenOverError)
        if long or refused or isinstance(error, FaultError):
            self._told = True
            self._problems.raised("uplink", self._uplink, f"the link is down: {error}")
        elif first:
            _LOGGER.warning("%s: the link is down: %s", self._uplink, error)
        self._choose_lane(BACKFILL)

    def notice(self, uplink: object) -> None:
        """Tell what the uplink itself has noticed."""
        if not isinstance(uplink, Noticing):
            return
        for subject, text in uplink.notices.items():
            ident = f"{self._uplink}/{subject}"
            if text:
                self._problems.raised("uplink", ident, text)
            else:
                self._problems.cleared("uplink", ident, "is over")

    def progress(self) -> None:
        """Something was accepted: the next failure is a first one."""
        self._failures = 0

    def backoff_s(self) -> float:
        """How long to wait after one more failure, jittered."""
        longest_s = min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return longest_s * (0.5 + self._jitter() / 2)

    def slowly_s(self, seconds: float) -> float:
        """How long to wait where a quick retry heals nothing, jittered."""
        return seconds * (0.75 + self._jitter() / 2)

    def _choose_lane(self, wanted: str) -> None:
        """An uplink with one of the two sample lanes has all its rows there."""
        for name in (wanted, LIVE, BACKFILL):
            if name in self._lanes:
                self._history.set_lane(self._uplink, name)
                return
