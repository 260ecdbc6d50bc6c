"""A port that several devices share: opened once, one exchange at a time, heard by all streams.

Who asks last waits for the others. After a request that nobody answered the line is left alone
for as long as the answer may still come, so that it is not taken for the next one's.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from drivers.errors import LinkError
from drivers.serial_port import DOUBLE_S, Heard, SerialPort, Settings, open_port

CLOSE_S: Final = 1.0

Shared = dict[Any, Any]  # ("serial", the port's real path) -> Bus


@dataclass(frozen=True, slots=True)
class SharedPort:
    """Where a device is found; ``shared`` holds the ports that are open."""

    path: str
    settings: Settings
    shared: Shared

    async def join(self, timeout_s: float) -> "Bus":
        """The port, opened where nobody has it yet. Raises LinkError."""
        key = ("serial", os.path.realpath(self.path))
        bus = self.shared.get(key)
        if bus is None or not bus.usable():
            bus = self.shared[key] = Bus(
                self.path, self.settings, lambda bus: self._forget(key, bus)
            )
        await bus.enter(self.settings, timeout_s)
        return bus

    def _forget(self, key: tuple[str, str], bus: "Bus") -> None:
        if self.shared.get(key) is bus:
            del self.shared[key]


class Bus:
    """One open port, until the last device leaves it. ``forget``: nobody joins it any more."""

    def __init__(self, path: str, settings: Settings, forget: "Callable[[Bus], None]") -> None:
        self._forget = forget
        self._path = path
        self._settings = settings
        self._members = 0
        self._port: SerialPort | None = None
        self._lost: LinkError | None = None
        self._opening = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._hearers: dict[Heard, Callable[[LinkError], None]] = {}
        self._quiet_until_ns = 0
        self._closing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def enter(self, settings: Settings, timeout_s: float) -> None:
        """One more device uses it. Raises LinkError."""
        if settings != self._settings:
            text = f"{self._path} is open with other settings of the line"
            raise LinkError(text)
        self._members += 1
        try:
            async with self._opening:
                if self._port is None and self._lost is None:
                    self._port = await open_port(
                        self._path, settings, self._heard, self._ended, timeout_s
                    )
            self.check()
        except BaseException:
            await self.leave(timeout_s)
            raise

    async def leave(self, timeout_s: float) -> None:
        """One device less; the last closes the port."""
        self._members -= 1
        if self._members > 0:
            return
        self._forget(self)
        port, self._port = self._port, None
        if port is not None:
            await port.close(timeout_s)
        if self._closing is not None:
            await self._closing

    @property
    def alone(self) -> bool:
        """Whether one device alone is on it."""
        return self._members == 1

    def usable(self) -> bool:
        """Whether a device may still join: not lost, and of this loop."""
        return self._lost is None and self._loop is asyncio.get_running_loop()

    def check(self) -> None:
        """Raises LinkError where the port is lost."""
        if self._lost is not None:
            raise LinkError(str(self._lost))

    @contextlib.contextmanager
    def _hearing(self, heard: Heard, lost: Callable[[LinkError], None]) -> Iterator[None]:
        self._hearers[heard] = lost
        try:
            yield
        finally:
            self._hearers.pop(heard, None)

    def listen(
        self, heard: Heard, lost: Callable[[LinkError], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Hear everything that comes, until the end of the context. Raises LinkError."""
        self.check()
        return self._hearing(heard, lost)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The line for one exchange alone, when nobody's answer can come any more."""
        async with self._turn:
            wait_ns = self._quiet_until_ns - time.monotonic_ns()
            if wait_ns > 0:
                await asyncio.sleep(wait_ns / 1e9)
            self.check()
            yield

    def unanswered(self, wait_s: float) -> None:
        """An answer may still come for so long: nobody asks before."""
        until_ns = time.monotonic_ns() + int(wait_s * 1e9)
        self._quiet_until_ns = max(self._quiet_until_ns, until_ns)

    def answered(self, *, addressed: bool) -> None:
        """What may still follow an answer that names no station is not the next device's."""
        if not addressed and not self.alone:
            self.unanswered(DOUBLE_S)

    def send(self, data: bytes) -> None:
        """Send a request; what arrived before it is no answer to it. Raises LinkError."""
        self.check()
        if self._port is None:
            text = f"{self._path} is closed"
            raise LinkError(text)
        self._port.discard()
        self._port.send(data)

    def _heard(self, data: bytes | None) -> None:
        for heard in list(self._hearers):
            heard(data)

    def _ended(self, error: LinkError) -> None:
        self._lost = error
        port, self._port = self._port, None
        if port is not None:  # at once: who connects again must find it free
            self._closing = self._loop.create_task(port.close(CLOSE_S), name=f"close {self._path}")
        self._forget(self)  # whoever connects again opens the port anew
        for lost in list(self._hearers.values()):
            lost(error)
