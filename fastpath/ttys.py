"""Serial ports of the guard, as its main thread has them: opened, set, handed over, closed.

Whatever may block is done here. The scan thread gets an open descriptor through a numbered door
(``bus.Door``), uses it as long as the port lives, and gives it back; it is closed here and opened
again by its path, with a backoff.
"""

import array
import contextlib
import errno
import fcntl
import logging
import os
import struct
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastpath import blob as blobs
from fastpath.codes import DeviceFlag, DeviceKind, Parity

if TYPE_CHECKING:
    from fastpath.engine import Engine

_LOGGER = logging.getLogger("guard")
DOORS: Final = 128  # bus.DOORS_MAX
NO_DOOR: Final = DOORS
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 2.0

# linux/serial.h and asm-generic/ioctls.h: Python has no names for these.
TIOCSRS485: Final = 0x542F
RS485: Final = struct.Struct("<III20x")  # flags, delays before and after sending in ms
RS485_ENABLED: Final = 1
RS485_RTS_ON_SEND: Final = 2
SERIAL_STRUCT_WORDS: Final = 18
SERIAL_FLAGS_WORD: Final = 4
ASYNC_LOW_LATENCY: Final = 1 << 13


@dataclass(frozen=True, slots=True)
class Port:
    """One serial port and how it is set."""

    path: str
    baud: int
    data_bits: int
    parity: int  # codes.Parity
    stop_bits: int
    rs485: bool


@dataclass(slots=True)
class _Held:
    """A port that some program uses, and what became of it."""

    port: Port
    fd: int = -1
    next_try_s: float = 0.0
    backoff_s: float = RETRY_S_MIN
    told: bool = False  # that it cannot be opened
    told_rs485: bool = False


class Ttys:
    """The ports of the running program and of the one that is about to run."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._wanted: set[int] = set()

    def doors(self, blob: bytes) -> list[int]:
        """For each tty of a program the door that its descriptor will come through.

        An equal port keeps its door from one program to the next. NO_DOOR: no device is there.
        """
        # A program that was offered and refused left ports that were never opened.
        self._held = {n: h for n, h in self._held.items() if n in self._wanted or h.fd >= 0}
        found: list[int] = []
        for port in ports_of(blob):
            if port is None:
                found.append(NO_DOOR)
                continue
            known = (n for n, held in self._held.items() if held.port == port and n not in found)
            free = (n for n in range(DOORS) if n not in self._held)
            door = next(known, None)
            if door is None:
                door = next(free)
                self._held[door] = _Held(port)
            found.append(door)
        return found

    def adopt(self, engine: "Engine", doors: list[int]) -> None:
        """The program of these doors runs now: the ports of others are closed."""
        self._wanted = set(doors) - {NO_DOOR}
        for door in [n for n in self._held if n not in self._wanted]:
            engine.tty_forget(door)
            engine.tty_taken_back(door)
            _close(self._held.pop(door))

    def turn(self, engine: "Engine") -> float | None:
        """Close what came back, open what is due; seconds until the next try, None: none."""
        now_s = time.monotonic()
        waits = []
        for door in sorted(self._wanted):
            held = self._held[door]
            error = engine.tty_taken_back(door)
            if error is not None:
                _LOGGER.error("%s is gone: %s", held.port.path, os.strerror(error or errno.EIO))
                _close(held)
                held.told = True
                held.next_try_s = now_s + held.backoff_s
            if held.fd < 0 and now_s >= held.next_try_s:
                self._try(engine, door, held, now_s)
            if held.fd < 0:
                waits.append(max(held.next_try_s - now_s, 0.0))
        return min(waits, default=None)

    def close(self) -> None:
        """Everything, after the scan thread has ended."""
        for held in self._held.values():
            _close(held)

    def _try(self, engine: "Engine", door: int, held: _Held, now_s: float) -> None:
        try:
            held.fd = open_port(held.port)
        except OSError as error:
            if not held.told:
                _LOGGER.error("%s cannot be opened: %s", held.port.path, error.strerror or error)
                held.told = True
            engine.tty_failed(door, error.errno or errno.EIO)
        else:
            if held.port.rs485 and not held.told_rs485 and not _set_rs485(held.fd):
                held.told_rs485 = True
                _LOGGER.warning("%s has no RS-485 mode of its own", held.port.path)
            if engine.tty_offer(door, held.fd):
                _LOGGER.warning("%s is open, %d baud", held.port.path, held.port.baud)
                held.told = False
                held.backoff_s = RETRY_S_MIN
                return
            _close(held)
        held.next_try_s = now_s + held.backoff_s
        held.backoff_s = min(2 * held.backoff_s, RETRY_S_MAX)


def ports_of(blob: bytes) -> list[Port | None]:
    """The ports of a verified program in the order of its ttys; None: no device uses it."""
    found: list[Port | None] = [None] * len(blobs.names(blob).get("ttys", ()))
    paths = blobs.names(blob).get("ttys", [])
    for device in blobs.section(blob, "devices"):
        if device.kind == DeviceKind.MODBUS_RTU and device.tty < len(found):
            found[device.tty] = Port(
                paths[device.tty],
                device.baud,
                device.data_bits,
                device.parity,
                device.stop_bits,
                bool(device.flags & DeviceFlag.RS485),
            )
    return found


def open_port(port: Port) -> int:
    """An open descriptor, set and for this process alone. Raises OSError; never waits."""
    fd = os.open(port.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # The first keeps strangers out, the second other programs that ask politely.
        fcntl.ioctl(fd, termios.TIOCEXCL)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _set_line(fd, port)
        _set_low_latency(fd)
        termios.tcflush(fd, termios.TCIOFLUSH)
    except termios.error as error:
        os.close(fd)
        raise OSError(*error.args) from None
    except OSError:
        os.close(fd)
        raise
    return fd


def _set_line(fd: int, port: Port) -> None:
    """Raw bytes at the port's speed and format; a wrong parity bit reads as a zero byte."""
    speed = getattr(termios, f"B{port.baud}", None)
    if speed is None:
        raise OSError(errno.EINVAL, f"no such speed: {port.baud}")
    size = {7: termios.CS7, 8: termios.CS8}[port.data_bits]
    control = size | termios.CREAD | termios.CLOCAL
    if port.stop_bits == 2:
        control |= termios.CSTOPB
    if port.parity != Parity.NONE:
        control |= termios.PARENB
    if port.parity == Parity.ODD:
        control |= termios.PARODD
    receive = termios.INPCK if port.parity != Parity.NONE else 0
    characters = termios.tcgetattr(fd)[6]
    characters[termios.VMIN] = 1  # nothing there is EAGAIN, not an end of file
    characters[termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, [receive, 0, control, 0, speed, speed, characters])
    if termios.tcgetattr(fd)[4:6] != [speed, speed]:
        raise OSError(errno.EINVAL, f"the port does not take {port.baud} baud")


def _set_low_latency(fd: int) -> None:
    """USB adapters keep what they receive for up to 16 ms otherwise; others do not know it."""
    fields = array.array("I", bytes(4 * SERIAL_STRUCT_WORDS))
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCGSERIAL, fields)
        fields[SERIAL_FLAGS_WORD] |= ASYNC_LOW_LATENCY
        fcntl.ioctl(fd, termios.TIOCSSERIAL, fields)


def _set_rs485(fd: int) -> bool:
    """The driver switches the direction; False where the port leaves that to its hardware."""
    try:
        fcntl.ioctl(fd, TIOCSRS485, RS485.pack(RS485_ENABLED | RS485_RTS_ON_SEND, 0, 0))
    except OSError:
        return False
    return True


def _close(held: _Held) -> None:
    """Without waiting for what could not be sent."""
    if held.fd < 0:
        return
    with contextlib.suppress(termios.error):
        termios.tcflush(held.fd, termios.TCIOFLUSH)
    with contextlib.suppress(OSError):
        os.close(held.fd)
    held.fd = -1
