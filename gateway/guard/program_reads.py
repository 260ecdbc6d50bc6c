"""Which tags a condition of a program reads: a walk over its code, register by register."""

from collections.abc import Iterable, Sequence
from typing import Final

from fastpath import blob
from fastpath.codes import NONE_U16, Op

_NO_OPERAND: Final = frozenset({Op.CONST, Op.FALSE, Op.TRUE})
_ONE_OPERAND: Final = frozenset(
    {Op.NEG, Op.ABS, Op.BOOL, Op.NOT, Op.MOON, Op.FOR, Op.HOLD, Op.IS_BAD, Op.IS_GOOD}
)


def slots_read(data: bytes, roots: Sequence[int]) -> list[frozenset[int]]:
    """The slots that each of the registers ``roots`` of a verified program depends on."""
    code: list[blob.Instruction] = blob.section(data, "code")
    windows: list[blob.Window] = blob.section(data, "windows")
    return [frozenset(_walk(code, windows, root)) for root in roots]


def _walk(
    code: Sequence[blob.Instruction], windows: Sequence[blob.Window], root: int
) -> Iterable[int]:
    seen: set[int] = set()
    left = [root]
    while left:
        register = left.pop()
        if register in seen or register >= len(code):
            continue
        seen.add(register)
        instruction = code[register]
        if instruction.op == Op.TAG:
            yield instruction.a
        elif instruction.op == Op.WINDOW:
            yield windows[instruction.a].slot
        else:
            left += _operands(instruction)


def _operands(instruction: blob.Instruction) -> tuple[int, ...]:
    if instruction.op in _NO_OPERAND:
        return ()
    if instruction.op in _ONE_OPERAND:
        return (instruction.a,)
    return tuple(operand for operand in (instruction.a, instruction.b) if operand != NONE_U16)
