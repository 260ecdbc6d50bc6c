"""Programs of the system that tests use as peers."""

import os
import shutil

import pytest


def find(name: str) -> str:
    """Path of a program; skips the test, visibly, on a machine that does not have it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
