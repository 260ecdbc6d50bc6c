"""Disks of the tests' own: a tmpfs of a few MiB, and an ext4 that turns read-only in the middle."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount: Path, size_kib: int, *options: str) -> Iterator[Path]:
    """Mounted at ``mount``, with ``options``; skips the test, visibly, where that is refused."""
    mount.mkdir(exist_ok=True)
    chosen = ",".join((f"size={size_kib}k", *options))
    command = ["mount", "-t", "tmpfs", "-o", chosen, "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


class FailingDisk:
    """An ext4 in a file of its own that the kernel makes read-only on its first error."""

    def __init__(self, mount: Path, size_mib: int) -> None:
        self.mount = mount
        self._image = mount.with_name(f"{mount.name}.ext4")
        with self._image.open("wb") as image:
            image.truncate(size_mib << 20)
        mount.mkdir(exist_ok=True)
        _done("mkfs.ext4", "-q", "-F", str(self._image))
        self._device = _done("losetup", "-f", "--show", str(self._image))
        self._fault = Path("/sys/fs/ext4") / Path(self._device).name / "trigger_fs_error"

    @property
    def can_fail(self) -> bool:
        """Whether the kernel lets us have an error."""
        return os.access(self._fault, os.W_OK)

    def put_in(self) -> None:
        """Mount it."""
        _done("mount", "-o", "errors=remount-ro", self._device, str(self.mount))

    def fail(self) -> None:
        """As after an error in its own blocks: what is open stays so, and takes no writes."""
        self._fault.write_text("1")

    def is_let_go(self) -> bool:
        """Unmount it in order; False while somebody has a file of it open."""
        command = ["umount", str(self.mount)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def check(self) -> None:
        """Mend it, while it is not mounted."""
        command = ["e2fsck", "-p", self._device]
        assert subprocess.run(command, capture_output=True, check=False).returncode in (0, 1)

    def remove(self) -> None:
        """It and its loop device."""
        subprocess.run(["umount", "-l", str(self.mount)], capture_output=True, check=False)
        _done("losetup", "-d", self._device)


@contextmanager
def failing_disk(mount: Path, size_mib: int) -> Iterator[FailingDisk]:
    """Mounted at ``mount``; skips the test, visibly, where that is refused."""
    try:
        disk = FailingDisk(mount, size_mib)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 of its own can be made here: {error}")
    try:
        try:
            disk.put_in()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no ext4 can be mounted here: {error.stderr.strip()}")
        if not disk.can_fail:
            pytest.skip("this kernel has no errors of an ext4 to be triggered")
        yield disk
    finally:
        disk.remove()


def _done(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
