"""``bypass``: withhold an interlock's effects, or leave a tag out, for a time; and end that.

Its end strengthens, so it needs no gateway: where that does not answer in half a second, it goes
straight to the guard.
"""

import argparse
import sys
from typing import Any, Final

import msgspec

from gateway.cli.client import NotReached, get, post
from gateway.cli.hands import command, outcome_of, tell
from gateway.cli.options import paths_of
from gateway.cli.table import complain, plain
from gateway.errors import GatewayError
from gateway.orders.outcome import Exit
from gateway.paths import Paths
from gateway.view.shapes import InterlockRow

END_ANSWER_S: Final = 0.5


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "withhold an interlock's effects for a time (--tag: leave a tag out), or end that"
    parser = command(commands, "bypass", text, bypass)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--for", dest="duration", metavar="2h", help="how long, at most bypass_max")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; needed to begin one")
    parser.add_argument("--tag", action="store_true", help="ID is a tag: its comparisons abstain")
    parser.add_argument("--end", action="store_true", help="end it now")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def bypass(args: argparse.Namespace) -> int:
    """Begin or end a bypass."""
    paths = paths_of(args)
    if args.end:
        return _end(args, paths)
    duration_ns = duration_ns_of(args, "a bypass")
    if duration_ns is None:
        return Exit.USAGE
    if not args.yes and not args.json and sys.stdin.isatty() and not _agreed(args, paths):
        complain("nothing was done")
        return Exit.FAILED
    body = {"id": args.id, "for_ns": duration_ns, "reason": args.reason, "tag": args.tag}
    return tell(args, outcome_of(post(paths, "/bypass", body)))


def _end(args: argparse.Namespace, paths: Paths) -> int:
    from gateway.cli.offline import end_bypass_directly

    if args.duration is not None:
        complain("--end ends a bypass now: leave --for out")
        return Exit.USAGE
    body = {"id": args.id, "end": True, "reason": args.reason, "tag": args.tag}
    try:
        outcome = outcome_of(post(paths, "/bypass", body, answer_s=END_ANSWER_S))
        if outcome.exit_code != Exit.NOT_REACHED:
            return tell(args, outcome)
        why = outcome.text
    except GatewayError as error:
        why = str(error)
    complain(f"{why}; going straight to the guard")
    return tell(args, end_bypass_directly(paths, args.id, tag=args.tag))


def duration_ns_of(args: argparse.Namespace, what: str) -> int | None:
    """The time that is asked for; None where it or a reason is missing, which it says."""
    from gateway.site.durations import near_duration, parse_duration

    wrong = []
    duration_ns = 0
    if args.duration is None:
        wrong.append(f"{what} needs its time, such as --for 2h")
    else:
        try:
            duration_ns = int(parse_duration(args.duration))
        except ValueError:
            near = near_duration(args.duration)
            hint = f"; did you mean {near}?" if near else ""
            wrong.append(f'--for: found "{args.duration}", expected a time such as 2h{hint}')
        else:
            if duration_ns == 0:
                wrong.append("--for: found 0, expected a time such as 2h")
    if not args.reason.strip():
        wrong.append(f"{what} needs a reason, such as --reason 'changing the sensor'")
    for text in wrong:
        complain(text)
    return None if wrong else duration_ns


def _agreed(args: argparse.Namespace, paths: Paths) -> bool:
    """Show what will be missing, and ask."""
    print(plain(_at_stake(args, paths)))
    answer = input(f"Bypass {plain(args.id)} for {plain(args.duration)}? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _at_stake(args: argparse.Namespace, paths: Paths) -> str:
    if args.tag:
        return f"Every comparison on {args.id} will abstain, in every interlock that reads it."
    try:
        rows = msgspec.json.decode(get(paths, "/interlocks"), type=list[InterlockRow])
    except NotReached:
        raise
    except GatewayError as error:
        return str(error)
    for row in rows:
        if row.id == args.id:
            return f"{row.id} is {row.state}; while it is bypassed nothing is tripped by it."
    known: Any = ", ".join(row.id for row in rows)
    return f"there is no interlock {args.id}; there are: {known}"
