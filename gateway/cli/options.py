"""Options that many commands share."""

import argparse
from pathlib import Path

from gateway.paths import Paths, site_paths


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")


def add_directories(parser: argparse.ArgumentParser) -> None:
    """``--runtime-dir`` and ``--state-dir``: which site, where several run."""
    parser.add_argument(
        "--runtime-dir", type=Path, metavar="DIR", help="where guard.shm and the sockets are"
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="where ledger, history and programs are"
    )


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """``--credentials-dir``."""
    parser.add_argument(
        "--credentials-dir",
        type=Path,
        metavar="DIR",
        help="where credentials lie by name (default: $CREDENTIALS_DIRECTORY)",
    )


def paths_of(args: argparse.Namespace) -> Paths:
    """The site's paths that the options name."""
    return site_paths(args.runtime_dir, args.state_dir)
