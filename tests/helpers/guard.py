"""A guard process of its own, the mailbox as its peers see it, and programs to run."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    ByteOrder,
    Counter,
    DeviceFlag,
    DeviceKind,
    EventType,
    InterlockFlag,
    LoadStep,
    MessageType,
    OnBad,
    Op,
    OutputFlag,
    OutputKind,
    OutputPath,
    OutputState,
    Owner,
    PointType,
    RecordMode,
    SystemTag,
    TagFlag,
)
from fastpath.journal import GuardView, OutputView
from fastpath.records import Event, payload_of
from tests.helpers.blobs import MS, SECOND, Code, conditions

BREAKER_COIL = 16
BREAKER_CONTACT = 1
METHANE_AT = (100, 102, 104)
WAIT_S = 8.0


@contextmanager
def directories() -> Iterator[tuple[Path, Path]]:
    """(runtime, state): the first in shared memory, both gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="sitewarden-t", dir="/dev/shm") as runtime,
        tempfile.TemporaryDirectory(prefix="sitewarden-t") as state,
    ):
        yield Path(runtime), Path(state)


def mine(port: int, *, armed: bool = True, **changes: Any) -> blobs.Program:
    """Three methane transmitters, 2oo3 at 1.5 until below 1.0, one breaker with its contact.

    ``changes`` replace fields of the interlock.
    """
    code = conditions(0, start_within_ns=SECOND)
    program = code.program
    program.tags = [
        blobs.Tag(
            10 + i, 0.0, 4.0, 500 * MS, 0, 0, Owner.GUARD, RecordMode.ALL,
            TagFlag.HAS_RANGE | TagFlag.IN_INTERLOCK, 0,
        )
        for i in range(3)
    ]  # fmt: skip
    program.tags += [
        blobs.Tag(
            20, 0.0, 0.0, 500 * MS, owner=Owner.GUARD, record=RecordMode.CHANGE,
            flags=TagFlag.BOOLEAN, device=0,
        ),
        blobs.Tag(30, owner=Owner.SYSTEM, system=SystemTag.DEVICE_CONNECTED, device=0),
        blobs.Tag(40, owner=Owner.GATEWAY, record=RecordMode.ALL, stale_after_ns=SECOND),
    ]  # fmt: skip
    _cause(code, program, armed, changes)
    program.outputs = [
        blobs.Output(
            key=3, confirm_ns=500 * MS, reassert_ns=300 * MS, silence_ns=0, device=0,
            readback=3, address=BREAKER_COIL, trip=0, normal=1, unit=1,
            path=OutputPath.MODBUS, kind=OutputKind.COIL, flags=OutputFlag.HAS_NORMAL,
        )
    ]  # fmt: skip
    program.devices = [
        blobs.Device(
            key=1, address=bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]),
            connect_timeout_ns=200 * MS, timeout_ns=200 * MS, settle_ns=50 * MS,
            every_ns=100 * MS, watchdog_ns=5 * SECOND, request_delay_ns=0,
            connected_within_ns=SECOND, port=port, heartbeat_address=90,
            flags=DeviceFlag.HAS_HEARTBEAT, unit=1, kind=DeviceKind.MODBUS_TCP,
        )
    ]  # fmt: skip
    program.requests = [
        blobs.Request(0, 0, 3, 10 * MS, 100, 6, 4, 1),
        blobs.Request(0, 3, 1, 10 * MS, BREAKER_CONTACT, 1, 2, 1),
    ]
    program.decode = [
        blobs.Decode(i, 0, 2 * i, PointType.FLOAT32, ByteOrder.ABCD) for i in range(3)
    ] + [blobs.Decode(3, 1, 0, PointType.BOOL, ByteOrder.ABCD)]
    program.names = {
        "tags": ["ch4.t1", "ch4.t2", "ch4.t3", "breaker.closed", "sys.plc.connected", "slow"],
        "interlocks": ["cut"],
        "outputs": ["breaker"],
        "devices": ["plc"],
    }
    return program


def _cause(code: Code, program: blobs.Program, armed: bool, changes: dict[str, Any]) -> None:
    votes = [
        code.until(code.compare(Op.GE, slot, 1.5), code.compare(Op.LT, slot, 1.0))
        for slot in range(3)
    ]
    cause = code.moon(2, votes)
    low = [code.compare(Op.LT, slot, 1.0) for slot in range(3)]
    permissive = code.op(Op.AND, code.op(Op.AND, low[0], low[1]), low[2])
    program.groups = [blobs.Group(5, 1)]
    flags = InterlockFlag.LATCH | (InterlockFlag.ARMED if armed else 0)
    interlock = blobs.Interlock(
        key=7, fingerprint=99, delay_ns=0, bad_for_ns=0, hold_max_ns=0, min_trip_ns=0,
        response_ns=2 * SECOND, bypass_max_ns=0, order=0, cause=cause, permissive=permissive,
        group=0, flags=flags, on_bad=OnBad.TRIP, legs_first=0, legs_count=3,
        effects_first=0, effects_count=1,
    )  # fmt: skip
    program.interlocks = [replace(interlock, **changes)]
    program.legs = [blobs.Leg(0, votes[slot], slot, 1.5) for slot in range(3)]
    program.effects = [blobs.Effect(0, 0)]


class Client:
    """One mailbox session, blocking, as a gateway or an operator has it."""

    def __init__(self, path: Path, *, hello: bool = True, timeout_s: float = WAIT_S) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout_s)
        self.welcome: messages.Welcome | None = None
        try:
            self.socket.connect(str(path))
            if hello:
                self._say_hello()
        except OSError:
            self.socket.close()
            raise

    def _say_hello(self) -> None:
        body = messages.HELLO.pack(messages.VERSION, messages.VERSION_OLDEST, 0, os.urandom(16))
        self.send(MessageType.HELLO, body)
        self.welcome = messages.welcome_of(self.receive(MessageType.WELCOME)[1])

    def send(self, kind: MessageType, body: bytes, ident: bytes = bytes(16)) -> None:
        """One message."""
        self.socket.send(messages.pack(kind, body, ident))

    def receive(self, wanted: MessageType) -> tuple[bytes, bytes]:
        """(id, body) of the next message of a type; others are passed over."""
        while True:
            message = self.socket.recv(messages.MESSAGE_BYTES_MAX)
            if not message:
                raise ConnectionResetError
            kind, ident, body = messages.unpack(message)
            if kind == wanted:
                return ident, body

    def command(
        self, kind: MessageType, body: bytes, ident: bytes | None = None
    ) -> messages.Result:
        """Send and wait for the result of the same id."""
        ident = ident or os.urandom(16)
        self.send(kind, body, ident)
        while True:
            answered, result = self.receive(MessageType.RESULT)
            if answered == ident:
                return messages.result_of(result)

    def closed_by_peer(self) -> bool:
        """The guard ended this session (waits for it)."""
        while True:
            try:
                if not self.socket.recv(messages.MESSAGE_BYTES_MAX):
                    return True
            except TimeoutError:
                return False
            except ConnectionResetError:
                return True

    def close(self) -> None:
        """End the session."""
        self.socket.close()


class GuardProcess:
    """The guard under test; ``boot_id`` may be changed between starts."""

    def __init__(self, runtime: Path, state: Path) -> None:
        self.runtime = runtime
        self.state = state
        self.boot_id_path = state / "boot_id"
        self.boot(1)
        self.prefix: tuple[str, ...] = ()  # command that starts it, such as unshare
        self.options: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}  # besides our own
        self.said = ""  # on stderr, until it was ready
        self.process: asyncio.subprocess.Process | None = None
        self.view: GuardView | None = None
        self.clients: list[Client] = []

    def boot(self, number: int) -> None:
        """Another boot of the machine."""
        self.boot_id_path.write_text(f"{number:032x}\n")

    async def start(self) -> None:
        """Start and wait until it scans."""
        self.process = await asyncio.create_subprocess_exec(
            *self.prefix, sys.executable, "-m", "fastpath.guard",
            "--runtime-dir", str(self.runtime), "--state-dir", str(self.state),
            "--boot-id-path", str(self.boot_id_path), *self.options,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, **self.environment},
        )  # fmt: skip
        assert self.process.stderr is not None
        async with asyncio.timeout(WAIT_S):
            while b"ready" not in (line := await self.process.stderr.readline()):
                self.said += line.decode()
                if not line:
                    message = f"the guard ended with {await self.process.wait()}"
                    raise RuntimeError(message)
        if self.view is not None:
            self.view.close()
        self.view = GuardView(str(self.runtime / "guard.shm"))

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), WAIT_S)
        # The transport reads the rest of stderr, so that its pipe closes.
        assert self.process.stderr is not None
        await self.process.stderr.read()
        return code

    async def close(self) -> None:
        """Nothing is left of it."""
        for client in self.clients:
            client.close()
        if self.process is not None and self.process.returncode is None:
            await self.stop(signal.SIGKILL)
        if self.view is not None:
            self.view.close()

    def client(self, *, hello: bool = True) -> Client:
        """A mailbox session that ends with the guard."""
        client = Client(self.runtime / "guard.sock", hello=hello)
        self.clients.append(client)
        return client

    def load(
        self, program: blobs.Program, step: LoadStep = LoadStep.SWAP, flags: int = 0
    ) -> messages.Result:
        """Put a program into place and ask for it."""
        blob = blobs.build(program)
        digest = blobs.blob_hash(blob)
        folder = self.state / "programs"
        folder.mkdir(exist_ok=True)
        (folder / digest.hex()).write_bytes(blob)
        client = self.client()
        try:
            return client.command(
                MessageType.LOAD, messages.LOAD.pack(digest, bytes(32), 1, step, flags)
            )
        finally:
            client.close()

    def output(self, index: int = 0) -> OutputView:
        """The output's latch now."""
        assert self.view is not None
        return self.view.output(index)

    def counter(self, which: Counter) -> int:
        """A count of the header."""
        assert self.view is not None
        return int(self.view.header().counters[which])

    def events(self, *types: EventType) -> list[Event]:
        """All records so far, or those of some types."""
        assert self.view is not None
        found = self.view.events(0, 100_000)
        return [e for e in found if not types or e.type in types]

    async def until(self, condition: Callable[[], bool], wait_s: float = WAIT_S) -> None:
        """Wait until the shared file says so; on failure the error shows the journal."""
        try:
            async with asyncio.timeout(wait_s):
                # Another process writes what is looked at: there is nothing to await.
                while not condition():  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        except TimeoutError:
            told = [(EventType(e.type).name, payload_of(e)) for e in self.events()]
            message = "\n".join(str(line) for line in told[-30:])
            raise AssertionError(message) from None

    async def until_output(self, state: OutputState, index: int = 0) -> None:
        """Wait for an output's state."""
        await self.until(lambda: self.output(index).state == state)

    async def until_interlock(self, state: int, index: int = 0) -> None:
        """Wait for an interlock's state."""
        assert self.view is not None
        view = self.view
        await self.until(lambda: view.interlock(index).state == state)


def reset(generation: int, key: int = 7, seq: int = 1) -> bytes:
    """Body of a RESET."""
    return messages.command(key, who="uid:test", generation=generation, ledger_seq=seq)


def other_outputs(program: blobs.Program) -> blobs.Program:
    """The same program with a second breaker beside the first, tripped by the same interlock."""
    program.outputs.append(replace(program.outputs[0], key=4, address=17, readback=NONE_U32))
    program.effects.append(blobs.Effect(0, 1))
    program.interlocks[0] = replace(program.interlocks[0], effects_count=2)
    program.names["outputs"].append("second")
    return program
