"""The guard as a process: its command line, and the hold on the one that runs."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastpath.cpus import cpu_refusal
from gateway.life.descriptors import SPARE_ONES
from gateway.life.sd_notify import VARIABLES as NOTIFY_VARIABLES

if TYPE_CHECKING:
    from gateway.paths import Paths

GUARD_MODULE: Final = "fastpath.guard"
_SIMULATED_GUARD: Final = f"""import logging, sys
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="SIMULATED guard: %(message)s")
from {GUARD_MODULE} import main
sys.exit(main())"""


class GuardProcess:
    """One guard, held by a pidfd: a pid that another process has taken since is never signalled.

    ``child`` where this process started it: then its exit status is known, too.
    """

    def __init__(self, pid: int, child: "subprocess.Popen[bytes] | None" = None) -> None:
        """Raises OSError where the process is gone."""
        self.pid: Final = pid
        self.child: Final = child
        with SPARE_ONES.lent():
            self._handle = os.pidfd_open(pid)

    @classmethod
    def start(cls, command: Sequence[str]) -> "GuardProcess":
        """A new guard in a session of its own: it outlives this process. Raises OSError."""
        # What the service manager gave is this process's own, not the guard's.
        environment = {k: v for k, v in os.environ.items() if k not in NOTIFY_VARIABLES}
        with SPARE_ONES.lent():
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            try:
                return cls(child.pid, child)
            except OSError:  # it cannot be held: nobody would know how it ends
                child.kill()
                child.wait()
                raise

    def send(self, number: signal.Signals) -> None:
        """Raises OSError: it has ended (ProcessLookupError), or it is another user's."""
        signal.pidfd_send_signal(self._handle, number)

    async def ended(self, wait_s: float) -> bool:
        """True as soon as the process has ended, False after ``wait_s``."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._handle, readable.set)
        try:
            async with asyncio.timeout(wait_s):
                await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._handle)
        if self.child is not None:
            self.child.wait()  # it has ended: takes its exit status, does not block
        return True

    @property
    def exit_status(self) -> int | None:
        """As subprocess gives it; None while it runs, and of one that another process started."""
        return self.child.poll() if self.child is not None else None

    def let_go(self) -> None:
        """Close the hold; the process goes on."""
        os.close(self._handle)
        if self.child is not None:
            self.child.poll()


def guard_cpu_refusal(cpu: int, *, attach: bool) -> str:
    """Why no guard that is started here can scan on this CPU; empty where it can."""
    if attach:
        return "with --attach the guard is another unit's: give its own command line --cpu"
    return cpu_refusal(cpu)


def guard_command(paths: "Paths", cpu: int | None = None) -> list[str]:
    """The guard's command line for a site; ``cpu``: what it scans on, None: any."""
    bound = [] if cpu is None else ["--cpu", str(cpu)]
    return [
        sys.executable,
        "-m",
        GUARD_MODULE,
        "--runtime-dir",
        os.fspath(paths.runtime),
        "--state-dir",
        os.fspath(paths.state),
        *bound,
    ]


def simulated_guard_command(paths: "Paths", cpu: int | None = None) -> list[str]:
    """The same for a simulated run: each line of its log says so."""
    command = guard_command(paths, cpu)
    return [command[0], "-c", _SIMULATED_GUARD, *command[3:]]


def is_guard(pid: int) -> bool:
    """Whether a process is a guard, not one that took an earlier guard's pid."""
    try:
        with SPARE_ONES.lent():
            return GUARD_MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
