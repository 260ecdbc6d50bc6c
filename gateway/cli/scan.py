"""``scan``: which units answer at an address, what of them can be read. Reads only, politely."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from drivers.errors import DriverError
from drivers.modbus_kinds import RTU_UNIT_MAX, dial_of
from drivers.points import ADDRESS_MAX, Area
from gateway.cli.options import paths_of
from gateway.cli.points import point_command, surroundings_of
from gateway.cli.running_sites import owners, running_sites
from gateway.cli.table import complain, plain, show_json, show_table
from gateway.commission.devices import said
from gateway.commission.hints import nobody
from gateway.commission.scan import Scan
from gateway.commission.stanza import scanned, site_text, tag_tables
from gateway.commission.tag_table import write_table
from gateway.commission.target import target_of
from gateway.errors import ConfigError, GatewayError
from gateway.orders.outcome import Exit
from gateway.site.tags_csv import HEADINGS

if TYPE_CHECKING:
    from gateway.cli.running_sites import RunningSite
    from gateway.commission.target import Target

UNIT_MAX: Final = 255
UNITS: Final = "1-20"
ADDRESSES: Final = "0-999"
ALIKE: Final = 0.9  # of the values that are not zero
TELL_EVERY: Final = 25  # requests, where nobody watches


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "find units and what can be read of them; reads only, five requests a second"
    parser = point_command(commands, "scan", text, scan)
    text = f"default: {UNITS}, or the one of the address"
    parser.add_argument("--units", metavar="1-20,255", help=text)
    parser.add_argument(
        "--registers",
        nargs="?",
        const=ADDRESSES,
        metavar="0-999",
        help=f"look for readable addresses too, zero-based (without a range: {ADDRESSES})",
    )
    parser.add_argument(
        "--tables", default="hr,ir,c,di", metavar="hr,ir,c,di", help="where to look for them"
    )
    add_emit(parser, "what was found as tables of a site file")
    parser.add_argument("--yes", action="store_true", help="ask nothing")


def add_emit(parser: argparse.ArgumentParser, text: str) -> None:
    """``--emit [FILE]``."""
    parser.add_argument(
        "--emit", nargs="?", const="-", metavar="FILE", help=f"{text}, into a new file or to stdout"
    )


def scan(args: argparse.Namespace) -> int:
    """Scan; 1 where nothing answered. Raises GatewayError where the address is away."""
    target = target_of(args.device, [], args.site)
    if not target.modbus:
        driver = target.device.driver
        text = f"{args.device}: found {driver}, expected a Modbus device (browse shows OPC UA)"
        raise ConfigError([text])
    if target.points:
        text = f"found the point {target.points[0].label}, expected an address alone"
        raise ConfigError([f"{args.device}: {text}; --registers says where to look"])
    own = str(target.device.unit) if target.unit_named else UNITS
    serial = target.device.driver not in ("modbus-tcp", "modbus-tls")  # 0 is everybody there
    bounds = (1, RTU_UNIT_MAX) if serial else (0, UNIT_MAX)
    units = numbers_of("--units", args.units or own, *bounds)
    areas = _areas(args.tables) if args.registers else []
    first, last = _range("--registers", args.registers or ADDRESSES, 0, ADDRESS_MAX)
    if areas and target.device.exclude:
        barred = ", ".join(target.device.exclude)
        text = f"the site file excludes {barred} from every read, and a scan reads everything"
        raise ConfigError([f"{args.device}: {text}: give its bare address if that is meant"])
    new_file(args.emit)
    if not _allowed(args, target):
        return Exit.USAGE
    dial = dial_of(target.device.driver, target.device, surroundings_of(args))
    scanning = Scan(dial, target.device.timeout / 1e9, _Progress().tell)
    code = Exit.DONE
    trouble = None
    try:
        asyncio.run(scanning.run(units, areas, first, last))
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
        complain(f"interrupted while {scanning.doing}; this is what was found until then")
    except DriverError as error:
        trouble = GatewayError(said(target, error))
        if not scanning.found:
            raise trouble from None
        complain(f"{trouble}; this is what was found until then")
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    _show(args, target, scanning)
    if code == Exit.DONE and not scanning.found:
        told = (f"{target.device.address}: nothing answered", nobody(target))
        complain("; ".join(part for part in told if part))
    if trouble is not None or (code == Exit.DONE and not scanning.found):
        return Exit.FAILED
    return code


def numbers_of(option: str, text: str, least: int, most: int) -> list[int]:
    """``1-20,255`` in order, each once. Raises ConfigError."""
    found: dict[int, None] = {}
    for part in text.split(","):
        first, last = _range(option, part, least, most)
        found |= dict.fromkeys(range(first, last + 1))
    return list(found)


def new_file(emit: str | None) -> None:
    """Raises ConfigError where ``--emit`` names a file that is there, or that cannot be made.

    It is asked for before a scan of minutes, not after it.
    """
    if emit is None or emit == "-":
        return
    there = [path for path in (Path(emit), tags_beside(emit)) if path.exists()]
    if there:
        raise ConfigError([f"--emit: {there[0]} is there already, expected a new file"])
    folder = Path(emit).absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        why = "cannot be written to" if folder.is_dir() else "is no directory"
        raise ConfigError([f"--emit: found {emit}, but {folder} {why}"])


def tags_beside(emit: str) -> Path:
    """The CSV of the tags of a new site file."""
    path = Path(emit)
    return path.with_name(f"{path.stem}-tags.csv")


def emitted(emit: str, devices: str, rows: list[dict[str, str]]) -> None:
    """Tables to stdout, or a new site file with the CSV of its tags. Raises GatewayError."""
    if emit == "-":
        print(f"{devices}\n{tag_tables(rows)}")
        return
    tags = tags_beside(emit)
    try:
        with tags.open("xb") as file:
            file.write(write_table(rows, tuple(HEADINGS), chinese=False))
        with Path(emit).open("x", encoding="utf-8") as text:
            text.write(site_text(emit, tags.name, devices))
    except OSError as error:
        msg = f"{error.filename} cannot be written: {error.strerror}"
        raise GatewayError(msg) from error
    print(plain(f"written to {emit} and {tags}; look with: sitewarden check {emit}"))


class _Progress:
    """One line that changes for people, one now and then for logs."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()

    def tell(self, scanning: Scan) -> None:
        """Before each request."""
        units = len(scanning.found)
        text = f"{scanning.doing}; {units} found, {scanning.requests} requests"
        if self._watched:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif scanning.requests % TELL_EVERY == 0:
            print(text, file=sys.stderr, flush=True)


def _allowed(args: argparse.Namespace, target: "Target") -> bool:
    """Whether it may be done: somebody is asked where a running site has a device there."""
    sites = running_sites(paths_of(args))
    own = owners(target.device.address, sites)
    unknown = [site for site in sites if site.holdings is None]
    if args.yes or not (own or unknown):
        return True
    text = " and ".join(f"{target.device.address} {_polled_by(site)}" for site in own or unknown)
    if not sys.stdin.isatty():
        complain(f"not scanned: {text}; say --yes if it is meant")
        return False
    try:
        return input(plain(f"{text}. Scan it besides? [y/N] ")).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _polled_by(site: "RunningSite") -> str:
    if site.holdings is None:
        return f"may belong to the guard in {site.paths.runtime}: {site.why}"
    return f"belongs to the running site {site.name}, which polls it"


def _show(args: argparse.Namespace, target: "Target", scanning: Scan) -> None:
    if args.json:
        show_json([_as_json(one) for one in scanning.found])
    elif args.emit != "-":
        rows: list[tuple[object, ...]] = []
        for one in scanning.found:
            notes = "; ".join(one.notes)
            places: list[tuple[object, ...]] = [
                (f"{b.area.value}:{b.first}-{b.last}", len(b.values), b.used) for b in one.blocks
            ]
            first, *rest = places or [(None, None, None)]
            rows.append((one.unit, one.said, *first, notes))
            rows += [("", "", *place, "") for place in rest]
        headings = ("unit", "answer", "readable", "count", "not zero", "notes")
        show_table(f"units at {target.device.address}", headings, rows)
        if len(scanning.found) > 1 and _alike(scanning):
            print("note: all of them hold the same: this device may not look at the unit")
    if args.emit and scanning.found:
        device = structs.replace(target.device, id="unit-1")
        emitted(args.emit, *scanned(device, scanning.found))


def _alike(scanning: Scan) -> bool:
    """Whether every unit holds what the first one does, but for values that live.

    Equal devices on one line have the same registers; they do not hold the same in them.
    """
    seen = [
        {(block.area, block.first + i): value
         for block in one.blocks for i, value in enumerate(block.values)}
        for one in scanning.found
    ]  # fmt: skip
    first = seen[0]
    used = [place for place, value in first.items() if value]
    return bool(used) and all(
        one.keys() == first.keys()
        and sum(one[place] == first[place] for place in used) >= ALIKE * len(used)
        for one in seen[1:]
    )


def _as_json(found: Any) -> dict[str, Any]:
    return {
        "unit": found.unit,
        "answer": found.said,
        "blocks": [
            {"area": b.area.value, "first": b.first, "last": b.last, "values": b.values}
            for b in found.blocks
        ],
        "notes": found.notes,
    }


def _areas(text: str) -> list[Area]:
    try:
        return [Area(word.strip()) for word in text.split(",")]
    except ValueError:
        raise ConfigError([f'--tables: found "{text}", expected some of hr,ir,c,di']) from None


def _range(option: str, text: str, least: int, most: int) -> tuple[int, int]:
    first, dash, last = text.strip().partition("-")
    try:
        found = int(first), int(last if dash else first)
    except ValueError:
        found = (1, 0)
    if not least <= found[0] <= found[1] <= most:
        expected = f"expected numbers from {least} to {most} such as 1-20"
        raise ConfigError([f'{option}: found "{text}", {expected}'])
    return found
