"""node-opcua as a process: an OPC UA server that is not ours, told what to do by lines of JSON.

Its answers are read blocking: it needs nothing of the test's event loop for them.
"""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.programs import find

FOLDER = Path(__file__).parent.parent / "peers" / "opcua"


class OpcUaServer:
    """One server. ``options`` are those of ``peers/opcua/server.js``."""

    def __init__(self, pki: Path, **options: Any) -> None:
        if not (FOLDER / "node_modules" / "node-opcua-server").is_dir():
            pytest.skip("node-opcua is not installed (npm ci in tests/peers/opcua)")
        self._node = find("node")
        self.options = {"pki": str(pki), **options}
        self.port = 0
        self.certificate = Path()
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"opc.tcp://localhost:{self.port}"

    def start(self) -> None:
        """Start it; on the same port after the first time."""
        if self.port:
            self.options["port"] = self.port
        self._process = subprocess.Popen(
            [self._node, "server.js", json.dumps(self.options)],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        ready = self.told()
        self.port, self.certificate = ready["port"], Path(ready["certificate"])

    def tell(self, **order: Any) -> dict[str, Any]:
        """One order, and its answer."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return self.told()

    def told(self) -> dict[str, Any]:
        """What it says next by itself."""
        process = self._running()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the server ended"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer
        return answer

    def set(self, node: str, value: Any, **more: Any) -> None:
        """Give a node a value; ``status`` and ``time`` besides."""
        self.tell(set=node, value=value, **more)

    def get(self, node: str) -> Any:
        """What a node has."""
        return self.tell(get=node)["value"]

    def freeze(self) -> None:
        """It stands still with its connections open."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """``kill -9``, in whatever state it is."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the server does not run"
        return self._process


@contextmanager
def opcua_server(pki: Path, **options: Any) -> Iterator[OpcUaServer]:
    """A server for as long as the block lasts."""
    server = OpcUaServer(pki, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
