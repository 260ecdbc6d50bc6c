"""A socket that listens for callers of the page, and leaves them waiting where they cost too much.

Who waits is in the kernel's queue and costs no descriptor; asyncio looks again after a second.
"""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gateway.life.descriptors import scarce

if TYPE_CHECKING:
    from pathlib import Path

_LOGGER = logging.getLogger(__name__)

OPERATORS: Final = "sitewarden-operators"

CALLERS_MAX: Final = 64  # at a time, of one application


class Listener(socket.socket):
    """As :class:`socket.socket`; ``callers`` counts those that are being served."""

    def __init__(self, family: int, callers: Callable[[], int]) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._callers = callers

    def accept(self) -> tuple[socket.socket, Any]:
        """The next caller. Raises OSError(EMFILE) where it is to wait, as without descriptors."""
        if self._callers() >= CALLERS_MAX or scarce():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def unix_listener(path: "Path", callers: Callable[[], int]) -> Listener:
    """A bound socket, 0660 for the operators' group where there is one, else 0600. Raises OSError.

    It never exists with more rights than it ends with.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # left by a gateway that was killed; the instance lock says it is gone
    listener = Listener(socket.AF_UNIX, callers)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        _give_to_operators(path)
    except OSError:
        listener.close()
        raise
    return listener


async def tcp_listeners(host: str, port: int, callers: Callable[[], int]) -> list[Listener]:
    """Bound to every address of ``host``; "": to all there are. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[Listener] = []
    try:
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            listeners.append(Listener(family, callers))
            listeners[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listeners[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listeners[-1].bind(address)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _give_to_operators(path: "Path") -> None:
    try:
        group = grp.getgrnam(OPERATORS).gr_gid
    except KeyError:
        return
    try:
        os.chown(path, -1, group)
        path.chmod(0o660)
    except OSError as error:
        _LOGGER.warning("%s stays with its owner alone: %s", path, error.strerror)
