"""A test leaves no task, thread, descriptor, process or shared file behind."""

import asyncio
import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Set
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from tests.helpers.opcua_server import OpcUaServer, opcua_server

LEAVE_WITHIN_S = 3.0  # threads and processes that were told to end may need a moment
MARK = f"SITEWARDEN_TEST_RUN={os.getpid()}.{time.monotonic_ns()}"


# How long an example takes says nothing on a machine that is busy.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    """Mark every process that comes from this run, whoever its parent is by then."""
    name, _, value = MARK.partition("=")
    os.environ[name] = value
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, or nohup
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or no child would hear Ctrl-C


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is still at one when the others have nothing left."""
    items.sort(key=_limit_s, reverse=True)


def _limit_s(item: pytest.Item) -> float:
    """What the test itself says that it may take; 0 where it says nothing."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark and mark.args else 0.0


def _descriptors() -> set[str]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{entry} -> {os.readlink(f'/proc/self/fd/{entry}')}")
        except OSError:  # the listing's own descriptor
            continue
    return found


def _threads() -> set[str]:
    return {f"{thread.name} ({thread.ident})" for thread in threading.enumerate()}


def _processes() -> set[str]:
    found = set()
    mark = MARK.encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if mark in Path(f"/proc/{entry}/environ").read_bytes():
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                found.add(f"{entry}: {command.decode(errors='replace')}")
        except OSError:  # it ended, or is not ours
            continue
    return found


def _shared_files() -> set[str]:
    ours = f"sitewarden-test-{os.getpid()}-"  # another run may be under way on this machine
    return {name for name in os.listdir("/dev/shm") if name.startswith(ours)}


WATCHED: dict[str, Callable[[], Set[str]]] = {
    "thread": _threads,
    "process": _processes,
    "descriptor": _descriptors,
    "file in /dev/shm": _shared_files,
}


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """Fail a test that leaves something behind, after everything else was torn down."""
    before = {kind: look() for kind, look in WATCHED.items()}
    yield
    deadline = time.monotonic() + LEAVE_WITHIN_S
    while True:
        left = {kind: sorted(look() - before[kind]) for kind, look in WATCHED.items()}
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            break
        gc.collect()
        time.sleep(0.02)
    pytest.fail("left behind: " + "; ".join(f"{k}: {v}" for k, v in left.items() if v))


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test whose loop still has tasks when its own fixtures are gone."""
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    if left:
        pytest.fail(f"tasks left behind: {left}")


@pytest.fixture(autouse=True)
def watch_tasks(request: pytest.FixtureRequest, no_leak: None) -> None:
    """Watch the tasks of coroutine tests only; others have no loop."""
    function = getattr(request.node, "obj", None)
    if inspect.iscoroutinefunction(inspect.unwrap(function) if function else None):
        request.getfixturevalue("no_task_left")


@pytest.fixture(scope="session")
def opcua_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpcUaServer]:
    """One OPC UA server for all tests that leave it as it was: it takes seconds to start."""
    with opcua_server(tmp_path_factory.mktemp("pki"), many=3_000) as running:
        yield running
