"""guard.shm from outside, while no guard runs: what a kill between two stores leaves behind."""

import struct
import zlib
from pathlib import Path

from fastpath.codes import EventType

EVENT = struct.Struct("<QqqQHHIQQ64sII")
EVENTS_REGION = 9
INTERLOCKS_AT = 4096
EVENT_HEAD_AT = 704
EVENT_COUNT = 65_536


def _region(raw: bytes, ident: int) -> int:
    """Offset of a region."""
    at = 64 + 24 * (ident - 1)
    found, _version, offset = struct.unpack_from("<IIQ", raw, at)
    assert found == ident
    return int(offset)


def forge_event(path: Path, kind: EventType, key: int, payload: bytes) -> int:
    """Append a whole record, as the guard does before it stores the latch; gives its seq."""
    with path.open("r+b") as file:
        header = file.read(4096)
        (seq,) = struct.unpack_from("<Q", header, EVENT_HEAD_AT)
        record = EVENT.pack(seq, 1, 1, 1, kind, 0, 0, key, 0, payload.ljust(64, b"\0"), 0, 0)[:120]
        file.seek(_region(header, EVENTS_REGION) + (seq % EVENT_COUNT) * EVENT.size)
        file.write(record + struct.pack("<II", zlib.crc32(record), seq & 0xFFFFFFFF))
        file.seek(EVENT_HEAD_AT)
        file.write(struct.pack("<Q", seq + 1))
    return int(seq)


def fill_journal(path: Path, used: int) -> None:
    """Let so many records be unread: the ring's tail falls back behind its head."""
    with path.open("r+b") as file:
        file.seek(EVENT_HEAD_AT)
        head, _tail = struct.unpack("<QQ", file.read(16))
        file.seek(EVENT_HEAD_AT)
        file.write(struct.pack("<QQ", head + EVENT_COUNT, head + EVENT_COUNT - used))


def flip(path: Path, at: int, bits: int = 1) -> None:
    """Flip bits of one byte."""
    with path.open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes((old ^ bits,)))
