"""Is the gateway doing its work: gateway, recorder and guard alive and scanning, or the reasons."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from fastpath.journal import JournalError

if TYPE_CHECKING:
    from gateway.parts import Gateway

SCAN_AGE_NS_MAX: Final = 2_000_000_000
ROUND_AGE_NS_MAX: Final = 10_000_000_000  # the recorder makes a round at least once a second


class Health(Struct, frozen=True, kw_only=True):
    """The body of /healthz."""

    healthy: bool
    reasons: list[str]
    site: str
    guard_alive: bool
    scan: int
    uptime_s: float
    problems: int  # what else is wrong; status names it
    simulated: bool = False  # no device is real


class HealthWatch:
    """Looks at the parts when asked; between two looks it remembers the recorder's progress."""

    def __init__(
        self, gateway: "Gateway", monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._gateway = gateway
        self._monotonic_ns = monotonic_ns
        self._rounds = -1
        self._moved_ns = monotonic_ns()

    def look(self) -> Health:
        """The health now; nothing waits."""
        gateway, now_ns = self._gateway, self._monotonic_ns()
        alive, scan, reasons = self._guard(now_ns)
        if not self._recorder_moves(now_ns):
            age_s = (now_ns - self._moved_ns) // 1_000_000_000
            reasons.append(f"the recorder has made no round for {age_s} s")
        if gateway.stopping:
            reasons.append("the gateway is stopping")
        return Health(
            healthy=not reasons,
            reasons=reasons,
            site=gateway.config.site.id,
            guard_alive=alive,
            scan=scan,
            uptime_s=(now_ns - gateway.started_mono_ns) / 1e9,
            problems=len(gateway.problems.active()),
            simulated=gateway.simulation is not None,
        )

    def _guard(self, now_ns: int) -> tuple[bool, int, list[str]]:
        view = self._gateway.view()
        if view is None:
            return False, 0, ["no guard.shm: no guard has started"]
        try:
            header = view.header()
            if not view.guard_alive():
                return False, header.scan, ["the guard is not running"]
        except JournalError as error:
            return False, 0, [f"guard.shm cannot be read: {error}"]
        age_ns = now_ns - header.scan_mono_ns
        if age_ns > SCAN_AGE_NS_MAX:
            return True, header.scan, [f"the guard has not scanned for {age_ns / 1e9:.1f} s"]
        return True, header.scan, []

    def _recorder_moves(self, now_ns: int) -> bool:
        rounds = self._gateway.recorder.rounds
        if rounds != self._rounds:
            self._rounds, self._moved_ns = rounds, now_ns
        return now_ns - self._moved_ns <= ROUND_AGE_NS_MAX
