"""What the loop does without descriptors: the page waits, everything that is open goes on."""

import asyncio
import logging
from typing import Any, Final

_LOGGER = logging.getLogger(__name__)

TELL_S: Final = 10.0
_ACCEPT: Final = "socket.accept() out of system resource"  # asyncio's own words


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
            _LOGGER.warning("Too many open files: callers of the page wait, the rest goes on")
