"""The largest permitted program, evaluated by the guard's code and by a C interpreter of it.

65,535 instructions: 2oo3 votes of hystereses, sums, on-delays. Both have to agree on every truth
before they are timed. A socket's round trip of the same machine stands beside it.
"""

import ctypes
import random
import socket
import struct
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from fastpath import blob as blobs
from fastpath.codes import CODE_MAX, NODES_MAX, Op, Quality, Truth
from fastpath.program import Conditions
from tests.helpers.blobs import MS, SECOND, Code, conditions
from tests.helpers.build import build

TAGS = 3_000
REGISTER_BYTES = 16  # of interpreter.c
SCANS = 200
TRUTHS = range(Op.FALSE, Op.VOTE)
ROUND_TRIPS = 2_000


@dataclass
class Evaluation:
    """ns per scan of either, one per round; and a byte's round trip through a TCP connection."""

    guard_ns: list[float] = field(default_factory=list)
    c_ns: list[float] = field(default_factory=list)
    socket_ns: list[float] = field(default_factory=list)
    instructions: int = 0


def largest() -> blobs.Program:
    """As many instructions as a program may have."""
    code = conditions(TAGS, start_within_ns=0, stale_after_ns=10 * SECOND)
    number = 0
    while len(code.program.code) + 60 < CODE_MAX and len(code.program.nodes) + 4 <= NODES_MAX:
        _condition(code, number)
        number += 1
    while len(code.program.code) < CODE_MAX:
        code.op(Op.NOT, len(code.program.code) - 1)
    return code.program


def _condition(code: Code, number: int) -> None:
    tags = [(7 * number + k) % TAGS for k in range(4)]
    votes = [
        code.until(code.compare(Op.GE, tag, 1.5), code.compare(Op.LT, tag, 1.0)) for tag in tags[:3]
    ]
    many = code.moon(2, votes)
    total = code.op(
        Op.ADD, code.tag(tags[0]), code.op(Op.MAX, code.tag(tags[1]), code.tag(tags[3]))
    )
    high = code.op(Op.GT, total, code.const(3.0))
    both = code.op(Op.AND, high, code.op(Op.NOT, many))
    code.op(Op.OR, many, code.lasting(both, 300 * MS))


class _Interpreter:
    """The C side: its own arrays, made of the same blob."""

    def __init__(self, blob: bytes) -> None:
        self._run = ctypes.CDLL(str(build("libinterpreter.so"))).interpret
        code, tags = blobs.section(blob, "code"), blobs.section(blob, "tags")
        self._count = len(code)
        self._code = self._records(blob, "code")
        self._tags = self._records(blob, "tags")
        self._durations = array("q", [node.duration_ns for node in blobs.section(blob, "nodes")])
        self._nodes = array("q", bytes(16 * len(self._durations)))
        self.registers = (ctypes.c_ubyte * (REGISTER_BYTES * self._count))()
        self.image = bytearray(64 * len(tags))

    @staticmethod
    def _records(blob: bytes, name: str) -> bytes:
        number = [section for section, _, _ in blobs.SECTIONS].index(name)
        at = blobs.HEADER.size + number * blobs.SECTION.size
        _, size, offset, count = blobs.SECTION.unpack_from(blob, at)
        return blob[offset : offset + size * count]

    def evaluate(self, now_ns: int) -> None:
        image = (ctypes.c_ubyte * len(self.image)).from_buffer(self.image)
        self._run(
            self._code, ctypes.c_uint32(self._count), image, self._tags,
            ctypes.c_void_p(self._durations.buffer_info()[0]),
            ctypes.c_void_p(self._nodes.buffer_info()[0]), self.registers,
            ctypes.c_int64(now_ns),
        )  # fmt: skip

    def truth(self, register: int) -> int:
        at = REGISTER_BYTES * register
        low, high = self.registers[at + 8], self.registers[at + 9]
        return Truth.UNKNOWN if low != high else (Truth.TRUE if low else Truth.FALSE)

    def write(self, slot: int, value: float, quality: int, now_ns: int) -> None:
        struct.pack_into("<Qdqqq BB", self.image, 64 * slot, 0, value, now_ns, 0, 0, quality, 0)


def measure(result: Evaluation, rounds: int) -> None:
    """Check that they agree, then time them in turn."""
    program = largest()
    blob = blobs.build(program)
    guard, c = Conditions(blob), _Interpreter(blob)
    result.instructions = len(program.code)
    chance = random.Random(1)
    now_ns = SECOND
    for _ in range(3):
        now_ns += 400 * MS
        for slot in range(TAGS):
            value = chance.uniform(0, 2)
            quality = Quality.GOOD if chance.random() < 0.95 else Quality.BAD
            guard.write(slot, value, quality, 4, now_ns)
            c.write(slot, value, quality, now_ns)
        guard.evaluate(now_ns)
        c.evaluate(now_ns)
        _agree(program, guard, c)
    for _ in range(rounds):
        result.guard_ns.append(_timed(guard.evaluate, now_ns))
        result.c_ns.append(_timed(c.evaluate, now_ns))
        result.socket_ns.append(_round_trip())


def _agree(program: blobs.Program, guard: Conditions, c: _Interpreter) -> None:
    for i, instruction in enumerate(program.code):
        if instruction.op in TRUTHS and guard.truth(i) != c.truth(i):
            raise RuntimeError(f"register {i}: {guard.truth(i)} and {c.truth(i)}")


def _timed(evaluate: Callable[[int], None], now_ns: int) -> float:
    begin = time.perf_counter_ns()
    for k in range(SCANS):
        evaluate(now_ns + k * MS)
    return (time.perf_counter_ns() - begin) / SCANS


def _round_trip() -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:
        a = socket.create_connection(server.getsockname())
        b, _ = server.accept()
        with a, b:
            begin = time.perf_counter_ns()
            for _ in range(ROUND_TRIPS):
                a.send(b"x")
                b.recv(1)
                b.send(b"x")
                a.recv(1)
            return (time.perf_counter_ns() - begin) / ROUND_TRIPS
