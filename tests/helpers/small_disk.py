"""A disk of a few MiB: a tmpfs of its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount: Path, size_kib: int, *options: str) -> Iterator[Path]:
    """Mounted at ``mount``, with ``options``; skips the test, visibly, where that is refused."""
    mount.mkdir(exist_ok=True)
    chosen = ",".join((f"size={size_kib}k", *options))
    command = ["mount", "-t", "tmpfs", "-o", chosen, "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
