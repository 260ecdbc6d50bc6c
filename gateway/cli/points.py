"""``read`` and ``watch``: points of a device, by a site file or by a bare address."""

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from drivers.errors import DriverError, PointError
from drivers.modbus_kinds import excluded_of
from drivers.points import ADDRESS_MAX, parse_point
from fastpath.codes import Quality
from gateway.cli.options import add_credentials, add_directories, add_json, paths_of
from gateway.cli.table import complain, plain, show_json, show_json_line, show_table
from gateway.commission.decodings import REGISTERS_MAX, columns_of, decoded, width_of
from gateway.commission.devices import Value, opened, read_once, said
from gateway.commission.target import EXAMPLE, Target, TargetPoint, target_of
from gateway.errors import ConfigError, GatewayError
from gateway.orders.outcome import Exit
from gateway.site.durations import parse_duration
from gateway.times import utc_words

if TYPE_CHECKING:
    from drivers.kind import Surroundings
    from gateway.commission.decodings import Value as Decoded

RETRY_S_MAX: Final = 5.0
PLAUSIBLE: Final = (1e-9, 1e12)  # what instruments measure lies between
EVERY_NS_MIN: Final = 50_000_000


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = f"read points now, by site file or address: {EXAMPLE}"
    parser = point_command(commands, "read", text, read)
    parser.add_argument(
        "points", nargs="*", metavar="POINT", help="a tag's id, hr:100-109, ir:0:float32"
    )
    parser.add_argument(
        "--as",
        dest="types",
        metavar="TYPES",
        help="decodings of points without a type, such as int32,float32:CDAB",
    )
    text = "show points whenever they change, with their rate, until Ctrl-C"
    parser = point_command(commands, "watch", text, watch)
    parser.add_argument("points", nargs="*", metavar="POINT")
    parser.add_argument(
        "--every", type=_period, default=1_000_000_000, metavar="TIME", help="default: 1s"
    )
    parser.add_argument("--for", dest="for_ns", type=_duration, metavar="TIME", help="end after it")


def point_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, run: Any
) -> argparse.ArgumentParser:
    """A command on a device, with the options that all of them have."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("device", metavar="DEVICE", help="a device of the site file, or an address")
    parser.add_argument("--site", type=Path, metavar="SITE.toml", help="the site file")
    add_json(parser)
    add_directories(parser)
    add_credentials(parser)
    parser.set_defaults(run=run)
    return parser


def surroundings_of(args: argparse.Namespace) -> "Surroundings":
    """What drivers find around themselves, by the options."""
    from gateway.build import surroundings

    given = args.credentials_dir or os.environ.get("CREDENTIALS_DIRECTORY")
    return surroundings(paths_of(args), Path(given) if given else None)


def pointed(args: argparse.Namespace, points: Sequence[str]) -> Target:
    """The target with at least one point. Raises ConfigError."""
    target = target_of(args.device, points, args.site)
    if not target.points:
        raise ConfigError(
            [f"{args.device}: found no point, expected one such as {_example(target)}"]
        )
    return target


def failed(target: Target, error: DriverError) -> GatewayError:
    """What a driver says of the device, as the command's failure."""
    return GatewayError(said(target, error))


def read(args: argparse.Namespace) -> int:
    """Read once; 1 where a point is BAD. Raises GatewayError where the device is away."""
    target = pointed(args, args.points)
    try:
        columns = columns_of(args.types)
    except PointError as error:
        raise ConfigError([f"--as: {error}"]) from None
    ahead = max(width_of(name) for name, _ in columns) - 1
    asked = _with_registers_behind(target, ahead)
    try:
        values = asyncio.run(read_once(asked, surroundings_of(args)))
    except DriverError as error:
        raise failed(target, error) from None
    rows = list(zip(target.points, values, strict=False))  # without those read along
    registers = _registers(asked, values)
    if args.json:
        show_json([_as_json(p, v, _decoded(p, registers, columns)) for p, v in rows])
    else:
        _show(target, rows, registers, columns)
    return Exit.FAILED if any(v.quality is Quality.BAD for _, v in rows) else Exit.DONE


def watch(args: argparse.Namespace) -> int:
    """Print changes until interrupted, or for ``--for``."""
    target = pointed(args, args.points)
    watching = Watching(target, as_json=args.json)
    with contextlib.suppress(TimeoutError):
        asyncio.run(_watch(watching, target, args, surroundings_of(args)))
    return Exit.DONE


class Watching:
    """What was printed last of each point."""

    def __init__(self, target: Target, *, as_json: bool) -> None:
        self._target = target
        self._as_json = as_json
        self._last: list[Value | None] = [None] * len(target.points)

    def take(self, values: Sequence[Value]) -> None:
        """One poll: a line for each point that is not what it was."""
        for i, (point, value) in enumerate(zip(self._target.points, values, strict=True)):
            last = self._last[i]
            if last is not None and _same(last, value):
                continue
            rate = _rate(last, value)
            self._last[i] = value
            if self._as_json:
                show_json_line(_as_json(point, value, None) | {"rate": rate})
                continue
            words = f"{value.words} {point.unit}".rstrip()
            change = "" if rate is None else f"  {rate:+.6g}/s"
            state = value.quality.name + (f" ({value.reason})" if value.reason else "")
            note = f"  {value.note}" if value.note else ""
            line = f"{utc_words(value.utc_ns)}  {point.label}  {words}  {state}{change}{note}"
            print(plain(line), flush=True)


async def _watch(
    watching: Watching, target: Target, args: argparse.Namespace, around: "Surroundings"
) -> None:
    async with asyncio.timeout(None) as end:  # counted from the first values
        async for values in _polls(target, args.every, around):
            watching.take(values)
            if args.for_ns and end.when() is None:
                end.reschedule(asyncio.get_running_loop().time() + args.for_ns / 1e9)


async def _polls(
    target: Target, every_ns: int, around: "Surroundings"
) -> AsyncIterator[list[Value]]:
    """Every poll, over reconnects; the first connect must succeed. Raises GatewayError."""
    loop = asyncio.get_running_loop()
    seen, retry_s = False, 0.5
    while True:
        try:
            async with opened(target, around) as device:
                due = loop.time()
                while True:
                    values = await device.read()
                    seen, retry_s = True, 0.5
                    yield values
                    due = max(due + every_ns / 1e9, loop.time())
                    await asyncio.sleep(due - loop.time())
        except DriverError as error:
            if not seen:
                raise failed(target, error) from None
            complain(f"{said(target, error)}; trying again")
        await asyncio.sleep(retry_s)
        retry_s = min(2 * retry_s, RETRY_S_MAX)


def _same(last: Value, value: Value) -> bool:
    equal = last.value == value.value or last.words == value.words
    return equal and (last.quality, last.reason) == (value.quality, value.reason)


def _rate(last: Value | None, value: Value) -> float | None:
    """Change per second since the value before, None where there is none."""
    if last is None or value.mono_ns <= last.mono_ns:
        return None
    change = (value.value - last.value) / ((value.mono_ns - last.mono_ns) / 1e9)
    return change if change == change else None


def _with_registers_behind(target: Target, ahead: int) -> Target:
    """The target with the registers that wider decodings of its last ones need."""
    raw = {p.point.address: p for p in target.points if p.raw}
    barred = excluded_of(target.device) if target.modbus else ()
    more: dict[str, TargetPoint] = {}
    for point in raw.values():
        area, number = _place(point)
        for address in (f"{area}:{number + i}" for i in range(1, ahead + 1)):
            if address not in raw and number + ahead <= ADDRESS_MAX:
                behind = structs.replace(point.point, address=address)
                at = parse_point(address, base=target.device.base)
                if any(each.holds(at) for each in barred):
                    break  # nor is what lies behind it read
                more[address] = TargetPoint(address, behind, raw=True)
    points = (*target.points, *more.values())
    return Target(target.name, target.device, points, target.site)


def _registers(target: Target, values: Sequence[Value]) -> dict[str, int]:
    """What raw registers hold, by address."""
    return {
        p.point.address: int(v.value)
        for p, v in zip(target.points, values, strict=True)
        if p.raw and v.quality is not Quality.BAD
    }


def _decoded(
    point: TargetPoint, registers: dict[str, int], columns: Sequence[tuple[str, str]]
) -> "dict[str, Decoded] | None":
    """A raw register in every decoding; None for a point that has its type."""
    if not point.raw:
        return None
    area, number = _place(point)
    found = {number + i: registers.get(f"{area}:{number + i}") for i in range(REGISTERS_MAX)}
    return decoded(found, number, columns)


def _place(point: TargetPoint) -> tuple[str, int]:
    """Area and number of a raw register, as people write it."""
    area, _, number = point.point.address.partition(":")
    return area, int(number)


def _show(
    target: Target,
    rows: Sequence[tuple[TargetPoint, Value]],
    registers: dict[str, int],
    columns: Sequence[tuple[str, str]],
) -> None:
    typed = [(p, v) for p, v in rows if not p.raw]
    raw = [(p, v) for p, v in rows if p.raw]
    if typed:
        headings = ("point", "value", "unit", "quality", "reason", "time", "note")
        cells = [
            (p.label, v.words, p.unit, v.quality.name, v.reason, utc_words(v.utc_ns), v.note)
            for p, v in typed
        ]
        show_table(target.name, headings, cells)
    if raw:
        names = [f"{name} {order}".strip() for name, order in columns]
        noted = any(v.note for _, v in raw)  # a column less, where a terminal has 80
        cells_raw = [
            (
                p.label,
                *map(_brief, (_decoded(p, registers, columns) or {}).values()),
                v.quality.name,
                *([v.note] if noted else []),
            )
            for p, v in raw
        ]
        notes = ("note",) if noted else ()
        show_table(target.name, ("point", *names, "quality", *notes), cells_raw)


def _brief(value: "Decoded") -> "Decoded":
    """A decoding that hardly can be the right one takes little room beside those that can."""
    if isinstance(value, float) and value and not PLAUSIBLE[0] <= abs(value) <= PLAUSIBLE[1]:
        return f"{value:.0e}"
    return value


def _as_json(
    point: TargetPoint, value: Value, decodings: "dict[str, Decoded] | None"
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "point": point.label,
        "value": value.value,
        "unit": point.unit,
        "quality": value.quality.name,
        "reason": value.reason,
        "time": utc_words(value.utc_ns),
        "note": value.note,
    }
    return found if decodings is None else found | {"decoded": decodings}


def _example(target: Target) -> str:
    return "hr:100:float32" if target.modbus else "ns=2;s=Level"


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError:
        expected = 'expected a duration such as "500ms"'
        msg = f'found "{text}", {expected}'
        raise argparse.ArgumentTypeError(msg) from None


def _period(text: str) -> int:
    found = _duration(text)
    if found < EVERY_NS_MIN:
        msg = f'found "{text}", expected 50ms or more'
        raise argparse.ArgumentTypeError(msg)
    return found
