"""Programs of many devices, each with one value per request, and devices that take their time."""

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    ByteOrder,
    Owner,
    PointType,
    Quality,
    RecordMode,
    TagFlag,
)
from fastpath.journal import GuardView
from tests.helpers.blobs import MS
from tests.helpers.device import Asked, Device
from tests.helpers.guard import mine

VALUE_AT = 100
REPLY_BYTES = 21  # header, function, byte count and six registers


def watching(ports: Sequence[int], *, requests: int = 1, period_ns: int = 20 * MS) -> blobs.Program:
    """Devices that are only read: value k of device d is tag d * requests + k.

    Their interlock is that of the mine, over the first three tags, not armed; nothing is written.
    """
    program = mine(ports[0], armed=False)
    program.outputs[0] = replace(program.outputs[0], readback=NONE_U32, device=0)
    first = replace(program.devices[0], flags=0)
    program.devices = [
        replace(first, key=1000 + i, port=port, address=first.address)
        for i, port in enumerate(ports)
    ]
    count = len(ports) * requests
    tag = replace(program.tags[0], flags=TagFlag.HAS_RANGE, record=RecordMode.ALL)
    program.tags = [
        replace(
            tag, key=2000 + i, device=i // requests, owner=Owner.GUARD,
            flags=TagFlag.HAS_RANGE | (TagFlag.IN_INTERLOCK if i < 3 else 0),
        )
        for i in range(count)
    ]  # fmt: skip
    program.requests = [
        blobs.Request(i // requests, i, 1, period_ns, VALUE_AT + 10 * (i % requests), 6, 4, 1)
        for i in range(count)
    ]
    program.decode = [
        blobs.Decode(i, i, 0, PointType.FLOAT32, ByteOrder.ABCD) for i in range(count)
    ]
    program.names = {
        "tags": [f"t{i}" for i in range(count)],
        "interlocks": ["cut"],
        "outputs": ["breaker"],
        "devices": [f"d{i}" for i in range(len(ports))],
    }
    return program


def values_of(view: GuardView, slot: int) -> list[float]:
    """Every good value of a tag that the journal has."""
    _, _, raw = view.samples(0, 1_000_000)
    return [s[4] for s in messages.SAMPLE.iter_unpack(raw) if s[0] == slot and s[1] == Quality.GOOD]


@dataclass(slots=True)
class SlowDevice(Device):
    """Answers each request after ``delay_s`` while it goes on listening; counts what overlaps.

    ``most`` is how many requests were ever outstanding on one connection; at most ``room``
    connections are served, others are closed at once.
    """

    delay_s: float = 0.0
    room: int = 1000
    most: int = 0
    turned_away: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.writers) >= self.room:
            self.turned_away += 1
            writer.close()
            return
        number = self.connections
        self.connections += 1
        self.writers[number] = writer
        waiting: set[asyncio.TimerHandle] = set()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(7)
                tid, _, length, _ = struct.unpack(">HHHB", head)
                pdu = await reader.readexactly(length - 1)
                function, address, word = struct.unpack(">BHH", pdu[:5])
                asked = Asked(number, tid, function, address, word, pdu[5:])
                self.asked.append(asked)
                waiting = {each for each in waiting if each.when() > _now()}
                waiting.add(self._answer(writer, asked))
                self.most = max(self.most, len(waiting))
        for each in waiting:
            each.cancel()
        del self.writers[number]
        writer.close()
        if not self.writers:
            self.alone.set()

    def _answer(self, writer: asyncio.StreamWriter, asked: Asked) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self.delay_s, writer.write, self.plain(asked))


def _now() -> float:
    return asyncio.get_running_loop().time()
