"""What a Modbus driver speaks over: one unit, its reads and writes.

``OwnWire`` has a connection to itself. Units of one serial line share a port (``modbus_line``).
"""

from abc import ABC, abstractmethod

from drivers.modbus_dial import Dial
from drivers.modbus_link import Call, ModbusLink


class Wire(ABC):
    """One unit. Calls raise ExceptionReply, LinkError or ProtocolError."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The address in use, for people."""

    @property
    def shared(self) -> bool:
        """Whether the connection serves other units too and outlives a request that failed."""
        return False

    @property
    def not_after_utc_ns(self) -> int:
        """When the certificate in use ends; 0 where there is none."""
        return 0

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises LinkError."""

    @abstractmethod
    def close(self) -> None:
        """Let the connection go; nothing lingers."""

    @abstractmethod
    async def ask(self, call: Call) -> bytes:
        """The PDU of the reply."""

    async def read(self, function: int, address: int, count: int) -> bytes:
        """The bytes after the byte count of a reply to functions 1 to 4."""
        return (await self.ask(Call(function, address, count)))[2:]

    async def write_coil(self, address: int, on: bool) -> None:
        """Write one coil; the device's echo must be the request."""
        await self.ask(Call(5, address, 1, (int(on),)))

    async def write_registers(self, address: int, values: list[int]) -> None:
        """Write one register (function 6) or several (16); the echo must fit."""
        function = 6 if len(values) == 1 else 16
        await self.ask(Call(function, address, len(values), tuple(values)))


class OwnWire(Wire):
    """A connection of its own."""

    def __init__(self, dial: Dial, unit: int, timeout_s: float) -> None:
        self._link = ModbusLink(dial)
        self._unit = unit
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The address."""
        return self._link.dial.name

    @property
    def not_after_utc_ns(self) -> int:
        """The device's."""
        return self._link.dial.not_after_utc_ns()

    async def open(self) -> None:
        """Connect within the timeout."""
        await self._link.open(self._timeout_s)

    def close(self) -> None:
        """Drop it."""
        self._link.close()

    async def ask(self, call: Call) -> bytes:
        """One request within the timeout."""
        return await self._link.ask(call, self._unit, self._timeout_s)
