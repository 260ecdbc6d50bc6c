"""The simulated mine face as a PLC: registers behind a Modbus server.

Registers (unit 1, zero-based; float32 ABCD):
    ir:100 ir:102 ir:104  methane of three transmitters, %CH4        ir:106  air speed, m/s
    di:0 fan running      di:1 breaker closed (auxiliary contact)    di:2    siren sounds
    c:16 permit of the breaker (0 opens it)      c:17 silence of the siren (0 lets it sound)
    hr:90 hr:91  heartbeat, watched: once seen and then still for 5 s, the PLC opens the breaker
"""

import json
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pymodbus.constants import ExcCodes
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.mine_face import MineFace

UNIT: Final = 1
INPUTS_FIRST: Final = 100
PERMIT_COIL: Final = 16
SILENCE_COIL: Final = 17
HOLDING_FIRST: Final = 80
HOLDING_COUNT: Final = 20
HEARTBEAT: Final = 90
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

    def obey_line(self, line: bytes) -> str:
        """Carry out a line: a word, or JSON with it; what to print, mostly nothing."""
        text = line.decode(errors="replace").strip()
        if text[:1] in ("{", '"'):
            try:
                given = json.loads(text)
            except ValueError:
                given = text
            text = str(given.get("command", "")) if isinstance(given, dict) else str(given)
        return self.obey(" ".join(text.split())) if text else ""

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


def _set_bits(registers: list[int], bits: Sequence[bool], *, first: int) -> None:
    """Put bits into 16-bit words, the first word's least significant one being number 0."""
    for number, bit in enumerate(bits, start=first):
        word, place = divmod(number, 16)
        registers[word] = (registers[word] & ~(1 << place)) | (int(bit) << place)
