"""``serial listen``: what comes on a serial port, as it comes, and how a site file would read it.

Nothing is ever written to the port.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from drivers.errors import LinkError, PointError
from drivers.kind import parse_tty
from drivers.serial_port import Settings, open_port
from gateway.cli.options import add_json
from gateway.cli.table import complain, plain, show_json_line
from gateway.commission.hints import port_hint
from gateway.commission.modbus_heard import modbus_units
from gateway.commission.serial_guess import DELIMITERS, Guess, guess
from gateway.orders.outcome import Exit
from gateway.site.durations import parse_duration
from gateway.site.model import SERIAL_DRIVER, Baud, Line

OPEN_S: Final = 5.0
PAUSE_S: Final = 0.02  # what comes after it is shown as another frame
SHOWN_BYTES: Final = 64  # of one frame in hexadecimal digits
KEPT_BYTES_MAX: Final = 65_536
TRY_S: Final = 2.5  # each setting of --find; an instrument may send once a second
USUAL: Final = ((9600, 8, "none"), (4800, 8, "none"), (19200, 8, "none"), (9600, 7, "even"),
                (38400, 8, "none"), (115200, 8, "none"), (9600, 8, "even"), (19200, 8, "even"),
                (57600, 8, "none"), (2400, 8, "none"), (1200, 8, "none"), (4800, 7, "even"),
                (2400, 7, "even"), (1200, 7, "even"))  # fmt: skip
BY_ID: Final = Path("/dev/serial/by-id")
_NOTHING: Final = "nothing came: does the instrument send by itself, and is it the right port?"
_NO_SETTING: Final = "nothing readable with any of the usual settings"


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "serial ports: listen"
    family = commands.add_parser("serial", help=text, description=text)
    actions = family.add_subparsers(metavar="ACTION", required=True)
    text = (
        "show what comes on a serial port, and at the end (Ctrl-C, --for) the tables of a site "
        "file that read it; nothing is ever written to the port"
    )
    parser = actions.add_parser("listen", help=text, description=text)
    parser.add_argument("port", metavar="PORT", help="such as /dev/ttyUSB0")
    parser.add_argument("--baud", type=int, choices=get_args(Baud), default=9600, metavar="BAUD")
    parser.add_argument("--bits", type=int, choices=(7, 8), default=8, help="data bits")
    parser.add_argument("--parity", choices=("none", "even", "odd"), default="none")
    parser.add_argument("--stop", type=int, choices=(1, 2), default=1, help="stop bits")
    parser.add_argument("--find", action="store_true", help="try the usual settings first")
    parser.add_argument("--for", dest="for_ns", type=_duration, metavar="TIME", help="end after it")
    add_json(parser)
    parser.set_defaults(run=listen)


def listen(args: argparse.Namespace) -> int:
    """Show, then propose; 1 where nothing was heard or recognised."""
    try:
        path = parse_tty(args.port)
    except PointError as error:
        complain(f"PORT: {error}")
        return Exit.USAGE
    line = Line(baud=args.baud, bits=args.bits, parity=args.parity, stop=args.stop)
    try:
        return asyncio.run(_listen(path, line, args))
    except LinkError as error:
        complain("; ".join(part for part in (str(error), port_hint(path)) if part))
        return Exit.FAILED


@dataclass(slots=True)
class Ear:
    """What came from a port. ``show`` gets each line, or what stands between pauses."""

    show: Callable[[float, bytes], None]
    heard: bytearray = field(default_factory=bytearray)
    errors: int = 0  # bytes with a parity or framing error
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
    untold: OSError | None = None  # why nothing more can be shown: the reader of a pipe has gone
    _part: bytes = b""
    _part_s: float = 0.0
    _begin_s: float = field(default_factory=time.monotonic)

    def take(self, data: bytes | None) -> None:
        """Some bytes, or one with an error."""
        now_s = time.monotonic()
        if data is None:
            self.errors += 1
            return
        self.heard += data
        del self.heard[:-KEPT_BYTES_MAX]
        if self._part and now_s - self._part_s > PAUSE_S:
            self.flush()
        self._part += data
        self._part_s = now_s
        while (end := _line_end(self._part)) or len(self._part) > KEPT_BYTES_MAX:
            end = end or len(self._part)
            self._show(self._part[:end])
            self._part = self._part[end:]

    def flush(self) -> None:
        """Show what is under way."""
        part, self._part = self._part, b""
        if part:
            self._show(part)

    def end(self, error: LinkError) -> None:
        """The port has gone."""
        self.why = str(error)
        self.lost.set()

    def _show(self, part: bytes) -> None:
        if self.untold is not None:
            return
        try:
            self.show(self._part_s - self._begin_s, part)
        except OSError as error:  # here, in the port's callback, nobody would hear of it
            self.untold = error
            self.lost.set()


async def _listen(path: str, line: Line, args: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if args.find:
        found = await _find(path, stop)
        if found is None:
            return Exit.FAILED
        line = found
    ear = Ear(lambda at_s, part: _show(args, at_s, part))
    seconds = args.for_ns / 1e9 if args.for_ns is not None else None
    text = f"listening on {path}, {_words(line)}; Ctrl-C ends it"
    await _hear(path, line, ear, stop, seconds, opened=lambda: _say(args, text))
    ear.flush()
    if ear.untold is not None:
        raise ear.untold
    if ear.why:
        complain(ear.why)
    return _propose(args, path, line, ear)


async def _hear(
    path: str,
    line: Line,
    ear: Ear,
    stop: asyncio.Event,
    seconds: float | None,
    opened: Callable[[], None] = lambda: None,
) -> None:
    """Until told to stop, until the port goes, at most so long. Raises LinkError."""
    port = await open_port(path, Settings.of(line), ear.take, ear.end, OPEN_S)
    opened()
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, ear.lost)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await port.close(OPEN_S)


async def _find(path: str, stop: asyncio.Event) -> Line | None:
    """The usual settings, one after the other: the first that makes sense, else the least bad.

    None where there is none, which is told then.
    """
    best: tuple[float, Line] | None = None
    silent = True
    for baud, bits, parity in USUAL:
        line = Line(baud=baud, bits=bits, parity=parity)  # type: ignore[arg-type]
        ear = Ear(lambda _at_s, _part: None)
        await _hear(path, line, ear, stop, TRY_S)
        if stop.is_set():
            break
        heard = bytes(ear.heard)
        told = f", {ear.errors} with an error" if ear.errors else ""
        print(f"{_words(line)}: {len(heard)} bytes{told}", file=sys.stderr, flush=True)
        readable = guess(heard) is not None or bool(modbus_units(heard))
        if readable and ear.errors <= len(heard) // 10:
            return line
        silent = silent and not heard and not ear.errors
        score = _sense(bytes(ear.heard), ear.errors)
        if score > 0.5 and (best is None or score > best[0]):
            best = score, line
    if best is None:
        complain(f"{path}: {_NOTHING if silent else _NO_SETTING}")
    return best[1] if best is not None else None


def _sense(heard: bytes, errors: int) -> float:
    """How much of what was heard is text, 0 to 1."""
    text = sum(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in heard)
    return text / (len(heard) + 5 * errors) if heard else 0.0


def _propose(args: argparse.Namespace, path: str, line: Line, ear: Ear) -> int:
    heard = bytes(ear.heard)
    units = modbus_units(heard)
    made = None if units else guess(heard)
    if args.json:
        stanza = made.stanza("instrument", _stable(path), line) if made is not None else None
        told = {"bytes": len(heard), "line_errors": ear.errors, "stanza": stanza}
        show_json_line(told | {"modbus_units": sorted(units)})
        return Exit.DONE if made is not None else Exit.FAILED
    errors = f", {ear.errors} with a parity or framing error" if ear.errors else ""
    print(f"{len(heard)} bytes{errors}")
    if units:
        complain(_modbus_words(units, path, line))
        return Exit.FAILED
    if made is None:
        complain(_advice(heard, ear.errors))
        return Exit.FAILED
    _print_stanza(made, path, line)
    return Exit.DONE


def _print_stanza(made: Guess, path: str, line: Line) -> None:
    print(f"{plain(made.title)}: {made.frames} read. For a site file:\n")
    for row in made.stanza("instrument", _stable(path), line).splitlines():
        print(plain(row))


def _modbus_words(units: Mapping[int, int], path: str, line: Line) -> str:
    several = "s" if len(units) > 1 else ""
    named = ", ".join(map(str, sorted(units)))
    return (
        f"{sum(units.values())} Modbus RTU frames of unit{several} {named}: a master speaks here "
        f'already, and a line takes one alone. Without it: driver = "{SERIAL_DRIVER}", and '
        f"sitewarden scan 'rtu://{_stable(path)}?baud={line.baud}&parity={line.parity}'"
    )


def _advice(heard: bytes, errors: int) -> str:
    if not heard and not errors:
        return _NOTHING
    if errors or _sense(heard, errors) < 0.5:
        return "nothing that could be read: other settings of the line? --find tries the usual ones"
    return "nothing that could be read; listen for longer"


def _show(args: argparse.Namespace, at_s: float, part: bytes) -> None:
    if args.json:
        show_json_line({"at_s": round(at_s, 3), "text": _printable(part), "hex": part.hex(" ")})
        return
    print(f"{at_s:9.3f} s  {len(part):4}  {_printable(part)}")
    more = f" … {len(part) - SHOWN_BYTES} more" if len(part) > SHOWN_BYTES else ""
    print(f"{'':19}{part[:SHOWN_BYTES].hex(' ')}{more}", flush=True)


def _say(args: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def _printable(part: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in part[:256])


def _line_end(part: bytes) -> int:
    """Bytes of the first line, its delimiter included; 0 while it has no end."""
    ends = [part.find(delimiter) + len(delimiter) for delimiter in DELIMITERS[:2]
            if delimiter in part]  # fmt: skip
    return min(ends, default=0)


def _words(line: Line) -> str:
    return f"{line.baud} baud, {line.bits} bits, parity {line.parity}, {line.stop} stop"


def _stable(path: str) -> str:
    """The port's name by its adapter's serial number, where it has one."""
    with contextlib.suppress(OSError):
        real = os.path.realpath(path)
        for name in sorted(BY_ID.iterdir()):
            if os.path.realpath(name) == real:
                return str(name)
    return path


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError:
        msg = f'found "{text}", expected a duration such as "10s"'
        raise argparse.ArgumentTypeError(msg) from None
