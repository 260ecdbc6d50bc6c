"""A real guard in a process of its own with a small program over a libmodbus device.

Three interlocks: ``gas-high`` (armed; power and siren; permissive gas < 0.8), ``fan-stopped``
(armed; power) and ``watch-gas`` (unarmed; siren).
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    ByteOrder,
    DeviceKind,
    InterlockFlag,
    InterlockState,
    MessageType,
    NodeKind,
    OnBad,
    Op,
    OutputFlag,
    OutputKind,
    OutputPath,
    OutputState,
    Owner,
    PointType,
    RecordMode,
    ResultCode,
    TagFlag,
)
from fastpath.journal import GuardView, JournalError
from gateway.guard.apply import store_program
from gateway.guard.link import GuardLink
from gateway.paths import Paths, prepare
from tests.helpers.blobs import MS, SECOND, Code
from tests.helpers.linking import connected
from tests.helpers.modbus_server import ModbusServer

GAS = 100  # ir, float32
CONTACT = 5  # di, follows the power coil
FAN = 6  # di
POWER = 16  # coil
SIREN = 17
WAIT_S = 10.0
UNITS = {"gas": "%CH4"}


def site_program(port: int, confirm_ns: int = 500 * MS) -> bytes:
    """The program's blob for a device on ``port``."""
    code = Code(blobs.Program(7, tick_ns=10 * MS, start_within_ns=500 * MS))
    program = code.program
    tags = sorted(("gas", "power.closed", "fan.running"), key=lambda i: blobs.key_of("tag", i))
    slot = {ident: i for i, ident in enumerate(tags)}
    for ident in tags:
        flags = TagFlag.IN_INTERLOCK | (TagFlag.BOOLEAN if ident != "gas" else TagFlag.HAS_RANGE)
        high = 4.0 if ident == "gas" else 0.0
        program.tags.append(
            blobs.Tag(
                blobs.key_of("tag", ident), 0.0, high, 500 * MS, owner=Owner.GUARD,
                record=RecordMode.CHANGE, flags=flags, device=0,
            )
        )  # fmt: skip
    outputs = sorted(("power", "siren"), key=lambda i: blobs.key_of("output", i))
    for ident in outputs:
        power = ident == "power"
        program.outputs.append(
            blobs.Output(
                key=blobs.key_of("output", ident), confirm_ns=confirm_ns, reassert_ns=SECOND,
                silence_ns=0, device=0, readback=slot["power.closed"] if power else NONE_U32,
                address=POWER if power else SIREN, trip=0, normal=1, unit=1,
                path=OutputPath.MODBUS, kind=OutputKind.COIL, flags=OutputFlag.HAS_NORMAL,
            )
        )  # fmt: skip
    texts = _interlocks(code, slot, {ident: i for i, ident in enumerate(outputs)})
    _device(program, port, slot)
    program.names = {
        "tags": tags,
        "units": [UNITS.get(ident, "") for ident in tags],
        "outputs": outputs,
        "devices": ["plc"],
        "site": ["bench", "bench-gw"],
        **texts,
    }
    return blobs.build(program)


def _interlocks(code: Code, slot: dict[str, int], output: dict[str, int]) -> dict[str, list[str]]:
    program = code.program
    texts: dict[str, list[str]] = {"interlocks": [], "causes": [], "permissives": [], "legs": []}
    cases = {
        "gas-high": ("gas >= 1.5 until < 1.0", "gas < 0.8", True, ("power", "siren")),
        "fan-stopped": ("not fan.running", "", True, ("power",)),
        "watch-gas": ("gas >= 1.2", "", False, ("siren",)),
    }
    for order, ident in enumerate(sorted(cases, key=lambda i: blobs.key_of("interlock", i))):
        text, permissive_text, armed, effects = cases[ident]
        permissive = NONE_U32
        if ident == "gas-high":
            cause = code.until(
                code.compare(Op.GE, slot["gas"], 1.5), code.compare(Op.LT, slot["gas"], 1.0)
            )
            program.nodes[-1] = blobs.Node(NodeKind.UNTIL, order, 0, 99)
            permissive = code.compare(Op.LT, slot["gas"], 0.8)
        elif ident == "fan-stopped":
            cause = code.op(Op.NOT, code.op(Op.BOOL, code.tag(slot["fan.running"])))
        else:
            cause = code.compare(Op.GE, slot["gas"], 1.2)
        leading = "fan.running" if ident == "fan-stopped" else "gas"
        program.interlocks.append(
            blobs.Interlock(
                key=blobs.key_of("interlock", ident), fingerprint=blobs.fingerprint_of([text]),
                delay_ns=0, bad_for_ns=0, hold_max_ns=0, min_trip_ns=0, response_ns=2 * SECOND,
                bypass_max_ns=SECOND, order=order, cause=cause, permissive=permissive,
                group=NONE_U32, flags=InterlockFlag.LATCH | (InterlockFlag.ARMED if armed else 0),
                on_bad=OnBad.TRIP, legs_first=len(program.legs), legs_count=1,
                effects_first=len(program.effects), effects_count=len(effects),
            )
        )  # fmt: skip
        program.legs.append(blobs.Leg(order, cause, slot[leading], 1.5))
        program.effects += [
            blobs.Effect(order, index) for index in sorted(output[name] for name in effects)
        ]
        for name, value in (("interlocks", ident), ("causes", text), ("legs", text),
                            ("permissives", permissive_text)):  # fmt: skip
            texts[name].append(value)
    return texts


def _device(program: blobs.Program, port: int, slot: dict[str, int]) -> None:
    program.devices = [
        blobs.Device(
            key=blobs.key_of("device", "plc"),
            address=bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]), connect_timeout_ns=200 * MS,
            timeout_ns=200 * MS, settle_ns=50 * MS, every_ns=0, watchdog_ns=0, request_delay_ns=0,
            connected_within_ns=SECOND, port=port, heartbeat_address=0, flags=0, unit=1,
            kind=DeviceKind.MODBUS_TCP,
        )
    ]  # fmt: skip
    program.requests = [
        blobs.Request(0, 0, 1, 20 * MS, GAS, 2, 4, 1),
        blobs.Request(0, 1, 2, 20 * MS, CONTACT, 2, 2, 1),
    ]
    program.decode = [
        blobs.Decode(slot["gas"], 0, 0, PointType.FLOAT32, ByteOrder.ABCD),
        blobs.Decode(slot["power.closed"], 1, 0, PointType.BOOL, ByteOrder.ABCD),
        blobs.Decode(slot["fan.running"], 1, 1, PointType.BOOL, ByteOrder.ABCD),
    ]


@dataclass(slots=True)
class LiveGuard:
    """The processes, the map and a link; an async context manager."""

    paths: Paths
    server: ModbusServer
    link: GuardLink
    program: bytes = b""
    process: subprocess.Popen[bytes] | None = None
    view: GuardView | None = None
    task: "asyncio.Task[None] | None" = None
    release: bool = True  # the siren has no read-back: it starts HELD
    stuck: bool = False  # the breaker's contact never opens

    @classmethod
    def at(
        cls, directory: Path, server: ModbusServer, *, release: bool = True, stuck: bool = False
    ) -> Self:
        """Nothing runs yet. ``release``: let the siren go to its normal value at first."""
        paths = Paths(directory / "run", directory / "state")
        prepare(paths)
        return cls(paths, server, GuardLink(paths.guard_sock), release=release, stuck=stuck)

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _begin(self) -> None:
        self.server.set_float("ir", GAS, 0.3)
        self.server.set("di", FAN, 1)
        self.server.set("c", POWER, 1, 1)
        if self.stuck:
            self.server.set("di", CONTACT, 1)
        else:
            self.server.link(POWER, CONTACT, 5.0)
        await self.server.sync()
        self.start()
        await self.until(lambda: self._open())
        self.task = asyncio.create_task(self.link.run())
        await asyncio.wait_for(connected(self.link), WAIT_S)
        await self.load(site_program(self.server.port))

    async def __aexit__(self, *_: object) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
        self.end()
        if self.view is not None:
            self.view.close()

    def start(self) -> None:
        """Start the guard."""
        command = [sys.executable, "-m", "fastpath.guard"]
        command += ["--runtime-dir", os.fspath(self.paths.runtime)]
        command += ["--state-dir", os.fspath(self.paths.state)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(WAIT_S)
            self.process = None

    async def load(self, program: bytes) -> None:
        """Bring a program to it and wait until its outputs are released."""
        self.program = program
        digest = store_program(self.paths, program)
        result = await self.link.load(digest, bytes(32), 1)
        assert result.code == ResultCode.DONE, result
        outputs = blobs.names(program)["outputs"]
        await self.output_of("power", OutputState.RELEASED)
        if self.release:
            latch = self.map().output(outputs.index("siren"))
            result = await self._released_when_known(latch.key)
            # ALREADY: on a first start a read-back that agrees lets it go by itself.
            assert result.code in (ResultCode.DONE, ResultCode.ALREADY), result
            await self.output_of("siren", OutputState.RELEASED)

    async def _released_when_known(self, key: int) -> messages.Result:
        """The answer to a release once its causes have been read."""
        body = messages.command(key, who="test", generation=0, ledger_seq=1)
        async with asyncio.timeout(WAIT_S):
            while True:
                result = await self.link.command(MessageType.RELEASE, body)
                if result.code != ResultCode.CAUSE_UNKNOWN:
                    return result

    async def until(self, so: Callable[[], bool]) -> None:
        """Wait for something that guard.shm shows."""
        async with asyncio.timeout(WAIT_S):
            while not so():  # noqa: ASYNC110  another process makes it so
                await asyncio.sleep(0.005)

    async def state_of(self, ident: str, state: InterlockState) -> None:
        """Wait until an interlock is in a state."""
        index = blobs.names(self.program)["interlocks"].index(ident)
        await self.until(lambda: self.map().interlock(index).state == state)

    async def output_of(self, ident: str, state: OutputState) -> None:
        """Wait until an output is in a state."""
        index = blobs.names(self.program)["outputs"].index(ident)
        await self.until(lambda: self.map().output(index).state == state)

    def map(self) -> GuardView:
        """guard.shm."""
        assert self.view is not None
        return self.view

    def blob(self, program: bytes) -> bytes | None:
        """What Commands and the view ask for names."""
        for known in (self.program, blobs.EMPTY):
            if known[blobs.HASH_AT : blobs.HASH_AT + 32] == program:
                return known
        return None

    def _open(self) -> bool:
        try:
            self.view = GuardView(os.fspath(self.paths.guard_shm))
        except JournalError:
            return False
        return self.view.guard_alive() and self.view.header().scan > 0
