"""``check``: is a site file fit to run, and what it will protect; every error at once."""

import argparse
import os
import sys
from pathlib import Path

import msgspec

from gateway.cli.options import add_credentials, add_json
from gateway.cli.table import plain, show_json
from gateway.errors import ConfigError
from gateway.orders.outcome import Exit


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "check a site file: a summary with its response times, or every error"
    parser = commands.add_parser("check", help=text, description=text)
    parser.add_argument("site", type=Path, metavar="SITE.toml")
    add_json(parser)
    add_credentials(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print OK with the summary, or every error on stderr and 2."""
    from gateway.check import check_site

    given = args.credentials_dir or os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        checked = check_site(args.site, credentials_dir=Path(given) if given else None)
    except ConfigError as error:
        if args.json:
            show_json({"ok": False, "errors": error.errors, "warnings": [], "summary": None})
        else:
            print("\n".join(plain(line) for line in error.errors), file=sys.stderr)
        return Exit.USAGE
    if args.json:
        summary = msgspec.to_builtins(checked.summary)
        warnings = list(checked.warnings)
        show_json({"ok": True, "errors": [], "warnings": warnings, "summary": summary})
        return Exit.DONE
    count = len(checked.warnings)
    print(f"OK {plain(str(args.site))}" + (f", {count} warning(s)" if count else ""))
    for line in [*checked.warnings, *checked.summary.text().splitlines()]:
        print(plain(line))
    return Exit.DONE
