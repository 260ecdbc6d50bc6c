"""What a simulated point shows while nobody drives it: a walk, a sine, a square, a count.

The grammar of a signal is ``KIND [LOW..HIGH] [PERIOD]``: ``walk``, ``sine 0.2..0.8 60s``,
``square 10s``, ``counter 0..9999``, ``constant 5``. What is left out is the instrument's range
(the middle of it for a walk and a sine) and the kind's own period.
"""

import math
import re
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, cast, get_args

from drivers.errors import PointError

SignalKind = Literal["walk", "sine", "square", "counter", "constant"]
KINDS: Final[tuple[str, ...]] = get_args(SignalKind)
BARE: Final[SignalKind] = "walk"  # of a point that names no signal
EXPECTED: Final = 'expected a signal such as "walk", "sine 0.2..0.8 60s", "square 10s", "counter"'
PERIOD_NS: Final[dict[str, int]] = {
    "walk": 600_000_000_000,  # how long it takes to forget where it was
    "sine": 60_000_000_000,
    "square": 20_000_000_000,
    "counter": 1_000_000_000,  # from one count to the next
    "constant": 1_000_000_000,
}
STEP_NS_MAX: Final = 60_000_000_000  # a longer pause is not made up for
_DEFAULT_RANGE: Final = (0.0, 100.0)
_COUNTER_RANGE: Final = (0.0, 65_535.0)
_MIDDLE: Final = 0.2  # the part of a range in which a signal moves that names no band
_SIGMAS: Final = 3.0  # of a walk, from the middle of its band to the edge

_NUMBER: Final = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_SIGNAL: Final = re.compile(
    rf"(?P<kind>[a-z]+)(?:\s+(?P<low>{_NUMBER})(?:\.\.(?P<high>{_NUMBER}))?)?"
    rf"(?:\s+(?P<period>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h))?"
)
_UNITS_NS: Final = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3600 * 10**9}


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal; ``low`` and ``high`` in the tag's unit, inclusive."""

    kind: SignalKind
    low: float
    high: float
    period_ns: int

    @property
    def boolean(self) -> bool:
        """Whether it shows 0 and 1 alone."""
        return self.kind == "square" and (self.low, self.high) == (0.0, 1.0)


def parse_signal(text: str, limits: tuple[float, float] | None) -> Signal:
    """Read a signal; "" is a walk. ``limits`` is the instrument's range. Raises PointError."""
    match = _SIGNAL.fullmatch(text.strip() or BARE)
    if match is None or match["kind"] not in KINDS:
        raise PointError(key="address", text=f'found "{text}", {EXPECTED}')
    kind = cast("SignalKind", match["kind"])
    period_ns = PERIOD_NS[kind]
    if match["period"]:
        period_ns = int(float(match["period"]) * _UNITS_NS[match["unit"]])
    if period_ns < _UNITS_NS["ms"]:
        raise PointError(key="address", text=f'found "{text}", expected a period of 1ms or more')
    low, high = _band(kind, limits)
    if match["low"]:
        low = float(match["low"])
        high = float(match["high"]) if match["high"] else low
    if not (math.isfinite(low) and math.isfinite(high)) or (low >= high and kind != "constant"):
        expected = "expected LOW..HIGH with low < high"
        raise PointError(key="address", text=f'found "{text}", {expected}')
    return Signal(kind, low, high, period_ns)


def signal_text(kind: SignalKind, low: float, high: float) -> str:
    """The text of a signal that moves in a band."""
    return f"{kind} {low!r}..{high!r}"


class Wave:
    """A signal on its way. Every call takes the monotonic time; ``seed`` makes it its own."""

    def __init__(self, signal: Signal, seed: int, now_ns: int) -> None:
        self._signal = signal
        self._random = Random(seed)  # noqa: S311  a plausible value is no secret
        self._phase = self._random.random()
        self._walked = 0.0  # in sigmas from the middle
        self._began_ns = self._stepped_ns = now_ns

    def value(self, now_ns: int) -> float:
        """What it shows now."""
        signal = self._signal
        middle, half = (signal.low + signal.high) / 2, (signal.high - signal.low) / 2
        periods = (now_ns - self._began_ns) / signal.period_ns
        match signal.kind:
            case "walk":
                self._walk(now_ns)
                return middle + half * self._walked / _SIGMAS
            case "sine":
                return middle + half * math.sin(2 * math.pi * (periods + self._phase))
            case "square":
                return signal.high if periods % 1.0 >= 0.5 else signal.low
            case "counter":
                return signal.low + int(periods) % (int(signal.high - signal.low) + 1)
            case "constant":
                return middle

    def _walk(self, now_ns: int) -> None:
        """A step of a process that forgets, so that it neither runs away nor stands still."""
        step_ns = min(now_ns - self._stepped_ns, STEP_NS_MAX)
        self._stepped_ns = now_ns
        kept = math.exp(-max(step_ns, 0) / self._signal.period_ns)
        drawn = self._random.gauss(0.0, math.sqrt(1.0 - kept * kept))
        self._walked = min(max(self._walked * kept + drawn, -_SIGMAS), _SIGMAS)


def _band(kind: SignalKind, limits: tuple[float, float] | None) -> tuple[float, float]:
    if kind == "square" and limits is None:
        return 0.0, 1.0
    if kind == "counter":
        return limits or _COUNTER_RANGE
    low, high = limits or _DEFAULT_RANGE
    if kind == "square":
        return low, high
    middle, half = (low + high) / 2, (high - low) / 2 * _MIDDLE
    if kind == "constant":
        return middle, middle
    return middle - half, middle + half
