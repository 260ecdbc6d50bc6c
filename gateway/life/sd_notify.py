"""What the service manager is told: READY, WATCHDOG, STOPPING and more, as datagrams.

Without NOTIFY_SOCKET every call does nothing. A service manager that cannot be reached is logged
once and never stops anything.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

_LOGGER = logging.getLogger(__name__)

_SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
_USEC_VARIABLE: Final = "WATCHDOG_USEC"
_PID_VARIABLE: Final = "WATCHDOG_PID"
VARIABLES: Final = (_SOCKET_VARIABLE, _USEC_VARIABLE, _PID_VARIABLE)


class Notifier:
    """A sender to the service manager that ``environ`` names, a path or an abstract ``@`` name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get(_SOCKET_VARIABLE, "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False
        self.managed = bool(address)  # whoever started us starts us again
        self.watchdog_s = _watchdog_s(environ) if address else None  # None: nobody waits for it

    def ready(self, status: str) -> None:
        """The gateway is up; ``status`` is one line for people."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """WATCHDOG=1. Only from code that has seen the loop and the recorder make progress."""
        self._send("WATCHDOG=1")

    def extend(self, more_s: float) -> None:
        """What is under way may take so long from now, should its time be over before."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(more_s * 1e6)}")

    def status(self, text: str) -> None:
        """One line for people."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The ordered stop begins."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._failed:
                _LOGGER.warning("service manager not told: %s", error.strerror)
            self._failed = True
            return
        self._failed = False


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    if environ.get(_PID_VARIABLE, str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environ.get(_USEC_VARIABLE, ""))
        return microseconds / 1e6 if microseconds > 0 else None
    return None
