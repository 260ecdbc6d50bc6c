"""What a guard's start makes of its options and of a disk that takes nothing."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fastpath.codes import Counter, EventType, OutputState, TripReason
from fastpath.records import payload_of
from tests.helpers.device import Device
from tests.helpers.guard import GuardProcess, directories, mine
from tests.helpers.guarding import methane, protecting
from tests.helpers.small_disk import small_disk


def affinities(pid: int) -> dict[str, set[int]]:
    """The CPUs of each thread, by its name."""
    found = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found[(thread / "comm").read_text().strip() + thread.name] = os.sched_getaffinity(
                int(thread.name)
            )
    return found


async def test_it_scans_on_the_cpu_that_it_is_told(guard: GuardProcess) -> None:
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    guard.options = ("--cpu", str(cpu))
    await guard.start()
    assert guard.process is not None
    threads = list(affinities(guard.process.pid).values())
    assert sorted(map(len, threads))[0] == 1
    assert {cpu} in threads
    assert allowed in threads, "the thread that may wait is not bound"
    assert guard.counter(Counter.CPU) == cpu + 1


@pytest.mark.parametrize("cpu", ["999", "-1"])
def test_a_cpu_that_is_not_there_is_refused(cpu: str) -> None:
    with directories() as (runtime, state):
        command = [
            sys.executable, "-m", "fastpath.guard", "--runtime-dir", str(runtime),
            "--state-dir", str(state), f"--cpu={cpu}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        assert f"CPU {cpu} does not exist, expected one of {allowed}" in done.stderr
        assert not list(runtime.iterdir())


def test_a_cpu_that_is_not_allowed_is_refused() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("one CPU alone: none is forbidden")
    with directories() as (runtime, state):
        command = [
            "taskset", "-c", str(allowed[0]), sys.executable, "-m", "fastpath.guard",
            "--runtime-dir", str(runtime), "--state-dir", str(state), "--cpu", str(allowed[1]),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"CPU {allowed[1]} may not be used here, expected one of {allowed[0]}" in done.stderr


# ---- a state directory that cannot be written ------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    with small_disk(tmp_path / "disk", 16 * 1024) as mount:
        yield mount


@pytest.fixture
async def stored(disk: Path) -> AsyncIterator[GuardProcess]:
    """A guard whose state is on that disk."""
    with directories() as (runtime, _):
        process = GuardProcess(runtime, disk)
        try:
            yield process
        finally:
            await process.close()


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


async def test_a_clean_stop_that_cannot_be_taken_away_does_not_count(
    stored: GuardProcess, disk: Path, device: Device
) -> None:
    """It would be believed after every loss of power from then on."""
    await protecting(stored, mine(device.port))
    await stored.stop(signal.SIGTERM)
    stored.boot(2)
    remount(disk, "ro")
    await stored.start()
    assert "clean-stop cannot be taken away" in stored.said
    await stored.until_output(OutputState.TRIPPED)
    (trip,) = stored.events(EventType.TRIP)
    assert payload_of(trip)["reason"] == TripReason.POWER_LOSS


async def test_in_the_same_boot_it_protects_as_before(
    stored: GuardProcess, disk: Path, device: Device
) -> None:
    await protecting(stored, mine(device.port))
    await stored.stop(signal.SIGTERM)
    remount(disk, "ro")
    await stored.start()
    assert "clean-stop cannot be taken away" in stored.said
    await stored.until_output(OutputState.RELEASED)
    methane(device, 2.0, 2.0, 0.4)
    await stored.until_output(OutputState.TRIPPED)
    assert stored.events(EventType.TRIP)[0].program != 0


async def test_a_damaged_last_good_program_that_cannot_be_set_aside_stops_no_start(
    stored: GuardProcess, disk: Path, device: Device
) -> None:
    await protecting(stored, mine(device.port))
    await stored.stop(signal.SIGKILL)
    last_good = disk / "guard" / "last-good"
    last_good.write_bytes(last_good.read_bytes()[:-1] + b"!")
    remount(disk, "ro")
    await stored.start()
    assert "last good program is damaged" in stored.said
    assert "cannot be kept aside" in stored.said
    assert stored.view is not None
    assert stored.view.header().scan > 0
