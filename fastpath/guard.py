"""The guard process: its main thread, which does everything that may block.

It reads and verifies program blobs, keeps the last good one, writes the clean-stop file and waits
for signals. The scan thread (``engine.Engine.run``) does the protecting and never waits for it.
Nothing here knows TOML, asyncio or the gateway.
"""

import argparse
import contextlib
import grp
import logging
import os
import pwd
import secrets
import select
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Final

from fastpath import blob as blobs
from fastpath import program
from fastpath.codes import (
    BLOB_BYTES_MAX,
    NONE_U32,
    LoadFlag,
    LoadStep,
    ResultCode,
    ResultDetail,
)
from fastpath.cpus import cpu_refusal
from fastpath.engine import STOP_SIGNAL, Engine
from fastpath.guard_log import GuardLog
from fastpath.journal import AlreadyRunning, SharedFile
from fastpath.ttys import Ttys

_LOGGER = logging.getLogger("guard")
BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"
OPERATORS_GROUP: Final = "sitewarden-operators"
KEEP_RETRY_MS: Final = 500
CONFIRM_S: Final = 600.0  # an operator's word for a weakening program holds so long
LATCH_BYTES: Final = 128
CLEAN_MAGIC: Final = b"SWCLEAN1"
CLEAN_HEADER: Final = struct.Struct("<8s32sII")  # magic, program hash, interlocks, outputs
EXIT_RUNS_ALREADY: Final = 3


class State:
    """The guard's part of the state directory: last good program, clean stop, programs."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "programs"
        self.own = directory / "guard"
        self.last_good = self.own / "last-good"
        self.clean_stop = self.own / "clean-stop"
        self.refused = self.own / "last-good.refused"
        self.own.mkdir(mode=0o750, parents=True, exist_ok=True)

    def program(self, wanted: bytes) -> bytes | None:
        """The blob of this hash from the programs directory, None where it is not there whole."""
        return _read_blob(self.programs / wanted.hex())

    def keep_last_good(self, blob: bytes) -> None:
        """Replace the last good program: whole and durable, or not at all."""
        _write_durably(self.last_good, blob)

    def write_clean_stop(
        self, program_hash: bytes, interlocks: dict[int, bytes], outputs: dict[int, bytes]
    ) -> None:
        """What the latches were when this guard was asked to end."""
        body = CLEAN_HEADER.pack(CLEAN_MAGIC, program_hash, len(interlocks), len(outputs))
        for latches in (interlocks, outputs):
            body += b"".join(struct.pack("<Q", key) + raw for key, raw in latches.items())
        _write_durably(self.clean_stop, body + struct.pack("<I", zlib.crc32(body)))

    def read_clean_stop(self) -> tuple[dict[int, bytes], dict[int, bytes]] | None:
        """The latches of a clean stop; None where there was none, or it is damaged."""
        try:
            raw = self.clean_stop.read_bytes()
        except OSError:
            return None
        if len(raw) < CLEAN_HEADER.size + 4:
            return None
        body, crc = raw[:-4], int.from_bytes(raw[-4:], "little")
        magic, _hash, interlocks, outputs = CLEAN_HEADER.unpack_from(body)
        record = 8 + LATCH_BYTES
        whole = CLEAN_HEADER.size + (interlocks + outputs) * record
        if magic != CLEAN_MAGIC or crc != zlib.crc32(body) or len(body) != whole:
            return None
        latches: list[tuple[int, bytes]] = []
        for at in range(CLEAN_HEADER.size, whole, record):
            key = int.from_bytes(body[at : at + 8], "little")
            latches.append((key, body[at + 8 : at + record]))
        return dict(latches[:interlocks]), dict(latches[interlocks:])

    def usable_clean_stop(self) -> tuple[dict[int, bytes], dict[int, bytes]] | None:
        """As ``read_clean_stop``, but none that would stay and be believed once more.

        It speaks for one start alone: after a loss of power since then it would hide what tripped.
        """
        if not self.clean_stop.exists() or os.access(self.own, os.W_OK | os.X_OK):
            return self.read_clean_stop()
        _LOGGER.error(
            "%s cannot be taken away (is its disk read-only?): it does not count, a machine that "
            "was restarted counts as one without power",
            self.clean_stop,
        )
        return None

    def instance(self) -> int:
        """Who this guard is for the leases in its devices: random, not 0, and kept."""
        path = self.own / "instance"
        with contextlib.suppress(OSError, ValueError):
            kept = int(path.read_text(encoding="ascii"))
            if 0 < kept < 1 << 32:
                return kept
        made = 1 + secrets.randbelow((1 << 32) - 1)
        try:
            _write_durably(path, b"%d\n" % made)
        except OSError as error:
            _LOGGER.error("the instance cannot be kept, a restart will wait for leases: %s", error)
        return made

    def forget_clean_stop(self) -> None:
        """From here on a power loss is one."""
        self.clean_stop.unlink(missing_ok=True)
        _sync_directory(self.own)


def _read_blob(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(BLOB_BYTES_MAX + 1)
    except OSError:
        return None


def _write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Guard:
    """One guard: shared file, socket, engine, and the waiting for what may block."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._runtime = Path(arguments.runtime_dir)
        self._state = State(Path(arguments.state_dir))
        self._gateway_user: str | None = arguments.gateway_user
        self._notify = _notify_socket()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._main = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        boot_id = bytes.fromhex(Path(arguments.boot_id_path).read_text().strip().replace("-", ""))
        self._file = SharedFile(str(self._runtime / "guard.shm"), boot_id)
        if self._file.set_aside:
            _LOGGER.warning("damaged shared file kept as %s", self._file.set_aside)
        self._unkept: bytes | None = None  # runs, but is not the last good program on disk yet
        self._keep_failed = False
        self._cpu: int | None = arguments.cpu
        self._confirm_weakening: bool = arguments.confirm_weakening
        self._confirmed: tuple[bytes, float] = (b"", 0.0)  # by an operator: hash, when
        self._listener = self._listen()
        self._ttys = Ttys()
        self._engine = self._make_engine()

    def _listen(self) -> socket.socket:
        path = self._runtime / "guard.sock"
        path.unlink(missing_ok=True)
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        listener.bind(str(path))
        if self._gateway_user is not None:
            gid = pwd.getpwnam(self._gateway_user).pw_gid
            os.chown(path, -1, gid)
            self._file.share_with(gid)
        # Whoever connects is judged by its peer credentials; operators are no members of the
        # gateway's group.
        path.chmod(0o660 if _operators_gid() == NONE_U32 else 0o666)
        listener.listen(8)
        return listener

    def _last_good(self) -> bytes:
        """The program to start with; an unusable one is kept aside and said."""
        raw = _read_blob(self._state.last_good)
        if raw is None:
            return blobs.EMPTY
        try:
            program.verify(raw)
        except program.BlobRefused as refusal:
            _LOGGER.error("last good program is damaged: %s", refusal)
            aside = self._state.refused
            try:
                self._state.last_good.rename(aside)
            except OSError as error:
                _LOGGER.error("it cannot be kept aside: %s", error)
            else:
                _LOGGER.error("it is kept as %s", aside)
            return blobs.EMPTY
        return raw

    def _make_engine(self) -> Engine:
        protected_before = self._state.last_good.exists() or self._state.refused.exists()
        clean = self._state.usable_clean_stop()
        interlocks, outputs = clean or ({}, {})
        gateway_uid = NONE_U32
        if self._gateway_user is not None:
            gateway_uid = pwd.getpwnam(self._gateway_user).pw_uid
        self._blob = self._last_good()
        self._doors = self._ttys.doors(self._blob)
        engine = Engine(
            self._file,
            self._blob,
            listen_fd=self._listener.fileno(),
            wake_fd=self._wake,
            main_fd=self._main,
            own_uid=os.getuid(),
            gateway_uid=gateway_uid,
            operators_gid=_operators_gid(),
            notify_fd=-1 if self._notify is None else self._notify.fileno(),
            notify_ns=_watchdog_ns(),
            power_loss=self._file.fresh and clean is None and protected_before,
            lost_program=protected_before and self._blob == blobs.EMPTY,
            clean=clean is not None,
            interlocks=interlocks,
            outputs=outputs,
            doors=self._doors,
            instance=self._state.instance(),
        )
        self._ttys.adopt(engine, self._doors)
        try:
            self._state.forget_clean_stop()
        except OSError as error:
            _LOGGER.error("a loss of power would not be known as one: %s", error)
        return engine

    def run(self) -> int:
        """Until a signal or STOP; the exit code."""
        received, wakeup = socket.socketpair()
        received.setblocking(False)
        wakeup.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        # The scan thread inherits a mask that blocks everything; this thread takes the signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.stack_size(1 << 20)
        scan = threading.Thread(target=self._scan, name="scan", daemon=True)
        allowed = os.sched_getaffinity(0)
        if self._cpu is not None:
            os.sched_setaffinity(0, {self._cpu})  # what the scan thread inherits
        scan.start()
        self._engine.running.wait()
        os.sched_setaffinity(0, allowed)
        signal.set_wakeup_fd(wakeup.fileno())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._lower_myself()
        self._say_ready()
        self._serve(scan, received)
        scan.join()
        self._finish()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending, and says so by its exit code
        received.close()
        wakeup.close()
        return 0

    def _scan(self) -> None:
        try:
            self._engine.run()
        finally:
            os.eventfd_write(self._main, 1)

    def _serve(self, scan: threading.Thread, received: socket.socket) -> None:
        """Signals and LOADs, until the scan thread has ended."""
        poller = select.poll()
        poller.register(received.fileno(), select.POLLIN)
        poller.register(self._main, select.POLLIN)
        while not self._engine.stopped_by:
            for descriptor, _events in poller.poll(self._patience_ms()):
                if descriptor == self._main:
                    os.eventfd_read(self._main)
                    self._load()
                elif number := _signal_of(received):
                    self._engine.stop(number)
            if self._unkept:
                self._keep()
            if not scan.is_alive():
                break

    def _patience_ms(self) -> float | None:
        """Open and close serial ports; how long to wait for anything else, None: for ever."""
        waits_ms = [] if self._unkept is None else [KEEP_RETRY_MS * 1.0]
        retry_s = self._ttys.turn(self._engine)
        if retry_s is not None:
            waits_ms.append(retry_s * 1000.0)
        return min(waits_ms, default=None)

    def _load(self) -> None:
        """One step of a LOAD: verify and offer, or make durable what now runs."""
        if self._engine.swapped():
            self._ttys.adopt(self._engine, self._doors)
            self._unkept = self._blob
            self._keep()
            self._engine.refuse(ResultCode.DONE, 0)
            _LOGGER.warning("program %s runs", self._engine.program_hash().hex()[:16])
            return
        asked = self._engine.asked()
        if asked is None:
            return
        wanted, expected, step, flags = asked
        running = self._engine.program_hash()
        if step == LoadStep.CONFIRM:
            self._confirmed = (wanted, time.monotonic())
            self._engine.refuse(ResultCode.DONE, 0)
        elif any(expected) and expected != running:
            self._engine.refuse(ResultCode.WRONG_PROGRAM, 0)
        elif step == LoadStep.SWAP and wanted == running:
            self._engine.refuse(ResultCode.ALREADY, 0)
        elif blob := self._verified(wanted):
            self._offer(blob, step, flags)

    def _keep(self) -> None:
        """Make what runs the last good program; on a full disk again until it is."""
        if self._unkept is None:
            return
        try:
            self._state.keep_last_good(self._unkept)
        except OSError as error:
            if not self._keep_failed:
                _LOGGER.error("the program cannot be kept, a restart would run the old: %s", error)
            self._keep_failed = True
            return
        if self._keep_failed:
            _LOGGER.warning("the program is kept now")
        self._unkept = None
        self._keep_failed = False

    def _verified(self, wanted: bytes) -> bytes | None:
        """The blob of that hash, every rule checked; None where it was refused and said so."""
        blob = self._state.program(wanted)
        try:
            if blob is None or len(blob) < blobs.HEADER_BYTES or blobs.blob_hash(blob) != wanted:
                self._engine.refuse(ResultCode.REFUSED_BLOB, 1)
                return None
            program.verify(blob)
        except program.BlobRefused as refusal:
            _LOGGER.error("program %s refused: %s", wanted.hex()[:16], refusal)
            self._engine.refuse(ResultCode.REFUSED_BLOB, refusal.rule)
            return None
        return blob

    def _offer(self, blob: bytes, step: int, flags: int) -> None:
        """Swap to it, or say only what that would weaken."""
        doors = self._ttys.doors(blob)
        try:
            weakened = self._engine.prepare(blob, doors)
        except OSError as error:
            _LOGGER.error("no room for the program in guard.shm: %s", error.strerror)
            self._engine.refuse(ResultCode.LIMIT, ResultDetail.NOTHING)
            return
        detail = ResultDetail.WEAKENS + weakened if weakened else ResultDetail.NOTHING
        if step != LoadStep.SWAP:
            self._engine.refuse(ResultCode.DONE, detail)
        elif weakened and not self._may_weaken(blobs.blob_hash(blob), flags):
            self._engine.refuse(ResultCode.NOT_ALLOWED, detail)
        else:
            self._blob = blob
            self._doors = doors
            self._engine.offer()

    def _may_weaken(self, wanted: bytes, flags: int) -> bool:
        """With a reason in the ledger; where the unit asks for it, with an operator's word too."""
        if not flags & LoadFlag.WEAKENS:
            return False
        if not self._confirm_weakening:
            return True
        confirmed, at_s = self._confirmed
        return confirmed == wanted and time.monotonic() - at_s <= CONFIRM_S

    def _lower_myself(self) -> None:
        """Only the scan thread keeps the real-time class that the unit gave the process."""
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def _say_ready(self) -> None:
        if not self._engine.realtime:
            _LOGGER.warning("no real-time scheduling: reaction times are the machine's")
        if not self._engine.locked:
            _LOGGER.warning("memory is not locked: a page fault may delay a scan")
        self._tell_manager(b"READY=1")
        _LOGGER.warning(
            "guard %d ready, program %s%s",
            os.getpid(),
            self._engine.program_hash().hex()[:16],
            "" if self._cpu is None else f", scans on CPU {self._cpu}",
        )

    def _tell_manager(self, state: bytes) -> None:
        """A service manager that does not listen is no reason to end, or not to end in order."""
        if self._notify is not None:
            with contextlib.suppress(OSError):
                self._notify.send(state)

    def _finish(self) -> None:
        """Latches to the disk: the next start is none after a power loss."""
        self._tell_manager(b"STOPPING=1")
        interlocks, outputs = self._engine.latches()
        try:
            self._state.write_clean_stop(self._engine.program_hash(), interlocks, outputs)
        except OSError as error:
            _LOGGER.error("the clean stop cannot be kept, a reboot counts as power loss: %s", error)
        if self._engine.stopped_by == STOP_SIGNAL:
            _LOGGER.warning("guard ended by a signal; latches are kept, outputs stay as they are")
        else:
            _LOGGER.warning("guard ended by STOP")
        (self._runtime / "guard.sock").unlink(missing_ok=True)
        self._listener.close()
        self._ttys.close()
        self._file.close()


def _signal_of(received: socket.socket) -> int:
    try:
        numbers = received.recv(64)
    except BlockingIOError:
        return 0
    return next((n for n in numbers if n in (signal.SIGTERM, signal.SIGINT)), 0)


def _operators_gid() -> int:
    try:
        return grp.getgrnam(OPERATORS_GROUP).gr_gid
    except KeyError:
        return NONE_U32


def _notify_socket() -> socket.socket | None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return None
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    notify.connect("\0" + path[1:] if path.startswith("@") else path)
    return notify


def _watchdog_ns() -> int:
    """A quarter of the unit's WatchdogSec; half a second where there is none."""
    microseconds = int(os.environ.get("WATCHDOG_USEC", "2000000"))
    return microseconds * 1000 // 4


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fastpath.guard", description=__doc__)
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--gateway-user", help="user whose gateway is served besides our own")
    parser.add_argument(
        "--confirm-weakening",
        action="store_true",
        help="a program that weakens protection also wants an operator's confirmation",
    )
    parser.add_argument(
        "--cpu", type=int, metavar="N", help="scan on this CPU alone (default: on any)"
    )
    parser.add_argument(
        "--boot-id-path", default=os.environ.get("SITEWARDEN_BOOT_ID_PATH", BOOT_ID_PATH)
    )
    arguments = parser.parse_args(argv)
    if arguments.cpu is not None and (wrong := cpu_refusal(arguments.cpu)):
        parser.error(f"argument --cpu: {wrong}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 ended as asked, 1 cannot start, 2 usage, 3 another runs for this directory."""
    arguments = _parse(argv)
    os.umask(0o027)
    logging.basicConfig(
        handlers=[GuardLog(sys.stderr.fileno())], level=logging.INFO, format="guard: %(message)s"
    )
    try:
        guard = Guard(arguments)
    except AlreadyRunning as error:
        _LOGGER.error("%s", error)
        return EXIT_RUNS_ALREADY
    except (OSError, MemoryError, ValueError, KeyError) as error:
        _LOGGER.error("cannot start: %s", error)
        return 1
    return guard.run()


if __name__ == "__main__":
    sys.exit(main())
