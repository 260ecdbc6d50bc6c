"""A simulated serial port: the far end of a pty, with Modbus RTU units or instruments on it.

Units answer whole requests with a good checksum that name them, and nothing else, as on a real
line. Instruments answer their request, or send by themselves.
"""

import asyncio
import contextlib
import os
import tty
from collections.abc import Callable, Iterable
from typing import Final

from drivers.errors import LinkError
from drivers.instrument import Instrument
from drivers.plant import Fault, Plant
from fastpath import rtu

REQUEST_BYTES_MAX: Final = 256
FRAME_LEAST: Final = 4
FIXED_BYTES: Final = 8  # of functions 1 to 6: unit, function, two words, checksum
CHUNK: Final = 4_096
BUSY: Final = 6


class SerialLine:
    """One pty. ``answer`` gives the reply's PDU to (unit, PDU), None where no such unit is."""

    def __init__(
        self,
        answer: Callable[[int, bytes], bytes | None] | None,
        instruments: Iterable[tuple[Instrument, tuple[str, ...]]],
        plant: Plant,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.fault: Fault = "none"
        self._answer = answer
        self._instruments = tuple(instruments)
        self._plant = plant
        self._monotonic_ns = monotonic_ns
        self._master = self._slave = -1
        self._buffer = b""
        self._talking: list[asyncio.Task[None]] = []

    async def start(self) -> str:
        """Open; the port's path. Raises LinkError."""
        try:
            self._master, self._slave = os.openpty()
            tty.setraw(self._slave)
        except OSError as error:
            text = f"no pseudo terminal: {error.strerror}"
            raise LinkError(text) from error
        os.set_blocking(self._master, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, self._readable)
        for instrument, tags in self._instruments:
            if instrument.request is None:
                self._talking.append(loop.create_task(self._talk(instrument, tags)))
        return os.ttyname(self._slave)

    async def close(self) -> None:
        """End it."""
        for task in self._talking:
            task.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)
            os.close(self._slave)
            self._master = self._slave = -1

    def cut(self) -> None:
        """A serial line has no connections: a cut one is silent."""

    def _readable(self) -> None:
        with contextlib.suppress(OSError):
            self._buffer += os.read(self._master, CHUNK)
        if self._answer is not None:
            self._serve_units(self._answer)
        else:
            self._serve_instruments()
        self._buffer = self._buffer[-REQUEST_BYTES_MAX:]

    def _serve_units(self, answer: Callable[[int, bytes], bytes | None]) -> None:
        while (size := _request_bytes(self._buffer)) and len(self._buffer) >= size:
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            if rtu.crc(frame[:-2]) != int.from_bytes(frame[-2:], "little"):
                self._buffer = b""  # out of step: the master will ask again
                return
            reply = answer(frame[0], frame[1:-2])
            if reply is not None:
                body = frame[:1] + reply
                self._send(body + rtu.crc(body).to_bytes(2, "little"))

    def _serve_instruments(self) -> None:
        """Whoever is asked first answers; what stands before its request was for nobody."""
        while True:
            asked = [
                (at, instrument, tags)
                for instrument, tags in self._instruments
                if instrument.request and (at := self._buffer.find(instrument.request)) >= 0
            ]
            if not asked:
                return
            at, instrument, tags = min(asked, key=lambda found: found[0])
            self._buffer = self._buffer[at + len(instrument.request or b"") :]
            self._say(instrument, tags)

    async def _talk(self, instrument: Instrument, tags: tuple[str, ...]) -> None:
        while True:
            self._say(instrument, tags)
            await asyncio.sleep(instrument.period_s)

    def _say(self, instrument: Instrument, tags: tuple[str, ...]) -> None:
        now_ns = self._monotonic_ns()
        for message in instrument.messages({tag: self._plant.value(tag, now_ns) for tag in tags}):
            self._send(message)

    def _send(self, data: bytes) -> None:
        """Nobody may be reading: then it is lost, as on a line."""
        if self.fault == "none":
            with contextlib.suppress(OSError):
                os.write(self._master, data)


def _request_bytes(buffer: bytes) -> int:
    """The length of the request that begins here; 0 while that is not known."""
    if len(buffer) < FRAME_LEAST:
        return 0
    if buffer[1] in (15, 16):
        return 9 + buffer[6] if len(buffer) > 6 else 0
    return FIXED_BYTES
