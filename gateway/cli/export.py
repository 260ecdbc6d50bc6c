"""``export``: samples of the history as CSV or NDJSON, with the gateway running or not."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from gateway.cli.options import add_directories, paths_of
from gateway.cli.table import complain, data_output
from gateway.errors import ConfigError, GatewayError
from gateway.orders.outcome import Exit

if TYPE_CHECKING:
    from gateway.store.history_file import Group, HistoryFile

ALWAYS_NS: Final = 2**63 - 1

Advance = Callable[[int], object]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "samples of the history as CSV or NDJSON, with the gateway running or not"
    parser = commands.add_parser(
        "export",
        help=text,
        description=f"{text}. A tag's rows rise in time; tags of one device and period come "
        "together. Times are UTC.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="[SITE.toml] TAG",
        help="tags, none: all; a site file before them names the units",
    )  # fmt: skip
    for option, dest, default_ns in (("--from", "t0_ns", 0), ("--to", "t1_ns", ALWAYS_NS)):
        parser.add_argument(
            option, dest=dest, type=_moment, default=default_ns, metavar="TIME",
            help="2026-11-22T14:00:00Z, 2026-11-22, or 24h (so long ago)",
        )  # fmt: skip
    parser.add_argument("--format", choices=("csv", "ndjson"), default="csv", help="default: csv")
    parser.add_argument(
        "--resolution", choices=("raw", "5m"), default="raw",
        help="5m: n, bad, min, mean, max and last of every five minutes, for a year; a tag has one "
        "row of each, also where the clock was set back (default: raw)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="into this file, replaced when it is whole"
    )
    add_directories(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: all of it; 1: nothing, or something could not be read (the rest was written)."""
    from gateway.store.five_minutes import summaries, together
    from gateway.store.history_file import HistoryFile
    from gateway.view.export_rows import HEADINGS, SUMMARY_HEADINGS, Rows

    names: list[str] = args.names
    units: dict[str, str] = {}
    if names and names[0].endswith(".toml"):
        units = _units(Path(names.pop(0)))
    t0_ns, t1_ns = args.t0_ns, args.t1_ns
    if t0_ns > t1_ns:
        raise ConfigError(["--from is later than --to: there is nothing between them"])
    with HistoryFile(paths_of(args).history) as history:
        groups = _groups(history, names)
        rows = Rows(args.format, units)
        wanted = frozenset(names)
        total = sum(history.count(group, t0_ns, t1_ns) for group in groups)
        with _output(args.output) as out, _progress(total) as advance:
            raw = args.resolution == "raw"
            out.write(rows.begin(HEADINGS if raw else SUMMARY_HEADINGS))
            if raw:
                for group in groups:
                    own = wanted.intersection(group.tags) or frozenset(group.tags)
                    for part in history.samples(group, own, t0_ns, t1_ns):
                        out.write(rows.text(part))
                        advance(len(part))
            else:
                wanted = wanted or frozenset(tag for group in groups for tag in group.tags)
                for some in together(groups, wanted):
                    for found, count in summaries(history, some, wanted, t0_ns, t1_ns):
                        out.write(rows.summaries(found))
                        advance(count)
        if history.damaged:
            complain(f"{history.damaged} samples are damaged and were left out")
            return Exit.FAILED
    return Exit.DONE


def _groups(history: "HistoryFile", names: list[str]) -> "list[Group]":
    """Those that have one of the tags. Raises GatewayError for a tag that was never stored."""
    from gateway.guard.program_text import near_names

    groups = history.groups()
    known = {tag for group in groups for tag in group.tags}
    for name in names:
        if name not in known:
            near = near_names(name, tuple(known))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            msg = f"the history has no tag {name}{hint}"
            raise GatewayError(msg)
    return [group for group in groups if not names or not set(names).isdisjoint(group.tags)]


def _units(path: Path) -> dict[str, str]:
    """Of the tags of a site file. Raises ConfigError."""
    from gateway.site.load import load_site

    config, errors, _ = load_site(path)
    if config is None:
        raise ConfigError(errors)
    return {tag.id: tag.unit for tag in config.tag if tag.unit}


def _moment(text: str) -> int:
    """UTC ns, for argparse."""
    from gateway.times import utc_ns_of

    try:
        return utc_ns_of(text, time.time_ns())
    except ValueError:
        msg = f'found "{text}", expected a time such as 2026-11-22T14:00:00Z, or 24h'
        raise argparse.ArgumentTypeError(msg) from None


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that has its name when it is whole. Raises GatewayError."""
    if path is None:
        yield data_output()
        return
    if not path.name or path.is_dir():
        msg = f"{path}: is a directory, expected a file"
        raise GatewayError(msg)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise GatewayError(msg) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns: list[Any] = [BarColumn(), MofNCompleteColumn(), "samples", TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)
