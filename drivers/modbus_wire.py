"""What a Modbus driver speaks over: one unit, its reads and writes.

``OwnWire`` has a connection to itself, ``BackupWire`` a second address. Units of one serial line
share a port (``modbus_line``).
"""

from abc import ABC, abstractmethod
from typing import Final

from drivers.errors import LinkError, ProtocolError
from drivers.modbus_dial import Dial
from drivers.modbus_link import Call, ExceptionReply, ModbusLink, SilenceError

UNREACHABLE: Final = frozenset((10, 11))  # a gateway's word: the unit behind it is away
UNREACHED_MAX: Final = 3  # in a row; then its other address is tried


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
    async def closed(self) -> None:
        """Wait until what :meth:`close` began has ended; bounded."""

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

    async def closed(self) -> None:
        """Its connection."""
        await self._link.closed()

    async def ask(self, call: Call) -> bytes:
        """One request within the timeout."""
        return await self._link.ask(call, self._unit, self._timeout_s)


class BackupWire(Wire):
    """One unit behind two addresses. The one in use stays so until it fails.

    An address that took the connection and then was silent is not tried first again, nor is a
    gateway that does not reach the unit: the other one may.
    """

    def __init__(self, first: Wire, backup: Wire) -> None:
        self._wires = (first, backup)
        self._used = 0
        self._silent = False  # the one in use, since its last good reply
        self._cut = False  # a connection to it ended without a good reply
        self._unreached = 0  # requests in a row

    @property
    def name(self) -> str:
        """The address in use."""
        return self._wires[self._used].name

    @property
    def shared(self) -> bool:
        """As the one in use."""
        return self._wires[self._used].shared

    @property
    def not_after_utc_ns(self) -> int:
        """Of the one in use."""
        return self._wires[self._used].not_after_utc_ns

    @property
    def on_backup(self) -> bool:
        """Whether the second address is in use."""
        return self._used == 1

    async def open(self) -> None:
        """Connect to one of the two. Raises LinkError with both reasons."""
        begin = 1 - self._used if self._silent else self._used
        failures = []
        for place in (begin, 1 - begin):
            try:
                await self._wires[place].open()
            except LinkError as error:
                failures.append(str(error))
                continue
            self._cut = self._cut and place == self._used
            self._used, self._silent, self._unreached = place, False, 0
            return
        raise LinkError("; ".join(failures))

    def close(self) -> None:
        """Both."""
        for wire in self._wires:
            wire.close()

    async def closed(self) -> None:
        """Both."""
        for wire in self._wires:
            await wire.closed()

    async def ask(self, call: Call) -> bytes:
        """Over the one in use."""
        try:
            reply = await self._wires[self._used].ask(call)
        except SilenceError:
            self._silent = True
            raise
        except ExceptionReply as error:
            self._unreached = self._unreached + 1 if error.code in UNREACHABLE else 0
            if self._unreached < UNREACHED_MAX:
                raise
            self._silent = True
            text = f"{self.name} does not reach the unit: {error}"
            raise SilenceError(text) from None
        except (LinkError, ProtocolError):
            # One cut is forgiven; an address that only accepts and closes is as good as silent.
            self._silent, self._cut = self._cut, True
            raise
        self._silent = self._cut = False
        self._unreached = 0
        return reply
