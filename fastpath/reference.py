"""The semantics of conditions in plain Python: the definition, and the oracle of the tests.

Never run on site. It is written for reading: a truth is the set of values that it may have, so
``{False, True}`` is unknown, and an operation is what it does to each of them. A bad number is
None. ``evaluate.pyx`` does the same in a few nanoseconds per instruction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Final

from fastpath import blob as blobs
from fastpath.codes import NONE_U16, Op, Quality, Reason, TagFlag, Truth

FALSE: Final = frozenset({False})
TRUE: Final = frozenset({True})
UNKNOWN: Final = frozenset({False, True})

Possible = frozenset[bool]
Number = float | None

_ARITHMETIC: Final[dict[int, Callable[[float, float], float]]] = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: lambda a, b: a / b if b else math.nan,
    Op.MIN: lambda a, b: min(a, b),
    Op.MAX: lambda a, b: max(a, b),
}
_COMPARISONS: Final[dict[int, Callable[[float, float], bool]]] = {
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.GT: lambda a, b: a > b,
    Op.GE: lambda a, b: a >= b,
    Op.EQ: lambda a, b: a == b,
    Op.NE: lambda a, b: a != b,
}


@dataclass(slots=True)
class Sample:
    """What a slot holds."""

    value: float = 0.0
    quality: int = Quality.BAD
    reason: int = Reason.NEVER_READ
    mono_ns: int = 0


@dataclass(slots=True)
class Register:
    """The result of one instruction: a number, a truth, or the votes of a count."""

    number: Number = None
    truth: Possible = UNKNOWN
    votes: tuple[Possible, ...] = ()
    starting: bool = False


@dataclass(slots=True)
class Memory:
    """What an ``until`` may be; since when a ``for`` surely, or possibly, saw nothing but true."""

    state: Possible = FALSE
    surely_since_ns: int | None = None
    maybe_since_ns: int | None = None


class Reference:
    """Evaluates a verified program; the methods are those of program.Conditions."""

    def __init__(self, blob: bytes) -> None:
        self._tags: list[blobs.Tag] = blobs.section(blob, "tags")
        self._code: list[blobs.Instruction] = blobs.section(blob, "code")
        self._nodes: list[blobs.Node] = blobs.section(blob, "nodes")
        self._start_within_ns: int = blobs.HEADER.unpack_from(blob)[6]
        self._started_ns: int | None = None
        self._samples = [Sample() for _ in self._tags]
        self._memory = [Memory() for _ in self._nodes]
        self._registers = [Register() for _ in self._code]

    def write(self, slot: int, value: float, quality: int, reason: int, mono_ns: int) -> None:
        """Store a tag's value."""
        self._samples[slot] = Sample(value, quality, reason, mono_ns)

    def evaluate(self, now_ns: int) -> None:
        """One scan; ``now_ns`` never goes back."""
        if self._started_ns is None:
            self._started_ns = now_ns
        for i, instruction in enumerate(self._code):
            self._registers[i] = self._result(instruction, now_ns)

    def truth(self, register: int) -> int:
        """codes.Truth of a truth register."""
        truth = self._registers[register].truth
        return {FALSE: Truth.FALSE, TRUE: Truth.TRUE}.get(truth, Truth.UNKNOWN)

    def number(self, register: int) -> tuple[float, int]:
        """(value, quality: 0 bad or 2 good) of a number register."""
        number = self._registers[register].number
        return (math.nan, Quality.BAD) if number is None else (number, Quality.GOOD)

    def starting(self, register: int) -> bool:
        """True while an input of this register was never read."""
        return self._registers[register].starting

    def _result(self, ins: blobs.Instruction, now_ns: int) -> Register:
        if ins.op == Op.TAG:
            return self._tag(ins.a, now_ns)
        if ins.op == Op.CONST:
            return Register(number=ins.imm)
        if ins.op in (Op.FALSE, Op.TRUE):
            return Register(truth=TRUE if ins.op == Op.TRUE else FALSE)
        if ins.op == Op.VOTE:
            return self._vote(ins)
        if ins.op in _ARITHMETIC or ins.op in _COMPARISONS:
            return self._numbers(ins)
        if ins.op in (Op.AND, Op.OR, Op.UNTIL):
            return self._truths(ins)
        return self._single(ins, now_ns)

    def _tag(self, slot: int, now_ns: int) -> Register:
        """A number only while it is usable: GOOD (or UNCERTAIN where that is allowed) and fresh."""
        tag, sample = self._tags[slot], self._samples[slot]
        usable = sample.quality == Quality.GOOD or (
            sample.quality == Quality.UNCERTAIN and bool(tag.flags & TagFlag.UNCERTAIN_USE)
        )
        if tag.stale_after_ns and now_ns - sample.mono_ns > tag.stale_after_ns:
            usable = False
        never_read = sample.quality == Quality.BAD and sample.reason == Reason.NEVER_READ
        in_time = now_ns - (self._started_ns or 0) < self._start_within_ns
        return Register(
            number=sample.value if usable and math.isfinite(sample.value) else None,
            starting=never_read and in_time,
        )

    def _numbers(self, ins: blobs.Instruction) -> Register:
        a, b = self._registers[ins.a], self._registers[ins.b]
        starting = a.starting or b.starting
        if a.number is None or b.number is None:
            return Register(starting=starting)
        if ins.op in _COMPARISONS:
            result = _COMPARISONS[ins.op](a.number, b.number)
            return Register(truth=frozenset({result}), starting=starting)
        number = _ARITHMETIC[ins.op](a.number, b.number)
        return Register(number=number if math.isfinite(number) else None, starting=starting)

    def _truths(self, ins: blobs.Instruction) -> Register:
        a, b = self._registers[ins.a], self._registers[ins.b]
        starting = a.starting or b.starting
        pairs = set(product(a.truth, b.truth))
        if ins.op == Op.AND:
            return Register(truth=frozenset(x and y for x, y in pairs), starting=starting)
        if ins.op == Op.OR:
            return Register(truth=frozenset(x or y for x, y in pairs), starting=starting)
        memory = self._memory[int(ins.imm)]
        # Set wins over clear; between them it is what it was.
        state = frozenset(
            on or (was and not off) for (on, off), was in product(pairs, memory.state)
        )
        if not (starting and state == UNKNOWN):
            memory.state = state
        return Register(truth=state, starting=starting)

    def _single(self, ins: blobs.Instruction, now_ns: int) -> Register:
        a = self._registers[ins.a]
        out = Register(starting=a.starting)
        if ins.op in (Op.IS_BAD, Op.IS_GOOD):
            usable = a.number is not None
            known = frozenset({usable == (ins.op == Op.IS_GOOD)})
            out.truth = UNKNOWN if a.starting else known
        elif ins.op == Op.BOOL:
            out.truth = UNKNOWN if a.number is None else frozenset({a.number != 0})
        elif ins.op == Op.NOT:
            out.truth = frozenset(not x for x in a.truth)
        elif ins.op == Op.NEG:
            out.number = None if a.number is None else -a.number
        elif ins.op == Op.ABS:
            out.number = None if a.number is None else abs(a.number)
        elif ins.op == Op.MOON:
            out.truth = frozenset(sum(votes) >= ins.b for votes in product(*a.votes))
        elif ins.op == Op.FOR:
            out.truth = self._for(ins, a, now_ns)
        return out

    def _vote(self, ins: blobs.Instruction) -> Register:
        before = Register() if ins.a == NONE_U16 else self._registers[ins.a]
        vote = self._registers[ins.b]
        return Register(
            votes=(*before.votes, vote.truth), starting=before.starting or vote.starting
        )

    def _for(self, ins: blobs.Instruction, a: Register, now_ns: int) -> Possible:
        """True once the input was true, without a break, for the duration."""
        if a.starting and a.truth == UNKNOWN:
            return UNKNOWN
        memory = self._memory[int(ins.imm)]
        duration_ns = self._nodes[int(ins.imm)].duration_ns
        if a.truth != TRUE:
            memory.surely_since_ns = None
        elif memory.surely_since_ns is None:
            memory.surely_since_ns = now_ns
        if a.truth == FALSE:
            memory.maybe_since_ns = None
        elif memory.maybe_since_ns is None:
            memory.maybe_since_ns = now_ns
        return frozenset(
            since_ns is not None and now_ns - since_ns >= duration_ns
            for since_ns in (memory.surely_since_ns, memory.maybe_since_ns)
        )
