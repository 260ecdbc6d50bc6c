"""One moment on the three clocks, so that stamps of the guard can be told as UTC."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Self

_NS: Final = 1_000_000_000
_STAT_START: Final = 19  # starttime, counted after the command's closing parenthesis


class Instant(NamedTuple):
    """The same moment in UTC, monotonic and boot time, nanoseconds."""

    utc_ns: int
    mono_ns: int
    boot_ns: int

    @classmethod
    def now(cls) -> Self:
        """This moment."""
        return cls(time.time_ns(), time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def of_boot(self, boot_ns: int) -> str | None:
        """UTC of a boot-time stamp by today's clock; None for 0."""
        return rfc3339(self.utc_ns - (self.boot_ns - boot_ns)) if boot_ns else None

    def of_mono(self, mono_ns: int) -> str | None:
        """UTC of a monotonic stamp by today's clock; None for 0."""
        return rfc3339(self.utc_ns - (self.mono_ns - mono_ns)) if mono_ns else None

    def of_process(self, pid: int) -> str | None:
        """When a process started; None where there is none or it is hidden."""
        try:
            line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            ticks = int(line.rpartition(")")[2].split()[_STAT_START])
        except (OSError, ValueError, IndexError):
            return None
        return self.of_boot(ticks * _NS // os.sysconf("SC_CLK_TCK"))


def rfc3339(utc_ns: int) -> str | None:
    """RFC 3339 UTC with nine digits; None for 0."""
    if utc_ns == 0:
        return None
    seconds, nanoseconds = divmod(utc_ns, _NS)
    try:
        stamp = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
