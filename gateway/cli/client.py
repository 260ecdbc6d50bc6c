"""The command line's side of gateway.sock: HTTP over a Unix socket, every wait bounded."""

import http.client
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError
from gateway.paths import Paths, read_endpoints

READ_S: Final = 2.0
ANSWER_S: Final = 10.0  # until the guard has answered a command
OUTCOME_S: Final = 60.0  # until its outputs have confirmed
BODY_BYTES_MAX: Final = 64 * 1024 * 1024


class NotReached(GatewayError):
    """The gateway does not answer; its text says what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self.timeout)
        try:
            connection.connect(os.fspath(self._path))
        except OSError:
            connection.close()
            raise
        self.sock = connection


def get(paths: Paths, target: str) -> bytes:
    """The body of a read. Raises NotReached, or GatewayError with the gateway's own words."""
    return _request(paths, "GET", target, None, READ_S, READ_S)


def post(paths: Paths, target: str, body: dict[str, Any], *, answer_s: float = ANSWER_S) -> bytes:
    """The body of a command's answer; it begins within ``answer_s`` or counts as not reached.

    A gateway that reads the command later than that does not carry it out.
    """
    limit_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(answer_s * 1e9)
    return _request(paths, "POST", target, body | {"not_after_ns": limit_ns}, answer_s, OUTCOME_S)


def running_pid(paths: Paths) -> int | None:
    """The gateway's process as endpoints.json names it, None where it has gone."""
    endpoints = read_endpoints(paths.endpoints)
    return endpoints.pid if endpoints and process_runs(endpoints.pid) else None


def process_runs(pid: int) -> bool:
    """True while there is such a process; a zombie has ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return line.rpartition(")")[2].split()[0] != "Z"


def _request(
    paths: Paths,
    method: str,
    target: str,
    body: dict[str, Any] | None,
    answer_s: float,
    outcome_s: float,
) -> bytes:
    connection = _UnixConnection(paths.gateway_sock, answer_s)
    content = None if body is None else msgspec.json.encode(body)
    headers = {} if content is None else {"Content-Type": "application/json"}
    try:
        connection.request(method, target, body=content, headers=headers)
        raw = connection.sock
        response = connection.getresponse()
        raw.settimeout(outcome_s)  # the answer has begun; what it waits for is bounded there
        answer = response.read(BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise NotReached(_why(paths, error)) from error
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise GatewayError(_said(answer, response.status))
    return answer


def _said(answer: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(answer)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the gateway answered with status {status}"


def _why(paths: Paths, error: Exception) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return (
            f"no gateway runs in {paths.runtime}; start it with 'sitewarden run SITE.toml', "
            "or name its directory with --runtime-dir"
        )
    if isinstance(error, PermissionError):
        return (
            f"this user may not use {paths.gateway_sock}; "
            "become a member of the group sitewarden-operators"
        )
    pid = running_pid(paths)
    who = f" (pid {pid})" if pid else ""
    return (
        f"the gateway{who} does not answer on {paths.gateway_sock}: {error or 'timed out'}; "
        "the guard protects without it; restart it if this lasts"
    )
