"""What several tests of the fast path use."""

from typing import Any

import pytest

from tests.helpers import inside as builder


@pytest.fixture(scope="session")
def inside() -> Any:
    """The scan thread's functions, callable from Python (tests/helpers/inside.pyx)."""
    return builder.load()
