"""pymodbus over our own serial port: opened and closed on threads, written at once.

A request that waited for the loop's next turn could be overtaken by a late reply, and one that
could not be sent in its time must not be sent later. So it is written within the call, or taken
back with :meth:`TtyTransport.recall`.
"""

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from drivers.errors import LinkError
from drivers.serial_port import SerialPort, Settings, open_port

CLOSE_S: Final = 1.0

_closing: dict[str, asyncio.Task[None]] = {}  # by real path; who opens a port waits for its close


class TtyTransport(asyncio.Transport):
    """One open port, as pymodbus's protocol needs it."""

    def __init__(self, port: SerialPort, protocol: Any) -> None:
        super().__init__()
        self._port = port
        self._protocol = protocol
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    def write(self, data: Any) -> None:
        """Send it; what the port does not take at once goes when it does."""
        if not data or self._closed:
            return
        try:
            self._port.send(bytes(data))
        except LinkError as error:
            self.lost(error)

    def recall(self) -> None:
        """Take back what has not left yet."""
        self._port.recall()

    def fileno(self) -> int:
        """Of the port."""
        return self._port.fileno()

    def lost(self, error: LinkError) -> None:
        """The port has gone."""
        if not self._closed:
            self._protocol.connection_lost(error)
            self.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._closed

    def abort(self) -> None:
        """As close: nothing lingers."""
        self.close()

    def close(self) -> None:
        """Hear and send no more; the port is closed by a thread."""
        if self._closed:
            return
        self._closed = True
        self._port.stop()
        place, loop = self._port.place, asyncio.get_running_loop()
        task = loop.create_task(self._port.close(CLOSE_S), name=f"close {self._port.name}")
        self._closing = _closing[place] = task
        task.add_done_callback(lambda done: _forget(place, done))

    async def closed(self) -> None:
        """Wait for a close that is under way; never longer than its deadline."""
        if self._closing is not None:
            await asyncio.wait((self._closing,))


def _forget(place: str, done: "asyncio.Task[None]") -> None:
    if _closing.get(place) is done:
        del _closing[place]


async def open_tty(
    path: str, settings: Settings, protocol: Any, flawed: Callable[[], None], timeout_s: float
) -> tuple[TtyTransport, Any]:
    """What pymodbus's ``call_create`` gives. Raises LinkError.

    ``flawed``: a byte came with a parity or framing error.
    """
    transport: TtyTransport | None = None

    def heard(data: bytes | None) -> None:
        if data is None:
            flawed()
        else:
            protocol.data_received(data)

    def lost(error: LinkError) -> None:
        if transport is not None:
            transport.lost(error)

    before = _closing.get(os.path.realpath(path))
    if before is not None and before.get_loop() is asyncio.get_running_loop():
        await asyncio.wait((before,))
    port = await open_port(path, settings, heard, lost, timeout_s)
    transport = TtyTransport(port, protocol)
    asyncio.get_running_loop().call_soon(protocol.connection_made, transport)
    return transport, protocol


def unread(descriptor: int) -> int:
    """Bytes that have arrived there and nobody has read; 0 where it has gone."""
    with contextlib.suppress(OSError, ValueError):
        room = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", room)[0])
    return 0
