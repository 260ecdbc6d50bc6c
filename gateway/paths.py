"""Where a site's files are: runtime and state directory, endpoints.json, the one-instance lock.

One directory is one site. The runtime directory should be tmpfs: the guard's shared file lives
there, and a page of it must never wait for a disk.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from gateway.errors import GatewayError
from gateway.life.directory_lock import DirectoryLock

_LOGGER = logging.getLogger(__name__)

SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path is 108 bytes with its final zero
DIRECTORY_MODE: Final = 0o750
SIMULATED: Final = "simulated"  # a file: this directory is of simulated runs alone

_RUNTIME_VARIABLE: Final = "SITEWARDEN_RUNTIME_DIR"
_STATE_VARIABLE: Final = "SITEWARDEN_STATE_DIR"
_RUNTIME_SYSTEM: Final = Path("/run/sitewarden")
_STATE_SYSTEM: Final = Path("/var/lib/sitewarden")
_MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


class Endpoints(msgspec.Struct, frozen=True):
    """What endpoints.json says; ``http`` is a base URL, "" while no TCP port is bound."""

    pid: int
    guard_pid: int
    site: str
    http: str
    started_utc_ns: int


@dataclass(frozen=True, slots=True)
class Paths:
    """Every file of one site."""

    runtime: Path
    state: Path

    @property
    def guard_shm(self) -> Path:
        """The guard's shared file."""
        return self.runtime / "guard.shm"

    @property
    def guard_sock(self) -> Path:
        """The guard's mailbox."""
        return self.runtime / "guard.sock"

    @property
    def gateway_sock(self) -> Path:
        """HTTP for the commands and the page's reader on this machine."""
        return self.runtime / "gateway.sock"

    @property
    def endpoints(self) -> Path:
        """Ports and pids, written when the gateway is ready."""
        return self.runtime / "endpoints.json"

    @property
    def lives(self) -> Path:
        """How the gateway's lives ended, since the machine's start."""
        return self.runtime / "lives.json"

    @property
    def ledger(self) -> Path:
        """Alerts, audit, operator state."""
        return self.state / "ledger.db"

    @property
    def history(self) -> Path:
        """Samples."""
        return self.state / "history.db"

    @property
    def clock(self) -> Path:
        """Which times are not corrected yet; there while the clock is not synchronised."""
        return self.state / "clock.json"

    @property
    def programs(self) -> Path:
        """Program blobs by the hexadecimal form of their hash."""
        return self.state / "programs"

    @property
    def last_good(self) -> Path:
        """The blob that the guard starts with."""
        return self.state / "guard" / "last-good"

    @property
    def simulated(self) -> bool:
        """Whether a simulated run lives here, or lived."""
        return any((directory / SIMULATED).exists() for directory in (self.runtime, self.state))

    @property
    def clean_stop(self) -> Path:
        """Left by a guard that was stopped on purpose."""
        return self.state / "guard" / "clean-stop"


def runtime_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """The runtime directory: given, from the environment, /run/sitewarden, else in /dev/shm."""
    chosen = given or os.environ.get(_RUNTIME_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if is_tmpfs(_RUNTIME_SYSTEM) and os.access(_RUNTIME_SYSTEM, os.W_OK | os.X_OK):
        return _RUNTIME_SYSTEM
    return Path(f"/dev/shm/sitewarden-{os.getuid()}")  # noqa: S108  0750, made or owned by us


def state_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """The state directory: given, from the environment, /var/lib/sitewarden, else the home's."""
    chosen = given or os.environ.get(_STATE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if os.access(_STATE_SYSTEM, os.W_OK | os.X_OK):
        return _STATE_SYSTEM
    return Path.home() / ".local" / "state" / "sitewarden"


def site_paths(
    runtime: str | os.PathLike[str] | None = None, state: str | os.PathLike[str] | None = None
) -> Paths:
    """The paths of a site from the command line's arguments; nothing is created."""
    return Paths(runtime_dir(runtime), state_dir(state))


def paths_beside(
    suffix: str,
    runtime: str | os.PathLike[str] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Paths:
    """Directories that are not the site's: those given, else the site's with ``-suffix`` behind."""

    def chosen(given: str | os.PathLike[str] | None, usual: Path) -> Path:
        return Path(given).absolute() if given else usual.with_name(f"{usual.name}-{suffix}")

    return Paths(chosen(runtime, runtime_dir()), chosen(state, state_dir()))


def prepare(paths: Paths) -> None:
    """Create the directories, 0750. Raises GatewayError where that fails or a path is too long."""
    for socket_path in (paths.guard_sock, paths.gateway_sock):
        check_socket_path(socket_path)
    for directory in (paths.runtime, paths.state, paths.programs, paths.last_good.parent):
        try:
            directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as error:
            msg = f"cannot create the directory {directory}: {error.strerror}"
            raise GatewayError(msg) from error
        if not os.access(directory, os.W_OK | os.X_OK):
            msg = f"the directory {directory} is not writable for uid {os.getuid()}"
            raise GatewayError(msg)


def check_socket_path(path: Path) -> None:
    """Raises GatewayError for a path that no Unix socket can have."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        msg = (
            f"{path} is too long for a Unix socket: {length} bytes, at most "
            f"{SOCKET_PATH_BYTES_MAX}; choose a shorter --runtime-dir"
        )
        raise GatewayError(msg)


def is_tmpfs(directory: Path) -> bool:
    """True where the directory exists and lives in memory."""
    try:
        device = directory.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0] in _MEMORY_FILESYSTEMS
    return False


def write_endpoints(path: Path, endpoints: Endpoints) -> None:
    """Replace endpoints.json in one step. Raises OSError."""
    replace_file(path, msgspec.json.encode(endpoints) + b"\n", sync=False)


def read_endpoints(path: Path) -> Endpoints | None:
    """What endpoints.json says; None where there is none or it is not readable as such."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Endpoints)
    except (OSError, msgspec.MsgspecError):
        return None


def replace_file(path: Path, content: bytes, *, sync: bool) -> None:
    """Write ``content`` under a temporary name and rename it; ``sync``: durable afterwards."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o640)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync_directory(path.parent)


class InstanceLock:
    """One gateway per runtime directory and per state directory; freed when the process ends."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._locks: list[DirectoryLock] = []

    def acquire(self) -> Self:
        """Take both locks. Raises GatewayError: the holder where one is taken, else the reason."""
        for directory in (self._paths.runtime, self._paths.state):
            lock = DirectoryLock(directory)
            try:
                lock.acquire()
            except OSError as error:
                self.release()
                taken = isinstance(error, BlockingIOError)
                reason = f"{directory}: cannot be locked: {error.strerror}"
                raise GatewayError(self._taken(directory) if taken else reason) from error
            self._locks.append(lock)
        return self

    def release(self) -> None:
        """Let both locks go; harmless when not held."""
        while self._locks:
            self._locks.pop().release()

    def _taken(self, directory: Path) -> str:
        endpoints = read_endpoints(self._paths.endpoints)
        holder = f" (pid {endpoints.pid}, site {endpoints.site})" if endpoints else ""
        return f"another gateway{holder} already runs in {directory}"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
