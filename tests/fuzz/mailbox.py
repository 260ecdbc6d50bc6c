"""The guard's socket: any datagrams, and none does what its command alone may do.

Input: bit 0 an operator's session, bit 1 tripped before; then steps: a kind and what it needs.
"""

import struct
from collections.abc import Iterator
from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import InterlockState, MessageType, Quality
from tests.fuzz.program import stepping
from tests.fuzz.reader import Reader
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine

MAX_BYTES = 4600
STEPS_MAX = 24
BLOB = blobs.build(mine(502, bypass_max_ns=3600 * SECOND))
KEYS = (7, 3, 10, 11, 20, 30, 40, 0, 1 << 63)  # the interlock, its output, tags, none
KINDS = tuple(MessageType)
RAW, MESSAGE, COMMAND, LOAD, SAMPLES, TOUCH, TIME, AGAIN = range(8)
# What a command of each type may change, and its body's length.
COMMANDS = {
    MessageType.TRIP: messages.COMMAND.size, MessageType.RESET: messages.COMMAND.size,
    MessageType.RELEASE: messages.COMMAND.size, MessageType.BYPASS_START: messages.COMMAND.size,
    MessageType.BYPASS_END: messages.COMMAND.size, MessageType.STOP: messages.COMMAND.size,
    MessageType.LOAD: messages.LOAD.size,
}  # fmt: skip
WITHOUT_FULL = {MessageType.TRIP, MessageType.BYPASS_END, MessageType.LOAD}


class Gate:
    """A guard, its gateway's session, and what has been sent so far."""

    def __init__(self, *, full: bool, tripped: bool) -> None:
        self.guard = stepping().Stepper(BLOB)
        self.full = full
        self.sent: list[bytes] = []
        self.answers = 0
        self.scan(0.4)
        if tripped:
            self.scan(1.6)
            self.wait(10 * MS)
        self.guard.connect(told=full, full=full)

    def scan(self, methane: float, after_ns: int = 10 * MS) -> None:
        """Time passes, the device answers, the guard scans."""
        self.guard.advance(after_ns)
        for slot in range(3):
            self.guard.poll(slot, methane)
        self.guard.poll(3, 0.0)
        self.guard.step()

    def wait(self, ns: int) -> None:
        """Time passes, and what follows of itself from a gap in the values has followed."""
        self.scan(0.4, ns)
        self.scan(0.4, 0)

    def state(self) -> tuple[Any, ...]:
        """What only a command changes."""
        view = self.guard.view
        lock, out = view.interlock(0), view.output(0)
        return (
            lock.state, lock.generation, lock.flags, lock.bypass_until_ns, out.demand,
            view.tag_bypasses(), view.header().program, self.guard.asked(),
        )  # fmt: skip

    def send(self, message: bytes) -> int:
        """One datagram and a scan at the same time; what became of it."""
        before = self.state()
        self.sent.append(message)
        open_: bool = self.guard.datagram(message)
        self.scan(0.4, 0)
        kind, proper = _command(message)
        allowed = proper and (self.full or kind in WITHOUT_FULL)
        if not allowed:
            assert self.state() == before, "a latch, bypass or program without a command"
        replies = self.guard.received() if open_ else []
        self.answers += len(replies)
        assert len(replies) <= 3  # a result or a welcome, and word of new records
        for _kind, _ident, body in replies:
            assert len(body) <= 256
        if proper and open_:
            results = [ident for what, ident, _ in replies if what == MessageType.RESULT]
            waits = kind in {MessageType.LOAD, MessageType.STOP}
            assert waits or results == [message[16:32]], "a command without its result"
        if not open_:
            self.guard.connect(told=self.full, full=self.full)
        return 1 + open_ + 2 * len(replies)


def run(data: bytes) -> int:
    """Some datagrams; then the guard still trips."""
    reader = Reader(data)
    choices = reader.number()
    gate = Gate(full=not choices & 1, tripped=bool(choices & 2))
    outcome = choices & 3
    try:
        for _ in range(STEPS_MAX):
            if not reader.left:
                break
            outcome = outcome * 7 + _step(gate, reader)
        scans = gate.guard.view.header().scan
        gate.scan(1.6, SECOND)
        assert gate.guard.view.header().scan > scans
        assert gate.guard.view.interlock(0).state == InterlockState.TRIPPED
        assert gate.guard.view.output(0).demand or gate.guard.view.interlock(0).bypass_until_ns
    finally:
        gate.guard.close()
    return outcome


def _step(gate: Gate, reader: Reader) -> int:
    kind = reader.number() % 8
    if kind == TIME:
        gate.wait(reader.number() * 100 * MS)
        return 0
    if kind == AGAIN:
        return gate.send(gate.sent[reader.number() % len(gate.sent)]) if gate.sent else 0
    if kind == RAW:
        return gate.send(reader.take(reader.number(2) % 4200) or b"\0")
    return gate.send(_message(gate, kind, reader))


def _message(gate: Gate, kind: int, reader: Reader) -> bytes:
    ident = bytes((reader.number(),)) * 16
    if kind == COMMAND:
        type_ = tuple(COMMANDS)[reader.number() % 6]
        lock = gate.guard.view.interlock(0)
        generation = (lock.generation, reader.number())[reader.number() & 1]
        not_after = (0, gate.guard.boot_ns + SECOND, gate.guard.boot_ns - 1)[reader.number() % 3]
        body = messages.command(
            KEYS[reader.number() % len(KEYS)], who="uid:fuzz", generation=generation,
            kind=reader.number() % 4, not_after_ns=not_after, ledger_seq=reader.number(),
            duration_ns=reader.number(2) * SECOND - SECOND,
        )  # fmt: skip
    elif kind == LOAD:
        type_ = MessageType.LOAD
        body = messages.LOAD.pack(
            reader.take(4), BLOB[16:48] if reader.number() & 1 else bytes(32), reader.number(),
            reader.number() % 5, reader.number() % 4,
        )  # fmt: skip
    elif kind == SAMPLES:
        type_ = MessageType.SAMPLES
        body = b"".join(_sample(gate, reader) for _ in range(reader.number() % 8))
    elif kind == TOUCH:
        type_ = MessageType.TOUCH
        count = reader.number() % 4
        body = messages.TOUCH.pack(gate.guard.mono_ns - reader.number() * MS, count)
        body += b"".join(messages.RANGE.pack(reader.number(4), reader.number(4))
                         for _ in range(count))  # fmt: skip
    else:
        type_ = KINDS[reader.number() % len(KINDS)]
        body = reader.take(reader.number() * 2)
    message = bytearray(messages.pack(type_, body, ident))
    if reader.number() & 0xF == 1:  # a field of the header is wrong
        struct.pack_into("<H", message, 2 * (reader.number() % 8), reader.number(2))
    return bytes(message)


def _sample(gate: Gate, reader: Reader) -> bytes:
    when = gate.guard.mono_ns - reader.number() * MS + (SECOND if reader.number() & 1 else 0)
    value = (1.6, 0.0, float("nan"), float("inf"), -1e308)[reader.number() % 5]
    quality = (Quality.GOOD, Quality.BAD, reader.number())[reader.number() % 3]
    slot = reader.number() % 8 if reader.number() % 4 else 0xFFFF_FFFF
    return messages.SAMPLE.pack(slot, quality, reader.number(), 0, value, when, gate.guard.utc_ns)


def _command(message: bytes) -> tuple[int, bool]:
    """(its type, whether it is a command as it should be), whatever it asks for."""
    if len(message) < messages.HEADER.size:
        return 0, False
    version, kind, length, _, _ = messages.HEADER.unpack_from(message)
    whole = length == len(message) and version >= messages.VERSION_OLDEST
    return kind, whole and len(message) - messages.HEADER.size == COMMANDS.get(kind)


def seeds() -> Iterator[bytes]:
    """Each command to each kind of key, the other messages, nonsense."""
    for type_ in range(6):
        for key in (0, 1, 2):
            yield bytes(
                (2 * (type_ % 2), COMMAND, 9, type_, 0, 0, 0, key, 1 + key // 2, 1, 60, 0, 0)
            )
    yield bytes((1, COMMAND, 9, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, AGAIN, 0))
    yield bytes((1, COMMAND, 9, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0))
    yield bytes((0, COMMAND, 9, 3, 0, 0, 0, 0, 1, 1, 60, 0, 0, TIME, 9, AGAIN, 0))
    for step in range(5):
        yield bytes((step % 2, LOAD, 5, 1, 2, 3, 4, 1, 7, step, step % 2, 0))
    yield bytes((0, SAMPLES, 0, 3, 0, 0, 0, 0, 5, 1, 1, 0, 0, 0, 0, 3, 1, 0, 0))
    yield bytes((0, TOUCH, 0, 2, 1, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0))
    for kind in range(len(KINDS)):
        yield bytes((kind % 2, MESSAGE, 1, kind, 12, *range(24), 0))
    ack = messages.pack(MessageType.ACK, messages.ACK.pack(1, 2))
    hello = messages.pack(MessageType.HELLO, messages.HELLO.pack(1, 1, 0, bytes(16)))
    for message in (ack, hello, b"\0", b"GET / HTTP/1.1\r\n", bytes(4100)):
        yield bytes((0, RAW)) + len(message).to_bytes(2, "little") + message
