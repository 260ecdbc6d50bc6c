"""Directories, endpoints.json, and the lock that keeps a site to one gateway."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import paths
from gateway.errors import GatewayError
from gateway.life import directory_lock
from gateway.life.directory_lock import DirectoryLock
from gateway.paths import Endpoints, InstanceLock, Paths

ENDPOINTS = Endpoints(41, 42, "north-shaft", "http://127.0.0.1:9750", 1)


def test_given_directory_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SITEWARDEN_RUNTIME_DIR", "/from/environment")
    monkeypatch.setenv("SITEWARDEN_STATE_DIR", "/state/environment")
    assert paths.runtime_dir(tmp_path) == tmp_path
    assert paths.runtime_dir() == Path("/from/environment")
    assert paths.state_dir(tmp_path) == tmp_path
    assert paths.state_dir() == Path("/state/environment")


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SITEWARDEN_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("SITEWARDEN_STATE_DIR", raising=False)
    monkeypatch.setattr(paths, "_RUNTIME_SYSTEM", tmp_path / "run")
    monkeypatch.setattr(paths, "_STATE_SYSTEM", tmp_path / "lib")
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.runtime_dir() == Path(f"/dev/shm/sitewarden-{os.getuid()}")
    assert paths.state_dir() == Path("/home/someone/.local/state/sitewarden")
    (tmp_path / "lib").mkdir()
    assert paths.state_dir() == tmp_path / "lib"


def test_system_runtime_directory_only_where_it_is_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SITEWARDEN_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(paths, "_RUNTIME_SYSTEM", tmp_path)
    monkeypatch.setattr(paths, "is_tmpfs", lambda _: False)
    assert paths.runtime_dir() != tmp_path
    monkeypatch.setattr(paths, "is_tmpfs", lambda _: True)
    assert paths.runtime_dir() == tmp_path


def test_is_tmpfs() -> None:
    assert paths.is_tmpfs(Path("/dev/shm"))
    assert not paths.is_tmpfs(Path("/proc"))
    assert not paths.is_tmpfs(Path("/no/such/directory"))


def test_prepare_makes_private_directories(tmp_path: Path) -> None:
    site = Paths(tmp_path / "run", tmp_path / "a" / "state")
    paths.prepare(site)
    paths.prepare(site)
    assert site.programs.is_dir()
    assert site.last_good.parent.is_dir()
    assert site.runtime.stat().st_mode & 0o007 == 0


def test_prepare_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GatewayError, match="cannot create the directory"):
        paths.prepare(Paths(tmp_path / "file" / "run", tmp_path))


def test_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"too long for a Unix socket: .* at most 107") as caught:
        paths.prepare(Paths(tmp_path / ("r" * 100), tmp_path))
    assert "--runtime-dir" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_endpoints_are_read_back(tmp_path: Path) -> None:
    site = Paths(tmp_path, tmp_path)
    assert paths.read_endpoints(site.endpoints) is None
    paths.write_endpoints(site.endpoints, ENDPOINTS)
    assert paths.read_endpoints(site.endpoints) == ENDPOINTS
    site.endpoints.write_text('{"pid": 4')
    assert paths.read_endpoints(site.endpoints) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoints.json"]


def test_replace_file_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "full").write_text("")
    with pytest.raises(OSError, match="taken"):
        paths.replace_file(tmp_path / "taken", b"x", sync=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_second_gateway_is_refused_by_either_directory(tmp_path: Path) -> None:
    site = Paths(tmp_path / "run", tmp_path / "state")
    paths.prepare(site)
    paths.prepare(Paths(tmp_path / "other", tmp_path / "state"))
    paths.write_endpoints(site.endpoints, ENDPOINTS)
    held = InstanceLock(site).acquire()
    with pytest.raises(GatewayError, match=r"another gateway \(pid 41, site north-shaft\)"):
        InstanceLock(site).acquire()
    with pytest.raises(GatewayError, match="state"):
        InstanceLock(Paths(tmp_path / "other", site.state)).acquire()
    held.release()
    InstanceLock(site).acquire().release()


def test_a_directory_that_cannot_be_locked_is_not_another_gateway(tmp_path: Path) -> None:
    site = Paths(tmp_path / "none", tmp_path)
    with pytest.raises(GatewayError, match="none: cannot be locked: No such file or directory"):
        InstanceLock(site).acquire()


def test_a_directory_that_nothing_can_use_is_let_go_and_taken_back(tmp_path: Path) -> None:
    """So the disk under it can be unmounted; who takes it meanwhile keeps it."""
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    directory_lock.enter(tmp_path, "ledger")
    directory_lock.enter(tmp_path, "history")
    directory_lock.leave(tmp_path, "ledger")
    other = ["flock", "--nonblock", str(tmp_path), "true"]
    assert subprocess.run(other, check=False).returncode == 1
    directory_lock.leave(tmp_path, "history")
    assert subprocess.run(other, check=False).returncode == 0
    with subprocess.Popen(["flock", str(tmp_path), "sh", "-c", "echo held; read line"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            directory_lock.enter(tmp_path, "ledger")
        holder.communicate(b"\n")
    directory_lock.enter(tmp_path, "ledger")
    assert subprocess.run(other, check=False).returncode == 1
    lock.release()
    assert subprocess.run(other, check=False).returncode == 0


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    site = Paths(tmp_path / "run", tmp_path / "state")
    paths.prepare(site)
    code = (
        "import sys, pathlib; from gateway.paths import *;"
        "InstanceLock(Paths(*map(pathlib.Path, sys.argv[1:]))).acquire();"
        "sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(site.runtime), str(site.state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(GatewayError, match="another gateway already runs"):
            InstanceLock(site).acquire()
        holder.kill()
        holder.wait()
    InstanceLock(site).acquire().release()
