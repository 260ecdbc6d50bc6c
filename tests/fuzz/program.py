"""The loader: whatever is changed in a program is refused, or runs without a fault.

Input: a byte of choices (bits 0 and 1 the program; 2: raw bytes instead; 3: swap it in rather than
start with it), then edits of EDIT each.
"""

import struct
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from typing import Any

from fastpath import blob as blobs
from fastpath import program as programs
from fastpath.codes import EventType, Owner, Quality
from tests.fuzz.reader import Reader
from tests.helpers import inside
from tests.helpers.blobs import MS, guard_program, sealed, wide_program
from tests.helpers.guard import mine, other_outputs

MAX_BYTES = 4096
RAW, SWAP = 4, 8  # bits of the choices
EDITS_MAX = 24
EDIT = struct.Struct("<BBBBh")  # what, section, record, field (or, of bytes, where), value
CHANGE, DROP, REPEAT, MOVE, BYTES, HEADER = range(6)
VALUES = (
    0, 1, 2, 3, 5, 7, 15, 255, 0xFFFF, 0xFFFF_FFFF, 1 << 31, (1 << 63) - 1, -(1 << 63), -1,
    10**6, 10**9, 10**10, 10**12, 10**15, 1 << 53, 65_000, 4096, 63, 64, 2.5, -0.0, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), 5e-324,
)  # fmt: skip
BASES = (
    lambda: mine(502), lambda: other_outputs(mine(502)), guard_program, wide_program,
)  # fmt: skip
STEPS = 6
TOLD = (
    EventType.TRIP, EventType.OUT_TRIP, EventType.READY, EventType.PENDING, EventType.OUT_HELD,
)  # fmt: skip


def run(data: bytes) -> int:
    """Verify; what is accepted is run."""
    reader = Reader(data)
    choices = reader.number()
    good = BASES[choices & 3]()
    blob = sealed(reader.rest()) if choices & RAW else _edited(good, reader)
    if blob is None:
        return 0
    try:
        programs.verify(blob)
    except programs.BlobRefused as refused:
        return refused.rule
    _evaluate(blob)
    return 32 + _live(blob, blobs.build(BASES[choices & 3]()), swapped=bool(choices & SWAP))


def _edited(program: blobs.Program, reader: Reader) -> bytes | None:
    """The program with its edits; None where a value does not fit its field."""
    patches = []
    for _ in range(EDITS_MAX):
        if reader.left < EDIT.size:
            break
        what, section, record, place, value = EDIT.unpack(reader.take(EDIT.size))
        if what % 6 == BYTES:
            patches.append((section << 8 | record, place, value & 0xFF))
        elif what % 6 == HEADER:
            _change(program, ("tick_ns", "start_within_ns", "site_key", "on_overrun", "on_stop",
                              "on_output_failure")[section % 6], value)  # fmt: skip
        else:
            records = getattr(program, blobs.SECTIONS[section % len(blobs.SECTIONS)][0])
            _edit(records, what % 6, record, place, value)
    try:
        blob = bytearray(blobs.build(program))
    except ValueError:
        return None
    for at, mask, value in patches:
        blob[at % len(blob)] = (blob[at % len(blob)] & mask) | value
    return sealed(blob) if patches else bytes(blob)


def _edit(records: list[Any], what: int, at: int, place: int, value: int) -> None:
    if not records:
        return
    at %= len(records)
    if what == DROP:
        del records[at]
    elif what == REPEAT:
        records.insert(at, records[place % len(records)])
    elif what == MOVE:
        records.insert(place % len(records), records.pop(at))
    else:
        names = [each.name for each in fields(records[at])]
        name = names[place % len(names)]
        if not isinstance(getattr(records[at], name), bytes):
            old = getattr(records[at], name)
            records[at] = replace(records[at], **{name: _value(value, old)})


def _change(program: blobs.Program, name: str, value: int) -> None:
    setattr(program, name, _value(value, getattr(program, name)))


def _value(value: int, old: Any) -> Any:
    """A step from the old one, an odd one, or the number itself; of the old one's type."""
    if -8 <= value < 0:
        return old + value if value % 2 else old * 2
    found = VALUES[value % len(VALUES)] if 0 <= value < 256 else value
    return found if isinstance(old, float) or isinstance(found, int) else 1


def _evaluate(blob: bytes) -> None:
    """As the gateway's tests run a program."""
    conditions = programs.Conditions(blob)
    tags, code = blobs.section(blob, "tags"), blobs.section(blob, "code")
    for scan in range(1, STEPS):
        for slot in range(len(tags)):
            conditions.write(slot, float(scan % 3), Quality.GOOD, 0, scan * 400 * MS)
        conditions.evaluate(scan * 400 * MS)
    for register in range(len(code)):
        conditions.deciding(register)


@cache
def stepping() -> Any:
    """tests/helpers/stepper.pyx."""
    return inside.load("stepper")


def _live(blob: bytes, before: bytes, *, swapped: bool) -> int:
    """A guard's life under it: healthy, odd and missing values, a kill, a power loss."""
    guard = stepping().Stepper(before if swapped else blob)
    try:
        if swapped:
            guard.step(10 * MS)
            guard.offer(blob)
            guard.step(10 * MS)
        tags = blobs.section(before if swapped and guard.load_code != 1 else blob, "tags")
        mine_ = [slot for slot, tag in enumerate(tags) if tag.owner == Owner.GUARD]
        for scan in range(STEPS):
            for slot in mine_ if scan != STEPS - 2 else ():
                guard.poll(slot, (0.4, 0.4, 1.6, float("nan"), 0.4, 0.0)[scan])
            guard.step(10 * MS if scan % 2 else 400 * MS)
        _kill(guard, blob if not swapped or guard.load_code == 1 else before)
        kinds = {event.type for event in guard.events()}
        assert EventType.FAULT not in kinds
        seen = sum(1 << i for i, kind in enumerate(TOLD) if kind in kinds)
        return seen + 32 * int(guard.load_code & 7)
    finally:
        guard.close()


def _kill(guard: Any, blob: bytes) -> None:
    guard.restart(blob)
    guard.step(10 * MS)
    assert guard.view.header().program == blob[16:48]


def seeds() -> Iterator[bytes]:
    """The programs as they are, one edit of each section, raw ones cut short."""
    for base in range(len(BASES)):
        yield bytes((base,))
        yield bytes((base | SWAP,))
    for section in range(len(blobs.SECTIONS)):
        yield bytes((3,)) + EDIT.pack(CHANGE, section, 0, section, 1)
        yield bytes((3 | SWAP,)) + EDIT.pack(DROP + section % 3, section, 0, 1, 1)
    for place in range(6):
        yield bytes((0,)) + EDIT.pack(HEADER, place, 0, 0, 15)
    yield bytes((2,)) + EDIT.pack(BYTES, 1, 4, 255, 7)
    yield bytes((RAW,)) + blobs.build(guard_program())
    yield bytes((RAW,)) + blobs.EMPTY[:-64]
