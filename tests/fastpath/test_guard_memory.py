"""What the guard takes and when: memory by the program's size, none of it on the scan thread."""

import errno
import os
import signal
import struct
from dataclasses import replace
from pathlib import Path

from fastpath import blob as blobs
from fastpath import journal
from fastpath.codes import EventType, InterlockState, MessageType, OutputState, ResultCode
from fastpath.records import payload_of
from tests.helpers.build import build
from tests.helpers.device import Device
from tests.helpers.guard import GuardProcess, mine, other_outputs, reset
from tests.helpers.guarding import methane, protecting, scans, tripped
from tests.helpers.small_disk import small_disk

MIB = 1 << 20
WINDOWS_BYTES = 4096 * 1600
SCANS = 1000
LOST_AT = 512 + 2560 + 32  # of the header: lost_first and lost_count


def large(port: int, tags: int) -> blobs.Program:
    """The mine with so many more tags of the guard, which no request reads: of the gateway."""
    program = mine(port)
    program.tags += [replace(program.tags[5], key=1000 + i) for i in range(tags)]
    program.names["tags"] += [f"more.{i}" for i in range(tags)]
    return program


def major_faults(pid: int) -> int:
    """Of all its threads."""
    faults = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        faults += int((task / "stat").read_text().rpartition(")")[2].split()[9])
    return faults


# ---- no allocation while it protects ---------------------------------------------------------


async def test_the_scan_thread_never_allocates(guard: GuardProcess, device: Device) -> None:
    count = guard.state / "count"
    count.write_bytes(bytes(8))
    guard.prefix = ("env", f"LD_PRELOAD={build('libcount.so')}", f"SITEWARDEN_COUNT={count}")
    await protecting(guard, mine(device.port))
    view = guard.view
    assert view is not None
    assert guard.process is not None
    (before,) = struct.unpack("<Q", count.read_bytes())
    assert before > 0  # it counts: the thread's own beginning allocates
    faults, first = major_faults(guard.process.pid), view.header().scan
    turn = 0
    while view.header().scan < first + SCANS:
        await tripped(guard, device)
        device.cut()
        methane(device, 0.4, 0.4, 0.4)
        await guard.until_interlock(InterlockState.READY_TO_RESET)
        generation = view.interlock(0).generation
        answer = guard.client().command(MessageType.RESET, reset(generation))
        assert answer.code == ResultCode.DONE
        await guard.until_output(OutputState.RELEASED)
        program = mine(device.port)
        turn += 1
        loaded = guard.load(other_outputs(program) if turn % 2 else program, flags=1)
        assert loaded.code == ResultCode.DONE
    seen = {EventType(e.type) for e in guard.events()}
    assert {EventType.TRIP, EventType.RESET, EventType.DEVICE_UP, EventType.PROGRAM} <= seen
    assert struct.unpack("<Q", count.read_bytes()) == (before,)
    assert major_faults(guard.process.pid) == faults


# ---- by the program's size -------------------------------------------------------------------


async def test_the_shared_file_is_as_large_as_the_program_wants(
    guard: GuardProcess, device: Device
) -> None:
    path = guard.runtime / "guard.shm"
    await guard.start()
    assert path.stat().st_size == journal.SHM_BYTES
    empty = 512 * path.stat().st_blocks
    assert empty < journal.SHM_BYTES - WINDOWS_BYTES - 24 * MIB
    await protecting(guard, large(device.port, 10_000))
    grown = 512 * path.stat().st_blocks - empty
    # A slot of the image each, less the page there was; the ring is for the guard's own tags.
    assert 10_000 * 64 - 4096 <= grown < 2 * MIB
    assert guard.view is not None
    assert guard.view.slot(10_005).owner == guard.view.slot(5).owner
    assert guard.view.slot(10_006).owner == 0  # beyond what is there


async def test_a_guard_that_starts_again_finds_room_for_what_it_had(
    guard: GuardProcess, device: Device
) -> None:
    program = large(device.port, 10_000)
    await protecting(guard, program)
    await tripped(guard, device)
    await guard.stop(signal.SIGKILL)
    await guard.start()
    assert guard.view is not None
    assert guard.view.interlock(0).state == InterlockState.TRIPPED
    await guard.until_output(OutputState.TRIPPED)
    assert guard.view.slot(10_005).owner == guard.view.slot(5).owner
    assert guard.load(mine(device.port), flags=1).code == ResultCode.DONE


def _fill(path: Path) -> None:
    """Until not a page is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it is how this ends


async def test_a_program_without_room_is_refused_and_the_old_one_goes_on(
    guard: GuardProcess, device: Device
) -> None:
    with small_disk(guard.runtime, 32 * 1024):
        await protecting(guard, mine(device.port))
        full = guard.runtime / "full"
        _fill(full)
        assert guard.load(large(device.port, 10_000)).code == ResultCode.LIMIT
        await scans(guard, 5)
        await tripped(guard, device)  # nothing that it touches is a hole of the file
        assert guard.view is not None
        assert guard.view.slot(16_000).owner == 0  # nor what a reader may ask for
        full.unlink()
        assert guard.load(large(device.port, 10_000)).code == ResultCode.DONE
        await guard.close()


# ---- the ring of samples -----------------------------------------------------------------------


def test_a_ring_that_grows_keeps_the_newest_samples(inside: object) -> None:
    """Positions go on; what was in the smaller ring is found in the larger one."""
    path = f"/dev/shm/sitewarden-ring-{os.getpid()}"
    try:
        ring = inside.Ring(path)  # type: ignore[attr-defined]
        for i in range(100_000):
            ring.write(float(i))
        assert ring.places == 65_536
        ring.grow(2000)
        assert ring.places == 262_144
        view = journal.GuardView(path)
        first, lost, raw = view.samples(0, 200_000)
        values = [row[4] for row in struct.iter_unpack("<IBBHdqq", raw)]
        assert (first, lost) == (100_000, 100_000 - 65_536)
        assert values == [float(i) for i in range(100_000 - 65_536, 100_000)]
        for i in range(100_000, 400_000):
            ring.write(float(i))
        _first, lost, raw = view.samples(100_000, 300_000)
        assert lost == 300_000 - len(raw) // 32
        assert [row[4] for row in struct.iter_unpack("<IBBHdqq", raw)][-1] == 399_999.0
        view.close()
        ring.close()
    finally:
        Path(path).unlink(missing_ok=True)
        Path(f"{path}.lock").unlink(missing_ok=True)


# ---- what was lost is told over a restart ------------------------------------------------------


async def test_records_that_found_no_room_are_told_after_a_kill(
    guard: GuardProcess, device: Device
) -> None:
    await protecting(guard, mine(device.port))
    await guard.stop(signal.SIGKILL)
    path = guard.runtime / "guard.shm"
    with path.open("r+b") as file:
        file.seek(LOST_AT)
        file.write(struct.pack("<QQ", 77, 5))
    await guard.start()
    told = [payload_of(e) for e in guard.events(EventType.LOST)]
    assert [(p["first"], p["count"]) for p in told] == [(77, 5)]
