"""What an instrument's signal says -> the tag's value and quality, for devices that we poll.

Between the driver's reading (scale and offset are done) and the sample. Each tag that needs one has
a Conditioner of its own; it has memory (counters, rates, values that stand still), so every reading
of the tag passes through it once, in order.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Final, NamedTuple

from fastpath.codes import Quality, Reason
from gateway.plant.totals import Total
from gateway.site.model import Signal, Tag
from gateway.site.signal_rules import FAILED_MA, MEASURED_MA, SPAN_MA, ZERO_MA, rate_of

_NS_PER_S: Final = 1_000_000_000
_GOOD: Final = int(Quality.GOOD)
_UNCERTAIN: Final = int(Quality.UNCERTAIN)
_BAD: Final = int(Quality.BAD)

Limits = tuple[float, float] | None
Judged = tuple[float, int, int]  # value, quality, reason


class Said(NamedTuple):
    """One reading's value, and what people must hear of it ("": nothing)."""

    value: float
    quality: int
    reason: int
    trouble: str = ""


Converter = Callable[[float], Said]


class Conditioner:
    """One tag's signal. ``trouble``: what is wrong with its newest reading, for people; or ""."""

    __slots__ = ("_convert", "_rate", "_still", "trouble")

    def __init__(self, tag: Tag, total: Total | None = None) -> None:
        """``total`` goes with ``kind = "counter"``."""
        signal = tag.signal or Signal()
        self.trouble = ""
        self._convert = None if tag.signal is None else _converter(signal, tag.range, total)
        self._still = _Still(int(tag.stuck_after)) if tag.stuck_after else None
        rate = rate_of(signal.rate_max, tag.unit) if signal.rate_max else None
        self._rate = _Rate(rate, f"{signal.rate_max}") if rate else None

    def take(self, value: float, quality: int, reason: int, mono_ns: int) -> Judged:
        """What the tag is by this reading; one that is bad is so already, and stays it."""
        self.trouble = ""
        stuck = self._still is not None and self._still.is_stuck(value, quality, mono_ns)
        if quality == _BAD:
            return (math.nan if self._convert else value), quality, reason
        if self._convert is not None:
            said = self._convert(value)
            self.trouble = said.trouble
            value = said.value
            if said.quality < quality:
                quality, reason = said.quality, said.reason
        if self._rate is not None and quality != _BAD:
            self.trouble = self._rate.flaw(value, mono_ns) or self.trouble
            if self._rate.doubted and quality == _GOOD:
                quality, reason = _UNCERTAIN, int(Reason.OUT_OF_RANGE)
        if stuck:
            self.trouble = "stands still: the same to the last bit for longer than stuck_after"
            quality, reason = _BAD, int(Reason.STUCK)
        return value, quality, reason


def conditioner_of(tag: Tag, total: Callable[[], Total]) -> Conditioner | None:
    """The conditioner of a tag, None where its readings are its values."""
    if tag.signal is None:
        return None if tag.stuck_after is None else Conditioner(tag)
    return Conditioner(tag, total() if tag.signal.kind == "counter" else None)


def is_counter(tag: Tag) -> bool:
    """Whether a tag is a total that must be remembered."""
    return tag.signal is not None and tag.signal.kind == "counter"


def _converter(signal: Signal, limits: Limits, total: Total | None) -> Converter:
    if signal.kind == "4-20mA":
        return _loop(signal, limits)
    if signal.kind == "counter" and total is not None:
        return _within(limits, _counted(total))
    if signal.table:
        return _within(limits, _by_table(signal.table), before=False)
    return _within(limits, _as_it_is)


# ---- conversions


def _loop(signal: Signal, limits: Limits) -> Converter:
    """Current by NE 43; beyond the ends of a table its ends."""
    low, high = limits or (0.0, 1.0)
    span = high - low

    def linear(current: float) -> float:
        return low + (current - ZERO_MA) / SPAN_MA * span

    def root(current: float) -> float:
        share = math.sqrt(max(0.0, (current - ZERO_MA) / SPAN_MA))
        return low + span * (share if share >= signal.cutoff else 0.0)

    def table(current: float) -> float:
        xs = [x for x, _ in signal.table]
        return _between(signal.table, xs, min(max(current, xs[0]), xs[-1]))

    value_of = table if signal.table else root if signal.sqrt else linear

    def convert(current: float) -> Said:
        if not FAILED_MA[0] <= current <= FAILED_MA[1]:
            text = f"the signal has failed: {current:.4g} mA (NE 43: below 3.6 or above 21)"
            return Said(math.nan, _BAD, int(Reason.DEVICE_FAILURE), text)
        if not MEASURED_MA[0] <= current <= MEASURED_MA[1]:
            return Said(value_of(current), _UNCERTAIN, int(Reason.OUT_OF_RANGE))
        return Said(value_of(current), _GOOD, 0)

    return convert


def _within(limits: Limits, convert: Converter, *, before: bool = True) -> Converter:
    """The instrument's range around a conversion: of what goes in, or of what comes out."""
    if limits is None:
        return convert
    low, high = limits

    def checked(raw: float) -> Said:
        if before and not low <= raw <= high:
            return Said(raw, _BAD, int(Reason.OUT_OF_RANGE))
        said = convert(raw)
        if not before and said.quality != _BAD and not low <= said.value <= high:
            return Said(said.value, _BAD, int(Reason.OUT_OF_RANGE))
        return said

    return checked


def _as_it_is(raw: float) -> Said:
    return Said(raw, _GOOD, 0)


def _by_table(table: tuple[tuple[float, float], ...]) -> Converter:
    """Straight between the pairs; nothing is known beyond them."""
    xs = [x for x, _ in table]

    def convert(raw: float) -> Said:
        if not xs[0] <= raw <= xs[-1]:
            return Said(math.nan, _BAD, int(Reason.OUT_OF_RANGE))
        return Said(_between(table, xs, raw), _GOOD, 0)

    return convert


def _between(table: tuple[tuple[float, float], ...], xs: list[float], x: float) -> float:
    """The table at ``x``, which lies within it."""
    right = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    (x0, y0), (x1, y1) = table[right - 1], table[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _counted(total: Total) -> Converter:
    def convert(raw: float) -> Said:
        stepped = total.count(raw)
        if stepped:
            return Said(total.total, _UNCERTAIN, int(Reason.DEVICE_FAILURE), stepped)
        return Said(total.total, _GOOD, 0)

    return convert


# ---- memory


class _Still:
    """Whether it has been the same to the last bit for that long, as the guard counts it.

    Only time between readings that were not bad counts; what failed in between does not.
    """

    __slots__ = ("_seen", "_seen_ns", "_stood_ns", "_stuck_ns")

    def __init__(self, stuck_ns: int) -> None:
        self._stuck_ns = stuck_ns
        self._seen: float | None = None
        self._seen_ns = 0  # 0: the reading before was bad
        self._stood_ns = 0

    def is_stuck(self, value: float, quality: int, mono_ns: int) -> bool:
        if quality == _BAD:
            self._seen_ns = 0
            return False
        if value != self._seen or math.copysign(1.0, value) != math.copysign(1.0, self._seen):
            self._stood_ns = 0
        elif self._seen_ns:
            self._stood_ns += max(0, mono_ns - self._seen_ns)
        self._seen, self._seen_ns = value, mono_ns
        return self._stood_ns >= self._stuck_ns


class _Rate:
    """Whether it could have changed so much since the last value that was believed.

    A step is doubted until that time has passed in which it could have come about.
    """

    __slots__ = ("_believed", "_believed_ns", "_per_s", "_text", "doubted")

    def __init__(self, per_s: float, text: str) -> None:
        self._per_s = per_s
        self._text = text
        self._believed: float | None = None
        self._believed_ns = 0
        self.doubted = False

    def flaw(self, value: float, mono_ns: int) -> str:
        before = self._believed
        if before is not None:
            passed_s = max(0, mono_ns - self._believed_ns) / _NS_PER_S
            self.doubted = abs(value - before) > self._per_s * passed_s
        if self.doubted:
            return f"not plausible: {value:.6g} after {before:.6g}, faster than {self._text}"
        self._believed, self._believed_ns = value, mono_ns
        return ""
