"""Durations and sizes as a site file writes them: ``"50ms"``, ``"2h"``, ``"64KiB"``, ``"2GB"``."""

import re
from typing import Final

from gateway.site.model import Duration, Size

DURATION_NS_MAX: Final = 315_360_000_000_000_000  # ten years, the guard's own bound
DURATION_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
}
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?([A-Za-zµ]+)")


def parse_duration(text: str) -> Duration:
    """Nanoseconds of ``"1.5s"``. Raises ValueError for anything else, or beyond ten years."""
    ns = _parse(text, DURATION_UNITS)
    if ns > DURATION_NS_MAX:
        msg = f"{text} is more than ten years"
        raise ValueError(msg)
    return Duration(ns)


def parse_size(text: str) -> Size:
    """Bytes of ``"64KiB"`` or ``"2GB"``. Raises ValueError for anything else."""
    return Size(_parse(text, SIZE_UNITS))


def near_duration(text: str) -> str | None:
    """What was probably meant: blanks taken out, longer names of units made short."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]+)\s*", text)
    if match is None:
        return None
    unit = _SPELLINGS.get(match[2].lower())
    return f"{match[1]}{unit}" if unit else None


def format_duration(ns: int) -> str:
    """As a site file would write it, in the unit that keeps it short: ``810ms``, ``1.06s``."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        size = DURATION_UNITS[unit]
        if ns >= size and (unit in ("s", "ms", "us") or ns % size == 0):
            return f"{ns / size:.6g}{unit}"
    return f"{ns}ns" if ns else "0s"


def exact_duration(ns: int) -> str:
    """In the longest unit that needs no fraction: reads back as the very same number."""
    units = [unit for unit, size in DURATION_UNITS.items() if ns and ns % size == 0]
    return f"{ns // DURATION_UNITS[units[-1]]}{units[-1]}" if units else f"{ns}s"


_SPELLINGS: Final = {
    spelling: unit
    for unit, spellings in {
        "ns": "ns nsec nanosecond nanoseconds",
        "us": "us usec µs microsecond microseconds",
        "ms": "ms msec millis millisecond milliseconds",
        "s": "s sec secs second seconds",
        "m": "m min mins minute minutes",
        "h": "h hr hrs hour hours",
        "d": "d day days",
    }.items()
    for spelling in spellings.split()
}


def _parse(text: str, units: dict[str, int]) -> int:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[3] not in units or len(text) > 40:
        msg = f"{text!r} is no number with a unit"
        raise ValueError(msg)
    whole, fraction, unit = match[1], match[2] or "", units[match[3]]
    scaled = int(whole + fraction) * unit
    return scaled // int("1" + "0" * len(fraction))
