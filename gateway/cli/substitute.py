"""``substitute``: a value by hand in the place of a tag's readings, for a time; and end that."""

import argparse
import math
import sys

from gateway.cli.bypass import duration_ns_of
from gateway.cli.client import post
from gateway.cli.hands import command, outcome_of, tell
from gateway.cli.options import paths_of
from gateway.cli.table import complain, plain
from gateway.orders.outcome import Exit

_BOOLEANS = {"true": 1.0, "false": 0.0}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "give a tag a value by hand for a time (interlocks take it for bad), or end that"
    parser = command(commands, "substitute", text, substitute)
    parser.add_argument("id", metavar="TAG")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="a number, true or false")
    parser.add_argument("--for", dest="duration", metavar="1h", help="how long, at most 24h")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; needed to begin one")
    parser.add_argument("--end", action="store_true", help="end it now")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def substitute(args: argparse.Namespace) -> int:
    """Begin or end a substitution."""
    paths = paths_of(args)
    if args.end:
        if args.duration is not None or args.value is not None:
            complain("--end ends a substitution now: leave VALUE and --for out")
            return Exit.USAGE
        body = {"id": args.id, "end": True, "reason": args.reason}
        return tell(args, outcome_of(post(paths, "/substitute", body)))
    value = _value_of(args.value)
    if math.isnan(value):
        complain(f"VALUE: found {args.value or 'nothing'}, expected a number, true or false")
    duration_ns = duration_ns_of(args, "a substitution")
    if math.isnan(value) or duration_ns is None:
        return Exit.USAGE
    if not args.yes and not args.json and sys.stdin.isatty() and not _agreed(args):
        complain("nothing was done")
        return Exit.FAILED
    body = {"id": args.id, "value": value, "for_ns": duration_ns, "reason": args.reason}
    return tell(args, outcome_of(post(paths, "/substitute", body)))


def _value_of(text: str | None) -> float:
    """The number; NaN for what is none."""
    try:
        value = _BOOLEANS[text] if text in _BOOLEANS else float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _agreed(args: argparse.Namespace) -> bool:
    print("Alarms, pages and platforms will take it for the reading; interlocks for bad.")
    asked = f"Let {args.id} be {args.value} for {args.duration}? [y/N] "
    return input(plain(asked)).strip().lower() in ("y", "yes")
