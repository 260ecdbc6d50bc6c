"""A broker that answers what a test tells it to: reason codes that no real one gives on demand."""

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any, Self

CONNECT, CONNACK, PUBLISH, PUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 12, 13, 14

# The answer to a publish: a PUBACK's code; None is silence; ("disconnect", code) ends the session,
# ("cut", 0) without a word.
Answer = int | None | tuple[str, int]


class ScriptedBroker:
    """MQTT 5, as much as a publisher needs. ``properties`` are CONNACK's, encoded."""

    def __init__(
        self,
        answer: Callable[[str, dict[str, Any]], Answer] = lambda _topic, _payload: 0,
        *,
        connack: int = 0,
        properties: bytes = b"",
    ) -> None:
        self.answer = answer
        self.connack = connack
        self.properties = properties
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.sessions = 0
        self.silent = False  # not even CONNACK
        self.deaf = False  # nothing but CONNACK
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """End every session without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            first = (await reader.readexactly(1))[0]
            body = await reader.readexactly(await _length(reader))
            kind = first >> 4
            if kind == CONNECT and not self.silent:
                self.sessions += 1
                body = bytes((0, self.connack, len(self.properties))) + self.properties
                writer.write(_packet(CONNACK, body))
            elif self.deaf:
                continue
            elif kind == PUBLISH and not self._publish(first, body, writer):
                await writer.drain()
                return
            elif kind == PINGREQ:
                writer.write(_packet(PINGRESP, b""))
            elif kind == DISCONNECT:
                return

    def _publish(self, first: int, body: bytes, writer: asyncio.StreamWriter) -> bool:
        (length,) = struct.unpack_from(">H", body)
        topic = body[2 : 2 + length].decode().rsplit("/", 1)[-1]
        (mid,) = struct.unpack_from(">H", body, 2 + length)
        assert first & 0b110 == 0b010, "QoS 1"
        assert not first & 0b1000, "a copy by the library's own queue"
        assert body[4 + length] == 0, "properties: none of ours expires"
        payload = json.loads(body[5 + length :])
        if topic == "status":
            answer: Answer = 0
        else:
            self.published.append((topic, payload))
            answer = self.answer(topic, payload)
        if isinstance(answer, tuple):
            if answer[0] == "disconnect":
                writer.write(_packet(DISCONNECT, bytes((answer[1], 0))))
            return False
        if answer is not None:
            writer.write(_packet(PUBACK, struct.pack(">HBB", mid, answer, 0)))
        return True


async def _length(reader: asyncio.StreamReader) -> int:
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        if byte < 128:
            return length
        shift += 7


def _packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((kind << 4, len(body))) + body
