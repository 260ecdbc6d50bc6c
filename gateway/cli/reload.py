"""``reload``: the site file anew, without a stop."""

import argparse
from pathlib import Path
from typing import Final

from gateway.cli.client import post
from gateway.cli.hands import command, outcome_of, tell
from gateway.cli.options import paths_of
from gateway.cli.table import complain
from gateway.orders.outcome import Exit

RELOAD_S: Final = 30.0  # a large site is checked for seconds


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "load the site file anew: whole, or not at all"
    parser = command(commands, "reload", text, reload)
    parser.add_argument("site", nargs="?", metavar="SITE.toml", help="default: the one that runs")
    parser.add_argument("--weakens", default="", metavar="REASON", help="why it may protect less")


def reload(args: argparse.Namespace) -> int:
    """Reload by the gateway."""
    site = str(Path(args.site).resolve()) if args.site else ""
    body = {"site": site, "reason": args.weakens}
    outcome = outcome_of(post(paths_of(args), "/reload", body, answer_s=RELOAD_S))
    if outcome.exit_code == Exit.USAGE and not args.json:
        complain(outcome.text)
        return Exit.USAGE
    return tell(args, outcome)
