"""Alerts before a certificate of an uplink ends: 30 days, 7 days, a day before, and at its end.

Both sides count: what the other end shows, and what we show ourselves. Each step is told once and
stays a problem until a certificate is in use that lives longer.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.uplink.certificates import client_not_after_utc_ns

if TYPE_CHECKING:
    from gateway.life.problems import Problems
    from gateway.site.model import Uplink
    from gateway.store.alert import Priority
    from gateway.uplink.pump import Pump

KIND: Final = "uplink_certificate"
LOOK_S: Final = 10.0
STEPS_DAYS: Final = (0, 1, 7, 30)  # the most urgent first; 0: it has ended
_PRIORITIES: Final[Mapping[int, "Priority"]] = {0: "critical", 1: "high", 7: "high", 30: "medium"}
_WHOSE: Final = {"server": "the other end's certificate", "client": "our own certificate"}
_CLOCK_SET_UTC_NS: Final = 1_700_000_000_000_000_000  # before it no clock was ever right
_DAY_NS: Final = 86_400_000_000_000
_S_NS: Final = 1_000_000_000


class CertificateWatch:
    """Looks at the certificates of a site's uplinks."""

    def __init__(
        self,
        uplinks: "Sequence[Uplink]",
        pumps: "Sequence[Pump]",
        credentials: Path | None,
        problems: "Problems",
        *,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._uplinks = uplinks
        self._pumps = pumps
        self._credentials = credentials
        self._problems = problems
        self._utc_ns = utc_ns

    async def run(self) -> None:
        """Look for ever; returns only by cancellation."""
        while True:
            own = await asyncio.to_thread(self._own_ends)
            self.look(own, self._ends_of_others())
            await asyncio.sleep(LOOK_S)

    def look(self, own: Mapping[str, int], others: Mapping[str, int]) -> None:
        """Tell what ends soon, and what does not any more: UTC ns by uplink, 0 where not known."""
        now_ns = self._utc_ns()
        if now_ns < _CLOCK_SET_UTC_NS:
            return
        for side, ends in (("client", own), ("server", others)):
            for uplink, end_ns in ends.items():
                if end_ns:
                    self._tell(uplink, side, end_ns, now_ns)

    def _tell(self, uplink: str, side: str, end_ns: int, now_ns: int) -> None:
        reached = [days for days in STEPS_DAYS if end_ns - now_ns <= days * _DAY_NS]
        ends = f"{datetime.fromtimestamp(end_ns // _S_NS, UTC):%Y-%m-%d %H:%M} UTC"
        if reached:
            step = reached[0]
            within = f"ends within {'a day' if step == 1 else f'{step} days'}, on"
            text = f"{_WHOSE[side]} {within if step else 'has ended on'} {ends}"
            self._problems.raised(
                KIND, _ident(uplink, side, step), text, priority=_PRIORITIES[step]
            )
        for step in STEPS_DAYS:
            if step not in reached:
                text = f"{_WHOSE[side]} ends on {ends}"
                self._problems.cleared(KIND, _ident(uplink, side, step), text)

    def _own_ends(self) -> dict[str, int]:
        return {
            uplink.id: client_not_after_utc_ns(uplink, self._credentials)
            for uplink in self._uplinks
        }

    def _ends_of_others(self) -> dict[str, int]:
        all_stats = [pump.stats() for pump in self._pumps]
        return {stats.id: stats.certificate_not_after_utc_ns for stats in all_stats}


def _ident(uplink: str, side: str, step: int) -> str:
    return f"{uplink}/{side}/{f'{step}d' if step else 'ended'}"
