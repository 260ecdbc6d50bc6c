"""Times and spans in words: when a bypass or a silence ends, how long that is, when a value was."""

import time
from datetime import UTC, datetime
from typing import Final

_NS_PER_S: Final = 1_000_000_000
_NS_MAX: Final = 2**63 - 1  # as far as stored times go


def boot_ns() -> int:
    """Boot time now, ns: it goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def moment_words(stamp_boot_ns: int) -> str:
    """``2026-05-04 14:32:05 UTC`` of a boot-time stamp, by today's clock."""
    utc_ns = time.time_ns() + stamp_boot_ns - boot_ns()
    return f"{datetime.fromtimestamp(utc_ns // _NS_PER_S, UTC):%Y-%m-%d %H:%M:%S} UTC"


def utc_words(utc_ns: int) -> str:
    """``2026-05-04T14:32:05.123Z``: UTC to the millisecond, for people who watch values change."""
    stamp = datetime.fromtimestamp(utc_ns // _NS_PER_S, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{utc_ns % _NS_PER_S // 1_000_000:03d}Z"


def span_words(span_ns: int) -> str:
    """``2 h 5 min``, ``4 min 10 s``, ``12 s``: the two largest units that are not zero."""
    left = (max(0, span_ns) + _NS_PER_S // 2) // _NS_PER_S
    parts: list[tuple[int, str]] = []
    for unit_s, word in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, unit_s)
        if count or parts:
            parts.append((count, word))
    told = [f"{count} {word}" for count, word in parts[:2] if count]
    return " ".join(told) or "0 s"


def utc_ns_of(text: str, now_ns: int) -> int:
    """UTC ns of ``2026-05-04T14:32:05Z``, ``2026-05-04`` (UTC) or ``24h``, so long ago.

    A moment that int64 does not hold is the first or last that it does. Raises ValueError.
    """
    from gateway.site.durations import parse_duration  # with the whole model: not for a trip

    try:
        return now_ns - parse_duration(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime.fromtimestamp(0, UTC)
    utc_ns = (delta.days * 86_400 + delta.seconds) * _NS_PER_S + delta.microseconds * 1_000
    return min(max(utc_ns, -_NS_MAX), _NS_MAX)
