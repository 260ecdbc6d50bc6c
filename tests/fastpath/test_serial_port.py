"""Serial ports that are pulled out, taken by others, or never there; and how they are set."""

import asyncio
import contextlib
import errno
import fcntl
import os
import termios
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastpath import blob as blobs
from fastpath.codes import DeviceFlag, DownReason, EventType, OutputState, Parity
from fastpath.records import payload_of
from fastpath.ttys import Port, Ttys, open_port, ports_of
from tests.helpers.device import Device
from tests.helpers.guard import GuardProcess, directories, mine
from tests.helpers.guarding import protecting, tripped
from tests.helpers.serial_bench import rtu_server, socat_pair
from tests.helpers.serial_device import bus_of, on_line

FLOAT_0_4 = "16076 52429"
FLOAT_1_6 = "16332 52429"


def cpu_ns(pid: int) -> int:
    """What a process has used so far."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def downs(guard: GuardProcess) -> list[int]:
    """The reasons of every DEVICE_DOWN so far."""
    return [int(payload_of(e)["reason"]) for e in guard.events(EventType.DEVICE_DOWN)]


def told(guard: GuardProcess, kind: EventType, times: int) -> bool:
    """It was recorded so often by now."""
    return len(guard.events(kind)) == times


# ---- pulled out --------------------------------------------------------------------------------


async def test_libmodbus_over_socat_is_pulled_out_and_comes_back(guard: GuardProcess) -> None:
    with directories() as (folder, _):
        near, far = folder / "near", folder / "far"
        program = on_line(mine(1), str(near), timeout_ns=50_000_000)
        async with socat_pair(near, far), rtu_server(str(far)) as server:
            server.send("link 16 1")
            server.send("c 16 1")
            server.send(f"ir 100 {FLOAT_0_4} {FLOAT_0_4} {FLOAT_0_4}")
            assert await server.ask("get di 1 1") == ["got", "1"]
            await protecting(guard, program)
            server.send(f"ir 100 {FLOAT_1_6} {FLOAT_1_6}")
            await guard.until_output(OutputState.TRIPPED)
            assert await server.ask("get c 16 1") == ["got", "0"]
        await guard.until(lambda: downs(guard) == [DownReason.TTY])
        assert not guard.output().confirmed
        assert guard.process is not None
        before = cpu_ns(guard.process.pid)
        await asyncio.sleep(1.0)
        assert cpu_ns(guard.process.pid) - before < 300_000_000
        async with socat_pair(near, far), rtu_server(str(far)) as server:
            server.send("link 16 1")
            server.send("c 16 1")
            server.send(f"ir 100 {FLOAT_1_6} {FLOAT_1_6} {FLOAT_0_4}")
            await guard.until(lambda: bool(guard.output().confirmed))
            assert await server.ask("get c 16 1") == ["got", "0"]
            assert await mbpoll_coil(far, near, guard) == 0


async def mbpoll_coil(_far: Path, near: Path, guard: GuardProcess) -> int:
    """The breaker's coil as a program that is neither ours nor libmodbus's server reads it."""
    await guard.stop()
    process = await asyncio.create_subprocess_exec(
        "mbpoll", "-m", "rtu", "-b", "115200", "-P", "none", "-a", "1", "-t", "0", "-0",
        "-r", "16", "-c", "1", "-1", "-q", str(near), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 5.0)
    line = next(line for line in out.decode().splitlines() if line.startswith("[16]"))
    return int(line.split()[-1])


async def test_a_port_that_hangs_up_again_and_again_costs_little(
    guard: GuardProcess, device: Device
) -> None:
    with directories() as (folder, _), bus_of(u1=device) as bus:
        path = folder / "tty"
        path.symlink_to(bus.path)
        await protecting(guard, on_line(mine(1), str(path)))
        assert guard.process is not None
        before = cpu_ns(guard.process.pid)
        for number in range(10):
            bus.unplug()
            await guard.until(partial(told, guard, EventType.DEVICE_DOWN, number + 1))
            bus.plug()
            path.unlink()
            path.symlink_to(bus.path)
            await guard.until(partial(told, guard, EventType.DEVICE_UP, number + 2))
        assert cpu_ns(guard.process.pid) - before < 2_000_000_000
        assert set(downs(guard)) == {DownReason.TTY}
        await tripped(guard, device)


async def test_a_pending_trip_is_the_first_thing_on_a_port_that_came_back(
    guard: GuardProcess, device: Device
) -> None:
    with directories() as (folder, _), bus_of(u1=device) as bus:
        path = folder / "tty"
        path.symlink_to(bus.path)
        await protecting(guard, on_line(mine(1), str(path)))
        await tripped(guard, device)
        bus.unplug()
        await guard.until(lambda: downs(guard) == [DownReason.TTY])
        assert not guard.output().confirmed
        device.coils[16] = 1  # somebody else did that meanwhile
        bus.sent.clear()
        bus.plug()
        path.unlink()
        path.symlink_to(bus.path)
        await guard.until(lambda: bool(guard.output().confirmed))
        assert bus.sent[0][1] == 15  # a reply that an echo cannot be
        assert device.coils[16] == 0


async def test_a_port_that_is_not_there_at_first_is_opened_when_it_comes(
    guard: GuardProcess, device: Device
) -> None:
    with directories() as (folder, _), bus_of(u1=device) as bus:
        path = folder / "tty"
        await guard.start()
        guard.load(on_line(mine(1), str(path)))
        await guard.until(lambda: downs(guard) == [DownReason.TTY])
        assert payload_of(guard.events(EventType.DEVICE_DOWN)[0])["errno"] == errno.ENOENT
        path.symlink_to(bus.path)
        await guard.until_output(OutputState.RELEASED)


async def test_a_port_that_another_holds_is_taken_when_it_is_free(
    guard: GuardProcess, device: Device
) -> None:
    with bus_of(u1=device) as bus:
        fcntl.flock(bus.slave, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await guard.start()
        guard.load(on_line(mine(1), bus.path))
        await guard.until(lambda: downs(guard) == [DownReason.TTY])
        fcntl.flock(bus.slave, fcntl.LOCK_UN)
        await guard.until_output(OutputState.RELEASED)


# ---- set ---------------------------------------------------------------------------------------


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    """(master, slave), closed at the end."""
    master, slave = os.openpty()
    yield master, slave
    for descriptor in (master, slave):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def port(path: str, **changes: object) -> Port:
    settings: dict[str, object] = {
        "baud": 9600, "data_bits": 8, "parity": Parity.NONE, "stop_bits": 1, "rs485": False,
    }  # fmt: skip
    return Port(path, **(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, 0),
        ({"parity": Parity.ODD}, termios.PARENB | termios.PARODD),
        ({"stop_bits": 2}, termios.CSTOPB),
    ],
)
def test_a_port_is_raw_and_as_it_was_asked_for(
    pty: tuple[int, int], changes: dict[str, object], flags: int
) -> None:
    fd = open_port(port(os.ttyname(pty[1]), **changes))
    try:
        received, sent, control, local, ispeed, ospeed, _ = termios.tcgetattr(fd)
        # A pty has no parity bit to keep.
        kept = termios.PARODD | termios.CSTOPB
        assert control & kept == flags & kept
        assert control & termios.CLOCAL
        assert (sent & termios.OPOST, local & (termios.ICANON | termios.ECHO)) == (0, 0)
        assert bool(received & termios.INPCK) == bool(changes.get("parity"))
        assert (ispeed, ospeed) == (termios.B9600, termios.B9600)
        assert not os.get_blocking(fd)
        os.write(pty[0], b"\x11\x13\x03\r\n")
        assert os.read(fd, 16) == b"\x11\x13\x03\r\n"
    finally:
        os.close(fd)


def test_a_speed_that_the_system_does_not_have_is_an_error(pty: tuple[int, int]) -> None:
    with pytest.raises(OSError, match="no such speed"):
        open_port(port(os.ttyname(pty[1]), baud=12_345))


def test_what_is_no_tty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "nothing"):
        with pytest.raises(OSError, match=r"."):
            open_port(port(str(tmp_path / name)))


class Threads:
    """What the engine has for ttys, with the scan thread's part played by hand."""

    def __init__(self) -> None:
        self.offered: dict[int, int] = {}
        self.failed: list[int] = []
        self.given_up: dict[int, int] = {}

    def tty_offer(self, door: int, fd: int) -> bool:
        self.offered[door] = fd
        return True

    def tty_failed(self, door: int, error: int) -> bool:
        self.failed.append(error)
        return True

    def tty_taken_back(self, door: int) -> int | None:
        return self.given_up.pop(door, None)

    def tty_forget(self, door: int) -> None:
        self.offered.pop(door, None)


def program_on(*paths: str, **changes: int) -> bytes:
    program = on_line(mine(1), paths[0], **changes)
    program.names["ttys"] = list(paths)
    return blobs.build(program)


def test_an_equal_port_keeps_its_door_and_another_gets_its_own(pty: tuple[int, int]) -> None:
    path = os.ttyname(pty[1])
    ttys, threads = Ttys(), Threads()
    doors = ttys.doors(program_on(path))
    ttys.adopt(threads, doors)  # type: ignore[arg-type]
    assert ttys.turn(threads) is None  # type: ignore[arg-type]
    assert list(threads.offered) == doors
    assert ttys.doors(program_on(path)) == doors
    other = ttys.doors(program_on(path, baud=9600))
    assert other != doors
    ttys.adopt(threads, other)  # type: ignore[arg-type]
    assert threads.offered == {}
    assert ttys.turn(threads) is None  # type: ignore[arg-type]
    assert list(threads.offered) == other
    ttys.close()


def test_programs_that_are_refused_use_up_no_doors(pty: tuple[int, int]) -> None:
    path = os.ttyname(pty[1])
    ttys = Ttys()
    for number in range(300):
        assert max(ttys.doors(program_on(f"{path}.{number}"))) < 2


def test_what_came_back_is_closed_and_opened_again(pty: tuple[int, int]) -> None:
    ttys, threads = Ttys(), Threads()
    doors = ttys.doors(program_on(os.ttyname(pty[1])))
    ttys.adopt(threads, doors)  # type: ignore[arg-type]
    ttys.turn(threads)  # type: ignore[arg-type]
    first = threads.offered.pop(doors[0])
    threads.given_up[doors[0]] = errno.EIO
    wait_s = ttys.turn(threads)  # type: ignore[arg-type]
    assert wait_s is not None
    assert 0 < wait_s < 1
    with pytest.raises(OSError, match=r"."):
        os.fstat(first)
    ttys.close()


def test_rs485_on_a_port_without_it_is_said_once(
    pty: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    program = on_line(mine(1), os.ttyname(pty[1]), flags=DeviceFlag.RS485)
    ttys, threads = Ttys(), Threads()
    ttys.adopt(threads, ttys.doors(blobs.build(program)))  # type: ignore[arg-type]
    ttys.turn(threads)  # type: ignore[arg-type]
    threads.given_up[0] = 0
    wait_s = ttys.turn(threads)  # type: ignore[arg-type]
    assert wait_s is not None
    time.sleep(wait_s)
    assert ttys.turn(threads) is None  # type: ignore[arg-type]
    asked = [record for record in caplog.records if "RS-485" in record.getMessage()]
    assert len(asked) == 1
    ttys.close()


def test_a_tty_that_no_device_uses_has_no_door(pty: tuple[int, int]) -> None:
    path = os.ttyname(pty[1])
    assert ports_of(program_on(path, "/dev/unused"))[1] is None
    assert Ttys().doors(program_on(path, "/dev/unused")) == [0, 128]
