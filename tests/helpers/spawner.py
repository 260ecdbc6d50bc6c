"""Gateways by the dozen: a process that has everything imported and is forked for each of them.

What is killed is a whole process of its own; only the second that its imports take is saved.
``python -m tests.helpers.spawner`` reads a JSON list per line, the log's path and the words of the
command line, and answers with the pid.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent.parent
LOOK_S = 0.002
CARELESS = "--careless"  # never sync: what a test of durability must notice


def main() -> None:
    """Serve until standard input ends."""
    from gateway.__main__ import main as product
    from gateway.cli import logs
    from gateway.run import main as _run
    from gateway.store import sqlite_file
    from gateway.view import server

    del logs, _run, server  # imported for the children
    if CARELESS in sys.argv:
        pragmas = sqlite_file._PRAGMAS.replace("synchronous=FULL", "synchronous=OFF")
        vars(sqlite_file)["_PRAGMAS"] = pragmas
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to come for them
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        log, *words = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be(product, log, words)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _be(product: object, log: str, words: list[str]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for fd, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(fd, target)
        os.close(null)
        os.close(out)
        assert callable(product)
        code = product(words)
    finally:
        os._exit(code)


class Life:
    """A gateway that was forked; as much of a process as ``Site`` asks of one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """None while it lives; its code is not kept."""
        # A thread of it may still be on its way out of a sync while the first has ended already.
        return None if Path(f"/proc/{self.pid}").exists() else 0

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Until it has ended."""
        while self.returncode is None:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(LOOK_S)
        return 0


class Spawner:
    """The process; an async context manager. ``environment`` is beside this one's own."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, careless: bool = False
    ) -> None:
        self._environment = dict(environment or {})
        self._options = [CARELESS] if careless else []
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()  # one question, one answer

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.helpers.spawner", *self._options, cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def start(self, log: Path, words: Sequence[str]) -> Life:
        """Start a gateway with these words of the command line."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock:
            self._process.stdin.write(json.dumps([str(log), *words]).encode() + b"\n")
            return Life(int(await self._process.stdout.readline()))


if __name__ == "__main__":
    main()
