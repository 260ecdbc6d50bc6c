"""Modbus RTU in what was heard on a serial port: there are a master and its devices already.

Such a line takes no second master, and its frames are nothing that an instrument sends by itself.
"""

from collections import Counter
from typing import Final

from fastpath import rtu

FRAMES_MIN: Final = 3  # two bytes of sixteen bits fit by chance once in 65,536
REQUEST_BYTES: Final = 8  # of a read or a single write, and of the echo of a write
COUNTED: Final = frozenset((1, 2, 3, 4))  # replies whose third byte counts the data
FUNCTIONS: Final = frozenset((1, 2, 3, 4, 5, 6, 15, 16))
EXCEPTION_BYTES: Final = 5


def modbus_units(heard: bytes) -> Counter[int]:
    """Frames by unit; none where there are too few to be sure."""
    units: Counter[int] = Counter()
    at = 0
    while at < len(heard) - 3:
        length = _frame(heard, at)
        if length:
            units[heard[at]] += 1
        at += length or 1
    return units if units.total() >= FRAMES_MIN else Counter()


def _frame(heard: bytes, at: int) -> int:
    """Bytes of the frame that begins there, 0 where none does."""
    unit, function = heard[at], heard[at + 1]
    if not 1 <= unit <= 247 or function & 0x7F not in FUNCTIONS:
        return 0
    lengths = [REQUEST_BYTES]
    if function & 0x80:
        lengths = [EXCEPTION_BYTES]
    elif function in COUNTED:
        lengths.append(5 + heard[at + 2])
    elif function in (15, 16) and at + 6 < len(heard):
        lengths.append(9 + heard[at + 6])
    return next((n for n in lengths if _right(heard[at : at + n], n)), 0)


def _right(frame: bytes, length: int) -> bool:
    return len(frame) == length and rtu.crc(frame[:-2]) == int.from_bytes(frame[-2:], "little")
