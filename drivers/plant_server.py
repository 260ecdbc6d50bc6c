"""A simulated plant: its devices on Modbus TCP, on serial lines and as OPC UA servers.

``PlantServers.obey`` takes commands as JSON tables, one answer each: drive a tag, make it bad, let
it go, stop a final element, make a device silent, busy or cut off.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from drivers.errors import DriverError, LinkError, RequestError
from drivers.instrument import Instrument
from drivers.plant import Fault, Plant, PlantText, ServerText
from drivers.plant_line import SerialLine
from drivers.plant_unit import Unit

if TYPE_CHECKING:
    from drivers.plant_opcua import NodeServer

HOST: Final = "127.0.0.1"
CONNECTIONS_MAX: Final = 64  # of one device
PDU_BYTES_MAX: Final = 253
BUSY: Final = 6
NO_SUCH_UNIT: Final = 11
_MBAP: Final = struct.Struct(">HHHB")  # transaction, protocol, length, unit


class Command(Struct, frozen=True, forbid_unknown_fields=True):
    """One line to a plant. What a command does not need is left out."""

    do: Literal["drive", "bad", "end", "driven", "value", "stick", "fault", "become"]
    tag: str = ""
    value: float = 0.0
    over_s: float = 0.0  # how long a drive takes to get there
    output: str = ""
    stuck: bool = True
    device: str = ""
    fault: Fault = "none"
    description: str = ""  # become: the file of another plant
    number: int = 0  # comes back with the answer


class _Numbered(Struct, frozen=True):
    """The number of a command that may be wrong in all else."""

    number: int = 0


class Units:
    """Every unit of one simulated device, by its number."""

    def __init__(self, text: ServerText, plant: Plant, monotonic_ns: Callable[[], int]) -> None:
        numbers = {tag.unit for tag in text.tags} | {output.unit for output in text.outputs}
        numbers |= {beat.unit for beat in text.heartbeats}
        numbers |= {register.unit for register in text.registers}
        self._units = {number: Unit(number, text, plant) for number in numbers}
        self._monotonic_ns = monotonic_ns

    def go_on(self, before: "Units") -> None:
        """Keep what was written into the units of both."""
        for number in self._units.keys() & before._units.keys():  # noqa: SLF001  of its own kind
            self._units[number].go_on(before._units[number])  # noqa: SLF001

    def answer(self, unit: int, request: bytes) -> bytes | None:
        """The reply's PDU; None where there is no such unit."""
        found = self._units.get(unit)
        return None if found is None else found.answer(request, self._monotonic_ns())


class TcpServer:
    """One simulated device on Modbus TCP."""

    def __init__(self, port: int, units: Units) -> None:
        self.fault: Fault = "none"
        self._port = port
        self._units = units
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def bind(self) -> int:
        """Take a port, which it gives; who connects waits for ``start``. Raises LinkError."""
        if self._socket is None:
            try:
                self._socket = socket.create_server((HOST, self._port))
            except OSError as error:
                text = f"{HOST}:{self._port}: cannot listen: {error.strerror}"
                raise LinkError(text) from error
            self._port = self._socket.getsockname()[1]
        return self._port

    async def start(self) -> int:
        """Listen; the port. Raises LinkError."""
        self.bind()
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        return self._port

    def become(self, units: Units) -> int:
        """Be another device behind the same connections; the port."""
        units.go_on(self._units)
        self._units = units
        return self._port

    async def close(self) -> None:
        """End every connection and listen no more."""
        if self._server is None and self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()

    def answer(self, unit: int, request: bytes) -> bytes | None:
        """The reply's PDU; None: no answer."""
        if self.fault == "silent":
            return None
        if self.fault == "busy":
            return bytes((request[0] | 0x80, BUSY))
        return self._units.answer(unit, request) or bytes((request[0] | 0x80, NO_SUCH_UNIT))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault == "cut" or len(self._writers) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False where it is no Modbus."""
        head = await reader.readexactly(_MBAP.size)
        transaction, protocol, length, unit = _MBAP.unpack(head)
        if protocol or not 2 <= length <= PDU_BYTES_MAX + 1:
            return False
        reply = self.answer(unit, await reader.readexactly(length - 1))
        if reply is not None:
            writer.write(_MBAP.pack(transaction, 0, len(reply) + 1, unit) + reply)
            await writer.drain()
        return True


class PlantServers:
    """Every device of a plant, and the one who obeys."""

    def __init__(
        self, text: PlantText, *, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._plant = Plant(text, monotonic_ns())
        self._servers = {server.name: self._made(server) for server in text.servers}
        self._turning: set[asyncio.Task[Any]] = set()  # servers that begin or end

    def _made(self, text: ServerText) -> "TcpServer | SerialLine | NodeServer":
        """Raises PointError for an instrument that cannot be simulated."""
        if text.kind == "opcua":
            from drivers.plant_opcua import NodeServer  # the library is not every plant's

            return NodeServer(text.nodes, self._plant, self._monotonic_ns)
        units = Units(text, self._plant, self._monotonic_ns)
        if text.kind == "tcp":
            return TcpServer(text.port, units)
        instruments = [
            (Instrument(each), tuple(tag.id for tag in each.tags)) for each in text.instruments
        ]
        answer = units.answer if text.kind == "rtu" else None
        return SerialLine(answer, instruments, self._plant, self._monotonic_ns)

    async def start(self) -> Mapping[str, int | str]:
        """Listen everywhere; by device its port, its line's path or its URL. Raises LinkError."""
        return {name: await server.start() for name, server in self._servers.items()}

    def become(self, text: PlantText) -> dict[str, int]:
        """Be another plant, of TCP devices alone; by device its port. Raises DriverError.

        Devices of the same name keep their port and connections, tags and outputs their state.
        """
        if any(not isinstance(server, TcpServer) for server in self._servers.values()) or any(
            server.kind != "tcp" for server in text.servers
        ):
            told = "a plant with other devices than Modbus TCP stays as it is"
            raise RequestError(told)
        self._plant.become(text, self._monotonic_ns())
        ports: dict[str, int] = {}
        names = {server.name for server in text.servers}
        for name in self._servers.keys() - names:
            self._turn(self._servers.pop(name).close())
        for each in text.servers:
            known = self._servers.get(each.name)
            units = Units(each, self._plant, self._monotonic_ns)
            if isinstance(known, TcpServer):
                ports[each.name] = known.become(units)
                continue
            fresh = self._servers[each.name] = TcpServer(each.port, units)
            ports[each.name] = fresh.bind()
            self._turn(fresh.start())
        return ports

    def _turn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._turning.add(task)
        task.add_done_callback(self._turning.discard)

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*self._turning)
        for server in self._servers.values():
            await server.close()

    def obey(self, line: bytes) -> dict[str, Any]:
        """Carry out one command: ``text`` says what was done, ``error`` why not.

        The answer has the ``number`` of the command, where it has one.
        """
        answer: dict[str, Any] = {}
        try:
            if number := msgspec.json.decode(line, type=_Numbered).number:
                answer["number"] = number
            command = msgspec.json.decode(line, type=Command)
            return answer | self._carry_out(command)
        except (msgspec.MsgspecError, DriverError) as error:
            return answer | {"error": str(error)}

    def _carry_out(self, command: Command) -> dict[str, Any]:
        plant, now_ns = self._plant, self._monotonic_ns()
        match command.do:
            case "drive":
                over_ns = int(max(command.over_s, 0.0) * 1e9)
                text = plant.drive(command.tag, command.value, over_ns, now_ns)
            case "bad":
                text = plant.spoil(command.tag, now_ns)
            case "end":
                text = plant.end(command.tag)
            case "stick":
                text = plant.stick(command.output, stuck=command.stuck)
            case "fault":
                text = self._fault(command.device, command.fault)
            case "become":
                return {"ports": self.become(_described(command.description))}
            case "value":
                return {"value": plant.shown(command.tag, now_ns)}
            case "driven":
                return {"driven": plant.driven()}
        return {"text": text}

    def _fault(self, name: str, fault: Fault) -> str:
        server = self._servers.get(name)
        if server is None:
            text = f"there is no device {name} here"
            raise RequestError(text)
        server.fault = fault
        if fault == "cut":
            server.cut()
        return f"{name}: {'as it should be' if fault == 'none' else fault}"


def _described(path: str) -> PlantText:
    """Raises RequestError for a file that describes no plant."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=PlantText)
    except (OSError, msgspec.MsgspecError) as error:
        text = f"{path}: no description of a plant: {error}"
        raise RequestError(text) from error
