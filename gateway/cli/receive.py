"""``receive``: a small receiving platform over HTTP, for the demo, tests and first steps."""

import argparse
import asyncio
from pathlib import Path

from gateway.cli.logs import configure
from gateway.outcome import Exit


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "receive alerts and samples over HTTP and show what came"
    parser = commands.add_parser("receive", help=text, description=text)
    parser.add_argument(
        "--listen", default="127.0.0.1:9760", metavar="HOST:PORT", help="port 0: any free one"
    )
    parser.add_argument(
        "--store", type=Path, metavar="FILE", help="append what arrives to this file"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Receive until interrupted; prints one JSON line with the address first."""
    from gateway.uplink.receiver import receive

    def ready(url: str) -> None:
        print(f'{{"url": "{url}"}}', flush=True)

    configure()
    asyncio.run(receive(args.listen, store=args.store, on_ready=ready))
    return Exit.DONE
