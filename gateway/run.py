"""``sitewarden run`` as a process: what refuses it, its signals, its loop, its end."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.check import check_site
from gateway.daemon import TASKS_STOP_S, Daemon
from gateway.errors import ConfigError, GatewayError
from gateway.guard.process import guard_cpu_refusal
from gateway.life.descriptors import ExceptionLines
from gateway.life.memory import share_heap
from gateway.paths import SIMULATED, InstanceLock, paths_beside, prepare, site_paths
from gateway.plant.simulation import Simulation

_LOGGER = logging.getLogger(__name__)

THREADS_STOP_S: Final = 0.3
UMASK: Final = 0o027  # databases, programs and sockets are nobody else's business


def main(
    site: Path,
    *,
    runtime_dir: Path | None = None,
    state_dir: Path | None = None,
    credentials_dir: Path | None = None,
    attach: bool = False,
    simulate: bool = False,
    uplinks: bool = True,
    guard_cpu: int | None = None,
) -> int:
    """Run a site until SIGINT or SIGTERM; the exit code. Refusals go to stderr, a line each.

    ``simulate``: over simulated devices, in directories of its own; ``uplinks`` is asked for then.
    ``guard_cpu``: the CPU that a guard which is started here scans on.
    """
    if guard_cpu is not None and (wrong := guard_cpu_refusal(guard_cpu, attach=attach)):
        return _refused([f"sitewarden run: --guard-cpu: {wrong}"], 2)
    given = credentials_dir or os.environ.get("CREDENTIALS_DIRECTORY")
    credentials = Path(given) if given else None
    try:
        checked = check_site(site, credentials_dir=credentials, require_credentials=False)
    except ConfigError as error:
        return _refused(error.errors, 2)
    paths = site_paths(runtime_dir, state_dir)
    if simulate:
        paths = paths_beside(SIMULATED, runtime_dir, state_dir)
    os.umask(UMASK)
    share_heap()
    try:
        prepare(paths)
        lock = InstanceLock(paths).acquire()
    except GatewayError as error:
        return _refused([f"sitewarden: {error}"], 1)
    simulation = Simulation(paths, uplinks=uplinks) if simulate else None
    try:
        if simulation is not None:
            checked = simulation.begin(checked)
        elif paths.simulated:
            text = f"{paths.state} and {paths.runtime} are of simulated runs; name others"
            return _refused([f"sitewarden: {text}"], 1)
        daemon = Daemon(
            site,
            checked,
            paths,
            credentials,
            attach=attach,
            simulation=simulation,
            guard_cpu=guard_cpu,
        )
        code = _run_loop(_serve(daemon))
    except GatewayError as error:
        return _refused([f"sitewarden: {error}"], 1)
    finally:
        if simulation is not None:
            simulation.close()
        lock.release()
    _leave_threads(code)
    return code


async def _serve(daemon: Daemon) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(daemon.reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    starting = asyncio.create_task(daemon.start(), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    failure = starting.exception() if starting.done() else None
    if failure is None:
        await stopping
    for task in (starting, stopping):
        task.cancel()
    await asyncio.wait({starting, stopping}, timeout=TASKS_STOP_S)
    await daemon.stop(failed=failure is not None)
    if failure is None:
        return 0
    if not isinstance(failure, GatewayError):
        _LOGGER.error("the start failed", exc_info=failure)
    return _refused([f"sitewarden: {failure}"], 1)


def _run_loop(serving: Coroutine[Any, Any, int]) -> int:
    """As asyncio.run, but without waiting for threads that cannot be interrupted."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(ExceptionLines().handle)
    asyncio.set_event_loop(loop)
    try:
        code = loop.run_until_complete(serving)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=THREADS_STOP_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return code


def _leave_threads(code: int) -> None:
    """End the process past threads that hang in a name lookup or in a disk."""
    main_thread = threading.main_thread()
    for thread in threading.enumerate():
        if thread is main_thread or thread.daemon:
            continue
        thread.join(THREADS_STOP_S)
        if thread.is_alive():
            _LOGGER.warning("thread %s does not end; leaving without it", thread.name)
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _refused(lines: Sequence[str], code: int) -> int:
    for line in lines:
        sys.stderr.write(f"{line}\n")
    return code
