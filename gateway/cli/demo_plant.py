"""The demo's processes: a simulated mine face, a receiving platform, the gateway with its guard.

Each in a process of its own and a session of its own, so that Ctrl-C reaches the demo alone and
the demo ends them in order.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self
from urllib.parse import urlsplit

from gateway.cli.client import NotReached, get, post
from gateway.errors import GatewayError
from gateway.paths import Paths, paths_beside, read_endpoints

SITE: Final = "mine-face.toml"
START_S: Final = 20.0
STOP_S: Final = 2.0
PLATFORM_S: Final = 2.0
MARK: Final = "demo-site.toml"  # a directory that has it is the demo's and may be emptied


def demo_paths(runtime: Path | None, state: Path | None) -> Paths:
    """The demo's own directories: those of a site with ``-demo`` behind."""
    return paths_beside("demo", runtime, state)


class Plant:
    """Everything that runs; a context manager. Raises GatewayError where a part does not start."""

    def __init__(self, paths: Paths, *, stuck_breaker: bool) -> None:
        self.paths = paths
        self._stuck_breaker = stuck_breaker
        self._face: subprocess.Popen[str] | None = None
        self._platform: subprocess.Popen[str] | None = None
        self._gateway: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self.platform_url = ""
        self._ours = False  # the directories: emptied or made by this demo

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def log(self) -> Path:
        """Where the gateway and the guard log to."""
        return self.paths.state / "demo.log"

    @property
    def received_db(self) -> Path:
        """Where the platform keeps what it gets."""
        return self.paths.state / "received.db"

    def _start(self) -> None:
        self._make_directories()
        module = [sys.executable, "-m"]
        face = [*module, "drivers.sim", "mine-face"]
        self._log = self.log.open("w", encoding="utf-8")
        self._face = _spawn(face + ["--stuck-breaker"] * self._stuck_breaker, stderr=self._log)
        receive = [*module, "gateway", "receive", "--listen", "127.0.0.1:0"]
        receive += ["--store", str(self.received_db)]
        self._platform = _spawn(receive, stderr=self._log)
        port = int(_first_line(self._face, "the simulated mine face")["port"])
        self.platform_url = str(_first_line(self._platform, "the receiving platform")["url"])
        site = self.paths.state / MARK
        site.write_text(site_text(port, self.platform_url), encoding="utf-8")
        directories = ["--runtime-dir", str(self.paths.runtime)]
        directories += ["--state-dir", str(self.paths.state)]
        self._gateway = _spawn(
            [*module, "gateway", "run", str(site), *directories], stdout=self._log, stderr=self._log
        )

    def _make_directories(self) -> None:
        """Empty directories of our own: every story starts from the beginning."""
        endpoints = read_endpoints(self.paths.endpoints)
        if endpoints is not None and _is_running(endpoints.pid):
            msg = f"another demo runs here (pid {endpoints.pid}); end it with Ctrl-C first"
            raise GatewayError(msg)
        for path in (self.paths.runtime, self.paths.state):
            if (path / MARK).exists():
                shutil.rmtree(path, ignore_errors=True)
            if path.exists() and any(path.iterdir()):
                msg = f"{path} is not empty; name others with --runtime-dir and --state-dir"
                raise GatewayError(msg)
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
            (path / MARK).touch()
        self._ours = True

    def wait_ready(self) -> str:
        """The gateway's base URL, once it serves. Raises GatewayError."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._gateway is None or self._gateway.poll() is not None:
                break
            endpoints = read_endpoints(self.paths.endpoints)
            if endpoints is not None and endpoints.http:
                return endpoints.http
            time.sleep(0.05)
        msg = f"the gateway did not start; its last words are in {self.log}"
        raise GatewayError(msg)

    def direct(self, command: str) -> None:
        """One command to the mine face."""
        if self._face is not None and self._face.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._face.stdin.write(f"{command}\n")
                self._face.stdin.flush()

    def read(self, target: str) -> Any:
        """A read of the gateway's own socket; None where it does not answer now."""
        try:
            return json.loads(get(self.paths, target))
        except NotReached:
            return None

    def command(self, target: str, body: dict[str, Any]) -> dict[str, Any]:
        """A command over the gateway's own socket. Raises GatewayError."""
        answer: dict[str, Any] = json.loads(post(self.paths, target, body))
        return answer

    def received(self) -> dict[str, Any]:
        """What the platform says that it got."""
        found: dict[str, Any] = self._ask("/received", None)
        return found

    def alerts_after(self, arrival: int) -> list[dict[str, Any]]:
        """``{"arrival", "alert"}`` of each alert that came to the platform after that one."""
        found: list[dict[str, Any]] = self._ask(f"/alerts?after={arrival}", None)
        return found

    def cut_link(self, down: bool) -> None:
        """The platform closes every connection without an answer, or serves again."""
        self._ask("/control", {"down": down})

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        platform = urlsplit(self.platform_url)
        connection = http.client.HTTPConnection(platform.netloc, timeout=PLATFORM_S)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request(
                    "POST", path, json.dumps(body), {"Content-Type": "application/json"}
                )
            found = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            msg = f"the receiving platform does not answer: {error}"
            raise GatewayError(msg) from error
        finally:
            connection.close()
        return found

    def _stop(self) -> None:
        """The gateway first, which ends the guard; then what it talked to. Bounded."""
        _end(self._gateway, STOP_S)
        _end(self._platform, 0.5)
        _end(self._face, 0.5)
        for process in (self._gateway, self._platform, self._face):
            for stream in (process.stdin, process.stdout) if process else ():
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._log is not None:
            self._log.close()
        if self._ours:
            shutil.rmtree(self.paths.runtime, ignore_errors=True)  # 50 MB of memory


def site_text(device_port: int, platform_url: str) -> str:
    """The first example site, talking to the demo's own devices and platform."""
    text = (resources.files("gateway.sites") / SITE).read_text(encoding="utf-8")
    changes = (
        (r'^address = "[\d.]+:\d+"', f'address = "127.0.0.1:{device_port}"'),
        (r'^url = "[^"]*"', f'url = "{platform_url}"'),
        (r'^listen = "[^"]*"', 'listen = "127.0.0.1:0"'),
    )
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count != 1:
            msg = f"{SITE} has {count} lines like {pattern}, expected one"
            raise GatewayError(msg)
    return text


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _spawn(
    command: list[str], stdout: IO[str] | int = subprocess.PIPE, stderr: IO[str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def _first_line(process: subprocess.Popen[str], what: str) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout is not None else ""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError as error:
        msg = f"{what} did not start"
        raise GatewayError(msg) from error
    return found


def _end(process: subprocess.Popen[str] | None, wait_s: float) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
