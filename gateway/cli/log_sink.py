"""Where log lines go: never a reason to wait, however stuck or slow whoever reads them is.

Lines are written by a thread of their own, out of a bounded queue; what finds no place is counted,
and so is what says the same too often. Both are told as soon as there is a place for it.
"""

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

LINES_MAX: Final = 5_000  # that wait
SAME_MAX: Final = 100  # of one message, whatever its numbers, in one span
SPAN_S: Final = 10.0
KINDS_MAX: Final = 1_000  # messages that are told apart
KIND_CHARS: Final = 200
FLUSH_S: Final = 0.5

_DIGITS: Final = re.compile(r"[0-9]+")


class LogSink(logging.Handler):
    """Writes to ``descriptor``."""

    def __init__(
        self, descriptor: int, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._monotonic_s = monotonic_s
        self._lines: deque[bytes] = deque()
        self._left_out = 0
        self._kinds: dict[tuple[str, int, str], int] = {}
        self._span_s = monotonic_s()
        self._wake = threading.Event()
        self._written = threading.Event()
        self._written.set()
        self._thread: threading.Thread | None = None
        self._ended = False

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record's lines; returns at once."""
        now_s = self._monotonic_s()
        if now_s - self._span_s >= SPAN_S:
            self._end_span(now_s)
        text = _DIGITS.sub("#", record.getMessage()[:KIND_CHARS])
        kind = (record.name, record.levelno, text)
        count = self._kinds.get(kind, 0) + 1
        if count > 1 or len(self._kinds) < KINDS_MAX:
            self._kinds[kind] = count
        if count > SAME_MAX:
            return
        if len(self._lines) >= LINES_MAX:
            self._left_out += 1
            return
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            self._say(logging.WARNING, f"{left_out} log lines found no place and are lost")
        self._queue(self.format(record))

    def flush(self) -> None:
        """Wait until everything is written, for a second at most."""
        self._end_span(self._monotonic_s())
        self._written.wait(FLUSH_S)

    def close(self) -> None:
        """End the thread, unless it hangs in a write; what is queued and not written is lost."""
        self._ended = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(FLUSH_S)
        super().close()

    def _end_span(self, now_s: float) -> None:
        kinds, self._kinds, self._span_s = self._kinds, {}, now_s
        for (_, level, text), count in kinds.items():
            if count > SAME_MAX:
                self._say(level, f"{count - SAME_MAX} more lines like this suppressed: {text}")

    def _say(self, level: int, text: str) -> None:
        self._queue(self.format(logging.LogRecord(__name__, level, "", 0, text, None, None)))

    def _queue(self, text: str) -> None:
        self._written.clear()
        self._lines.append(text.encode(errors="replace") + b"\n")
        if self._thread is None or not self._thread.is_alive():  # not begun, or gone wrong
            self._thread = threading.Thread(target=self._write, name="log", daemon=True)
            self._thread.start()
        self._wake.set()

    def _write(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            while self._lines and not self._ended:
                self._put(self._lines.popleft())
            if not self._wake.is_set():
                self._written.set()

    def _put(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except BlockingIOError:
            time.sleep(0.05)  # somebody made it non-blocking; this line is lost
        except OSError:
            return  # nobody reads any more
