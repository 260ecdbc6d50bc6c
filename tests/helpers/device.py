"""A Modbus TCP device in the test's own loop: it answers as a plain server, or as it is told to."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

READS_BITS = (1, 2)
READS = (1, 2, 3, 4)

# Gets the request; gives the whole reply, b"" for none, or None for the plain server's.
Twist = Callable[["Asked"], bytes | None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came, with the connection that it came on (from 0)."""

    connection: int
    tid: int
    function: int
    address: int
    word: int  # count of a read or of FC15 and FC16, value of FC5 and FC6
    data: bytes  # what follows

    @property
    def written(self) -> tuple[int, ...]:
        """The values that a write carries."""
        if self.function in READS:
            return ()
        if self.function == 5:
            return (1 if self.word else 0,)
        if self.function == 15:
            return tuple((self.data[1 + i // 8] >> (i % 8)) & 1 for i in range(self.word))
        if self.function == 16:
            return struct.unpack(f">{self.word}H", self.data[1:])
        return (self.word,)

    def reply(self, pdu: bytes, *, tid: int | None = None, unit: int = 1) -> bytes:
        """A frame that answers this request."""
        number = self.tid if tid is None else tid
        return struct.pack(">HHHB", number, 0, len(pdu) + 1, unit) + pdu

    def refusal(self, number: int) -> bytes:
        """An exception reply."""
        return self.reply(bytes((self.function | 0x80, number)))


@dataclass(slots=True)
class Device:
    """Cells by address, a log of requests, and a twist of the replies. Contact 1 follows coil 16
    unless ``contact_follows`` is off.
    """

    port: int = 0
    coils: dict[int, int] = field(default_factory=lambda: {16: 1})
    inputs: dict[int, int] = field(default_factory=lambda: {1: 1})
    registers: dict[int, int] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    twist: Twist | None = None
    contact_follows: bool = True
    connections: int = 0
    writers: dict[int, asyncio.StreamWriter] = field(default_factory=dict)
    alone: asyncio.Event = field(default_factory=asyncio.Event)

    def set_float(self, address: int, value: float) -> None:
        """A float32, ABCD, in the input registers."""
        self.registers[address], self.registers[address + 1] = struct.unpack(
            ">HH", struct.pack(">f", value)
        )

    def writes(self, address: int) -> list[int]:
        """Every value that was asked to be written to a coil or register, in order."""
        return [
            asked.written[address - asked.address]
            for asked in self.asked
            if 0 <= address - asked.address < len(asked.written)
        ]

    def plain(self, asked: Asked) -> bytes:
        """What a plain server answers; it carries out writes."""
        if asked.function in READS_BITS:
            bits = self.coils if asked.function == 1 else self.inputs
            size = (asked.word + 7) // 8
            packed = sum((bits.get(asked.address + i, 0) & 1) << i for i in range(asked.word))
            return asked.reply(bytes((asked.function, size)) + packed.to_bytes(size, "little"))
        if asked.function in READS:
            words = [self.registers.get(asked.address + i, 0) for i in range(asked.word)]
            head = bytes((asked.function, 2 * asked.word))
            return asked.reply(head + struct.pack(f">{asked.word}H", *words))
        self.carry_out(asked)
        return asked.reply(struct.pack(">BHH", asked.function, asked.address, asked.word))

    def carry_out(self, asked: Asked) -> None:
        """Store what a write carries."""
        cells = self.coils if asked.function in {5, 15} else self.registers
        for i, value in enumerate(asked.written):
            cells[asked.address + i] = value
        if self.contact_follows:
            self.inputs[1] = self.coils[16]

    def cut(self) -> None:
        """End every connection."""
        for writer in self.writers.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self.writers[number] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                tid, _, length, _ = struct.unpack(">HHHB", await reader.readexactly(7))
                pdu = await reader.readexactly(length - 1)
                function, address, word = struct.unpack(">BHH", pdu[:5])
                asked = Asked(number, tid, function, address, word, pdu[5:])
                self.asked.append(asked)
                reply = self.twist(asked) if self.twist is not None else None
                writer.write(self.plain(asked) if reply is None else reply)
        del self.writers[number]
        writer.close()
        if not self.writers:
            self.alone.set()


@asynccontextmanager
async def serving(device: Device | None = None) -> AsyncIterator[Device]:
    """A device on a free port of loopback, until the end."""
    device = device or Device()
    server = await asyncio.start_server(device._serve, "127.0.0.1", device.port)
    device.port = server.sockets[0].getsockname()[1]
    try:
        yield device
    finally:
        server.close()
        device.cut()
        while device.writers:
            device.alone.clear()
            await device.alone.wait()
