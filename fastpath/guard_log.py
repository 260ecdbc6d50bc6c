"""The guard's own lines on stderr: one that finds no place is lost, and counted, never waited for.

Whoever reads them (journald, a terminal that is stopped) must not hold what protects.
"""

import logging
import os
import select
from typing import Final

LINE_BYTES_MAX: Final = 4000  # a pipe that says that it is ready takes PIPE_BUF at once


class GuardLog(logging.Handler):
    """Writes to ``descriptor``."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line now, or not at all."""
        lost = f"guard: {self._lost} lines were lost\n" if self._lost else ""
        line = f"{lost}{self.format(record)}".encode(errors="replace")[:LINE_BYTES_MAX] + b"\n"
        try:
            ready = any(events & select.POLLOUT for _, events in self._poll.poll(0))
            if ready:
                os.write(self._descriptor, line)
        except OSError:
            ready = False  # nobody reads any more
        self._lost = 0 if ready else self._lost + 1
