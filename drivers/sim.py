"""Simulated devices for the demo and dry runs: ``python -m drivers.sim mine-face --port 0``.

Modbus TCP on loopback. Prints ``{"port": N}`` when it listens, takes commands as lines on stdin
(a word, or JSON with it) and ends when stdin closes or on SIGTERM.

Registers (unit 1, zero-based; float32 ABCD):
    ir:100 ir:102 ir:104  methane of three transmitters, %CH4        ir:106  air speed, m/s
    di:0 fan running      di:1 breaker closed (auxiliary contact)    di:2    siren sounds
    c:16 permit of the breaker (0 opens it)      c:17 silence of the siren (0 lets it sound)
    hr:90 hr:91  heartbeat, watched: once seen and then still for 5 s, the PLC opens the breaker
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.mine_face import SECOND_NS, MineFace

HOST: Final = "127.0.0.1"
UNIT: Final = 1
INPUTS_FIRST: Final = 100
PERMIT_COIL: Final = 16
SILENCE_COIL: Final = 17
HOLDING_FIRST: Final = 80
HOLDING_COUNT: Final = 20
HEARTBEAT: Final = 90
TICK_S: Final = 0.01
LINE_MAX: Final = 4096
COMMANDS: Final = ("inflow", "clear", "fan on", "fan off", "state")


class MineFacePlc:
    """The mine face as registers behind a Modbus server."""

    def __init__(self, face: MineFace, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._face = face
        self._monotonic_ns = monotonic_ns

    def device(self) -> SimDevice:
        """The register blocks: coils, discrete inputs, holding and input registers."""
        return SimDevice(
            UNIT,
            simdata=(
                [SimData(0, values=[False] * 32, datatype=DataType.BITS)],
                [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
                [SimData(HOLDING_FIRST, count=HOLDING_COUNT, datatype=DataType.REGISTERS)],
                [SimData(INPUTS_FIRST, count=8, datatype=DataType.REGISTERS)],
            ),
            action=self.access,
        )

    async def access(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Called by the server before each access: write into the face, or show it."""
        now_ns = self._monotonic_ns()
        self._face.step(now_ns)
        if function in (5, 15) and values is not None:
            self._write_coils(address, values, now_ns)
        elif function in (6, 16) and values is not None:
            self._write_registers(start, address, list(registers), values, now_ns)
        elif function in (1, 5, 15):
            _set_bits(registers, self._coils(), first=PERMIT_COIL - 16 * start)
        elif function == 2:
            _set_bits(registers, self._contacts(), first=0)
        elif function == 4:
            registers[:8] = self._inputs()
        return None

    def _coils(self) -> tuple[bool, ...]:
        return (self._face.breaker.permit, self._face.silence)

    def _contacts(self) -> tuple[bool, ...]:
        return (self._face.fan, self._face.breaker.closed, self._face.siren)

    def _inputs(self) -> list[int]:
        data = struct.pack(">4f", *self._face.methane, self._face.air_speed)
        return list(struct.unpack(">8H", data))

    def _write_coils(self, address: int, values: Sequence[int], now_ns: int) -> None:
        for coil, value in enumerate(values, start=address):
            if coil == PERMIT_COIL:
                self._face.breaker.set_permit(bool(value), now_ns)
            elif coil == SILENCE_COIL:
                self._face.silence = bool(value)

    def _write_registers(
        self, start: int, address: int, registers: list[int], values: Sequence[int], now_ns: int
    ) -> None:
        registers[address - start : address - start + len(values)] = values
        place = HEARTBEAT - start
        self._face.watchdog.beat((registers[place], registers[place + 1]), now_ns)

    def obey(self, command: str) -> str:
        """Carry out one command; what to print, mostly nothing."""
        face = self._face
        if command == "inflow":
            face.inflow = True
        elif command == "clear":
            face.inflow = False
        elif command in ("fan on", "fan off"):
            face.fan = command == "fan on"
        elif command == "state":
            face.step(self._monotonic_ns())
            return json.dumps(self._state())
        else:
            return json.dumps({"error": f"unknown command {command!r}", "commands": COMMANDS})
        return ""

    def _state(self) -> dict[str, Any]:
        face = self._face
        return {
            "breaker": "closed" if face.breaker.closed else "open",
            "coil": face.breaker.permit,
            "siren": face.siren,
            "fan": face.fan,
            "inflow": face.inflow,
            "methane": [round(value, 3) for value in face.methane],
            "air_speed": round(face.air_speed, 2),
            "heartbeat": list(face.watchdog.heartbeat),
            "watchdog": face.watchdog.bitten,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one simulated device until it is told to end; 1 where it cannot listen."""
    parser = argparse.ArgumentParser(prog="python -m drivers.sim", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("device", choices=("mine-face",))
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--stuck-breaker", action="store_true", help="the breaker never opens")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument(
        "--seconds-per-cycle", type=float, default=0.0, help="an inflow by itself this often"
    )
    options = parser.parse_args(arguments)
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    face = MineFace(time.monotonic_ns(), stuck_breaker=options.stuck_breaker, seed=options.seed)
    plc = MineFacePlc(face)
    server = ModbusTcpServer(plc.device(), address=(HOST, options.port))
    try:
        await server.serve_forever(background=True)
    except RuntimeError:
        sys.stderr.write(f"{HOST}:{options.port}: cannot listen, is the port in use?\n")
        return 1
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    _say(json.dumps({"port": _port_of(server)}))
    _listen_to_stdin(loop, plc, ending)
    living = asyncio.create_task(_live(face, options.seconds_per_cycle))
    await ending.wait()
    living.cancel()
    server.close()
    return 0


async def _live(face: MineFace, cycle_s: float) -> None:
    """Step the face; with a cycle, let gas in once per cycle."""
    inflow_ns = time.monotonic_ns() + int(cycle_s * SECOND_NS / 2)
    while True:
        now_ns = time.monotonic_ns()
        face.step(now_ns)
        if cycle_s and now_ns >= inflow_ns:
            face.inflow = True
            inflow_ns += int(cycle_s * SECOND_NS)
        await asyncio.sleep(TICK_S)


def _listen_to_stdin(
    loop: asyncio.AbstractEventLoop, plc: MineFacePlc, ending: asyncio.Event
) -> None:
    """Obey lines from a thread of its own, which any kind of stdin allows."""

    def listen() -> None:
        rest = b""
        while data := os.read(0, LINE_MAX):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-LINE_MAX:]
            for line in lines:
                loop.call_soon_threadsafe(_obey, plc, line)
        loop.call_soon_threadsafe(ending.set)

    threading.Thread(target=listen, daemon=True).start()


def _obey(plc: MineFacePlc, line: bytes) -> None:
    text = line.decode(errors="replace").strip()
    if text[:1] in ("{", '"'):
        try:
            given = json.loads(text)
        except ValueError:
            given = text
        text = str(given.get("command", "")) if isinstance(given, dict) else str(given)
    if text and (answer := plc.obey(" ".join(text.split()))):
        _say(answer)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _port_of(server: ModbusTcpServer) -> int:
    listener: Any = server.transport
    port: int = listener.sockets[0].getsockname()[1]
    return port


def _set_bits(registers: list[int], bits: Sequence[bool], *, first: int) -> None:
    """Put bits into 16-bit words, the first word's least significant one being number 0."""
    for number, bit in enumerate(bits, start=first):
        word, place = divmod(number, 16)
        registers[word] = (registers[word] & ~(1 << place)) | (int(bit) << place)


if __name__ == "__main__":
    sys.exit(main())
