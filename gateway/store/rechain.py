"""The audit of a ledger of version 1, chained with BLAKE2b, becomes one of SHA-256.

Each entry keeps its number, time and words, and has its old hash as ``was``; so heads that left the
box before are still found. A last entry tells what was found and the old head.
"""

import hashlib
import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from aiosqlite import Connection

from gateway.store.audit import NOTE, AuditEntry

OLD_ROWS: Final = (
    "SELECT seq, utc_ns, kind, ref, who, action, target, detail, hash FROM {} "
    "WHERE seq > ? ORDER BY seq LIMIT ?"
)
STEP: Final = 1_000
_UTC_NS_MAX: Final = 253_402_300_799 * 1_000_000_000  # the last second of the year 9999


class OldChain:
    """Fed with the rows of ``OLD_ROWS`` in order."""

    def __init__(self) -> None:
        self.head = b""
        self.entries = 0
        self.wrong = 0  # the first entry that did not fit, 0: none

    def take(self, row: tuple[Any, ...]) -> AuditEntry:
        """The entry of the next row; notes the first that does not fit."""
        *fields, stated = row
        fits = fields[0] == self.entries + 1 and _digest(self.head, fields) == stated
        if not (fits or self.wrong):
            self.wrong = self.entries + 1
        self.entries, self.head = fields[0], stated
        fields[1] = min(max(fields[1], 0), _UTC_NS_MAX)
        return AuditEntry(*fields)


async def rechain(connection: Connection) -> None:
    """Fill ``audit`` with what ``audit_v1`` has, and drop that; inside a transaction."""
    old, digest, seq = OldChain(), b"", 0
    sql = OLD_ROWS.format("audit_v1")
    while rows := list(await connection.execute_fetchall(sql, (seq, STEP))):
        links, digest = _links(old, rows, digest)
        await connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", links)
        seq = rows[-1][0]
    row, _ = _row(note_of(old, seq + 1), digest)
    await connection.execute_fetchall("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", row)
    await connection.execute_fetchall("DROP TABLE audit_v1")


def note_of(old: OldChain, seq: int) -> AuditEntry:
    """What the new chain says of the old one."""
    detail: dict[str, Any] = {"was": "BLAKE2b-256", "entries": old.entries, "head": old.head.hex()}
    if old.wrong:
        detail["wrong_at"] = old.wrong
    text = msgspec.json.encode(detail).decode()
    return AuditEntry(seq, time.time_ns(), NOTE, None, "", "chained anew", "audit", text)


def _links(
    old: OldChain, rows: Iterable[Any], digest: bytes
) -> tuple[list[tuple[Any, ...]], bytes]:
    made = []
    for row in rows:
        entry = old.take(row)
        link, digest = _row(entry, digest, old.head.hex())
        made.append(link)
    return made, digest


def _row(entry: AuditEntry, before: bytes, was: str = "") -> tuple[tuple[Any, ...], bytes]:
    body, digest = entry.sealed(before, was)
    return (entry.seq, entry.kind, entry.action, body, digest), digest


def _digest(before: bytes, fields: list[Any]) -> bytes:
    return hashlib.blake2b(before + msgspec.json.encode(fields), digest_size=32).digest()
