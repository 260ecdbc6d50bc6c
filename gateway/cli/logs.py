"""Log lines on stderr: with a clock for people, with systemd's priority prefix for the journal."""

import logging
import os
import sys
from typing import Final

from gateway.cli.log_sink import LogSink
from gateway.cli.table import plain

# <N> at a line's begin is its syslog priority for journald.
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
# Libraries whose info lines are one per message or request.
SIMULATED_MARK: Final = "SIMULATED "
_QUIET: Final = ("aiohttp", "aiosqlite", "asyncio", "mqtt")


class JournalFormatter(logging.Formatter):
    """One line per record for journald, which adds time and unit itself."""

    def __init__(self, mark: str) -> None:
        super().__init__(f"{mark}%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """``<4>text``; a traceback's lines keep the priority."""
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{priority}>{plain(line)}" for line in lines)


class PlainFormatter(logging.Formatter):
    """Time, level and text for a terminal or a file."""

    def __init__(self, mark: str) -> None:
        super().__init__(f"%(asctime)s {mark}%(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Control characters of devices' texts are shown, not sent."""
        return "\n".join(plain(line) for line in super().format(record).splitlines())


def configure(*, verbose: bool = False, simulated: bool = False) -> None:
    """Set the root logger up; called once, before anything logs."""
    mark = SIMULATED_MARK if simulated else ""
    handler = LogSink(sys.stderr.fileno())
    journal = "JOURNAL_STREAM" in os.environ and not sys.stderr.isatty()
    handler.setFormatter(JournalFormatter(mark) if journal else PlainFormatter(mark))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
