"""``simulate``: drive a tag of a simulated run, or describe the devices of a site for a plant."""

import argparse
from pathlib import Path
from typing import Any

from gateway.cli.client import post
from gateway.cli.hands import outcome_of
from gateway.cli.options import add_directories, add_json
from gateway.cli.table import complain, data_output, plain, show_json
from gateway.orders.outcome import Exit
from gateway.paths import SIMULATED, paths_beside


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "drive a tag of 'run --simulate': to a value, bad, or its own way again"
    parser = commands.add_parser("simulate", help=text, description=text)
    parser.add_argument("tag", nargs="?", default="", metavar="TAG", help="none: who is driven")
    parser.add_argument(
        "value", nargs="?", type=_value, metavar="VALUE", help="a boolean is 0 or 1"
    )
    parser.add_argument("--ramp", metavar="30s", help="go there in so long, in a straight line")
    parser.add_argument("--bad", action="store_true", help="no value at all")
    parser.add_argument("--end", action="store_true", help="let it go its own way again")
    parser.add_argument(
        "--describe",
        type=Path,
        metavar="SITE.toml",
        help="print the site's devices for 'python -m drivers.sim plant'",
    )
    add_json(parser)
    add_directories(parser)
    parser.set_defaults(run=run)


def _value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        msg = f'found "{text}", expected a number (a boolean is 0 or 1)'
        raise argparse.ArgumentTypeError(msg) from None


def run(args: argparse.Namespace) -> int:
    """Drive, or describe."""
    if args.describe is not None:
        return _describe(args.describe)
    body = _body(args)
    if body is None:
        return Exit.USAGE
    paths = paths_beside(SIMULATED, args.runtime_dir, args.state_dir)
    outcome = outcome_of(post(paths, "/simulate", body))
    if args.json:
        show_json(outcome)
    elif outcome.exit_code == Exit.DONE:
        print(plain(outcome.text))
    else:
        complain(outcome.text)
    return outcome.exit_code


def _body(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the gateway is asked for; None, and said why, where that is nothing."""
    from gateway.site.durations import parse_duration

    ways = (args.value is not None) + args.bad + args.end
    if ways != bool(args.tag):
        complain("one of VALUE, --bad and --end goes with a TAG")
        return None
    over_s = 0.0
    if args.ramp is not None:
        try:
            over_s = parse_duration(args.ramp) / 1e9
        except ValueError:
            complain(f'found "{args.ramp}", expected a duration such as "30s"')
            return None
    return {
        "id": args.tag, "value": args.value, "over_s": over_s, "bad": args.bad, "end": args.end,
    }  # fmt: skip


def _describe(path: Path) -> int:
    """Raises ConfigError for a site file that is refused."""
    from gateway.check import check_site
    from gateway.plant.native import native_plant
    from gateway.plant.simulated_site import encoded

    checked = check_site(path, require_credentials=False)
    data_output().write(encoded(native_plant(checked.config)).decode())
    return Exit.DONE
