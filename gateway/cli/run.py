"""``run``: the gateway of a site, in the foreground."""

import argparse
from pathlib import Path

from gateway.cli.logs import configure
from gateway.cli.options import add_credentials, add_directories
from gateway.cli.table import complain
from gateway.orders.outcome import Exit


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "run a site: the gateway here, the guard beside it"
    parser = commands.add_parser("run", help=text, description=text)
    parser.add_argument("site", type=Path, metavar="SITE.toml")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--attach", action="store_true", help="wait for a guard; never start or stop one"
    )
    how.add_argument(
        "--simulate",
        action="store_true",
        help="over simulated devices: opens no device, output or uplink of the site file",
    )
    parser.add_argument(
        "--uplinks", action="store_true", help="with --simulate: send, everything as an exercise"
    )
    parser.add_argument(
        "--guard-cpu", type=int, metavar="N", help="have the guard scan on this CPU alone"
    )
    parser.add_argument("--verbose", action="store_true", help="log every step")
    add_directories(parser)
    add_credentials(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM. Raises ConfigError for a site file that is refused."""
    from gateway.run import main

    if args.uplinks and not args.simulate:
        complain("--uplinks goes with --simulate")
        return Exit.USAGE
    configure(verbose=args.verbose, simulated=args.simulate)
    return main(
        args.site,
        runtime_dir=args.runtime_dir,
        state_dir=args.state_dir,
        credentials_dir=args.credentials_dir,
        attach=args.attach,
        simulate=args.simulate,
        uplinks=args.uplinks,
        guard_cpu=args.guard_cpu,
    )
