"""Starts the gateway with a hog on its interpreter's lock and a busy event loop.

``python -m tests.helpers.launcher --report FILE [--hold-ms 60 ...] -- run SITE.toml ...``
The product has no switch for this: the launcher arranges it all, then calls the product's main().
"""

import argparse
import sys
from pathlib import Path

from tests.helpers.hog import Recorder, hold_lock, keep_loops_busy


def main() -> None:
    """Arrange the hogs, then be the gateway."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--hold-ms", type=float, default=60.0)
    parser.add_argument("--hold-gap-ms", type=float, default=20.0)
    parser.add_argument("--hold-from", type=Path, help="the lock is held once this file is there")
    parser.add_argument("--busy-ms", type=float, default=20.0)
    parser.add_argument("--busy-gap-ms", type=float, default=2.0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    recorder = Recorder(options.report)
    if options.busy_ms:
        keep_loops_busy(recorder, options.busy_ms, options.busy_gap_ms)
    if options.hold_ms:
        hold_lock(recorder, options.hold_ms, options.hold_gap_ms, options.hold_from)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    sys.argv = ["sitewarden", *command]
    from gateway.__main__ import main as product  # after the hogs, as the product would start

    sys.exit(product())


if __name__ == "__main__":
    main()
