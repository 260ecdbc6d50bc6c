"""One serial port on the event loop: opened and closed on threads of their own, read by callbacks.

A driver of the system may hang in open or close (an adapter that was pulled out): the thread that
it hangs in is left behind, and no second one is begun for the same port before it returns.
"""

import asyncio
import contextlib
import errno
import os
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import serial
from serial.rs485 import RS485Settings

from drivers.errors import LinkError
from drivers.resolve import error_text

READ_BYTES_MAX: Final = 4_096  # of one wake
WRITE_BYTES_MAX: Final = 4_096
DISCARDS_MAX: Final = 16
DOUBLE_S: Final = 0.02  # a double of a reply comes no later; USB adapters hold bytes up to 16 ms
_MARK: Final = 0xFF
_IFLAG: Final = 0  # of what termios.tcgetattr gives
_CONTROLS: Final = 6

_busy: dict[str, str] = {}  # what a thread is still at, by the port's real path


class LineSettings(Protocol):
    """How a serial line is set."""

    @property
    def baud(self) -> int:
        """Bits per second."""

    @property
    def bits(self) -> int:
        """Data bits."""

    @property
    def parity(self) -> str:
        """none, even, odd."""

    @property
    def stop(self) -> int:
        """Stop bits."""

    @property
    def rs485(self) -> bool:
        """The kernel's driver switches the direction."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The same, as values: two devices of a port must agree."""

    baud: int
    bits: int
    parity: str
    stop: int
    rs485: bool

    @classmethod
    def of(cls, line: LineSettings) -> "Settings":
        """The settings of a site file's line."""
        return cls(line.baud, line.bits, line.parity, line.stop, line.rs485)


T = TypeVar("T")

# What a port tells: bytes, None for a byte that came with a parity or framing error.
Heard = Callable[[bytes | None], None]


class SerialPort:
    """An open port. ``heard`` and ``lost`` are called by the loop, ``lost`` once at most."""

    def __init__(
        self, port: serial.Serial, heard: Heard, lost: Callable[[LinkError], None]
    ) -> None:
        self._port = port
        self._descriptor: int = port.fileno()
        self._heard = heard
        self._lost = lost
        self._marks = Marks()
        self._sending = b""
        self.place: Final = os.path.realpath(self.name)  # another port may get the name
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._readable)

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._port.port)

    def send(self, data: bytes) -> None:
        """Send all of it, in the loop's own time. Raises LinkError where it cannot."""
        if len(self._sending) + len(data) > WRITE_BYTES_MAX:
            text = f"{self.name} takes no more bytes"
            raise LinkError(text)
        waiting = bool(self._sending)
        self._sending += data
        if not waiting:
            self._writable()

    def fileno(self) -> int:
        """The open descriptor."""
        return self._descriptor

    def recall(self) -> None:
        """Take back what was not sent yet, of ours and of the system's."""
        self._sending = b""
        self._loop.remove_writer(self._descriptor)
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(self._descriptor, termios.TCOFLUSH)

    def discard(self) -> None:
        """Forget what has arrived and was not heard yet."""
        with contextlib.suppress(OSError):
            for _ in range(DISCARDS_MAX):
                if len(os.read(self._descriptor, READ_BYTES_MAX)) < READ_BYTES_MAX:
                    break
        self._marks = Marks()

    def stop(self) -> None:
        """Hear and send no more."""
        with contextlib.suppress(ValueError, OSError):
            self._loop.remove_reader(self._descriptor)
        with contextlib.suppress(ValueError, OSError):
            self._loop.remove_writer(self._descriptor)
        self._sending = b""

    async def close(self, timeout_s: float) -> None:
        """Close it; a close that hangs is left to its thread after ``timeout_s``."""
        self.stop()
        port = self._port

        def close() -> None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcflush(port.fileno(), termios.TCIOFLUSH)  # else it may wait for 30 s
            port.close()

        with contextlib.suppress(TimeoutError, OSError, serial.SerialException, termios.error):
            async with asyncio.timeout(timeout_s):
                await _on_thread(self.place, "close", close)

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error_text(error))
            return
        if not data:
            self._end("the port has gone")
            return
        for piece in self._marks.feed(data):
            self._heard(piece)

    def _writable(self) -> None:
        try:
            sent = os.write(self._descriptor, self._sending)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._end(error_text(error))
            return
        self._sending = self._sending[sent:]
        if self._sending:
            self._loop.add_writer(self._descriptor, self._writable)
        else:
            self._loop.remove_writer(self._descriptor)

    def _end(self, why: str) -> None:
        self.stop()
        self._lost(LinkError(f"{self.name}: {why}"))


class Marks:
    """Takes out what the kernel marks: FF 00 and a byte is a byte with an error, FF FF is FF."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes | None]:
        """Pieces of good bytes, None in the place of each bad one."""
        data, self._held = self._held + data, b""
        pieces: list[bytes | None] = []
        good = bytearray()
        at = 0
        while (mark := data.find(_MARK, at)) >= 0:
            good += data[at:mark]
            follows = data[mark + 1 : mark + 3]
            if follows[:1] == b"\xff":
                good.append(_MARK)
                at = mark + 2
            elif len(follows) == 2 and follows[0] == 0:
                pieces += [bytes(good), None] if good else [None]
                good.clear()
                at = mark + 3
            elif follows and follows[0]:
                good.append(_MARK)  # a driver that doubles nothing
                at = mark + 1
            else:
                self._held = data[mark:]
                at = len(data)
        good += data[at:]
        return [*pieces, bytes(good)] if good else pieces


async def open_port(
    path: str,
    settings: Settings,
    heard: Heard,
    lost: Callable[[LinkError], None],
    timeout_s: float,
) -> SerialPort:
    """Open the port for us alone. Raises LinkError."""

    def let_go(port: serial.Serial) -> None:
        port.close()

    try:
        async with asyncio.timeout(timeout_s):
            port = await _on_thread(
                os.path.realpath(path), "open", lambda: _opened(path, settings), let_go
            )
    except TimeoutError:
        text = f"{path}: cannot be opened within {timeout_s:g} s"
        raise LinkError(text) from None
    except (OSError, ValueError, termios.error) as error:
        text = f"{path}: {open_trouble(error)}"
        raise LinkError(text) from None
    return SerialPort(port, heard, lost)


def _opened(path: str, settings: Settings) -> serial.Serial:
    """Blocking. Raises OSError, ValueError or termios.error."""
    port = serial.Serial(
        path,
        settings.baud,
        bytesize=settings.bits,
        parity={"none": "N", "even": "E", "odd": "O"}[settings.parity],
        stopbits=settings.stop,
        timeout=0,
        exclusive=True,
    )
    try:
        if settings.rs485:
            port.rs485_mode = RS485Settings()
        attributes = termios.tcgetattr(port.fileno())
        attributes[_IFLAG] = int(attributes[_IFLAG]) & ~(termios.IGNPAR | termios.IGNBRK)
        attributes[_IFLAG] |= termios.INPCK | termios.PARMRK
        # Nothing there must not read as nothing any more: b"" is a port that has gone.
        attributes[_CONTROLS][termios.VMIN] = 1
        os.set_blocking(port.fileno(), False)
        termios.tcsetattr(port.fileno(), termios.TCSANOW, attributes)
        termios.tcflush(port.fileno(), termios.TCIOFLUSH)
    except BaseException:
        port.close()
        raise
    return port


def open_trouble(error: BaseException) -> str:
    """Why a port could not be opened, for people; pyserial wraps the system's own words."""
    number, text = getattr(error, "errno", None), str(error)
    if "RS485" in text:  # its number, if any, is that of any port without it
        return "its driver has no RS-485 mode (line.rs485 = true)"
    if number in {errno.EAGAIN, errno.EBUSY} or "exclusively lock" in text:
        return "another program has it open"
    if number == errno.ENOTTY or "Inappropriate ioctl" in text:
        return "it is no serial port"
    if number:
        return os.strerror(number)
    return text or type(error).__name__


def _on_thread(
    path: str,
    what: str,
    call: Callable[[], T],
    unwanted: Callable[[T], None] | None = None,
) -> "asyncio.Future[T]":
    """Run a call that may block for ever; ``unwanted`` gets a result that nobody waits for.

    Raises LinkError while an earlier call for the port has not returned.
    """
    if path in _busy:
        text = f"{path}: its {_busy[path]} has not returned"
        raise LinkError(text)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    left = threading.Event()
    future.add_done_callback(lambda done: left.set() if done.cancelled() else done.exception())

    def refuse(result: T) -> None:
        if unwanted is not None:
            unwanted(result)

    def settle(result: T) -> None:
        if not future.done():
            future.set_result(result)
        else:
            threading.Thread(target=refuse, args=(result,), name=f"close {path}").start()

    def fail(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  whoever waits gets it
            _busy.pop(path, None)
            if not loop.is_closed():
                loop.call_soon_threadsafe(fail, error)
            return
        _busy.pop(path, None)
        if left.is_set() or loop.is_closed():
            refuse(result)
        else:
            loop.call_soon_threadsafe(settle, result)

    _busy[path] = what
    threading.Thread(target=run, name=f"{what} {path}", daemon=True).start()
    return future
