"""A release has nothing in it that is there for tests alone."""

import os
from pathlib import Path

import pytest

import fastpath.journal

MODULES = sorted(Path(fastpath.journal.__file__).parent.glob("*.so"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name.split(".")[0])
def test_no_failpoint_and_no_tracing(path: Path) -> None:
    data = path.read_bytes()
    there = b"SITEWARDEN_FAIL_AT" in data or b"sitewarden_failpoints" in data
    checked = os.environ.get("SITEWARDEN_CHECKED") == "1"
    assert there == (checked and path.name.startswith("journal")) or (checked and there)
    assert (b"__ubsan_handle" in data) == checked
