"""Descriptors when they run short: the page waits, what is open goes on, the rest has spare ones.

Descriptors are numbers below a limit of the process, the lowest free one is given first. So whoever
looks at the number that comes next knows how many are left at most.
"""

import asyncio
import contextlib
import logging
import os
import resource
import threading
from collections.abc import Iterator
from typing import Any, Final

_LOGGER = logging.getLogger(__name__)

TELL_S: Final = 10.0
ROOM: Final = 32  # that callers of the page leave to devices, uplinks and name lookups
SPARES: Final = 32  # two databases that are opened anew, a guard that is started, the link to it
_ACCEPT: Final = "socket.accept() out of system resource"  # asyncio's own words


def scarce() -> bool:
    """Whether fewer than ``ROOM`` are left, those that are held in reserve not counted."""
    try:
        next_one = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(next_one)
    return next_one >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - ROOM


def opened() -> int:
    """How many this process has open, those held in reserve included; 0 where that is not known."""
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0


class Spares:
    """Descriptors that are held for who must not go without: the stores and the way to the guard.

    None are held before the first :meth:`hold`.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._wanted = 0
        self._borrowers = 0
        self._lock = threading.Lock()

    def hold(self, count: int = SPARES) -> None:
        """Hold so many from now on, or as many as there are."""
        with self._lock:
            self._wanted = count
            self._settle()

    def refill(self) -> None:
        """Hold again what others took and gave back; to be called now and then."""
        with self._lock:
            self._settle()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """While inside they are there to be taken; afterwards what is left is held again."""
        with self._lock:
            self._borrowers += 1
            self._settle()
        try:
            yield
        finally:
            with self._lock:
                self._borrowers -= 1
                self._settle()

    def _settle(self) -> None:
        wanted = 0 if self._borrowers else self._wanted
        while len(self._held) > wanted:
            os.close(self._held.pop())
        with contextlib.suppress(OSError):
            while len(self._held) < wanted:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


SPARE_ONES: Final = Spares()  # of this process, as the limit is


class ExceptionLines:
    """The loop's exception handler: a line where asyncio would write a traceback per caller."""

    def __init__(self) -> None:
        self._told_s = -TELL_S

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Called by the loop."""
        if context.get("message") != _ACCEPT:
            loop.default_exception_handler(context)
            return
        now_s = loop.time()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            _LOGGER.warning("%s: callers of the page wait, the rest goes on", context["exception"])
