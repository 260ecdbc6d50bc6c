"""What several tests of the fast path use."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.helpers import inside as builder
from tests.helpers.device import Device, serving
from tests.helpers.guard import GuardProcess, directories
from tests.helpers.guarding import methane


@pytest.fixture(scope="session")
def inside() -> Any:
    """The scan thread's functions, callable from Python (tests/helpers/inside.pyx)."""
    return builder.load()


@pytest.fixture(scope="session")
def stepping() -> Any:
    """The guard without its loop: one scan at a time (tests/helpers/stepper.pyx)."""
    return builder.load("stepper")


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Device]:
    """The mine's device in the test's own loop."""
    async with serving() as plant:
        methane(plant, 0.4, 0.4, 0.4)
        yield plant


@pytest_asyncio.fixture
async def guard() -> AsyncIterator[GuardProcess]:
    """A guard that is not started yet."""
    with directories() as (runtime, state):
        process = GuardProcess(runtime, state)
        try:
            yield process
        finally:
            await process.close()
