"""A mine face as its PLC sees it: methane, air, fan, breaker, siren. A model without a clock.

Methane lies at 0.3 to 0.5 %. An inflow raises it within about 8 s past 1.0 and 1.5 towards 1.9 as
long as the face has power; with the power cut the ventilation clears it below 1.0 in under 12 s.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Final

SECOND_NS: Final = 1_000_000_000
BASELINE: Final = 0.4  # %CH4
INFLOW_LEVEL: Final = 1.95  # %CH4, where an inflow settles
INFLOW_ONSET_S: Final = 1.2
RISE_S: Final = 3.2
CLEAR_S: Final = 8.0
STILL_AIR_RISE: Final = 0.02  # %CH4 per second without the fan
METHANE_MAX: Final = 4.0
AIR_SPEED: Final = 1.8  # m/s
STILL_AIR_SPEED: Final = 0.15
AIR_S: Final = 2.0
BREAKER_OPENS_NS: Final = 40_000_000
OPERATOR_CLOSES_NS: Final = 300_000_000
WATCHDOG_NS: Final = 5 * SECOND_NS
LAG_S: Final = (0.5, 0.7, 0.6)  # of the three transmitters
GAIN: Final = (1.0, 0.985, 1.02)
DRIFT_PERIOD_S: Final = (61.0, 83.0, 47.0)
DRIFT: Final = 0.03  # %CH4
NOISE: Final = (0.006, 0.009, 0.007)  # %CH4
STEP_MAX_S: Final = 0.5  # a longer pause of the process is not made up for


@dataclass(slots=True)
class Breaker:
    """Opens when the permit goes, is closed by an operator some time after it is given."""

    stuck: bool
    closed: bool = True
    permit: bool = True
    moves_at_ns: int = 0  # 0: at rest

    def set_permit(self, permit: bool, now_ns: int) -> None:
        """Take over the coil."""
        if permit is self.permit:
            return
        self.permit = permit
        self.moves_at_ns = now_ns + (OPERATOR_CLOSES_NS if permit else BREAKER_OPENS_NS)

    def step(self, now_ns: int) -> None:
        """Move when it is time; a stuck one never opens."""
        if self.moves_at_ns and now_ns >= self.moves_at_ns:
            self.moves_at_ns = 0
            self.closed = self.permit or self.stuck


class Watchdog:
    """The PLC's own: bites when a heartbeat that was seen stands still."""

    def __init__(self) -> None:
        self.heartbeat = (0, 0)
        self.bitten = False
        self._moved_ns = 0  # 0: never seen

    def beat(self, registers: tuple[int, int], now_ns: int) -> None:
        """The two registers as they were just written."""
        if registers != self.heartbeat:
            self.heartbeat = registers
            self._moved_ns = now_ns
            self.bitten = False

    def bites(self, now_ns: int) -> bool:
        """True once per standstill."""
        if self.bitten or not self._moved_ns or now_ns - self._moved_ns <= WATCHDOG_NS:
            return False
        self.bitten = True
        return True


class MineFace:
    """The plant behind the registers. Every call takes the monotonic time."""

    def __init__(self, now_ns: int, *, stuck_breaker: bool = False, seed: int = 1) -> None:
        self.breaker = Breaker(stuck=stuck_breaker)
        self.watchdog = Watchdog()
        self.silence = True  # the siren's permit: without it the siren sounds
        self.fan = True
        self.inflow = False
        self.air_speed = AIR_SPEED
        self.methane = [BASELINE * gain for gain in GAIN]  # as the transmitters show it
        self._noise = Random(seed)  # noqa: S311 - measurement noise
        self._flow = 0.0  # 0 to 1: how far the inflow has come up
        self._level = BASELINE  # in the air of the face
        self._lagged = [BASELINE] * 3
        self._started_ns = now_ns
        self._stepped_ns = now_ns

    @property
    def siren(self) -> bool:
        """Whether the siren sounds."""
        return not self.silence

    def step(self, now_ns: int) -> None:
        """Bring everything up to ``now_ns``."""
        seconds = min((now_ns - self._stepped_ns) / SECOND_NS, STEP_MAX_S)
        self._stepped_ns = now_ns
        if self.watchdog.bites(now_ns):
            self.breaker.set_permit(False, now_ns)
            self.silence = False
        self.breaker.step(now_ns)
        if not self.breaker.closed:
            self.inflow = False  # nothing cuts, nothing comes
        self._step_air(seconds)
        self._step_methane(seconds)
        self._show((now_ns - self._started_ns) / SECOND_NS, seconds)

    def _step_air(self, seconds: float) -> None:
        target = AIR_SPEED if self.fan else STILL_AIR_SPEED
        self.air_speed += (target - self.air_speed) * _share(seconds, AIR_S)

    def _step_methane(self, seconds: float) -> None:
        self._flow += (float(self.inflow) - self._flow) * _share(seconds, INFLOW_ONSET_S)
        if not self.fan:
            self._level += STILL_AIR_RISE * seconds
        if self.inflow:
            target = BASELINE + (INFLOW_LEVEL - BASELINE) * self._flow
            self._level += (target - self._level) * _share(seconds, RISE_S)
        elif self.fan:
            self._level += (BASELINE - self._level) * _share(seconds, CLEAR_S)
        self._level = min(self._level, METHANE_MAX)

    def _show(self, age_s: float, seconds: float) -> None:
        """What the transmitters make of it: lag, gain, drift and noise of their own."""
        for i, gain in enumerate(GAIN):
            self._lagged[i] += (self._level - self._lagged[i]) * _share(seconds, LAG_S[i])
            drift = DRIFT * math.sin(2 * math.pi * (age_s / DRIFT_PERIOD_S[i] + i / 3))
            noise = self._noise.gauss(0.0, NOISE[i])
            shown = self._lagged[i] * gain + drift + noise
            self.methane[i] = min(max(shown, 0.0), METHANE_MAX)


def _share(seconds: float, constant_s: float) -> float:
    """The part of the way to its target that a first-order lag goes in ``seconds``."""
    return 1.0 - math.exp(-seconds / constant_s)
