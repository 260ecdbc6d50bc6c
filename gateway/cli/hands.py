"""``trip``, ``reset``, ``release``, ``drill``, ``stop``: the operator's hands, through the gateway.

Trip alone does not need it: where the gateway does not answer in half a second, it goes straight to
the guard.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.cli.client import NotReached, post, process_runs
from gateway.cli.options import add_directories, add_json, paths_of
from gateway.cli.table import complain, plain, show_json
from gateway.errors import GatewayError
from gateway.orders.outcome import Exit, Outcome
from gateway.paths import Paths

TRIP_ANSWER_S: Final = 0.5
STOP_S: Final = 15.0
LOOK_S: Final = 0.05


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    parser = command(commands, "trip", "trip an interlock now", trip)
    parser.add_argument("id", metavar="INTERLOCK")
    parser.add_argument("--reason", default="", metavar="TEXT")

    parser = command(commands, "reset", "reset an interlock whose cause has gone", reset)
    parser.add_argument("id", metavar="INTERLOCK")
    parser.add_argument(
        "--generation", type=int, metavar="N", help="the latch that was looked at (default: now's)"
    )
    parser.add_argument("--reason", default="", metavar="TEXT")

    text = "let a held output go to its normal value; silence a siren"
    parser = command(commands, "release", text, release)
    parser.add_argument("id", metavar="OUTPUT")
    parser.add_argument("--reason", default="", metavar="TEXT")

    text = "prove an interlock: trip it on purpose, measure its outputs, keep the result"
    parser = command(commands, "drill", text, drill)
    parser.add_argument("id", metavar="INTERLOCK")
    parser.add_argument("--reason", default="", metavar="TEXT")

    text = "end the gateway and its guard; with --guard end protection on purpose"
    parser = command(commands, "stop", text, stop)
    parser.add_argument("--guard", metavar="REASON", help="trip the outputs, then end the guard")


def trip(args: argparse.Namespace) -> int:
    """Trip by the gateway, or straight by the guard."""
    from gateway.cli.offline import generation_of, trip_directly

    paths = paths_of(args)
    before = generation_of(paths, args.id)
    body = {"id": args.id, "reason": args.reason}
    try:
        outcome = outcome_of(post(paths, "/trip", body, answer_s=TRIP_ANSWER_S))
        if outcome.exit_code != Exit.NOT_REACHED:
            return tell(args, outcome)
        why = outcome.text
    except GatewayError as error:
        why = str(error)
    complain(f"{why}; going straight to the guard")
    return tell(args, trip_directly(paths, args.id, before))


def reset(args: argparse.Namespace) -> int:
    """Reset; says which latch was seen."""
    body: dict[str, Any] = {"id": args.id, "reason": args.reason}
    if args.generation is not None:
        body["generation"] = args.generation
    outcome = outcome_of(post(paths_of(args), "/reset", body))
    seen = outcome.details.get("seen")
    if seen and not args.json:
        print(plain(f"saw {args.id} {seen['state']}, generation {seen['generation']}"))
    return tell(args, outcome)


def release(args: argparse.Namespace) -> int:
    """Release a held output."""
    body = {"id": args.id, "reason": args.reason}
    return tell(args, outcome_of(post(paths_of(args), "/release", body)))


def drill(args: argparse.Namespace) -> int:
    """Carry out a proof test."""
    body = {"id": args.id, "reason": args.reason}
    return tell(args, outcome_of(post(paths_of(args), "/drill", body)))


def stop(args: argparse.Namespace) -> int:
    """End the guard for a reason, or the gateway with the guard that it keeps."""
    paths = paths_of(args)
    if args.guard is not None:
        if not args.guard.strip():
            complain("stop --guard needs a reason, such as --guard 'valve replacement'")
            return Exit.USAGE
        return tell(args, outcome_of(post(paths, "/stop", {"guard": True, "reason": args.guard})))
    outcome = outcome_of(post(paths, "/stop", {}))
    return tell(args, _ended(paths, int(outcome.details["pid"])))


def _ended(paths: Paths, pid: int) -> Outcome:
    """Wait until the gateway has gone, and say what became of the guard."""
    deadline = time.monotonic() + STOP_S
    while process_runs(pid):
        if time.monotonic() > deadline:
            text = f"the gateway (pid {pid}) has not ended within {STOP_S:g} s"
            return Outcome(exit_code=Exit.UNCONFIRMED, code=0, text=text, details={"pid": pid})
        time.sleep(LOOK_S)
    guard = _guard_alive(paths)
    words = {True: "the guard runs on and protects", False: "the guard has ended"}
    text = f"the gateway (pid {pid}) has ended; {words[guard]}"
    details = {"pid": pid, "guard_alive": guard}
    return Outcome(exit_code=Exit.DONE, code=0, text=text, confirmed=True, details=details)


def _guard_alive(paths: Paths) -> bool:
    from gateway.cli.offline import guard_view

    try:
        with guard_view(paths) as view:
            return view.guard_alive()
    except NotReached:
        return False


def command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add one command with the options that all of them take."""
    parser = commands.add_parser(name, help=text, description=text)
    add_json(parser)
    add_directories(parser)
    parser.set_defaults(run=run)
    return parser


def outcome_of(answer: bytes) -> Outcome:
    """What the gateway says became of a command."""
    return msgspec.json.decode(answer, type=Outcome)


def tell(args: argparse.Namespace, outcome: Outcome) -> int:
    """Say what became of it: on stdout where it is done, else on stderr with the code."""
    if args.json:
        show_json(outcome)
    elif outcome.exit_code == Exit.DONE:
        print(plain(outcome.text))
    elif outcome.exit_code == Exit.REFUSED:
        complain(f"refused by the guard (code {outcome.code}): {outcome.text}")
    else:
        complain(outcome.text)
    return outcome.exit_code
